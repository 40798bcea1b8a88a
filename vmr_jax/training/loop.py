"""Training: one loop for every architecture.

Sections: state, step, loop, finish. The loop evaluates and saves before it takes the next batch, so that a run
killed at any instant and started again with the same command ends with the same bytes.

Several hosts run the same loop: each reads its rows of a batch, all have the same numbers and take the same
decisions, and the lead host alone writes files. They share the folder of the run, where all of them read the
checkpoints.
"""

import logging
from pathlib import Path

import chex
import jax
import numpy as np

from vmr_jax.errors import UserError
from vmr_jax.evaluation.evaluator import Evaluator
from vmr_jax.evaluation.protocols import check_selection
from vmr_jax.files import write_json
from vmr_jax.parallel import is_lead_host, lead_host_first
from vmr_jax.training import optimizer as optimizer_lib
from vmr_jax.training.checkpoint import Checkpoints
from vmr_jax.training.clock import Clock, Profiler, progress_bar
from vmr_jax.training.experiment import BEST, CHECKPOINTS, CONFIG, Experiment, config_as_dict
from vmr_jax.training.finish import finish
from vmr_jax.training.same_run import check_same_run
from vmr_jax.training.step import TrainState, initial_state, make_step
from vmr_jax.training.writer import JsonLines, NoLines

log = logging.getLogger("vmr_jax")

# --- state ----------------------------------------------------------------------------------------


# --- step -----------------------------------------------------------------------------------------


# --- loop -----------------------------------------------------------------------------------------


class Trainer:
    """One run in one folder: everything between `config` and the last checkpoint."""

    def __init__(self, config, workdir: Path):
        self.config, self.workdir = config, workdir
        check_same_run(config, workdir)
        self.experiment = open_experiment(config, workdir)
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
        profiler = Profiler(self.config.profile and is_lead_host(), self.workdir, first)
        clock = Clock(self.config.batch_size)
        with progress_bar(first, self.total_steps) as show:
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

    def _log_scalars(self, pending, metrics_log: JsonLines | NoLines, show, clock: "Clock") -> None:
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


def open_experiment(config, workdir: Path) -> Experiment:
    """The lead host prepares the data and writes the vocabulary, the others find them or do the same."""
    with lead_host_first("open the experiment"):
        return Experiment(config, workdir)


def _lines(path: Path, first: int) -> JsonLines | NoLines:
    """The lines of a log up to the step that is resumed from, where this host writes it."""
    return JsonLines(path, keep_until_step=first) if is_lead_host() else NoLines()


# --- finish ---------------------------------------------------------------------------------------


# --- modes ----------------------------------------------------------------------------------------
