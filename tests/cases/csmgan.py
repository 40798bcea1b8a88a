"""CSMGAN."""

from cases import manual_variants
from vmr_jax.configs.csmgan import DATASETS

SMALL = dict(features=8, heads=2, widths=(3, 5.5), band=2, attention_layers=1, lstm_layers=1, node_dropout=0.0)


def network(
    dim: int, words: int, features: int, anchors: int, projection: int = 0, lstm_layers: int = 2
) -> int:
    """As the official modules, the two layers of self-attention included."""
    rows, half, pair = projection or dim, features // 2, words // 2
    attention = 2 * (4 * rows**2 + 4 * rows)
    phrases = (1 + 2 + 3) * words**2 + 3 * words
    lstm = 2 * lstm_layers * (4 * pair * (words + pair) + 8 * pair)
    grus = sum(2 * (3 * half * (width + half) + 6 * half) for width in (rows, 3 * words, 2 * features))
    updates = 4 * 3 * (2 * features**2 + features)
    cross = features**2 + 2 * features**2 + 2 * features
    head = 3 * anchors * (features + 1)
    return projection * (dim + 1) + attention + phrases + lstm + grus + updates + cross + head


# Official state_dicts: 15.64 and 17.68 million numbers.
ACTIVITYNET, TACOS = network(500, 300, 512, 7), network(4096, 300, 512, 4, 500)
assert (round(ACTIVITYNET / 1e6, 2), round(TACOS / 1e6, 2)) == (15.64, 17.68)


def golden() -> dict[str, int]:
    """Features of another width are projected to 500; the head has 3 (F + 1) parameters for each width."""
    anchors = {"tacos": 4, "didemo": 6, "tempo": 6}
    counts = {"storyboard": network(64, 50, 64, 6, lstm_layers=1)}
    for arg, dataset, dim in manual_variants(DATASETS):
        widths = 4 if dataset.startswith("charades") else anchors.get(dataset, 7)
        counts[arg] = network(dim, 300, 512, widths, 0 if dim == 500 else 500)
    return counts
