"""The agents of AVMR and STRONG (yawenzeng/AVMR, yawenzeng/STRONG), whose programs share them.

Their programs save nothing. What is read here is one dictionary of the state_dicts of an agent's networks under
the names of its class MADDPG: {'actors': [...], 'critics': [...], 'actors_target': [...], 'critics_target':
[...]}, with one agent in each list.
"""

from typing import Any

from vmr_jax.torch_import import Entry, Shapes, count, linear, size


def hidden(shapes: Shapes, key: str) -> tuple[int, ...]:
    """Widths of the hidden layers of the network `key`, such as 'actors.0'."""
    layers = range(1, count(shapes, rf"{key}\.FC(\d+)\.weight") - 1)
    return tuple(size(shapes, f"{key}.FC{i}.weight", 0) for i in layers)


def sizes(shapes: Shapes, prefix: str = "") -> dict[str, Any]:
    """Widths of an agent's networks, whose names begin with `prefix`, as fields of the model."""
    return {
        "actor_hidden": hidden(shapes, f"{prefix}actors.0"),
        "critic_hidden": hidden(shapes, f"{prefix}critics.0"),
    }


def entries(shapes: Shapes, inputs: int, actions: int, path: str, prefix: str = "") -> list[Entry]:
    """All tensors of an agent with states of `inputs` numbers; `path` is its place in our variables."""
    fields, found = sizes(shapes, prefix), []
    first, *later = fields["critic_hidden"]
    wanted = {
        "actor": _pairs([inputs, *fields["actor_hidden"], actions]),
        "critic": [(inputs, first), *_pairs([first + actions, *later, 1])],
    }
    for name, layers in wanted.items():
        for key, collection in ((f"{name}s", "params"), (f"{name}s_target", "targets")):
            for i, (into, out) in enumerate(layers):
                place = f"{collection}/{path}/{name}/layer_{i}"
                found += linear(f"{prefix}{key}.0.FC{i + 1}", place, (out, into))
    return found


def _pairs(widths: list[int]) -> list[tuple[int, int]]:
    return list(zip(widths[:-1], widths[1:]))
