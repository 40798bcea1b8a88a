"""Official checkpoints of CSMGAN (liudaizong/CSMGAN) -> `vmr_jax.models.csmgan`."""

from typing import Any

from vmr_jax.torch_import import Entry, Shapes, count, gru, kernel, linear, lstm, pointwise, size
from vmr_jax.torch_import.transformer import attention

_PROJECTION, _CLIPS = "video_encoder.tran", "video_encoder.rnn"
_PHRASES = ("unigram", "bigram", "trigram")
_UPDATES = {"v": "cross_clips", "s": "cross_words", "v_intra": "within_clips", "s_intra": "within_words"}
_GATES = {"reset_gate": "reset", "update_gate": "update", "out_gate": "candidate"}


def hyper_parameters(shapes: Shapes) -> dict[str, Any]:
    """Fields of the model that the shapes determine.

    They do not tell widths (but their number, which must agree), heads (officially 4), band, nor what is of the
    loss.
    """
    return {
        "features": size(shapes, "atten.q_proj.weight", 0),
        "attention_layers": count(shapes, r"video_encoder\.attn_layers\.(\d+)\.in_proj_weight"),
        "lstm_layers": count(shapes, r"sentence_encoder\.bilstm\.weight_ih_l(\d+)"),
        "projection": shapes.get(f"{_PROJECTION}.weight", (0,))[0],
    }


def inputs(shapes: Shapes) -> dict[str, int]:
    """Widths of the fields of a batch that the model reads."""
    video = (
        f"{_PROJECTION}.weight" if f"{_PROJECTION}.weight" in shapes else "video_encoder.rnn.gru.weight_ih_l0"
    )
    return {
        "video": size(shapes, video, 1),
        "query_vectors": size(shapes, "sentence_encoder.unigram_conv.weight", 1),
    }


def entries(shapes: Shapes) -> list[Entry]:
    """All tensors of the checkpoint."""
    fields, widths = hyper_parameters(shapes), inputs(shapes)
    features, projection, words = fields["features"], fields["projection"], widths["query_vectors"]
    rows = projection or widths["video"]
    found = []
    if projection:
        found += linear(_PROJECTION, "params/projection", (projection, widths["video"]))
    for i in range(fields["attention_layers"]):
        found += attention(f"video_encoder.attn_layers.{i}", f"params/attention_{i}", rows)
    for i, name in enumerate(_PHRASES, 1):
        found += linear(f"sentence_encoder.{name}_conv", f"params/phrases/words_{i}", (words, words, i))
    found += lstm("sentence_encoder.bilstm", "params/sentence", words, words // 2, fields["lstm_layers"], 2)
    for key, path, width in (
        (_CLIPS, "clips", rows),
        ("sentence_encoder.concat", "query", 2 * words + words // 2 * 2),
        ("rnn", "fusion", 2 * features),
    ):
        found += gru(f"{key}.gru", f"params/{path}", width, features // 2, 1, 2)
    for theirs, ours in _UPDATES.items():
        for gate, name in _GATES.items():
            key = f"update_{theirs}.{gate}"
            found += linear(key, f"params/{ours}/{name}", (features, 2 * features))
    square = (features, features)
    anchors = size(shapes, "fc_score.weight", 0)
    return [
        *found,
        Entry("atten.q_proj.weight", "params/cross/clips/kernel", square, kernel),
        *linear("v2s.ws1", "params/cross_attention/query", square),
        Entry("v2s.ws2.weight", "params/cross_attention/key/kernel", square, kernel),
        Entry("v2s.wst.weight", "params/cross_attention/score/kernel", (1, features), kernel),
        *linear("fc_score", "params/head/score", (anchors, features, 1), pointwise),
        *linear("fc_reg", "params/head/offset", (2 * anchors, features, 1), pointwise),
    ]
