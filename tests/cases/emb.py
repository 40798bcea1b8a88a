"""EMB."""

from cases import manual_variants
from vmr_jax.configs.emb import DATASETS

SMALL = dict(features=8, heads=2, block=4, guide_kernel=3, highlight_weight=1.0)
# Attention weights [M,L] and guides [T,F] have padded axes.
PADDED_DRAWS = True


def size(dim, width, features=128) -> int:
    """Parameters, layer by layer; without the table of words, with one unknown word."""
    f = features
    square = f * f + f  # a linear layer
    embedding = width + (width + 1) * f + (dim + 1) * f
    layer = 5 * square + 4 * f  # query, key, value and two linear layers; two normalisations
    guided = [3 * k * f + square + 2 * f for k in (7, 7, 7, 1, 1, 1)]  # over three steps, then as above
    encoder = 11 * layer + sum(guided)
    fuser = 3 * f + (4 * f * f + f) + f + (2 * f * f + f)
    logit = f + 1
    # Two directions of four gates with two biases, a linear layer of both; two layers over states and clips.
    boundary = 2 * 4 * f * (f + f + 2) + (2 * f * f + f) + (2 * f * f + f) + logit
    ranker = 9 * f * f + f + logit
    return embedding + encoder + 2 * fuser + logit + 2 * boundary + ranker


def golden() -> dict[str, int]:
    """Only the first layer of the clips depends on the dataset."""
    counts = {"storyboard": size(64, 50, features=64)}
    return counts | {arg: size(dim, 300) for arg, _, dim in manual_variants(DATASETS)}
