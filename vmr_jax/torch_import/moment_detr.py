"""Official checkpoints of Moment-DETR (jayleicn/moment_detr) -> `vmr_jax.models.moment_detr`.

The positions of words are left out: they are in every checkpoint, and its default setting does not use them.
"""

from typing import Any

from vmr_jax.torch_import import Entry, Shapes, count, linear, norm, size
from vmr_jax.torch_import.transformer import decoder_layer, encoder_layer

_BOUNDS = 2  # begin and end of each clip, which the model adds to its features
_LAYERS = {"encoder": encoder_layer, "decoder": decoder_layer}


def hyper_parameters(shapes: Shapes) -> dict[str, Any]:
    """Fields of the model that the shapes determine.

    They do not tell heads, round_to and normalize_words, nor what is learnt (all_windows, annotated_saliency).
    """
    fields = {
        "num_queries": size(shapes, "query_embed.weight", 0),
        "features": size(shapes, "query_embed.weight", 1),
        "hidden": size(shapes, "transformer.decoder.layers.0.linear1.weight", 0),
    }
    for kind in _LAYERS:
        layers = count(shapes, rf"transformer\.{kind}\.layers\.(\d+)\.linear1\.weight")
        fields[f"{kind}_layers"] = layers
    return fields


def inputs(shapes: Shapes) -> dict[str, int]:
    """Widths of the fields of a batch that the model reads."""
    clips, words = (size(shapes, f"input_{name}_proj.0.net.1.weight", 1) for name in ("vid", "txt"))
    return {"video": clips - _BOUNDS, "query_vectors": words}


def entries(shapes: Shapes) -> list[Entry]:
    """All tensors of the checkpoint."""
    fields, widths = hyper_parameters(shapes), inputs(shapes)
    features = fields["features"]
    found = [Entry("query_embed.weight", "params/queries", (fields["num_queries"], features))]
    found += _projection("input_vid_proj", "clips", widths["video"] + _BOUNDS, features)
    found += _projection("input_txt_proj", "words", widths["query_vectors"], features)
    for kind, layer in _LAYERS.items():
        for i in range(fields[f"{kind}_layers"]):
            found += layer(f"transformer.{kind}.layers.{i}", f"params/{kind}_{i}", features, fields["hidden"])
    found += norm("transformer.decoder.norm", "params/decoder_norm", features)
    found += linear("class_embed", "params/label_head", (2, features))
    for i, outputs in enumerate((features, features, 2)):
        found += linear(f"span_embed.layers.{i}", f"params/span_head_{i}", (outputs, features))
    found += linear("saliency_proj", "params/saliency_head", (1, features))
    return found + _word_positions(shapes, features)


def _projection(key: str, name: str, width: int, features: int) -> list[Entry]:
    """The two linear layers that clips or words first go through, with their norms."""
    found = []
    for i, inputs_of_layer in enumerate((width, features)):
        found += norm(f"{key}.{i}.LayerNorm", f"params/{name}_norm_{i}", inputs_of_layer)
        found += linear(f"{key}.{i}.net.1", f"params/{name}_{i}", (features, inputs_of_layer))
    return found


def _word_positions(shapes: Shapes, features: int) -> list[Entry]:
    table = "txt_position_embed.position_embeddings.weight"
    left_out = {
        table: (size(shapes, table, 0), features),
        "txt_position_embed.LayerNorm.weight": (features,),
        "txt_position_embed.LayerNorm.bias": (features,),
    }
    return [Entry(key, "", shape) for key, shape in left_out.items()]
