"""Official checkpoints of SCN (ikuinen/semantic_completion_network) -> `vmr_jax.models.scn`.

The tensors stand under "model_parameters". Which words the rows of the completion layer are stands in another
file, vocab.pkl: give the 8000 most common of them, in their order, as config.text.vocabulary.
"""

from collections.abc import Mapping

import numpy as np

from vmr_jax.models.scn import UNKNOWN
from vmr_jax.torch_import import Entry, count, linear, norm, size
from vmr_jax.torch_import.transformer import attention

_STACKS = {"decoder1": "clip_stack", "decoder2": "word_stack"}
_ATTENTIONS = {"self_attn": "self", "encoder_attn": "memory"}


def entries(shapes: Mapping[str, tuple[int, ...]]) -> list[Entry]:
    """All tensors of the checkpoint; widths and numbers of layers are read off the shapes."""
    features, rows = (size(shapes, "frame_fc.weight", axis) for axis in (0, 1))
    width = size(shapes, "word_fc.weight", 1)
    words = size(shapes, "fc_comp.weight", 0)
    found = [
        Entry("mask_vec", "params/mask_vector", (width,)),
        Entry("start_vec", "params/start_vector", (width,)),
        Entry("fc_comp.weight", "params/completion/kernel", (words, features), _with_unknown),
        Entry("fc_comp.bias", "params/completion/bias", (words,), _with_unknown),
    ]
    found += linear("frame_fc", "params/clips", (features, rows))
    found += linear("word_fc", "params/words", (features, width))
    found += linear("fc_props", "params/scores", (size(shapes, "fc_props.weight", 0), features))
    for theirs, ours in _STACKS.items():
        for i in range(count(shapes, rf"trans\.{theirs}\.decoder_layers\.(\d+)\.fc1\.weight")):
            found += _layer(shapes, f"trans.{theirs}.decoder_layers.{i}", f"params/{ours}/layer_{i}", features)
    return found


def _with_unknown(x: np.ndarray) -> np.ndarray:
    """[X-1,...] -> [...,X]: the official code drops unknown words, which have id 1 here. Their row is zero."""
    return np.insert(x, UNKNOWN, 0.0, axis=0).T


def _layer(shapes: Mapping[str, tuple[int, ...]], key: str, path: str, features: int) -> list[Entry]:
    hidden = size(shapes, f"{key}.fc1.weight", 0)
    found = linear(f"{key}.fc1", f"{path}_hidden", (hidden, features))
    found += linear(f"{key}.fc2", f"{path}_output", (features, hidden))
    found += norm(f"{key}.final_layer_norm", f"{path}_output_norm", features)
    for theirs, ours in _ATTENTIONS.items():
        found += attention(f"{key}.{theirs}", f"{path}_{ours}_attention", features)
        found += norm(f"{key}.{theirs}_layer_norm", f"{path}_{ours}_norm", features)
    return found
