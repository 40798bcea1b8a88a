"""MMN (Wang et al., AAAI 2022).

    python launch.py --config=configs/mmn.py
        the embedded dataset, with word vectors: about four minutes on two CPU cores.
    python launch.py --config=configs/mmn.py:charades_sta,vgg --config.dataset.manual_dir=DIR
        the official setting; DIR as in data/charades_sta/README.md. Needs an accelerator, and DistilBERT:
        config.text.encoder_dir is the folder of huggingface.co/distilbert/distilbert-base-uncased.
    python launch.py --config=configs/mmn.py:charades_sta,vgg,glove --config.dataset.manual_dir=DIR
        word vectors and an LSTM in the place of DistilBERT (ours).
    python launch.py --config=configs/mmn.py:storyboard,vdi
        trained with VDI's two injections (vmr_jax/layers/injection.py). Manual datasets take the option too,
        such as charades_sta,clip,vdi, with patches of the frames as configs/vdi.py says.
    python launch.py --config=configs/mmn.py:jsonl --config.dataset.manual_dir=DIR ...
        your own data; see data/jsonl/README.md. The other datasets of DATASETS work in the same way.

A batch is 48 videos (TACoS: 4) with up to S of their queries each; the official code takes all of them. Paper,
R@1 / R@5 (%): Charades-STA VGG, IoU .5 47.31 / 83.74, IoU .7 27.28 / 58.41. ActivityNet Captions C3D, IoU .5
48.59 / 79.50, IoU .7 29.26 / 64.76. With CLIP ViT-B/32, as the VDI paper reports: Charades-STA 50.48 / 85.27,
29.65 / 60.67; ActivityNet Captions 46.89 / 78.32, 27.26 / 63.47. The official code selects on the test split;
here it is the validation split.
"""

from vmr_jax.configs import common, datasets

_OPTIONS = {"storyboard": ("vdi",), "films": ()}
DATASETS = {
    dataset: (*options, *_OPTIONS.get(dataset, ("glove", "vdi")))
    for dataset, options in datasets.DATASETS.items()
}

# Fields of the official configs. S, queries per video: Charades-STA has 2.3 on average, ActivityNet Captions
# 3.7, TACoS 130; a video with more comes in several groups.
_CHARADES = {
    "model": {},
    "learning_rate": 1e-4,
    "decay_at": ("8 epochs", "13 epochs"),
    "train_for": "18 epochs",
    "frozen": 4,  # first epochs, of DistilBERT
    "videos": 48,
    "queries_per_video": 4,
    "nms": 0.5,
}
_ACTIVITYNET = {
    "model": {"map_kernel": 9, "map_layers": 4, "margin": 0.3, "contrast_weight": 0.1, "contrast_epochs": 6},
    "learning_rate": 8e-4,
    "decay_at": ("7 epochs", "15 epochs"),
    "train_for": "18 epochs",
    "frozen": 4,
    "videos": 48,
    "queries_per_video": 4,
    "nms": 0.5,
}
_TACOS = {
    "model": {
        "iou_low": 0.3,
        "iou_high": 0.7,
        "positives": 3,
        "margin": 0.1,
        "contrast_weight": 0.1,
        "contrast_epochs": 100,
        "score_power": 0.3,
    },
    "learning_rate": 1.5e-3,
    "decay_at": ("130 epochs", "190 epochs"),
    "train_for": "250 epochs",
    "frozen": 40,
    "videos": 4,
    "queries_per_video": 128,
    "nms": 0.4,
}
_SETTINGS = {
    "activitynet_captions": _ACTIVITYNET,
    "activitynet_cd": _ACTIVITYNET,
    "activitynet_cg": _ACTIVITYNET,
    "tacos": _TACOS,
}  # the others as Charades-STA


def get_config(arg=None):
    """Returns the config for `dataset[,option...]`; see DATASETS."""
    dataset, options = common.parse_arg(arg, DATASETS)
    setting = _SETTINGS.get(dataset, _CHARADES)
    config = common.base("mmn")
    config.model.text = "glove" if "glove" in options or dataset in datasets.EMBEDDED else "distilbert"
    config.model.update(setting["model"])
    config.model.queries_per_video = config.input.queries_per_video = setting["queries_per_video"]
    config.batch_size = setting["videos"] * setting["queries_per_video"]
    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = setting["learning_rate"]
    config.optimizer.b2 = 0.99
    config.optimizer.weight_decay = 1e-5
    config.optimizer.clip_norm = 5.0
    config.optimizer.schedule = "step"
    config.optimizer.decay_at = setting["decay_at"]
    config.train_for = setting["train_for"]
    if dataset in datasets.EMBEDDED:
        datasets.embedded(config, dataset)
        config.model.features = config.model.text_features = config.model.space = 64
        config.model.map_kernel = 3
        config.model.map_layers = 4
        config.batch_size = 64
        config.optimizer.learning_rate = 1e-3
        config.optimizer.decay_at = ("9 epochs",)
        config.train_for = "12 epochs"
        if "vdi" in options:
            datasets.injections(config)
        return config
    if config.model.text == "distilbert":
        frozen = f"from {setting['frozen']} epochs"
        config.optimizer.rules = (("text_encoder/.*", 0.1, frozen), (".*", 1.0))
        config.text.encoder = "distilbert"
        config.text.max_subwords = 64
    datasets.manual_dataset(config, dataset, options)
    datasets.map_size(config)
    if dataset.startswith("charades"):
        config.input.num_clips = 32
    if "vdi" in options:
        datasets.injections(config)
    if config.evaluation.protocol != "consensus":  # which ranks all segments
        config.evaluation.nms_threshold = setting["nms"]
    return config
