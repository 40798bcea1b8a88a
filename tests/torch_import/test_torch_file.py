"""Files that torch.save wrote, of every format, and those that no honest program wrote."""

import argparse
import builtins
import collections
import io
import os
import pickle
import tarfile
import zipfile

import jax.numpy as jnp
import numpy as np
import pytest

from vmr_jax.errors import UserError
from vmr_jax.torch_import import Unread, load, read_checkpoint, read_tensors

torch = pytest.importorskip("torch")


class EasyDict(dict):
    """A dictionary whose keys are attributes too, as the package of this name has it."""

    def __init__(self, content=()):
        super().__init__(content)
        self.__dict__.update(content)


TYPES = ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool")


def saved(content, path, **options):
    torch.save(content, path, **options)
    return path


@pytest.mark.parametrize("new", [True, False])
def test_every_type_and_view(tmp_path, new):
    """A zip archive, and the pickles one after another of the time before PyTorch 1.6."""
    whole = torch.arange(12.0).reshape(3, 4)
    content = {
        **{name: torch.tensor([[1, 0, 3]]).to(getattr(torch, name)) for name in TYPES},
        "transposed": whole.T,
        "slice": whole[1:, ::2],
        "none": torch.zeros(0, 5),
        "scalar": torch.tensor(7.0),
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "nested": [(whole, {"again": whole}), "text", None, torch.Size([2])],
        "epoch": 3,
        "loss": np.float32(0.5),
        "array": np.arange(6, dtype=">i2").reshape(2, 3),
        "columns": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    }
    read = read_tensors(saved(content, tmp_path / "x.pt", _use_new_zipfile_serialization=new))
    assert list(read) == list(content)
    for name in TYPES:
        assert read[name].dtype == jnp.dtype(name)
        np.testing.assert_array_equal(read[name].astype(np.float32), [[1, 0, name != "bool" and 3 or 1]])
    # arange(12) in three rows: their columns 0 and 2 are 4, 6 and 8, 10.
    np.testing.assert_array_equal(read["slice"], [[4, 6], [8, 10]])
    np.testing.assert_array_equal(read["transposed"], np.arange(12.0).reshape(3, 4).T)
    assert read["none"].shape == (0, 5) and read["scalar"].shape == () and read["scalar"] == 7
    np.testing.assert_array_equal(read["parameter"], [1, 1])
    (first, second), *rest = read["nested"]
    assert first is second["again"] and rest == ["text", None, (2,)]
    assert read["epoch"] == 3 and read["loss"] == 0.5
    np.testing.assert_array_equal(read["array"], [[0, 1, 2], [3, 4, 5]])
    np.testing.assert_array_equal(read["columns"], [[0, 1, 2], [3, 4, 5]])
    assert not read["slice"].flags.writeable


def test_what_official_programs_save_beside_their_tensors(tmp_path):
    """Moment-DETR an argparse.Namespace, XML an EasyDict, others counts and optimizers."""
    layer = torch.nn.Linear(3, 2)
    optimizer = torch.optim.Adam(layer.parameters())
    layer(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    content = {
        "model": layer.state_dict(),
        "opt": argparse.Namespace(lr=1e-4, device=torch.device("cpu"), dtype=torch.float32),
        "model_cfg": EasyDict({"hidden": 3}),
        "optimizer": optimizer.state_dict(),
        "best": collections.Counter(a=1),
        "mean": np.float64(1.5),
        "words": {"the"},
        "objects": np.array([None, "x"], object),
    }
    read = read_checkpoint(saved(content, tmp_path / "x.ckpt"))
    np.testing.assert_array_equal(read["model"]["weight"], layer.weight.detach().numpy())
    assert type(read["opt"]).__name__ == "Unread" and read["opt"].name == "argparse.Namespace"
    assert read["model_cfg"].name.endswith("EasyDict") and isinstance(read["words"], Unread)
    assert isinstance(read["objects"], Unread)
    assert read["mean"] == 1.5 and read["optimizer"]["param_groups"][0]["lr"] == 1e-3
    with pytest.raises(UserError, match=r"not a dictionary of tensors: opt \(argparse.Namespace\), "):
        load("two_d_tan", {**read["model"], "opt": read["opt"], "epoch": 3})


def archive(path, pickled, **entries):
    """A zip archive like PyTorch's with a pickle of one's own; `entries` may be (content, compression)."""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("x/data.pkl", pickled)
        for name, content in entries.items():
            data, how = content if isinstance(content, tuple) else (content, zipfile.ZIP_STORED)
            file.writestr(f"x/data/{name}", data, how)
    return path


class Calls:
    """Pickled as a call of a function."""

    def __init__(self, function, *arguments, state=None):
        self.call = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self):
        return self.call


def test_nothing_in_a_file_is_run(tmp_path):
    marker = tmp_path / "ran"
    touch = f"open({str(marker)!r}, 'w').close()"
    attacks = [
        Calls(os.system, f"touch {marker}"),
        Calls(builtins.eval, touch),
        Calls(builtins.exec, touch),
        Calls(builtins.getattr, Calls(builtins.__import__, "os"), "system"),
        Calls(collections.OrderedDict, [("a", Calls(os.system, f"touch {marker}"))]),
        Calls(argparse.Namespace, Calls(eval, touch), state={"x": Calls(exec, touch)}),
    ]
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        for attack in attacks:
            pickled = pickle.dumps({"weight": 1, "attack": attack}, protocol)
            read = read_tensors(archive(tmp_path / "x.pt", pickled))
            assert read["weight"] == 1
            assert isinstance(read["attack"], (Unread, dict)), attack.call
    # The result of a call is called, and a function gets attributes: getattr(os, "system")("touch ...").
    chain = b"cbuiltins\ngetattr\n(cos\nsystem\nX\x06\x00\x00\x00systemtR(X\x04\x00\x00\x00truetR."
    assert isinstance(read_tensors(archive(tmp_path / "x.pt", chain)), Unread)
    for target in (b"cnumpy\ndtype\n", b"ccollections\nOrderedDict\n", b"ctorch._utils\n_rebuild_tensor_v2\n"):
        state = b"}X\x08\x00\x00\x00__call__cos\nsystem\nsb."
        with pytest.raises(UserError, match=r"x.pt"):
            read_checkpoint(archive(tmp_path / "x.pt", target + state))
    assert not marker.exists()


def tensor(reference, offset=0, size=(2,), stride=(1,)):
    """The pickle of a tensor of numbers that are referred to by any object at all."""

    class Pickler(pickle.Pickler):
        def persistent_id(self, x):
            return reference if x is Ellipsis else None

    buffer = io.BytesIO()
    Pickler(buffer, 2).dump({"w": Calls(torch._utils._rebuild_tensor_v2, ..., offset, size, stride, False, {})})
    return buffer.getvalue()


FLOATS = ("storage", torch.FloatStorage, "0", "cpu", 2)
TWO = np.float32([1, 2]).tobytes()


def test_a_tensor_has_its_own_numbers_and_no_others(tmp_path):
    def read(pickled, **entries):
        return read_tensors(archive(tmp_path / "x.pt", pickled, **(entries or {"0": TWO})))

    def refused(message, *arguments, **entries):
        with pytest.raises(UserError, match=f"x.pt cannot be read as a file of PyTorch: .*{message}"):
            read(*arguments, **entries)

    np.testing.assert_array_equal(read(tensor(FLOATS))["w"], [1, 2])
    np.testing.assert_array_equal(read(tensor(FLOATS, 1, (1, 1), (9, 9)))["w"], [[2]])
    refused("larger than its 2 numbers", tensor(FLOATS, 1))
    refused("larger than its 2 numbers", tensor(FLOATS, 0, (2,), (2,)))
    refused(r"larger than its 2 numbers. .*tensor.contiguous", tensor(FLOATS, 0, (10**15,), (0,)))
    refused("strides", tensor(FLOATS, 1, (2,), (-1,)))
    refused("strides", tensor(FLOATS, -1, (1,), (1,)))
    refused("strides", tensor(FLOATS, 0, (2,), ()))
    refused("have 4 bytes, not 2 numbers", tensor(FLOATS), **{"0": TWO[:4]})
    refused("no x/data/0", tensor(FLOATS), other=TWO)
    refused("no x/data/../../secret", tensor(("storage", torch.FloatStorage, "../../secret", "cpu", 2)))
    refused("not known", tensor(("storage", "ObjectStorage", "0", "cpu", 2)))
    refused("not known", tensor(("storage", torch.FloatStorage, "0", "cpu", -2)))
    refused("not known", tensor(("storage", torch.FloatStorage, 0, "cpu", 2)))
    refused("not known", tensor("storage"))
    refused(
        "of a type that is not read, torch.QInt8Storage", tensor(("storage", torch.QInt8Storage, "0", "", 2))
    )
    refused("has no numbers", pickle.dumps(Calls(torch._utils._rebuild_tensor_v2, 1, 0, (), (), False, {}), 2))


def test_memory_cannot_be_exhausted(tmp_path):
    """Nothing is unpacked, memo places without use are refused, and what is shared is visited once."""
    path, zeros = tmp_path / "x.pt", bytes(8)
    bomb = (zeros, zipfile.ZIP_DEFLATED)
    with pytest.raises(UserError, match="x/data/0 is compressed, which torch.save never does"):
        read_tensors(archive(path, tensor(FLOATS), **{"0": bomb}))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("x/data.pkl", pickle.dumps({}, 2))
    with pytest.raises(UserError, match="x/data.pkl is compressed"):
        read_tensors(path)
    with pytest.raises(UserError, match="memory that it does not use"):
        read_tensors(archive(path, b"\x80\x02}r\xff\xff\xff\x7f."))
    shared = []
    for _ in range(200):  # 2^200 lists where each is visited
        shared = [shared, shared]
    itself = [shared]
    itself.append(itself)
    read = read_tensors(archive(path, pickle.dumps(itself, 2)))
    assert read[1] is read and read[0][0] is read[0][1]
    deep = b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b"."
    with pytest.raises(UserError, match="x.pt cannot be read"):
        read_tensors(archive(path, deep))


def test_what_is_wrong_with_a_file_is_said(tmp_path):
    path = saved({"w": torch.arange(64.0)}, tmp_path / "x.pt")
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[whole.index(np.float32(33).tobytes())] ^= 1
    old = saved({"w": torch.arange(64.0)}, path, _use_new_zipfile_serialization=False).read_bytes()
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as file:
        file.addfile(tarfile.TarInfo("sys_info"))
    other = io.BytesIO()
    np.savez(other, x=np.ones(3))
    for content, message in (
        (b"", "it is empty"),
        (whole[: len(whole) // 2], "a zip archive, whose end is missing"),
        (bytes(flipped), "check sum of x/data/0 is another than when"),
        (old[:-9], "numbers of its tensors are cut off"),
        (old[:40], "it is damaged"),
        (
            buffer.getvalue(),
            "a tar archive, PyTorch's format before version 0.2. Load it with PyTorch",
        ),
        (other.getvalue(), "a zip archive without a data.pkl"),
        (b"<html>Not found</html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
        (pickle.dumps({"w": 1}), "a pickle that torch.save did not write"),
        (b"\x89HDF\r\n", "an HDF5 file"),
        (b"\x00\x01\x02", "it is damaged"),
    ):
        path.write_bytes(content)
        with pytest.raises(UserError, match=f"x.pt cannot be read as a file of PyTorch: .*{message}"):
            read_tensors(path)


def test_check_sums_may_be_left_out(tmp_path):
    kept = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        path = saved({"w": torch.arange(3)}, tmp_path / "x.pt")
    finally:
        torch.serialization.set_crc32_options(kept)
    np.testing.assert_array_equal(read_tensors(path)["w"], [0, 1, 2])
