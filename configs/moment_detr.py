r"""Moment-DETR (Lei, Berg and Bansal, NeurIPS 2021).

    python launch.py --config=configs/moment_detr.py
        the embedded dataset, on two CPU cores.
    python launch.py --config=configs/moment_detr.py:qvhighlights --config.dataset.manual_dir=DIR \
        --config.text.features=DIR/clip_text_features
        the paper's setting; DIR as in data/qvhighlights/README.md, with the token features of the queries.

On QVHighlights, whose protocol is 'highlights', option clip takes CLIP's features alone, and option glove word
vectors instead of CLIP's tokens. Paper, test split: R@1 (%) at IoU .5/.7 52.89 / 33.02, mAP at IoU .5/.75 and
on average 54.82 / 29.40 / 30.73; pre-trained on subtitles 59.78 / 40.33, 60.51 / 35.36 / 36.14. The checkpoint
with CLIP's features that the official code ships, validation split: 53.23 / 34.00, 54.80 / 29.02 / 30.58.

Other data sets have one moment a query, no annotated saliency and, here, GloVe vectors. Charades-STA, TACoS and
ActivityNet Captions have the settings of line/lighthouse, the field's collection of such models (TACoS, not cut
there, has 256 rows); those of the others are ours. To pre-train on subtitles, bring them as jsonl.
"""

from vmr_jax.configs import common, datasets

DATASETS = {
    dataset: (*options, "glove") if dataset == "qvhighlights" else options
    for dataset, options in datasets.DATASETS.items()
}

# dataset -> (rows of a video at most, seconds to whose multiples predicted times are rounded)
_CLIPS = {
    "tacos": (256, 2.0),
    "didemo": (6, 5.0),
    "tempo": (6, 5.0),
    "tvr": (128, 0.0),
    "jsonl": (75, 0.0),
}


def get_config(arg=None):
    """Returns the config for `dataset[,option...]`; see DATASETS."""
    return settings("moment_detr", *common.parse_arg(arg, DATASETS))


def settings(architecture, dataset, options):
    """The config of an architecture that predicts moments as a set, and has the fields of Moment-DETR."""
    config = common.base(architecture)
    config.model.all_windows = dataset in ("qvhighlights", "jsonl")
    config.model.annotated_saliency = dataset == "qvhighlights"
    config.model.round_to = 0.0
    config.input.resample = "cut" if dataset == "qvhighlights" else "pad"
    config.optimizer.name = "adamw"
    config.optimizer.weight_decay = 1e-4
    config.optimizer.clip_norm = 0.1
    config.evaluation.nms_threshold = 1.0
    config.train_for = "200 epochs"
    if dataset in datasets.EMBEDDED:
        return _embedded(config, dataset, options)
    variant = datasets.manual_dataset(config, dataset, options)
    config.text.max_words = 100 if dataset == "tacos" else 32
    config.input.num_clips, config.model.round_to = _CLIPS.get(dataset, (75, 2.0))
    if dataset.startswith("charades"):
        config.model.round_to = 1.0
    if dataset.startswith("charades") or dataset == "tacos":
        config.model.saliency_weight = 4.0
        config.optimizer.learning_rate = 2e-4
        config.optimizer.schedule = "step"
        config.optimizer.decay_at = ("40 epochs", "80 epochs", "120 epochs", "160 epochs")
    if dataset == "qvhighlights":
        _qvhighlights(config, variant, options)
    return config


def _embedded(config, dataset, options):
    datasets.embedded(config, dataset)
    config.model.features = 64
    config.model.hidden = 128
    config.model.num_queries = 5
    config.model.dropout = 0.0
    config.model.input_dropout = 0.1
    config.input.num_clips = 40
    config.optimizer.learning_rate = 1e-3
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup = "1 epochs"
    config.optimizer.clip_norm = 1.0
    config.train_for = "20 epochs"
    return config


def _qvhighlights(config, variant, options):
    config.evaluation.protocol = "highlights"
    config.evaluation.select_by = "mAP"
    config.evaluate_every = "5 epochs"
    if "glove" in options:
        return
    config.text.vectors = ""
    config.text.features = "clip_text_features"
    config.text.feature_key = "last_hidden_state"
    config.text.dim = 512
