"""TSP-PRL (Wu et al., AAAI 2020).

    python launch.py --config=configs/tsp_prl.py
        the embedded dataset: about five minutes on two CPU cores.
    python launch.py --config=configs/tsp_prl.py:charades_sta,two_stream,skip_thoughts
            --config.dataset.manual_dir=DIR --config.text.sentence_features=FILE
        the paper's setting: two-stream features, DIR as in data/charades_sta/README.md, and a 4800-d vector by
        query id, which no dataset brings. Without skip_thoughts an LSTM reads the words. Needs an accelerator.

Paper, R@1 (%) at IoU .5 / .7: Charades-STA two-stream 45.30 / 24.73, C3D 37.39 / 17.69; ActivityNet Captions
C3D 38.76 at .5. The official code selects on the test split; here it is the validation split.
"""

from vmr_jax.configs import common, datasets

DATASETS = {
    dataset: (*options, *(("skip_thoughts",) if dataset not in datasets.EMBEDDED else ()))
    for dataset, options in datasets.DATASETS.items()
}
UNITS = 300  # that are kept of a video (official code: original_feats); a batch of them takes 157 MB
PHASE = 200  # updates for which the leaves learn, then the root


def get_config(arg=None):
    """Returns the config for `dataset[,option...]`; see DATASETS."""
    dataset, options = common.parse_arg(arg, DATASETS)
    config = common.base("tsp_prl")
    config.model.text = "sentence" if "skip_thoughts" in options else "lstm"
    config.input.resample = "pad"
    config.input.normalize = False
    config.batch_size = 16
    config.optimizer.learning_rate = 1e-3
    config.optimizer.rules = (
        ("agent/leaf_.*", 1.0, f"phase 0 of 2, {PHASE} steps"),
        ("agent/root_.*", 1.0, f"phase 1 of 2, {PHASE} steps"),
        (".*", 1.0),
    )
    config.train_for = "100 epochs"
    if dataset in datasets.EMBEDDED:
        datasets.embedded(config, dataset)
        config.model.features = 128
        config.model.critic_features = (64, 32)
        config.model.text = "sentence"
        config.model.whole_units = True  # moments of three to thirteen units
        config.model.unit_weights = False
        config.model.detach_advantage = True
        config.optimizer.learning_rate = 6e-3
        config.optimizer.schedule = "cosine"
        config.train_for = "30 epochs"
        config.evaluate_every = "3 epochs"
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
