r"""Zero-shot: moments of several lengths and the sentence, compared by a frozen image-text encoder.

    python launch.py --config=configs/zero_shot.py
        the embedded dataset: what is said is compared with the sentence; under a minute on two CPU cores.
    python launch.py --config=configs/zero_shot.py:charades_sta,clip --config.dataset.manual_dir=DIR \
        --config.text.encoder_dir=WEIGHTS
        DIR as in data/charades_sta/README.md, with CLIP ViT-B/32 features of frames; WEIGHTS is the folder of
        huggingface.co/openai/clip-vit-base-patch32. A minute or two on an accelerator.
    python launch.py --config=configs/zero_shot.py:jsonl,siglip --config.dataset.manual_dir=DIR ...
        your own data with features of SigLIP 2 (siglip2-base-patch16-224); 'clip' is the default.

It trains nothing that ranks: the 300 steps fit the scale and the bias of the probability in the report. Another
encoder of either kind: set config.dataset.feature_dim and the fields config.model.text_* to its sizes.
No paper has published numbers of it; vmr_jax/models/zero_shot.py says what it is.
"""

from vmr_jax.configs import common, datasets

_TOWERS = ("clip", "siglip")
# The datasets that have features of an image-text encoder; those of a user may be of either.
DATASETS: dict[str, tuple[str, ...]] = {
    "storyboard": (),
    **{
        name: ("clip", *datasets.CHOICES.get(name, {}).get("convention", ()))
        for name, variants in datasets.FEATURES.items()
        if "clip" in variants
    },
    "jsonl": _TOWERS,
}
LACKING = dict.fromkeys(
    datasets.DATASETS.keys() - DATASETS,
    "the sentence is compared with features of an image-text encoder, and the dataset comes with none",
)


def get_config(arg=None):
    """Returns the config for `dataset[,option...]`; see DATASETS."""
    dataset, options = common.parse_arg(arg, DATASETS, LACKING)
    config = common.base("zero_shot")
    config.train_for = "300 steps"
    config.evaluate_every = "300 steps"
    config.optimizer.learning_rate = 0.1
    config.optimizer.rules = (("probability/.*", 1.0), (".*", 0.0))
    if dataset == "storyboard":
        datasets.storyboard(config)
        config.model.text, config.model.stream = "sentence", "subtitles"
        config.model.lengths = (4, 8, 16)  # by val; what is said in two clips is noise
        config.input.num_clips, config.input.resample = 40, "pad"
        return config
    tower = common.chosen(options, _TOWERS, "encoder") or "clip"
    if common.LIBRARY not in options:  # whose features are those of the encoder
        options = tuple(option for option in options if option not in _TOWERS)
    datasets.manual_dataset(config, dataset, options if dataset == "jsonl" else (*options, "clip"))
    config.text.encoder = config.model.text = tower
    config.text.vectors, config.text.dim = "none", 1  # subwords are read in place of words
    if tower == "siglip":
        siglip(config)
    config.text.max_subwords = config.model.text_positions
    config.input.resample = "pad"  # a frame stays a frame, but in videos of more than 256
    return config


def siglip(config) -> None:
    """The sizes of SigLIP 2 base, whose space has 768 numbers."""
    config.dataset.feature_dim = 768
    config.model.text_features, config.model.text_hidden, config.model.text_heads = 768, 3072, 12
    config.model.text_vocab, config.model.text_positions = 256_000, 64
