"""L-Net."""

from cases import manual_variants
from vmr_jax.configs.l_net import DATASETS

SMALL = dict(features=8)


def size(dim: int, width: int, f: int = 256) -> int:
    """Parameters, layer by layer."""

    def linear(inputs, outputs=f, bias=True):
        return inputs * outputs + outputs * bias

    def gru(inputs, units):
        return 3 * units * (inputs + units) + 2 * 3 * units

    encoders = sum(linear(w) + 2 * gru(f, f // 2) for w in (dim, width))
    # Two projections of the query, one of the words with the bias, the score; two gates; a GRU of both sides.
    reader = 2 * linear(f, bias=False) + linear(f) + f + 2 * linear(f) + gru(2 * f, f)
    itself = linear(f) + linear(f, bias=False) + f + 2 * gru(2 * f, f // 2)
    pointer = linear(f) + f + linear(f) + linear(f, bias=False) + f + gru(f, f)
    return encoders + reader + itself + pointer


def golden() -> dict[str, int]:
    """Nothing but the first layers depends on the data."""
    counts = {"storyboard": size(64, 50, 64)}
    return counts | {arg: size(dim, 300) for arg, _, dim in manual_variants(DATASETS)}
