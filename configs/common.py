"""Parts that configs share: defaults, datasets, how an argument is read.

A config is a locked ConfigDict. Its argument is `dataset[,option...]`: `charades_sta,clip`. Durations are text:
'300 steps' or '8 epochs'.
"""

from collections.abc import Mapping

import ml_collections

from vmr_jax.errors import UserError, nearest


def base(model: str) -> ml_collections.ConfigDict:
    """Everything that does not depend on the architecture or the dataset."""
    config = ml_collections.ConfigDict()
    config.seed = 0
    config.dtype = "float32"  # of the computation; parameters and losses are always float32
    config.parallel = "pmap"  # or 'jit' (the path for several hosts)
    config.num_devices = 0  # 0: all
    config.batch_size = 32
    config.train_for = "30 epochs"
    config.evaluate_every = "1 epochs"
    config.log_every = "10 steps"
    config.patience = 0  # evaluations without a better one before stopping; 0: never
    config.profile = False  # a trace of ten steps in WORKDIR/profile
    config.note = ""

    config.model = ml_collections.ConfigDict({"name": model})

    config.input = ml_collections.ConfigDict()
    config.input.num_clips = 256  # T
    config.input.resample = "average"  # every video to T rows; 'pad' keeps the rows of shorter ones
    config.input.normalize = True  # L2, each feature row

    config.text = ml_collections.ConfigDict()
    config.text.vectors = ""  # GloVe .txt or .npz; empty: the dataset's own
    config.text.dim = 300  # W
    config.text.tokenizer = "words"
    config.text.max_words = 20  # L
    config.text.trainable = False

    config.optimizer = ml_collections.ConfigDict()
    config.optimizer.name = "adam"
    config.optimizer.learning_rate = 1e-4
    config.optimizer.b1 = 0.9
    config.optimizer.b2 = 0.999
    config.optimizer.weight_decay = 0.0
    config.optimizer.clip_norm = 0.0  # 0: off
    config.optimizer.schedule = "constant"  # 'cosine', 'linear', 'step'
    config.optimizer.warmup = "0 steps"
    config.optimizer.decay_at = ()  # durations, for 'step'
    config.optimizer.decay_by = 0.1
    config.optimizer.rules = ((".*", 1.0),)  # (parameter path regex, learning-rate multiplier)

    config.evaluation = ml_collections.ConfigDict()
    config.evaluation.protocol = "moment_retrieval"
    config.evaluation.batch_size = 32
    config.evaluation.splits = ()  # at the end; empty: all but train
    config.evaluation.select_split = "val"
    config.evaluation.select_by = "R@1,IoU=0.5"
    config.evaluation.top_n = (1, 5)
    config.evaluation.thresholds = (0.3, 0.5, 0.7)
    config.evaluation.strict = False  # True: IoU > m
    config.evaluation.nms_threshold = 0.5
    config.evaluation.keep = 5

    config.published = ()  # (split, row name, ((metric, value), ...))
    return config


def parse_arg(arg: str | None, datasets: Mapping[str, tuple[str, ...]]) -> tuple[str, tuple[str, ...]]:
    """Splits 'dataset,option,...' and checks it against what a config knows.

    Args:
      arg: what stands after the colon of --config; None or '' is 'storyboard'.
      datasets: dataset name -> its options.

    Returns:
      The dataset and the options.
    """
    dataset, *options = (arg or "storyboard").split(",")
    if dataset not in datasets:
        raise UserError(
            f'This config has no dataset "{dataset}".{nearest(dataset, datasets)} '
            f"It has: {', '.join(datasets)}."
        )
    for option in options:
        if option not in datasets[dataset]:
            raise UserError(
                f'This config has no option "{option}" for {dataset}.{nearest(option, datasets[dataset])} '
                f"It has: {', '.join(datasets[dataset]) or 'none'}."
            )
    return dataset, tuple(options)


# --- datasets -------------------------------------------------------------------------------------

STORYBOARD_OPTIONS = ()


def storyboard(config: ml_collections.ConfigDict, options: tuple[str, ...] = ()) -> None:
    """The embedded dataset: 32 rows of 64-d features, 50-d word vectors, generated from a seed."""
    del options
    config.note = "storyboard is a generated test bed; its numbers say nothing about real video."
    config.dataset = ml_collections.ConfigDict()
    config.dataset.name = "storyboard"
    config.dataset.data_dir = "~/.cache/vmr_jax"
    config.dataset.features = "rgb"
    config.dataset.feature_dim = 64
    config.dataset.seed = 0
    config.dataset.train_videos = 900
    config.input.num_clips = 32
    config.text.dim = 50


# option -> (file or folder of the field, feature dimension)
CHARADES_FEATURES = {
    "vgg": ("vgg_rgb_features.hdf5", 4096),
    "i3d": ("i3d_finetuned", 1024),
    "clip": ("clip_vit_b32_1fps", 512),
}
CHARADES_OPTIONS = tuple(CHARADES_FEATURES)


def charades_sta(config: ml_collections.ConfigDict, options: tuple[str, ...] = ()) -> None:
    """Charades-STA (Gao et al. 2017) from the user's folder; see data/charades_sta/README.md."""
    variants = [option for option in options if option in CHARADES_FEATURES] or ["vgg"]
    if len(variants) > 1:
        raise UserError(f"Name one feature variant, not {len(variants)}: {', '.join(variants)}.")
    config.dataset = ml_collections.ConfigDict()
    config.dataset.name = "charades_sta"
    config.dataset.data_dir = "~/.cache/vmr_jax"
    config.dataset.manual_dir = "charades_sta"
    config.dataset.features, config.dataset.feature_dim = CHARADES_FEATURES[variants[0]]
    config.dataset.feature_key = ""
    config.dataset.split_file = ""  # the user's own split; '' is the official one
    config.dataset.val_fraction = 0.05  # of the official training videos, where there is no split file
    config.dataset.extra_queries = ""  # more training queries, jsonl
    config.dataset.on_missing = "error"  # 'drop' goes on without videos that have no features
    config.text.vectors = "glove.6B.300d.txt"
    config.text.max_words = 10
