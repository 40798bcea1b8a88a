"""Official checkpoints of XML (jayleicn/TVRetrieval) -> `vmr_jax.models.xml`.

Those of both streams, with or without cross-attention, and of one stream.
Not read: two predictors that were not merged (no_merge_two_stream with both streams), other encoders, and
pooling without modular attention.
"""

from typing import Any

from vmr_jax.torch_import import Entry, Shapes, kernel, linear, size
from vmr_jax.torch_import.corpus import cross_attention, input_projection, positions, self_attention

_STREAMS = {"video": "video", "sub": "subtitles"}  # their name -> ours


_POSITIONS = {"max_clips": "ctx_pos_embed", "max_words": "query_pos_embed"}


def hyper_parameters(shapes: Shapes) -> dict[str, Any]:
    """Fields of the model that the shapes determine.

    They do not tell heads, clip_seconds, shortest, longest, video_scale and keep, nor, of one stream,
    cross_attention. The official min_pred_l counts the clips behind the first, so that 2 is shortest=3; its
    max_pred_l counts all, as longest does.
    """
    streams = _streams(shapes)
    fields = {
        "features": size(shapes, "query_input_proj.net.1.weight", 0),
        "streams": next(iter(streams)) if len(streams) == 1 else "both",
        "conv_kernel": size(shapes, f"{_predictor(shapes)}_st_predictor.weight", 2),
    }
    if len(streams) == len(_STREAMS):
        fields["cross_attention"] = "video_encoder3.output.dense.weight" not in shapes
    for field, key in _POSITIONS.items():
        fields[field] = size(shapes, f"{key}.position_embeddings.weight", 0)
    return fields


def inputs(shapes: Shapes) -> dict[str, int]:
    """Widths of the fields of a batch that the model reads."""
    keys = {"query_vectors": "query", **_streams(shapes)}
    return {field: size(shapes, f"{key}_input_proj.net.1.weight", 1) for field, key in keys.items()}


def _streams(shapes: Shapes) -> dict[str, str]:
    """The streams that the checkpoint reads: our name -> theirs."""
    named = {ours: theirs for theirs, ours in _STREAMS.items()}
    return {ours: key for ours, key in named.items() if f"{key}_input_proj.net.1.weight" in shapes}


def _predictor(shapes: Shapes) -> str:
    """The start of the names of the tensors that find start and end."""
    of_stream = "" if "merged_st_predictor.weight" in shapes else next(iter(_streams(shapes).values()), "")
    return of_stream or "merged"


def entries(shapes: Shapes) -> list[Entry]:
    """All tensors of the checkpoint."""
    fields, widths, streams = hyper_parameters(shapes), inputs(shapes), _streams(shapes)
    features = fields["features"]
    found = [
        *input_projection("query_input_proj", "query_input", widths["query_vectors"], features),
        *positions(_POSITIONS["max_words"], "query_positions", fields["max_words"], features),
        *self_attention("query_encoder", "query_encoder", features),
        *positions(_POSITIONS["max_clips"], "clip_positions", fields["max_clips"], features),
        Entry(
            "modular_vector_mapping.weight",
            "params/pool/logits/kernel",
            (max(len(streams), 1), features),
            kernel,
        ),
    ]
    crosses = fields.get("cross_attention", False)
    for ours, theirs in streams.items():
        found += _stream(theirs, ours, widths[ours], features, crosses)
    shape = (1, 1, fields["conv_kernel"])
    for theirs, ours in (("st", "start"), ("ed", "end")):
        key = f"{_predictor(shapes)}_{theirs}_predictor.weight"
        found.append(Entry(key, f"params/boundaries/{ours}/kernel", shape, kernel))
    return found


def _stream(key: str, name: str, width: int, features: int, crosses: bool) -> list[Entry]:
    found = [
        *input_projection(f"{key}_input_proj", f"inputs_{name}", width, features),
        *self_attention(f"{key}_encoder1", f"first_{name}", features),
        *self_attention(f"{key}_encoder2", f"second_{name}", features),
        *linear(f"{key}_query_linear", f"params/query_linear_{name}", (features, features)),
    ]
    if not crosses:
        return found + self_attention(f"{key}_encoder3", f"third_{name}", features)
    return found + cross_attention(key, f"cross_{name}", features)
