"""`--mode=score`: scores a prediction file, of whatever program, against the annotations of a dataset.

    python launch.py --mode=score --predictions=FILE --config=configs/NAME.py:DATASET
    python launch.py --mode=score --predictions=FILE --workdir=DIR

Nothing of the config but `dataset` and `evaluation` is read. Predictions are taken as they are, best first in
the order of the file: no NMS, no cut to the video. Annotated moments are those of the dataset's files,
cut to the video; nothing is prepared.

With --config the protocol is the one of the dataset's official evaluator, as the authors count with it, unless
the command names another; with --workdir it is the run's, whose numbers its own predictions.jsonl then gives.
"""

import io
import logging
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from vmr_jax.errors import UserError, printable, user_path
from vmr_jax.evaluation import prediction_files as files
from vmr_jax.evaluation.prediction_files import PredictionFile
from vmr_jax.evaluation.protocols import DEFAULT, OFFICIAL, Protocol, make_protocol
from vmr_jax.input.annotated import Splits, annotated_splits
from vmr_jax.input.dataset import Split
from vmr_jax.reporting.tables import percent

log = logging.getLogger("vmr_jax")

_ALWAYS = ("protocol", "splits")  # options that count for every protocol


def score(
    config: Any,
    workdir: Path,
    predictions: str | None,
    given: Collection[str] = (),
    of_run: bool = True,
) -> None:
    """Prints the metrics of the prediction file for every split of the dataset that it is for.

    Args:
      config: the resolved config.
      workdir: is not read.
      predictions: path of the file.
      given: fields of the config that the command sets, such as 'evaluation.keep'.
      of_run: whether the config is that of a run, with those fields.

    Raises:
      UserError: for a file that is wrong or does not fit, and for an option that scoring cannot honour.
    """
    del workdir
    if not predictions:
        raise UserError("--mode=score needs --predictions=FILE.")
    found = files.read(user_path(predictions))
    protocol = protocol_of(config, given, of_run)
    for split in splits_of(found, annotated_splits(config.dataset), tuple(config.evaluation.splits)):
        groups = protocol.groups(split, protocol.read(split, found))
        print(printable(f"{found.path.name} on {split.name}, {len(split.queries)} queries, %"))
        print(table(groups))
    print(f"protocol: {protocol.name}; {protocol.rule()}")
    print("Predictions are taken as they are, best first in the order of the file; NMS: none.")
    print("Annotated moments are cut to their video.")


def protocol_of(config: Any, given: Collection[str], of_run: bool = False) -> Protocol:
    """The protocol to score by, with the options that apply to a file; arguments as of `score`.

    A file has been cut to a number of moments already: `keep` cuts it only where the command says so.

    Raises:
      UserError: for an unknown protocol, and for an option of the command that the protocol cannot honour.
    """
    options = config.evaluation.copy_and_resolve_references().unlock()
    _refuse_unread(given)
    asked = {field.split(".")[1] for field in given if field.startswith("evaluation.")}
    if of_run:
        protocol = make_protocol(options)
        _refuse_others(protocol, asked)
        return protocol
    official = OFFICIAL.get(config.dataset.name, DEFAULT)
    if options.protocol == DEFAULT and "protocol" not in asked:
        options.protocol = official
    protocol = make_protocol(options)
    _refuse_others(protocol, asked)
    if "keep" not in asked:
        options.keep = sys.maxsize
    if protocol.name != DEFAULT and "strict" not in asked:
        options.strict = False  # as the official evaluators count, whatever the architecture's paper does
    return protocol


def _refuse_unread(given: Collection[str]) -> None:
    """Raises UserError where the command sets a field of a section that scoring does not read."""
    unread = [f"config.{field}" for field in given if field.split(".")[0] not in ("dataset", "evaluation")]
    if unread:
        raise UserError(
            f"{' and '.join(unread)} cannot be honoured: --mode=score reads config.dataset and "
            f"config.evaluation alone, no model. Leave {'it' if len(unread) == 1 else 'them'} out."
        )


def _refuse_others(protocol: Protocol, asked: Collection[str]) -> None:
    """Raises UserError where the command sets an option that changes nothing here."""
    known = (*_ALWAYS, *protocol.counted_with)
    others = [f"config.evaluation.{name}" for name in sorted(set(asked) - set(known))]
    if others:
        raise UserError(
            f"{' and '.join(others)} cannot be honoured: --mode=score takes the moments of the file as they "
            f"are, and the protocol {protocol.name} counts them with {', '.join(known)} alone. Leave "
            f"{'it' if len(others) == 1 else 'them'} out."
        )


def splits_of(found: PredictionFile, dataset: Splits, asked: Sequence[str]) -> list[Split]:
    """The splits to score; the annotations of no other are read, but to find out which one a file is for.

    Those that the rows of the file name; where they name none, the first split whose query ids are those of
    the file, or, where no split has them all, the one that shares most. Of these, the ones in `asked`
    (`config.evaluation.splits`) unless that is empty.
    """
    rows = next(iter(found.tasks.values()))
    named = list(dict.fromkeys(p.split for p in rows if p.split))
    if named:
        chosen = [name for name in named if name in asked or not asked]
        if not chosen:
            raise UserError(
                f"{found.path} has predictions for {', '.join(named)}; config.evaluation.splits asks for "
                f"{', '.join(asked)}. Set --config.evaluation.splits to splits of the file."
            )
        return [_with_moments(dataset, name) for name in chosen]
    ids = {p.qid for p in rows}
    best, most = [], -1.0
    for name in asked or dataset.split_names:
        split = dataset.split(name)
        agreement = _agreement(ids, {q.qid for q in split.queries})
        if agreement == 1:
            return [split]
        if agreement > most:
            best, most = [split], agreement
    return best


def _with_moments(dataset: Splits, name: str) -> Split:
    """A split; UserError where its moments are not known."""
    split = dataset.split(name)
    split.require_moments()
    return split


def _agreement(ids: set[str], of_split: set[str]) -> float:
    """Jaccard index of two sets of ids; 1 where they are the same."""
    return len(ids & of_split) / max(len(ids | of_split), 1)


# --- printing -------------------------------------------------------------------------------------


def table(groups: Mapping[str, Mapping[str, float]]) -> str:
    """One line a metric, one column a group of queries; groups of other metrics follow below."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    file = io.StringIO()
    console = Console(file=file, width=100)
    together: dict[tuple[str, ...], list[str]] = {}
    for group, values in groups.items():
        together.setdefault(tuple(values), []).append(group)
    for names, members in together.items():
        grid = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
        grid.add_column("")
        for group in members:
            grid.add_column(Text(printable(group)), justify="right", min_width=7)
        for name in names:
            grid.add_row(name, *(percent(groups[group][name]) for group in members))
        console.print(grid)
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines())
