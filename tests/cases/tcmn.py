"""TCMN."""

from cases import manual_variants
from vmr_jax.configs.tcmn import DATASETS

SMALL = dict(
    networks=("video_flow",),
    num_clips=16,
    max_length=4,
    tree_features=5,
    visual_features=5,
    attention_features=4,
    features=4,
)


def network(main: int, context: int, words: int, tree=500, visual=500, attention=250, features=250) -> int:
    """Parameters, layer by layer: the tree, three attentions over nodes, two over segments, two scores."""
    lstm = (words + tree + 1) * 3 * tree + (words + 1) * tree + (tree + 1) * tree
    nodes = 3 * (73 * words + words + tree + 1)
    common = (tree + 1) * attention + (attention + 1) * attention + attention + 1
    segments = sum((dim + 1) * visual + (visual + 1) * attention + common for dim in (main, context))
    score = (tree + 1) * features + (features + 1) * features + features + 1
    return lstm + nodes + segments + (main + context + 5) * features + score + 5 * features + score


# Of the official tensors: [1500,800], [1500], [500,300], [500], [500,500], [500]; three times [73,300], [800],
# [1]; [500,4096], [500,1024], twice [500], [250,500], [250], [250,500], [250], [250,250], [250], [250], [1];
# [250,5124], [250,4] and twice [250], [250,500], [250], [250,250], [250], [250], [1].
_TREE = 1_200_000 + 1500 + 150_000 + 500 + 250_000 + 500
_COMMON = 125_000 + 250 + 62_500 + 250 + 250 + 1
_SEGMENTS = 500 * 5120 + 2 * (500 + 125_000 + 250 + _COMMON)
assert network(4096, 1024, 300) == _TREE + 3 * 22_701 + _SEGMENTS + 250 * 5128 + 2 * (250 + _COMMON)


def golden() -> dict[str, int]:
    """One network, in which main and context event are looked for in the same features; fused, all four."""
    counts = {"storyboard": network(64, 64, 50, 128, 128, 64, 32)}
    counts |= {arg: network(dim, dim, 300) for arg, _, dim in manual_variants(DATASETS)}
    fused = sum(network(main, context, 300) for main in (4096, 1024) for context in (4096, 1024))
    return counts | {"didemo,vgg,fused": fused, "tempo,rgb,fused": fused}
