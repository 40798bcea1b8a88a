"""STRONG (Cao et al., ACM MM 2020).

    python launch.py --config=configs/strong.py
        the embedded dataset: a few minutes on two CPU cores.
    python launch.py --config=configs/strong.py:charades_sta,skip_thoughts
            --config.dataset.manual_dir=DIR --config.text.sentence_features=FILE
        whole videos, DIR as in data/charades_sta/README.md, and a 4800-d vector by query id, which no dataset
        brings. Without skip_thoughts an LSTM reads the words.

There the temporal agent is alone. With the option spatial the other one sees the cells of frames, which no
dataset brings: config.dataset.streams.grid, here 7 by 7 of VGG's last convolution.

Paper, as a survey quotes it, R@1 (%): Charades-STA at IoU .7 / .5 / .3 19.30 / 50.14 / 78.10, TACoS at .5 / .3
/ .1 49.73 / 72.14 / 90.85. These are of windows of at most 512 frames around the moments, split at random: they
are not comparable with those of whole videos.
"""

from vmr_jax.configs import common, datasets

LACKING = {"films": "STRONG reads cells of the frames, a grid of features, which the dataset does not have"}
DATASETS = {
    dataset: (*options, *(("skip_thoughts", "spatial") if dataset not in datasets.EMBEDDED else ("temporal",)))
    for dataset, options in datasets.DATASETS.items()
    if dataset not in LACKING
}


def get_config(arg=None):
    """Returns the config for `dataset[,option...]`; see DATASETS."""
    dataset, options = common.parse_arg(arg, DATASETS, LACKING)
    config = common.base("strong")
    config.model.text = "sentence" if "skip_thoughts" in options else "lstm"
    config.model.spatial = "spatial" in options
    config.input.normalize = False
    config.input.num_clips = 128
    config.optimizer.learning_rate = 1e-3
    config.optimizer.rules = (("(temporal|spatial)/actor/.*", 0.1), (".*", 1.0))
    config.train_for = "60 epochs"
    config.patience = 10
    if dataset in datasets.EMBEDDED:
        datasets.embedded(config, dataset)
        config.model.spatial = "temporal" not in options
        config.model.text = "sentence"
        config.model.actor_hidden, config.model.critic_hidden = (128, 64), (256, 128, 64)
        config.model.crop_hidden = config.model.crop_features = 64
        config.model.look_every = 1
        config.model.looks = 1
        config.model.box_step = 0.1
        config.batch_size = 16
        config.train_for = "20 epochs"
        config.evaluate_every = "4 epochs"
        return config
    datasets.manual_dataset(config, dataset, options, paper=("tall",))
    if config.model.spatial:
        config.dataset.streams.grid = ("vgg16_conv5", 7, 7, 512)
    if "skip_thoughts" in options:
        config.text.sentence_features = "skip_thoughts.h5"
        config.text.sentence_dim = 4800
    return config
