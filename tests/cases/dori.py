"""DORi."""

from cases import manual_variants
from vmr_jax.configs.dori import DATASETS

SMALL = dict(features=6, recurrent_features=4, key_features=3, iterations=1)
# What the GRU passes to its second layer [T,2E] has a padded axis.
PADDED_DRAWS = True


def linear(inputs, outputs) -> int:
    """Weights and biases of a layer."""
    return (inputs + 1) * outputs


def size(dim, width, regions=2048, features=512, recurrent=256, keys=256) -> int:
    """Parameters, layer by layer; the GRU over the words has two biases a gate, the other none."""

    def gru(inputs):
        return 2 * 3 * recurrent * (inputs + recurrent)  # two directions, three gates

    both = 2 * recurrent
    query = gru(width) + 2 * 3 * 2 * recurrent + 3 * (linear(both, keys) + linear(width, keys))
    nodes = linear(dim, features) + 2 * linear(regions, features)
    messages = 3 * (linear(both + features, features) + linear(2 * features, features))
    graph = nodes + messages + 3 * linear(features, features)
    return query + graph + linear(features, 1) + gru(features) + gru(both) + 2 * linear(both, 1)


def golden() -> dict[str, int]:
    """The official program has 462,336 more, in three layers that it does not use."""
    counts = {"storyboard": size(64, 50, regions=32, features=64, recurrent=32, keys=32)}
    return counts | {arg: size(dim, 300) for arg, _, dim in manual_variants(DATASETS)}
