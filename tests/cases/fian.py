"""FIAN."""

from cases import manual_variants
from vmr_jax.configs.fian import DATASETS

SMALL = dict(num_clips=16, max_words=14, windows=(3, 6), stride="k/2", features=8, heads=2, hidden=12)


def count(features, inputs, words, hidden, clips, length, windows) -> int:
    """Parameters of FIAN, F `features`, D `inputs`, W `words`, n_v `clips`, n_q `length`."""
    square = features**2

    def gru(width):  # two directions of F / 2 units
        half = features // 2
        return 2 * (3 * half * (width + half) + 6 * half)

    attention = 4 * (square + features)
    gate = 2 * square + 2 * features
    feed_forward = 2 * features * hidden + hidden + features
    encoder = attention + gate + feed_forward + 2 * (2 * features)
    video = inputs * features + features + attention + 2 * features + gru(features)
    fusion = 2 * clips * (length + 1) + 4 * square + 2 * features + 4 * features  # stretch, filter, norm
    head = sum(3 * (window * features + 1) for window in windows)
    return gru(words) + video + 4 * encoder + fusion + gru(2 * features) + head


ACTIVITYNET = (200, 20, (16, 32, 64, 96, 128, 160, 192))
CHARADES = (64, 11, (16, 24, 32, 40))
SETTINGS = {
    "tacos": (200, 20, (8, 16, 32, 64)),
    "didemo": (6, 20, (1, 2, 3, 4, 5, 6)),
    "tempo": (6, 20, (1, 2, 3, 4, 5, 6)),
}


def golden() -> dict[str, int]:
    """Counted from the equations; there is no official code. TACoS C3D, added up by hand, in 1000:

    words 857.1, projection 2,097.7, self-attention 1,051.6, clips 1,182.7, encoders 4 * 2,628.1, stretches 8.4,
    filter 1,049.6, norm 2.0, fusion 1,969.2, head 184.3: 18,915,036 in all.
    """
    assert count(512, 4096, 300, 1024, *SETTINGS["tacos"]) == 18_915_036
    counts = {"storyboard": count(64, 64, 50, 128, 32, 20, (3, 4, 6, 8, 12, 16))}
    for arg, dataset, dim in manual_variants(DATASETS):
        setting = CHARADES if dataset.startswith("charades") else SETTINGS.get(dataset, ACTIVITYNET)
        counts[arg] = count(512, dim, 300, 1024, *setting)
    return counts
