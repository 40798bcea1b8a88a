"""Ingestion over Apache Beam, where one machine is too few: one file a work item.

Workers need this package, the video files and the library at the same paths. Each writes the features of a
file, and then beside them, in `encoded/CONTENT.json`, what the manifest is to say of it. So a pipeline that
dies has lost only the files that were being encoded: the next one takes over the others. The encoder is opened
once in each worker process.
"""

import functools
import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

from vmr_jax.errors import user_path
from vmr_jax.files import read_json, write_json
from vmr_jax.input.pipeline import run_each
from vmr_jax.video.encoder import FrameEncoder, open_encoder
from vmr_jax.video.ingest import ENCODED, Encoded, Found, encode_file
from vmr_jax.video.manifest import FEATURES

log = logging.getLogger("vmr_jax")


class EncodeOverBeam:
    """Encodes files over a pipeline; see `vmr_jax.video.ingest.EncodeFiles`.

    Args:
      library: the folder.
      encoder: of the frames; workers open their own and must find the same.
      encoder_dir: folder of its weights; None where it has none.
      options: of the pipeline, such as '--runner=DirectRunner --direct_num_workers=2'.
    """

    def __init__(self, library: Path, encoder: FrameEncoder, encoder_dir: str | None, options: str):
        self.library, self._options = library.absolute(), options
        self._identity = json.dumps(encoder.identity, sort_keys=True)
        self._open = encoder.name, encoder_dir and str(user_path(encoder_dir).absolute())

    def __call__(self, found: Sequence[Found]) -> Iterator[tuple[Found, Encoded | str]]:
        """Encodes what nobody has yet, then tells of all."""
        (self.library / ENCODED).mkdir(exist_ok=True)
        waiting = [file for file in found if _told(self.library, file) is None]
        if waiting:
            log.info("%d files are encoded over Apache Beam: %s", len(waiting), self._options)
            self._run(waiting)
        for file in found:
            told = _told(self.library, file)
            yield file, "its worker told nothing of it" if told is None else told

    def _run(self, waiting: Sequence[Found]) -> None:
        work = functools.partial(_encode, library=self.library, open=self._open, identity=self._identity)
        run_each(work, [tuple(file) for file in waiting], self._options, "--beam")


@functools.lru_cache(maxsize=1)
def _encoder(name: str, folder: str | None, identity: str) -> FrameEncoder:
    """The encoder of this process; ValueError where its weights are not those of who asks."""
    encoder = open_encoder(name, Path(folder) if folder else None)
    if json.dumps(encoder.identity, sort_keys=True) != identity:
        raise ValueError(f"The worker's encoder {name} is not that of the library.")
    return encoder


def _encode(file: tuple, *, library: Path, open: tuple[str, str | None], identity: str) -> None:
    """The work of one item."""
    found = Found(file[0], file[1], (file[2][0], file[2][1]))
    encoded = encode_file(library, found, _encoder(*open, identity))
    told = {"reason": encoded} if isinstance(encoded, str) else encoded._asdict()
    write_json(library / ENCODED / f"{found.content}.json", {**told, "stat": found.stat})


def _told(library: Path, found: Found) -> Encoded | str | None:
    """The answer of a worker about a file as it is now; None where there is none."""
    try:
        told = read_json(library / ENCODED / f"{found.content}.json")
    except (OSError, ValueError):
        return None
    if tuple(told.pop("stat")) != found.stat:
        return None
    if "reason" in told:
        return told["reason"]
    return Encoded(**told) if (library / FEATURES / f"{found.content}.npy").is_file() else None
