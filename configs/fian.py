"""FIAN (Qu et al., ACM MM 2020).

    python launch.py --config=configs/fian.py
        the embedded dataset, on two CPU cores.
    python launch.py --config=configs/fian.py:tacos,c3d --config.dataset.manual_dir=DIR
        the paper's setting, with GloVe 840B, for an accelerator; DIR as in data/tacos/README.md. The version
        is tall, whose queries the paper counts (10,146 / 4,589 / 4,083), unless another one is named.
    python launch.py --config=configs/fian.py:jsonl --config.dataset.manual_dir=DIR ...
        your own data; see data/jsonl/README.md. The other datasets of DATASETS work in the same way.

The ablations of the paper are options: soft, cma, vq, vqma, qvma, concat, matrix (table 4), tgn, cmin
(table 5), stride_1, stride_8, stride_4, stride_2 (table 6: one clip, an eighth, a quarter, half of the window).

Paper, R@1 / R@5 (%): ActivityNet Captions C3D, IoU .3 64.10 / 87.59, .5 47.90 / 77.64, .7 29.81 / 59.66; TACoS
C3D, IoU .1 39.55 / 56.14, .3 33.87 / 47.76, .5 28.58 / 39.16; Charades-STA I3D, IoU .5 58.55 / 87.80,
.7 37.72 / 63.52. Epochs, schedule, clipping, GloVe file and NMS are not stated; ours are 40 epochs, a constant
rate, norm 5, 840B, m - 0.05. As in the paper, a hit is an IoU larger than m, and all candidates go into NMS. No
official code exists; vmr_jax/models/fian.py says which choices are ours.
"""

from vmr_jax.configs import common, datasets

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
DATASETS = {dataset: (*options, *ABLATIONS) for dataset, options in datasets.DATASETS.items()}

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
    **dict.fromkeys(datasets.EMBEDDED, (32, (3, 4, 6, 8, 12, 16), "k/4")),
}


def get_config(arg=None):
    """Returns the config for `dataset[,option...]`; see DATASETS."""
    dataset, options = common.parse_arg(arg, DATASETS)
    ablation = common.chosen(options, ABLATIONS, "ablation")
    clips, windows, stride = _WINDOWS.get(dataset, _ACTIVITYNET)
    activitynet = (windows, stride) == _ACTIVITYNET[1:]
    config = common.base("fian")
    config.input.num_clips = config.model.num_clips = clips
    config.input.normalize = False
    config.model.windows, config.model.stride = windows, stride
    config.model.heads = 4 if dataset.startswith("charades") else 8
    config.model.boundary_weight = 0.001 if activitynet else 0.005
    config.model.update(ABLATIONS.get(ablation, {}))
    config.batch_size = 128 if activitynet else 64
    config.optimizer.learning_rate = 8e-4 if activitynet else 4e-4
    config.optimizer.clip_norm = 5.0
    config.evaluation.nms_margin = 0.05
    config.evaluation.strict = True  # "larger than m", Section 4.2
    config.train_for = "40 epochs"
    if dataset in datasets.EMBEDDED:
        datasets.embedded(config, dataset)
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
    datasets.manual_dataset(config, dataset, options, paper=("tall",))
    if dataset in ("didemo", "tempo"):
        config.evaluation.nms_margin = 0.0  # all segments are ranked
    config.text.vectors = "glove.840B.300d.txt"
    config.model.max_words = config.text.max_words
    return config
