"""The reader of safetensors files, against files written byte by byte here, and by the safetensors package."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from vmr_jax.errors import UserError
from vmr_jax.torch_import.safetensors import read_safetensors


def write(path, header, body=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + body)
    return path


def entry(dtype, shape, begin, end):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def test_every_type_is_read(tmp_path):
    # 1.0 is 0x3c00 as float16 and 0x3f80, the first half of a float32, as bfloat16; -2.0 is 0xc000 as both.
    header = {
        "__metadata__": {"format": "pt"},
        "half": entry("F16", [2], 12, 16),
        "brain": entry("BF16", [1, 2], 16, 20),
        "single": entry("F32", [3, 1], 0, 12),
        "scalar": entry("I64", [], 20, 28),
        "flag": entry("BOOL", [1], 28, 29),
        "unaligned": entry("F64", [1], 29, 37),
        "nothing": entry("F32", [0, 5], 37, 37),
    }
    body = np.array([1.5, -2, 3], "<f4").tobytes() + b"\x00\x3c\x00\xc0" + b"\x80\x3f\x00\xc0"
    body += (-7).to_bytes(8, "little", signed=True) + b"\x01" + np.array([0.1], "<f8").tobytes()
    tensors = read_safetensors(write(tmp_path / "x.safetensors", header, body))
    assert "__metadata__" not in tensors and len(tensors) == 7
    np.testing.assert_array_equal(tensors["single"], np.float32([[1.5], [-2], [3]]))
    np.testing.assert_array_equal(tensors["half"], np.float16([1, -2]))
    assert tensors["brain"].dtype == jnp.bfloat16
    np.testing.assert_array_equal(tensors["brain"].astype(np.float32), np.float32([[1, -2]]))
    assert tensors["scalar"].shape == () and tensors["scalar"] == -7
    assert tensors["flag"].tolist() == [True] and tensors["unaligned"].tolist() == [0.1]
    assert tensors["nothing"].shape == (0, 5)


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 268\n"


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "shorter than its header"),
        (b"\x02\x00\x00", "shorter than its header"),
        (LFS, "shorter than its header, or has none"),
        ((9).to_bytes(8, "little") + b"{}", "shorter than its header"),
        ((2).to_bytes(8, "little") + b"[]", "not a JSON object"),
        ((2).to_bytes(8, "little") + b"\xff{", "not JSON"),
        ((2).to_bytes(8, "little") + b"{}", "holds no tensor"),
    ],
)
def test_a_foreign_file_is_refused(tmp_path, content, message):
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_safetensors(path)


@pytest.mark.parametrize(
    "header, message",
    [
        ({"a": entry("F32", [2], 0, 8)}, "8 bytes, but 12 follow"),
        ({"a": entry("F32", [4], 0, 16)}, "16 bytes, but 12 follow"),  # cut short
        ({"a": entry("F32", [2], 0, 12)}, r"a has 12 bytes, but its shape is \[2\] of F32"),
        ({"a": entry("F32", [2], 4, 12)}, "gap or overlap at byte 4"),
        ({"a": entry("F32", [2], 0, 8), "b": entry("F32", [2], 4, 12)}, "gap or overlap at byte 4"),
        ({"a": entry("F8_E4M3", [12], 0, 12)}, "a are of type F8_E4M3; read are F64"),
        ({"a": {"dtype": "F32", "shape": [3]}}, "does not describe the tensor a"),
        ({"a": entry("F32", [-3], 12, 0)}, "does not describe the tensor a"),
        ({"a": entry("F32", "3", 0, 12)}, "does not describe the tensor a"),
        ({"a": 3}, "does not describe the tensor a"),
    ],
)
def test_a_header_that_does_not_fit_is_refused(tmp_path, header, message):
    path = write(tmp_path / "x.safetensors", header, bytes(12))
    with pytest.raises(UserError, match=rf"{path}.*{message}"):
        read_safetensors(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match="no safetensors file at .*absent"):
        read_safetensors(tmp_path / "absent.safetensors")


def test_files_of_the_safetensors_package_are_read(tmp_path):
    library = pytest.importorskip("safetensors.numpy")
    rng = np.random.default_rng(0)
    written = {
        "a.weight": rng.normal(size=(3, 4, 5)).astype(np.float32),
        "b": rng.normal(size=7).astype(np.float16),
        "c.ids": np.arange(6).reshape(1, 6),
        "d": np.array(3.25, np.float32),
    }
    library.save_file(written, tmp_path / "x.safetensors", metadata={"format": "pt"})
    found = read_safetensors(tmp_path / "x.safetensors")
    assert found.keys() == written.keys()
    for name, x in written.items():
        assert found[name].dtype == x.dtype
        np.testing.assert_array_equal(found[name], x)
