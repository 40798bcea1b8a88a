"""Official checkpoints of DCM (Xun-Yang/Causal_Video_Moment_Retrieval, TCN_DCM) -> `vmr_jax.models.dcm`."""

from typing import Any

from vmr_jax.torch_import import Entry, Shapes, count, kernel, linear, lstm, pointwise, size

_CLIPS, _WORDS, _MAP = "featpool.conv", "query.lstm", "TCN"
# Names of the official layers of the map -> ours; those of kernel size 1 over the map, and the linear ones.
_CONVOLUTIONS = {"conv": "content", "conv_pos": "location", "conv_res": "residual"}
_PROBE = {"M": "content_probe"}


def hyper_parameters(shapes: Shapes) -> dict[str, Any]:
    """Fields of the model that the shapes determine.

    They do not tell num_clips, scale_layers, heads (officially 4), own_weight, nor what is of the loss.
    """
    return {
        "features": size(shapes, f"{_CLIPS}.weight", 0),
        "map_kernel": size(shapes, f"{_MAP}.conv2d_1.weight", 2),
        "map_layers": count(shapes, r"TCN\.conv2d_(\d+)\.weight") - 1,  # they are counted from 1
        "lstm_layers": count(shapes, r"query\.lstm\.weight_ih_l(\d+)"),
        "intervention": f"{_MAP}.Q.weight" in shapes,
    }


def inputs(shapes: Shapes) -> dict[str, int]:
    """Widths of the fields of a batch that the model reads."""
    keys = {"video": f"{_CLIPS}.weight", "query_vectors": f"{_WORDS}.weight_ih_l0"}
    return {field: size(shapes, key, 1) for field, key in keys.items()}


def entries(shapes: Shapes) -> list[Entry]:
    """All tensors of the checkpoint."""
    fields, widths = hyper_parameters(shapes), inputs(shapes)
    features, side = fields["features"], fields["map_kernel"]
    square = (features, features)
    found = linear(_CLIPS, "params/clips/linear", (features, widths["video"], 1), pointwise)
    found += lstm(_WORDS, "params/lstm", widths["query_vectors"], features, fields["lstm_layers"])
    found += linear(f"{_MAP}.fc", "params/map/query", square)
    convolutions = _CONVOLUTIONS | (_PROBE if fields["intervention"] else {})
    for theirs, ours in convolutions.items():
        found += linear(f"{_MAP}.{theirs}", f"params/map/{ours}", (*square, 1, 1), pointwise)
    for layer in range(fields["map_layers"]):
        found += linear(f"{_MAP}.conv2d_{layer + 1}", f"params/map/convs/layer_{layer}", (*square, side, side))
    if fields["intervention"]:
        attention, ours = f"{_MAP}.BD_Adjust_Att", "params/map/adjustment"
        found += linear(f"{_MAP}.Q", "params/map/query_probe", square)
        found += linear(f"{attention}.fc_value", f"{ours}/value", square)
        found.append(Entry(f"{attention}.fc_key.weight", f"{ours}/key/kernel", square, kernel))
        found.append(Entry(f"{attention}.fc_qry.weight", f"{ours}/query/kernel", square, kernel))
    found.append(Entry(f"{_MAP}.pred_weight", "params/map/score/kernel", (1, features), kernel))
    return found
