"""WSSL."""

from cases import manual_variants
from vmr_jax.configs.wssl import DATASETS

SEED = 1
SMALL = dict(features=4, embedding=4, layers=1, caption_words=1, beams=1, dropout=0.5, vocab_size=12)


def network(dim: int, features: int, words: int, embedding: int) -> int:
    """As the official modules: each a GRU of two layers over the video, and its residual; the localizer's text
    GRU, attentions, norms, mixer and heads; the generator's decoder and output; and two tables of words.
    """
    f = features

    def gru(inputs):
        return 3 * f * (inputs + f + 2) + 3 * f * (2 * f + 2)

    video = gru(dim) + dim * f
    mixer = 2 * f * 2 * f + 4 * f + 2 * f * f + f + 2 * 9 * f * f + 4 * 3 * f
    localizer = video + gru(embedding) + mixer + (3 * f + 1) * 15 + (3 * f + 1) * 30
    generator = video + gru(embedding + 3 * f) + (f + 1) * words
    return localizer + generator + 2 * words * embedding


def golden() -> dict[str, int]:
    """Of padding, unknown and start alone: the vocabulary needs the data."""
    counts = {"storyboard": network(64, 64, 3, 64)}
    return counts | {arg: network(dim, 512, 3, 512) for arg, _, dim in manual_variants(DATASETS)}
