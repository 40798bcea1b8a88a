"""The files of a run's working directory, read and checked."""

import contextlib
import dataclasses
import io
import logging
import pathlib
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from vmr_jax.errors import UserError, first_few
from vmr_jax.files import MOST_BYTES, content_of, parsed, past_race

log = logging.getLogger("vmr_jax")

_TRAIN = "python launch.py --config=configs/<architecture>.py --workdir=DIR"
DAMAGED = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)  # by content of another form
EVALUATE = "python launch.py --mode=evaluate --workdir=DIR"
FILES = {
    "config.json": "the configuration, resolved",
    "metrics.jsonl": "losses and validation metrics by step",
    "results.json": "final metrics and protocol",
    "predictions.jsonl": "ranked moments of every query",
    "examples.json": "the queries drawn here",
    "examples.npz": "their maps and clips",
    "timing.jsonl": "speed by step",
}


@dataclasses.dataclass(frozen=True)
class Run:
    """Contents of the files of a working directory; optional files that are absent are empty."""

    results: Mapping
    metrics: Sequence[Mapping]
    config: Mapping
    predictions: Sequence[Mapping]
    examples: Sequence[Mapping]
    pictures: Mapping[str, np.ndarray]
    timing: Sequence[Mapping]
    files: Sequence[str]

    @property
    def evaluated(self) -> bool:
        """False where the run had no split to be evaluated on, and says so."""
        return bool(self.results["splits"])


def read_run(workdir: pathlib.Path, content: Mapping | None = None) -> Run:
    """Reads every file of a run that its report shows.

    Args:
      workdir: the folder.
      content: of results.json, where that is yet to be written; None reads the file.

    Raises:
      UserError: results.json or metrics.jsonl is missing, or a file is not what the writer of its name makes.
    """
    results = read_results(workdir) if content is None else content
    present = {name for name in FILES if (workdir / name).exists()} | {"results.json"}
    metrics = _of_steps(read_file(workdir / "metrics.jsonl", _TRAIN))
    _check_rows(workdir / "metrics.jsonl", metrics, ("step",))
    predictions = read_predictions(workdir) if (workdir / "predictions.jsonl").exists() else []
    examples = _optional(workdir / "examples.json", [])
    _check_rows(workdir / "examples.json", examples, ("split", "qid", "kind"))
    return Run(
        results=results,
        metrics=metrics,
        config=_optional(workdir / "config.json", {}),
        predictions=predictions,
        examples=examples,
        pictures=_pictures(workdir / "examples.npz"),
        timing=_of_steps(_optional(workdir / "timing.jsonl", [])),
        files=[name for name in FILES if name in present],
    )


def _of_steps(rows: Sequence) -> list:
    """Rows of a log whose step is a whole number, and those that are no row at all, which are then named."""
    return [row for row in rows if not (isinstance(row, dict) and type(row.get("step", 0)) is not int)]


def _pictures(path: pathlib.Path) -> dict[str, np.ndarray]:
    """The arrays of examples.npz; UserError where they are damaged or claim more than there can be."""
    if not path.exists():
        return {}
    try:
        return past_race(lambda: _arrays(content_of(path)))
    except (*DAMAGED, OSError, EOFError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{path} is damaged ({error}). Write the file again with: {EVALUATE}") from None


def _arrays(content: bytes) -> dict[str, np.ndarray]:
    with io.BytesIO(content) as file, np.load(file, allow_pickle=False) as stored:
        if sum(member.file_size for member in stored.zip.infolist()) > MOST_BYTES:
            raise ValueError("it claims more than a file of pictures can hold")
        return {name: stored[name] for name in stored.files}


@contextlib.contextmanager
def whole_files(where: str) -> Iterator[None]:
    """Shows what files of a run hold: UserError where it is nothing that the writers of their names make."""
    try:
        yield
    except DAMAGED as error:
        raise UserError(
            f"What {where} holds cannot be shown ({type(error).__name__}: {error}): one of its files is "
            "damaged. Restore metrics.jsonl and timing.jsonl from a copy, and write the others again with: "
            f"{EVALUATE}"
        ) from error


def read_results(workdir: pathlib.Path) -> dict:
    """The content of results.json; UserError where it is missing or not what the evaluation writes."""
    results = read_file(workdir / "results.json", EVALUATE)
    _check_results(workdir / "results.json", results)
    return results


def read_predictions(workdir: pathlib.Path) -> list[dict]:
    """The rows of predictions.jsonl; UserError where it is missing or a row lacks a field."""
    rows = read_file(workdir / "predictions.jsonl", EVALUATE)
    needed = ("split", "qid", "vid", "query", "duration", "relevant_windows", "pred_relevant_windows")
    _check_rows(workdir / "predictions.jsonl", rows, needed)
    return rows


def read_file(path: pathlib.Path, command: str):
    """The content of a .json or .jsonl file of a run; UserError naming `command` where it is missing."""
    if not path.exists():
        raise UserError(f"{path} is missing, and is needed here. It is written by: {command}")
    return _parse(path)


def _optional(path: pathlib.Path, absent):
    return _parse(path) if path.exists() else absent


def _parse(path: pathlib.Path):
    """The value of a .json file, or the list of the values of the lines of a .jsonl file.

    A damaged line of the latter is left out and named in the log; the last one, torn by a kill, is left out.
    """
    try:
        text = content_of(path).decode("utf-8", "replace").removeprefix("\ufeff")
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror or error}). Restore it from a copy, or delete it."
        ) from None
    if path.suffix == ".json":
        return _value(text, f"{path}")
    rows, damaged = [], []
    *whole, torn = text.split("\n")
    for i, line in enumerate([*whole, torn], 1):
        try:
            if line.strip():
                rows.append(parsed(line))
        except ValueError:
            damaged += [i] if i <= len(whole) else []
    if damaged:
        log.warning(
            "%s: %s damaged, line %s, left out here; the others are read",
            path,
            "1 line is" if len(damaged) == 1 else f"{len(damaged)} lines are",
            first_few(damaged, 10),
        )
    return rows


def _value(text: str, where: str):
    try:
        return parsed(text)
    except ValueError as error:
        raise UserError(
            f"{where}: this is not JSON ({error}). Delete it and write the file again with: {EVALUATE}"
        ) from error


def _check_results(path: pathlib.Path, results) -> None:
    splits = results.get("splits") if isinstance(results, dict) else None
    nothing_to_evaluate = isinstance(results, dict) and (results.get("protocol") or {}).get("splits") == {}
    if not isinstance(splits, dict) or not (splits or nothing_to_evaluate):
        raise UserError(
            f'{path}: the field "splits" must hold at least one evaluated split. Write the file again '
            f"with: {EVALUATE}"
        )
    for name, split in splits.items():
        _check_rows(path, [split], ("count", "rows"), f'split "{name}"')
        _check_rows(path, split["rows"], ("name", "metrics"), f'split "{name}", row')
        if not split["rows"]:
            raise UserError(f'{path}, split "{name}": it has no row. Write the file again with: {EVALUATE}')


def _check_rows(path: pathlib.Path, rows: Sequence, fields: Sequence[str], what: str = "record") -> None:
    for i, row in enumerate(rows, 1):
        for field in fields:
            if not isinstance(row, dict) or field not in row:
                raise UserError(
                    f'{path}, {what} {i}: the field "{field}" is missing. Write the file again with: {EVALUATE}'
                )
