"""RWM."""

from cases import manual_variants
from vmr_jax.configs.rwm import DATASETS

SMALL = dict(features=6, video_features=4, query_features=5, location_features=3, horizon=3)


def parameters(dim: int, sentence: int, features=1024, video=512, query=1024, location=128) -> int:
    """Layer by layer: units (all and the window's), sentence, location, state, GRU, heads of 7 + 1 + 1 + 2."""
    state = (2 * video + query + location + 1) * features
    gru = 2 * (features + 1) * 3 * features
    units = 2 * (dim + 1) * video
    return units + (sentence + 1) * query + 3 * location + state + gru + (features + 1) * 11


def golden() -> dict[str, int]:
    """An LSTM of 1024 units over 300-d word vectors makes the sentence where no vector comes with the data."""
    lstm = 4 * 1024 * (300 + 1024 + 2)
    counts = {arg: parameters(dim, 1024) + lstm for arg, _, dim in manual_variants(DATASETS)}
    counts["storyboard"] = parameters(64, 32, 256, 256, 256, 32)
    counts["charades_sta,c3d,skip_thoughts"] = 17_650_059  # of the re-implementation
    return counts
