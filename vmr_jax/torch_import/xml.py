"""Official checkpoints of XML (jayleicn/TVRetrieval) -> `vmr_jax.models.xml`.

Those of both streams, with or without cross-attention, and of one stream; widths are read off the shapes.
Not read: two predictors that were not merged (no_merge_two_stream with both streams), other encoders, and
pooling without modular attention.
"""

from collections.abc import Mapping

from vmr_jax.torch_import import Entry, kernel, linear, norm, size

_STREAMS = {"video": "video", "sub": "subtitles"}  # their name -> ours


def entries(shapes: Mapping[str, tuple[int, ...]]) -> list[Entry]:
    """All tensors of the checkpoint; widths and streams are read off the shapes."""
    features = size(shapes, "query_input_proj.net.1.weight", 0)
    streams = {
        ours: theirs for theirs, ours in _STREAMS.items() if f"{theirs}_input_proj.net.1.weight" in shapes
    }
    pooling = "modular_vector_mapping.weight"
    found = [
        *_input("query_input_proj", "query_input", shapes, features),
        *_positions("query_pos_embed", "query_positions", shapes, features),
        *_self_attention("query_encoder", "query_encoder", features),
        *_positions("ctx_pos_embed", "clip_positions", shapes, features),
        Entry(pooling, "params/pool/logits/kernel", (max(len(streams), 1), features), kernel),
    ]
    for ours, theirs in streams.items():
        found += _stream(theirs, ours, shapes, features)
    predictor = "merged" if "merged_st_predictor.weight" in shapes else next(iter(streams.values()), "merged")
    for theirs, ours in (("st", "start"), ("ed", "end")):
        key = f"{predictor}_{theirs}_predictor.weight"
        found.append(Entry(key, f"params/boundaries/{ours}/kernel", (1, 1, size(shapes, key, 2)), kernel))
    return found


def _stream(key: str, name: str, shapes: Mapping[str, tuple[int, ...]], features: int) -> list[Entry]:
    found = [
        *_input(f"{key}_input_proj", f"inputs_{name}", shapes, features),
        *_self_attention(f"{key}_encoder1", f"first_{name}", features),
        *_self_attention(f"{key}_encoder2", f"second_{name}", features),
        *linear(f"{key}_query_linear", f"params/query_linear_{name}", (features, features)),
    ]
    if f"{key}_encoder3.output.dense.weight" in shapes:
        return found + _self_attention(f"{key}_encoder3", f"third_{name}", features)
    return [
        *found,
        *_heads(f"{key}_cross_att", f"params/cross_{name}/attention", features),
        *norm(f"{key}_cross_layernorm", f"params/cross_{name}/cross_norm", features),
    ]


def _input(key: str, name: str, shapes: Mapping[str, tuple[int, ...]], features: int) -> list[Entry]:
    inputs = size(shapes, f"{key}.net.1.weight", 1)
    return [
        *norm(f"{key}.LayerNorm", f"params/{name}/norm", inputs),
        *linear(f"{key}.net.1", f"params/{name}/linear", (features, inputs)),
    ]


def _positions(key: str, name: str, shapes: Mapping[str, tuple[int, ...]], features: int) -> list[Entry]:
    table = f"{key}.position_embeddings.weight"
    return [
        Entry(table, f"params/{name}/table", (size(shapes, table, 0), features)),
        *norm(f"{key}.LayerNorm", f"params/{name}/norm", features),
    ]


def _self_attention(key: str, name: str, features: int) -> list[Entry]:
    return [
        *_heads(f"{key}.self", f"params/{name}/attention", features),
        *linear(f"{key}.output.dense", f"params/{name}/output", (features, features)),
        *norm(f"{key}.output.LayerNorm", f"params/{name}/output_norm", features),
    ]


def _heads(key: str, path: str, features: int) -> list[Entry]:
    square = (features, features)
    return [e for part in ("query", "key", "value") for e in linear(f"{key}.{part}", f"{path}/{part}", square)]
