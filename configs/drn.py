"""DRN (Zeng et al., CVPR 2020).

    python launch.py --config=configs/drn.py
        the embedded dataset, on two CPU cores.
    python launch.py --config=configs/drn.py:charades_sta,c3d --config.dataset.manual_dir=DIR
        the setting of the official code; DIR as in data/charades_sta/README.md. Needs an accelerator.

Paper, R@1 and R@5 (%) at IoU .5/.7: Charades-STA C3D 45.40 / 26.40 and 88.01 / 55.38, VGG 42.90 / 23.68 and
87.80 / 54.87, I3D 53.09 / 31.75 and 89.06 / 60.05; ActivityNet Captions C3D 45.45 / 24.36 and 77.97 / 50.30;
TACoS C3D (version tall) at .5 23.17 and 33.36. The official code selects on the test split; here it is the
validation split. It runs the second and third stage until epoch 50, from the best checkpoint of the one before;
here each of the three has ten epochs. NMS is at m - .05 for each IoU m, as in the official code.
"""

from vmr_jax.configs import common, datasets

DATASETS = datasets.DATASETS
# Feature variant -> frames of a row; C3D's and the others' rows begin every 8 frames. Where rows do not overlap
# a window is a row.
_WINDOWS = {"c3d": 16, "i3d": 64}


def get_config(arg=None):
    """Returns the config for `dataset[,option...]`; see DATASETS."""
    dataset, options = common.parse_arg(arg, DATASETS)
    config = common.base("drn")
    config.input.resample = "pad"
    config.input.normalize = False
    config.text.trainable = True
    config.optimizer.learning_rate = 1e-3
    config.optimizer.clip_norm = 0.5
    config.optimizer.schedule = "step"
    config.optimizer.decay_by = 0.01
    if dataset not in ("didemo", "tempo"):  # of which all segments are ranked
        config.evaluation.nms_margin = 0.05
    if dataset in datasets.EMBEDDED:
        datasets.embedded(config, dataset)
        config.model.features = config.model.query_features = 64
        config.model.first_features = config.model.position_features = 32
        config.model.window_frames = 8  # rows do not overlap
        config.text.trainable = False  # synonyms are near in the dataset's vectors
        config.batch_size = 16
        config.optimizer.decay_by = 0.3
        _stages(config, 8)
        return config
    variant = datasets.manual_dataset(config, dataset, options, paper=("tall",))
    config.model.window_frames = _WINDOWS.get(variant, 8)
    _stages(config, 10)
    return config


def _stages(config, epochs):
    """Three stages of as many epochs, and what learns in each."""
    config.model.second_stage, config.model.third_stage = epochs, 2 * epochs
    config.optimizer.decay_at = (f"{epochs} epochs", f"{2 * epochs} epochs")
    config.optimizer.rules = (
        ("head/iou.*", 1.0, f"from {epochs} epochs"),
        (".*", 1.0, f"phase 0 of 2, {epochs} epochs"),
    )
    config.train_for = f"{3 * epochs} epochs"
