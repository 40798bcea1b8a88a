"""The two stacks of layers that complete a sentence, and what they read -> `vmr_jax.layers.completion`.

Which words the rows of the completion layer are stands in another file of the official codes, vocab.pkl or
glove.pkl: give its most common words, as many as there are rows but one, in their order, as
config.text.vocabulary.
"""

from typing import Any

import numpy as np

from vmr_jax.layers.completion import UNKNOWN
from vmr_jax.torch_import import Entry, Shapes, count, linear, norm, size
from vmr_jax.torch_import.transformer import attention

_STACKS = {"decoder1": "clip_stack", "decoder2": "word_stack"}
_ATTENTIONS = {"self_attn": "self", "encoder_attn": "memory"}


def sizes(shapes: Shapes, completion: str) -> dict[str, Any]:
    """Fields of the model that the shapes determine; `completion` is the name of the layer of word logits."""
    return {
        "features": size(shapes, "frame_fc.weight", 0),
        "hidden": size(shapes, "trans.decoder1.decoder_layers.0.fc1.weight", 0),
        "layers": count(shapes, r"trans\.decoder1\.decoder_layers\.(\d+)\.fc1\.weight"),
        "vocab_size": size(shapes, f"{completion}.weight", 0) + 1,  # see `_with_unknown`
    }


def inputs(shapes: Shapes) -> dict[str, int]:
    """Widths of the fields of a batch that the model reads."""
    return {"video": size(shapes, "frame_fc.weight", 1), "query_vectors": size(shapes, "word_fc.weight", 1)}


def entries(shapes: Shapes, completion: str) -> list[Entry]:
    """The tensors of the stacks, of the layers below them, and of the layer of word logits, `completion`."""
    fields, widths = sizes(shapes, completion), inputs(shapes)
    features, width = fields["features"], widths["query_vectors"]
    words = fields["vocab_size"] - 1
    found = [
        Entry("mask_vec", "params/mask_vector", (width,)),
        Entry("start_vec", "params/start_vector", (width,)),
        Entry(f"{completion}.weight", "params/completion/kernel", (words, features), _with_unknown),
        Entry(f"{completion}.bias", "params/completion/bias", (words,), _with_unknown),
    ]
    found += linear("frame_fc", "params/clips", (features, widths["video"]))
    found += linear("word_fc", "params/words", (features, width))
    for theirs, ours in _STACKS.items():
        for i in range(fields["layers"]):
            key, path = f"trans.{theirs}.decoder_layers.{i}", f"params/{ours}/layer_{i}"
            found += _layer(key, path, features, fields["hidden"])
    return found


def _with_unknown(x: np.ndarray) -> np.ndarray:
    """[X-1,...] -> [...,X]: the official code drops unknown words, which have id 1 here. Their row is zero."""
    return np.insert(x, UNKNOWN, 0.0, axis=0).T


def _layer(key: str, path: str, features: int, hidden: int) -> list[Entry]:
    found = linear(f"{key}.fc1", f"{path}_hidden", (hidden, features))
    found += linear(f"{key}.fc2", f"{path}_output", (features, hidden))
    found += norm(f"{key}.final_layer_norm", f"{path}_output_norm", features)
    for theirs, ours in _ATTENTIONS.items():
        found += attention(f"{key}.{theirs}", f"{path}_{ours}_attention", features)
        found += norm(f"{key}.{theirs}_layer_norm", f"{path}_{ours}_norm", features)
    return found
