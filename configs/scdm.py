"""SCDM (Yuan et al., NeurIPS 2019).

    python launch.py --config=configs/scdm.py
        the embedded dataset, on two CPU cores.
    python launch.py --config=configs/scdm.py:charades_sta,i3d --config.dataset.manual_dir=DIR
        the paper's setting, with GloVe 840B; DIR as in data/charades_sta/README.md.

Paper, R@1 and R@5 (%): Charades-STA I3D, IoU .5/.7: 54.44 / 33.43 and 74.43 / 58.08; TACoS C3D, IoU .3/.5:
26.11 / 21.17 and 40.16 / 32.18; ActivityNet Captions C3D (val_1 and val_2 together: option lgi), IoU .3/.5/.7:
54.80 / 36.75 / 19.86 and 77.29 / 64.99 / 41.53. The official code reports the best epoch on the test split;
here the checkpoint is chosen on the validation split.

DiDeMo and TEMPO are left out: six chunks cannot be halved into layers of anchors.
"""

from vmr_jax.configs import common, datasets

LACKING = dict.fromkeys(("didemo", "tempo"), "its six chunks cannot be halved into SCDM's layers of anchors")
DATASETS = {dataset: options for dataset, options in datasets.DATASETS.items() if dataset not in LACKING}

# dataset -> slots T, anchor layers. The first two rows are the official ones; the others are ours.
_SLOTS = {
    "charades": (64, 5),
    "tacos": (1024, 5),
    "activitynet": (1024, 7),
    "tvr": (128, 5),
    "qvhighlights": (128, 5),
    "jsonl": (256, 6),
}


def get_config(arg=None):
    """Returns the config for `dataset[,option...]`; see DATASETS."""
    dataset, options = common.parse_arg(arg, DATASETS, LACKING)
    config = common.base("scdm")
    config.input.resample = "pad"
    config.input.normalize = False
    config.text.trainable = True
    config.batch_size = 16
    config.optimizer.name = "tf_adam"
    config.optimizer.clip_value = 1.0
    config.optimizer.l2 = 1e-3
    config.train_for = "200 epochs"
    if dataset in datasets.EMBEDDED:
        datasets.embedded(config, dataset)
        config.model.features = 128
        config.model.layers = 4
        config.model.overlap_weights = (2.0, 1.0, 1.0)
        config.model.centre_weight = config.model.width_weight = 0.1
        config.text.trainable = False
        config.optimizer.name = "adam"
        config.optimizer.learning_rate = 3e-3
        config.optimizer.schedule = "cosine"
        config.optimizer.l2 = 0.0
        config.evaluate_every = "2 epochs"
        config.train_for = "16 epochs"
        return config
    datasets.manual_dataset(config, dataset, options, paper=("tall", "lgi"))
    config.text.vectors = "glove.840B.300d.txt"
    config.text.tokenizer = "no_punctuation"
    config.text.max_words = 15 if dataset.startswith("charades") else 35
    family = next(name for name in _SLOTS if dataset.startswith(name))
    config.input.num_clips, config.model.layers = _SLOTS[family]
    config.model.kernel = 3 if family == "charades" else 5
    config.model.sentence_blocks = 2 if family in ("activitynet", "tacos") else 0
    config.evaluation.nms_threshold = {"charades": 0.7, "activitynet": 0.55}.get(family, 0.5)
    if family == "tacos":
        config.model.negative_iou, config.model.hard_logit = 0.5, 0.1
        config.model.least_width, config.model.most_width = 1.0, 64.0
        config.model.whole_slots = True
        config.model.centre_weight = config.model.width_weight = 10.0
        config.train_for = "300 epochs"
    if family == "activitynet":
        config.model.least_width = 1.0
        config.model.centre_weight = config.model.width_weight = 1.0
        config.optimizer.l2 = 1e-4
        config.train_for = "250 epochs"
    return config
