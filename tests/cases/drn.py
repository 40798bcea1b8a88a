"""DRN."""

from cases import manual_variants
from vmr_jax.configs.drn import DATASETS

# In the third stage, in which all losses count, and with moments that are good enough for that of the IoU.
SMALL = dict(
    features=6,
    first_features=2,
    query_features=3,
    position_features=3,
    segments=8,
    window_frames=8,
    level_from=(-1.0, 1.4, 2.5),
    level_to=(1.6, 2.5, 1e8),
    least_iou=0.2,
    second_stage=0,
    third_stage=0,
)


def size(dim, width, features=512, first=256, query=512, position=256) -> int:
    """Parameters, layer by layer; without the vectors of the words."""

    def linear(inputs, outputs, steps=1, bias=True):
        return inputs * outputs * steps + bias * outputs

    lstm = 2 * 4 * query * (width + query + 2)  # two directions, four gates, two biases each
    attention = linear(4 * query, query) + 3 * linear(query, 2 * query) + linear(2 * query, 1)
    gates = sum(linear(2 * query, x) for x in (dim, first, 2 * first))
    segments = linear(dim, dim) + linear(3, position)
    sizes = ((dim + position, first), (first, 2 * first), (2 * first, 4 * first))
    backbone = sum(linear(*x, steps=3, bias=False) + 2 * x[1] for x in sizes)  # and batch normalisation
    pyramid = sum(linear(outputs, features, bias=False) + 2 * features for _, outputs in sizes)
    pyramid += 3 * (linear(features, features, steps=3, bias=False) + 2 * features)
    towers = 2 * (linear(features, features, steps=3) + 2 * features)
    predictions = linear(features, 1, steps=3) + linear(features, 2, steps=3) + 3  # a factor of each level
    half = features // 2
    iou = linear(2 * features, features) + 2 * features + linear(features, half, steps=3) + 2 * half
    iou += linear(half, 1)
    return lstm + attention + gates + segments + backbone + pyramid + towers + predictions + iou


def golden() -> dict[str, int]:
    """The table of words comes on top with the vocabulary."""
    counts = {"storyboard": size(64, 50, features=64, first=32, query=64, position=32)}
    return counts | {arg: size(dim, 300) for arg, _, dim in manual_variants(DATASETS)}
