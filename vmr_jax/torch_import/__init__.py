"""Official PyTorch checkpoints -> our variables, one file of this folder per architecture.

The file of an architecture has its name and one function, `entries(shapes)`: it is given the shape of every
tensor in the checkpoint and says which tensors there must be, of which shapes, and where each goes. The
hyper-parameters are read off the shapes. `load` does the rest, and accepts nothing that is left over, missing
or of another shape.

PyTorch is imported by `read_checkpoint` alone.
"""

import dataclasses
import importlib
import os
import pickle
import pkgutil
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from flax import traverse_util

from vmr_jax import models
from vmr_jax.errors import UserError, nearest, unknown

# Keys under which training scripts save the tensors.
WRAPPERS = ("state_dict", "model", "model_parameters", "net")
LISTED = 8  # tensors that an error message names


@dataclasses.dataclass(frozen=True)
class Entry:
    """One tensor of the checkpoint and its place in our variables.

    Attributes:
      key: official name of the tensor.
      path: where it goes, such as 'params/clips/linear/kernel'; '' leaves it out.
      shape: the shape it must have in the checkpoint.
      layout: turns it into ours, one of the functions below.
    """

    key: str
    path: str
    shape: tuple[int, ...]
    layout: Callable[[np.ndarray], np.ndarray] = np.asarray


def kernel(x: np.ndarray) -> np.ndarray:
    """Linear and convolution weights: [out,in,...] -> [...,in,out]."""
    return np.moveaxis(x, (0, 1), (-1, -2))


def pointwise(x: np.ndarray) -> np.ndarray:
    """Weights of a convolution of kernel size 1: [out,in,1,...] -> [in,out], a linear layer's."""
    return x.reshape(x.shape[:2]).T


def linear(key: str, path: str, shape: tuple[int, ...], layout: Callable = kernel) -> list[Entry]:
    """Weight (of the official `shape`) and bias of a linear layer or convolution."""
    return [
        Entry(f"{key}.weight", f"{path}/kernel", shape, layout),
        Entry(f"{key}.bias", f"{path}/bias", shape[:1]),
    ]


def norm(key: str, path: str, features: int) -> list[Entry]:
    """Weight and bias of a layer normalisation."""
    return [
        Entry(f"{key}.weight", f"{path}/scale", (features,)),
        Entry(f"{key}.bias", f"{path}/bias", (features,)),
    ]


def lstm(key: str, path: str, inputs: int, features: int, layers: int, directions: int = 1) -> list[Entry]:
    """All tensors of a torch.nn.LSTM that become those of `vmr_jax.layers.recurrent.LSTM`."""
    return _recurrent(4, key, path, inputs, features, layers, directions)


def gru(key: str, path: str, inputs: int, features: int, layers: int, directions: int = 1) -> list[Entry]:
    """All tensors of a torch.nn.GRU that become those of `vmr_jax.layers.recurrent.GRU`."""
    return _recurrent(3, key, path, inputs, features, layers, directions)


def _recurrent(gates, key, path, inputs, features, layers, directions) -> list[Entry]:
    width, entries = gates * features, []
    for layer in range(layers):
        for direction in ("", "_reverse")[:directions]:
            ours, theirs = f"{path}/layer_{layer}{direction}", f"l{layer}{direction}"
            entries += [
                Entry(f"{key}.weight_ih_{theirs}", f"{ours}/input_kernel", (width, inputs), kernel),
                Entry(f"{key}.weight_hh_{theirs}", f"{ours}/recurrent_kernel", (width, features), kernel),
                Entry(f"{key}.bias_ih_{theirs}", f"{ours}/input_bias", (width,)),
                Entry(f"{key}.bias_hh_{theirs}", f"{ours}/recurrent_bias", (width,)),
            ]
        inputs = directions * features
    return entries


def count(shapes: Iterable[str], pattern: str) -> int:
    """The number of layers: 1 + the largest number that the group of `pattern` matches, else 0."""
    found = (re.fullmatch(pattern, key) for key in shapes)
    return max((int(match[1]) + 1 for match in found if match), default=0)


def size(shapes: Mapping[str, tuple[int, ...]], key: str, axis: int) -> int:
    """Length of one axis of a tensor, from which a hyper-parameter is read; UserError without it."""
    if axis >= len(shapes.get(key, ())):
        raise UserError(
            f'The checkpoint has no tensor "{key}" of {axis + 1} or more axes.{nearest(key, shapes)} It is of '
            "another architecture, or not complete; check the name of the architecture and the file."
        )
    return shapes[key][axis]


def architectures() -> list[str]:
    """Returns the names of the architectures whose official checkpoints can be read.

    They are the files of this folder that are named as an architecture; the others are parts of several.
    """
    return sorted({m.name for m in pkgutil.iter_modules(__path__)} & set(models.architectures()))


def load(name: str, state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """Turns an official checkpoint into the variables of `vmr_jax.models.create(name, ...)`.

    Args:
      name: the architecture.
      state_dict: official names -> numpy arrays or PyTorch tensors. A wrapper ('state_dict', 'model') around
        them and a 'module.' before every name are taken off. Where one holds a state_dict per module, names are
        'MODULE.NAME'.

    Returns:
      {'params': ..., and 'batch_stats' where there are any} of numpy arrays.

    Raises:
      UserError: for an unknown architecture, and for tensors left over, missing or of another shape.
    """
    if name not in architectures():
        raise unknown("There is no import of official checkpoints of the architecture", name, architectures())
    return convert(name, state_dict, importlib.import_module(f"{__name__}.{name}").entries)


def convert(
    name: str, state_dict: Mapping[str, Any], entries: Callable[[Mapping[str, tuple[int, ...]]], list[Entry]]
) -> dict[str, Any]:
    """Turns a checkpoint into the tree of numpy arrays that `entries(shapes)` lays out.

    `name` is for messages; `state_dict` and errors are those of `load`.
    """
    tensors = _tensors(state_dict)
    shapes = {key: tuple(x.shape) for key, x in tensors.items()}
    found = entries(shapes)
    _check(name, found, shapes)
    leaves = {entry.path: entry.layout(_numpy(tensors[entry.key])) for entry in found if entry.path}
    return traverse_util.unflatten_dict(leaves, sep="/")


def _numpy(x: Any) -> np.ndarray:
    """A float32 copy of a numpy array or of a PyTorch tensor of any floating dtype."""
    if hasattr(x, "detach"):
        x = x.detach().float().cpu().numpy()  # numpy has no bfloat16
    return np.array(x, np.float32)


def _tensors(state_dict: Mapping[str, Any]) -> dict[str, Any]:
    for wrapper in WRAPPERS:
        if isinstance(state_dict.get(wrapper), Mapping):
            state_dict = state_dict[wrapper]
    tensors = dict(_flat(state_dict))
    foreign = [key for key, x in tensors.items() if not hasattr(x, "shape")]
    if foreign or not tensors:
        raise UserError(
            f"The checkpoint is not a dictionary of tensors: {_listed(foreign) or 'it is empty'}. Expected is "
            f"what torch.save(model.state_dict(), ...) writes, or that under one of: {', '.join(WRAPPERS)}."
        )
    return tensors


def _flat(state_dict: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields the tensors of nested dictionaries, names joined with '.', each without its 'module.'."""
    for key, x in state_dict.items():
        name = prefix + key.removeprefix("module.")
        if isinstance(x, Mapping):
            yield from _flat(x, f"{name}.")
        else:
            yield name, x


def _check(name: str, entries: list[Entry], shapes: dict[str, tuple[int, ...]]) -> None:
    expected = {entry.key: entry.shape for entry in entries}
    wrong = [
        f"{key} is {shapes[key]}, expected {shape}"
        for key, shape in expected.items()
        if key in shapes and shapes[key] != shape
    ]
    problems = {
        "left over": [key for key in shapes if key not in expected],
        "missing": [key for key in expected if key not in shapes],
        "of another shape": wrong,
    }
    if any(problems.values()):
        found = "; ".join(f"{len(keys)} {what}: {_listed(keys)}" for what, keys in problems.items() if keys)
        raise UserError(
            f"The checkpoint does not fit {name}. Tensors {found}. Expected is the official code's "
            "state_dict; check the name of the architecture and the file."
        )


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more


def read_checkpoint(path: str | os.PathLike) -> dict[str, Any]:
    """Reads a file that torch.save wrote; nothing but tensors and plain containers is unpickled.

    Raises UserError where PyTorch is absent, and for a missing, truncated or foreign file.
    """
    try:
        import torch
    except ImportError as error:
        raise UserError(
            "Reading an official checkpoint needs PyTorch, which is not installed. Install it with: "
            "pip install vmr_jax[torch]"
        ) from error
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise UserError(f"There is no checkpoint at {path}. Check the path.") from error
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise UserError(
            f"{path} cannot be read as a PyTorch checkpoint: the file is truncated, of another format, or "
            "holds more than tensors. Download it again; if it is whole, load it with PyTorch and save the "
            "model's state_dict()."
        ) from error
    if not isinstance(content, Mapping):
        raise UserError(
            f"{path} holds a {type(content).__name__}, but a state_dict (tensors by name) is expected. Load "
            "it with PyTorch and save the model's state_dict()."
        )
    return dict(content)
