"""VDI (Luo et al., CVPR 2023): MMN whose text encoder is CLIP's, trained with visual-dynamic injection.

    python launch.py --config=configs/vdi.py
        the embedded dataset, with word vectors: under ten minutes on two CPU cores.
    python launch.py --config=configs/vdi.py:charades_sta,clip --config.dataset.manual_dir=DIR
        the paper's setting; DIR as in data/charades_sta/README.md. Needs an accelerator, CLIP ViT-B/32 features
        of frames and of their patches (config.dataset.streams.objects: 49 x 512 a frame), and CLIP's text
        encoder: config.text.encoder_dir is the folder of huggingface.co/openai/clip-vit-base-patch32.
    python launch.py --config=configs/vdi.py:charades_cg,clip,context --config.dataset.manual_dir=DIR
        without L_sd, so without patches; 'baseline' is without both injections, 'dynamics' without L_vc.
    python launch.py --config=configs/vdi.py:charades_sta,clip,glove --config.dataset.manual_dir=DIR
        word vectors and an LSTM in the place of CLIP's text encoder (ours).

The rest of table 3: --config.model.context=query or video (L_vc with Q, and without a query), and
--config.model.dynamics=lstm; figure 3: --config.model.test_query=static or dynamic.

Paper, R@1 / R@5 (%): Charades-STA, IoU .5 52.32 / 87.03, IoU .7 31.37 / 62.30. ActivityNet Captions, IoU .5
48.09 / 79.69, IoU .7 28.76 / 64.88. Novel words, R@1 at IoU .5, .7, and mIoU: Charades-CG 46.47, 28.63, 41.60;
ActivityNet-CG 32.35, 16.02, 34.32. A hit is an IoU larger than m.
No official code exists; vmr_jax/models/vdi.py says which choices are ours.
"""

from vmr_jax.configs import common, datasets

_INJECTIONS = {
    "baseline": ("off", "off"),
    "context": ("static", "off"),
    "dynamics": ("off", "transformer"),
}  # option -> context, dynamics
DATASETS = {
    dataset: (*options, *_INJECTIONS, *(() if dataset in datasets.EMBEDDED else ("glove",)))
    for dataset, options in datasets.DATASETS.items()
}

# Kernel and number of the map convolutions, margin, lambda_cl and learning rate.
_ACTIVITYNET = (9, 4, 0.3, 0.1, 8e-4)
_CHARADES = (5, 8, 0.4, 0.05, 1e-4)  # also of datasets that the paper does not have


def get_config(arg=None):
    """Returns the config for `dataset[,option...]`; see DATASETS."""
    dataset, options = common.parse_arg(arg, DATASETS)
    injection = common.chosen(options, _INJECTIONS, "injection")
    setting = _ACTIVITYNET if dataset.startswith("activitynet") else _CHARADES
    config = common.base("vdi")
    model = config.model
    model.map_kernel, model.map_layers, model.margin, model.contrast_weight, rate = setting
    config.model.text = "glove" if "glove" in options or dataset in datasets.EMBEDDED else "clip"
    config.model.context, config.model.dynamics = _INJECTIONS.get(injection, ("static", "transformer"))
    config.batch_size = 48
    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = rate
    config.optimizer.b2 = 0.99
    config.optimizer.weight_decay = 1e-5
    config.optimizer.clip_norm = 5.0
    config.evaluation.strict = True  # "larger than", Section 4.1.2
    config.train_for = "18 epochs"
    config.patience = 3
    if dataset in datasets.EMBEDDED:
        datasets.embedded(config, dataset)
        config.model.features = config.model.space = config.model.text_features = 64
        config.model.map_kernel = 3
        config.model.map_layers = 4
        config.model.plugin_hidden = 128
        config.model.queries_per_video = config.input.queries_per_video = 4  # four times fewer maps
        config.batch_size = 64
        config.optimizer.learning_rate = 1e-3
        config.optimizer.schedule = "step"
        config.optimizer.decay_at = ("9 epochs",)
        config.train_for = "12 epochs"
        config.patience = 0
        return config
    if config.model.text == "clip":
        config.optimizer.rules = (("text_encoder/.*", 0.1), (".*", 1.0))
        config.text.encoder = "clip"
        config.text.max_subwords = 77
    variants = datasets.FEATURES[dataset]
    if "clip" in variants and not any(option in variants for option in options):
        options = (*options, "clip")
    datasets.manual_dataset(config, dataset, options)
    datasets.map_size(config)
    if dataset.startswith("charades"):
        config.input.num_clips = 32
    if config.model.dynamics != "off":
        config.dataset.streams.objects = datasets.PATCHES
    return config
