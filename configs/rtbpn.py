"""RTBPN (Zhang et al., ACM MM 2020), weakly supervised: training reads no moment.

    python launch.py --config=configs/rtbpn.py
        the embedded dataset, on which it stays on the prior: four minutes on two CPU cores.
    python launch.py --config=configs/rtbpn.py:activitynet_captions,c3d --config.dataset.manual_dir=DIR
    python launch.py --config=configs/rtbpn.py:charades_sta,c3d --config.dataset.manual_dir=DIR
        the official settings, with GloVe; DIR as in data/DATASET/README.md. Needs an accelerator.

Paper, as IRON (CVPR 2023) quotes it, R@1 / R@5 (%): ActivityNet Captions C3D IoU .1 73.73 / 93.89, IoU .3 49.77
/ 79.89, IoU .5 29.63 / 60.56; Charades-STA C3D IoU .3 60.04 / 97.48, IoU .5 32.36 / 71.85, IoU .7 13.24 /
41.18. For R@5 the official program adds one second to the intersection and the hull of two moments. Which
checkpoint is the best, the moments of the validation split say; set config.evaluation.select_split="" to take
the last one and read no moment at all.
"""

from vmr_jax.configs import common, datasets

DATASETS = datasets.DATASETS


def get_config(arg=None):
    """Returns the config for `dataset[,option...]`; see DATASETS."""
    dataset, options = common.parse_arg(arg, DATASETS)
    config = common.base("rtbpn")
    config.input.normalize = False
    config.batch_size = 64
    config.optimizer.name = "adamw"
    config.optimizer.weight_decay = 1e-7
    config.optimizer.learning_rate = 8e-4
    config.optimizer.schedule = "inverse_sqrt"
    config.optimizer.warmup = "200 steps"
    config.optimizer.warmup_from = 1e-7
    config.optimizer.clip_norm = 10.0
    config.evaluation.nms_threshold = 0.45
    config.train_for = "19 epochs"
    if dataset in datasets.EMBEDDED:
        datasets.embedded(config, dataset)
        config.model.num_clips = 16
        config.model.scale_layers = (8,)
        # With shorter ones it tells videos apart by single clips, and R@1,IoU=0.5 on validation is below 10.
        config.model.lengths = (3, 4, 5)
        config.model.features = 64
        config.model.map_kernel = 3
        config.model.nearest = 3
        config.model.suppressed_weight = 1.0
        _charades_weights(config)
        config.batch_size = 32
        config.optimizer.learning_rate = 2e-3
        config.train_for = "6 epochs"
        return config
    datasets.manual_dataset(config, dataset, options)
    datasets.map_size(config)
    if dataset.startswith("activitynet"):
        config.evaluation.thresholds = (0.1, 0.3, 0.5)
        return config
    config.model.lengths = ()
    config.model.map_kernel = 3
    if dataset.startswith("charades"):
        config.model.num_clips = 32
        config.model.lengths = tuple(range(1, 33))
        config.model.train_lengths = tuple(range(1, 16, 2))
        _charades_weights(config)
    return config


def _charades_weights(config):
    """The official weights for Charades-STA, a tenth of those for ActivityNet Captions."""
    config.model.score_weight = 0.01
    config.model.filter_weight = 0.001
