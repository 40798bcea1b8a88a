"""Official checkpoints of TSP-PRL (WuJie1010/TSP-PRL) -> `vmr_jax.models.tsp_prl`.

Nothing is left out.
"""

from typing import Any

from vmr_jax.models.tsp_prl import BRANCHES
from vmr_jax.torch_import import Entry, Shapes, count, kernel, linear, size

COUNTERS = ("schedule/step",)
_ENCODERS = {  # official name (sic) -> ours
    "gobal_fc": "global",
    "sentence_fc": "query",
    "local_fc": "agent/local",
    "location_fc": "agent/location",
    "state_fc": "agent/state",
}


_UNITS = 10  # units of a video that are read together


def hyper_parameters(shapes: Shapes) -> dict[str, Any]:
    """Fields of the model that the shapes determine.

    They do not tell horizon, whole_units and slip_in_first_window, nor whether the vector of the query is that
    of the sentence or the mean of the word vectors (text); the layers before the last of the IoU's logit are
    its hidden ones.
    """
    hidden = range(1, count(shapes, r"iou_fc(\d+)\.weight") - 1)
    return {
        "features": size(shapes, "gru.weight_hh", 1),
        "critic_features": tuple(size(shapes, f"iou_fc{i}.weight", 0) for i in hidden),
    }


def inputs(shapes: Shapes) -> dict[str, int]:
    """Widths of the fields of a batch that the model reads: 'sentence', or 'query_vectors' in its place."""
    sentence = size(shapes, "sentence_fc.weight", 1)
    video = size(shapes, "gobal_fc.weight", 1) // _UNITS
    return {"video": video, "sentence": sentence, "query_vectors": sentence}


def entries(shapes: Shapes) -> list[Entry]:
    """All tensors of the checkpoint."""
    fields = hyper_parameters(shapes)
    features = fields["features"]
    found = []
    for key, path in _ENCODERS.items():
        found += _linear(key, path, (features, size(shapes, f"{key}.weight", 1)))
    for ours, theirs in (("input", "ih"), ("recurrent", "hh")):
        width = (3 * features, features)
        found += [
            Entry(f"gru.weight_{theirs}", f"params/agent/gru/{ours}_kernel", width, kernel),
            Entry(f"gru.bias_{theirs}", f"params/agent/gru/{ours}_bias", width[:1]),
        ]
    found += _heads("global", "root", len(BRANCHES), features)
    for name, moves in BRANCHES.items():
        found += _heads(name, f"leaf_{name}", moves, features)
    return found + _critic(features, fields["critic_features"])


def _heads(key: str, path: str, actions: int, features: int) -> list[Entry]:
    """Policy and value of the root or of a leaf."""
    policy = _linear(f"{key}_policy", f"agent/{path}_policy", (actions, features))
    return policy + _linear(f"{key}_value", f"agent/{path}_value", (1, features))


def _critic(features: int, hidden: tuple[int, ...]) -> list[Entry]:
    """The layers of the IoU's logit, officially numbered from 1; ours number the hidden ones alone."""
    found, width = [], features
    for i, outputs in enumerate(hidden):
        found += _linear(f"iou_fc{i + 1}", f"agent/iou_{i}", (outputs, width))
        width = outputs
    return found + _linear(f"iou_fc{len(hidden) + 1}", "agent/iou", (1, width))


def _linear(key: str, path: str, shape: tuple[int, ...]) -> list[Entry]:
    return linear(key, f"params/{path}", shape)
