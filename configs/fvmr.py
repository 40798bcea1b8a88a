"""FVMR (Gao and Xu, ICCV 2021).

    python launch.py --config=configs/fvmr.py
        the embedded dataset: about two minutes on two CPU cores.
    python launch.py --config=configs/fvmr.py:charades_sta,vgg --config.dataset.manual_dir=DIR
        the paper's setting; DIR as in data/charades_sta/README.md. Needs an accelerator.
    python launch.py --config=configs/fvmr.py:charades_sta,clip --config.dataset.manual_dir=DIR ...
        CLIP features; see the README for the small real benchmark.

Paper, R@1 / R@5 (%): Charades-STA VGG IoU .5 42.36 / 83.97, IoU .7 24.14 / 50.15; I3D 55.01 / 89.17,
33.74 / 57.24. No official code exists; vmr_jax/models/fvmr.py says which choices are ours.
"""

from configs import common

DATASETS = {"storyboard": common.STORYBOARD_OPTIONS, "charades_sta": common.CHARADES_OPTIONS}

PUBLISHED = {
    "vgg": (("R@1,IoU=0.5", 42.36), ("R@1,IoU=0.7", 24.14), ("R@5,IoU=0.5", 83.97), ("R@5,IoU=0.7", 50.15)),
    "i3d": (("R@1,IoU=0.5", 55.01), ("R@1,IoU=0.7", 33.74), ("R@5,IoU=0.5", 89.17), ("R@5,IoU=0.7", 57.24)),
}


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
    else:
        common.charades_sta(config, options)
        config.train_for = "50 epochs"
        config.evaluation.nms_threshold = 0.45
        config.published = tuple(
            ("test", f"published, {variant}", PUBLISHED[variant]) for variant in options if variant in PUBLISHED
        )
    return config
