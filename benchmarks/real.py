"""Every architecture on the same real features, by one protocol: the Charades-STA CLIP re-split.

    python benchmarks/real.py --data=DIR --vectors=GLOVE --folder=runs/real
        DIR is the folder of Charades-STA with CLIP features and the files of the split (docs/data.md), GLOVE
        the file of GloVe 6B 300d. Some nine hours on two CPU cores, at the lowest priority; started again, it
        goes on where it was.
    python benchmarks/real.py --data=DIR --vectors=GLOVE --models=fvmr,two_d_tan
    python benchmarks/real.py --data=DIR --vectors=GLOVE --minutes=3 --rates=1 --repeat=0
        A smaller budget, some two and a half hours; its lines stand beside those of other budgets.

Each architecture takes the number of steps that a short run expects to take about `--minutes` of CPU time, in
hundreds and a hundred at least, on seed 0 at each of `--rates` times the learning rate of its config for the
test bed. What the runs then took stands in `cpu_minutes`: 2.0 to 4.3 for --minutes=3. The best one by mean IoU
on the validation split is evaluated on test, once; the `--repeat` best architectures, and those of ALWAYS, are
trained with seeds 1 and 2 too. A finished run is one line of `--results`; one that fails is named, and the
other architectures go on. The sizes are those of benchmarks/real_config.py.
"""

import json
import os
import shlex
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import flax
import jax
import program
from absl import flags, logging
from lines import Lines
from machine import children_seconds, command_and_commit, cpu_seconds, describe_machine
from real_config import get_config, learners

import vmr_jax as vmr
from vmr_jax.errors import UserError
from vmr_jax.evaluation.rows import SANITY
from vmr_jax.files import write_json

FLAGS = flags.FLAGS
ROOT = Path(__file__).resolve().parents[1]
ALWAYS = ("fvmr", "vdi", "fian")  # trained with three seeds whatever their rank
EVALUATIONS = 6  # of a run
PLACES = ("DIR", "glove.6B.300d.txt")  # of the data and the word vectors, in a command that is kept
PROBE = 60  # steps whose CPU time is measured
METRICS = {f"r{n}_iou0{m}": f"R@{n},IoU=0.{m}" for n in (1, 5) for m in (3, 5, 7)} | {"miou": "mIoU"}
COLUMNS = (
    "row", "split", "budget", "seed", "learning_rate", "steps", *METRICS,
    *(f"{name}_r1_iou0{m}" for name in SANITY for m in (5, 7)), "uses_video",
    "parameters", "cpu_minutes", "command", "commit", "versions", "machine",
)  # fmt: skip


class Run(NamedTuple):
    """A training run."""

    model: str
    seed: int
    rate: float  # learning rate
    steps: int

    @property
    def workdir(self) -> Path:
        """Its folder."""
        return Path(FLAGS.folder) / f"{self.model}_{self.seed}_{self.rate:.2e}_{self.steps}"

    def command(self) -> list[str]:
        """What repeats it, of another user's files."""
        return ["launch.py", *self.settings(*PLACES)]

    def settings(self, data: str, vectors: str) -> list[str]:
        """The flags of launch.py, `data` and `vectors` in place of the user's own files."""
        every = max(1, self.steps // EVALUATIONS)
        return [
            f"--config=benchmarks/real_config.py:{self.model}",
            f"--config.dataset.manual_dir={data}",
            f"--config.text.vectors={vectors}",
            f"--config.optimizer.learning_rate={self.rate:.2e}",
            f"--config.train_for={self.steps} steps",
            f"--config.evaluate_every={every} steps",
            f"--config.seed={self.seed}",
        ]


def main(_):
    """Chooses rates, evaluates, repeats the best."""
    logging.set_verbosity(logging.WARNING)
    os.nice(19)
    to_checkout("data", "vectors", "folder", "results")
    program.positive("--minutes", [f"{FLAGS.minutes}"])
    models = FLAGS.models or learners()
    for model in models:
        if model not in learners():
            raise UserError(
                f"{model} reads what these files lack (benchmarks/real_config.py), so it has no line here. "
                f"--models takes {', '.join(learners())}."
            )
        rates(model)
    failed = []
    for model in models:
        before = len(lines().rows)
        try:
            choose(model)
            evaluate(best(model))
            if len(lines().rows) == before:
                print(
                    f"{model}: its lines stand in {FLAGS.results}, so nothing is trained; another --results "
                    "repeats it.",
                    flush=True,
                )
        except UserError as error:
            print(f"{model}: {error}", file=sys.stderr, flush=True)
            failed.append(model)
    if failed:
        raise UserError(f"These architectures have no line yet: {', '.join(failed)}. Their errors stand above.")
    if not FLAGS.repeat:
        return
    ranked = sorted(models, key=lambda model: float(chosen(model)["miou"]), reverse=True)
    for model in dict.fromkeys([*ranked[: FLAGS.repeat], *(m for m in ALWAYS if m in models)]):
        for seed in (1, 2):
            run = best(model)._replace(seed=seed)
            if not rows(model, "test", seed):
                minutes = train(run)
                evaluate(run, minutes)


# --- the stages ---------------------------------------------------------------------------------------------


def choose(model: str) -> None:
    """Trains once at each learning rate, and writes what the validation split says."""
    done = {row["learning_rate"]: row for row in rows(model, "val")}
    steps = next((int(row["steps"]) for row in done.values()), 0)
    for rate in rates(model):
        if f"{rate:.2e}" in done:
            continue
        steps = steps or planned_steps(model)
        run = Run(model, 0, rate, steps)
        write(run, "val", train(run))


def rates(model: str) -> list[float]:
    """Its learning rates; UserError where --rates has none, or two that a line would show as one."""
    base = get_config(model).optimizer.learning_rate
    found = [base * times for times in program.positive("--rates", FLAGS.rates)]
    if not found or len({f"{rate:.2e}" for rate in found}) < len(found):
        raise UserError(
            f'--rates has "{",".join(FLAGS.rates)}"; expected are numbers that differ, as in 1,0.3333.'
        )
    return found


def best(model: str) -> Run:
    """The run of seed 0 that the validation split prefers."""
    row = chosen(model)
    return Run(model, 0, float(row["learning_rate"]), int(row["steps"]))


def chosen(model: str) -> dict[str, str]:
    """Its line."""
    return max(rows(model, "val"), key=lambda row: float(row["miou"]))


def evaluate(run: Run, minutes: float | None = None) -> None:
    """Reads the test split, once, and writes its line; the trivial rows too where they are not there.

    The lines of another learning rate go: validation preferred it before that of `run` was tried.
    """
    others = [row for row in rows(run.model, "test") if row["learning_rate"] != f"{run.rate:.2e}"]
    lines().drop(lambda line: line in others)
    if rows(run.model, "test", run.seed):
        return
    launch(["--mode=evaluate", f"--workdir={run.workdir}", "--config.evaluation.splits=('test',)"])
    if minutes is None:
        minutes = float(chosen(run.model)["cpu_minutes"])
    write(run, "test", minutes)
    for row in results(run, "test"):
        if row["kind"] == "trivial" and not rows(row["name"], "test"):
            append({"row": row["name"], "split": "test", **metrics(row), **origin(run.command())})


def train(run: Run) -> float:
    """Trains, or goes on; returns the CPU minutes of all processes that have trained it."""
    settings = run.settings(FLAGS.data, FLAGS.vectors)
    print(f"{run.model}: trains {run.steps} steps, seed {run.seed}, rate {run.rate:.2e}", flush=True)
    kept = run.workdir.with_name(f"{run.workdir.name}_cpu.json")
    if not run.workdir.exists():
        kept.unlink(missing_ok=True)  # whoever deletes a run begins anew
    extra = ["--config.evaluation.splits=('val',)", f"--workdir={run.workdir}"]
    return launch([*settings, *extra], kept=kept) / 60


def planned_steps(model: str) -> int:
    """The steps of its runs; those that an earlier start has planned, whose run may have begun."""
    kept = Path(FLAGS.folder) / f"{model}_steps_{FLAGS.minutes:g}.json"
    steps = int(kept_number(kept)) or affordable_steps(model)
    write_json(kept, steps)
    return steps


def kept_number(path: Path) -> float:
    """What an earlier start has written; 0 where it has not."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else 0.0


def affordable_steps(model: str) -> int:
    """How many steps take about `--minutes` of CPU time, in hundreds: from a short run, which is measured."""
    probe = Run(model, 0, get_config(model).optimizer.learning_rate, PROBE)
    workdir = probe.workdir.with_name(f"{model}_probe")
    shutil.rmtree(workdir, ignore_errors=True)  # one that was stopped has spent CPU time that is not counted
    settings = [*probe.settings(FLAGS.data, FLAGS.vectors), f"--config.evaluate_every={PROBE} steps"]
    extra = ["--config.evaluation.splits=('val',)", "--config.evaluation.sanity=()", f"--workdir={workdir}"]
    print(f"{model}: {PROBE} steps show what a step costs; all output is in {FLAGS.folder}/log.txt", flush=True)
    seen: list[tuple[int, float]] = []  # (step, CPU seconds)
    total = launch([*settings, *extra], lambda pid: seen.append((last_step(workdir), cpu_seconds(pid))))
    step, begin, end = costs(seen, total)
    print(f"{model}: {step:.2f} CPU s a step, {begin:.0f} to begin, {end:.0f} to evaluate and end", flush=True)
    left = 60 * FLAGS.minutes - begin - EVALUATIONS * end / 2
    return max(100, int(left / step) // 100 * 100)


def costs(seen: list[tuple[int, float]], total: float) -> tuple[float, float, float]:
    """CPU seconds of a step, of everything before the first logged one, and of everything after the last.

    Args:
      seen: (last logged step, CPU seconds so far), in the order of time.
      total: CPU seconds of the whole run of `PROBE` steps.
    """
    logged = {}
    for step, spent in seen:
        logged.setdefault(step, spent)  # when it was first seen
    steps = sorted(step for step in logged if step > 0)
    if len(steps) < 2:
        raise UserError(
            f"The run of {PROBE} steps logged fewer than two of them while it was watched, so a step cannot be "
            "timed. Set PROBE in benchmarks/real.py higher."
        )
    first, last = steps[0], steps[-1]
    return (logged[last] - logged[first]) / (last - first), logged[first], total - logged[last]


# --- processes ----------------------------------------------------------------------------------------------


def launch(
    arguments: list[str], watch: Callable[[int], object] | None = None, kept: Path | None = None
) -> float:
    """Runs launch.py to its end and returns its CPU seconds, and those in `kept`; UserError where it fails.

    Args:
      arguments: of launch.py.
      watch: called with the process's number, five times a second.
      kept: file of the CPU seconds of earlier starts; gets those of this one too, however it ends.
    """
    log = Path(FLAGS.folder) / "log.txt"
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "launch.py", *arguments]
    spent, before = kept_number(kept) if kept else 0.0, children_seconds()
    try:
        with log.open("ab") as output, program.child(command, stdout=output, stderr=output) as process:
            while watch and process.poll() is None:
                watch(process.pid)
                time.sleep(0.2)
            process.wait()
    finally:
        spent += children_seconds() - before
        if kept:
            write_json(kept, spent)
    if process.returncode:
        raise UserError(
            f"python launch.py {shlex.join(arguments)} ended with status {process.returncode}. It said last: "
            f"{last_line(log)} All that it printed stands at the end of {log}. Mend the cause and start this "
            "program again: it goes on from here."
        )
    return spent


def last_line(log: Path) -> str:
    """The last line of a log that is not empty."""
    said = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return said[-1] if said else "nothing."


def last_step(workdir: Path) -> int:
    """The last step that the run has logged; 0 before the first."""
    path = workdir / "metrics.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return max((json.loads(line)["step"] for line in lines if line.endswith("}")), default=0)


# --- lines --------------------------------------------------------------------------------------------------


def lines() -> Lines:
    """Those of `--results` as they are now: other processes may append to it."""
    return Lines(Path(FLAGS.results), COLUMNS, ("row", "split", "budget", "seed"))


def rows(row: str, split: str, seed: int | None = None) -> list[dict[str, str]]:
    """The lines of an architecture within the budget of `--minutes`, or of a trivial answer, on a split."""
    found = [line for line in lines().rows if (line["row"], line["split"]) == (row, split)]
    budgets = ("", f"{FLAGS.minutes:g}")  # a trivial answer has none
    return [line for line in found if line["budget"] in budgets and (seed is None or line["seed"] == str(seed))]


def results(run: Run, split: str) -> list[dict]:
    """The rows of results.json."""
    document = json.loads((run.workdir / "results.json").read_text(encoding="utf-8"))
    return document["splits"][split]["rows"]


def metrics(row: dict) -> dict[str, str]:
    """Columns of the metrics of a row of results.json, in percent."""
    return {column: f"{row['metrics'][name]:.2f}" for column, name in METRICS.items()}


def sanity(found: list[dict]) -> dict[str, str]:
    """Columns of the blind and the shuffled pass, and whether both are worse beyond the paired 95% interval."""
    by_name = {row["name"]: row for row in found}
    columns = {
        f"{short}_r1_iou0{m}": f"{by_name[name]['metrics'][f'R@1,IoU=0.{m}']:.2f}"
        for short, name in SANITY.items()
        for m in (5, 7)
    }
    worse = all(by_name[name]["lost"]["R@1,IoU=0.5"][0] > 0 for name in SANITY.values())
    return {**columns, "uses_video": "yes" if worse else "no"}


def write(run: Run, split: str, minutes: float) -> None:
    """Appends the line of a run on a split."""
    found = results(run, split)
    (ours,) = (row for row in found if row["kind"] == "run")
    params = vmr.load(run.workdir).variables["params"]
    append(
        {
            "row": run.model,
            "split": split,
            "budget": f"{FLAGS.minutes:g}",
            "seed": run.seed,
            "learning_rate": f"{run.rate:.2e}",
            "steps": run.steps,
            **metrics(ours),
            **sanity(found),
            "parameters": sum(leaf.size for leaf in jax.tree.leaves(params)),
            "cpu_minutes": f"{minutes:.1f}",
            **origin(run.command()),
        }
    )


def origin(arguments: list[str]) -> dict[str, str]:
    """The command with these arguments, which repeats a run, and what it ran on."""
    return {
        **command_and_commit(arguments),
        "versions": f"jax {jax.__version__}, flax {flax.__version__}",
        "machine": describe_machine(),
    }


def append(row: dict) -> None:
    """Appends a line, on disk before the next run begins, and prints it."""
    lines().append([row])
    print(", ".join(f"{row.get(column, '')}" for column in COLUMNS[:15]), flush=True)


def to_checkout(*names: str) -> None:
    """Goes to the checkout, from where launch.py is run; the paths of these flags stay what they were."""
    for name in names:
        FLAGS[name].value = str(Path(FLAGS[name].value).absolute())
    os.chdir(ROOT)


def define_places(holder: flags.FlagValues) -> None:
    """The flags that say where the data and the word vectors are."""
    features = "Folder of Charades-STA with the features, the split and the extra queries."
    flags.DEFINE_string("data", None, features, flag_values=holder)
    flags.DEFINE_string("vectors", None, "File of GloVe 6B 300d, .txt or .npz.", flag_values=holder)
    flags.mark_flags_as_required(["data", "vectors"], holder)


def define_flags(holder: flags.FlagValues) -> None:
    """The flags of the program."""
    define_places(holder)
    into = "Gets a line for each finished run."
    flags.DEFINE_string("folder", "runs/real", "Gets a folder for each run.", flag_values=holder)
    flags.DEFINE_string("results", "results/charades_clip.csv", into, flag_values=holder)
    flags.DEFINE_list("models", [], "Architectures; none given: all of them.", flag_values=holder)
    minutes = "CPU minutes that the steps of a run are expected to take; it has a hundred steps at least."
    flags.DEFINE_float("minutes", 10.0, minutes, flag_values=holder)
    parts = "Learning rates, as parts of that of the config."
    flags.DEFINE_list("rates", ["1", "0.3333"], parts, flag_values=holder)
    repeat = "Number of the best architectures that are trained with three seeds; 0: none is."
    flags.DEFINE_integer("repeat", 10, repeat, lower_bound=0, flag_values=holder)


if __name__ == "__main__":
    program.run(main, define_flags)
