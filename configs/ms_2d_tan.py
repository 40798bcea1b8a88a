"""MS-2D-TAN (Zhang et al., TPAMI 2021).

    python launch.py --config=configs/ms_2d_tan.py
        the embedded dataset, on two CPU cores.
    python launch.py --config=configs/ms_2d_tan.py:charades_sta,vgg --config.dataset.manual_dir=DIR
        the paper's setting; DIR as in data/charades_sta/README.md. Needs an accelerator: six convolutions have
        75.8 million weights each.
    python launch.py --config=configs/ms_2d_tan.py:jsonl --config.dataset.manual_dir=DIR ...
        your own data; see data/jsonl/README.md. The other datasets of DATASETS work in the same way.

Official README, R@1 / R@5 (%): Charades-STA VGG IoU .5 45.65 / 85.91, .7 27.20 / 57.61; fine-tuned I3D .5 60.08
/ 89.06, .7 37.39 / 59.17. ActivityNet Captions C3D .5 46.16 / 78.80, I3D .5 45.50 / 79.36. TACoS C3D .5 34.29 /
56.76. vmr_jax/models/ms_2d_tan.py says how the rows of videos differ from the official ones. TACoS has the wide
official setting, whose 512 rows hold most videos.
"""

from vmr_jax.configs import common, datasets

DATASETS = dict(datasets.DATASETS)

# Rows of a video where they are not as many as the clips: four rows a clip, of 1/6 s each.
_ROWS = {"vgg": 256}


def get_config(arg=None):
    """Returns the config for `dataset[,option...]`; see DATASETS."""
    dataset, options = common.parse_arg(arg, DATASETS)
    config = common.base("ms_2d_tan")
    config.text.tokenizer = "whitespace"
    config.evaluation.strict = True
    config.evaluation.nms_threshold = 0.49
    config.train_for = "100 epochs"
    if dataset in datasets.EMBEDDED:
        return _embedded(config, dataset)
    variant = datasets.manual_dataset(config, dataset, options)
    config.input.num_clips = config.model.num_clips
    # ActivityNet Captions resamples every video, the others keep the rows of shorter ones.
    config.input.resample = "average" if dataset.startswith("activitynet") else "pad"
    if dataset.startswith("charades"):
        config.input.num_clips = _ROWS.get(variant, 64)
    if dataset == "tacos":
        config.model.num_clips = config.input.num_clips = 512
        config.model.scale_layers = (8, 4, 4, 4, 4)
        config.model.map_kernel = 9
    if dataset in ("didemo", "tempo"):  # ours: six chunks, one scale
        config.model.num_clips = config.input.num_clips = 6
        config.model.scale_layers = (6,)
        config.model.map_kernel = 5
    return config


def _embedded(config, dataset):
    datasets.embedded(config, dataset)
    config.text.tokenizer = "words"
    config.model.num_clips = 32
    config.model.scale_layers = (16, 8)
    config.model.features = 64
    config.model.lstm_layers = 1
    config.model.map_kernel = 5
    config.optimizer.learning_rate = 1e-3
    config.train_for = "8 epochs"
    return config
