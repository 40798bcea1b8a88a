"""Official checkpoints of CMIN (ikuinen/CMIN) -> `vmr_jax.models.cmin`.

The official code keeps the biases of each relation apart; ours are the rows of one table. Which relation has
which number is said in `vmr_jax.text.dependencies`.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from vmr_jax.torch_import import Entry, Shapes, count, gru, kernel, linear, pointwise, size

_DIRECTIONS = ("self", "out", "in")  # the official 0, 1, 2


def hyper_parameters(shapes: Shapes) -> dict[str, Any]:
    """Fields of the model that the shapes determine.

    They do not tell widths (but their number, which must agree), heads, band and keep.
    """
    return {
        "features": size(shapes, "cross_gate.fc_gate1.weight", 0),
        "attention_layers": count(shapes, r"video_encoder\.attn_layers\.(\d+)\.in_proj_weight"),
        "graph_layers": count(shapes, r"sentence_encoder\.gcn_layers\.(\d+)\.fc_dir_weight\.0\.weight"),
        "relations": 1 + count(shapes, r"sentence_encoder\.gcn_layers\.0\.fc_dir_bias2\.(\d+)"),
        "projection": 0,
    }


def inputs(shapes: Shapes) -> dict[str, int]:
    """Widths of the fields of a batch that the model reads."""
    encoders = {"video": "video_encoder", "query_vectors": "sentence_encoder"}
    return {field: size(shapes, f"{key}.rnn.gru.weight_ih_l0", 1) for field, key in encoders.items()}


def entries(shapes: Shapes) -> list[Entry]:
    """All tensors of the checkpoint."""
    fields, widths = hyper_parameters(shapes), inputs(shapes)
    features, rows, words = fields["features"], widths["video"], widths["query_vectors"]
    found = []
    for i in range(fields["attention_layers"]):
        found += _attention(f"video_encoder.attn_layers.{i}", f"params/attention_{i}", rows)
    for i in range(fields["graph_layers"]):
        key = f"sentence_encoder.gcn_layers.{i}"
        found += _graph(key, f"params/graph_{i}", words, fields["relations"])
    for key, path, width in (
        ("video_encoder.rnn", "clips", rows),
        ("sentence_encoder.rnn", "query", words),
        ("rnn", "fusion", 2 * features),
    ):
        found += gru(f"{key}.gru", f"params/{path}", width, features // 2, 1, 2)
    square = (features, features)
    anchors = size(shapes, "fc_score.weight", 0)
    return [
        *found,
        *linear("v2s.ws1", "params/cross_attention/query", square),
        Entry("v2s.ws2.weight", "params/cross_attention/key/kernel", square, kernel),
        Entry("v2s.wst.weight", "params/cross_attention/score/kernel", (1, features), kernel),
        Entry("cross_gate.fc_gate1.weight", "params/cross_gate/clips/kernel", square, kernel),
        Entry("cross_gate.fc_gate2.weight", "params/cross_gate/words/kernel", square, kernel),
        *linear("fc_score", "params/head/score", (anchors, features, 1), pointwise),
        *linear("fc_reg", "params/head/offset", (2 * anchors, features, 1), pointwise),
    ]


def _attention(key: str, path: str, width: int) -> list[Entry]:
    """The official in_proj holds query, key and value on top of each other."""
    found = linear(f"{key}.out_proj", f"{path}/out", (width, width))
    for i, name in enumerate(("query", "key", "value")):
        part = slice(i * width, (i + 1) * width)
        ours = f"{path}/heads/{name}"
        weight, bias = _part(part, kernel), _part(part, np.asarray)
        found.append(Entry(f"{key}.in_proj_weight", f"{ours}/kernel", (3 * width, width), weight))
        found.append(Entry(f"{key}.in_proj_bias", f"{ours}/bias", (3 * width,), bias))
    return found


def _part(rows: slice, layout: Callable[[np.ndarray], np.ndarray]) -> Callable[[np.ndarray], np.ndarray]:
    return lambda x: layout(x[rows])


def _graph(key: str, path: str, width: int, relations: int) -> list[Entry]:
    """The weights and gates of a graph convolution, and the biases of each relation in each direction.

    The direction 'self' has one relation, of a word with itself, and the other two have the others.
    """
    found = []
    for i, direction in enumerate(_DIRECTIONS):
        for theirs, ours in (("dir", ""), ("gate", "gate_")):
            weight = f"{key}.fc_{theirs}_weight.{i}.weight"
            found.append(Entry(weight, f"{path}/{direction}_{ours}kernel", (width, width), kernel))
            biases = f"{key}.fc_{theirs}_bias{i + 1}"
            table = _Rows()
            for relation in range(relations - 1 if i else 1):
                found.append(Entry(f"{biases}.{relation}", f"{path}/{direction}_{ours}bias", (width,), table))
    return found


class _Rows:
    """A layout that several entries of one path share: each call adds a row, and the last result has all."""

    def __init__(self):
        self.rows = []

    def __call__(self, row: np.ndarray) -> np.ndarray:
        """[F] -> [rows so far,F]."""
        self.rows.append(row)
        return np.stack(self.rows)
