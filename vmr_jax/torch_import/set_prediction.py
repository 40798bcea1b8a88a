"""The parts that the checkpoints of Moment-DETR and QD-DETR have in common."""

from vmr_jax.torch_import import Entry, Shapes, linear, norm, size

BOUNDS = 2  # begin and end of each clip, which the models add to its features


def projections(shapes: Shapes, features: int) -> list[Entry]:
    """The two linear layers that clips and words first go through, with their norms."""
    found = []
    for key, name in (("input_vid_proj", "clips"), ("input_txt_proj", "words")):
        for i, width in enumerate((width_of(shapes, key), features)):
            found += norm(f"{key}.{i}.LayerNorm", f"params/{name}_norm_{i}", width)
            found += linear(f"{key}.{i}.net.1", f"params/{name}_{i}", (features, width))
    return found


def width_of(shapes: Shapes, key: str) -> int:
    """The number of features that a projection reads."""
    return size(shapes, f"{key}.0.net.1.weight", 1)


def heads(features: int) -> list[Entry]:
    """The layers that make logits and spans of the slots."""
    found = linear("class_embed", "params/label_head", (2, features))
    for i, outputs in enumerate((features, features, 2)):
        found += linear(f"span_embed.layers.{i}", f"params/span_head_{i}", (outputs, features))
    return found


def word_positions(shapes: Shapes, features: int) -> list[Entry]:
    """Positions of words, left out: they are in every checkpoint, and the default setting does not use them."""
    table = "txt_position_embed.position_embeddings.weight"
    left_out = {
        table: (size(shapes, table, 0), features),
        "txt_position_embed.LayerNorm.weight": (features,),
        "txt_position_embed.LayerNorm.bias": (features,),
    }
    return [Entry(key, "", shape) for key, shape in left_out.items()]
