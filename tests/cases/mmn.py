"""MMN."""

from cases import manual_variants, other_width
from cases.vdi import injections
from vmr_jax.configs.mmn import DATASETS

SEED = 2
SMALL = dict(
    num_clips=4,
    scale_layers=(4,),
    features=8,
    space=6,
    map_kernel=3,
    map_layers=1,
    text="glove",
    text_features=8,
    temperature=0.5,
    contrast_weight=0.2,
)
OPTIONS = {
    "injections": dict(context="static", dynamics="transformer", plugin_heads=2, plugin_hidden=8),
}

_HEADS = 2 * (512 * 256 + 256)  # of the map
_SENTENCE = 2 * 768 + 2 * (768 * 256 + 256)  # layer norm and both heads
# distilbert-base-uncased without its heads: subwords and positions, norm, six layers of four 768 x 768, two
# 768 x 3072 and two norms.
_LAYER = 4 * (768 * 768 + 768) + (768 * 3072 + 3072) + (3072 * 768 + 768) + 2 * 2 * 768
DISTILBERT = (30522 + 512) * 768 + 2 * 768 + 6 * _LAYER  # 66,362,880, as Hugging Face counts
_LSTM = 2 * 4 * 384 * (300 + 384 + 2)  # 'glove': two directions of 384 units over 300-d words


def _map(kernel, layers):
    """Convolutions 512 -> 512 with bias, and a scale and a bias of their norm."""
    return layers * (kernel * kernel * 512 * 512 + 3 * 512)


CHARADES = 4096 * 512 + 512 + _map(5, 8) + _HEADS + _SENTENCE + DISTILBERT
ACTIVITYNET = 500 * 512 + 512 + _map(9, 4) + _HEADS + _SENTENCE + DISTILBERT


def golden() -> dict[str, int]:
    """Only the first layer, of 512 outputs, depends on the features; a pooled map has no weights."""
    # Clips 64 * 64 + 64; four 3 x 3 convolutions of 64 with bias and norm; four heads 64 * 64 + 64; LSTM of two
    # directions of 32 over 50-d words; layer norm.
    storyboard = 4160 + 4 * (9 * 4096 + 3 * 64) + 4 * 4160 + 2 * 4 * 32 * (50 + 32 + 2) + 2 * 64
    counts = {"storyboard": storyboard, "storyboard,vdi": storyboard + injections(64, 64, 4, 32, 128)}
    for arg, dataset, dim in manual_variants(DATASETS):
        if dataset.startswith("activitynet"):
            counts[arg] = other_width(ACTIVITYNET, 500, dim, 512)
        else:
            counts[arg] = other_width(CHARADES, 4096, dim, 512)
    counts["charades_sta,vgg,glove"] = CHARADES - DISTILBERT + _LSTM
    counts["charades_sta,vgg,vdi"] = CHARADES + injections(4096, 768, 49, 512, 2048)
    return counts
