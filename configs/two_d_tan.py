"""2D-TAN (Zhang et al., AAAI 2020).

    python launch.py --config=configs/two_d_tan.py
        the embedded dataset, on two CPU cores.
    python launch.py --config=configs/two_d_tan.py:charades_sta,vgg,pool --config.dataset.manual_dir=DIR
        the paper's setting; DIR as in data/charades_sta/README.md. Needs an accelerator.
    python launch.py --config=configs/two_d_tan.py:charades_sta,clip --config.dataset.manual_dir=DIR ...
        CLIP features; see the README for the small real benchmark.

Options pool (default) and conv choose the moment map. Paper, Charades-STA VGG, R@1 / R@5 (%): pool IoU .5
39.70 / 80.32, IoU .7 23.31 / 51.26; conv 39.81 / 79.33, 23.25 / 52.15.
"""

from configs import common

_MAPS = ("pool", "conv")
DATASETS = {
    "storyboard": (*common.STORYBOARD_OPTIONS, *_MAPS),
    "charades_sta": (*common.CHARADES_OPTIONS, *_MAPS),
}

PUBLISHED = {
    "pool": (("R@1,IoU=0.5", 39.70), ("R@1,IoU=0.7", 23.31), ("R@5,IoU=0.5", 80.32), ("R@5,IoU=0.7", 51.26)),
    "conv": (("R@1,IoU=0.5", 39.81), ("R@1,IoU=0.7", 23.25), ("R@5,IoU=0.5", 79.33), ("R@5,IoU=0.7", 52.15)),
}


def get_config(arg=None):
    """Returns the config for `dataset[,option...]`; see DATASETS."""
    dataset, options = common.parse_arg(arg, DATASETS)
    proposal = "conv" if "conv" in options else "pool"
    config = common.base("two_d_tan")
    config.model.num_clips = 16
    config.model.scale_layers = (16,)
    config.model.proposal = proposal
    config.model.features = 512
    config.model.lstm_layers = 3
    config.model.map_kernel = 5
    config.model.map_layers = 8
    config.model.iou_low, config.model.iou_high = 0.5, 1.0
    config.optimizer.learning_rate = 1e-4
    config.optimizer.clip_norm = 10.0
    config.text.tokenizer = "whitespace"
    config.evaluation.strict = True
    config.evaluation.nms_threshold = 0.45 if proposal == "pool" else 0.5
    config.train_for = "100 epochs"
    if dataset == "storyboard":
        common.storyboard(config, options)
        config.text.tokenizer = "words"
        config.model.features = 64
        config.model.lstm_layers = 1
        config.model.map_kernel = 3
        config.model.map_layers = 4
        config.optimizer.learning_rate = 1e-3
        config.train_for = "10 epochs"
    else:
        common.charades_sta(config, options)
        config.text.tokenizer = "whitespace_no_stop"
        if "vgg" in options or not set(options) & set(common.CHARADES_FEATURES):
            config.published = (("test", f"published, vgg, {proposal}", PUBLISHED[proposal]),)
    return config
