"""CMIN (Zhang et al., SIGIR 2019).

    python launch.py --config=configs/cmin.py
        the embedded dataset, on two CPU cores.
    python launch.py --config=configs/cmin.py:activitynet_captions,c3d --config.dataset.manual_dir=DIR
        the paper's setting, with GloVe 840B, for an accelerator; DIR as in data/activitynet_captions/README.md.
    python launch.py --config=configs/cmin.py:jsonl --config.dataset.manual_dir=DIR ...
        your own data; see data/jsonl/README.md. The other datasets of DATASETS work in the same way.
    python launch.py --config=configs/cmin.py:storyboard,reconstruction
        with the query reconstruction of the extended version (TIP 2020), of which no code exists:
        vmr_jax/models/cmin.py says what is ours. Any dataset takes the option.

Paper, R@1 / R@5 (%): ActivityNet Captions C3D, IoU .3 63.61 / 80.54, .5 43.40 / 67.95, .7 23.88 / 50.73; TACoS
C3D, IoU .1 32.48 / 62.13, .3 24.64 / 38.46, .5 18.05 / 27.02. There IoU is counted on a grid of 200 clips, here
in seconds. The official code reads 500-d features; others are projected to 500 first, which is ours, as are the
widths of the anchors of the datasets that the paper does not have.
"""

from vmr_jax.configs import common, datasets

DATASETS = {dataset: (*options, "reconstruction") for dataset, options in datasets.DATASETS.items()}

_ACTIVITYNET = (200, (16, 32, 64, 96, 128, 160, 192))
# dataset -> clips, widths of the anchors; the others as ActivityNet Captions.
_ANCHORS = {
    "tacos": (200, (6, 18, 32)),
    "charades_sta": (64, (16, 24, 32, 40)),
    "charades_cd": (64, (16, 24, 32, 40)),
    "charades_cg": (64, (16, 24, 32, 40)),
    "didemo": (6, (1, 2, 3, 4, 5, 6)),
    "tempo": (6, (1, 2, 3, 4, 5, 6)),
    **dict.fromkeys(datasets.EMBEDDED, (32, (3, 4, 6, 8, 11, 15))),
}


def get_config(arg=None):
    """Returns the config for `dataset[,option...]`; see DATASETS."""
    dataset, options = common.parse_arg(arg, DATASETS)
    tacos = dataset == "tacos"
    config = common.base("cmin")
    if "reconstruction" in options:
        config.model.reconstruction_weight = 0.1  # ours
    config.input.num_clips, config.model.widths = _ANCHORS.get(dataset, _ACTIVITYNET)
    config.input.normalize = False
    config.input.resample = "spread"
    config.batch_size = 64 if tacos else 128
    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 4e-4 if tacos else 8e-4
    config.optimizer.weight_decay = 1e-8 if tacos else 1e-7
    config.optimizer.schedule = "inverse_sqrt"
    config.optimizer.warmup = "300 steps"
    config.optimizer.warmup_from = 1e-7 if tacos else 1e-6
    config.evaluation.nms_margin = 0.05
    config.train_for = "40 epochs" if tacos else "10 epochs"
    if dataset in datasets.EMBEDDED:
        datasets.embedded(config, dataset)
        config.model.features = 64
        config.batch_size = 16
        config.optimizer.learning_rate = 3e-3
        config.optimizer.weight_decay = 0.0
        config.optimizer.schedule = "cosine"
        config.optimizer.warmup = "1 epochs"
        config.optimizer.warmup_from = 0.0
        config.evaluate_every = "2 epochs"
        config.train_for = "24 epochs"
        return config
    datasets.manual_dataset(config, dataset, options, paper=("tall",))
    if dataset in ("didemo", "tempo"):
        config.evaluation.nms_margin = 0.0  # all segments are ranked
    config.text.vectors = "glove.840B.300d.txt"
    config.model.projection = 0 if config.dataset.feature_dim == 500 else 500
    return config
