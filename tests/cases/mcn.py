"""MCN."""

from cases import manual_variants
from vmr_jax.configs.mcn import DATASETS

DRAWS_ROWS = True  # negatives are drawn among the other rows of the batch
SMALL = dict(hidden=8, features=6, lstm_features=8)


def network(dim: int, words: int, hidden: int, features: int, lstm: int) -> int:
    """Two linear layers on [global; local; two endpoints], an LSTM with one bias, a linear layer."""
    video = (2 * dim + 2 + 1) * hidden + (hidden + 1) * features
    return video + 4 * lstm * (words + lstm + 1) + (lstm + 1) * features


# The official blobs of RGB: [500,8194], [500], [100,500], [100]; the LSTM's [4000,300], [4000], [4000,1000];
# [100,1000], [100].
RGB = 4_097_000 + 500 + 50_000 + 100 + 1_200_000 + 4000 + 4_000_000 + 100_000 + 100
assert network(4096, 300, 500, 100, 1000) == RGB


def golden() -> dict[str, int]:
    """Storyboard has two networks, of 64-d and of 32-d clips and 50-d words; the others one."""
    counts = {"storyboard": network(64, 50, 128, 64, 128) + network(32, 50, 128, 64, 128)}
    for arg, _, dim in manual_variants(DATASETS):
        counts[arg] = network(dim, 300, 500, 100, 1000)
    flow = network(1024, 300, 500, 100, 1000)
    return {**counts, "didemo,vgg,fused": RGB + flow, "tempo,rgb,fused": RGB + flow}
