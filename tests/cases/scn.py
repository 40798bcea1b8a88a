"""SCN."""

from cases import manual_variants, other_width
from vmr_jax.configs.scn import DATASETS

SMALL = dict(features=8, hidden=16, heads=2, layers=1, widths=(0.25, 0.5, 1.0), rows=4, vocab_size=12)

# F = 256. A layer: 2 attentions of 4 F^2 + 4 F = 526,336; feed-forward 2 * 256 * 512 + 768 = 262,912; 3 norms
# of 2 F = 1,536. Two stacks of 3 layers.
STACKS = 6 * (526_336 + 262_912 + 1_536)
# Start and mask vector 600, words 301 F, clips 501 F, 8 scores of F + 1; completion of two words, padding and
# unknown, of F + 1: the vocabulary needs the data.
ACTIVITYNET = STACKS + 600 + 301 * 256 + 501 * 256 + 10 * 257


def golden() -> dict[str, int]:
    """Only the clips' layer depends on the features."""
    # The same sums.
    layer = 2 * (4 * 64**2 + 4 * 64) + 2 * 64 * 128 + 192 + 3 * 128
    counts = {"storyboard": 4 * layer + 100 + 51 * 64 + 65 * 64 + 6 * 65}
    for arg, _, dim in manual_variants(DATASETS):
        counts[arg] = other_width(ACTIVITYNET, 500, dim, 256)
    return counts
