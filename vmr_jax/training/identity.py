"""The data are part of a run's identity: `data.json` in its folder says what it was trained on.

Annotations are known by a digest, features and word vectors by a few numbers of each video and of some queries.
The numbers are compared with a tolerance, because averages over rows differ in their last bits from one kind of
processor to another.
"""

import hashlib
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vmr_jax.config import CONFIG
from vmr_jax.errors import UserError, first_few, user_path
from vmr_jax.files import read_json, write_json
from vmr_jax.input.dataset import Split
from vmr_jax.input.loader import Loader
from vmr_jax.training.experiment import DATA, Experiment, digest_of_words
from vmr_jax.types import fields_from
from vmr_jax.video.manifest import is_library, read_manifest

_TOLERANCE = 1e-3  # relative
_QUERIES = 8  # of a split, of whose words the numbers are looked at
_TOKENS = (
    "query_vectors",
    "translation",
    "sentence",
    "subwords",
)  # fields of a batch that come from files of words


def record_data(experiment: Experiment, workdir: Path, splits: Iterable[str]) -> None:
    """Writes what the splits hold, beside what was recorded of others before."""
    before = read_data(workdir) if (workdir / CONFIG).is_file() else {}
    known = before.get("splits", {}) if before.get("name") == experiment.dataset.options.name else {}
    found = {name: _described(experiment, name) for name in splits if name not in known}
    if found or not before:
        document = {
            "name": experiment.dataset.options.name,
            "vocabulary": digest_of_words(experiment.vocabulary),
            "splits": {**known, **found},
            "encoder": encoder_of(experiment.dataset.options),
        }
        write_json(workdir / DATA, document)


def check_same_data(experiment: Experiment, workdir: Path, splits: Iterable[str]) -> None:
    """Raises UserError where the splits hold something else than what the run began with."""
    found = changed_data(experiment, workdir, splits)
    if found:
        raise UserError(
            f"The data have changed since the run in {workdir} began: {'; '.join(found)}. A run goes on with "
            "the data that it began with: bring those back, or choose another --workdir for a new run."
        )


def changed_data(experiment: Experiment, workdir: Path, splits: Iterable[str]) -> list[str]:
    """Differences from the record, by split; nothing of splits and datasets that no record has."""
    record = read_data(workdir)
    if record.get("name") != experiment.dataset.options.name:
        return []
    found = []
    for name in dict.fromkeys(splits):
        if name in record["splits"]:
            found += _differences(name, record["splits"][name], _described(experiment, name))
    return found


def read_data(workdir: Path) -> dict[str, Any]:
    """The content of data.json; {} where there is none, as of version 0.1."""
    path = workdir / DATA
    if not path.exists():
        return {}
    try:
        record = read_json(path)
        for split in record["splits"].values():
            types = tuple(type(split[key]) for key in ("queries", "annotations", "features", "words"))
            if types != (int, str, dict, dict):
                raise ValueError("a split is described in another form")
        return {
            "name": record["name"],
            "splits": dict(record["splits"]),
            "vocabulary": record["vocabulary"],
            "encoder": dict(record.get("encoder", {})),  # which older records lack
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path}, the record of the data of the run, is damaged ({error}). Delete it if you know that the "
            "data are those of its training."
        ) from None


def encoder_of(options: Mapping[str, Any]) -> dict[str, Any]:
    """The identity of the encoder of frames, where `config.dataset` is a library of videos; else {}."""
    folder = options.get("manual_dir")
    library = folder and user_path(folder)
    return read_manifest(library).encoder if library and is_library(library) else {}


# --- what is recorded -----------------------------------------------------------------------------


def _described(experiment: Experiment, name: str) -> dict[str, Any]:
    loader = experiment.loader(name)
    split = loader.split
    streams = [s for s in ("video", *fields_from("stream")) if s == "video" or s in experiment.model.requires()]
    return {
        "queries": len(split.queries),
        "annotations": _annotations(split),
        "features": {
            video.id: [_number_of(experiment.dataset.clips(video, stream)) for stream in streams]
            for video in split.videos
        },
        "words": _words(loader),
    }


def _annotations(split: Split) -> str:
    digest = hashlib.sha256()
    for query, owner in zip(split.queries, split.owner):
        video = split.videos[owner]
        digest.update(repr((video.id, video.duration, query.text, query.span, query.windows)).encode())
    return digest.hexdigest()[:24]


def _number_of(rows: np.ndarray) -> float:
    """One number of the first, the middle and the last row of [n,...], and of how many there are."""
    sampled = np.asarray(rows[[0, len(rows) // 2, -1]], np.float64).reshape(3, -1)
    weights = 1 + np.arange(sampled.shape[1]) % 7
    return float(f"{len(rows) + float((np.abs(sampled) @ weights) @ [1, 2, 3]):.6g}")


def _words(loader: Loader) -> dict[str, float]:
    rows = np.unique(np.linspace(0, len(loader) - 1, _QUERIES).astype(np.int64))
    batch = loader.batch(rows)
    present = {name: getattr(batch, name) for name in _TOKENS if getattr(batch, name) is not None}
    return {name: float(f"{np.abs(np.asarray(v, np.float64)).sum():.6g}") for name, v in present.items()}


def _differences(name: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    found = []
    if before["queries"] != now["queries"]:
        found.append(f"{name} had {before['queries']} queries and has {now['queries']}")
    elif before["annotations"] != now["annotations"]:
        found.append(f"{name} has other annotations")
    shared = before["features"].keys() & now["features"].keys()
    other = sorted(v for v in shared if not _alike(before["features"][v], now["features"][v]))
    if other:
        found.append(f"the features of {len(other)} videos of {name} are others ({first_few(other, 3)})")
    same = before["annotations"] == now["annotations"]  # else the queries looked at are others
    words = [f for f in before["words"].keys() & now["words"].keys() if same]
    other = sorted(f for f in words if not _alike([before["words"][f]], [now["words"][f]]))
    if other:
        found.append(f"the word vectors or tokens of {name} are others ({', '.join(other)})")
    return found


def _alike(before: list[float], now: list[float]) -> bool:
    return len(before) == len(now) and all(
        math.isclose(a, b, rel_tol=_TOLERANCE, abs_tol=_TOLERANCE) for a, b in zip(before, now)
    )
