"""CSMGAN (Liu et al., ACM MM 2020).

    python launch.py --config=configs/csmgan.py
        the embedded dataset: about five minutes on two CPU cores. In 30 epochs it hardly leaves the best span
        of the training prior (R@1,IoU=0.5 21.6 on test, 17.7 of the prior); its loss still falls.
    python launch.py --config=configs/csmgan.py:activitynet_captions,c3d --config.dataset.manual_dir=DIR
        the official setting, with GloVe 840B, for an accelerator; DIR as in
        data/activitynet_captions/README.md.
    python launch.py --config=configs/csmgan.py:jsonl --config.dataset.manual_dir=DIR ...
        your own data; see data/jsonl/README.md. The other datasets of DATASETS work in the same way.

Official README, R@1 / R@5 (%): ActivityNet Captions C3D, IoU .3 68.52 / 87.68, .5 49.11 / 77.43, .7 29.15 /
59.63; TACoS C3D, IoU .1 42.74 / 68.97, .3 33.90 / 53.98, .5 27.09 / 41.22; Charades-STA I3D, IoU .5 60.04 /
89.01, .7 37.34 / 61.85; DiDeMo, IoU .5 29.44 / 70.77, .7 19.16 / 41.61. There IoU is counted on a grid of 200
clips, here in seconds. The official program reads 500-d features and projects others to 500; it knows
ActivityNet Captions and TACoS, and the settings of the other datasets are ours.
"""

from vmr_jax.configs import common, datasets

DATASETS = datasets.DATASETS

_ACTIVITYNET = (200, (16, 32, 64, 96, 128, 160, 192))
# dataset -> clips, widths of the anchors; the others as ActivityNet Captions.
_ANCHORS = {
    "tacos": (200, (2.75, 4.75, 8.75, 16.75)),
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
    config = common.base("csmgan")
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
    config.train_for = "40 epochs" if tacos else "20 epochs"
    if tacos:
        config.model.refine_low, config.model.refine_relative = 0.45, False
        config.model.offset_weight = 5e-3
    if dataset in datasets.EMBEDDED:
        datasets.embedded(config, dataset)
        config.model.features = 64
        config.model.lstm_layers = 1
        config.batch_size = 16
        config.model.dropout = 0.1
        config.model.node_dropout = 0.0
        config.optimizer.learning_rate = 3e-3
        config.optimizer.weight_decay = 0.0
        config.optimizer.schedule = "cosine"
        config.optimizer.warmup = "1 epochs"
        config.optimizer.warmup_from = 0.0
        config.evaluate_every = "3 epochs"
        config.train_for = "30 epochs"
        return config
    datasets.manual_dataset(config, dataset, options, paper=("tall",))
    if dataset in ("didemo", "tempo"):
        config.evaluation.nms_margin = 0.0  # all segments are ranked
    config.text.vectors = "glove.840B.300d.txt"
    config.model.projection = 0 if config.dataset.feature_dim == 500 else 500
    return config
