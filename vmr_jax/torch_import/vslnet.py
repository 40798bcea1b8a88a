"""Official checkpoints of VSLNet (26hzhang/VSLNet, the PyTorch port) -> `vmr_jax.models.vslnet`.

The word vectors in the checkpoint are left out: they come from the user's GloVe 840B file. The characters are
in the order of the official preprocessing, which the checkpoint does not hold; give it as
config.text.characters.
"""

from collections.abc import Mapping

from vmr_jax.torch_import import Entry, count, kernel, linear, lstm, norm, pointwise, size


def entries(shapes: Mapping[str, tuple[int, ...]]) -> list[Entry]:
    """All tensors of the checkpoint; the widths and the kind of predictor are read off the shapes."""
    features, rows = (size(shapes, "video_affine.linear.conv1d.weight", axis) for axis in (0, 1))
    found = _embedding(shapes, features)
    found += _linear("video_affine.linear", "clips", rows, features)
    found += _encoder(shapes, "feature_encoder", "encoder", features)
    found += [
        Entry("cq_attention.w4C", "params/attention/clip", (features, 1)),
        Entry("cq_attention.w4Q", "params/attention/word", (features, 1)),
        Entry("cq_attention.w4mlu", "params/attention/product", (1, 1, features)),
        Entry("cq_concat.weighted_pool.weight", "params/concat/weight", (features, 1)),
    ]
    found += _linear("cq_attention.cqa_linear", "attention/linear", 4 * features, features)
    found += _linear("cq_concat.conv1d", "concat/linear", 2 * features, features)
    found += _linear("highlight_layer.conv1d", "highlight_logit", features, 1)
    return found + _predictor(shapes, features)


def _embedding(shapes: Mapping[str, tuple[int, ...]], features: int) -> list[Entry]:
    words, chars = "embedding_net.word_emb", "embedding_net.char_emb"
    width = size(shapes, f"{words}.unk_vec", 1)
    table = (size(shapes, f"{chars}.char_emb.weight", 0), size(shapes, f"{chars}.char_emb.weight", 1))
    found = [
        Entry(f"{words}.pad_vec", "", (1, width)),
        Entry(f"{words}.unk_vec", "params/words/unknown", (1, width)),
        Entry(f"{words}.glove_vec", "", (size(shapes, f"{words}.glove_vec", 0), width)),
        Entry(f"{chars}.char_emb.weight", "params/words/characters", table),
    ]
    joined = width
    for i in range(count(shapes, r"embedding_net\.char_emb\.char_convs\.(\d+)\.0\.weight")):
        channels = size(shapes, f"{chars}.char_convs.{i}.0.weight", 0)
        shape = (channels, table[1], 1, i + 1)
        found += linear(f"{chars}.char_convs.{i}.0", f"params/words/char_conv_{i + 1}", shape)
        joined += channels
    return found + _linear("embedding_net.linear", "words/linear", joined, features)


def _encoder(shapes: Mapping[str, tuple[int, ...]], key: str, path: str, features: int) -> list[Entry]:
    """A feature encoder: positions, convolutions, one attention block."""
    positions = f"{key}.pos_embedding.position_embeddings.weight"
    found = [Entry(positions, f"params/{path}/positions", (size(shapes, positions, 0), features))]
    convs = f"{key}.conv_block.depthwise_separable_conv"
    for i in range(count(shapes, rf"{key}\.conv_block\.layer_norms\.(\d+)\.weight")):
        width = size(shapes, f"{convs}.{i}.0.weight", 2)
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


def _predictor(shapes: Mapping[str, tuple[int, ...]], features: int) -> list[Entry]:
    found = []
    if "predictor.start_encoder.lstm.weight_ih_l0" in shapes:
        for end in ("start", "end"):
            found += lstm(f"predictor.{end}_encoder.lstm", f"params/{end}_lstm", features, features, 1)
    else:
        found += _encoder(shapes, "predictor.encoder", "span_encoder", features)
        for end in ("start", "end"):
            found += norm(f"predictor.{end}_layer_norm", f"params/{end}_norm", features)
    for end in ("start", "end"):
        found += _linear(f"predictor.{end}_block.0", f"{end}_hidden", 2 * features, features)
        found += _linear(f"predictor.{end}_block.2", f"{end}_logit", features, 1)
    return found


def _linear(key: str, path: str, inputs: int, features: int) -> list[Entry]:
    """The official linear layers are convolutions of kernel size 1 in a module of their own."""
    return linear(f"{key}.conv1d", f"params/{path}", (features, inputs, 1), pointwise)
