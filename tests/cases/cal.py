"""CAL."""

from cases import manual_variants
from vmr_jax.configs.cal import DATASETS

DRAWS_ROWS = True  # negatives are drawn among the other rows of the batch
SMALL = dict(hidden=8, features=6, lstm_features=8, clip_seconds=0.0, scales=(1, 2, 4, 8))


def parameters(dim: int, words: int, hidden: int, features: int, lstm: int) -> int:
    """Two linear layers on [clip; video; two endpoints], an LSTM with two biases, a linear layer."""
    video = (2 * dim + 2 + 1) * hidden + (hidden + 1) * features
    return video + 4 * lstm * (words + lstm + 2) + (lstm + 1) * features


# The official tensors for ResNet-152: [500,4098], [500], [100,500], [100]; the LSTM's [4000,300], [4000,1000],
# [4000], [4000]; [100,1000], [100].
RESNET = 2_049_000 + 500 + 50_000 + 100 + 1_200_000 + 4_000_000 + 4000 + 4000 + 100_000 + 100
assert parameters(2048, 300, 500, 100, 1000) == RESNET


def golden() -> dict[str, int]:
    counts = {"storyboard": parameters(64, 50, 256, 64, 128)}
    return counts | {arg: parameters(dim, 300, 500, 100, 1000) for arg, _, dim in manual_variants(DATASETS)}
