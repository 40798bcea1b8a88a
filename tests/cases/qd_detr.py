"""QD-DETR."""

from cases import manual_variants
from vmr_jax.configs.qd_detr import DATASETS

SMALL = dict(features=8, heads=2, hidden=12, encoder_layers=1, decoder_layers=1, num_queries=3)
# Attention weights [T,L] and [T,T] have two padded axes.
PADDED_DRAWS = True
# The negative query is that of the next row.
DRAWS_ROWS = True


def parameters(video: int, words: int, features: int, hidden: int, queries: int) -> int:
    """Of two layers of each kind, from the shapes of the official code's tensors.

    The official checkpoint has the positions of words too, (32 + 2) * features, which are not used by default.
    """

    def linear(inputs, outputs):
        return inputs * outputs + outputs

    def norm(width):
        return 2 * width

    def projection(width):
        return norm(width) + linear(width, features) + norm(features) + linear(features, features)

    square = linear(features, features)
    feed_forward = linear(features, hidden) + linear(hidden, features) + 1  # the slope of its activation
    encoder = 4 * square + feed_forward + 2 * norm(features)
    decoder = 12 * square + feed_forward + 3 * norm(features)
    # The first layer has a linear layer more. Perceptrons: two of two layers, one with one output at the end,
    # and one of three with two.
    shared = square + 4 * square + square + linear(features, 1) + 2 * square + linear(features, 2)
    shared += norm(features)
    heads = linear(features, 2) + 2 * square + linear(features, 2) + 2 * square
    # Begin and end of a clip are beside its features; a token and its position.
    inputs = projection(video + 2) + projection(words) + 2 * features
    return inputs + 4 * encoder + 2 * decoder + shared + queries * 2 + heads


def golden() -> dict[str, int]:
    counts = {"storyboard": parameters(64, 50, 64, 128, 5)}
    for arg, dataset, dim in manual_variants(DATASETS):
        counts[arg] = parameters(dim, 512 if dataset == "qvhighlights" else 300, 256, 1024, 10)
    # Sound is 2048 numbers a clip, and has begin and end of the clip once more.
    counts["qvhighlights,audio"] = parameters(2304 + 512 + 2048 + 2, 512, 256, 1024, 10)
    return counts
