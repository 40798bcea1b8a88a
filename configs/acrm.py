"""ACRM (Tang et al., TMM 2021).

    python launch.py --config=configs/acrm.py
        the embedded dataset, on two CPU cores.
    python launch.py --config=configs/acrm.py:charades_sta,i3d --config.dataset.manual_dir=DIR
        the paper's setting, with GloVe 840B; DIR as in data/charades_sta/README.md.
    python launch.py --config=configs/acrm.py:jsonl --config.dataset.manual_dir=DIR ...
        your own data; see data/jsonl/README.md. The other datasets of DATASETS work in the same way.

R@1 (%), from memory: Charades-STA I3D, IoU .5 57.5, .7 38.3; TACoS, IoU .3 38.8, .5 26.9. The official program
counts an IoU that is rounded to two decimals; on Charades-STA it reads every third row of its I3D features.
"""

from vmr_jax.configs import common, datasets

DATASETS = datasets.DATASETS


def get_config(arg=None):
    """Returns the config for `dataset[,option...]`; see DATASETS."""
    dataset, options = common.parse_arg(arg, DATASETS)
    config = common.base("acrm")
    config.input.resample = "pad"
    config.input.normalize = False
    config.batch_size = 32 if dataset == "tacos" else 64
    config.optimizer.learning_rate = 1e-3
    config.optimizer.l2 = 1e-5
    config.optimizer.no_decay = ".*bias"
    config.optimizer.clip_norm = 5.0
    config.optimizer.rules = ((".*bias", 2.0), (".*", 1.0))
    config.optimizer.schedule = "step"
    config.optimizer.decay_at = ("20 epochs", "40 epochs")
    config.train_for = "50 epochs"
    if dataset in datasets.EMBEDDED:
        datasets.embedded(config, dataset)
        config.model.features = 128
        config.model.recurrent_features = config.model.head_features = 64
        config.batch_size = 16
        config.optimizer.learning_rate = 2e-3
        config.optimizer.schedule = "cosine"
        config.optimizer.decay_at = ()
        config.train_for = "12 epochs"
        return config
    datasets.manual_dataset(config, dataset, options, paper=("2d_tan",))
    config.text.vectors = "glove.840B.300d.txt"
    config.text.tokenizer = "whitespace"
    config.text.max_words = 30
    if dataset.startswith("charades"):
        config.text.tokenizer = "words"
        config.model.query_bias = False
        config.model.labels = "floor"
    return config
