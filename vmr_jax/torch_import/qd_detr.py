"""Official checkpoints of QD-DETR (wjun0830/QD-DETR) -> `vmr_jax.models.qd_detr`.

The positions of words are left out: they are in every checkpoint, and its default setting does not use them.
"""

from typing import Any

from vmr_jax.torch_import import Entry, Shapes, count, linear, norm, size
from vmr_jax.torch_import.set_prediction import BOUNDS, heads, projections, width_of, word_positions
from vmr_jax.torch_import.transformer import encoder_layer, feed_forward, slope

# The published checkpoint with sound reads SlowFast and CLIP, then PANN, each with the bounds of the clip. Of
# other widths the shapes do not tell how many of the numbers are sound.
_VIDEO, _AUDIO = 2304 + 512, 2048
_ENCODERS = {"t2v_encoder": "text", "encoder": "encoder"}
# official name -> ours, of the linear layers [F,F] of a decoder layer
_LINEAR = {
    "sa_qcontent_proj": "self_query",
    "sa_qpos_proj": "self_query_place",
    "sa_kcontent_proj": "self_key",
    "sa_kpos_proj": "self_key_place",
    "sa_v_proj": "self_value",
    "self_attn.out_proj": "self_out",
    "ca_qcontent_proj": "query",
    "ca_kcontent_proj": "key",
    "ca_kpos_proj": "key_place",
    "ca_v_proj": "value",
    "ca_qpos_sine_proj": "query_sines",
    "cross_attn.out_proj": "out",
}


def hyper_parameters(shapes: Shapes) -> dict[str, Any]:
    """Fields of the model that the shapes determine.

    They do not tell heads, round_to and normalize_words, nor what is learnt (all_windows, annotated_saliency).
    """
    return {
        "num_queries": size(shapes, "query_embed.weight", 0),
        "features": size(shapes, "class_embed.weight", 1),
        "hidden": size(shapes, "transformer.decoder.layers.0.linear1.weight", 0),
        "encoder_layers": count(shapes, r"transformer\.encoder\.layers\.(\d+)\.linear1\.weight"),
        "decoder_layers": count(shapes, r"transformer\.decoder\.layers\.(\d+)\.linear1\.weight"),
        "audio": width_of(shapes, "input_vid_proj") == _VIDEO + _AUDIO + 2 * BOUNDS,
    }


def inputs(shapes: Shapes) -> dict[str, int]:
    """Widths of the fields of a batch that the model reads."""
    words = {"query_vectors": width_of(shapes, "input_txt_proj")}
    if hyper_parameters(shapes)["audio"]:
        return {"video": _VIDEO, "audio": _AUDIO, **words}
    return {"video": width_of(shapes, "input_vid_proj") - BOUNDS, **words}


def entries(shapes: Shapes) -> list[Entry]:
    """All tensors of the checkpoint."""
    fields = hyper_parameters(shapes)
    features, hidden = fields["features"], fields["hidden"]
    found = [
        Entry("query_embed.weight", "params/decoder/anchors", (fields["num_queries"], 2)),
        Entry("global_rep_token", "params/token", (features,)),
        Entry("global_rep_pos", "params/token_position", (features,)),
    ]
    for i, name in enumerate(("clips", "token"), 1):
        found += linear(f"saliency_proj{i}", f"params/saliency_{name}", (features, features))
    for kind, ours in _ENCODERS.items():
        for i in range(fields["encoder_layers"]):
            key, path = f"transformer.{kind}.layers.{i}", f"params/{ours}_{i}"
            found += encoder_layer(key, path, features, hidden)
            found.append(slope(f"{key}.activation", f"{path}/slope"))
    for i in range(fields["decoder_layers"]):
        key, path = f"transformer.decoder.layers.{i}", f"params/decoder/layer_{i}"
        found += _decoder_layer(key, path, features, hidden, first=i == 0)
    found += _perceptrons(features, fields["decoder_layers"])
    found += norm("transformer.decoder.norm", "params/decoder/norm", features)
    return found + projections(shapes, features) + heads(features) + word_positions(shapes, features)


def _decoder_layer(key: str, path: str, features: int, hidden: int, first: bool) -> list[Entry]:
    names = {**_LINEAR, "ca_qpos_proj": "query_place"} if first else _LINEAR
    found = []
    for theirs, ours in names.items():
        found += linear(f"{key}.{theirs}", f"{path}/{ours}", (features, features))
    for i, ours in enumerate(("attention", "memory", "output"), 1):
        found += norm(f"{key}.norm{i}", f"{path}/{ours}_norm", features)
    return [*found, *feed_forward(key, path, features, hidden), slope(f"{key}.activation", f"{path}/slope")]


def _perceptrons(features: int, layers: int) -> list[Entry]:
    """Those of the decoder; two are for the layers after the first, and in every checkpoint."""
    later = layers > 1
    found = []
    for theirs, ours, widths, used in (
        ("ref_point_head", "place", (features, features), True),
        ("ref_anchor_head", "width", (features, 1), True),
        ("query_scale", "scale", (features, features), later),
        ("bbox_embed", "move", (features, features, 2), later),
    ):
        for i, width in enumerate(widths):
            key, path = f"transformer.decoder.{theirs}.layers.{i}", f"params/decoder/{ours}/layer_{i}"
            of_layer = linear(key, path, (width, features))
            found += of_layer if used else [Entry(entry.key, "", entry.shape) for entry in of_layer]
    return found
