"""CTRL."""

from cases import manual_variants
from vmr_jax.configs.ctrl import DATASETS

# Of two clips or more; the moments of `random_batch` are up to 16 clips long, some have no window.
SMALL = dict(
    lengths=(2, 4, 8),
    strides=(1, 1.5, 2),
    test_lengths=(4, 8),
    context=4,
    features=8,
    hidden=8,
    lstm_features=8,
)


def count(dim: int, sentence: int, features: int, hidden: int, outputs: int = 3) -> int:
    """Two projections of clips (three times D) and sentence, a network with one hidden layer over 4F."""
    projections = (3 * dim + 1) * features + (sentence + 1) * features
    return projections + (4 * features + 1) * hidden + (hidden + 1) * outputs


# The official variables, D = 4096 and S = 4800: [12288,1024], [1024], [4800,1024], [1024], [4096,1000], [1000],
# [1000,3], [3].
OFFICIAL = 12_582_912 + 1024 + 4_915_200 + 1024 + 4_096_000 + 1000 + 3000 + 3
assert count(4096, 4800, 1024, 1000) == OFFICIAL

LSTM = 4 * 1024 * (300 + 1024 + 2)  # two kernels, two biases


def golden() -> dict[str, int]:
    """Storyboard has D = 64 and sentence vectors of 32; the others read 300-d word vectors with an LSTM."""
    counts = {"storyboard": count(64, 32, 128, 128)}
    for arg, dataset, dim in manual_variants(DATASETS):
        # DiDeMo and TEMPO have no regression, so only the score is put out.
        outputs = 1 if dataset in ("didemo", "tempo") else 3
        counts[arg] = count(dim, 1024, 1024, 1000, outputs) + LSTM
    counts["tacos,c3d,skip_thoughts"] = OFFICIAL
    counts["tacos,c3d,aln"] = count(4096, 1024, 1024, 1000, 1) + LSTM
    return counts
