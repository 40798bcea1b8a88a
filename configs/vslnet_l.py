"""VSLNet-L (Zhang et al., TPAMI 2021).

    python launch.py --config=configs/vslnet_l.py
        the embedded dataset, on two CPU cores.
    python launch.py --config=configs/vslnet_l.py:tacos,i3d,2d_tan --config.dataset.manual_dir=DIR
        long videos, with GloVe 840B; DIR as in data/tacos/README.md.

Option rnn is the span predictor of VSLNet's paper. As UniSDNet's table 4 quotes it, R@1 (%) at IoU .5/.7 and
mIoU: ActivityNet Captions 43.86 / 27.51, 44.06; TACoS (2d_tan) 36.34 / 26.42 (.3: 47.11), 36.61. The lengths of
the sequences, the scales and the training are ours or VSLNet's. On short videos no gain is to be expected.
"""

from vmr_jax.configs import common, datasets

_VARIANTS = ("rnn",)
DATASETS = {dataset: (*options, *_VARIANTS) for dataset, options in datasets.DATASETS.items()}

# dataset -> rows of a video at most, and numbers of pieces where they are few; ours.
_CLIPS = {"charades": 128, "activitynet": 256, "tacos": 512}


def get_config(arg=None):
    """Returns the config for `dataset[,option...]`; see DATASETS."""
    dataset, options = common.parse_arg(arg, DATASETS)
    config = common.base("vslnet_l")
    config.model.predictor = "rnn" if "rnn" in options else "transformer"
    config.model.char_features = 100 if dataset.startswith("activitynet") else 50
    config.input.num_clips = _CLIPS.get(dataset.partition("_")[0], 256)
    config.input.resample = "pad"
    config.input.normalize = False
    config.batch_size = 16
    config.optimizer.name = "adamw"
    config.optimizer.weight_decay = 0.01
    config.optimizer.no_decay = r".*(bias|_norm(_\d+)?/scale)"
    config.optimizer.schedule = "linear"
    config.optimizer.clip_norm = 1.0
    config.train_for = "100 epochs"
    if dataset in datasets.EMBEDDED:
        datasets.embedded(config, dataset)
        config.model.features = 64
        config.model.scales = (2, 3)
        config.optimizer.learning_rate = 1e-3
        config.train_for = "12 epochs"
        return config
    paper = "vslnet" if dataset == "activitynet_captions" else "2d_tan"
    datasets.manual_dataset(config, dataset, options, paper=(paper,))
    config.text.vectors = "glove.840B.300d.txt"
    return config
