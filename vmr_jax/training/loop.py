"""Training: one loop for every architecture.

The loop evaluates and saves before it takes the next batch, so that a run killed at any instant and started
again with the same command ends with the same bytes.

Several hosts run the same loop: each reads its rows of a batch, all have the same numbers and take the same
decisions, and the lead host alone writes files. They share the folder of the run, where all of them read the
checkpoints.
"""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import chex
import jax
import numpy as np

from vmr_jax.config import CONFIG, config_as_dict
from vmr_jax.errors import UserError
from vmr_jax.evaluation.evaluator import Evaluator
from vmr_jax.evaluation.protocols import check_selection
from vmr_jax.files import write_json
from vmr_jax.input.spec import batch_spec
from vmr_jax.parallel import is_lead_host, wait_for_hosts
from vmr_jax.training import finite
from vmr_jax.training import optimizer as optimizer_lib
from vmr_jax.training.checkpoint import Checkpoints
from vmr_jax.training.clock import Profiler
from vmr_jax.training.experiment import BEST, CHECKPOINTS, Experiment
from vmr_jax.training.finish import finish, is_evaluated, set_results_aside
from vmr_jax.training.journal import Journal
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
    ):
        """Finds all that would stop the run later.

        Args:
          experiment: config, model and data, opened.
          workdir: folder of the run, which this process owns.
          losses: further terms of the objective by name, as in `fit`.
          changes: fields of the config that have changed since the last checkpoint, of `check_same_run`.

        Raises:
          UserError: for a setting that does not fit the others, the model or the data.
        """
        self.experiment, self.workdir, self.config = experiment, workdir, experiment.config
        self.losses = dict(losses or {})
        self.changes = finite.merged_changes(workdir, changes or {})
        self.parallel, self.loader = experiment.parallel, experiment.loader("train")
        self.steps_per_epoch = self.loader.steps_per_epoch(self.config.batch_size)
        self.total_steps, self.evaluate_every, self.log_every = (
            max(optimizer_lib.duration(self.config[field], self.steps_per_epoch, f"config.{field}"), 1)
            for field in ("train_for", "evaluate_every", "log_every")
        )
        self.evaluator = Evaluator(self.config, experiment.model, self.parallel)
        check_evaluation(self.config, experiment.model, experiment.dataset, self.evaluator.protocol)
        self.schedule = optimizer_lib.learning_rate(
            self.config.optimizer, self.total_steps, self.steps_per_epoch
        )
        shapes = experiment.abstract_variables()
        self.optimizer = optimizer_lib.make_optimizer(
            self.config.optimizer, self.schedule, shapes["params"], self.steps_per_epoch
        )
        self.abstract_state = jax.eval_shape(lambda v: initial_state(v, self.optimizer), shapes)
        self._check_losses()
        self.checkpoints = Checkpoints(workdir / CHECKPOINTS, keep=2)
        self.best = Checkpoints(workdir / BEST, keep=1)
        self.position = first_position(self.losses)

    def _check_losses(self) -> None:
        """Raises UserError for a further loss that the step would refuse."""
        if self.losses:
            rows = len(self.parallel.devices) * max(self.config.input.queries_per_video, 1)
            spec = batch_spec(self.config, rows, self.experiment.model.requires())
            jax.eval_shape(self._step(), self.abstract_state, spec)

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
        ended = first >= self.total_steps or self._stopped_early()
        self._refuse_ended_run(ended)
        if is_lead_host():
            if self.changes:
                finite.write_changes(self.workdir, self.changes)
            write_json(self.workdir / CONFIG, config_as_dict(self.config))
        if not ended:
            if is_lead_host():
                set_results_aside(self.workdir)
            self._train(state, first)
        self.checkpoints.close()
        self.best.close()
        return finish(self.experiment, self.evaluator, self.workdir)

    def _restore_or_start(self) -> TrainState:
        restored = self.checkpoints.restore(self.parallel.abstract(self.abstract_state))
        if restored is None:
            variables = self.experiment.initial_variables()
            return self.parallel.replicate(initial_state(variables, self.optimizer))
        state, position = restored
        self._refuse_other_losses(position.get("losses", []))
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

    def _train(self, state: TrainState, first: int) -> None:
        """Takes the steps after `first`."""
        chex.clear_trace_counter()  # it would take the step of another run in this process for the same one
        step_function = self.parallel.map_step(chex.assert_max_traces(self._step(), n=1))
        config, total = self.config, self.total_steps
        batches = self.loader.training_batches(config.seed, first, total, config.batch_size)
        profiler = Profiler(config.profile and is_lead_host(), self.workdir, first)
        with Journal(
            self.workdir, first, total, self.steps_per_epoch, self.log_every, config.batch_size
        ) as journal:
            pending = None
            for step, batch in zip(range(first + 1, total + 1), batches):
                profiler.before(step)
                placed = self.parallel.put_batch(batch)
                with (
                    jax.transfer_guard("disallow"),
                    jax.profiler.StepTraceAnnotation("train", step_num=step),
                ):
                    state, scalars = step_function(state, placed)
                if journal.clock.steps == 0:
                    jax.block_until_ready(scalars)
                journal.clock.tick()
                if pending is not None:  # one step late, so that the host works while devices do
                    self._read(*pending, state, journal)
                pending = step, scalars
                if step % self.evaluate_every == 0 or step == total:
                    self._read(*pending, state, journal)
                    pending = None
                    self._evaluate_and_save(step, state, journal)
                    if self._stopped_early():
                        log.info("Stopped early: %d evaluations without a better one", config.patience)
                        break
        profiler.close()

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
            values = self.evaluator.metrics(state.variables, self.experiment.loader(split))
            journal.evaluation(step, split, values)
            value, result = values[metric], f"{split} {metric} {values[metric]:.2f}"
        self.position = next_position(self.position, step, value)
        if self.position["best_step"] == step:
            result += " (best)" if split else ""
            told: dict[str, Any] = {"step": step, "value": value}
            told |= {key: self.position[key] for key in ("changed", "losses") if key in self.position}
            self.best.save(step, state.variables, told)
        self.checkpoints.save(step, state, self.position)
        if is_lead_host():
            finite.remove_record(self.workdir)
        journal.saved(step, result)
        journal.clock.resume()

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


def _counted(losses: list[str]) -> str:
    return f"the further losses {', '.join(losses)}" if losses else "no further losses"
