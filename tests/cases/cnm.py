"""CNM."""

from cases import manual_variants, other_width
from vmr_jax.configs.cnm import DATASETS

SMALL = dict(features=8, hidden=16, heads=2, layers=1, rows=4, vocab_size=12)

# As SCN, with 2 instead of 8 outputs of the layer that places the moment.
STACKS = 6 * (526_336 + 262_912 + 1_536)
ACTIVITYNET = STACKS + 600 + 301 * 256 + 501 * 256 + 4 * 257


def golden() -> dict[str, int]:
    """Only the clips' layer depends on the features."""
    layer = 2 * (4 * 64**2 + 4 * 64) + 2 * 64 * 128 + 192 + 3 * 128
    counts = {"storyboard": 4 * layer + 100 + 51 * 64 + 65 * 64 + 4 * 65}
    for arg, _, dim in manual_variants(DATASETS):
        counts[arg] = other_width(ACTIVITYNET, 500, dim, 256)
    return counts
