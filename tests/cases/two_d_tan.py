"""2D-TAN."""

from cases import manual_variants, other_width
from cases.vdi import injections
from vmr_jax.configs.two_d_tan import DATASETS

SMALL = dict(num_clips=8, scale_layers=(8,), features=8, lstm_layers=1, map_kernel=3, map_layers=2)
OPTIONS = {
    "injections": dict(context="static", dynamics="transformer", plugin_heads=2, plugin_hidden=8),
}

# The official code's: Charades-STA VGG (4096-d clips, kernel 5), ActivityNet Captions C3D (500-d, kernel 9).
CHARADES_POOL, CHARADES_CONV = 60_925_953, 69_060_609
ACTIVITYNET_POOL, ACTIVITYNET_CONV = 91_588_609, 108_644_353


def golden() -> dict[str, int]:
    """Only the first layer, of 512 outputs, depends on the features; a pooled map has no weights."""
    counts = {"storyboard": 189_953, "storyboard,vdi": 189_953 + injections(64, 64, 4, 32, 128)}
    for arg, dataset, dim in manual_variants(DATASETS):
        if dataset.startswith("activitynet"):
            counts[arg] = other_width(ACTIVITYNET_POOL, 500, dim, 512)
        else:
            counts[arg] = other_width(CHARADES_POOL, 4096, dim, 512)
    counts["charades_sta,vgg,conv"] = CHARADES_CONV
    counts["activitynet_captions,c3d,conv"] = ACTIVITYNET_CONV
    return counts
