"""CTRL (Gao et al., ICCV 2017).

    python launch.py --config=configs/ctrl.py
        the embedded dataset: about two minutes on two CPU cores.
    python launch.py --config=configs/ctrl.py:tacos,skip_thoughts --config.dataset.manual_dir=DIR
            --config.text.sentence_features=FILE
        the paper's setting; DIR as in data/tacos/README.md, FILE with a 4800-d vector by query id, which no
        dataset brings. Without skip_thoughts an LSTM reads the words. Needs an accelerator.

Options aln (no regression) and reg_p (relative offsets) are the paper's other two. Paper, TACoS C3D, R@1 / R@5:
IoU .1 24.32 / 48.73, .3 18.32 / 36.69, .5 13.30 / 25.42. Charades-STA C3D, annotations of ICCV 2017: IoU .5
23.63 / 58.92, .7 8.89 / 29.52; annotations cleaned since (official README): aln 17.69 / 55.54, 5.91 / 23.79;
reg_p 19.22 / 57.98, 6.64 / 25.22; offsets 21.42 / 59.11, 7.15 / 26.91.

TACoS is the version tall unless another one is named. Windows are in clips. Where the paper has a setting
(TACoS, Charades-STA), every video has so many clips that one of mean length has clips of about 16 frames; the
other datasets' windows are ours.
"""

from vmr_jax.configs import common, datasets

_VARIANTS = {"aln": "none", "reg_p": "p"}
_SEGMENTS = ("didemo", "tempo")  # the segments are the moments: no regression
DATASETS = {
    dataset: (
        *options,
        *(() if dataset in _SEGMENTS else _VARIANTS),
        *(() if dataset in datasets.EMBEDDED else ("skip_thoughts",)),
    )
    for dataset, options in datasets.DATASETS.items()
}

_FRAMES = ((4, 8, 16, 32), (0.75, 1.5625, 3.1875, 6.375), (8, 16), 8)  # 64 ... 512 frames; 128, 256 at test


def _fifths(*lengths, context=8):
    """Windows of `lengths` that overlap by 80%, all of them at test."""
    return lengths, tuple(length / 5 for length in lengths), lengths, context


# At test without the shortest, as in the paper: one within the moment scores as high as a better one.
EMBEDDED_WINDOWS = ((2, 3, 4, 6, 8, 12), (1,) * 6, (4, 6, 8, 12), 4)
_CHUNKS = ((1, 2, 3, 4, 5, 6), (1,) * 6, (1, 2, 3, 4, 5, 6), 1)  # the 21 segments of six chunks

# dataset -> (clips, (lengths, strides, lengths at test, context))
WINDOWS = {
    "charades_sta": (64, _FRAMES),
    "charades_cd": (64, _FRAMES),
    "charades_cg": (64, _FRAMES),
    "tacos": (512, _FRAMES),
    "activitynet_captions": (128, _fifths(8, 16, 32, 64, 128)),
    "activitynet_cd": (128, _fifths(8, 16, 32, 64, 128)),
    "activitynet_cg": (128, _fifths(8, 16, 32, 64, 128)),
    "tvr": (128, _fifths(4, 8, 16, 32)),
    "qvhighlights": (75, _fifths(4, 8, 16, 32, 64)),
    "didemo": (6, _CHUNKS),
    "tempo": (6, _CHUNKS),
    "jsonl": (64, _fifths(4, 8, 16, 32, 64)),
}


def get_config(arg=None):
    """Returns the config for `dataset[,option...]`; see DATASETS."""
    dataset, options = common.parse_arg(arg, DATASETS)
    config = common.base("ctrl")
    config.model.regression = _VARIANTS.get(common.chosen(options, _VARIANTS, "regression"), "np")
    config.model.text = "sentence" if "skip_thoughts" in options else "lstm"  # or 'mean'
    config.input.normalize = False
    config.batch_size = 56
    config.optimizer.name = "tf_adam"
    config.optimizer.learning_rate = 5e-3
    config.train_for = "20000 steps"
    config.evaluation.nms_margin = 0.05
    if dataset in datasets.EMBEDDED:
        datasets.embedded(config, dataset)
        set_windows(config, EMBEDDED_WINDOWS)
        config.model.text = "sentence"
        config.model.features = config.model.hidden = 128
        config.optimizer.name = "adam"
        config.train_for = "15 epochs"
        return config
    if dataset in _SEGMENTS:
        config.model.regression = "none"
        config.evaluation.nms_margin = 0.0
    datasets.manual_dataset(config, dataset, options, paper=("tall",))
    if "skip_thoughts" in options:
        config.text.sentence_features = "skip_thoughts.h5"
        config.text.sentence_dim = 4800
    config.input.num_clips, windows = WINDOWS[dataset]
    set_windows(config, windows)
    if dataset == "tacos":
        config.evaluation.batch_size = 8  # 479 windows of 3 x 4096 numbers a video
    return config


def set_windows(config, windows):
    """Sets windows (lengths, strides, lengths at test, context), in clips."""
    model = config.model
    model.lengths, model.strides, model.test_lengths, model.context = windows
