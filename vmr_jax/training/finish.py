"""The end of a run: the best checkpoint on every split, results, predictions and report."""

import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_collections
import numpy as np

from vmr_jax.errors import UserError
from vmr_jax.evaluation.evaluator import Evaluator
from vmr_jax.evaluation.protocols.base import Predictions
from vmr_jax.evaluation.results import (
    choose_examples,
    prediction_rows,
    protocol_stamp,
    save_examples,
    selected_on_test,
    split_results,
)
from vmr_jax.files import plain, read_json, write_json, write_whole
from vmr_jax.input.dataset import Split
from vmr_jax.parallel import is_lead_host, wait_for_hosts
from vmr_jax.reporting.page import write_report
from vmr_jax.reporting.tables import results_table
from vmr_jax.retrieval.calibration import IOU, Answer, Bin, fit
from vmr_jax.training.checkpoint import Checkpoints
from vmr_jax.training.experiment import BEST, CHECKPOINTS, Experiment
from vmr_jax.training.identity import changed_data
from vmr_jax.training.same_run import fingerprint

log = logging.getLogger("vmr_jax")

RESULTS, PREDICTIONS, REPORT = "results.json", "predictions.jsonl", "report.html"
_EXAMPLES = ("examples.npz", "examples.json")
Drawn = tuple[Split, list[tuple[str, int]], dict[str, np.ndarray]]  # queries of a split, with their pictures
_WRITTEN = (*_EXAMPLES, PREDICTIONS, REPORT, RESULTS)  # in this order; results.json is the last


def finish(experiment: Experiment, evaluator: Evaluator, workdir: Path, save: bool = True) -> dict[str, Any]:
    """Evaluates the best checkpoint on every split, writes results, predictions and report.

    Args:
      experiment: the run, opened.
      evaluator: of its config.
      workdir: its folder.
      save: False where the folder cannot be written.

    Returns:
      The content of results.json.
    """
    config = experiment.config
    variables, position = experiment.best_variables(workdir)
    train = experiment.dataset.split("train")
    splits = experiment.evaluation_splits()
    for name in splits:  # before any is evaluated
        evaluator.protocol.prepare(experiment.model, experiment.dataset.split(name))
    changed = changed_data(experiment, workdir, splits)
    if changed:
        log.warning("The data have changed since the run began: %s", "; ".join(changed))
    counts = {name: len(experiment.loader(name)) for name in splits}
    results: dict[str, Any] = {
        "step": _last_step(workdir, position["step"]),
        "best_step": position["step"],
        "config": fingerprint(config),
        "protocol": protocol_stamp(config, evaluator.protocol, counts, position.get("init_from")),
        "note": _note(config, splits, position, changed),
        "splits": {},
    }
    lines: list[dict[str, Any]] = []
    answers: dict[str, list[Answer]] = {}
    drawn: Drawn | None = None
    for name in splits:
        loader = experiment.loader(name)
        passes = ("this run", *config.evaluation.sanity)
        log.info("%s: %d queries, passes over them: %s", name, len(loader), ", ".join(passes))
        predictions = evaluator.run(variables, loader)
        sanity = evaluator.sanity(variables, loader)
        results["splits"][name] = split_results(
            config, evaluator.protocol, train, loader.split, predictions, sanity
        )
        lines += prediction_rows(loader.split, predictions)
        answers[name] = _answers(predictions)
        if name == ("test" if "test" in splits else splits[-1]):
            chosen = choose_examples(predictions.ious)
            pictures = evaluator.pictures(variables, loader, np.asarray([row for _, row in chosen]))
            drawn = loader.split, chosen, pictures
    results |= _confidence(answers, config.evaluation.select_split)
    results = plain(results)
    if is_lead_host() and save:
        _write(workdir, results, lines, drawn)
    wait_for_hosts("finished")  # a host that ends first would wait for the others in vain
    return results


def _answers(predictions: Predictions) -> list[Answer]:
    """The moments of each query with their scores, and which of them are right."""
    return [
        Answer(scores[real], ious[real] >= IOU - 1e-6)
        for scores, ious, real in zip(
            predictions.scores, predictions.ious, np.isfinite(predictions.scores), strict=True
        )
    ]


def _confidence(answers: Mapping[str, list[Answer]], fitted_on: str) -> dict[str, Any]:
    """How the score of a moment becomes a probability, and how that does on each split; {} of too few queries.

    It is fitted to the split on which the checkpoint was selected; on that it is judged by halves.
    """
    try:
        found = fit(answers.get(fitted_on, []))
    except UserError:  # too few queries
        return {}
    judged = {name: found.judged(of) for name, of in answers.items() if any(len(a.scores) for a in of)}
    judged[fitted_on] = found.error, found.bins
    return {
        "confidence": {
            "split": fitted_on,
            "queries": found.queries,
            "slope": _steady(found.slope),
            "intercept": _steady(found.intercept),
            "splits": {name: _steady_bins(error, bins) for name, (error, bins) in judged.items()},
        }
    }


def _steady_bins(error: float, bins: Sequence[Bin]) -> dict[str, Any]:
    """How the probabilities of a split do, for results.json."""
    rows = [(hits, _steady(said), _steady(was)) for hits, said, was in bins]
    return {"error": _steady(error), "bins": rows}


def _steady(value: float) -> float:
    """The digits of a number that do not depend on the order of float32 sums, in which hosts differ."""
    return float(f"{value:.5g}")


def is_evaluated(config: ml_collections.ConfigDict, workdir: Path, position: Mapping[str, Any]) -> bool:
    """Whether the files of `finish` are there, all of them, and belong to this config and to the position."""
    results = _read_results(workdir)
    return (
        all((workdir / name).is_file() for name in (PREDICTIONS, REPORT))
        and results.get("config") == fingerprint(config)
        and all(results.get(key) == position[key] for key in ("step", "best_step"))
    )


def set_results_aside(workdir: Path) -> None:
    """Moves what `finish` has written to earlier/step_N: it does not belong to a run that trains on.

    What was left without results.json is of an evaluation that was killed, and is removed.
    """
    step = _read_results(workdir).get("step")
    present = [workdir / name for name in _WRITTEN if (workdir / name).exists()]
    if step is None:
        for path in present:
            path.unlink()
    elif present:
        folder = workdir / "earlier" / f"step_{step}"
        folder.mkdir(parents=True, exist_ok=True)
        for path in present:
            os.replace(path, folder / path.name)
        log.info("The results of step %s are in %s now, as the run trains on", step, folder)


def _read_results(workdir: Path) -> dict[str, Any]:
    """The content of results.json; {} where it is missing or damaged."""
    try:
        results = read_json(workdir / RESULTS)
    except (OSError, ValueError):
        return {}
    return results if isinstance(results, dict) else {}


def _last_step(workdir: Path, best_step: int) -> int:
    """The step of the last checkpoint; the best one's where there are no others, as after an import."""
    checkpoints = Checkpoints(workdir / CHECKPOINTS, keep=2, changes=False)
    steps = checkpoints.steps()
    checkpoints.close()
    return max([best_step, *steps])


def _write(workdir: Path, results: dict[str, Any], lines: list[dict[str, Any]], drawn: Drawn | None) -> None:
    """Writes the files of a finished run. results.json is the last: where it is, the others belong to it."""
    for name in (RESULTS, *_EXAMPLES):
        (workdir / name).unlink(missing_ok=True)
    if drawn is not None:
        save_examples(workdir, *drawn)
    write_whole(workdir / PREDICTIONS, "".join(_json_line(line) for line in lines))
    try:
        write_report(workdir, results)
    except UserError as error:  # a damaged log must not cost the numbers
        log.warning("The report is not written: %s", error)
    write_json(workdir / RESULTS, results)


def print_results(workdir: Path, results: dict[str, Any], saved: bool = True) -> None:
    """Prints the tables and where the files are, on the lead host."""
    if not is_lead_host():
        return
    print(results_table(results))
    if not saved:
        print(f"{workdir} cannot be written: nothing of this evaluation was saved.")
        return
    for label, path in (
        ("metrics", workdir / "metrics.jsonl"),
        ("predictions", workdir / PREDICTIONS),
        ("report", workdir / REPORT),
        ("checkpoint", workdir / BEST / str(results["best_step"])),
    ):
        print(f"{label:13}{path}")


def _json_line(row: dict) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"


def _note(
    config: ml_collections.ConfigDict, splits: list[str], position: Mapping[str, Any], changed: list[str]
) -> str:
    """All that a reader of the numbers must be told."""
    notes = [config.note] if config.note else []
    if selected_on_test(config, splits):
        notes.append(
            f"The checkpoint was selected on {config.evaluation.select_split}, which is reported as a test: "
            "its numbers there are optimistic."
        )
    if not splits:
        notes.append(
            f"Nothing was evaluated: the dataset {config.dataset.name} has no split but train, and "
            "config.evaluation.splits names none."
        )
    if changed:
        notes.append(f"The data have changed since the run began: {'; '.join(changed)}.")
    if position.get("losses"):
        notes.append(f"Trained with further losses: {', '.join(position['losses'])}.")
    return " ".join([*notes, *position.get("changed", ())])
