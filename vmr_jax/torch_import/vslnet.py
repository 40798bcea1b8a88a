"""Official checkpoints of VSLNet (26hzhang/VSLNet, the PyTorch port) -> `vmr_jax.models.vslnet`.

The word vectors in the checkpoint are left out: they come from the user's GloVe 840B file. The characters are
in the order of the official preprocessing, which the checkpoint does not hold; give it as
config.text.characters.
"""

from collections.abc import Mapping
from typing import Any

from vmr_jax.torch_import import Entry, Shapes, count, kernel, linear, lstm, norm, pointwise, size

_CLIPS, _WORDS, _CHARS = "video_affine.linear", "embedding_net.word_emb", "embedding_net.char_emb"
_CONVS = "conv_block.depthwise_separable_conv"


def hyper_parameters(shapes: Shapes) -> dict[str, Any]:
    """Fields of the model that the shapes determine.

    They do not tell heads and keep. The word vectors are left out, so that vocab_size stays 0.
    """
    rnn = "predictor.start_encoder.lstm.weight_ih_l0" in shapes
    return {
        "features": size(shapes, f"{_CLIPS}.conv1d.weight", 0),
        "conv_layers": count(shapes, r"feature_encoder\.conv_block\.layer_norms\.(\d+)\.weight"),
        "conv_kernel": size(shapes, f"feature_encoder.{_CONVS}.0.0.weight", 2),
        "max_positions": size(shapes, "feature_encoder.pos_embedding.position_embeddings.weight", 0),
        "predictor": "rnn" if rnn else "transformer",
        "highlight": True,
        "char_features": size(shapes, f"{_CHARS}.char_emb.weight", 1),
        "num_chars": size(shapes, f"{_CHARS}.char_emb.weight", 0),
    }


def inputs(shapes: Shapes) -> dict[str, int]:
    """Widths of the fields of a batch that the model reads."""
    keys = {"video": f"{_CLIPS}.conv1d.weight", "query_vectors": f"{_WORDS}.unk_vec"}
    return {field: size(shapes, key, 1) for field, key in keys.items()}


def entries(shapes: Shapes) -> list[Entry]:
    """All tensors of the checkpoint."""
    fields, widths = hyper_parameters(shapes), inputs(shapes)
    features = fields["features"]
    found = _embedding(shapes, fields, widths["query_vectors"])
    found += _linear(_CLIPS, "clips", widths["video"], features)
    found += _encoder("feature_encoder", "encoder", fields)
    found += [
        Entry("cq_attention.w4C", "params/attention/clip", (features, 1)),
        Entry("cq_attention.w4Q", "params/attention/word", (features, 1)),
        Entry("cq_attention.w4mlu", "params/attention/product", (1, 1, features)),
        Entry("cq_concat.weighted_pool.weight", "params/concat/weight", (features, 1)),
    ]
    found += _linear("cq_attention.cqa_linear", "attention/linear", 4 * features, features)
    found += _linear("cq_concat.conv1d", "concat/linear", 2 * features, features)
    found += _linear("highlight_layer.conv1d", "highlight_logit", features, 1)
    return found + _predictor(fields)


def _embedding(shapes: Shapes, fields: Mapping[str, Any], width: int) -> list[Entry]:
    chars = fields["char_features"]
    found = [
        Entry(f"{_WORDS}.pad_vec", "", (1, width)),
        Entry(f"{_WORDS}.unk_vec", "params/words/unknown", (1, width)),
        Entry(f"{_WORDS}.glove_vec", "", (size(shapes, f"{_WORDS}.glove_vec", 0), width)),
        Entry(f"{_CHARS}.char_emb.weight", "params/words/characters", (fields["num_chars"], chars)),
    ]
    joined = width
    for i in range(count(shapes, r"embedding_net\.char_emb\.char_convs\.(\d+)\.0\.weight")):
        channels = size(shapes, f"{_CHARS}.char_convs.{i}.0.weight", 0)
        shape = (channels, chars, 1, i + 1)
        found += linear(f"{_CHARS}.char_convs.{i}.0", f"params/words/char_conv_{i + 1}", shape)
        joined += channels
    return found + _linear("embedding_net.linear", "words/linear", joined, fields["features"])


def _encoder(key: str, path: str, fields: Mapping[str, Any]) -> list[Entry]:
    """A feature encoder: positions, convolutions, one attention block."""
    features, width = fields["features"], fields["conv_kernel"]
    positions = f"{key}.pos_embedding.position_embeddings.weight"
    found = [Entry(positions, f"params/{path}/positions", (fields["max_positions"], features))]
    convs = f"{key}.{_CONVS}"
    for i in range(fields["conv_layers"]):
        found += norm(f"{key}.conv_block.layer_norms.{i}", f"params/{path}/conv_norm_{i}", features)
        depthwise = f"params/{path}/depthwise_{i}/kernel"
        found.append(Entry(f"{convs}.{i}.0.weight", depthwise, (features, 1, width), kernel))
        found += linear(f"{convs}.{i}.1", f"params/{path}/pointwise_{i}", (features, features, 1), pointwise)
    block = f"{key}.attention_block"
    for name in ("query", "key", "value"):
        found += _linear(f"{block}.{name}", f"{path}/attention/{name}", features, features)
    found += norm(f"{block}.layer_norm1", f"params/{path}/attention_norm", features)
    found += norm(f"{block}.layer_norm2", f"params/{path}/output_norm", features)
    return found + _linear(f"{block}.out_layer", f"{path}/output", features, features)


def _predictor(fields: Mapping[str, Any]) -> list[Entry]:
    found, features = [], fields["features"]
    if fields["predictor"] == "rnn":
        for end in ("start", "end"):
            found += lstm(f"predictor.{end}_encoder.lstm", f"params/{end}_lstm", features, features, 1)
    else:
        found += _encoder("predictor.encoder", "span_encoder", fields)
        for end in ("start", "end"):
            found += norm(f"predictor.{end}_layer_norm", f"params/{end}_norm", features)
    for end in ("start", "end"):
        found += _linear(f"predictor.{end}_block.0", f"{end}_hidden", 2 * features, features)
        found += _linear(f"predictor.{end}_block.2", f"{end}_logit", features, 1)
    return found


def _linear(key: str, path: str, inputs: int, features: int) -> list[Entry]:
    """The official linear layers are convolutions of kernel size 1 in a module of their own."""
    return linear(f"{key}.conv1d", f"params/{path}", (features, inputs, 1), pointwise)
