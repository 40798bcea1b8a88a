"""EMB (Huang et al., ECCV 2022).

    python launch.py --config=configs/emb.py
        the embedded dataset, on two CPU cores.
    python launch.py --config=configs/emb.py:charades_sta,i3d --config.dataset.manual_dir=DIR
        the paper's setting, with GloVe 840B; DIR as in data/charades_sta/README.md.

Paper, R@1 (%) at IoU .3/.5/.7 and mIoU, as a later one quotes it: Charades-STA fine-tuned I3D 72.50 / 58.33 /
39.25, 53.09; ActivityNet Captions (I3D; its test split is val_2) 64.13 / 44.81 / 26.07, 45.59. From memory:
TACoS (version 2d_tan) 50.46 / 37.82 / 22.54, 35.49. The official code selects on the test split by the sum of
the four; here it is the validation split. A training of other than 100 epochs needs config.model.elastic_epochs
too.
"""

from vmr_jax.configs import common, datasets

DATASETS = datasets.DATASETS


def get_config(arg=None):
    """Returns the config for `dataset[,option...]`; see DATASETS."""
    dataset, options = common.parse_arg(arg, DATASETS)
    config = common.base("emb")
    config.input.num_clips = 128
    config.input.resample = "pad"
    config.input.normalize = False
    config.batch_size = 16
    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 5e-4
    config.optimizer.weight_decay = 0.01
    config.optimizer.no_decay = r".*(bias|guide_norm/scale)"  # official names: the other norms are decayed
    config.optimizer.schedule = "linear"
    config.optimizer.clip_norm = 1.0
    config.train_for = "100 epochs"
    if dataset in datasets.EMBEDDED:
        datasets.embedded(config, dataset)
        config.model.features = 64
        config.model.block = 2
        config.model.elastic_epochs = 12
        config.optimizer.learning_rate = 1e-3
        config.train_for = "12 epochs"
        return config
    datasets.manual_dataset(config, dataset, options, paper=("2d_tan",))
    config.text.vectors = "glove.840B.300d.txt"
    return config
