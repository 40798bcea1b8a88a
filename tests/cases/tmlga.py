"""TMLGA."""

from cases import manual_variants
from vmr_jax.configs.tmlga import DATASETS

# With biases, as else the attention leaves so little of the clips that dropout hardly moves the loss.
SMALL = dict(features=6, recurrent_features=4, use_bias=True)
# What the GRU passes to its second layer [T,2E] has a padded axis.
PADDED_DRAWS = True


def size(dim, width, features=512, recurrent=256) -> int:
    """Parameters, layer by layer; the GRUs have no biases."""

    def gru(inputs):
        return 2 * 3 * recurrent * (inputs + recurrent)  # two directions, three gates

    both = 2 * recurrent
    layers = gru(width) + gru(features) + gru(both)
    return layers + both * features + features + dim * features + features + 2 * (both + 1)


def golden() -> dict[str, int]:
    """The official program has 1,538 more, in two layers that it does not use."""
    counts = {"storyboard": size(64, 50, features=128, recurrent=64)}
    return counts | {arg: size(dim, 300) for arg, _, dim in manual_variants(DATASETS)}
