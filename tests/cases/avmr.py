"""AVMR."""

from cases import manual_variants
from vmr_jax.configs.avmr import DATASETS

SMALL = dict(actor_hidden=(5,), critic_hidden=(6, 4), features=4, hidden=(5,), horizon=3)


def layers(*widths: int) -> int:
    """Linear layers with biases from each width to the next."""
    return sum((into + 1) * out for into, out in zip(widths, widths[1:]))


def agent(state: int, actions=6, actor=(500, 128), critic=(1024, 512, 300)) -> int:
    """Actor and critic, whose second layer reads the action vector too."""
    first, *later = critic
    return layers(state, *actor, actions) + layers(state, first) + layers(first + actions, *later, 1)


def discriminator(dim: int, sentence: int, space=1024, hidden=(1000, 100)) -> int:
    return (dim + sentence + 2) * space + layers(4 * space, *hidden, 1)


def golden() -> dict[str, int]:
    """An LSTM of 1024 units over 300-d word vectors makes the sentence where no vector comes with the data."""
    lstm = 4 * 1024 * (300 + 1024 + 2)
    counts = {
        arg: agent(1024 + 2 * dim + 2) + discriminator(dim, 1024) + lstm
        for arg, _, dim in manual_variants(DATASETS)
    }
    counts["storyboard"] = agent(162, 6, (128, 64), (256, 128, 64)) + discriminator(64, 32, 128, (128, 64))
    # With the official features, of 2048 numbers, agent(8898) + discriminator(2048, 4800) has 25,520,652.
    assert agent(8898) + discriminator(2048, 4800) == 25_520_652
    return counts
