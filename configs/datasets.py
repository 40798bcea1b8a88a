"""The datasets of the configs: feature variants, versions, splits, and what each of them sets."""

from typing import NamedTuple

import ml_collections

from vmr_jax.configs.common import LIBRARY, LIBRARY_ENCODERS, base, chosen
from vmr_jax.models import GroundingModel


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


def films(config: ml_collections.ConfigDict) -> None:
    """The embedded dataset with pictures: rendered films, 304 numbers for each of four frames a second."""
    storyboard(config)
    config.note = "films is a rendered test bed; its numbers say nothing about real video."
    config.dataset.name = "films"
    config.dataset.features = "pixels"
    config.dataset.feature_dim = 304
    config.dataset.train_videos = 400
    config.dataset.test_videos = 80  # of val and of test


EMBEDDED = {"storyboard": storyboard, "films": films}  # datasets that are generated; nothing is downloaded


def embedded(config: ml_collections.ConfigDict, dataset: str) -> None:
    """A dataset of `EMBEDDED`."""
    EMBEDDED[dataset](config)


class Features(NamedTuple):
    """A feature variant of a dataset: what an option such as `vgg` stands for."""

    path: str  # file or folder as the field names it; several, with commas between them, are concatenated
    dim: int  # D
    stride: float = 0.0  # seconds per row as its source states; 0: not stated
    key: str = ""  # of the array; '': the usual ones


# A row for 16 frames (Cao et al., ECCV 2022; official code mengcaopku/LocVTP@229bef693e19, featExtract.py).
_LOCVTP = Features("locvtp_c3d_features.hdf5", 256)
_CHARADES = {
    "vgg": Features("vgg_rgb_features.hdf5", 4096, 1 / 6),
    "i3d": Features("i3d_finetuned", 1024),
    "c3d": Features("c3d_features.hdf5", 4096),
    "two_stream": Features("two_stream", 8192),
    "clip": Features("clip_vit_b32_1fps", 512, 1.0),
    "locvtp": _LOCVTP,
}
_ACTIVITYNET = {
    "c3d": Features("sub_activitynet_v1-3.c3d.hdf5", 500),
    "i3d": Features("i3d", 1024),
    "clip": Features("clip_vit_32_features.hdf5", 512),
    "locvtp": _LOCVTP,
}
# dataset -> option -> variant; the first is the default.
FEATURES = {
    "charades_sta": _CHARADES,
    "charades_cd": _CHARADES,
    "charades_cg": _CHARADES,
    "activitynet_captions": _ACTIVITYNET,
    "activitynet_cd": _ACTIVITYNET,
    "activitynet_cg": _ACTIVITYNET,
    "tacos": {"c3d": Features("tall_c3d_features.hdf5", 4096), "i3d": Features("i3d", 1024)},
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

# encoder of a library of videos -> its features; of other sizes, set config.dataset.feature_dim.
_LIBRARY = {
    encoder: Features("features", dim, stride)
    for encoder, dim, stride in zip(LIBRARY_ENCODERS, (304, 512, 768, 768), (0.25, 1.0, 1.0, 1.0), strict=True)
}

# dataset -> options that are not features; the first of each group is the default, unless the paper of the
# architecture used another.
_CONVENTIONS = ("2d_tan", "vslnet", "lgi")
CHOICES: dict[str, dict[str, tuple[str, ...]]] = {
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

# dataset -> clips that are kept as they are, and clips of the longest moment (0: any), of XML's line; ours.
CLIPS = {
    "activitynet_captions": (128, 0),
    "activitynet_cd": (128, 0),
    "activitynet_cg": (128, 0),
    "tacos": (256, 128),
    "didemo": (6, 0),
    "tempo": (6, 0),
}
# Patches of the frames: the stream that VDI's injections read (config.dataset.streams.objects).
PATCHES = ("clip_vit_b32_patches", 49, 512)
STREAMS = ("video", "subtitles")  # options that read one of two streams, of the data sets that have both

# dataset -> words kept of a sentence. FVMR keeps 20; the longest sentence of Charades-STA has 11.
_MAX_WORDS = {"charades_sta": 11, "charades_cd": 11, "charades_cg": 11}

# dataset -> (split to select on, splits to evaluate); the others are 'val' and all but train.
_SPLITS = {
    ("activitynet_captions", "2d_tan"): ("anet_val_1", ("anet_val_2",)),
    ("activitynet_captions", "vslnet"): ("anet_val_2", ("anet_val_1",)),
    ("activitynet_captions", "lgi"): ("val", ("anet_val_1_and_2",)),
    ("tvr", ""): ("val", ("val",)),
}

# dataset -> fields of config.evaluation. DiDeMo and TEMPO rank all 21 segments and count as their authors do;
# TVR's authors count four n in the corpus; QVHighlights' mAP reads ten moments, and its authors count IoU >= m.
_CONSENSUS = {
    "protocol": "consensus",
    "select_by": "Rank@1",
    "keep": 21,
    "nms_threshold": 1.0,
    "strict": False,
}
_EVALUATION = {
    "didemo": _CONSENSUS,
    "tempo": {**_CONSENSUS, "top_n": (1, 3, 5)},
    "tvr": {"corpus_top_n": (1, 5, 10, 100)},
    "qvhighlights": {"keep": 10, "strict": False},
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
    "tvr": {"language": ""},  # of mTVR's queries, 'en' or 'zh'; '' reads TVR's own files
    "jsonl": {"val_fraction": 0.1},  # where there is no val.jsonl
}

DATASETS = {
    **{dataset: () for dataset in EMBEDDED},
    **{
        dataset: (*variants, *(o for group in CHOICES.get(dataset, {}).values() for o in group))
        for dataset, variants in FEATURES.items()
    },
}


def manual_dataset(
    config: ml_collections.ConfigDict,
    dataset: str,
    options: tuple[str, ...] = (),
    paper: tuple[str, ...] = (),
) -> str:
    """A dataset that is read from the user's folder; see data/DATASET/README.md.

    Args:
      config: gets what the dataset decides.
      dataset: folder of `data/`.
      options: those of the dataset that the user named.
      paper: versions and conventions that the paper of the architecture used, where the user names none.

    Returns:
      The feature variant that was chosen, an option of the dataset.
    """
    library = LIBRARY in options
    variants = _LIBRARY if library else FEATURES[dataset] or {"features": Features("features", 512)}
    named = chosen(options, variants, "feature variant") or next(iter(variants))
    features = variants[named]
    config.dataset = ml_collections.ConfigDict()
    config.dataset.name = dataset
    config.dataset.data_dir = "~/.cache/vmr_jax"
    config.dataset.manual_dir = LIBRARY if library else dataset
    config.dataset.features = features.path
    config.dataset.feature_dim = features.dim
    config.dataset.feature_key = features.key
    config.dataset.feature_stride = features.stride
    config.dataset.streams = ml_collections.ConfigDict()  # field of the batch -> (path, *shape of a row)
    config.dataset.on_missing = "error"  # 'drop' goes on without videos that have no features
    config.dataset.beam = ""  # options of Apache Beam, which then prepares: '--runner=DirectRunner ...'
    for field, values in CHOICES.get(dataset, {}).items():
        config.dataset[field] = chosen(options, values, field) or chosen(paper, values, field) or values[0]
    config.dataset.update(_FIELDS.get(dataset, {}))
    config.evaluation.update(_EVALUATION.get(dataset, {}))
    convention = config.dataset.get("convention", "")
    if (dataset, convention) in _SPLITS:
        config.evaluation.select_split, config.evaluation.splits = _SPLITS[dataset, convention]
    config.text.vectors = "glove.6B.300d.txt"
    config.text.max_words = _MAX_WORDS.get(dataset, 20)
    return named


def evaluation_defaults(dataset: str) -> ml_collections.ConfigDict:
    """`config.evaluation` of a dataset where nothing else is chosen."""
    evaluation = base(GroundingModel).evaluation
    evaluation.update(_EVALUATION.get(dataset, {}))
    return evaluation


def map_size(config: ml_collections.ConfigDict) -> None:
    """The moment map of the dataset (`MAPS`), and clips that the map's side divides."""
    config.model.num_clips, config.model.scale_layers = MAPS[config.dataset.name]
    if 256 % config.model.num_clips:
        config.input.num_clips = config.model.num_clips  # DiDeMo and TEMPO: one row per chunk


def injections(config: ml_collections.ConfigDict) -> None:
    """Sets VDI's two injections, of an architecture that can carry them; the dataset is already chosen."""
    config.model.context, config.model.dynamics = "static", "transformer"
    if config.dataset.name in EMBEDDED:
        config.model.plugin_hidden = 128
    else:
        config.dataset.streams.objects = PATCHES


def with_streams(options: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """The options of the datasets, and `STREAMS` where a dataset has both."""
    both = ("storyboard", "tvr")
    return {name: (*own, *STREAMS) if name in both else own for name, own in options.items()}


def streams(config: ml_collections.ConfigDict, options: tuple[str, ...]) -> None:
    """Sets `config.model.streams`: the stream that the options name, else all that are there."""
    named = [option for option in options if option in STREAMS]
    there = "video" if config.dataset.name == "films" else "both"
    config.model.streams = named[0] if len(named) == 1 else there


def corpus(config: ml_collections.ConfigDict) -> None:
    """The protocol 'corpus', in batches of 64 queries."""
    config.evaluation.protocol = "corpus"
    config.evaluation.batch_size = 64


def tvr_corpus(config: ml_collections.ConfigDict, options: tuple[str, ...]) -> None:
    """TVR as XML's line reads and evaluates it: RoBERTa queries and subtitles, no NMS, the first 100."""
    streams(config, options)
    config.input.normalize = "resnet" in options or "i3d" in options  # resnet_i3d is two unit vectors
    config.text.vectors = ""
    config.text.features = "tvr_query_pretrained_w_sub_query.h5"
    config.text.dim = 768
    if config.model.streams == "video":
        config.text.features = "tvr_query_pretrained_w_query.h5"
    else:
        config.dataset.streams.subtitles = ("tvr_sub_pretrained_w_sub_query_max_cl-1.5.h5", 768)
    corpus(config)
    config.evaluation.select_by = "VCMR-R@1,IoU=0.7"
    config.evaluation.thresholds = (0.5, 0.7)
    config.evaluation.nms_threshold = 1.0
    config.evaluation.keep = 100
    config.patience = 10
