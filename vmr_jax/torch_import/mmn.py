"""Official checkpoints of MMN (MCG-NJU/MMN) -> `vmr_jax.models.mmn` with text='distilbert'.

Left out: the counters of the batch norms ('num_batches_tracked'), and DistilBERT's 'position_ids', a constant
that some versions of its library store.
"""

from typing import Any

from vmr_jax.torch_import import Entry, Shapes, batch_norm, count, linear, norm, pointwise, size
from vmr_jax.torch_import.text_encoders import distilbert_entries, distilbert_sizes

_CLIPS, _CONVS, _DISTILBERT = "featpool.conv", "proposal_conv.convs", "text_encoder.bert."


def hyper_parameters(shapes: Shapes) -> dict[str, Any]:
    """Fields of the model that the shapes determine.

    They do not tell num_clips and scale_layers of the map, text_heads and keep. The official POOLING_COUNTS
    leave out the moments of one clip, which scale_layers count: [15, 8, 8] is (16, 8, 8).
    """
    text = distilbert_sizes(shapes, _DISTILBERT)
    return {
        "features": size(shapes, f"{_CLIPS}.weight", 0),
        "space": size(shapes, "proposal_conv.conv1x1_iou.weight", 0),
        "map_kernel": size(shapes, f"{_CONVS}.0.weight", 2),
        "map_layers": count(shapes, r"proposal_conv\.convs\.(\d+)\.weight"),
        "text": "distilbert",
        **{f"text_{name}": value for name, value in text.items()},
        "text_features": size(shapes, "text_encoder.layernorm.weight", 0),
    }


def inputs(shapes: Shapes) -> dict[str, int]:
    """Widths of the fields of a batch that the model reads."""
    return {"video": size(shapes, f"{_CLIPS}.weight", 1)}


def entries(shapes: Shapes) -> list[Entry]:
    """All tensors of the checkpoint."""
    fields = hyper_parameters(shapes)
    features, space, kernel_size = fields["features"], fields["space"], fields["map_kernel"]
    found = linear(_CLIPS, "params/clips/linear", (features, inputs(shapes)["video"], 1), pointwise)
    for layer in range(fields["map_layers"]):
        shape = (features, features, kernel_size, kernel_size)
        found += linear(f"{_CONVS}.{layer}", f"params/map/convs/layer_{layer}", shape)
        found += batch_norm(f"proposal_conv.bn.{layer}", f"map/convs/norm_{layer}", features)
    for name in ("iou", "contrastive"):
        path = f"params/map/spaces/{name.removesuffix('ive')}"
        found += linear(f"proposal_conv.conv1x1_{name}", path, (space, features, 1, 1), pointwise)
    return found + _text(shapes, space, fields["text_features"])


def _text(shapes: Shapes, space: int, width: int) -> list[Entry]:
    """DistilBERT, the layer norm and the heads, of which the first is that of the IoU space."""
    found = distilbert_entries(shapes, _DISTILBERT, "params/text_encoder/")
    found += norm("text_encoder.layernorm", "params/sentence_norm", width)
    for head, name in ((1, "iou"), (2, "contrast")):
        found += linear(f"text_encoder.fc_out{head}", f"params/sentence_spaces/{name}", (space, width))
    return found
