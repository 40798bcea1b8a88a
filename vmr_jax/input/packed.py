"""Files that may be packed: the bytes of a plain file, of a .gz and of a .zip that holds one file."""

import gzip
import zipfile
import zlib
from pathlib import Path
from typing import IO

from vmr_jax.errors import UserError
from vmr_jax.files import MOST_BYTES, require_file

_ZIP, _GZIP = b"PK\x03\x04", b"\x1f\x8b"  # first bytes


def read_packed(path: Path) -> bytes:
    """The bytes of a file, unpacked where its first bytes are those of gzip or zip, whatever its name.

    Raises:
      UserError: for a damaged or encrypted file, a zip of no or several files, and more than `MOST_BYTES`.
    """
    require_file(path)
    with path.open("rb") as file:
        start = file.read(4)
        file.seek(0)
        try:
            if start == _ZIP:
                return _only_member(path, file)
            if start.startswith(_GZIP):
                with gzip.open(file) as unpacked:
                    return _bounded(path, unpacked)
            return _bounded(path, file)
        except (EOFError, gzip.BadGzipFile, zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
            raise UserError(f"{path} is packed and damaged ({error}). Get it again.") from None


def _only_member(path: Path, file: IO[bytes]) -> bytes:
    with zipfile.ZipFile(file) as packed:
        members = [member for member in packed.infolist() if not member.is_dir()]
        if len(members) != 1:
            names = ", ".join(member.filename for member in members[:10]) or "nothing"
            raise UserError(f"{path} holds {names}; one file is expected. Unpack it and give one of them.")
        if members[0].flag_bits & 1:
            raise UserError(f"{path} is encrypted. Unpack it and give the file in it.")
        with packed.open(members[0]) as member:
            return _bounded(path, member)


def _bounded(path: Path, file: IO[bytes] | gzip.GzipFile) -> bytes:
    """All of a stream: its claims about its size are not believed."""
    found = file.read(MOST_BYTES + 1)
    if len(found) > MOST_BYTES:
        raise UserError(
            f"{path} holds more than {MOST_BYTES / 2**30:g} GiB when it is unpacked, which no file of "
            "annotations or predictions is. Unpack it and look at it."
        )
    return found
