"""Official checkpoints of MMN (MCG-NJU/MMN) -> `vmr_jax.models.mmn` with text='distilbert'.

Left out: the counters of the batch norms ('num_batches_tracked'), and DistilBERT's 'position_ids', a constant
that some versions of its library store.
"""

from collections.abc import Mapping

from vmr_jax.torch_import import Entry, count, linear, norm, pointwise, size
from vmr_jax.torch_import.text_encoders import distilbert_entries


def entries(shapes: Mapping[str, tuple[int, ...]]) -> list[Entry]:
    """All tensors of the checkpoint; widths, kernel size and number of layers are read off the shapes."""
    clips, convs = "featpool.conv", "proposal_conv.convs"
    features, rows = (size(shapes, f"{clips}.weight", axis) for axis in (0, 1))
    hidden, kernel_size = (size(shapes, f"{convs}.0.weight", axis) for axis in (0, 2))
    space = size(shapes, "proposal_conv.conv1x1_iou.weight", 0)

    found = linear(clips, "params/clips/linear", (features, rows, 1), pointwise)
    inputs = features
    for layer in range(count(shapes, r"proposal_conv\.convs\.(\d+)\.weight")):
        shape = (hidden, inputs, kernel_size, kernel_size)
        found += linear(f"{convs}.{layer}", f"params/map/convs/layer_{layer}", shape)
        found += _batch_norm(f"proposal_conv.bn.{layer}", f"map/convs/norm_{layer}", hidden)
        inputs = hidden
    for name in ("iou", "contrastive"):
        path = f"params/map/spaces/{name.removesuffix('ive')}"
        found += linear(f"proposal_conv.conv1x1_{name}", path, (space, hidden, 1, 1), pointwise)
    return found + _text(shapes, space)


def _text(shapes: Mapping[str, tuple[int, ...]], space: int) -> list[Entry]:
    """DistilBERT, the layer norm and the heads, of which the first is that of the IoU space."""
    width = size(shapes, "text_encoder.layernorm.weight", 0)
    found = distilbert_entries(shapes, "text_encoder.bert.", "params/text_encoder/")
    found += norm("text_encoder.layernorm", "params/sentence_norm", width)
    for head, name in ((1, "iou"), (2, "contrast")):
        found += linear(f"text_encoder.fc_out{head}", f"params/sentence_spaces/{name}", (space, width))
    return found


def _batch_norm(key: str, path: str, features: int) -> list[Entry]:
    return [
        *norm(key, f"params/{path}", features),
        Entry(f"{key}.running_mean", f"batch_stats/{path}/mean", (features,)),
        Entry(f"{key}.running_var", f"batch_stats/{path}/var", (features,)),
        Entry(f"{key}.num_batches_tracked", "", ()),
    ]
