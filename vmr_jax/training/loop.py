"""Training: one loop for every architecture.

The loop evaluates and saves before it takes the next batch, so that a run killed at any instant and started
again with the same command ends with the same bytes. Between evaluations it saves by time (`Pace`), and when a
signal asks it to end.

Several hosts run the same loop: each reads its rows of a batch, all have the same numbers and take the same
decisions, and the lead host alone writes files. They share the folder of the run, where all of them read the
checkpoints.
"""

import contextlib
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import chex
import jax
import numpy as np

from vmr_jax.config import CONFIG
from vmr_jax.errors import UserError
from vmr_jax.evaluation.evaluator import Evaluator
from vmr_jax.evaluation.protocols import check_selection
from vmr_jax.files import write_json
from vmr_jax.parallel import is_lead_host, several_hosts, wait_for_hosts
from vmr_jax.training import finite
from vmr_jax.training import optimizer as optimizer_lib
from vmr_jax.training.advice import advice
from vmr_jax.training.checkpoint import Checkpoints
from vmr_jax.training.clock import Profiler
from vmr_jax.training.experiment import BEST, CHECKPOINTS, Experiment
from vmr_jax.training.finish import finish, is_evaluated, set_results_aside
from vmr_jax.training.identity import check_same_data, record_data
from vmr_jax.training.init_from import check_same_beginning, with_weights_of_run
from vmr_jax.training.interrupt import NAMES, Interrupted, Signals, Terminated, error_of
from vmr_jax.training.journal import Journal
from vmr_jax.training.pace import Pace
from vmr_jax.training.places import stored_config
from vmr_jax.training.selection import check_evaluation, first_position, next_position
from vmr_jax.training.step import LossFunction, TrainState, initial_state, make_step

log = logging.getLogger("vmr_jax")


class Trainer:
    """One run in one folder: everything between an opened experiment and the results.

    Attributes:
      position: the step of the last checkpoint, the best one's with its value, and how many came after it.
    """

    def __init__(
        self,
        experiment: Experiment,
        workdir: Path,
        *,
        losses: Mapping[str, LossFunction] | None = None,
        changes: Mapping[str, tuple[Any, Any]] | None = None,
        signals: Signals | None = None,
    ):
        """Finds all that would stop the run later.

        Args:
          experiment: config, model and data, opened.
          workdir: folder of the run, which this process owns.
          losses: further terms of the objective by name, as in `fit`.
          changes: fields of the config that have changed since the last checkpoint, of `check_same_run`.
          signals: those that ask the run to save and end; None where nobody takes them.

        Raises:
          UserError: for a setting that does not fit the others, the model or the data.
        """
        self.experiment, self.workdir, self.config = experiment, workdir, experiment.config
        self.losses, self.signals = dict(losses or {}), signals or Signals()
        self.changes = finite.merged_changes(workdir, changes or {})
        self.parallel, self.loader = experiment.parallel, experiment.loader("train")
        self.steps_per_epoch = self.loader.steps_per_epoch(self.config.batch_size)
        self.total_steps, self.evaluate_every, self.log_every = (
            max(optimizer_lib.duration(self.config[field], self.steps_per_epoch, f"config.{field}"), 1)
            for field in ("train_for", "evaluate_every", "log_every")
        )
        self.pace = Pace(self.config.checkpoint_every, self.log_every, self.signals)
        for text in advice(self.config, len(self.loader), self.total_steps):
            log.warning("%s", text)
        self.evaluator = Evaluator(self.config, experiment.model, self.parallel)
        splits = check_evaluation(self.config, experiment.model, experiment.dataset, self.evaluator.protocol)
        trained = [name for name in ("train", self.config.evaluation.select_split) if name]
        self.splits = list(dict.fromkeys((*trained, *splits)))
        if (workdir / CONFIG).is_file():
            check_same_data(experiment, workdir, trained)
        self.schedule = optimizer_lib.learning_rate(
            self.config.optimizer, self.total_steps, self.steps_per_epoch
        )
        shapes = experiment.abstract_variables()
        self.optimizer = optimizer_lib.make_optimizer(
            self.config.optimizer, self.schedule, shapes["params"], self.steps_per_epoch
        )
        self.abstract_state = jax.eval_shape(lambda v: initial_state(v, self.optimizer), shapes)
        self.checkpoints = Checkpoints(workdir / CHECKPOINTS, keep=2)
        self.best = Checkpoints(workdir / BEST, keep=1)
        self.checkpoints.check_space(self.abstract_state)
        self.position = first_position(self.losses)

    def _step(self) -> Callable:
        return make_step(
            self.experiment.model,
            self.optimizer,
            self.schedule,
            self.steps_per_epoch,
            self.config.seed,
            self.losses,
        )

    # --- the run ----------------------------------------------------------------------------------

    def run(self) -> dict[str, Any]:
        """Trains to the end (resuming where a checkpoint is), evaluates, and writes the report.

        Returns:
          The content of results.json.
        """
        state = self._restore_or_start()
        first = self.position["step"]
        due = self.position.pop("unevaluated", False) and self._evaluation_is_due(first)
        ended = not due and (first >= self.total_steps or self._stopped_early())
        self._refuse_ended_run(ended)
        if is_lead_host():
            if self.changes:
                finite.write_changes(self.workdir, self.changes)
            self.experiment.write_vocabulary(self.workdir)
            record_data(self.experiment, self.workdir, self.splits)
            # The last: where it is, the run has begun.
            write_json(self.workdir / CONFIG, stored_config(self.config))
        if not ended:
            if is_lead_host():
                set_results_aside(self.workdir)
            self._train(state, first, due)
        self.checkpoints.close()
        self.best.close()
        self.signals.advice = (
            f"All {self.position['step']} steps are saved in {self.workdir}: give the same command again, and "
            "it evaluates them."
        )
        self.signals.end()  # for one that came after the last save
        return finish(self.experiment, self.evaluator, self.workdir)

    def _restore_or_start(self) -> TrainState:
        restored = self.checkpoints.restore(self.parallel.abstract(self.abstract_state))
        if restored is None:
            log.info("Drawing the initial parameters")
            variables, began = with_weights_of_run(
                self.config,
                self.experiment.initial_variables(),
                self.experiment.vocabulary,
                self.parallel,
            )
            self.position |= began
            start = jax.jit(lambda v: initial_state(v, self.optimizer))  # by itself each operation is a program
            return self.parallel.replicate(start(variables))
        state, position = restored
        self._refuse_other_losses(position.get("losses", []))
        check_same_beginning(self.config, self.workdir, position)
        self.position = position
        log.info("Resuming from step %d of %d", position["step"], self.total_steps)
        if self.changes:
            words = finite.changes_in_words(self.changes, position["step"])
            position["changed"] = [*position.get("changed", ()), words]
            log.warning("%s", words)
        return state

    def _refuse_other_losses(self, before: list[str]) -> None:
        if sorted(before) != sorted(self.losses):
            raise UserError(
                f"The run in {self.workdir} has {_counted(before)}; now there are "
                f"{_counted(list(self.losses))}. Give the same ones as `losses` of vmr_jax.fit, or choose "
                "another workdir."
            )

    def _refuse_ended_run(self, ended: bool) -> None:
        """Raises UserError where nothing is left to do."""
        done = ended and is_evaluated(self.config, self.workdir, self.position)
        wait_for_hosts("read the results")  # before the lead host writes new ones
        if not done:
            return
        step = self.position["step"]
        how = f"stopped early (step {step}, config.patience is {self.config.patience})"
        if step >= self.total_steps:
            how = f"at its last step ({step} of {self.total_steps})"
        raise UserError(
            f"The run in {self.workdir} is already {how} and evaluated. Set a longer config.train_for to train "
            "on, choose another --workdir for a new run, or read it again with --mode=evaluate."
        )

    def _stopped_early(self) -> bool:
        patience = self.config.patience
        return bool(patience) and self.position["stale"] >= patience

    # --- the loop ---------------------------------------------------------------------------------

    def _train(self, state: TrainState, first: int, due: bool) -> None:
        """Takes the steps after `first`; `due`: that one is saved, and yet to be evaluated."""
        chex.clear_trace_counter()  # it would take the step of another run in this process for the same one
        step_function = self.parallel.map_step(chex.assert_max_traces(self._step(), n=1))
        config, total = self.config, self.total_steps
        profiler = Profiler(config.profile and is_lead_host(), self.workdir, first)
        news = Journal(
            self.workdir,
            first,
            total,
            self.steps_per_epoch,
            self.log_every,
            config.batch_size,
            evaluated=not due,
            tensorboard=config.tensorboard,
        )
        with self.signals.saving(), contextlib.closing(profiler), news as journal:
            if due:
                self._evaluate_and_save(first, state, journal)
                if self._stopped_early() or first == total:
                    return
            batches = self.loader.training_batches(config.seed, first, total, config.batch_size)
            pending = None
            for step, batch in zip(range(first + 1, total + 1), batches):
                profiler.before(step)
                placed = self.parallel.put_batch(batch)
                if journal.clock.steps == 0:
                    log.info("Compiling the training step")
                with (
                    jax.transfer_guard("disallow"),
                    jax.profiler.StepTraceAnnotation("train", step_num=step),
                ):
                    state, scalars = step_function(state, placed)
                if journal.clock.steps == 0:
                    jax.block_until_ready(scalars)
                journal.clock.tick()
                if journal.clock.steps == 1:
                    log.info("First step done after %.1f s", journal.clock.first_step_seconds)
                if pending is not None:  # one step late, so that the host works while devices do
                    self._read(*pending, state, journal)
                pending = step, scalars
                due = self._evaluation_is_due(step)
                wish = self.pace.wish(step, due)
                if due or wish:
                    self._read(*pending, state, journal)
                    pending = None
                if due and wish not in NAMES:
                    self._evaluate_and_save(step, state, journal)
                    if self._stopped_early():
                        log.info("Stopped early: %d evaluations without a better one", config.patience)
                        break
                elif wish:
                    self._save_between(step, state, due)
                if wish in NAMES:
                    self._end(wish)

    def _evaluation_is_due(self, step: int) -> bool:
        return step % self.evaluate_every == 0 or step == self.total_steps

    def _end(self, number: int) -> NoReturn:
        """Ends a run that was asked to, after its save."""
        step = self.position["step"]
        if is_lead_host():
            log.warning(
                "Stopped by %s after step %d of %d, saved in %s. Give the same command again to go on.",
                NAMES[number],
                step,
                self.total_steps,
                self.workdir / CHECKPOINTS / str(step),
            )
        error = error_of(number)
        error.told = True
        raise error

    def _read(self, step: int, scalars: Mapping[str, jax.Array], state: TrainState, journal: Journal) -> None:
        """Logs the scalars of a step; stops the run where they are not finite."""
        values = {name: float(value) for name, value in scalars.items()}
        if not np.isfinite(values["train/loss"]):
            self._stop(f"The loss is not finite at step {step} ({values}).", step)
        if not np.isfinite(values["train/grad_norm"]):  # which clipping may have made harmless
            self._require_finite(state, step)
        journal.scalars(step, values)

    def _evaluate_and_save(self, step: int, state: TrainState, journal: Journal) -> None:
        journal.clock.pause()
        self._require_finite(state, step)
        options = self.config.evaluation
        split, metric = options.select_split, check_selection(options, self.evaluator.protocol)
        value, result = float(step), "saved"  # without a validation split the last one is the best
        if split:
            values = self._metrics(step, split, state)
            journal.evaluation(step, split, values)
            value, result = values[metric], f"{split} {metric} {values[metric]:.2f}"
        self.position = next_position(self.position, step, value)
        if self.position["best_step"] == step:
            result += " (best)" if split else ""
            told: dict[str, Any] = {"step": step, "value": value}
            told |= {
                key: self.position[key] for key in ("changed", "losses", "init_from") if key in self.position
            }
            self.best.save(step, self.parallel.as_replicated(state.variables), told)
        self._save(step, state, self.position)
        journal.saved(step, result)
        journal.clock.resume()

    def _metrics(self, step: int, split: str, state: TrainState) -> dict[str, float]:
        """The metrics of a split; a signal ends the evaluation, and the step is saved without it."""
        if not several_hosts():  # which would not stop at the same batch
            self.evaluator.between_batches = self.signals.end
        try:
            return self.evaluator.metrics(state.variables, self.experiment.loader(split))
        except (Interrupted, Terminated):
            self._save_between(step, state, due=True)
            self._end(self.signals.received)
        finally:
            self.evaluator.between_batches = _nothing

    def _save_between(self, step: int, state: TrainState, due: bool) -> None:
        """Saves a step that is not evaluated, or is yet to be (`due`)."""
        self._require_finite(state, step)
        self.position = {**self.position, "step": step}
        self._save(step, state, {**self.position, "unevaluated": True} if due else self.position)

    def _save(self, step: int, state: TrainState, position: Mapping[str, Any]) -> None:
        self.checkpoints.save(step, self.parallel.as_replicated(state), dict(position))
        self.pace.saved()
        if is_lead_host():
            finite.remove_record(self.workdir)

    def _require_finite(self, state: TrainState, step: int) -> None:
        """Stops the run where a number of the state is not finite: it is not evaluated, and never saved."""
        found = finite.not_finite(state)
        if found:
            names = finite.named(found)
            self._stop(f"The training state is not finite after step {step}, but its loss is: {names}.", step)

    def _stop(self, found: str, step: int) -> NoReturn:
        last_good = self.position["step"]
        if is_lead_host():
            finite.write_record(self.workdir, found, step, last_good)
        raise UserError(finite.stop_message(self.workdir, found, step, last_good))


def _nothing() -> None:
    """Between the batches of an evaluation that no signal ends."""


def _counted(losses: list[str]) -> str:
    return f"the further losses {', '.join(losses)}" if losses else "no further losses"
