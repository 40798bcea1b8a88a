"""Official checkpoints of MS-2D-TAN (microsoft/VideoX, folder MS-2D-TAN) -> `vmr_jax.models.ms_2d_tan`."""

from typing import Any

from vmr_jax.torch_import import Entry, Shapes, batch_norm, count, linear, lstm, pointwise, size

AT_LEAST = ("num_clips",)  # fields of which the shapes tell the least that fits
_CLIPS, _WORDS = "clip_module.vis_conv", "fusion_module.textual_encoder"


def hyper_parameters(shapes: Shapes) -> dict[str, Any]:
    """Fields of the model that the shapes determine.

    They do not tell keep, row_seconds and official_padding. num_clips is the length of the longest candidate,
    which is the whole window in all official settings.
    """
    scales = range(count(shapes, r"prop_module\.layers\.(\d+)\.\d+\.0\.weight"))
    layers = tuple(count(shapes, rf"prop_module\.layers\.{s}\.(\d+)\.0\.weight") for s in scales)
    return {
        "features": size(shapes, f"{_CLIPS}.weight", 0),
        "scale_layers": layers,
        "num_clips": sum(number * 2**scale for scale, number in enumerate(layers)),
        "map_kernel": size(shapes, "map_modules.0.blocks.0.0.weight", 2),
        "map_layers": count(shapes, r"map_modules\.0\.blocks\.(\d+)\.0\.weight"),
        "lstm_layers": count(shapes, r"fusion_module\.textual_encoder\.weight_ih_l(\d+)"),
    }


def inputs(shapes: Shapes) -> dict[str, int]:
    """Widths of the fields of a batch that the model reads."""
    keys = {"video": f"{_CLIPS}.weight", "query_vectors": f"{_WORDS}.weight_ih_l0"}
    return {field: size(shapes, key, 1) for field, key in keys.items()}


def entries(shapes: Shapes) -> list[Entry]:
    """All tensors of the checkpoint."""
    fields, widths = hyper_parameters(shapes), inputs(shapes)
    features, k = fields["features"], fields["map_kernel"]
    found = linear(_CLIPS, "params/clips/linear", (features, widths["video"], 1), pointwise)
    found += lstm(_WORDS, "params/lstm", widths["query_vectors"], features // 2, fields["lstm_layers"], 2)
    found += linear("fusion_module.tex_linear", "params/query", (features, features))
    found += linear("fusion_module.vis_conv", "params/cells", (features, features, 1, 1), pointwise)
    for scale, layers in enumerate(fields["scale_layers"]):
        for i in range(layers):
            kernel_size = 2 if i else 3 if scale else 1
            key, path = f"prop_module.layers.{scale}.{i}", f"proposals/layer_{scale}_{i}"
            found += linear(f"{key}.0", f"params/{path}", (features, features, kernel_size))
            found += batch_norm(f"{key}.1", f"proposals/norm_{scale}_{i}", features)
        for i in range(fields["map_layers"]):
            key, path = f"map_modules.{scale}.blocks.{i}", f"params/map_{scale}_{i}"
            found += linear(f"{key}.0", f"{path}/conv", (features, features, k, k))
            found += linear(f"{key}.1", f"{path}/gate", (1, features, k, k))
        key = f"pred_modules.{scale}.predictor"
        found += linear(key, f"params/score_{scale}", (1, features, 1, 1), pointwise)
    return found
