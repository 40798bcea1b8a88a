"""`--mode=check`: whether training would work, from reading all annotations and all features once.

Sections: annotations, features (in check_annotations.py and check_features.py), run, verdict. Each section
prints what it found and adds to the problems; none stops at the first. Nothing is written to the folder of the
run.
"""

import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from vmr_jax.evaluation.evaluator import Evaluator
from vmr_jax.evaluation.protocols import check_selection
from vmr_jax.input import dataset as input_lib
from vmr_jax.input.dataset import Dataset
from vmr_jax.input.loader import steps_per_epoch
from vmr_jax.input.spec import check_fields
from vmr_jax.models.base import GroundingModel
from vmr_jax.modes.check_annotations import annotations, open_annotations
from vmr_jax.modes.check_features import features
from vmr_jax.modes.check_problems import Problems, counted, facts_table
from vmr_jax.modes.inspect import abstract_variables, parameter_count
from vmr_jax.parallel import Parallel
from vmr_jax.training import optimizer as optimizer_lib
from vmr_jax.training.advice import advice
from vmr_jax.training.experiment import Experiment, make_model
from vmr_jax.training.ignored import check_nothing_is_ignored
from vmr_jax.training.preflight import check_config
from vmr_jax.training.selection import check_evaluation

_WIDTH = 100  # columns at most


def check(config, workdir: Path) -> None:
    """`--mode=check`: prints the report; ends the process with status 1 where training would fail."""
    del workdir
    terminal = Console()
    width = min(terminal.width, _WIDTH) if terminal.is_terminal else _WIDTH
    if find_problems(config, Console(width=width, highlight=False)).fatal:
        sys.exit(1)


def find_problems(config, console: Console) -> Problems:
    """Prints annotations, features, run and verdict; returns what is wrong with them."""
    problems = Problems()
    dataset = open_annotations(config.dataset, problems)
    splits = {name: dataset.split(name) for name in dataset.split_names} if dataset else {}
    _print(console, f"Annotations of {config.dataset.name}", *annotations(config, dataset, splits, problems))
    _print(console, "Features", *features(config, splits, problems, console))
    _print(console, "Run", *_run(config, dataset, problems))
    _print(console, "Verdict", *_verdict(problems))
    return problems


def _run(config, dataset: Dataset | None, problems: Problems) -> list:
    """Whether the config builds: devices, architecture, optimiser, evaluation."""
    facts, parallel, model = [], None, None
    with problems.caught():
        parallel = Parallel(config.parallel, config.num_devices)
        kind = parallel.devices[0].platform.upper()
        facts.append(("devices", f"{len(parallel.devices)} {kind}, config.parallel='{parallel.mode}'"))
        parallel.check_batch_size(config.batch_size, "config.batch_size")
    with problems.caught():
        model = make_model(config)
        check_fields(config, model.requires())
        check_nothing_is_ignored(config, model)
        facts.append(("architecture", _architecture(config, model)))
    with problems.caught():
        input_lib.check_resample(config.input.resample)
    with problems.caught():
        facts.append(("training", _training(config, dataset, problems)))
    if parallel is not None and model is not None:
        with problems.caught():
            facts.append(("evaluation", _evaluation(config, Evaluator(config, model, parallel), dataset)))
    with problems.caught():
        check_config(config)  # what training asks first
    if dataset is not None:
        with problems.caught():
            _open(config, dataset)
    return [facts_table(facts)]


def _open(config, dataset: Dataset) -> None:
    """Opens what training opens, but the features, which have their own section; raises what it raises."""
    experiment = Experiment(config, dataset=dataset)
    asked = ("train", config.evaluation.select_split, *(config.evaluation.splits or dataset.labelled_splits))
    for name in dict.fromkeys(asked):
        if name in dataset.split_names:  # or it was named above
            experiment.loader(name)


def _architecture(config, model: GroundingModel) -> str:
    """Its size, after its parameters were found to be covered by the optimiser's rules."""
    variables = abstract_variables(config, vocab_size=2 if config.text.trainable else 0)
    schedule = optimizer_lib.learning_rate(config.optimizer, 1, 1)
    optimizer_lib.make_optimizer(config.optimizer, schedule, variables["params"], 1)
    needs = f"; needs {', '.join(model.requires())}" if model.requires() else ""
    return f"{config.model.name}, {parameter_count(variables):,} parameters{needs}"


def _training(config, dataset: Dataset | None, problems: Problems) -> str:
    """How long it takes, in steps; UserError for a duration that cannot be read."""
    rows = max(config.input.queries_per_video, 1)
    size = max(config.batch_size, rows)  # a wrong one was named above
    steps = steps_per_epoch(dataset.split("train").owner, size, rows) if dataset else 1
    for field in ("evaluate_every", "log_every"):
        optimizer_lib.duration(config[field], steps, f"config.{field}")
    total = optimizer_lib.duration(config.train_for, steps, "config.train_for")
    if dataset:
        problems.warnings += advice(config, len(dataset.split("train").queries), total)
    length = f": {counted(steps, 'step')} an epoch, {total:,} in all" if dataset else ""
    return f"{config.train_for}, batches of {config.batch_size}{length}"


def _evaluation(config, evaluator: Evaluator, dataset: Dataset | None) -> str:
    """The protocol, its splits, and how the best checkpoint is chosen."""
    options, protocol = config.evaluation, evaluator.protocol
    metric = check_selection(options, protocol)
    best = f"best by {metric} on {options.select_split}" if options.select_split else "the last is kept"
    if dataset is None:
        return f"{protocol.name}; {best}"
    names = check_evaluation(config, evaluator.model, dataset, protocol)
    return f"{protocol.name} on {', '.join(names) or 'nothing, as there is only train'}; {best}"


def _verdict(problems: Problems) -> list:
    """The problems, and whether training would start."""
    lines = Table.grid(padding=(0, 2, 0, 0))
    lines.add_column(no_wrap=True, min_width=7)
    lines.add_column(overflow="fold")
    for word, found, style in (
        ("problem", problems.fatal, "bold red"),
        ("warning", problems.warnings, "yellow"),
    ):
        for text in found:
            lines.add_row(Text(word, style=style), Text(text))
    warned = f" ({counted(len(problems.warnings), 'warning')})" if problems.warnings else ""
    if problems.fatal:
        result = Text(
            f"{counted(len(problems.fatal), 'problem')} would stop training{warned}", style="bold red"
        )
    else:
        result = Text(f"ok: training would start{warned}", style="bold green")
    return [lines, result] if lines.row_count else [result]


def _print(console: Console, title: str, *parts) -> None:
    console.print(Text(title, style="bold"))
    for part in parts:
        console.print(part)
    console.print()
