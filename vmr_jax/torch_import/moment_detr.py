"""Official checkpoints of Moment-DETR (jayleicn/moment_detr) -> `vmr_jax.models.moment_detr`.

The positions of words are left out: they are in every checkpoint, and its default setting does not use them.
"""

from typing import Any

from vmr_jax.torch_import import Entry, Shapes, count, linear, norm, size
from vmr_jax.torch_import.set_prediction import BOUNDS, heads, projections, width_of, word_positions
from vmr_jax.torch_import.transformer import decoder_layer, encoder_layer

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
    return {
        "video": width_of(shapes, "input_vid_proj") - BOUNDS,
        "query_vectors": width_of(shapes, "input_txt_proj"),
    }


def entries(shapes: Shapes) -> list[Entry]:
    """All tensors of the checkpoint."""
    fields = hyper_parameters(shapes)
    features = fields["features"]
    found = [Entry("query_embed.weight", "params/queries", (fields["num_queries"], features))]
    found += projections(shapes, features)
    for kind, layer in _LAYERS.items():
        for i in range(fields[f"{kind}_layers"]):
            found += layer(f"transformer.{kind}.layers.{i}", f"params/{kind}_{i}", features, fields["hidden"])
    found += norm("transformer.decoder.norm", "params/decoder_norm", features)
    found += linear("saliency_proj", "params/saliency_head", (1, features))
    return found + heads(features) + word_positions(shapes, features)
