"""What a run ends with: the best checkpoint on every split, results, predictions and report."""

import json
import logging
from pathlib import Path

import numpy as np

from vmr_jax.evaluation.evaluator import Evaluator
from vmr_jax.evaluation.results import (
    choose_examples,
    prediction_rows,
    protocol_stamp,
    save_examples,
    selected_on_test,
    split_results,
)
from vmr_jax.files import write_json, write_whole
from vmr_jax.parallel import (
    is_lead_host,
    wait_for_hosts,
)
from vmr_jax.reporting.page import write_report
from vmr_jax.reporting.tables import results_table
from vmr_jax.training.experiment import BEST, Experiment

log = logging.getLogger("vmr_jax")


def finish(experiment: Experiment, evaluator: Evaluator, workdir: Path) -> None:
    """Evaluates the best checkpoint on every split, writes results, predictions and report, prints them."""
    config = experiment.config
    variables, position = experiment.best_variables(workdir)
    train = experiment.dataset.split("train")
    splits = experiment.evaluation_splits()
    counts = {name: len(experiment.loader(name)) for name in splits}
    results = {
        "step": position["step"],
        "best_step": position["step"],
        "protocol": protocol_stamp(config, evaluator.protocol, counts),
        "note": _note(config, splits),
        "splits": {},
    }
    lines = []
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
        if name == ("test" if "test" in splits else splits[-1]):
            chosen = choose_examples(predictions.ious)
            pictures = evaluator.pictures(variables, loader, np.asarray([row for _, row in chosen]))
            drawn = loader.split, chosen, pictures
    if is_lead_host():
        save_examples(workdir, *drawn)
        _write_results(workdir, results, lines)
    wait_for_hosts("finished")  # a host that ends first would wait for the others in vain


def _write_results(workdir: Path, results: dict, lines: list[dict]) -> None:
    """Writes what a run ends with, and prints the tables and where the files are."""
    write_json(workdir / "results.json", results)
    write_whole(workdir / "predictions.jsonl", "".join(_json_line(line) for line in lines))
    report = write_report(workdir)
    print(results_table(results))
    print(
        "\n".join(
            f"{label:13}{path}"
            for label, path in (
                ("metrics", workdir / "metrics.jsonl"),
                ("predictions", workdir / "predictions.jsonl"),
                ("report", report),
                ("checkpoint", workdir / BEST / str(results["step"])),
            )
        )
    )


def _json_line(row: dict) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"


def _note(config, splits: list[str]) -> str:
    notes = [config.note] if config.note else []
    if selected_on_test(config, splits):
        notes.append(
            f"The checkpoint was selected on {config.evaluation.select_split}, which is reported as a test: "
            "its numbers there are optimistic."
        )
    return " ".join(notes)
