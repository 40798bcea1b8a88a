"""2D-TAN (Zhang et al., AAAI 2020).

    python launch.py --config=configs/two_d_tan.py
        the embedded dataset, on two CPU cores.
    python launch.py --config=configs/two_d_tan.py:charades_sta,vgg,pool --config.dataset.manual_dir=DIR
        the paper's setting; DIR as in data/charades_sta/README.md. Needs an accelerator.
    python launch.py --config=configs/two_d_tan.py:charades_sta,clip --config.dataset.manual_dir=DIR ...
        CLIP features; see the README for the small real benchmark.
    python launch.py --config=configs/two_d_tan.py:jsonl --config.dataset.manual_dir=DIR ...
        your own data; see data/jsonl/README.md. The other datasets of DATASETS work in the same way.

Options pool (default) and conv choose the moment map. With vdi (storyboard,vdi or charades_sta,clip,vdi) it is
trained with VDI's two injections (vmr_jax/layers/injection.py), which read patches of the frames, as
configs/vdi.py says. Paper, Charades-STA VGG, R@1 / R@5 (%): pool IoU .5 39.70 / 80.32, IoU .7 23.31 / 51.26;
conv 39.81 / 79.33, 23.25 / 52.15. ActivityNet Captions C3D, IoU .5: pool 44.51 / 77.13, conv 44.05 / 76.65.
TACoS C3D, IoU .5: pool 25.32 / 45.04, conv 25.17 / 44.24.
"""

from vmr_jax.configs import common, datasets

_MAPS = ("pool", "conv")
DATASETS = {
    dataset: (*options, *_MAPS, *(() if dataset == "films" else ("vdi",)))
    for dataset, options in datasets.DATASETS.items()
}

# Kernel, layers, IoU range and NMS threshold (pool, conv) of the official configs.
_SETTINGS = {
    "activitynet_captions": (9, 4, (0.5, 1.0), (0.5, 0.5)),
    "activitynet_cd": (9, 4, (0.5, 1.0), (0.5, 0.5)),
    "activitynet_cg": (9, 4, (0.5, 1.0), (0.5, 0.5)),
    "tacos": (5, 8, (0.3, 0.7), (0.4, 0.5)),
}
_CHARADES_SETTINGS = (5, 8, (0.5, 1.0), (0.45, 0.5))  # also of datasets that the paper does not have


def get_config(arg=None):
    """Returns the config for `dataset[,option...]`; see DATASETS."""
    dataset, options = common.parse_arg(arg, DATASETS)
    proposal = common.chosen(options, _MAPS, "moment map") or "pool"
    kernel, layers, iou_range, nms = _SETTINGS.get(dataset, _CHARADES_SETTINGS)
    config = common.base("two_d_tan")
    config.model.proposal = proposal
    config.model.map_kernel, config.model.map_layers = kernel, layers
    config.model.iou_low, config.model.iou_high = iou_range
    config.optimizer.clip_norm = 10.0
    config.text.tokenizer = "whitespace"
    config.evaluation.strict = True
    config.evaluation.nms_threshold = nms[_MAPS.index(proposal)]
    config.train_for = "100 epochs"
    if dataset in datasets.EMBEDDED:
        datasets.embedded(config, dataset)
        config.text.tokenizer = "words"
        config.model.features = 64
        config.model.lstm_layers = 1
        config.model.map_kernel = 3
        config.model.map_layers = 4
        config.optimizer.learning_rate = 1e-3
        config.train_for = "10 epochs"
        if "vdi" in options:
            datasets.injections(config)
        return config
    datasets.manual_dataset(config, dataset, options)
    datasets.map_size(config)
    if "vdi" in options:
        datasets.injections(config)
    if dataset.startswith("charades"):
        config.text.tokenizer = "whitespace_no_stop"
    return config
