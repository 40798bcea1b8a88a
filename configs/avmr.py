"""AVMR (Cao et al., ACM MM 2020).

    python launch.py --config=configs/avmr.py
        the embedded dataset: a few minutes on two CPU cores.
    python launch.py --config=configs/avmr.py:charades_sta,skip_thoughts
            --config.dataset.manual_dir=DIR --config.text.sentence_features=FILE
        whole videos, DIR as in data/charades_sta/README.md, and a 4800-d vector by query id, which no dataset
        brings. Without skip_thoughts an LSTM reads the words.

Paper, as a survey quotes it, R@1 (%) at IoU .5 / .3: Charades-STA 54.59 / 77.72, TACoS 49.13 / 72.16. These are
of windows of at most 512 frames around the moments, split at random, and of segments whose IoU does not vanish
where they are apart: they are not comparable with those of whole videos.
"""

from vmr_jax.configs import common, datasets

DATASETS = {
    dataset: (*options, *(("skip_thoughts",) if dataset not in datasets.EMBEDDED else ()))
    for dataset, options in datasets.DATASETS.items()
}


def get_config(arg=None):
    """Returns the config for `dataset[,option...]`; see DATASETS."""
    dataset, options = common.parse_arg(arg, DATASETS)
    config = common.base("avmr")
    config.model.text = "sentence" if "skip_thoughts" in options else "lstm"
    config.input.normalize = False
    config.input.num_clips = 128
    config.optimizer.learning_rate = 1e-3
    config.optimizer.rules = (("agent/actor/.*", 0.1), (".*", 1.0))
    config.train_for = "40 epochs"
    config.patience = 10
    if dataset in datasets.EMBEDDED:
        datasets.embedded(config, dataset)
        config.model.text = "sentence"
        config.model.actor_hidden, config.model.critic_hidden = (128, 64), (256, 128, 64)
        config.model.features, config.model.hidden = 128, (128, 64)
        config.model.unit_weights = False
        config.model.look_every = 1
        # The weighted improvement teaches the discriminator to score those segments high that cannot be moved.
        config.model.iou_weight = 0.0
        config.model.reward_scale = 1.0
        config.model.discount = 0.3
        config.model.step = 0.1
        config.model.horizon = 30
        config.model.noise_at_test = True
        config.optimizer.learning_rate = 5e-4
        config.optimizer.schedule = "cosine"
        config.batch_size = 16
        config.train_for = "12 epochs"
        config.evaluate_every = "4 epochs"
        return config
    datasets.manual_dataset(config, dataset, options, paper=("tall",))
    if "skip_thoughts" in options:
        config.text.sentence_features = "skip_thoughts.h5"
        config.text.sentence_dim = 4800
    return config
