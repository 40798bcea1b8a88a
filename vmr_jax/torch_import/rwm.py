"""Checkpoints of RWM as WuJie1010/Temporally-language-grounding wrote it anew -> `vmr_jax.models.rwm`.

The authors of RWM published none. The tensors stand under "net". Nothing is left out.
"""

from typing import Any

from vmr_jax.torch_import import Entry, Shapes, kernel, linear, size

_LAYERS = {  # official name (sic) -> ours
    "gobal_fc": "global",
    "sentence_fc": "query",
    "local_fc": "agent/local",
    "location_fc": "agent/location",
    "state_fc": "agent/state",
    "tiou_resfc": "agent/iou",
    "location_resfc": "agent/moment",
    "actor_linear": "agent/policy",
    "critic_linear": "agent/value",
}
_WIDTHS = {  # hyper-parameter -> layer whose outputs it counts
    "features": "state_fc",
    "video_features": "local_fc",
    "query_features": "sentence_fc",
    "location_features": "location_fc",
}


def hyper_parameters(shapes: Shapes) -> dict[str, Any]:
    """Fields of the model that the shapes determine.

    They do not tell horizon and whole_units, nor whether the vector of the query is that of the sentence or the
    mean of the word vectors (text).
    """
    return {field: size(shapes, f"{key}.weight", 0) for field, key in _WIDTHS.items()}


def inputs(shapes: Shapes) -> dict[str, int]:
    """Widths of the fields of a batch that the model reads: 'sentence', or 'query_vectors' in its place."""
    sentence = size(shapes, "sentence_fc.weight", 1)
    return {"video": size(shapes, "gobal_fc.weight", 1), "sentence": sentence, "query_vectors": sentence}


def entries(shapes: Shapes) -> list[Entry]:
    """All tensors of the checkpoint."""
    fields, widths = hyper_parameters(shapes), inputs(shapes)
    features, seen, query, place = (fields[name] for name in _WIDTHS)
    expected = {
        "gobal_fc": (seen, widths["video"]),
        "sentence_fc": (query, widths["sentence"]),
        "local_fc": (seen, widths["video"]),
        "location_fc": (place, 2),
        "state_fc": (features, 2 * seen + query + place),
        "tiou_resfc": (1, features),
        "location_resfc": (2, features),
        "actor_linear": (7, features),
        "critic_linear": (1, features),
    }
    found = [entry for key, path in _LAYERS.items() for entry in linear(key, f"params/{path}", expected[key])]
    for ours, theirs in (("input", "ih"), ("recurrent", "hh")):
        width = (3 * features, features)
        found += [
            Entry(f"gru.weight_{theirs}", f"params/agent/gru/{ours}_kernel", width, kernel),
            Entry(f"gru.bias_{theirs}", f"params/agent/gru/{ours}_bias", width[:1]),
        ]
    return found
