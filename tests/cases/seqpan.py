"""SeqPAN."""

from cases import manual_variants
from vmr_jax.configs.seqpan import DATASETS

SEED = 2
SMALL = dict(
    features=8, heads=2, conv_layers=1, conv_kernel=3, attention_layers=1, max_positions=32, char_features=5
)
# Attention weights [T,L] and the noise [T,4] have padded axes.
PADDED_DRAWS = True
# The noise over the temperature makes the probabilities of the labels steep.
TOLERANCE = 3e-6


def size(dim, width, positions, chars, features=128) -> int:
    """Parameters, layer by layer; without the table of words, with one unknown word."""
    f = features
    square = f * f + f  # a linear layer
    # 40 characters, windows of 1 to 4 of them; both linear layers have a normalisation behind them.
    embedding = width + 40 * chars + sum(10 * k * (k * chars + 1) for k in (1, 2, 3, 4))
    embedding += (width + 100 + 1) * f + (dim + 1) * f + 2 * 2 * f
    encoder = positions * f + 4 * (7 * f + square + 2 * f)
    # Ten linear layers around the heads, two pairs of which one has no bias; two more, three norms.
    parallel = 10 * square + 2 * (square + f * f) + 2 * square + 3 * 2 * f
    fused = 2 * (3 * f + 4 * f * f) + f + 2 * f * f + f
    match = 4 * f + 4 + 4 * f
    attention = 4 * square + 2 * 2 * f
    boundary = 2 * f + 2 * f * f + f + f + 1
    return embedding + 2 * encoder + 2 * parallel + fused + match + attention + 2 * boundary


def golden() -> dict[str, int]:
    """Positions are as many as clips."""
    clips = {"charades": 64, "activitynet": 100, "tacos": 256}
    counts = {"storyboard": size(64, 50, 128, 50, features=64)}
    for arg, dataset, dim in manual_variants(DATASETS):
        family = dataset.partition("_")[0]
        counts[arg] = size(dim, 300, clips.get(family, 128), 100 if family == "activitynet" else 50)
    return counts
