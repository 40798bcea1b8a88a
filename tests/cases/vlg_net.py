"""VLG-Net."""

from cases import manual_variants
from vmr_jax.configs.vlg_net import DATASETS

SMALL = dict(
    num_clips=8, scale_layers=(4,), window=2, features=8, query_features=6, context_neighbours=3,
    context_groups=2, context_width=2, match_neighbours=2, match_groups=2, match_width=2, lstm_layers=1,
    syntax_layers=1, score_features=8,
)  # fmt: skip


def network(
    video: int,
    words: int,
    features: int,
    query: int,
    context: int,
    match: int,
    lstm: int,
    score: int,
    more: int,
) -> int:
    """As the official modules. `context` and `match`: hidden features and those of a group.

    Layers of a graph share their weights, and layers without effect are left out; `more` is whether there is a
    second scoring layer.
    """

    def bottleneck(inputs, sizes, size):
        hidden, group = sizes
        return (inputs + 1) * hidden + (size * group + 1) * hidden + (hidden + 1) * features

    count = (3 * video + 1) * features
    count += bottleneck(features, context, 3) + bottleneck(2 * features, context, 1)
    count += sum(4 * query * ((query if i else words) + query + 2) for i in range(lstm))
    count += 2 * query**2 + query + query**2 + (query + 1) * features
    count += bottleneck(features, match, 3) + 2 * bottleneck(2 * features, match, 1)
    count += (features + 1) * features + features
    return count + (features + 1) * score + more * (score + 1) * score + score + 1


def golden() -> dict[str, int]:
    counts = {"storyboard": network(64, 50, 64, 64, (32, 4), (32, 8), 1, 64, 0)}
    for arg, dataset, dim in manual_variants(DATASETS):
        chunks = dataset in ("didemo", "tempo")
        narrow = chunks or dataset == "tacos"
        match, lstm = ((128, 4) if narrow else (128, 32)), 1 if chunks else 5 if dataset == "tacos" else 4
        features = 256 if chunks else 512
        counts[arg] = network(dim, 300, features, 512, (128, 4), match, lstm, 512, chunks)
    return counts
