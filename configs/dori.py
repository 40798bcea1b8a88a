"""DORi (Rodriguez-Opazo et al., WACV 2021).

    python launch.py --config=configs/dori.py
        the embedded dataset, on two CPU cores.
    python launch.py --config=configs/dori.py:charades_sta,i3d --config.dataset.manual_dir=DIR
        the setting of the official code, with GloVe 840B and the detections of its authors; DIR as in
        data/charades_sta/README.md. Needs an accelerator.

The official code keeps the model of every epoch and chooses none; here it is the best on the validation split.
It counts an IoU that is rounded to two decimals. Its learning rate falls to a hundredth every six epochs. The
settings of other datasets than Charades-STA are ours.

An official checkpoint does not hold the word vectors: see configs/tmlga.py, whose command reads DORi's too.
"""

from vmr_jax.configs import common, datasets

LACKING = {
    "films": "DORi reads regions of the frames and which of them are people, which the dataset does not have"
}
DATASETS = {name: options for name, options in datasets.DATASETS.items() if name not in LACKING}


def get_config(arg=None):
    """Returns the config for `dataset[,option...]`; see DATASETS."""
    dataset, options = common.parse_arg(arg, DATASETS, LACKING)
    config = common.base("dori")
    config.input.resample = "pick"  # never a mean of the regions of several frames
    config.input.normalize = False
    config.batch_size = 5
    config.optimizer.l2 = 1e-5
    config.optimizer.no_decay = ".*bias"
    config.optimizer.clip_norm = 5.0
    config.optimizer.rules = ((".*bias", 2.0), (".*", 1.0))
    config.optimizer.schedule = "step"
    config.optimizer.decay_at = ("6 epochs", "12 epochs", "18 epochs")
    config.optimizer.decay_by = 0.01
    config.train_for = "20 epochs"
    if dataset in datasets.EMBEDDED:
        datasets.embedded(config, dataset)
        config.input.num_clips = 40  # every row of the longest video
        config.model.features = 64
        config.model.recurrent_features = 32
        config.model.key_features = 32
        config.batch_size = 16
        config.optimizer.learning_rate = 2e-3
        config.optimizer.schedule = "cosine"
        config.optimizer.decay_at = ()
        config.train_for = "16 epochs"
        config.evaluate_every = "2 epochs"
        return config
    datasets.manual_dataset(config, dataset, options, paper=("tall", "vslnet"))
    config.dataset.streams.objects = ("detections", 15, 2048)  # folder, regions of a frame, numbers of each
    config.dataset.streams.persons = ("detections", 15)
    config.text.vectors = "glove.840B.300d.txt"
    config.text.max_words = 30
    if not dataset.startswith("charades"):
        config.model.iterations = 2
        config.batch_size = 2
    return config
