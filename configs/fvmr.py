"""FVMR (Gao and Xu, ICCV 2021).

    python launch.py --config=configs/fvmr.py
        the embedded dataset: about two minutes on two CPU cores.
    python launch.py --config=configs/fvmr.py:films
        the embedded dataset with pictures: renders 560 short films first, about seven minutes in all.
    python launch.py --config=configs/fvmr.py:charades_sta,vgg --config.dataset.manual_dir=DIR
        the paper's setting; DIR as in data/charades_sta/README.md. Needs an accelerator.
    python launch.py --config=configs/fvmr.py:charades_sta,clip --config.dataset.manual_dir=DIR ...
        CLIP features; see the README for the small real benchmark.
    python launch.py --config=configs/fvmr.py:jsonl --config.dataset.manual_dir=DIR ...
        your own data; see data/jsonl/README.md. The other datasets of DATASETS work in the same way.

Paper, R@1 / R@5 (%): Charades-STA VGG IoU .5 42.36 / 83.97, IoU .7 24.14 / 50.15; I3D 55.01 / 89.17,
33.74 / 57.24; ActivityNet Captions C3D, IoU .5 45.00 / 77.42; TACoS C3D, IoU .5 29.12 / 50.00. A hit is an
IoU larger than m. The version of TACoS is tall, whose queries the paper counts (10,146 / 4,589 / 4,083), unless
another one is named.
No official code exists; vmr_jax/models/fvmr.py says which choices are ours.
"""

from vmr_jax.configs import common, datasets

DATASETS = datasets.DATASETS

_NMS = {"charades_sta": 0.45, "tacos": 0.4}  # not stated; 2D-TAN's


def get_config(arg=None):
    """Returns the config for `dataset[,option]`; see DATASETS."""
    dataset, options = common.parse_arg(arg, DATASETS)
    config = common.base("fvmr")
    config.optimizer.learning_rate = 2e-4
    config.evaluation.strict = True  # "larger than m", Section 4.1
    if dataset in datasets.EMBEDDED:
        datasets.embedded(config, dataset)
        config.model.features = config.model.common = 64
        config.model.warmup_epochs = 2
        config.batch_size = 16
        config.optimizer.learning_rate = 1e-3
        config.optimizer.schedule = "cosine"
        config.optimizer.warmup = "0.5 epochs"
        config.optimizer.clip_norm = 5.0
        config.train_for = "10 epochs"
        if dataset == "films":
            config.model.contrast_weight = 0.4  # ours: the demo searches all films for a sentence
            config.optimizer.learning_rate = 2e-3
            config.train_for = "14 epochs"
            config.evaluate_every = "3 epochs"
        return config
    config.train_for = "50 epochs"
    config.evaluation.nms_threshold = _NMS.get(dataset, 0.5)
    datasets.manual_dataset(config, dataset, options, paper=("tall",))
    datasets.map_size(config)
    return config
