"""Official checkpoints of LGI (JonghwanMun/LGI4temporalgrounding) -> `vmr_jax.models.lgi`.

The checkpoint is a dictionary of the state_dicts of five modules, or four without sequential query attention.
Left out are counts of batches and what the official code does not use: `vti_fn.satt_fn.fc`, and all of
`vti_fn.satt_fn` where there is one phrase.

Of the word vectors it takes only that of unknown words: which row is which word stands in another file, the
"wtoi" of the json that the official preprocessing writes. Both files become one of word vectors, to be given as
config.text.vectors with config.text.trainable=False:

    python -m vmr_jax.torch_import.lgi CHECKPOINT VOCABULARY.json WORDS.npz
"""

import functools
from typing import Any

import numpy as np

from vmr_jax.torch_import import (
    Entry,
    Shapes,
    batch_norm,
    count,
    kernel,
    left_out,
    linear,
    lstm,
    size,
)
from vmr_jax.torch_import.words import Vocabulary, run_command, write_words

_EMBEDDING = "query_enc.embedding.weight"
# The last two special words occur in no query.
WORDS = Vocabulary("LGI", _EMBEDDING, ("<PAD>", "<UNK>", "<S>", "<E>"))
UNKNOWN = WORDS.special.index("<UNK>")


def hyper_parameters(shapes: Shapes) -> dict[str, Any]:
    """Fields of the model that the shapes determine.

    They do not tell heads, activation and self_overlap. The vectors of the vocabulary are left out, so that
    vocab_size stays 0: see the top of this file.
    """
    return {
        "features": size(shapes, "video_enc.vid_emb_fn.0.weight", 0),
        "attention_features": size(shapes, "ta_reg_fn.tatt.feat2att.weight", 0),
        "num_phrases": count(shapes, r"vti_fn\.fusion_fn\.(\d+)\.fc_1\.weight"),
        "local_kernel": size(shapes, "vti_fn.local_fn.0.blocks.0.0.weight", 2),
        "global_layers": count(shapes, r"vti_fn\.global_fn\.(\d+)\.c_lin\.weight"),
        "max_clips": size(shapes, "video_enc.pos_emb_fn.0.weight", 0),
    }


def inputs(shapes: Shapes) -> dict[str, int]:
    """Widths of the fields of a batch that the model reads."""
    return {
        "video": size(shapes, "video_enc.vid_emb_fn.0.weight", 1),
        "query_vectors": size(shapes, _EMBEDDING, 1),
    }


def entries(shapes: Shapes) -> list[Entry]:
    """All tensors of the checkpoint."""
    fields, widths = hyper_parameters(shapes), inputs(shapes)
    features, phrases = fields["features"], fields["num_phrases"]
    hidden = fields["attention_features"], features
    found = _query_encoder(shapes, widths["query_vectors"], features)
    found += linear("video_enc.vid_emb_fn.0", "params/video", (features, widths["video"]))
    positions = fields["max_clips"], features
    found.append(Entry("video_enc.pos_emb_fn.0.weight", "params/positions", positions))
    if phrases > 1:
        found += _query_attention(phrases, *hidden)
    for n in range(phrases):
        found += _interaction(n, features, fields["local_kernel"])
    found += _attention("vti_fn.satt_fn", "params/aggregate" if phrases > 1 else "", *hidden)
    found += left_out("vti_fn.satt_fn.fc", (size(shapes, "vti_fn.satt_fn.fc.weight", 0), features))
    for i in range(fields["global_layers"]):
        found += _non_local(f"vti_fn.global_fn.{i}", f"params/global_{i}", features)
    found += _attention("ta_reg_fn.tatt", "params/attention", *hidden)
    square = (features, features)
    found += linear("ta_reg_fn.tatt.fc", "params/summary", square)
    found += linear("ta_reg_fn.MLP_reg.0", "params/span_hidden", square)
    return found + linear("ta_reg_fn.MLP_reg.2", "params/span", (2, features))


def _query_encoder(shapes: Shapes, width: int, features: int) -> list[Entry]:
    vocabulary = size(shapes, _EMBEDDING, 0)

    def unknown(table: np.ndarray) -> np.ndarray:
        return table[UNKNOWN : UNKNOWN + 1]

    found = [Entry(_EMBEDDING, "params/words/unknown", (vocabulary, width), unknown)]
    return found + lstm("query_enc.rnn", "params/lstm", width, features // 2, 2, directions=2)


def _query_attention(phrases: int, hidden: int, features: int) -> list[Entry]:
    found = []
    for n in range(phrases):
        found += linear(f"sqan.global_emb_fn.{n}", f"params/phrases/query_{n}", (features, features))
    found += linear("sqan.guide_emb_fn.0", "params/phrases/guide", (features, 2 * features))
    found += linear("sqan.att_fn.key2att", "params/phrases/key", (hidden, features))
    found += linear("sqan.att_fn.feat2att", "params/phrases/word", (hidden, features))
    return found + linear("sqan.att_fn.to_alpha", "params/phrases/score", (1, hidden))


def _interaction(n: int, features: int, kernel_size: int) -> list[Entry]:
    """Fusion and local context of phrase n."""
    found = []
    for layer, name in enumerate(("clip", "phrase", "output"), start=1):
        theirs, ours = f"vti_fn.fusion_fn.{n}.fc_{layer}", f"params/fusion_{n}/{name}"
        found += linear(theirs, ours, (features, features))
    block = f"vti_fn.local_fn.{n}.blocks.0"
    for layer, (conv, norm) in enumerate(((0, 1), (3, 4))):
        shape = (features, features, kernel_size)
        found.append(Entry(f"{block}.{conv}.weight", f"params/local_{n}/conv_{layer}/kernel", shape, kernel))
        found += batch_norm(f"{block}.{norm}", f"local_{n}/norm_{layer}", features)
    return found


def _attention(key: str, path: str, hidden: int, features: int) -> list[Entry]:
    """Two layers without bias; left out where `path` is empty."""
    layers = {"feat2att": ("hidden", (hidden, features)), "to_alpha": ("score", (1, hidden))}
    return [
        Entry(f"{key}.{theirs}.weight", path and f"{path}/{ours}/kernel", shape, kernel)
        for theirs, (ours, shape) in layers.items()
    ]


def _non_local(key: str, path: str, features: int) -> list[Entry]:
    """The official code's key is the query of a clip here; its query and value are in one layer."""
    found = linear(f"{key}.v_lin", f"{path}/query", (features, features))
    for part, name in enumerate(("key", "value")):

        def half(x: np.ndarray, part: int = part) -> np.ndarray:
            x = x[part * features : (part + 1) * features]
            return kernel(x) if x.ndim > 1 else x

        found += [
            Entry(f"{key}.c_lin.weight", f"{path}/{name}/kernel", (2 * features, features), half),
            Entry(f"{key}.c_lin.bias", f"{path}/{name}/bias", (2 * features,), half),
        ]
    return found


if __name__ == "__main__":
    run_command(functools.partial(write_words, WORDS))
