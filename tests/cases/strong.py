"""STRONG."""

from cases import manual_variants
from cases.avmr import agent, layers
from vmr_jax.configs.strong import DATASETS

SMALL = dict(
    actor_hidden=(5,), critic_hidden=(6, 4), crop_hidden=5, crop_features=4, horizon=3, look_every=2, looks=1,
    pretrain_epochs=0,
)  # fmt: skip


def golden() -> dict[str, int]:
    """An LSTM of 1024 units over 300-d word vectors makes the sentence where no vector comes with the data."""
    lstm = 4 * 1024 * (300 + 1024 + 2)
    counts = {arg: agent(1024 + 2 * dim + 2) + lstm for arg, _, dim in manual_variants(DATASETS)}
    small = (128, 64), (256, 128, 64)
    counts["storyboard,temporal"] = agent(162, 6, *small)
    # Twenty-one parts of cells of 16 numbers; the spatial agent reads crop, sentence and clip.
    counts["storyboard"] = agent(162, 6, *small) + agent(64 + 32 + 64, 8, *small) + layers(336, 64, 64)
    return counts
