"""L-Net (Chen et al., AAAI 2019).

    python launch.py --config=configs/l_net.py
        the embedded dataset: about two minutes on two CPU cores.
    python launch.py --config=configs/l_net.py:didemo --config.dataset.manual_dir=DIR
        one of the paper's two datasets, with GloVe; DIR as in data/didemo/README.md.

From memory, mIoU (%): TACoS 13.41, DiDeMo 41.43. Everything of training is ours.
"""

from vmr_jax.configs import common, datasets

DATASETS = datasets.DATASETS


def get_config(arg=None):
    """Returns the config for `dataset[,option...]`; see DATASETS."""
    dataset, options = common.parse_arg(arg, DATASETS)
    config = common.base("l_net")
    config.input.resample = "pad"
    config.input.normalize = False
    config.batch_size = 64
    config.optimizer.learning_rate = 1e-3
    config.optimizer.clip_norm = 5.0
    if dataset in datasets.EMBEDDED:
        datasets.embedded(config, dataset)
        config.model.features = 64
        config.model.dropout = 0.2
        config.batch_size = 16
        config.optimizer.learning_rate = 3e-3
        config.optimizer.schedule = "cosine"
        config.train_for = "15 epochs"
        return config
    datasets.manual_dataset(config, dataset, options, paper=("tall",))
    config.input.num_clips = 6 if dataset in ("didemo", "tempo") else 256
    return config
