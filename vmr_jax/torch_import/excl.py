"""Checkpoints of ExCL as it was written anew for TVR (jayleicn/TVRetrieval) -> `vmr_jax.models.excl`.

The authors of ExCL published none. The tensors stand under "model".
"""

from typing import Any

from vmr_jax.torch_import import Entry, Shapes, linear, lstm, size

_STREAMS = {"video": "video", "sub": "subtitles"}  # official name -> ours


def hyper_parameters(shapes: Shapes) -> dict[str, Any]:
    """Fields of the model that the shapes determine.

    They do not tell unit_words, initial_std, clip_seconds, late_end, shortest, longest and keep.
    """
    there = [ours for theirs, ours in _STREAMS.items() if f"{theirs}_encoder.rnn.weight_ih_l0" in shapes]
    hidden = [key for key in shapes if key.endswith(("_st_predictor.0.weight", "_ed_predictor.0.weight"))]
    return {
        "recurrent_features": size(shapes, "query_encoder.rnn.weight_hh_l0", 1),
        "hidden": size(shapes, hidden[0] if hidden else "video_st_predictor.0.weight", 0),
        "predictor": "tied",
        "streams": "both" if len(there) == 2 else "".join(there),
    }


def inputs(shapes: Shapes) -> dict[str, int]:
    """Widths of the fields of a batch that the model reads."""
    found = {"query_vectors": size(shapes, "query_encoder.rnn.weight_ih_l0", 1)}
    for theirs, ours in _STREAMS.items():
        if f"{theirs}_encoder.rnn.weight_ih_l0" in shapes:
            found[ours] = size(shapes, f"{theirs}_encoder.rnn.weight_ih_l0", 1)
    return found


def entries(shapes: Shapes) -> list[Entry]:
    """All tensors of the checkpoint."""
    fields, widths = hyper_parameters(shapes), inputs(shapes)
    width, hidden = fields["recurrent_features"], fields["hidden"]
    both = 2 * width
    found = lstm("query_encoder.rnn", "params/query_lstm", widths["query_vectors"], width, 1, 2)
    for theirs, ours in _STREAMS.items():
        if ours not in widths:
            continue
        found += lstm(f"{theirs}_encoder.rnn", f"params/{ours}_lstm", widths[ours], width, 1, 2)
        found += lstm(f"{theirs}_encoder2.rnn", f"params/{ours}_predictor_lstm", 2 * both, width, 1, 2)
        for end, name in (("st", "start"), ("ed", "end")):
            key = f"{theirs}_{end}_predictor"
            found += linear(f"{key}.0", f"params/{ours}_{name}_hidden", (hidden, 3 * both))
            found += linear(f"{key}.2", f"params/{ours}_{name}_logit", (1, hidden))
    return found
