"""VSLNet-L."""

from cases import manual_variants, other_width, vslnet
from vmr_jax.configs.vslnet_l import DATASETS

SEED = 47
SMALL = dict(
    features=8, heads=2, conv_layers=1, conv_kernel=3, max_positions=32, scales=(2, 3), char_features=5,
    highlight_weight=1.0,
)  # fmt: skip
# Attention weights [T,L] have two padded axes.
PADDED_DRAWS = True

# VSLNet's on Charades-STA I3D, with 512 positions for 128, the nil prediction (a weight, a linear layer), and
# in place of two LSTMs (four gates of 128 x 256, two biases) an encoder like the other and two normalisations.
ENCODER = 512 * 128 + 4 * (7 * 128 + 128 * 128 + 128 + 2 * 128) + 4 * (128 * 128 + 128) + 2 * 2 * 128
CHARADES = vslnet.CHARADES + 384 * 128 + 128 + 129 - 2 * 4 * 128 * (256 + 2) + ENCODER + 2 * 2 * 128


def golden() -> dict[str, int]:
    """Only the first layer, of 128 outputs, depends on the features."""
    counts = {"storyboard": 210_242}
    for arg, dataset, dim in manual_variants(DATASETS):
        chars = vslnet.MORE_CHARS if dataset.startswith("activitynet") else 0
        counts[arg] = other_width(CHARADES, 1024, dim, 128) + chars
    return counts
