"""SeqPAN (Zhang et al., Findings of ACL 2021).

    python launch.py --config=configs/seqpan.py
        the embedded dataset, on two CPU cores.
    python launch.py --config=configs/seqpan.py:charades_sta,i3d --config.dataset.manual_dir=DIR
        the paper's setting, with GloVe 840B; DIR as in data/charades_sta/README.md.

Paper, R@1 (%) at IoU .3/.5/.7 and mIoU, as a later one quotes it: Charades-STA fine-tuned I3D 73.84 / 60.86 /
41.34, 53.92; ActivityNet Captions (I3D, val_1: the convention vslnet) 61.65 / 45.50 / 28.37, 45.11; TACoS with
the annotations of CTRL (tall) 31.72 / 27.19 / 21.65, 25.86; from memory, with those of 2D-TAN, 48.64 / 39.64 /
28.07, 37.17. Their IoU is that with the nearest pair of clips, not with the annotation. The official code
selects on the test split; here it is the validation split.
"""

from vmr_jax.configs import common, datasets

DATASETS = datasets.DATASETS

# dataset -> rows of a video at most, which are also the words that have a position; others are ours.
_CLIPS = {"charades": 64, "activitynet": 100, "tacos": 256}


def get_config(arg=None):
    """Returns the config for `dataset[,option...]`; see DATASETS."""
    dataset, options = common.parse_arg(arg, DATASETS)
    config = common.base("seqpan")
    config.model.char_features = 100 if dataset.startswith("activitynet") else 50
    config.input.num_clips = _CLIPS.get(dataset.partition("_")[0], 128)
    config.model.max_positions = config.input.num_clips
    config.input.resample = "pad"
    config.input.normalize = False
    config.batch_size = 16
    config.optimizer.name = "bert_adam"
    config.optimizer.eps = 1e-6
    config.optimizer.weight_decay = 0.01
    config.optimizer.no_decay = r".*(bias|norm(_\d+)?/scale)"
    config.optimizer.schedule = "linear"
    config.optimizer.clip_norm = 1.0
    config.train_for = "100 epochs"
    if dataset in datasets.EMBEDDED:
        datasets.embedded(config, dataset)
        config.model.features = 64
        config.optimizer.learning_rate = 1e-3
        config.train_for = "12 epochs"
        return config
    paper = "vslnet" if dataset == "activitynet_captions" else "2d_tan"
    datasets.manual_dataset(config, dataset, options, paper=(paper,))
    config.text.vectors = "glove.840B.300d.txt"
    return config
