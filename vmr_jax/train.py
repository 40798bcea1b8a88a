"""Training: one loop for every architecture.

Sections: state, step, loop, finish. The loop evaluates and saves before it takes the next batch, so that a run
killed at any instant and started again with the same command ends with the same bytes.

Several hosts run the same loop: each reads its rows of a batch, all have the same numbers and take the same
decisions, and the lead host alone writes files. They share the folder of the run, where all of them read the
checkpoints.
"""

import contextlib
import json
import logging
import resource
import secrets
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from vmr_jax import evaluate as evaluate_lib
from vmr_jax import optimizer as optimizer_lib
from vmr_jax.checkpoint import Checkpoints
from vmr_jax.errors import UserError
from vmr_jax.evaluate import Evaluator
from vmr_jax.experiment import BEST, CHECKPOINTS, CONFIG, Experiment, config_as_dict, load_config
from vmr_jax.models.base import GroundingModel
from vmr_jax.parallel import (
    hosts_agree,
    is_lead_host,
    lead_host_first,
    several_hosts,
    sum_over_devices,
    wait_for_hosts,
)
from vmr_jax.protocols import check_selection
from vmr_jax.report import results_table, write_report
from vmr_jax.types import Batch
from vmr_jax.writer import JsonLines, NoLines, prepare_workdir, write_json, write_whole

log = logging.getLogger("vmr_jax")

_MAY_CHANGE = {
    "train_for", "log_every", "patience", "profile", "num_devices", "parallel", "published", "dataset.beam"
}  # fmt: skip


# --- state ----------------------------------------------------------------------------------------


@struct.dataclass
class TrainState:
    """All that a step changes."""

    step: jax.Array  # [] int32, updates done
    params: Any
    model_state: Any  # other collections, such as batch_stats
    opt_state: Any

    @property
    def variables(self) -> dict[str, Any]:
        """What `model.apply` takes."""
        return {"params": self.params, **self.model_state}


def initial_state(variables: dict[str, Any], optimizer: optax.GradientTransformation) -> TrainState:
    """The state before the first update."""
    params = variables["params"]
    return TrainState(
        step=jnp.int32(0),
        params=params,
        model_state={k: v for k, v in variables.items() if k != "params"},
        opt_state=optimizer.init(params),
    )


# --- step -----------------------------------------------------------------------------------------


def make_step(
    model: GroundingModel,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
    steps_per_epoch: int,
    seed: int,
) -> Callable[[TrainState, Batch], tuple[TrainState, dict[str, jax.Array]]]:
    """Returns the pure function (state, batch) -> (state, scalars).

    The objective is the sum over terms of (sum over devices of sums) / (sum over devices of counts);
    each device differentiates its own sums divided by the global counts, and gradients are summed, which
    is the same on any number of devices.
    """

    def step(state: TrainState, batch: Batch):
        epoch = state.step // steps_per_epoch
        key = jax.random.fold_in(jax.random.key(seed), state.step)

        def objective(params):
            outputs, changed = model.apply(
                {"params": params, **state.model_state},
                batch,
                train=True,
                mutable=list(state.model_state),
                rngs={"dropout": key},
            )
            terms = {
                name: term.sum / jnp.maximum(sum_over_devices(jax.lax.stop_gradient(term.count)), 1.0)
                for name, term in model.loss(outputs, batch, epoch=epoch).items()
            }
            return sum(terms.values()), (terms, changed)

        gradients, (terms, changed) = jax.grad(objective, has_aux=True)(state.params)
        gradients, terms = sum_over_devices((gradients, terms))
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        scalars = {
            "train/loss": sum(terms.values()),
            **{f"train/{name}": value for name, value in terms.items()},
            "train/grad_norm": optax.tree.norm(gradients),
            "train/learning_rate": jnp.asarray(schedule(state.step), jnp.float32),
        }
        new_state = TrainState(
            step=state.step + 1,
            params=optax.apply_updates(state.params, updates),
            model_state={**state.model_state, **changed},
            opt_state=opt_state,
        )
        return new_state, scalars

    return step


# --- loop -----------------------------------------------------------------------------------------


class Trainer:
    """One run in one folder: everything between `config` and the last checkpoint."""

    def __init__(self, config, workdir: Path):
        self.config, self.workdir = config, workdir
        _check_same_run(config, workdir)
        self.experiment = _open(config, workdir)
        self.parallel = self.experiment.parallel
        self.loader = self.experiment.loader("train")
        self.steps_per_epoch = self.loader.steps_per_epoch(config.batch_size)
        self.total_steps = max(self._steps(config.train_for, "config.train_for"), 1)
        self.evaluate_every = max(self._steps(config.evaluate_every, "config.evaluate_every"), 1)
        self.log_every = max(self._steps(config.log_every, "config.log_every"), 1)
        self.evaluator = Evaluator(config, self.experiment.model, self.parallel)
        self.checkpoints = Checkpoints(workdir / CHECKPOINTS, keep=2)
        self.best = Checkpoints(workdir / BEST, keep=1)
        self.position = {"step": 0, "best_step": 0, "best_value": -1.0, "stale": 0}
        self.schedule = optimizer_lib.learning_rate(config.optimizer, self.total_steps, self.steps_per_epoch)
        self._check_selection()

    def _steps(self, text: str, field: str) -> int:
        return optimizer_lib.duration(text, self.steps_per_epoch, field)

    def _check_selection(self) -> None:
        """Fails before training, not at the first evaluation."""
        options, protocol = self.config.evaluation, self.evaluator.protocol
        check_selection(options, protocol)
        for name in {*self.experiment.evaluation_splits(), options.select_split} - {""}:
            protocol.prepare(self.experiment.model, self.experiment.dataset.split(name))

    def run(self) -> None:
        """Trains to the end (resuming where a checkpoint is), then evaluates and writes the report."""
        state = self._restore_or_start()
        first = self.position["step"]
        if is_lead_host():
            write_json(self.workdir / CONFIG, config_as_dict(self.config))
        if first >= self.total_steps and (self.workdir / "results.json").is_file():
            raise UserError(
                f"The run in {self.workdir} is already at its last step ({first} of {self.total_steps}) and "
                "evaluated. Set a longer config.train_for to train on, choose another --workdir for a new "
                "run, or read it again with --mode=evaluate."
            )
        if not self._stopped_early():
            self._loop(state, first)
        self.checkpoints.close()
        self.best.close()
        finish(self.experiment, self.evaluator, self.workdir)

    def _restore_or_start(self) -> TrainState:
        shapes = self.experiment.abstract_variables()
        self.optimizer = optimizer_lib.make_optimizer(
            self.config.optimizer, self.schedule, shapes["params"], self.steps_per_epoch
        )
        abstract = jax.eval_shape(lambda variables: initial_state(variables, self.optimizer), shapes)
        restored = self.checkpoints.restore(self.parallel.abstract(abstract))
        if restored is None:
            variables = self.experiment.initial_variables()
            return self.parallel.replicate(initial_state(variables, self.optimizer))
        state, self.position = restored
        log.info("Resuming from step %d of %d", self.position["step"], self.total_steps)
        return state

    def _loop(self, state: TrainState, first: int) -> None:
        chex.clear_trace_counter()  # it would take the step of another run in this process for the same one
        step_function = chex.assert_max_traces(
            make_step(
                self.experiment.model,
                self.optimizer,
                self.schedule,
                self.steps_per_epoch,
                self.config.seed,
            ),
            n=1,
        )
        step_function = self.parallel.map_step(step_function)
        metrics_log = _lines(self.workdir / "metrics.jsonl", first)
        self.timing_log = _lines(self.workdir / "timing.jsonl", first)
        batches = self.loader.training_batches(
            self.config.seed, first, self.total_steps, self.config.batch_size
        )
        profiler = _Profiler(self.config.profile and is_lead_host(), self.workdir, first)
        clock = _Clock(self.config.batch_size)
        with _progress_bar(first, self.total_steps) as show:
            pending = None
            for step, batch in zip(range(first + 1, self.total_steps + 1), batches):
                profiler.before(step)
                placed = self.parallel.put_batch(batch)
                with (
                    jax.transfer_guard("disallow"),
                    jax.profiler.StepTraceAnnotation("train", step_num=step),
                ):
                    state, scalars = step_function(state, placed)
                if clock.steps == 0:
                    jax.block_until_ready(scalars)
                clock.tick()
                # Read one step late, so that the host prepares the next batch while devices work.
                self._log_scalars(pending, metrics_log, show, clock)
                pending = (step, scalars)
                if step % self.evaluate_every == 0 or step == self.total_steps:
                    self._log_scalars(pending, metrics_log, show, clock)
                    pending = None
                    self._evaluate_and_save(step, state, metrics_log, clock)
                    if self._stopped_early():
                        log.info("Stopped early: %d evaluations without a better one", self.config.patience)
                        break
        profiler.close()
        metrics_log.close()
        self.timing_log.close()

    def _log_scalars(self, pending, metrics_log: JsonLines | NoLines, show, clock: "_Clock") -> None:
        if pending is None:
            return
        step, scalars = pending
        values = {name: float(value) for name, value in scalars.items()}
        if not np.isfinite(values["train/loss"]):
            raise UserError(
                f"The loss is not finite at step {step} ({values}). Nothing of this step was saved. Lower "
                "config.optimizer.learning_rate, set config.optimizer.clip_norm, or look at the features "
                "for extreme values."
            )
        show(step, values["train/loss"], clock.examples_per_second())
        if step % self.log_every == 0:
            metrics_log.write({"step": step, "epoch": self._epoch(step), **values})

    def _epoch(self, step: int) -> float:
        return round(step / self.steps_per_epoch, 4)

    def _evaluate_and_save(self, step: int, state: TrainState, metrics_log, clock) -> None:
        clock.pause()
        options, values = self.config.evaluation, {}
        if options.select_split:
            loader = self.experiment.loader(options.select_split)
            values = self.evaluator.metrics(state.variables, loader)
        value = values.get(options.select_by, float(step))  # without a validation split: the last
        better = value > self.position["best_value"]
        self.position = {
            "step": step,
            "best_step": step if better else self.position["best_step"],
            "best_value": value if better else self.position["best_value"],
            "stale": 0 if better else self.position["stale"] + 1,
        }
        if values:
            named = {f"{options.select_split}/{name}": v for name, v in values.items()}
            metrics_log.write({"step": step, "epoch": self._epoch(step), **named})
        if better:
            self.best.save(step, state.variables, {"step": step, "value": value})
        self.checkpoints.save(step, state, self.position)
        self.timing_log.write({"step": step, **clock.summary()})
        log.info(
            "epoch %g, step %d of %d: %s %s %.2f%s, %.0f examples/s",
            self._epoch(step),
            step,
            self.total_steps,
            options.select_split,
            options.select_by,
            value,
            " (best)" if better else "",
            clock.examples_per_second(),
        )
        clock.resume()

    def _stopped_early(self) -> bool:
        patience = self.config.patience
        return bool(patience) and self.position["stale"] >= patience


def _open(config, workdir: Path) -> Experiment:
    """The lead host prepares the data and writes the vocabulary, the others find them or do the same."""
    with lead_host_first("open the experiment"):
        return Experiment(config, workdir)


def _lines(path: Path, first: int) -> JsonLines | NoLines:
    """The lines of a log up to the step that is resumed from, where this host writes it."""
    return JsonLines(path, keep_until_step=first) if is_lead_host() else NoLines()


class _Clock:
    """Steps per second without compilation (the first step) and without evaluation."""

    def __init__(self, batch_size: int):
        self.steps, self._batch_size, self._busy = 0, batch_size, 0.0
        self._since = time.perf_counter()
        self.first_step_seconds = 0.0

    def tick(self) -> None:
        self.steps += 1
        if self.steps == 1:
            self.first_step_seconds = time.perf_counter() - self._since
            self._since = time.perf_counter()

    def pause(self) -> None:
        self._busy += time.perf_counter() - self._since

    def resume(self) -> None:
        self._since = time.perf_counter()

    def examples_per_second(self) -> float:
        busy = self._busy + (time.perf_counter() - self._since)
        return (self.steps - 1) * self._batch_size / busy if self.steps > 1 else 0.0

    def summary(self) -> dict[str, float]:
        busy = max(self._busy, 1e-9)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        peak_bytes = peak if sys.platform == "darwin" else peak * 1024
        return {
            "compile_seconds": self.first_step_seconds,
            "steps_per_second": (self.steps - 1) / busy,
            "examples_per_second": (self.steps - 1) * self._batch_size / busy,
            "peak_host_memory_gib": peak_bytes / 2**30,
        }


class _Profiler:
    """Traces ten steps after the first two where `config.profile` is set."""

    def __init__(self, enabled: bool, workdir: Path, first: int):
        self._start, self._stop = first + 3, first + 13
        self._enabled, self._folder, self._running = enabled, workdir / "profile", False

    def before(self, step: int) -> None:
        if self._enabled and step == self._start:
            jax.profiler.start_trace(str(self._folder))
            self._running = True
        if self._running and step == self._stop:
            self.close()

    def close(self) -> None:
        if self._running:
            jax.profiler.stop_trace()
            self._running = False
            log.info("Trace of ten steps in %s", self._folder)


@contextlib.contextmanager
def _progress_bar(first: int, total: int):
    """A bar with step, loss, examples/s and time left; nothing where output is not a terminal."""
    bar = Progress(
        TextColumn("step {task.completed:.0f}/{task.total:.0f}"),
        BarColumn(),
        TextColumn("loss {task.fields[loss]:.4f}"),
        TextColumn("{task.fields[speed]:.0f} examples/s"),
        TextColumn("ETA"),
        TimeRemainingColumn(),
        transient=True,
        disable=not (sys.stdout.isatty() and is_lead_host()),
    )
    task = bar.add_task("train", total=total, completed=first, loss=0.0, speed=0.0)
    with bar:
        yield lambda step, loss, speed: bar.update(task, completed=step, loss=loss, speed=speed)


def _check_same_run(config, workdir: Path) -> None:
    """Refuses to resume with a config that would not continue the same run."""
    if not (workdir / CONFIG).is_file():
        return
    old, new = _flat(config_as_dict(load_config(workdir))), _flat(config_as_dict(config))
    if old.get("model.name") != new["model.name"]:
        raise UserError(
            f"{workdir} holds a run of the architecture {old.get('model.name')}; this config trains "
            f"{new['model.name']}. Choose another --workdir."
        )
    changed = [
        k for k in sorted(old | new) if old.get(k) != new.get(k) and not {k, k.split(".")[0]} & _MAY_CHANGE
    ]
    if changed:
        shown = ", ".join(f"config.{k}: {old.get(k)} -> {new.get(k)}" for k in changed[:6])
        raise UserError(
            f"{workdir} holds a run with another config ({shown}{', ...' if len(changed) > 6 else ''}). Choose "
            "another --workdir for a new run, or give the original settings to resume it."
        )


def _check_hosts(config, workdir: Path) -> None:
    """Raises UserError, on all hosts, where they were given different commands or do not share `workdir`."""
    if not several_hosts():
        return
    if not hosts_agree(json.dumps([config_as_dict(config), workdir.name])):
        raise UserError("The hosts have different configs. Start all of them with the same command.")
    marker = workdir / ".hosts"
    if is_lead_host():
        write_whole(marker, secrets.token_hex())
    wait_for_hosts("marked the folder")
    shared = hosts_agree(marker.read_text(encoding="utf-8") if marker.is_file() else "")
    if is_lead_host():
        marker.unlink()
    if not shared:
        raise UserError(
            f"{workdir} is not the same folder on all hosts. The lead host writes checkpoints that all of them "
            "read: choose a --workdir on a file system that they share."
        )


def _flat(tree: dict, prefix: str = "") -> dict[str, Any]:
    flat = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat


# --- finish ---------------------------------------------------------------------------------------


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
        "protocol": evaluate_lib.protocol_stamp(config, evaluator.protocol, counts),
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
        results["splits"][name] = evaluate_lib.split_results(
            config, evaluator.protocol, train, loader.split, predictions, sanity
        )
        lines += evaluate_lib.prediction_rows(loader.split, predictions)
        if name == ("test" if "test" in splits else splits[-1]):
            chosen = evaluate_lib.choose_examples(predictions.ious)
            pictures = evaluator.pictures(variables, loader, np.asarray([row for _, row in chosen]))
            drawn = loader.split, chosen, pictures
    if is_lead_host():
        evaluate_lib.save_examples(workdir, *drawn)
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
    if evaluate_lib.selected_on_test(config, splits):
        notes.append(
            f"The checkpoint was selected on {config.evaluation.select_split}, which is reported as a test: "
            "its numbers there are optimistic."
        )
    return " ".join(notes)


# --- modes ----------------------------------------------------------------------------------------


def train(config, workdir: Path) -> None:
    """`--mode=train`: trains, evaluates, reports."""
    prepare_workdir(workdir)
    _check_hosts(config, workdir)
    Trainer(config, workdir).run()


def evaluate(config, workdir: Path) -> None:
    """`--mode=evaluate`: reproduces the numbers of a run from its best checkpoint."""
    _check_hosts(config, workdir)
    experiment = _open(config, workdir)
    finish(experiment, Evaluator(config, experiment.model, experiment.parallel), workdir)
