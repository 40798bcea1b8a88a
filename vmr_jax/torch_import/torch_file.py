"""Reads files that torch.save wrote, without PyTorch and without running anything that is in them.

Such a file is a pickle and the numbers of its tensors. Since PyTorch 1.6 they are the entries of a zip archive,
none of them compressed; before that they followed one another. A pickle is a program that may call any
function. Here it may name the few that make tensors, NumPy's numbers and dictionaries; whatever else it names
becomes an `Unread` object, which keeps its name, takes all that is done to it and does nothing. But of a whole
model, which some programs save in place of its state_dict, the tensors by name are kept; so they are of a
TorchScript program (torch.jit.save), whose code is not read.

Formats: pytorch.org/docs/stable/notes/serialization.html, and pickletools of Python's standard library.
"""

import collections
import dataclasses
import io
import math
import os
import pickle
import pickletools
import re
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import jax.numpy as jnp
import numpy as np

from vmr_jax.errors import UserError
from vmr_jax.files import require_file

_MAGIC = 0x1950A86A20F9469CFC6C  # the first number of a file that is no zip archive
_STORAGES = {
    "DoubleStorage": "<f8",
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "BFloat16Storage": jnp.bfloat16,
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
}
_NUMBERS = re.compile(r"[biufcSU]\d+")  # NumPy's names of types without objects
_OTHER_FORMATS = {  # how files begin that are taken for one of PyTorch
    b"<": "it is a web page, not the file that the page links to",
    b"version https://git-lfs": "it is a Git LFS pointer, a few lines in place of the file",
    b"\x89HDF": "it is an HDF5 file",
    b"\x93NUMPY": "it is a NumPy file",
    b"\x1f\x8b": "it is compressed with gzip; unpack it first",
}
_AGAIN = "Get the file again, and compare its size with the page that it comes from."
_SAVE = "Load it with PyTorch and save the tensors alone: torch.save(model.state_dict(), PATH)."


class _Refused(Exception):
    """Why a file is not read, and what to do."""

    def __init__(self, why: str, do: str = _AGAIN):
        super().__init__(why, do)


class Unread:
    """An object of a class that is not read, such as the command line of a training script.

    `name` is the class (or function) that made it, such as 'argparse.Namespace'; nothing else is kept.
    """

    __slots__ = ()
    name = ""

    def __new__(cls, *args: Any, **kwargs: Any) -> "Unread":
        return super().__new__(cls)

    def _nothing(self, *args: Any, **kwargs: Any) -> None:
        pass

    __init__ = __setstate__ = __setitem__ = append = extend = add = _nothing

    def __call__(self, *args: Any, **kwargs: Any) -> "Unread":
        return self

    def __repr__(self) -> str:
        return f"<unread {self.name}>"


class _Object(Unread):
    """An object while it is read: of a torch.nn.Module the tensors and parts by name."""

    __slots__ = ("tensors",)

    def __setstate__(self, state: Any) -> None:
        parts = ("_parameters", "_buffers", "_modules")
        if isinstance(state, Mapping) and all(isinstance(state.get(part), Mapping) for part in parts):
            named = {name: x for part in parts for name, x in state[part].items()}
            self.tensors = {name: x for name, x in named.items() if x is not None}


def read_tensors(path: str | os.PathLike) -> Any:
    """Returns what a file holds that torch.save wrote: dictionaries, lists, numbers, texts and tensors.

    Tensors are numpy arrays of the type of their numbers (bfloat16: of jax.numpy), read-only views of the
    file, which must stay as it is while they are used. A whole model is a dictionary of its tensors, and of its
    parts. Objects of other classes are `Unread`. PyTorch need not be installed.

    Raises:
      UserError: for a file that is missing, damaged or of another format, and for tensors that are not dense.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"There is no file of tensors at {path}. Check the path.")
    try:
        return _content(path)
    except _Refused as error:
        why, do = error.args
    except zipfile.BadZipFile:
        why, do = "it is a part of a zip archive, whose end is missing", _AGAIN
    except (pickle.UnpicklingError, EOFError, ValueError, LookupError, RuntimeError, OSError) as error:
        why, do = f"it is damaged ({error})", _AGAIN
    except (TypeError, AttributeError, MemoryError, OverflowError) as error:
        why, do = f"its pickle does what no file of tensors does ({error})", _SAVE
    raise UserError(f"{path} cannot be read as a file of PyTorch: {why}. {do}")


def _content(path: Path) -> Any:
    if path.stat().st_size == 0:
        raise _Refused("it is empty")
    content = np.memmap(path, np.uint8, "r")
    start = content[:512].tobytes()
    if start.startswith(b"PK"):
        return _Archive(path, content).read()
    if start[257:262] == b"ustar":
        raise _Refused("it is a tar archive, PyTorch's format before version 0.2", _SAVE)
    for beginning, what in _OTHER_FORMATS.items():
        if start.startswith(beginning):
            raise _Refused(what)
    with path.open("rb") as file:
        return _sequence(file, content)


def read_pickle(path: str | os.PathLike) -> Any:
    """Returns what a pickle holds: dictionaries, lists, numbers, texts and NumPy arrays of numbers.

    Nothing in it is run, and texts of Python 2 are read. Objects of other classes are `Unread`.

    Raises:
      UserError: for a file that is missing, damaged or no pickle.
    """
    path = Path(path)
    require_file(path)  # a pipe would be waited for
    try:
        with path.open("rb") as file:
            return _resolved(_unpickled(file)[0], None, {})
    except FileNotFoundError:
        why, do = "it is not there", "Check the path."
    except _Refused as error:
        why, do = error.args
    except Exception as error:  # of a damaged pickle anything may be said
        why, do = f"it is damaged or no pickle ({error})", _AGAIN
    raise UserError(f"{path} cannot be read as a pickle: {why}. {do}")


# --- The two formats ------------------------------------------------------------------------------


class _Archive:
    """A zip archive; nothing in it is unpacked."""

    def __init__(self, path: Path, content: np.ndarray):
        self.content = content
        with zipfile.ZipFile(path) as archive:
            self.entries = {entry.filename: entry for entry in archive.infolist()}
        pickles = [name for name in self.entries if re.fullmatch(r"([^/]+/)?data\.pkl", name)]
        if len(pickles) != 1:
            raise _Refused("it is a zip archive without a data.pkl, so that torch.save did not write it")
        self.root = pickles[0].removesuffix("data.pkl")

    def read(self) -> Any:
        order = f"{self.root}byteorder"
        if order in self.entries and self.bytes_of(order).tobytes() != b"little":
            raise _Refused("it was written on a machine that puts the high bytes of numbers first", _SAVE)
        loaded, _ = _unpickled(io.BytesIO(self.bytes_of(f"{self.root}data.pkl").tobytes()))
        return _resolved(loaded, lambda storage: self.bytes_of(f"{self.root}data/{storage.key}"), {})

    def bytes_of(self, name: str) -> np.ndarray:
        if name not in self.entries:
            raise _Refused(f"the archive has no {name}")
        entry = self.entries[name]
        if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
            raise _Refused(f"the entry {name} is compressed, which torch.save never does", _SAVE)
        # The header in front of an entry: 30 bytes, of which the last four are the lengths of what follows.
        lengths = self.content[entry.header_offset + 26 : entry.header_offset + 30].tobytes()
        begin = entry.header_offset + 30 + sum(lengths[i] + 256 * lengths[i + 1] for i in (0, 2))
        found = self.content[begin : begin + entry.file_size]
        if len(found) != entry.file_size:
            raise _Refused(f"the entry {name} is cut off")
        if entry.CRC and zlib.crc32(found.data) != entry.CRC:  # 0: torch.save was told to leave the sums out
            raise _Refused(f"the check sum of {name} is another than when the file was written")
        return found


def _sequence(file: io.BufferedReader, content: np.ndarray) -> Any:
    """The format before PyTorch 1.6: three pickles, the content, the names of the storages, their numbers."""
    if _unpickled(file)[0] != _MAGIC:
        raise _Refused("it is a pickle that torch.save did not write", _SAVE)
    (_version, _), (system, _) = _unpickled(file), _unpickled(file)
    if not (isinstance(system, Mapping) and system.get("little_endian", True)):
        raise _Refused("it was written on a machine that puts the high bytes of numbers first", _SAVE)
    loaded, storages = _unpickled(file)
    keys, _ = _unpickled(file)
    if not isinstance(keys, list) or {str(key) for key in keys} != set(storages):
        raise _Refused("the list of its numbers is not that of its tensors")
    named, begin = {}, file.tell()
    for key in keys:
        storage = storages[key]
        end = begin + 8 + storage.size * storage.dtype.itemsize
        if content[begin : begin + 8].tobytes() != storage.size.to_bytes(8, "little") or end > len(content):
            raise _Refused("the numbers of its tensors are cut off")
        named[key], begin = content[begin + 8 : end], end
    return _resolved(loaded, lambda storage: named[storage.key], {})


# --- Pickles --------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class _Storage:
    """`size` numbers of one type, which tensors are views of; those of PyTorch 0.x begin at `start`."""

    key: str
    dtype: np.dtype
    size: int
    start: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class _Tensor:
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def array(self, content: np.ndarray) -> np.ndarray:
        """The view of all bytes of the storage that this tensor is."""
        storage, numbers = self.storage, (*self.shape, *self.strides, self.offset, self.storage.start)
        if not all(type(x) is int and x >= 0 for x in numbers) or len(self.shape) != len(self.strides):
            raise _Refused(f"a tensor of shape {self.shape} has strides {self.strides}, offset {self.offset}")
        if len(content) != storage.size * storage.dtype.itemsize:
            raise _Refused(f"the numbers {storage.key} have {len(content)} bytes, not {storage.size} numbers")
        first = storage.start + self.offset
        count = math.prod(self.shape)
        last = first + sum((n - 1) * step for n, step in zip(self.shape, self.strides, strict=True))
        if (count and last >= storage.size) or count > storage.size:
            raise _Refused(
                f"a tensor of shape {self.shape} is larger than its {storage.size} numbers",
                "If it repeats them (expand), save tensor.contiguous() in its place.",
            )
        size = storage.dtype.itemsize
        strides = [step * size for step in self.strides]
        flat = content.view(storage.dtype)[min(first, storage.size) :]
        return np.lib.stride_tricks.as_strided(flat, self.shape, strides, subok=False, writeable=False)


class _Scripted(_Object):
    """An object of a TorchScript program, of which the tensors and parts by name are all that is kept."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, Mapping):
            self.tensors = {
                name: x for name, x in state.items() if isinstance(x, _Tensor) or hasattr(x, "tensors")
            }


class _NumpyType:
    """The type of NumPy's numbers while it is read; only its byte order is not in its name."""

    def __init__(self, name: str, *_: Any):
        self.name, self.order = name, "="

    def __setstate__(self, state: tuple) -> None:
        self.order = state[1]

    def array(self, content: Any) -> np.ndarray | None:
        """The numbers in these bytes; None for types that hold objects."""
        order: Any = self.order
        if not _NUMBERS.fullmatch(str(self.name)) or order not in ("<", ">", "=", "|"):
            return None
        content = content.encode("latin1") if isinstance(content, str) else content
        return np.frombuffer(content, np.dtype(self.name).newbyteorder(order))


class _NumpyArray(Unread):
    """A NumPy array while it is read; one of objects stays `Unread`."""

    __slots__ = ("value",)
    name = "numpy.ndarray"

    def __setstate__(self, state: tuple) -> None:
        _version, shape, dtype, columns_first, content = state
        flat = dtype.array(content)
        self.value = None if flat is None else flat.reshape(shape, order="F" if columns_first else "C")


class _Unpickler(pickle.Unpickler):
    """Calls nothing but the methods below, each of which makes a number, a tensor or a dictionary."""

    def __init__(self, file: io.BytesIO):
        super().__init__(file, encoding="latin1")  # in which any bytes of Python 2 are a text
        self.storages: dict[str, _Storage] = {}
        self._known = {
            "collections.OrderedDict": collections.OrderedDict,
            "torch.Size": tuple,
            "torch._utils._rebuild_tensor": self._tensor,
            "torch._utils._rebuild_tensor_v2": self._tensor,
            "torch._utils._rebuild_parameter": self._parameter,
            "torch._utils._rebuild_parameter_with_state": self._parameter,
            "_codecs.encode": self._bytes,
            "__builtin__.bytes": self._no_bytes,
            "numpy.dtype": _NumpyType,
            "numpy.ndarray": "numpy.ndarray",
            **{f"torch.{name}": name for name in _STORAGES},
        }
        for core in ("numpy.core", "numpy._core"):
            self._known[f"{core}.multiarray.scalar"] = self._number
            self._known[f"{core}.multiarray._reconstruct"] = self._array

    def find_class(self, module: str, name: str) -> Any:
        path = f"{module}.{name}"
        if path not in self._known:
            kind = _Scripted if module.startswith("__torch__") else _Object
            self._known[path] = type("Unread", (kind,), {"__slots__": (), "name": path})
        return self._known[path]

    def persistent_load(self, pid: Any) -> Any:
        match pid:
            case ("module", kind, *_):  # before 1.6 the program of a class stood beside its name
                return kind
            case ("storage", type() as unread, *_) if issubclass(unread, Unread):
                path = getattr(unread, "name", "")
                raise _Refused(f"the numbers of its tensors are of a type that is not read, {path}", _SAVE)
            case ("storage", str(kind), str(key), _, int(size), *view) if kind in _STORAGES and size >= 0:
                found = self.storages.setdefault(key, _Storage(key, np.dtype(_STORAGES[kind]), size))
                return dataclasses.replace(found, start=view[0][1]) if view and view[0] else found
        raise _Refused(f"its pickle refers to numbers in a way that is not known: {str(pid)[:80]}", _SAVE)

    def _tensor(self, storage: _Storage, offset: int, shape: tuple, strides: tuple, *_: Any) -> _Tensor:
        if not isinstance(storage, _Storage):
            raise _Refused("a tensor in it has no numbers", _SAVE)
        return _Tensor(storage, offset, tuple(shape), tuple(strides))

    def _parameter(self, tensor: _Tensor, *_: Any) -> _Tensor:
        return tensor

    def _bytes(self, text: str, encoding: str) -> bytes:
        return str(text).encode("latin1")

    def _no_bytes(self, *_: Any) -> bytes:
        """The content of an array without numbers, as Python 3 writes it."""
        return b""

    def _number(self, dtype: _NumpyType, content: Any = b"") -> Any:
        numbers = dtype.array(content)
        return Unread() if numbers is None else numbers[0]

    def _array(self, *_: Any) -> _NumpyArray:
        return _NumpyArray()


def next_pickle(file: IO[bytes]) -> io.BytesIO:
    """The next pickle of a file, not yet read; UnpicklingError for one that would fill the memory."""
    begin = file.tell()
    for steps, (step, argument, _) in enumerate(pickletools.genops(file)):
        if step.name in ("PUT", "BINPUT", "LONG_BINPUT") and (argument or 0) > steps:
            raise pickle.UnpicklingError("its pickle asks for memory that it does not use")
    end = file.tell()
    file.seek(begin)
    return io.BytesIO(file.read(end - begin))


def _unpickled(file: IO[bytes]) -> tuple[Any, dict[str, _Storage]]:
    """The next pickle of a file, tensors not yet arrays, and the storages that it names."""
    reader = _Unpickler(next_pickle(file))
    return reader.load(), reader.storages


def _resolved(x: Any, content_of: Any, done: dict[int, Any]) -> Any:
    """The same containers with arrays in place of tensors. `done`: what was made, by the id of what it was."""
    if id(x) in done:
        return done[id(x)]
    if isinstance(x, _Tensor):
        done[id(x)] = x.array(content_of(x.storage))
    elif isinstance(x, _NumpyArray):
        done[id(x)] = x if x.value is None else x.value
    elif isinstance(x, dict) or (isinstance(x, _Object) and hasattr(x, "tensors")):
        done[id(x)] = {}  # first, since it may hold itself
        named = x if isinstance(x, dict) else x.tensors
        done[id(x)].update((key, _resolved(value, content_of, done)) for key, value in named.items())
    elif isinstance(x, list):
        done[id(x)] = []
        done[id(x)].extend(_resolved(value, content_of, done) for value in x)
    elif isinstance(x, tuple):
        done[id(x)] = tuple(_resolved(value, content_of, done) for value in x)
    else:
        return x
    return done[id(x)]
