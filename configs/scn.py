"""SCN (Lin et al., AAAI 2020), weakly supervised: training reads no moment.

    python launch.py --config=configs/scn.py
        the embedded dataset: about five minutes on two CPU cores.
    python launch.py --config=configs/scn.py:activitynet_captions,c3d --config.dataset.manual_dir=DIR
        the paper's setting, with GloVe 840B; DIR as in data/activitynet_captions/README.md.

Paper, ActivityNet Captions C3D, R@1 / R@5 (%): IoU .1 71.48 / 90.88, IoU .3 47.23 / 71.56, IoU .5 29.22 /
55.69. Charades-STA, without the pairs that end after their video: IoU .3 42.96 / 95.56, IoU .5 23.58 / 71.80,
IoU .7 9.97 / 38.87. The official metrics add one second to the intersection and the union of two moments, which
favours short ones; ours do not. Which checkpoint is the best, the moments of the validation split say; set
config.evaluation.select_split="" to take the last one and read no moment at all.
"""

from vmr_jax.configs import common, datasets

DATASETS = datasets.DATASETS


def get_config(arg=None):
    """Returns the config for `dataset[,option...]`; see DATASETS."""
    dataset, options = common.parse_arg(arg, DATASETS)
    config = common.base("scn")
    config.input.num_clips = 200
    config.input.normalize = False
    config.batch_size = 128
    config.optimizer.learning_rate = 4e-4
    config.optimizer.schedule = "inverse_sqrt"
    config.optimizer.warmup = "400 steps"
    config.optimizer.warmup_from = 1e-7
    config.optimizer.clip_norm = 10.0
    config.evaluation.nms_threshold = 0.45
    config.train_for = "19 epochs"
    if dataset in datasets.EMBEDDED:
        datasets.embedded(config, dataset)
        config.model.features = 64
        config.model.hidden = 128
        config.model.heads = 2
        config.model.layers = 2
        config.model.rows = 8
        # Of the moments of training, nine in ten are 0.08 to 0.4 of their video long.
        config.model.widths = (0.125, 0.1875, 0.25, 0.375)
        # Not in the paper: the completion of the sentence ranks. Its scores learn that ranking too, but late.
        config.model.candidates = 24
        config.batch_size = 32
        config.optimizer.learning_rate = 2e-3
        config.evaluate_every = "3 epochs"
        config.train_for = "12 epochs"
        return config
    datasets.manual_dataset(config, dataset, options)
    config.text.vectors = "glove.840B.300d.txt"
    if dataset.startswith("activitynet"):
        config.evaluation.thresholds = (0.1, 0.3, 0.5)
    return config
