"""Official PyTorch checkpoints -> our models and variables, one file of this folder per architecture.

The file of an architecture has its name and three functions of the shapes of all tensors in a checkpoint:

- `hyper_parameters(shapes)` reads off them the fields of the model that they determine;
- `inputs(shapes)` reads off the widths of the fields of a batch, such as the features of a clip; where they
  depend on fields that shapes do not tell, it is `inputs_of(shapes, model)`;
- `entries(shapes)` says which tensors there must be, of which shapes, and where each goes.

Counters of updates, which checkpoints do not hold, are listed in its `COUNTERS` and start at zero.

`load_model` does the rest, and accepts nothing that is left over, missing or of another shape.

Files are read by `read_checkpoint`, and by `read_tensors` where they are not of a model. PyTorch is not needed.
"""

import contextlib
import dataclasses
import importlib
import os
import pkgutil
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from flax import traverse_util

from vmr_jax import models
from vmr_jax.errors import UserError, nearest, unknown
from vmr_jax.models.base import abstract_variables, first_difference
from vmr_jax.torch_import.torch_file import Unread, read_tensors
from vmr_jax.types import TREES, Batch, fields_of, with_masks

Shapes = Mapping[str, tuple[int, ...]]  # official name of a tensor -> its shape

# Keys under which training scripts save the tensors.
WRAPPERS = ("state_dict", "model", "model_parameters", "net")
PARTS = "dynamic_params"  # where the program of WSSL saves a state_dict of each module, and counts beside them
LISTED = 8  # tensors that an error message names


@dataclasses.dataclass(frozen=True)
class Entry:
    """One tensor of the checkpoint and its place in our variables.

    Attributes:
      key: official name of the tensor.
      path: where it goes, such as 'params/clips/linear/kernel'; '' leaves it out.
      shape: the shape it must have in the checkpoint.
      layout: turns it into ours, one of the functions below.
      copied: whether other tensors that go to the same place must be equal to it, as those of two modules with
        common weights are.
    """

    key: str
    path: str
    shape: tuple[int, ...]
    layout: Callable[[np.ndarray], np.ndarray] = np.asarray
    copied: bool = False


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


def left_out(key: str, shape: tuple[int, ...]) -> list[Entry]:
    """Weight (of the official `shape`) and bias of a layer that the official code builds and does not use."""
    return [Entry(f"{key}.weight", "", shape), Entry(f"{key}.bias", "", shape[:1])]


def norm(key: str, path: str, features: int) -> list[Entry]:
    """Weight and bias of a layer normalisation."""
    return [
        Entry(f"{key}.weight", f"{path}/scale", (features,)),
        Entry(f"{key}.bias", f"{path}/bias", (features,)),
    ]


def batch_norm(key: str, path: str, features: int) -> list[Entry]:
    """All tensors of a batch normalisation; `path` has no collection. The counter of batches is left out."""
    return [
        *norm(key, f"params/{path}", features),
        Entry(f"{key}.running_mean", f"batch_stats/{path}/mean", (features,)),
        Entry(f"{key}.running_var", f"batch_stats/{path}/var", (features,)),
        Entry(f"{key}.num_batches_tracked", "", ()),
    ]


def lstm(
    key: str, path: str, inputs: int, features: int, layers: int, directions: int = 1, use_bias: bool = True
) -> list[Entry]:
    """All tensors of a torch.nn.LSTM that become those of `vmr_jax.layers.recurrent.LSTM`."""
    return _recurrent(4, key, path, inputs, features, layers, directions, use_bias)


def gru(
    key: str, path: str, inputs: int, features: int, layers: int, directions: int = 1, use_bias: bool = True
) -> list[Entry]:
    """All tensors of a torch.nn.GRU that become those of `vmr_jax.layers.recurrent.GRU`."""
    return _recurrent(3, key, path, inputs, features, layers, directions, use_bias)


def _recurrent(gates, key, path, inputs, features, layers, directions, use_bias=True) -> list[Entry]:
    width, entries = gates * features, []
    for layer in range(layers):
        for direction in ("", "_reverse")[:directions]:
            ours, theirs = f"{path}/layer_{layer}{direction}", f"l{layer}{direction}"
            entries += [
                Entry(f"{key}.weight_ih_{theirs}", f"{ours}/input_kernel", (width, inputs), kernel),
                Entry(f"{key}.weight_hh_{theirs}", f"{ours}/recurrent_kernel", (width, features), kernel),
            ]
            if use_bias:
                entries += [
                    Entry(f"{key}.bias_ih_{theirs}", f"{ours}/input_bias", (width,)),
                    Entry(f"{key}.bias_hh_{theirs}", f"{ours}/recurrent_bias", (width,)),
                ]
        inputs = directions * features
    return entries


def count(shapes: Iterable[str], pattern: str) -> int:
    """The number of layers: 1 + the largest number that the group of `pattern` matches, else 0."""
    found = (re.fullmatch(pattern, key) for key in shapes)
    return max((int(match[1]) + 1 for match in found if match), default=0)


def size(shapes: Shapes, key: str, axis: int) -> int:
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


class Imported(NamedTuple):
    """An official checkpoint as a model of this library.

    Attributes:
      hyper_parameters: the fields of the model that were read off the checkpoint, and those that were given.
      model: what `vmr_jax.create` makes of them.
      variables: all that `model.apply` needs, nested, of float32 numpy arrays (counters: integers).
    """

    hyper_parameters: dict[str, Any]
    model: models.GroundingModel
    variables: dict[str, Any]


def load_model(name: str, state_dict: Mapping[str, Any], /, **hyper_parameters: Any) -> Imported:
    """Turns an official checkpoint into a model that is ready for use, its sizes read off the tensors.

    The tensors are usually those of a file: `load_model("two_d_tan", read_checkpoint("model.pkl"))`. Here they
    are zeros:

    >>> from vmr_jax import Batch
    >>> def layer(*shape):
    ...     return {"weight": np.zeros(shape), "bias": np.zeros(shape[0])}
    >>> lstm = {f"weight_{kind}_l0": np.zeros((24, width)) for kind, width in (("ih", 8), ("hh", 6))}
    >>> lstm.update({f"bias_{kind}_l0": np.zeros(24) for kind in ("ih", "hh")})
    >>> state_dict = {
    ...     "frame_layer.vis_conv": layer(6, 10, 1),
    ...     "fusion_layer.textual_encoder": lstm,
    ...     "fusion_layer.tex_linear": layer(6, 6),
    ...     "fusion_layer.vis_conv": layer(6, 6, 1, 1),
    ...     "map_layer.convs.0": layer(6, 6, 3, 3),
    ...     "pred_layer": layer(1, 6, 1, 1),
    ... }
    >>> hyper_parameters, model, variables = load_model("two_d_tan", state_dict, num_clips=8, scale_layers=(8,))
    >>> hyper_parameters["features"], model.map_kernel, model.lstm_layers
    (6, 3, 1)
    >>> batch = Batch.of(video=np.ones((2, 16, 10)), query_vectors=np.ones((2, 5, 8)))
    >>> model.apply(variables, batch, train=False).logits.shape
    (2, 8, 8)

    Args:
      name: the architecture, one of `architectures()`.
      state_dict: official names -> numpy arrays or PyTorch tensors. A wrapper ('state_dict', 'model') around
        them and a 'module.' before every name are taken off. Where one holds a state_dict per module, names are
        'MODULE.NAME', and '0.NAME' where they stand in a list.
      **hyper_parameters: fields of the model that shapes do not tell, such as the number of attention heads;
        those that are not given keep their defaults. `vmr_jax/torch_import/NAME.py` lists them.

    Returns:
      Hyper-parameters, model and variables. The counters of updates done (`tsp_prl`, `scn`), which official
      checkpoints do not have, are at zero.

    Raises:
      UserError: for an unknown architecture or hyper-parameter; for tensors left over, missing, of another
        shape, of another architecture, or with numbers that are not finite; for a hyper-parameter that
        contradicts them.
    """
    file, tensors = _file_of(name), tensors_of(state_dict)
    shapes = _shapes(tensors)
    with _other_architecture_named(name, shapes):
        read = file.hyper_parameters(shapes)
        variables = _variables(name, file, tensors)
    given = {k: tuple(x) if isinstance(x, list) else x for k, x in hyper_parameters.items()}
    for field, value in given.items():
        if field in read and contradicts(name, field, read[field], value):
            raise UserError(
                f"{field}={value!r} contradicts the checkpoint, whose shapes say {field}={read[field]!r}. "
                f"Leave {field} out, or take the checkpoint that was trained with it."
            )
    fields = {**read, **given}
    model = models.create(name, **fields)
    widths = file.inputs_of(shapes, model) if hasattr(file, "inputs_of") else file.inputs(shapes)
    wanted = abstract_variables(model, _smallest_batch(model, widths))
    _check_complete(name, wanted, variables, read)
    return Imported(fields, model, variables)


def load(name: str, state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """Turns the tensors of an official checkpoint into all variables of ours, without a model.

    Arguments and errors are those of `load_model`.

    Returns:
      {'params': ..., and where there are any 'batch_stats' and counters, at zero} of numpy arrays.
    """
    file, tensors = _file_of(name), tensors_of(state_dict)
    with _other_architecture_named(name, _shapes(tensors)):
        return _variables(name, file, tensors)


def hyper_parameters(name: str, state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """Reads off a checkpoint the fields of `vmr_jax.create(name, ...)` that its shapes determine.

    Arguments and errors are those of `load_model`.
    """
    file, shapes = _file_of(name), _shapes(tensors_of(state_dict))
    with _other_architecture_named(name, shapes):
        _check(name, file.entries(shapes), shapes)
        return file.hyper_parameters(shapes)


def _variables(name: str, file: ModuleType, tensors: Mapping[str, Any]) -> dict[str, Any]:
    """The tensors of a checkpoint at their places, and at zero the counters that no checkpoint has."""
    counted = {path: np.zeros((), np.int32) for path in getattr(file, "COUNTERS", ())}
    return {**_converted(name, tensors, file.entries), **traverse_util.unflatten_dict(counted, sep="/")}


def contradicts(name: str, field: str, read: Any, value: Any) -> bool:
    """Whether a model of this `value` could not have the tensors off which the value `read` was read."""
    least = field in getattr(_file_of(name), "AT_LEAST", ())
    return value < read if least else value != read


def _smallest_batch(model: models.GroundingModel, widths: Mapping[str, int]) -> Batch:
    """One row with all that the model reads, of the widths of its checkpoint and as short as it can be."""
    # The clips of a moment map are means of as many rows each, or of windows of rows.
    clips = getattr(model, "rows", getattr(model, "num_clips", 1))

    def zeros(name: str, axes: str, dtype: Any) -> np.ndarray:
        lengths = {"T": clips, "D": widths.get(name, 1), "W": widths.get(name, 1)}
        return np.zeros([int(x) if x.isdigit() else lengths.get(x, 1) for x in axes], dtype)

    def field(name: str) -> Any:
        if name not in TREES:
            return zeros(name, infos[name].axes, infos[name].dtype)
        return TREES[name](
            **{part: zeros(part, of.axes, of.dtype) for part, of in fields_of(TREES[name]).items()}
        )

    read = with_masks(("video", "query_vectors", *model.requires()))
    infos = fields_of(Batch)
    return Batch.of(**{name: field(name) for name in read})


def _check_complete(
    name: str, wanted: Mapping[str, Any], variables: Mapping[str, Any], read: Mapping[str, Any]
) -> None:
    """Raises UserError where the variables are not those that the model wants."""
    other = first_difference(wanted, variables)
    if other is not None:
        path, ours, theirs = other
        if theirs == "absent" and "word_vectors" in path:
            raise UserError(
                f"The checkpoint does not fit {name} with this vocab_size: {path} is absent in it and {ours} "
                "in the model. The official program keeps its word vectors fixed, and they are no part of what "
                "is imported: leave vocab_size out, and give the vectors as config.text.vectors."
            )
        others = [field for field in models.model_fields(models.model_class(name)) if field not in read]
        raise UserError(
            f"The checkpoint does not fit {name} with these hyper-parameters: {path} is {theirs} in it and "
            f"{ours} in the model. Shapes do not tell {', '.join(others)}: give load_model those that it was "
            "trained with."
        )


@contextlib.contextmanager
def _other_architecture_named(name: str, shapes: Shapes) -> Iterator[None]:
    """Where a checkpoint does not fit an architecture but looks like one of another, the error says so."""
    try:
        yield
    except UserError as error:
        other = _likeliest(shapes)
        if other in ("", name):
            raise
        raise UserError(
            f"The checkpoint is not one of {name}: its tensors look like those of {other}. Import it as that."
        ) from error


def _likeliest(shapes: Shapes) -> str:
    """The architecture that has most names of tensors in common with a checkpoint; '' where no one has half."""
    likeness = {}
    for name in architectures():
        with contextlib.suppress(UserError):  # a tensor of which it reads a size is not there
            expected = {entry.key for entry in _file_of(name).entries(shapes)}
            likeness[name] = len(expected & shapes.keys()) / len(expected | shapes.keys())
    best = max(likeness, key=likeness.__getitem__, default="")
    return best if best and likeness[best] >= 0.5 else ""


def _file_of(name: str) -> ModuleType:
    """The file of this folder that reads an architecture; UserError where there is none."""
    if name in set(models.architectures()) - set(architectures()):
        raise UserError(
            f"There are no official checkpoints of {name} to import: its authors published none that can be "
            f"read. Those of {', '.join(architectures())} can."
        )
    if name not in architectures():
        raise unknown("There is no import of official checkpoints of the architecture", name, architectures())
    return importlib.import_module(f"{__name__}.{name}")


def convert(
    name: str, state_dict: Mapping[str, Any], entries: Callable[[Shapes], list[Entry]]
) -> dict[str, Any]:
    """Turns a checkpoint into the tree of numpy arrays that `entries(shapes)` lays out.

    `name` is for messages; `state_dict` and errors are those of `load_model`.
    """
    return _converted(name, tensors_of(state_dict), entries)


def _converted(
    name: str, tensors: Mapping[str, Any], entries: Callable[[Shapes], list[Entry]]
) -> dict[str, Any]:
    shapes = _shapes(tensors)
    found = entries(shapes)
    _check(name, found, shapes)
    leaves: dict[str, np.ndarray] = {}
    broken, apart = [], []
    for entry in found:
        if entry.path:
            x = entry.layout(_numpy(tensors[entry.key]))
            if not np.isfinite(x).all():
                broken.append(f"{np.sum(~np.isfinite(x)):,} of the {x.size:,} in {entry.key}")
            if entry.copied and not np.array_equal(leaves.get(entry.path, x), x, equal_nan=True):
                apart.append(entry.key)
            leaves[entry.path] = x
    if broken:
        raise UserError(
            f"The checkpoint of {name} holds numbers that are not finite (NaN or infinity): {_listed(broken)}. "
            "Its training has diverged or the file is damaged; take another checkpoint."
        )
    if apart:
        raise UserError(
            f"Tensors of the checkpoint that {name} has once are not equal to their copies: {_listed(apart)}. "
            "It was trained without common weights, which is not read."
        )
    return traverse_util.unflatten_dict(leaves, sep="/")


def _shapes(tensors: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    return {key: tuple(x.shape) for key, x in tensors.items()}


def _numpy(x: Any) -> np.ndarray:
    """A float32 copy of a numpy array or of a PyTorch tensor of any floating dtype."""
    if hasattr(x, "detach"):
        x = x.detach().float().cpu().numpy()  # numpy has no bfloat16
    return np.array(x, np.float32)


def tensors_of(state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """The tensors of a checkpoint by their names, see `load_model`; UserError for anything else."""
    if not isinstance(state_dict, Mapping) or not all(isinstance(key, str) for key in state_dict):
        raise UserError(
            f"The checkpoint is {type(state_dict).__name__}, not a dictionary of tensors by name. Read a file "
            "with vmr_jax.torch_import.read_checkpoint(PATH) first."
        )
    if isinstance(parts := state_dict.get(PARTS), Mapping):
        state_dict = {name: part for name, part in parts.items() if isinstance(part, Mapping)}
    for wrapper in WRAPPERS:
        if isinstance(inner := _numbered(state_dict.get(wrapper)), Mapping):
            state_dict = inner
    tensors = dict(_flat(state_dict))
    foreign = [f"{key} ({_kind(x)})" for key, x in tensors.items() if not hasattr(x, "shape")]
    if foreign or not tensors:
        raise UserError(
            f"The checkpoint is not a dictionary of tensors: {_listed(foreign) or 'it is empty'}. Expected is "
            f"what torch.save(model.state_dict(), ...) writes, or that under one of: {', '.join(WRAPPERS)}."
        )
    return tensors


def _numbered(x: Any) -> Any:
    """A list of state_dicts, one for each module, as a dictionary by their numbers; anything else as it is."""
    if isinstance(x, list | tuple) and x and all(isinstance(part, Mapping) for part in x):
        return {str(number): part for number, part in enumerate(x)}
    return x


def _kind(x: Any) -> str:
    return x.name if isinstance(x, Unread) else type(x).__name__


def _flat(state_dict: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields the tensors of nested dictionaries, names joined with '.', each without its 'module.'."""
    for key, x in state_dict.items():
        name = prefix + key.removeprefix("module.")
        if isinstance(x, Mapping):
            yield from _flat(x, f"{name}.")
        else:
            yield name, x


def _check(name: str, entries: list[Entry], shapes: Shapes) -> None:
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
    """Reads the checkpoint that an official program saved with torch.save, as `read_tensors` does.

    Raises UserError for a missing, damaged or foreign file, and for one without tensors by name.
    """
    content = read_tensors(path)
    if isinstance(content, dict):
        return content
    raise UserError(
        f"{path} holds an object of the type {_kind(content)}, but a state_dict (tensors by name) is expected. "
        "Load it with the program that wrote it, and torch.save the model's state_dict()."
    )
