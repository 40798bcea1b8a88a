"""Moment-DETR."""

from cases import manual_variants
from vmr_jax.configs.moment_detr import DATASETS

SMALL = dict(features=8, heads=2, hidden=12, encoder_layers=1, decoder_layers=1, num_queries=4)
# Attention weights [T+L,T+L] have two padded axes.
PADDED_DRAWS = True


def parameters(video: int, words: int, features: int, hidden: int, queries: int) -> int:
    """Of two encoder and two decoder layers, from the shapes of the official code's tensors.

    The official checkpoint has the positions of words too, (32 + 2) * features, which are not used by default.
    """

    def linear(inputs, outputs):
        return inputs * outputs + outputs

    def norm(width):
        return 2 * width

    def projection(width):
        return norm(width) + linear(width, features) + norm(features) + linear(features, features)

    attention = 3 * linear(features, features) + linear(features, features)
    feed_forward = linear(features, hidden) + linear(hidden, features)
    encoder = attention + feed_forward + 2 * norm(features)
    decoder = 2 * attention + feed_forward + 3 * norm(features)
    heads = linear(features, 2) + 2 * linear(features, features) + linear(features, 2) + linear(features, 1)
    # Begin and end of a clip are beside its features.
    inputs = projection(video + 2) + projection(words)
    return inputs + 2 * encoder + 2 * decoder + norm(features) + queries * features + heads


def golden() -> dict[str, int]:
    counts = {"storyboard": parameters(64, 50, 64, 128, 5)}
    for arg, dataset, dim in manual_variants(DATASETS):
        counts[arg] = parameters(dim, 512 if dataset == "qvhighlights" else 300, 256, 1024, 10)
    counts["qvhighlights,clip,glove"] = parameters(512, 300, 256, 1024, 10)
    return counts
