"""Official checkpoints of ReLoCLNet (26hzhang/ReLoCLNet, method_tvr) -> `vmr_jax.models.relocl`."""

from typing import Any

from vmr_jax.torch_import import Entry, Shapes, kernel, linear, size
from vmr_jax.torch_import.corpus import cross_attention, input_projection, positions, self_attention

_STREAMS = {"video": "video", "subtitles": "sub"}  # our name -> theirs
_POSITIONS = {"max_clips": "ctx_pos_embed", "max_words": "query_pos_embed"}


def hyper_parameters(shapes: Shapes) -> dict[str, Any]:
    """Fields of the model that the shapes determine.

    They do not tell heads, clip_seconds, shortest, longest, video_scale and keep; the official max_pred_l is
    longest plus one. Subtitles and queries come from one text encoder, so subtitles that are two numbers wider
    than queries have the endpoints of their clips.
    """
    fields = {
        "features": size(shapes, "query_input_proj.net.1.weight", 0),
        "conv_kernel": size(shapes, "merged_st_predictor.weight", 2),
        "endpoints": _width(shapes, "sub") == _width(shapes, "query") + 2,
    }
    for field, key in _POSITIONS.items():
        fields[field] = size(shapes, f"{key}.position_embeddings.weight", 0)
    return fields


def inputs(shapes: Shapes) -> dict[str, int]:
    """Widths of the fields of a batch that the model reads."""
    more = 2 * hyper_parameters(shapes)["endpoints"]
    widths = {name: _width(shapes, key) - more for name, key in _STREAMS.items()}
    return {"query_vectors": _width(shapes, "query"), **widths}


def _width(shapes: Shapes, key: str) -> int:
    return size(shapes, f"{key}_input_proj.net.1.weight", 1)


def entries(shapes: Shapes) -> list[Entry]:
    """All tensors of the checkpoint."""
    fields = hyper_parameters(shapes)
    features, square = fields["features"], (fields["features"],) * 2
    found = [
        *input_projection("query_input_proj", "query_input", _width(shapes, "query"), features),
        *positions(_POSITIONS["max_words"], "query_positions", fields["max_words"], features),
        *self_attention("query_encoder", "query_first", features),
        *self_attention("query_encoder1", "query_second", features),
        *positions(_POSITIONS["max_clips"], "clip_positions", fields["max_clips"], features),
        Entry("modular_vector_mapping.weight", "params/pool/logits/kernel", (len(_STREAMS), features), kernel),
    ]
    for ours, theirs in _STREAMS.items():
        found += [
            *input_projection(f"{theirs}_input_proj", f"inputs_{ours}", _width(shapes, theirs), features),
            *self_attention(f"{theirs}_encoder1", f"first_{ours}", features),
            *cross_attention(theirs, f"cross_{ours}", features),
            *self_attention(f"{theirs}_encoder2", f"second_{ours}", features),
            *self_attention(f"{theirs}_encoder3", f"third_{ours}", features),
            *linear(f"{theirs}_query_linear", f"params/query_linear_{ours}", square),
        ]
    for theirs, ours in (("st", "start"), ("ed", "end")):
        shape = (1, 1, fields["conv_kernel"])
        found.append(
            Entry(f"merged_{theirs}_predictor.weight", f"params/boundaries/{ours}/kernel", shape, kernel)
        )
    return found
