"""TMLGA (Rodriguez-Opazo et al., WACV 2020).

    python launch.py --config=configs/tmlga.py
        the embedded dataset, on two CPU cores.
    python launch.py --config=configs/tmlga.py:charades_sta,i3d --config.dataset.manual_dir=DIR
        the paper's setting, with GloVe 840B; DIR as in data/charades_sta/README.md.

Paper, R@1 (%) at IoU .5: Charades-STA I3D 52.02; at .3/.5/.7, ActivityNet Captions I3D 51.28 / 33.04 / 19.26
(on val_1: the convention vslnet, unless another is named); TACoS I3D (version tall) at .3/.5 24.54 / 21.65. The
official code keeps the model of every epoch and chooses none; here it is the best on the validation split. It
counts an IoU that is rounded to two decimals. The settings of other datasets than Charades-STA are ours.

An official checkpoint does not hold the word vectors. They stand in two files beside it, which become one:

    python -m vmr_jax.torch_import.tmlga charades_embeddings_1_30.pth charades_vocab_1_30.pickle words.npz
    python launch.py --mode=import --config=configs/tmlga.py:charades_sta,i3d --checkpoint=model_charades_sta
        --workdir=DIR --config.dataset.manual_dir=DIR --config.text.vectors=words.npz
"""

from vmr_jax.configs import common, datasets

DATASETS = datasets.DATASETS


def get_config(arg=None):
    """Returns the config for `dataset[,option...]`; see DATASETS."""
    dataset, options = common.parse_arg(arg, DATASETS)
    config = common.base("tmlga")
    config.input.resample = "pad"
    config.input.normalize = False
    config.batch_size = 256
    config.optimizer.l2 = 1e-5
    config.optimizer.no_decay = ".*bias"
    config.optimizer.clip_norm = 5.0
    config.optimizer.rules = ((".*bias", 2.0), (".*", 1.0))
    config.train_for = "50 epochs"
    if dataset in datasets.EMBEDDED:
        datasets.embedded(config, dataset)
        config.model.features = 128
        config.model.recurrent_features = 64
        config.batch_size = 16
        config.optimizer.learning_rate = 2e-3
        config.optimizer.schedule = "cosine"
        config.train_for = "16 epochs"
        config.evaluate_every = "2 epochs"
        return config
    datasets.manual_dataset(config, dataset, options, paper=("tall", "vslnet"))
    config.text.vectors = "glove.840B.300d.txt"
    config.text.max_words = 30
    if not dataset.startswith("charades"):
        config.batch_size = 64
    return config
