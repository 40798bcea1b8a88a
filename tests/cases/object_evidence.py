"""Object evidence."""

from cases import manual_variants
from vmr_jax.configs.object_evidence import DATASETS

# Of two clips or more; the moments of `random_batch` are up to 16 clips long, some have no window.
SMALL = dict(
    lengths=(2, 4, 8),
    strides=(1, 1.5, 2),
    test_lengths=(4, 8),
    context=4,
    features=8,
    action_features=6,
    hidden=8,
)


def count(dim, captions, concepts, sentence, words, features, actions, hidden) -> int:
    """Four projections, and a network with one hidden layer over both kinds of pairs."""
    seen = (3 * (dim + captions) + 1) * features + (concepts + 1) * actions
    said = (sentence + 1) * features + (2 * words + 1) * actions
    return seen + said + (4 * (features + actions) + 1) * hidden + (hidden + 1) * 3


# As the official program prints them.
OFFICIAL = 25_308_451
assert count(4096, 2048, 550, 768, 300, 1024, 300, 1000) == OFFICIAL


def golden() -> dict[str, int]:
    """Storyboard has 18 classes of things, 13 actions and captions of 32 numbers."""
    counts = {"storyboard": count(64, 32, 31, 32, 50, 128, 64, 128)}
    official = (2048, 550, 768, 300, 1024, 300, 1000)
    return counts | {arg: count(dim, *official) for arg, _, dim in manual_variants(DATASETS)}
