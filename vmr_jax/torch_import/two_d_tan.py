"""Official checkpoints of 2D-TAN (microsoft/2D-TAN), both variants -> `vmr_jax.models.two_d_tan`."""

from typing import Any

from vmr_jax.torch_import import Entry, Shapes, count, linear, lstm, pointwise, size

AT_LEAST = ("num_clips",)  # fields of which the shapes tell the least that fits
_FRAME, _WORDS = "frame_layer.vis_conv", "fusion_layer.textual_encoder"


def hyper_parameters(shapes: Shapes) -> dict[str, Any]:
    """Fields of the model that the shapes determine.

    They do not tell keep, and of the 'pool' variant, whose map has no tensors, num_clips and scale_layers. Of
    'conv', num_clips is the length of the longest candidate, which is the whole video in all official settings.
    """
    fields = {
        "features": size(shapes, f"{_FRAME}.weight", 0),
        "map_kernel": size(shapes, "map_layer.convs.0.weight", 2),
        "map_layers": count(shapes, r"map_layer\.convs\.(\d+)\.weight"),
        "lstm_layers": count(shapes, r"fusion_layer\.textual_encoder\.weight_ih_l(\d+)"),
        "proposal": "pool",
    }
    scales = range(count(shapes, r"prop_layer\.layers\.(\d+)\.\d+\.weight"))
    layers = tuple(count(shapes, rf"prop_layer\.layers\.{scale}\.(\d+)\.weight") for scale in scales)
    if layers:
        longest = sum(number * 2**scale for scale, number in enumerate(layers))
        fields.update(proposal="conv", scale_layers=layers, num_clips=longest)
    return fields


def inputs(shapes: Shapes) -> dict[str, int]:
    """Widths of the fields of a batch that the model reads."""
    keys = {"video": f"{_FRAME}.weight", "query_vectors": f"{_WORDS}.weight_ih_l0"}
    return {field: size(shapes, key, 1) for field, key in keys.items()}


def entries(shapes: Shapes) -> list[Entry]:
    """All tensors of the checkpoint."""
    fields, widths = hyper_parameters(shapes), inputs(shapes)
    features, kernel_size = fields["features"], fields["map_kernel"]
    found = linear(_FRAME, "params/clips/linear", (features, widths["video"], 1), pointwise)
    found += _proposals(fields.get("scale_layers", ()), features)
    found += lstm(_WORDS, "params/lstm", widths["query_vectors"], features, fields["lstm_layers"])
    found += linear("fusion_layer.tex_linear", "params/fusion/query", (features, features))
    found += linear("fusion_layer.vis_conv", "params/fusion/proposals", (features, features, 1, 1), pointwise)
    for layer in range(fields["map_layers"]):
        shape = (features, features, kernel_size, kernel_size)
        found += linear(f"map_layer.convs.{layer}", f"params/convs/layer_{layer}", shape)
    found += linear("pred_layer", "params/score", (1, features, 1, 1), pointwise)
    return found


def _proposals(scale_layers: tuple[int, ...], features: int) -> list[Entry]:
    """The stacked convolutions of the 'conv' variant, numbered across scales."""
    found, layer = [], 0
    for scale, layers in enumerate(scale_layers):
        for i in range(layers):
            kernel_size = 2 if i else 3 if scale else 1
            key, path = f"prop_layer.layers.{scale}.{i}", f"params/proposals/layer_{layer}"
            found += linear(key, path, (features, features, kernel_size))
            layer += 1
    return found
