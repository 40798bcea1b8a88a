"""VSLNet."""

from cases import manual_variants, other_width
from vmr_jax.configs.vslnet import DATASETS

SEED = 10
SMALL = dict(
    features=8, heads=2, conv_layers=1, conv_kernel=3, max_positions=32, char_features=5, highlight_weight=1.0
)
# Attention weights [T,L] have two padded axes.
PADDED_DRAWS = True

# Charades-STA I3D: the official code has 786,271 with a table of 10 GloVe vectors and one for padding.
CHARADES = 786_271 - (10 + 1) * 300
# Characters are 100-d on ActivityNet Captions, not 50-d: 40 of them, and 10, 20, 30, 40 kernels of 1 to 4.
MORE_CHARS = 50 * (40 + 10 * 1 + 20 * 2 + 30 * 3 + 40 * 4)


def golden() -> dict[str, int]:
    """Only the first layer, of 128 outputs, depends on the features."""
    counts = {"storyboard": 183_233}
    for arg, dataset, dim in manual_variants(DATASETS):
        chars = MORE_CHARS if dataset.startswith("activitynet") else 0
        counts[arg] = other_width(CHARADES, 1024, dim, 128) + chars
    return counts
