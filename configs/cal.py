"""CAL (Escorcia et al., 2019).

    python launch.py --config=configs/cal.py
        the embedded dataset: about five minutes on two CPU cores.
    python launch.py --config=configs/cal.py:charades_sta --config.dataset.manual_dir=DIR
        Charades-STA; DIR as in data/charades_sta/README.md. The paper's features, ResNet-152 of one row for
        three seconds, are not among those that are named: give them as --config.dataset.features=FILE
        --config.dataset.feature_dim=2048.

The protocol is 'corpus', which finds the video too, but on DiDeMo and TEMPO, which have their own. Nothing is
suppressed in the corpus (NMS at 1), as there; within a video the README has 0.6 for Charades-STA. The length of
a clip and the windows are the official ones for Charades-STA and ActivityNet Captions (its README); on DiDeMo
they are the 21 segments. Those of other data sets are ours.

--config.model.distance=chamfer is the later variant, CALChamfer; --config.model.endpoints=none leaves the
temporal endpoints out, which makes an index small.
"""

from vmr_jax.configs import common, datasets

DATASETS = datasets.DATASETS

_ACTIVITYNET = (64, 5.0, (2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26))
# dataset -> clips that are kept as they are, seconds of a clip, lengths of the windows in clips
_WINDOWS = {
    "charades_sta": (32, 3.0, (2, 3, 4, 5, 6, 7, 8)),
    "charades_cd": (32, 3.0, (2, 3, 4, 5, 6, 7, 8)),
    "charades_cg": (32, 3.0, (2, 3, 4, 5, 6, 7, 8)),
    "activitynet_captions": _ACTIVITYNET,
    "activitynet_cd": _ACTIVITYNET,
    "activitynet_cg": _ACTIVITYNET,
    "didemo": (6, 5.0, (1, 2, 3, 4, 5, 6)),
    "tempo": (6, 5.0, (1, 2, 3, 4, 5, 6)),
    "tvr": (64, 0.0, (1, 2, 4, 8, 16)),
}
_CHUNKED = ("didemo", "tempo")


def get_config(arg=None):
    """Returns the config for `dataset[,option...]`; see DATASETS."""
    dataset, options = common.parse_arg(arg, DATASETS)
    config = common.base("cal")
    config.model.moments = "span"
    config.input.normalize = False
    config.input.resample = "pad"
    config.batch_size = 128
    config.optimizer.name = "sgd"
    config.optimizer.learning_rate = 0.05
    config.optimizer.rules = ((".*lstm/.*", 10.0), (".*", 1.0))
    config.optimizer.clip_norm = 10.0
    config.optimizer.schedule = "step"
    config.optimizer.decay_at = ("29 epochs", "59 epochs", "89 epochs")  # it steps before the epoch
    config.train_for = "108 epochs"
    if dataset in datasets.EMBEDDED:
        return _embedded(config, dataset)
    datasets.manual_dataset(config, dataset, options)
    clips, seconds, scales = _WINDOWS.get(dataset, (32, 0.0, (1, 2, 4, 8, 16)))
    config.input.num_clips, config.model.clip_seconds, config.model.scales = clips, seconds, scales
    config.text.max_words = 50
    if dataset in _CHUNKED:
        config.model.stride = 0.0  # every step is one chunk
        config.model.moments = "windows" if dataset == "didemo" else "span"
        return config
    datasets.corpus(config)
    config.evaluation.select_by = "R@1,IoU=0.7"
    config.evaluation.nms_threshold = 1.0
    return config


def _embedded(config, dataset):
    datasets.embedded(config, dataset)
    datasets.corpus(config)
    config.model.clip_seconds = 0.0
    config.model.scales = (1, 2, 3, 4, 6, 8)
    config.model.hidden, config.model.features, config.model.lstm_features = 256, 64, 128
    config.input.num_clips = 16
    config.input.resample = "average"
    config.batch_size = 32
    config.optimizer.name = "adam"
    config.optimizer.learning_rate = 3e-3
    config.optimizer.rules = ((".*", 1.0),)
    config.optimizer.schedule, config.optimizer.decay_at = "cosine", ()
    config.evaluation.corpus_videos = 20
    config.evaluation.corpus_top_n = (1, 10)
    config.train_for = "12 epochs"
    return config
