"""Parts that configs share: defaults, datasets, how an argument is read.

A config is a locked ConfigDict. Its argument is `dataset[,option...]`: `charades_sta,clip`. Durations are text:
'300 steps' or '8 epochs'.
"""

import typing
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import ml_collections

from vmr_jax import models
from vmr_jax.errors import UserError, unknown
from vmr_jax.text import tokenize


def base(model: str | type[models.GroundingModel]) -> ml_collections.ConfigDict:
    """Everything that does not depend on the dataset.

    Args:
      model: an architecture, a user's own class, or its place, 'my_project.models:Mine'.
    """
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

    config.model = model_defaults(model)

    config.input = ml_collections.ConfigDict()
    config.input.num_clips = 256  # T
    config.input.resample = "average"  # every video to T rows; 'pad' keeps the rows of shorter ones
    config.input.normalize = True  # L2, each feature row
    config.input.queries_per_video = 1  # S > 1: every S training rows are queries of one video

    config.text = ml_collections.ConfigDict()
    config.text.vectors = ""  # GloVe .txt or .npz; '': the dataset's own; 'none': zeros
    config.text.dim = 300  # W
    config.text.tokenizer = "words"
    config.text.max_words = 20  # L
    config.text.characters = tokenize.CHARACTERS  # with ids from 2 on, for architectures that read them
    config.text.trainable = False
    config.text.vocabulary = ""  # JSON of words, such as an official checkpoint was trained with; '': of train
    config.text.features = ""  # token features by query id, file or folder, in place of word vectors
    config.text.feature_key = ""  # of the arrays in it
    config.text.sentence_features = ""  # one vector by query id, file or folder
    config.text.sentence_dim = 0
    config.text.encoder = ""  # 'distilbert' or 'clip'
    config.text.encoder_dir = ""  # folder with its vocabulary and weights
    config.text.max_subwords = 32  # S

    config.optimizer = ml_collections.ConfigDict()
    config.optimizer.name = "adam"  # 'adamw', 'bert_adam', 'sgd' (momentum b1)
    config.optimizer.learning_rate = 1e-4
    config.optimizer.b1 = 0.9
    config.optimizer.b2 = 0.999
    config.optimizer.weight_decay = 0.0
    config.optimizer.l2 = 0.0  # times the parameter, added to its gradient
    config.optimizer.no_decay = ""  # path regex of the parameters without either
    config.optimizer.eps = 1e-8
    config.optimizer.clip_norm = 0.0  # 0: off
    config.optimizer.clip_each = False  # True: the norm of each parameter, not of all
    config.optimizer.clip_value = 0.0  # of each number; 0: off
    config.optimizer.schedule = "constant"  # 'cosine', 'linear', 'step', 'inverse_sqrt'
    config.optimizer.warmup = "0 steps"
    config.optimizer.warmup_from = 0.0  # learning rate of the first step
    config.optimizer.decay_at = ()  # durations, for 'step'
    config.optimizer.decay_by = 0.1
    config.optimizer.rules = ((".*", 1.0),)  # (parameter path regex, learning-rate multiplier[, when])

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
    config.evaluation.nms_margin = 0.0  # > 0: NMS at m - nms_margin for each m instead
    config.evaluation.corpus_videos = 100  # of the protocol 'corpus': the best ones, which are searched
    config.evaluation.corpus_top_n = (1, 10, 100)
    config.evaluation.keep = 5
    config.evaluation.discounted = False  # dR@n,IoU=m too, at the end
    config.evaluation.sanity = ("blind", "shuffled")  # each one more pass over what is evaluated; (): none

    config.retrieval = ml_collections.ConfigDict()  # of --mode=index and --mode=search
    config.retrieval.dtype = "float32"  # of the indexed rows; 'bfloat16', 'int8'
    config.retrieval.nms_threshold = 0.5
    return config


def model_defaults(name: str | type[models.GroundingModel]) -> ml_collections.ConfigDict:
    """`config.model`: the name of an architecture, and its hyper-parameters with the defaults of the class.

    Left out are fields that a config file cannot hold, such as a function. A field whose default is None takes
    values of the type that is annotated.

    Args:
      name: as in `vmr_jax.models.model_class`.
    """
    kind = models.model_class(name)
    hints = typing.get_type_hints(kind)
    config = ml_collections.ConfigDict({"name": models.model_name(kind)})
    fields: dict[str, Any] = models.model_fields(kind)
    for field, default in fields.items():
        if default is None:
            types = [hint for hint in typing.get_args(hints[field]) if hint is not type(None)]
            config[field] = ml_collections.config_dict.placeholder(types[0] if types else object)
        elif isinstance(default, bool | int | float | str | tuple):
            if isinstance(default, int) and hints[field] is float:
                default = float(default)
            config[field] = default
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
        raise unknown("This config has no dataset", dataset, datasets)
    for option in options:
        if option not in datasets[dataset]:
            raise unknown(f"For {dataset} this config has no option", option, datasets[dataset])
    return dataset, tuple(options)


def chosen(options: Sequence[str], known: Collection[str], what: str) -> str:
    """The one option that is among the `known`, '' for none; UserError for several: name one `what`."""
    named = [option for option in options if option in known]
    if len(named) > 1:
        raise UserError(f"Name one {what}, not {len(named)}: {', '.join(named)}.")
    return named[0] if named else ""


# --- datasets -------------------------------------------------------------------------------------


def storyboard(config: ml_collections.ConfigDict) -> None:
    """The embedded dataset: 32 rows of 64-d features, 50-d word vectors, generated from a seed."""
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


class Features(NamedTuple):
    """A feature variant of a dataset: what an option such as `vgg` stands for."""

    path: str  # file or folder as the field names it; several, with commas between them, are concatenated
    dim: int  # D
    stride: float = 0.0  # seconds per row as its source states; 0: not stated
    key: str = ""  # of the array; '': the usual ones


_CHARADES = {
    "vgg": Features("vgg_rgb_features.hdf5", 4096, 1 / 6),
    "i3d": Features("i3d_finetuned", 1024),
    "clip": Features("clip_vit_b32_1fps", 512, 1.0),
}
_ACTIVITYNET = {
    "c3d": Features("sub_activitynet_v1-3.c3d.hdf5", 500),
    "i3d": Features("i3d", 1024),
    "clip": Features("clip_vit_32_features.hdf5", 512),
}
# dataset -> option -> variant; the first is the default.
FEATURES = {
    "charades_sta": _CHARADES,
    "charades_cd": _CHARADES,
    "charades_cg": _CHARADES,
    "activitynet_captions": _ACTIVITYNET,
    "activitynet_cd": _ACTIVITYNET,
    "activitynet_cg": _ACTIVITYNET,
    "tacos": {"c3d": Features("tall_c3d_features.hdf5", 4096)},
    "didemo": {
        "vgg": Features("average_fc7.h5", 4096, 5.0),
        "flow": Features("average_global_flow.h5", 1024, 5.0),
    },
    "tempo": {
        "rgb": Features("average_rgb_feats.h5", 4096, 5.0),
        "flow": Features("average_flow_feats.h5", 1024, 5.0),
    },
    "tvr": {
        "resnet_i3d": Features("tvr_resnet152_rgb_max_i3d_rgb600_avg_cat_cl-1.5.h5", 3072, 1.5),
        "resnet": Features("tvr_resnet152_rgb_max_cl-1.5.h5", 2048, 1.5),
        "i3d": Features("tvr_i3d_rgb600_avg_cl-1.5.h5", 1024, 1.5),
    },
    "qvhighlights": {
        "slowfast_clip": Features("slowfast_features,clip_features", 2304 + 512, 2.0),
        "clip": Features("clip_features", 512, 2.0),
    },
    "jsonl": {},
}

# dataset -> options that are not features; the first of each group is the default.
_CONVENTIONS = ("2d_tan", "vslnet", "lgi")
_CHOICES: dict[str, dict[str, tuple[str, ...]]] = {
    "activitynet_captions": {"convention": _CONVENTIONS},
    "tacos": {"version": ("2d_tan", "tall")},
    "tempo": {"version": ("tl", "hl")},
}

# dataset -> (clips T of a moment map, offsets kept at each scale of a sparse map). 2D-TAN has published those
# of Charades-STA, ActivityNet Captions and TACoS; DiDeMo's six chunks give its 21 segments; others are ours.
MAPS = {
    "charades_sta": (16, (16,)),
    "charades_cd": (16, (16,)),
    "charades_cg": (16, (16,)),
    "activitynet_captions": (64, (16, 8, 8)),
    "activitynet_cd": (64, (16, 8, 8)),
    "activitynet_cg": (64, (16, 8, 8)),
    "tacos": (128, (16, 8, 8, 8)),
    "didemo": (6, (6,)),
    "tempo": (6, (6,)),
    "tvr": (64, (16, 8, 8)),
    "qvhighlights": (64, (16, 8, 8)),
    "jsonl": (32, (16, 8)),
}

# dataset -> words kept of a sentence. FVMR keeps 20; Charades-STA has at most 10.
_MAX_WORDS = {"charades_sta": 10, "charades_cd": 10, "charades_cg": 10}

# dataset -> (split to select on, splits to evaluate); the others are 'val' and all but train.
_SPLITS = {
    ("activitynet_captions", "2d_tan"): ("anet_val_1", ("anet_val_2",)),
    ("activitynet_captions", "vslnet"): ("anet_val_2", ("anet_val_1",)),
    ("activitynet_captions", "lgi"): ("val", ("anet_val_1_and_2",)),
    ("tvr", ""): ("val", ("val",)),
}

# dataset -> fields of config.evaluation. DiDeMo and TEMPO rank all 21 segments and count as their authors do;
# TVR's authors count four n in the corpus; QVHighlights' mAP reads ten moments.
_CONSENSUS = {"protocol": "consensus", "select_by": "Rank@1", "keep": 21, "nms_threshold": 1.0}
_EVALUATION = {
    "didemo": _CONSENSUS,
    "tempo": {**_CONSENSUS, "top_n": (1, 3, 5)},
    "tvr": {"corpus_top_n": (1, 5, 10, 100)},
    "qvhighlights": {"keep": 10},
    "tacos": {"thresholds": (0.1, 0.3, 0.5)},
}

# dataset -> its own fields of config.dataset
_FIELDS = {
    "charades_sta": {
        "split_file": "",  # the user's own split; '' is the official one
        "val_fraction": 0.05,  # of the official training videos, where there is no split file
        "extra_queries": "",  # more training queries, jsonl
    },
    "charades_cg": {"val_fraction": 0.1},
    "activitynet_cg": {"val_fraction": 0.1},
    "activitynet_captions": {"val_fraction": 0.05},  # used by the convention lgi alone
    "jsonl": {"val_fraction": 0.1},  # where there is no val.jsonl
}

DATASETS = {
    "storyboard": (),
    **{
        dataset: (*variants, *(o for group in _CHOICES.get(dataset, {}).values() for o in group))
        for dataset, variants in FEATURES.items()
    },
}


def manual_dataset(config: ml_collections.ConfigDict, dataset: str, options: tuple[str, ...] = ()) -> str:
    """A dataset that is read from the user's folder; see data/DATASET/README.md.

    Returns the feature variant that was chosen, an option of the dataset.
    """
    variants = FEATURES[dataset] or {"features": Features("features", 512)}
    named = chosen(options, variants, "feature variant") or next(iter(variants))
    features = variants[named]
    config.dataset = ml_collections.ConfigDict()
    config.dataset.name = dataset
    config.dataset.data_dir = "~/.cache/vmr_jax"
    config.dataset.manual_dir = dataset
    config.dataset.features = features.path
    config.dataset.feature_dim = features.dim
    config.dataset.feature_key = features.key
    config.dataset.feature_stride = features.stride
    config.dataset.streams = ml_collections.ConfigDict()  # field of the batch -> (path, *shape of a row)
    config.dataset.on_missing = "error"  # 'drop' goes on without videos that have no features
    config.dataset.beam = ""  # options of Apache Beam, which then prepares: '--runner=DirectRunner ...'
    for field, values in _CHOICES.get(dataset, {}).items():
        config.dataset[field] = chosen(options, values, field) or values[0]
    config.dataset.update(_FIELDS.get(dataset, {}))
    config.evaluation.update(_EVALUATION.get(dataset, {}))
    convention = config.dataset.get("convention", "")
    if (dataset, convention) in _SPLITS:
        config.evaluation.select_split, config.evaluation.splits = _SPLITS[dataset, convention]
    config.text.vectors = "glove.6B.300d.txt"
    config.text.max_words = _MAX_WORDS.get(dataset, 20)
    return named


def map_size(config: ml_collections.ConfigDict) -> None:
    """The moment map of the dataset (`MAPS`), and clips that the map's side divides."""
    config.model.num_clips, config.model.scale_layers = MAPS[config.dataset.name]
    if 256 % config.model.num_clips:
        config.input.num_clips = config.model.num_clips  # DiDeMo and TEMPO: one row per chunk
