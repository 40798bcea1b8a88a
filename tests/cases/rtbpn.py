"""RTBPN."""

from cases import manual_variants, other_width
from vmr_jax.configs.rtbpn import DATASETS

SMALL = dict(
    num_clips=4,
    scale_layers=(3,),
    lengths=(1, 2, 3, 4),
    features=8,
    clusters=2,
    map_kernel=3,
    nearest=3,
    dropout=0.5,
)


def network(dim: int, words: int, features: int, kernel: int) -> int:
    """Clips; BiGRU of the query; clusters, centres, norm, description, hidden and gate of the filter;
    attention, gates and BiGRU of the fusion; convolution and score.
    """
    square, half = features**2, features // 2
    gate = 2 * 8 * features + 16 + 8 * square + features + square + features + features + 1
    fusion = 2 * square + 2 * features + 2 * square + 6 * half * (2 * features + half + 2)
    query = 6 * half * (words + half + 2)
    return (dim + 1) * features + query + gate + fusion + kernel**2 * square + features + features + 1


def golden() -> dict[str, int]:
    """Only the clips' layer depends on the features, and the kernel on the dataset."""
    counts = {"storyboard": network(64, 50, 64, 3)}
    for arg, dataset, dim in manual_variants(DATASETS):
        kernel = 5 if dataset.startswith("activitynet") else 3
        counts[arg] = other_width(network(500, 300, 512, kernel), 500, dim, 512)
    return counts
