"""ACRM."""

from cases import manual_variants
from vmr_jax.configs.acrm import DATASETS

SMALL = dict(features=6, recurrent_features=3, head_features=4, dropout=0.0)


def size(dim: int, width: int, query_bias: bool = True, features: int = 512, units: int = 256) -> int:
    """Parameters, layer by layer, of two directions and four gates each; heads are E wide."""

    def lstm(inputs, biased):
        return 2 * 4 * units * (inputs + units + 2 * biased)

    both = 2 * units
    attention = both * both + (features + 1) * both + both
    layers = 2 * (both + 1) * features + attention
    heads = 3 * ((both + 1) * units + units + 1)
    return lstm(dim, True) + lstm(width, query_bias) + lstm(features, False) + layers + heads


# The official state_dict of Charades-STA has 6,784,518 numbers. Left out are two layers that it does not use,
# 1025 + 513, and two biases of its attention, 512 beside the clips' and one that all words share.
assert size(1024, 300, False) == 6_784_518 - 1025 - 513 - 512 - 1


def golden() -> dict[str, int]:
    counts = {"storyboard": size(64, 50, features=128, units=64)}
    for arg, dataset, dim in manual_variants(DATASETS):
        counts[arg] = size(dim, 300, not dataset.startswith("charades"))
    return counts
