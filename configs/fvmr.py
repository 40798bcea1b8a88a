"""FVMR (Gao and Xu, ICCV 2021).

    python launch.py --config=configs/fvmr.py
        the embedded dataset: about two minutes on two CPU cores.
    python launch.py --config=configs/fvmr.py:charades_sta,vgg --config.dataset.manual_dir=DIR
        the paper's setting; DIR as in data/charades_sta/README.md. Needs an accelerator.
    python launch.py --config=configs/fvmr.py:charades_sta,clip --config.dataset.manual_dir=DIR ...
        CLIP features; see the README for the small real benchmark.
    python launch.py --config=configs/fvmr.py:jsonl --config.dataset.manual_dir=DIR ...
        your own data; see data/jsonl/README.md. The other datasets of DATASETS work in the same way.

Paper, R@1 / R@5 (%): Charades-STA VGG IoU .5 42.36 / 83.97, IoU .7 24.14 / 50.15; I3D 55.01 / 89.17,
33.74 / 57.24; ActivityNet Captions C3D, IoU .5 45.00 / 77.42; TACoS C3D, IoU .5 29.12 / 50.00.
No official code exists; vmr_jax/models/fvmr.py says which choices are ours.
"""

from vmr_jax.configs import common

DATASETS = common.DATASETS

# (dataset, features) -> split and the paper's numbers, each (IoU, R@1, R@5)
PUBLISHED = {
    ("charades_sta", "vgg"): ("test", ((0.5, 42.36, 83.97), (0.7, 24.14, 50.15))),
    ("charades_sta", "i3d"): ("test", ((0.5, 55.01, 89.17), (0.7, 33.74, 57.24))),
    ("activitynet_captions", "c3d"): (
        "anet_val_2",
        ((0.3, 60.63, 86.11), (0.5, 45.00, 77.42), (0.7, 26.85, 61.04)),
    ),
    ("tacos", "c3d"): ("test", ((0.1, 53.12, 78.12), (0.3, 41.48, 64.53), (0.5, 29.12, 50.00))),
}
_NMS = {"charades_sta": 0.45, "tacos": 0.4}  # not stated; 2D-TAN's


def get_config(arg=None):
    """Returns the config for `dataset[,option]`; see DATASETS."""
    dataset, options = common.parse_arg(arg, DATASETS)
    config = common.base("fvmr")
    config.model.num_clips = 16
    config.model.scale_layers = (16,)
    config.model.front_end = "pool"
    config.model.features = 512  # D_v = D_s = D_f
    config.model.common = 512  # D, figure 3a
    config.model.lstm_layers = 2  # figure 3b
    config.model.map_kernels = (5, 3)
    config.model.fuse_kernels = (3, 9)
    config.model.teacher = "tree"
    config.model.distillation = "bce"  # 'none': 'w/o SD' of table 5
    config.model.distillation_weight = 3.0
    config.model.temperature = 1.0
    config.model.warmup_epochs = 8
    config.model.feature_distillation = 0.0  # 1.0: '+FeatDist' of table 5
    config.model.score = "p"  # 'p+q' of table 5
    config.model.score_scale = False
    config.model.iou_low, config.model.iou_high = 0.3, 0.7
    config.optimizer.learning_rate = 2e-4
    if dataset == "storyboard":
        common.storyboard(config, options)
        config.model.features = config.model.common = 64
        config.model.warmup_epochs = 2
        config.batch_size = 16
        config.optimizer.learning_rate = 1e-3
        config.optimizer.schedule = "cosine"
        config.optimizer.warmup = "0.5 epochs"
        config.optimizer.clip_norm = 5.0
        config.train_for = "10 epochs"
        return config
    config.train_for = "50 epochs"
    config.evaluation.nms_threshold = _NMS.get(dataset, 0.5)
    variant = common.manual_dataset(config, dataset, options)
    common.map_size(config)
    if (dataset, variant) in PUBLISHED:
        split, rows = PUBLISHED[dataset, variant]
        numbers = [(f"R@{n},IoU={row[0]}", row[n_at]) for n_at, n in ((1, 1), (2, 5)) for row in rows]
        config.published = ((split, f"published, {variant}", tuple(numbers)),)
    return config
