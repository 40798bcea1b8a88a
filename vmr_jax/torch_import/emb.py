"""Official checkpoints of EMB (Raymond-sci/EMB) -> `vmr_jax.models.emb`.

The file holds the epoch and the optimizer beside the tensors. Left out are the characters, which the official
model has and never reads, the table of positions, which is a formula, and the word vectors: they come from the
user's GloVe 840B file.
"""

from typing import Any

from vmr_jax.torch_import import Entry, Shapes, count, kernel, linear, lstm, norm, pointwise, size

_WORDS, _CLIPS = "embedding_net.word_emb", "video_affine.linear.conv1d"
# Official stack -> ours, and whether it has guides.
_STACKS = {
    "p2p": ("proposals_self", True),
    "f2f": ("frames_self", True),
    "w2w": ("words_self", False),
    "p2w": ("proposals_words", True),
    "w2p": ("words_proposals", False),
    "f2w": ("frames_words", True),
    "w2f": ("words_frames", False),
    "s2s": ("proposals_again", True),
    "pq2q": ("proposal_words_again", False),
    "v2v": ("frames_again", True),
    "vq2q": ("frame_words_again", False),
}


def hyper_parameters(shapes: Shapes) -> dict[str, Any]:
    """Fields of the model that the shapes determine; they do not tell heads, block, longest and keep."""
    return {
        "features": size(shapes, f"{_CLIPS}.weight", 0),
        "layers": count(shapes, r"encoder\.f2f\.layers\.(\d+)\.norm1\.weight"),
        "guide_kernel": size(shapes, "encoder.f2f.layers.0.guide.conv_layers.0.weight", 2),
        "ranker_kernel": size(shapes, "ranker.encoders.0.weight", 2),
    }


def inputs(shapes: Shapes) -> dict[str, int]:
    """Widths of the fields of a batch that the model reads."""
    keys = {"video": f"{_CLIPS}.weight", "query_vectors": f"{_WORDS}.unk_vec"}
    return {field: size(shapes, key, 1) for field, key in keys.items()}


def entries(shapes: Shapes) -> list[Entry]:
    """All tensors of the checkpoint."""
    fields, widths = hyper_parameters(shapes), inputs(shapes)
    features, width = fields["features"], widths["query_vectors"]
    found = [
        Entry(f"{_WORDS}.pad_vec", "", (1, width)),
        Entry(f"{_WORDS}.unk_vec", "params/vectors/unknown", (1, width)),
        Entry(f"{_WORDS}.glove_vec", "", (size(shapes, f"{_WORDS}.glove_vec", 0), width)),
        Entry("position.pe", "", (size(shapes, "position.pe", 0), features)),
        *(Entry(key, "", shape) for key, shape in shapes.items() if ".char_emb." in key),
        *_linear("embedding_net.linear", "words", width, features),
        *_linear("video_affine.linear", "clips", widths["video"], features),
    ]
    for theirs, (ours, guided) in _STACKS.items():
        for i in range(fields["layers"]):
            key, path = f"encoder.{theirs}.layers.{i}", f"encoder/{ours}_{i}"
            found += _layer(key, path, features)
            if guided:
                found += _guide(shapes, f"{key}.guide", path, features)
    for fuser, ours in (("fuser1", "frames"), ("fuser2", "proposals")):
        found += _fuser(fuser, ours, features)
    found += _linear("highlight_layer.conv1d", "highlight_logit", features, 1)
    for end in ("start", "end"):
        found += lstm(f"predictor.{end}_encoder.rnn", f"params/{end}_lstm", features, features, 1, directions=2)
        found += _linear(f"predictor.{end}_encoder.dense_output", f"{end}_output", 2 * features, features)
        found += _linear(f"predictor.{end}_block.0", f"{end}_hidden", 2 * features, features)
        found += _linear(f"predictor.{end}_block.2", f"{end}_logit", features, 1)
    for i in range(fields["layers"]):
        side = fields["ranker_kernel"]
        found += linear(f"ranker.encoders.{i}", f"params/ranker_{i}", (features, features, side, side))
    return found + linear("ranker.predictor", "params/proposal_logit", (1, features, 1, 1), pointwise)


def _layer(key: str, path: str, features: int) -> list[Entry]:
    found = []
    for name in ("query", "key", "value"):
        found += _linear(f"{key}.attention.{name}", f"{path}/attention/{name}", features, features)
    for layer, name in ((0, "hidden"), (2, "output")):
        found += _linear(f"{key}.dense.{layer}", f"{path}/{name}", features, features)
    found += norm(f"{key}.norm1", f"params/{path}/attention_norm", features)
    return found + norm(f"{key}.norm2", f"params/{path}/output_norm", features)


def _guide(shapes: Shapes, key: str, path: str, features: int) -> list[Entry]:
    weight = f"{key}.conv_layers.0.weight"
    shape = (features, 1, size(shapes, weight, 2), 3)
    found = [Entry(weight, f"params/{path}/guide_kernel", shape, kernel)]
    found += linear(f"{key}.conv_layers.1", f"params/{path}/guide", (features, features, 1, 1), pointwise)
    return found + norm(f"{key}.layer_norm", f"params/{path}/guide_norm", features)


def _fuser(key: str, ours: str, features: int) -> list[Entry]:
    attention, concat = f"{key}.cq_attention", f"{key}.cq_concat"
    return [
        Entry(f"{attention}.w4C", f"params/{ours}_attention/clip", (features, 1)),
        Entry(f"{attention}.w4Q", f"params/{ours}_attention/word", (features, 1)),
        Entry(f"{attention}.w4mlu", f"params/{ours}_attention/product", (1, 1, features)),
        *_linear(f"{attention}.cqa_linear", f"{ours}_attention/linear", 4 * features, features),
        Entry(f"{concat}.weighted_pool.weight", f"params/{ours}_concat/weight", (features, 1)),
        *_linear(f"{concat}.conv1d", f"{ours}_concat/linear", 2 * features, features),
    ]


def _linear(key: str, path: str, inputs: int, features: int) -> list[Entry]:
    """The official linear layers are convolutions of kernel size 1 in a module of their own."""
    return linear(f"{key}.conv1d", f"params/{path}", (features, inputs, 1), pointwise)
