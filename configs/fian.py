"""FIAN (Qu et al., ACM MM 2020).

    python launch.py --config=configs/fian.py
        the embedded dataset, on two CPU cores.
    python launch.py --config=configs/fian.py:tacos,c3d --config.dataset.manual_dir=DIR
        the paper's setting, with GloVe 840B, for an accelerator; DIR as in data/tacos/README.md.
    python launch.py --config=configs/fian.py:jsonl --config.dataset.manual_dir=DIR ...
        your own data; see data/jsonl/README.md. The other datasets of DATASETS work in the same way.

The ablations of the paper are options: soft, cma, vq, vqma, qvma, concat, matrix (table 4), tgn, cmin
(table 5), stride_1, stride_8, stride_4, stride_2 (table 6: one clip, an eighth, a quarter, half of the window).

Paper, R@1 / R@5 (%): ActivityNet Captions C3D, IoU .3 64.10 / 87.59, .5 47.90 / 77.64, .7 29.81 / 59.66; TACoS
C3D, IoU .1 39.55 / 56.14, .3 33.87 / 47.76, .5 28.58 / 39.16; Charades-STA I3D, IoU .5 58.55 / 87.80,
.7 37.72 / 63.52. Epochs, schedule, clipping, GloVe file and NMS are not stated; ours are 40 epochs, a constant
rate, norm 5, 840B, m - 0.05. No official code exists; vmr_jax/models/fian.py says which choices are ours.
"""

from vmr_jax.configs import common
from vmr_jax.errors import UserError

_BRANCH = {"branches": "video_query", "fusion": "concat"}
# option -> hyper-parameters, the rows of tables 4 to 6
ABLATIONS = {
    "soft": {**_BRANCH, "attention": "soft"},
    "cma": {**_BRANCH, "attention": "cma"},
    "vq": _BRANCH,
    "vqma": {"branches": "video_query"},
    "qvma": {"branches": "query_video"},
    "concat": {"fusion": "concat"},
    "matrix": {"fusion": "matrix"},
    "tgn": {"localization": "tgn"},
    "cmin": {"localization": "cmin"},
    "stride_1": {"stride": "1"},
    "stride_8": {"stride": "k/8"},
    "stride_4": {"stride": "k/4"},
    "stride_2": {"stride": "k/2"},
}
DATASETS = {dataset: (*options, *ABLATIONS) for dataset, options in common.DATASETS.items()}

_ACTIVITYNET = (200, (16, 32, 64, 96, 128, 160, 192), "k/4")
_CHARADES = (64, (16, 24, 32, 40), "k/8")
# dataset -> clips, sizes of the windows, stride; the others as ActivityNet Captions.
_WINDOWS = {
    "tacos": (200, (8, 16, 32, 64), "k/8"),
    "charades_sta": _CHARADES,
    "charades_cd": _CHARADES,
    "charades_cg": _CHARADES,
    "didemo": (6, (1, 2, 3, 4, 5, 6), "1"),
    "tempo": (6, (1, 2, 3, 4, 5, 6), "1"),
    "storyboard": (32, (3, 4, 6, 8, 12, 16), "k/4"),
}


def _row(thresholds, recall_1, recall_5):
    return tuple(
        (f"R@{n},IoU={m}", value)
        for n, values in ((1, recall_1), (5, recall_5))
        for m, value in zip(thresholds, values)
    )


_TACOS = (0.1, 0.3, 0.5)
# (dataset, features) -> split and the paper's numbers
PUBLISHED = {
    ("activitynet_captions", "c3d"): (
        "anet_val_2",
        _row((0.3, 0.5, 0.7), (64.10, 47.90, 29.81), (87.59, 77.64, 59.66)),
    ),
    ("tacos", "c3d"): ("test", _row(_TACOS, (39.55, 33.87, 28.58), (56.14, 47.76, 39.16))),
    ("charades_sta", "i3d"): ("test", _row((0.5, 0.7), (58.55, 37.72), (87.80, 63.52))),
}
# option -> the paper's numbers on TACoS
PUBLISHED_ABLATIONS = {
    "soft": _row(_TACOS, (34.97, 27.53, 21.64), (52.27, 43.99, 32.52)),
    "cma": _row(_TACOS, (36.82, 29.27, 23.05), (53.86, 44.40, 34.61)),
    "vq": _row(_TACOS, (36.32, 29.32, 24.03), (53.56, 44.72, 37.08)),
    "vqma": _row(_TACOS, (36.91, 30.59, 25.54), (54.37, 45.28, 37.30)),
    "qvma": _row(_TACOS, (36.59, 30.10, 24.81), (53.15, 43.84, 35.42)),
    "concat": _row(_TACOS, (38.03, 31.59, 26.01), (54.86, 46.14, 36.71)),
    "matrix": _row(_TACOS, (38.31, 32.21, 25.96), (55.45, 45.43, 37.50)),
    "tgn": _row(_TACOS, (34.82, 23.37, 20.05), (48.76, 38.40, 31.64)),
    "cmin": _row(_TACOS, (35.56, 27.46, 22.39), (51.41, 39.92, 33.88)),
    "stride_1": _row(_TACOS, (37.45, 29.83, 21.09), (51.68, 40.73, 29.90)),
    "stride_8": _row(_TACOS, (39.55, 33.87, 28.58), (56.14, 47.76, 39.16)),
    "stride_4": _row(_TACOS, (37.01, 30.32, 25.84), (57.09, 45.09, 37.89)),
    "stride_2": _row(_TACOS, (38.43, 31.40, 25.37), (60.72, 51.14, 41.81)),
}


def get_config(arg=None):
    """Returns the config for `dataset[,option...]`; see DATASETS."""
    dataset, options = common.parse_arg(arg, DATASETS)
    ablations = [option for option in options if option in ABLATIONS]
    if len(ablations) > 1:
        raise UserError(f"Name one ablation, not {len(ablations)}: {', '.join(ablations)}.")
    clips, windows, stride = _WINDOWS.get(dataset, _ACTIVITYNET)
    activitynet = (windows, stride) == _ACTIVITYNET[1:]
    config = common.base("fian")
    config.input.num_clips = config.model.num_clips = clips
    config.input.normalize = False
    config.model.windows, config.model.stride = windows, stride
    config.model.features = 512
    config.model.heads = 4 if dataset.startswith("charades") else 8
    config.model.hidden = 1024
    config.model.attention = "cga"
    config.model.branches = "both"
    config.model.fusion = "gate"
    config.model.localization = "content"
    config.model.positive_iou = 0.55
    config.model.boundary_weight = 0.001 if activitynet else 0.005
    config.model.dropout = 0.2
    config.model.update(ABLATIONS[ablations[0]] if ablations else {})
    config.batch_size = 128 if activitynet else 64
    config.optimizer.learning_rate = 8e-4 if activitynet else 4e-4
    config.optimizer.clip_norm = 5.0
    config.evaluation.nms_margin = 0.05
    config.train_for = "40 epochs"
    if dataset == "storyboard":
        common.storyboard(config, options)
        config.model.max_words = config.text.max_words
        config.model.features = 64
        config.model.hidden = 128
        config.model.heads = 4
        config.batch_size = 16
        config.optimizer.learning_rate = 3e-3
        config.optimizer.schedule = "cosine"
        config.optimizer.warmup = "1 epochs"
        config.evaluate_every = "2 epochs"
        config.train_for = "14 epochs"
        return config
    variant = common.manual_dataset(config, dataset, options)
    if dataset in ("didemo", "tempo"):
        config.evaluation.nms_margin = 0.0  # all segments are ranked
    config.text.vectors = "glove.840B.300d.txt"
    config.model.max_words = config.text.max_words
    if (dataset, variant) in PUBLISHED:
        split, numbers = PUBLISHED[dataset, variant]
        if not ablations:
            config.published = ((split, f"published, {variant}", numbers),)
        elif dataset == "tacos":
            name = ablations[0]
            config.published = ((split, f"published, {variant}, {name}", PUBLISHED_ABLATIONS[name]),)
    return config
