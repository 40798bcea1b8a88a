"""Training: one loop for every architecture.

The loop evaluates and saves before it takes the next batch, so that a run
killed at any instant and started again with the same command ends with the same bytes.

Several hosts run the same loop: each reads its rows of a batch, all have the same numbers and take the same
decisions, and the lead host alone writes files. They share the folder of the run, where all of them read the
checkpoints.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

import chex
import jax
import numpy as np

from vmr_jax.errors import UserError
from vmr_jax.evaluation.evaluator import Evaluator
from vmr_jax.files import write_json
from vmr_jax.parallel import is_lead_host, lead_host_first, wait_for_hosts
from vmr_jax.training import finite
from vmr_jax.training import optimizer as optimizer_lib
from vmr_jax.training.checkpoint import Checkpoints
from vmr_jax.training.clock import Clock, Profiler, progress_bar
from vmr_jax.training.experiment import BEST, CHECKPOINTS, CONFIG, Experiment, config_as_dict
from vmr_jax.training.finish import finish, is_evaluated, set_results_aside
from vmr_jax.training.same_run import check_same_run
from vmr_jax.training.selection import check_evaluation, first_position, next_position
from vmr_jax.training.step import TrainState, initial_state, make_step
from vmr_jax.training.writer import JsonLines, NoLines

log = logging.getLogger("vmr_jax")


class Trainer:
    """One run in one folder: everything between `config` and the last checkpoint."""

    def __init__(self, config, workdir: Path):
        self.config, self.workdir = config, workdir
        self.changes = finite.merged_changes(workdir, check_same_run(config, workdir))
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
        self.position = first_position()
        self.schedule = optimizer_lib.learning_rate(config.optimizer, self.total_steps, self.steps_per_epoch)
        check_evaluation(config, self.experiment.model, self.experiment.dataset, self.evaluator.protocol)

    def _steps(self, text: str, field: str) -> int:
        return optimizer_lib.duration(text, self.steps_per_epoch, field)

    def run(self) -> None:
        """Trains to the end (resuming where a checkpoint is), then evaluates and writes the report."""
        state = self._restore_or_start()
        first = self.position["step"]
        ended = first >= self.total_steps or self._stopped_early()
        self._refuse_ended_run(ended)
        if is_lead_host():
            if self.changes:
                finite.write_changes(self.workdir, self.changes)
            write_json(self.workdir / CONFIG, config_as_dict(self.config))
        if not ended:
            if is_lead_host():
                set_results_aside(self.workdir)
            self._loop(state, first)
        self.checkpoints.close()
        self.best.close()
        finish(self.experiment, self.evaluator, self.workdir)

    def _refuse_ended_run(self, ended: bool) -> None:
        """Raises UserError where nothing is left to do."""
        done = ended and is_evaluated(self.config, self.workdir, self.position)
        wait_for_hosts("read the results")  # before the lead host writes new ones
        if done:
            step = self.position["step"]
            how = (
                f"at its last step ({step} of {self.total_steps})"
                if step >= self.total_steps
                else f"stopped early (step {step}, config.patience is {self.config.patience})"
            )
            raise UserError(
                f"The run in {self.workdir} is already {how} and evaluated. Set a longer config.train_for to "
                "train on, choose another --workdir for a new run, or read it again with --mode=evaluate."
            )

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
        if self.changes:
            words = finite.changes_in_words(self.changes, self.position["step"])
            self.position["changed"] = [*self.position.get("changed", ()), words]
            log.warning("%s", words)
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
                self._log_scalars(pending, state, metrics_log, show, clock)
                pending = (step, scalars)
                if step % self.evaluate_every == 0 or step == self.total_steps:
                    self._log_scalars(pending, state, metrics_log, show, clock)
                    pending = None
                    self._evaluate_and_save(step, state, metrics_log, clock)
                    if self._stopped_early():
                        log.info("Stopped early: %d evaluations without a better one", self.config.patience)
                        break
        profiler.close()
        metrics_log.close()
        self.timing_log.close()

    def _log_scalars(self, pending, state, metrics_log: JsonLines | NoLines, show, clock: "Clock") -> None:
        if pending is None:
            return
        step, scalars = pending
        values = {name: float(value) for name, value in scalars.items()}
        if not np.isfinite(values["train/loss"]):
            self._stop(f"The loss is not finite at step {step} ({values}).", step)
        if not np.isfinite(values["train/grad_norm"]):  # which clipping may have made harmless
            self._require_finite(state, step)
        show(step, values["train/loss"], clock.examples_per_second())
        if step % self.log_every == 0:
            metrics_log.write({"step": step, "epoch": self._epoch(step), **values})

    def _require_finite(self, state: TrainState, step: int) -> None:
        """Stops the run where a number of the state is not finite: it is not evaluated, and never saved."""
        found = finite.not_finite(state)
        if found:
            names = finite.named(found)
            self._stop(
                f"The training state is not finite after step {step}, though its loss is: {names}.", step
            )

    def _stop(self, found: str, step: int) -> NoReturn:
        last_good = self.position["step"]
        if is_lead_host():
            finite.write_record(self.workdir, found, step, last_good)
        raise UserError(finite.stop_message(self.workdir, found, step, last_good))

    def _epoch(self, step: int) -> float:
        return round(step / self.steps_per_epoch, 4)

    def _evaluate_and_save(self, step: int, state: TrainState, metrics_log, clock) -> None:
        clock.pause()
        self._require_finite(state, step)
        split, name, values = self.config.evaluation.select_split, self.config.evaluation.select_by, {}
        if split:
            values = self.evaluator.metrics(state.variables, self.experiment.loader(split))
        value = values.get(name, float(step))  # without a validation split: the last is the best
        self.position = next_position(self.position, step, value)
        better = self.position["best_step"] == step
        if values:
            metrics_log.write({"step": step, "epoch": self._epoch(step), **_of_split(split, values)})
        if better:
            changed = {key: self.position[key] for key in ("changed",) if key in self.position}
            self.best.save(step, state.variables, {"step": step, "value": value, **changed})
        self.checkpoints.save(step, state, self.position)
        if is_lead_host():
            finite.remove_record(self.workdir)
        self.timing_log.write({"step": step, **clock.summary()})
        log.info(
            "epoch %g, step %d of %d: %s, %.0f examples/s",
            self._epoch(step),
            step,
            self.total_steps,
            f"{split} {name} {value:.2f}{' (best)' if better else ''}" if split else "saved",
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


def _of_split(split: str, values: Mapping[str, float]) -> dict[str, float]:
    return {f"{split}/{name}": value for name, value in values.items()}


def _lines(path: Path, first: int) -> JsonLines | NoLines:
    """The lines of a log up to the step that is resumed from, where this host writes it."""
    return JsonLines(path, keep_until_step=first) if is_lead_host() else NoLines()
