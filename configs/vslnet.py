"""VSLNet (Zhang et al., ACL 2020).

    python launch.py --config=configs/vslnet.py
        the embedded dataset, on two CPU cores.
    python launch.py --config=configs/vslnet.py:charades_sta,i3d --config.dataset.manual_dir=DIR
        the paper's setting, with GloVe 840B; DIR as in data/charades_sta/README.md.

Option base is VSLBase, transformer the official code's other span predictor. Paper, R@1 (%) at IoU .3/.5/.7 and
mIoU: Charades-STA fine-tuned I3D 70.46 / 54.19 / 35.22, 50.02; ActivityNet Captions 63.16 / 43.22 / 26.16,
43.19 (its test split is val_1: the convention vslnet, unless another is named); TACoS (version tall, likewise)
29.61 / 24.27 / 20.03, 24.11. The official code selects on the test split; here it is the validation split.
"""

from vmr_jax.configs import common, datasets

_VARIANTS = ("base", "transformer")
DATASETS = {dataset: (*options, *_VARIANTS) for dataset, options in datasets.DATASETS.items()}


def get_config(arg=None):
    """Returns the config for `dataset[,option...]`; see DATASETS."""
    dataset, options = common.parse_arg(arg, DATASETS)
    config = common.base("vslnet")
    config.model.predictor = "transformer" if "transformer" in options else "rnn"
    config.model.highlight = "base" not in options
    config.model.char_features = 100 if dataset.startswith("activitynet") else 50
    config.input.num_clips = 128
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
        config.optimizer.learning_rate = 1e-3
        config.train_for = "12 epochs"
        return config
    datasets.manual_dataset(config, dataset, options, paper=("tall", "vslnet"))
    config.text.vectors = "glove.840B.300d.txt"
    config.optimizer.eps = 1e-6  # of AdamW in both official codes; runs of the embedded dataset had 1e-8
    return config
