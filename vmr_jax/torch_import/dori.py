"""Official checkpoints of DORi (crodriguezo/DORi) -> `vmr_jax.models.dori`.

The program saves its whole model; a state_dict is read too. Left out are three layers that it does not use. Its
two layers on regions have each other's names: `factor_human` is applied to things, `factor_obj` to people.

The word vectors stand in two files beside it, as those of TMLGA do: `python -m vmr_jax.torch_import.tmlga`
makes one of them.
"""

from typing import Any

from vmr_jax.torch_import import Entry, Shapes, count, gru, left_out, linear, size

_GRAPH, _CLIPS = "model_spatial", "rnn_localization"
_QUERY = f"{_GRAPH}.factor_query.lstm"
# The official numbers of the query nodes.
_PAIRS = {
    "human_thing": (1, "object_human"),
    "clip_thing": (2, "video_object"),
    "clip_human": (3, "video_human"),
}
_KINDS = {
    "clip": ("factor_video", "video"),
    "thing": ("factor_human", "object"),
    "human": ("factor_obj", "human"),
}


def hyper_parameters(shapes: Shapes) -> dict[str, Any]:
    """Fields of the model that the shapes determine.

    They do not tell iterations, which are 2 on ActivityNet Captions and YouCookII.
    """
    return {
        "features": size(shapes, f"{_GRAPH}.factor_video.weight", 0),
        "recurrent_features": size(shapes, f"{_CLIPS}.weight_hh_l0", 1),
        "key_features": size(shapes, f"{_GRAPH}.query_key1.weight", 0),
        "recurrent_layers": count(shapes, rf"{_CLIPS}\.weight_hh_l(\d+)"),
        "use_bias": f"{_CLIPS}.bias_ih_l0" in shapes,
    }


def inputs(shapes: Shapes) -> dict[str, int]:
    """Widths of the fields of a batch that the model reads."""
    return {
        "video": size(shapes, f"{_GRAPH}.factor_video.weight", 1),
        "objects": size(shapes, f"{_GRAPH}.factor_obj.weight", 1),
        "query_vectors": size(shapes, f"{_QUERY}.weight_ih_l0", 1),
    }


def entries(shapes: Shapes) -> list[Entry]:
    """All tensors of the checkpoint."""
    fields, widths = hyper_parameters(shapes), inputs(shapes)
    features, width, keys = fields["features"], fields["recurrent_features"], fields["key_features"]
    both, words = 2 * width, widths["query_vectors"]
    found = gru(_QUERY, "params/query_gru", words, width, 1, 2)
    found += gru(_CLIPS, "params/gru", features, width, fields["recurrent_layers"], 2, fields["use_bias"])
    for pair, (number, theirs) in _PAIRS.items():
        found += linear(f"{_GRAPH}.query_head{number}", f"params/{pair}_query", (keys, both))
        found += linear(f"{_GRAPH}.query_key{number}", f"params/{pair}_key", (keys, words))
        found += left_out(f"{_GRAPH}.query_value{number}", (both, words))
        found += linear(f"{_GRAPH}.factor_{theirs}_query", f"params/{pair}_pair", (features, 2 * features))
    for kind, (first, theirs) in _KINDS.items():
        seen = widths["video" if kind == "clip" else "objects"]
        found += linear(f"{_GRAPH}.{first}", f"params/{kind}", (features, seen))
        found += linear(f"{_GRAPH}.{theirs}_query", f"params/{kind}_message", (features, both + features))
        found += linear(f"{_GRAPH}.factor_update_{theirs}", f"params/{kind}_update", (features, features))
    found += linear("multimodal_fc2", "params/attention", (1, features))
    for theirs, ours in (("starting", "start"), ("ending", "end")):
        found += linear(theirs, f"params/{ours}", (1, both))
    return found
