"""DCM (Yang et al., SIGIR 2021).

    python launch.py --config=configs/dcm.py
        the embedded dataset, on two CPU cores: about 13 CPU minutes, val R@1,IoU=0.5 77.
    python launch.py --config=configs/dcm.py:charades_sta,i3d --config.dataset.manual_dir=DIR
        the official setting, for an accelerator; DIR as in data/charades_sta/README.md.
    python launch.py --config=configs/dcm.py:jsonl --config.dataset.manual_dir=DIR ...
        your own data; see data/jsonl/README.md. The other datasets of DATASETS work in the same way.

Quoted by VDI's paper, R@1 (%): Charades-STA, IoU .5 47.80, .7 28.00; ActivityNet Captions 44.90, 27.70. The
official program has two more test sets of each dataset, with random rows before the video; they are not made
here. A batch compares all its candidates with each other, so that datasets which the official program does not
know have its map of 32 clips at most.
"""

from vmr_jax.configs import common, datasets

DATASETS = datasets.DATASETS

# dataset -> G and diagonals at each scale, as in the official scripts; the others have the official 32x32
# config's, in batches of half the size: all candidates of a batch are compared, 428 in each row.
_MAPS = {
    **dict.fromkeys(("charades_sta", "charades_cd", "charades_cg"), (16, (16,))),
    **dict.fromkeys(("activitynet_captions", "activitynet_cd", "activitynet_cg"), (16, (16,))),
    **dict.fromkeys(("didemo", "tempo"), (6, (6,))),
}
_LONG_VIDEOS = (32, (16, 8))


def get_config(arg=None):
    """Returns the config for `dataset[,option...]`; see DATASETS."""
    dataset, options = common.parse_arg(arg, DATASETS)
    config = common.base("dcm")
    config.text.tokenizer = "whitespace"
    config.evaluation.strict = True
    config.evaluation.nms_threshold = 0.45
    config.train_for = "25 epochs"
    if dataset in datasets.EMBEDDED:
        datasets.embedded(config, dataset)
        config.text.tokenizer = "words"
        config.batch_size = 16
        config.model.features = 64
        config.model.lstm_layers = 1
        config.model.map_kernel = 3
        config.optimizer.learning_rate = 1e-3
        config.train_for = "10 epochs"
        return config
    datasets.manual_dataset(config, dataset, options)
    config.model.num_clips, config.model.scale_layers = _MAPS.get(dataset, _LONG_VIDEOS)
    if dataset not in _MAPS:
        config.batch_size = 16
    if dataset.startswith("charades"):
        config.text.tokenizer = "whitespace_no_stop"
    elif dataset.startswith("activitynet"):
        config.batch_size = 64
        config.evaluation.nms_threshold = 0.5
        config.train_for = "20 epochs"
        config.text.max_words = 80  # the official program reads whole sentences
    elif dataset in ("didemo", "tempo"):
        config.input.num_clips = config.model.num_clips  # one row per chunk
        config.batch_size = 64
        config.model.iou_low = 0.7
        config.model.location_weight = 0.5
        config.train_for = "20 epochs"
    return config
