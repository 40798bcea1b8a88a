"""The records of one prepared folder are read once: they took a seventh of the time of tests that train."""

import dataclasses
from pathlib import Path

from vmr_jax.input.dataset import Dataset

_MOST = 32  # splits that are kept
_read = {}  # (folder, split, files as they were) -> split
_of_files = Dataset._read_records


def read_once(dataset: Dataset, name: str):
    """`Dataset._read_records`, again only where a file has changed; everyone gets lists of his own."""
    folder = Path(dataset._builder.data_path)
    files = [(path.name, path.stat().st_mtime_ns, path.stat().st_size) for path in sorted(folder.iterdir())]
    key = (folder, name, tuple(files))
    if key not in _read:
        if len(_read) == _MOST:
            del _read[next(iter(_read))]
        _read[key] = _of_files(dataset, name)
    split = _read[key]
    return dataclasses.replace(
        split, videos=[*split.videos], queries=[*split.queries], owner=split.owner.copy()
    )
