"""Official checkpoints of DRN (Alvin-Zeng/DRN) -> `vmr_jax.models.drn`.

The tensors stand under "state_dict". The vectors of the words are among them; which word has which stands in
another file, Charades_word2id.json, with ids from 1 on. Give its words, as a JSON list in the order of their
ids, as config.text.vocabulary, with config.text.vectors=none.

Left out are counts of batches and what the official code builds and does not use: a second attention over the
words, and the centre-ness.
"""

from typing import Any

import numpy as np

from vmr_jax.layers.text import FIRST_WORD
from vmr_jax.torch_import import Entry, Shapes, batch_norm, kernel, left_out, linear, lstm, size

_EMBEDDING, _HEAD = "query_encoder.embedding.weight", "fcos.head"
_UNKNOWN = FIRST_WORD - 1  # official ids are padding, then words


def hyper_parameters(shapes: Shapes) -> dict[str, Any]:
    """Fields of the model that the shapes determine.

    They do not tell segments, frames, levels, losses, stages and how candidates are ranked.
    """
    return {
        "features": size(shapes, f"{_HEAD}.cls_logits.weight", 1),
        "first_features": size(shapes, "backbone_net.forward_conv0.0.weight", 0),
        "query_features": size(shapes, "query_encoder.biLSTM.weight_hh_l0", 1),
        "position_features": size(shapes, "position_transform.weight", 0),
        "vocab_size": size(shapes, _EMBEDDING, 0) + 1,  # see `_with_unknown`
    }


def inputs(shapes: Shapes) -> dict[str, int]:
    """Widths of the fields of a batch that the model reads."""
    return {"video": size(shapes, "prop_fc.weight", 1), "query_vectors": size(shapes, _EMBEDDING, 1)}


def entries(shapes: Shapes) -> list[Entry]:
    """All tensors of the checkpoint."""
    fields, widths = hyper_parameters(shapes), inputs(shapes)
    features, first, query = fields["features"], fields["first_features"], fields["query_features"]
    dim, position = widths["video"], fields["position_features"]
    found = _query_encoder(fields["vocab_size"] - 1, widths["query_vectors"], query)
    found += linear("prop_fc", "params/segment", (dim, dim))
    found += linear("position_transform", "params/position", (position, 3))
    for level, gated in enumerate((dim, first, 2 * first)):
        outputs = first * 2**level
        found += linear(f"qInput{level}", f"params/gate_{level}", (gated, 2 * query))
        joined = gated + position if level == 0 else gated
        found += _block(f"backbone_net.forward_conv{level}", f"conv_{level}", (outputs, joined, 3))
        found += _block(f"fpn.fpn_inner{level + 1}", f"inner_{level}", (features, outputs, 1))
        found += _block(f"fpn.fpn_layer{level + 1}", f"layer_{level}", (features, features, 3))
        found.append(Entry(f"{_HEAD}.scales.{level}.scale", f"params/scale_{level}", (1,)))
    return found + _head(features)


def _query_encoder(words: int, width: int, query: int) -> list[Entry]:
    key, both = "query_encoder", 2 * query
    found = [Entry(_EMBEDDING, "params/query/words/offset", (words, width), _with_unknown)]
    found += lstm(f"{key}.biLSTM", "params/query/lstm", width, query, 1, directions=2)
    found += linear(f"{key}.qInput", "params/query/summary", (query, 2 * both))
    found += linear(f"{key}.cmd_inter2logits", "params/query/score", (1, both))
    for level in range(3):
        found += linear(f"{key}.qInput{level}", f"params/query/command_{level}", (both, query))
    # It reads vectors of 1024 numbers, whatever the width of the LSTM.
    for layer, shape in enumerate(((1, 1024), (1024, 2048), (2048, 2048)), start=1):
        found += left_out(f"{key}.textualAttention.W{layer}", shape)
    return found


def _with_unknown(x: np.ndarray) -> np.ndarray:
    """[X-1,W] -> [X,W]: the official code knows all words; the unknown one's offset is zero here."""
    return np.insert(x, _UNKNOWN, 0.0, axis=0)


def _head(features: int) -> list[Entry]:
    path, half = "head", features // 2
    found = linear(f"{_HEAD}.cls_logits", f"params/{path}/inside", (1, features, 3))
    found += linear(f"{_HEAD}.bbox_pred", f"params/{path}/distance", (2, features, 3))
    found += linear(f"{_HEAD}.iou_scores.3", f"params/{path}/iou", (1, half, 1))
    found += left_out(f"{_HEAD}.centerness", (1, features, 3))
    for theirs, ours in (("cls_tower", "inside_tower"), ("bbox_tower", "distance_tower")):
        found += _block(f"{_HEAD}.{theirs}", f"{path}/{ours}", (features, features, 3), bias=True)
    found += _block(f"{_HEAD}.mix_fc", f"{path}/iou_mix", (features, 2 * features, 1), bias=True)
    return found + _block(f"{_HEAD}.iou_scores", f"{path}/iou_hidden", (half, features, 3), bias=True)


def _block(key: str, path: str, shape: tuple[int, int, int], bias: bool = False) -> list[Entry]:
    """A convolution and its batch normalisation."""
    if bias:
        found = linear(f"{key}.0", f"params/{path}/conv", shape)
    else:
        found = [Entry(f"{key}.0.weight", f"params/{path}/conv/kernel", shape, kernel)]
    return found + batch_norm(f"{key}.1", f"{path}/norm", shape[0])
