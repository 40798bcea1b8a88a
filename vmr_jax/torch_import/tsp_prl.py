"""Official checkpoints of TSP-PRL (WuJie1010/TSP-PRL) -> `vmr_jax.models.tsp_prl`.

Nothing is left out. The counter of updates, which is in no checkpoint, starts at zero.
"""

from collections.abc import Mapping

from vmr_jax.models.tsp_prl import BRANCHES
from vmr_jax.torch_import import Entry, count, kernel, linear, size

_ENCODERS = {  # official name (sic) -> ours
    "gobal_fc": "global",
    "sentence_fc": "query",
    "local_fc": "agent/local",
    "location_fc": "agent/location",
    "state_fc": "agent/state",
}


def entries(shapes: Mapping[str, tuple[int, ...]]) -> list[Entry]:
    """All tensors of the checkpoint; the widths are read off the shapes."""
    features = size(shapes, "gru.weight_hh", 1)
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
    return found + _critic(shapes, features)


def _heads(key: str, path: str, actions: int, features: int) -> list[Entry]:
    """Policy and value of the root or of a leaf."""
    policy = _linear(f"{key}_policy", f"agent/{path}_policy", (actions, features))
    return policy + _linear(f"{key}_value", f"agent/{path}_value", (1, features))


def _critic(shapes: Mapping[str, tuple[int, ...]], features: int) -> list[Entry]:
    """The layers of the IoU's logit; ours number the hidden ones alone."""
    layers, found, inputs = count(shapes, r"iou_fc(\d+)\.weight") - 1, [], features
    for i in range(1, layers + 1):
        outputs = size(shapes, f"iou_fc{i}.weight", 0)
        path = "agent/iou" if i == layers else f"agent/iou_{i - 1}"
        found += _linear(f"iou_fc{i}", path, (outputs, inputs))
        inputs = outputs
    return found


def _linear(key: str, path: str, shape: tuple[int, ...]) -> list[Entry]:
    return linear(key, f"params/{path}", shape)
