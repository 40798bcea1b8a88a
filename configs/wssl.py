"""WSSL (Duan et al., NeurIPS 2018), weakly supervised: training reads no moment.

    python launch.py --config=configs/wssl.py
        the embedded dataset, on which it stays below the prior so far: about five minutes on two CPU cores.
    python launch.py --config=configs/wssl.py:activitynet_captions,c3d --config.dataset.manual_dir=DIR
        the paper's features; DIR as in data/activitynet_captions/README.md. Needs an accelerator.

ActivityNet Captions C3D, R@1 (%) as IRON (CVPR 2023) quotes it: IoU .1 62.71, .3 41.98, .5 23.34. The official
program trains the caption generator alone first (up to 100 epochs on whole videos), here in the first
`config.model.whole_steps` updates. Which checkpoint is the best, the moments of the validation split say; set
config.evaluation.select_split="" to take the last one and read no moment at all.
"""

from vmr_jax.configs import common, datasets

DATASETS = datasets.DATASETS


def get_config(arg=None):
    """Returns the config for `dataset[,option...]`; see DATASETS."""
    dataset, options = common.parse_arg(arg, DATASETS)
    config = common.base("wssl")
    config.input.resample = "pad"
    config.input.normalize = False
    config.optimizer.name = "sgd"
    config.optimizer.b1 = 0.8
    config.optimizer.l2 = 1e-4
    config.optimizer.learning_rate = 1e-2
    config.optimizer.clip_norm = 5.0
    config.evaluation.nms_threshold = 1.0
    if dataset in datasets.EMBEDDED:
        datasets.embedded(config, dataset)
        config.model.features = 64
        config.model.embedding = 64
        config.model.caption_words = 12
        config.model.slope = 1.0  # of 32 clips; the official ones are some hundreds
        config.model.whole_steps = 600
        config.model.turn_steps = 50
        config.model.turns = 2
        config.optimizer.name = "adam"
        config.optimizer.l2 = 0.0
        config.optimizer.b1 = 0.9
        config.optimizer.learning_rate = 1e-3
        config.train_for = "15 epochs"
        return config
    datasets.manual_dataset(config, dataset, options)
    config.model.whole_steps = 30_000
    config.optimizer.schedule = "step"
    config.optimizer.decay_at = ("31000 steps", "32000 steps")
    config.train_for = "40000 steps"
    if dataset.startswith("activitynet"):
        config.evaluation.thresholds = (0.1, 0.3, 0.5)
    return config
