"""TGA."""

from cases import manual_variants
from vmr_jax.configs.tga import DATASETS

SMALL = dict(features=6, window_rows=(4, 8), margin=0.5)


def count(dim: int, words: int, features: int) -> int:
    """Three vectors of words, a GRU with two biases, a layer on the windows and one on their sum."""
    return 3 * words + 3 * features * (words + features + 2) + features * (dim + 1) + features * (features + 1)


def golden() -> dict[str, int]:
    """Word vectors are counted without the vocabulary, whose size is the dataset's."""
    counts = {"storyboard": count(64, 50, 128)}
    for arg, _, dim in manual_variants(DATASETS):
        counts[arg] = count(dim, 300, 1024)
    return counts
