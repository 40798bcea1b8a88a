"""Official checkpoints of ACRM (tanghaoyu258/ACRM-for-moment-retrieval) -> `vmr_jax.models.acrm`.

The program saves its whole model; a state_dict is read too. Left out are two layers that it does not use. Its
attention has a bias on words, which is added to that of the clips, and one that all words share.
"""

from typing import Any

import numpy as np

from vmr_jax.torch_import import Entry, Shapes, kernel, left_out, linear, lstm, size

_QUERY, _VIDEO, _CLIPS = "model_df.tail_df.lstm", "model_video_GRU.tail_df.lstm", "rnn_localization"
_ATTENTION = "model_df.pooling_layer.projection"
_HEADS = {"starting": "start", "ending": "end", "intering": "inside"}


def hyper_parameters(shapes: Shapes) -> dict[str, Any]:
    """Fields of the model that the shapes determine.

    They do not tell fusion, labels, dropout and keep.
    """
    return {
        "features": size(shapes, "model_video_GRU.head_df.mlp.0.weight", 0),
        "recurrent_features": size(shapes, f"{_CLIPS}.weight_hh_l0", 1),
        "head_features": size(shapes, "starting.0.weight", 0),
        "query_bias": f"{_QUERY}.bias_ih_l0" in shapes,
    }


def inputs(shapes: Shapes) -> dict[str, int]:
    """Widths of the fields of a batch that the model reads."""
    return {
        "video": size(shapes, f"{_VIDEO}.weight_ih_l0", 1),
        "query_vectors": size(shapes, f"{_QUERY}.weight_ih_l0", 1),
    }


def entries(shapes: Shapes) -> list[Entry]:
    """All tensors of the checkpoint."""
    fields, widths = hyper_parameters(shapes), inputs(shapes)
    features, units, head = fields["features"], fields["recurrent_features"], fields["head_features"]
    both = 2 * units
    found = lstm(_VIDEO, "params/video_lstm", widths["video"], units, 1, 2)
    found += lstm(
        _QUERY, "params/query_lstm", widths["query_vectors"], units, 1, 2, use_bias=fields["query_bias"]
    )
    found += lstm(_CLIPS, "params/lstm", features, units, 1, 2, use_bias=False)
    found += linear("model_video_GRU.head_df.mlp.0", "params/clips", (features, both))
    found += linear("model_df.head_df.mlp.0", "params/attended", (features, both))
    bias = _Sum()
    found += [
        Entry(f"{_ATTENTION}_S.weight", "params/attention/key/kernel", (both, both), kernel),
        Entry(f"{_ATTENTION}_S.bias", "params/attention/query/bias", (both,), bias),
        Entry(f"{_ATTENTION}_V.weight", "params/attention/query/kernel", (both, features), kernel),
        Entry(f"{_ATTENTION}_V.bias", "params/attention/query/bias", (both,), bias),
        Entry(f"{_ATTENTION}_w.weight", "params/attention/score/kernel", (1, both), kernel),
        Entry(f"{_ATTENTION}_w.bias", "", (1,)),
    ]
    for theirs, ours in _HEADS.items():
        found += linear(f"{theirs}.0", f"params/{ours}_hidden", (head, both))
        found += linear(f"{theirs}.2", f"params/{ours}", (1, head))
    # Of these widths whatever the others are.
    return found + left_out("multimodal_fc1", (1, 1024)) + left_out("multimodal_fc2", (1, 512))


class _Sum:
    """A layout that several entries of one path share: the last result is the sum of all."""

    def __init__(self):
        self.total = np.float32(0)

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """[F] -> the sum so far [F]."""
        self.total = self.total + x
        return self.total
