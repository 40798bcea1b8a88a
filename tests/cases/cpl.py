"""CPL."""

from cases import manual_variants
from vmr_jax.configs.cpl import DATASETS

SMALL = dict(features=8, hidden=16, heads=2, layers=1, proposals=2, rows=4, vocab_size=12)

# As SCN, with 2 K instead of 8 outputs of the layer that places the moments, and a vector of D numbers.
STACKS = 6 * (526_336 + 262_912 + 1_536)
WITHOUT_CLIPS = STACKS + 600 + 301 * 256 + 18 * 257


def golden() -> dict[str, int]:
    """Only the clips' layer and the vector behind the clips depend on the features."""
    layer = 2 * (4 * 64**2 + 4 * 64) + 2 * 64 * 128 + 192 + 3 * 128
    counts = {"storyboard": 4 * layer + 100 + 51 * 64 + 65 * 64 + 64 + 10 * 65}
    for arg, _, dim in manual_variants(DATASETS):
        counts[arg] = WITHOUT_CLIPS + (dim + 1) * 256 + dim
    return counts
