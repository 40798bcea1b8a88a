"""Official checkpoints of Moment-DETR (jayleicn/moment_detr) -> `vmr_jax.models.moment_detr`.

The positions of words are left out: they are in every checkpoint, and its default setting does not use them.
"""

from collections.abc import Mapping

from vmr_jax.torch_import import Entry, count, linear, norm, size
from vmr_jax.torch_import.transformer import decoder_layer, encoder_layer


def entries(shapes: Mapping[str, tuple[int, ...]]) -> list[Entry]:
    """All tensors of the checkpoint; widths and numbers of layers are read off the shapes."""
    queries, features = (size(shapes, "query_embed.weight", axis) for axis in (0, 1))
    found = [Entry("query_embed.weight", "params/queries", (queries, features))]
    for theirs, ours in (("vid", "clips"), ("txt", "words")):
        found += _projection(f"input_{theirs}_proj", ours, shapes, features)
    for kind, layer in (("encoder", encoder_layer), ("decoder", decoder_layer)):
        for i in range(count(shapes, rf"transformer\.{kind}\.layers\.(\d+)\.linear1\.weight")):
            key = f"transformer.{kind}.layers.{i}"
            hidden = size(shapes, f"{key}.linear1.weight", 0)
            found += layer(key, f"params/{kind}_{i}", features, hidden)
    found += norm("transformer.decoder.norm", "params/decoder_norm", features)
    found += linear("class_embed", "params/label_head", (2, features))
    for i, outputs in enumerate((features, features, 2)):
        found += linear(f"span_embed.layers.{i}", f"params/span_head_{i}", (outputs, features))
    found += linear("saliency_proj", "params/saliency_head", (1, features))
    return found + _word_positions(shapes, features)


def _projection(key: str, name: str, shapes: Mapping[str, tuple[int, ...]], features: int) -> list[Entry]:
    """The two linear layers that clips or words first go through, with their norms."""
    inputs, found = size(shapes, f"{key}.0.net.1.weight", 1), []
    for i in range(2):
        found += norm(f"{key}.{i}.LayerNorm", f"params/{name}_norm_{i}", inputs)
        found += linear(f"{key}.{i}.net.1", f"params/{name}_{i}", (features, inputs))
        inputs = features
    return found


def _word_positions(shapes: Mapping[str, tuple[int, ...]], features: int) -> list[Entry]:
    table = "txt_position_embed.position_embeddings.weight"
    left_out = {
        table: (size(shapes, table, 0), features),
        "txt_position_embed.LayerNorm.weight": (features,),
        "txt_position_embed.LayerNorm.bias": (features,),
    }
    return [Entry(key, "", shape) for key, shape in left_out.items()]
