"""RWM (He et al., AAAI 2019).

    python launch.py --config=configs/rwm.py
        the embedded dataset: a few minutes on two CPU cores.
    python launch.py --config=configs/rwm.py:charades_sta,c3d,skip_thoughts
            --config.dataset.manual_dir=DIR --config.text.sentence_features=FILE
        the paper's setting: C3D features, DIR as in data/charades_sta/README.md, and a 4800-d vector by query
        id, which no dataset brings. Without skip_thoughts an LSTM reads the words.

Paper, R@1 (%) at IoU .5, with C3D: Charades-STA 36.70, ActivityNet Captions 36.90; the re-implementation
WuJie1010/Temporally-language-grounding has 32.66 on Charades-STA, 14.25 at .7. It selects on the test split;
here it is the validation split.
"""

from vmr_jax.configs import common, datasets

DATASETS = {
    dataset: (*options, *(("skip_thoughts",) if dataset not in datasets.EMBEDDED else ()))
    for dataset, options in datasets.DATASETS.items()
}
UNITS = 300  # that are kept of a video (port: original_feats)


def get_config(arg=None):
    """Returns the config for `dataset[,option...]`; see DATASETS."""
    dataset, options = common.parse_arg(arg, DATASETS)
    config = common.base("rwm")
    config.model.text = "sentence" if "skip_thoughts" in options else "lstm"
    config.input.resample = "pad"
    config.input.normalize = False
    config.batch_size = 64
    config.optimizer.learning_rate = 1e-3
    config.train_for = "90 epochs"
    if dataset in datasets.EMBEDDED:
        datasets.embedded(config, dataset)
        config.model.text = "sentence"
        config.model.features = config.model.query_features = config.model.video_features = 256
        config.model.entropy_weight = 0.03
        config.model.location_features = 32
        config.model.whole_units = True  # moments of three to thirteen units
        config.model.unit_weights = False
        config.model.detach_advantage = True
        config.batch_size = 16
        config.optimizer.schedule = "cosine"
        config.optimizer.l2 = 1e-5
        config.train_for = "40 epochs"
        config.evaluate_every = "6 epochs"
        return config
    datasets.manual_dataset(config, dataset, options)
    if "skip_thoughts" in options:
        config.text.sentence_features = "skip_thoughts.h5"
        config.text.sentence_dim = 4800
    if dataset.startswith("charades"):
        # A row of these is a unit of 16 frames, and all are kept. Rows of other features are averaged to units
        # where there are more.
        config.input.num_clips = UNITS if {"c3d", "two_stream"} & set(options) else 64
    return config
