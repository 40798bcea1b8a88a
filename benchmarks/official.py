r"""What a step of two training programs takes, timed from the outside, each with its own loading of data.

    python benchmarks/official.py --name=two_d_tan --numbers=1,3 --examples=2412 --csv=results/official.csv \
        --ours='python launch.py --config=FILE --workdir={folder} --config.train_for="{n} epochs"' \
        --theirs='cd ../2D-TAN && python train.py --epochs={n} --output={folder}' --note='torch 2.13.0'

Each side is a command of the shell. In it {n} stands for how long it trains, in whatever the program counts,
and {folder} for an empty folder, quoted for the shell, which is deleted when the program has ended. Both sides
are run for the smaller and for the larger of --numbers, in turns, --rounds times; before that once for the
smaller, which is not counted, so that files and compiled programs lie where they are found again. The
difference of the two runs by the difference of the numbers is what a step or an epoch takes: start, compiling
and end are in both. CPU seconds are those of the program and of all processes that it has waited for, such as
those that load data; their columns stay empty where they did not grow. A round in which a side took no longer
for the larger number is named, and has no ratio. A line of --csv with the same name, commit and
command is not measured again.

That both sides do the same work is up to the user: data, batch, sizes, no evaluation on the way.
"""

import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from absl import flags
from lines import Lines
from machine import children_seconds, command_and_commit, describe_machine
from program import child, positive, run, users_environment

from vmr_jax.errors import UserError

FLAGS = flags.FLAGS
SIDES = ("ours", "theirs")
KEY = ("name", "commit", "command")
FIGURES = ("s", "cpu_s", "examples_per_second", "start_s")
COLUMNS = (
    "name", "short", "long", "rounds", "examples", "times", "times_low", "times_high", "times_cpu",
    *(f"{side}_{figure}" for side in SIDES for figure in FIGURES), "note", "command", "commit", "machine",
)  # fmt: skip


def define_flags(holder: flags.FlagValues) -> None:
    """The flags of the program."""
    flags.DEFINE_string("name", "", "What is trained, for --csv.", flag_values=holder)
    for side in SIDES:
        flags.DEFINE_string(side, "", "A command of the shell, with {n} in it.", flag_values=holder)
    flags.DEFINE_list("numbers", ["1", "3"], "Two values of {n}, the smaller first.", flag_values=holder)
    flags.DEFINE_integer("rounds", 3, "Times that all is run.", lower_bound=1, flag_values=holder)
    flags.DEFINE_integer(
        "examples", 0, "Of one step or epoch; 0: not known.", lower_bound=0, flag_values=holder
    )
    flags.DEFINE_string("note", "", "Versions of theirs, what else differs.", flag_values=holder)
    flags.DEFINE_string("csv", "", "A file for the figures; empty: none.", flag_values=holder)


class Taken(NamedTuple):
    """What a run has taken."""

    seconds: float
    cpu_seconds: float


def numbers_of(values: flags.FlagValues) -> tuple[int, int]:
    """The two numbers; UserError for a flag that no run could go with."""
    numbers = positive("--numbers", values.numbers)
    if len(numbers) != 2 or numbers[0] >= numbers[1] or any(number % 1 for number in numbers):
        raise UserError(f'--numbers has "{",".join(values.numbers)}"; expected are two whole ones, as in 1,3.')
    if not values.name:
        raise UserError("--name is empty; say what is trained.")
    for side in SIDES:
        command = values[side].value
        if "{n}" not in command or "${n}" in command or "${folder}" in command:
            raise UserError(
                f'--{side} has "{command}"; expected is a command with {{n}} in it, and no $ before it or '
                "{folder}: the number of steps or epochs is put in its place."
            )
    return int(numbers[0]), int(numbers[1])


def take(side: str, command: str, number: int) -> Taken:
    """Runs a side once; UserError with the last line of what it said where it fails."""
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile("w+", errors="replace") as said:
        command = command.replace("{n}", str(number)).replace("{folder}", shlex.quote(folder))
        begin, before = time.perf_counter(), children_seconds()
        options = {"stdin": subprocess.DEVNULL, "stdout": said, "stderr": said, "env": users_environment()}
        with child(command, shell=True, **options) as process:
            process.wait()
            taken = Taken(time.perf_counter() - begin, children_seconds() - before)
        if process.returncode:
            said.seek(0)
            last = [line.strip() for line in said if line.strip()][-1:] or ["nothing"]
            raise UserError(f"--{side} ended with {process.returncode}: {command}\nIt said last: {last[0]}")
    return taken


def row(
    runs: Mapping[str, Sequence[tuple[Taken, Taken]]], numbers: tuple[int, int], examples: int
) -> dict[str, object]:
    """The columns from `short` to `theirs_start_s`, of the short and the long run of each side and round.

    Raises:
      UserError: where the long runs of a side took no more than the short ones.
    """
    short, long = numbers
    line = {"short": short, "long": long, "rounds": len(runs["ours"]), "examples": examples or ""}
    grown = {side: np.diff(runs[side], axis=1)[:, 0].T / (long - short) for side in SIDES}  # [2,rounds]
    times, times_cpu = (ratios(*both) for both in zip(grown["ours"], grown["theirs"], strict=True))
    for side, (seconds, cpu) in grown.items():
        for turn in np.flatnonzero(seconds <= 0):
            print(f"Round {turn + 1}: {side} took no longer for {long} than for {short}, so it has no ratio.")
        second, cpu_second = np.median(seconds), np.median(cpu)
        if second <= 0 or not len(times):
            raise UserError(
                f"--{side} took no longer for {long} than for {short}: what else the machine did was more than "
                "the difference. Give a larger second number in --numbers."
            )
        begin = np.median([first.seconds for first, _ in runs[side]]) - short * second
        rate = f"{examples / second:.1f}" if examples else ""
        figures = (f"{second:.4g}", f"{cpu_second:.4g}" if cpu_second > 0 else "", rate, f"{begin:.1f}")
        line |= {f"{side}_{name}": text for name, text in zip(FIGURES, figures, strict=True)}
    line |= {"times": f"{np.median(times):.2f}", "times_low": f"{times.min():.2f}"}
    known = len(times_cpu) and all(line[f"{side}_cpu_s"] for side in SIDES)
    return line | {
        "times_high": f"{times.max():.2f}",
        "times_cpu": f"{np.median(times_cpu):.2f}" if known else "",
    }


def ratios(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Theirs by ours, of the rounds in which both grew."""
    both = (ours > 0) & (theirs > 0)
    return theirs[both] / ours[both]


def main(arguments: list[str]) -> None:
    """Prints what every run takes, and adds a line to --csv, unless it stands there."""
    numbers = numbers_of(FLAGS)
    lines = Lines(Path(FLAGS.csv), COLUMNS, KEY) if FLAGS.csv else None
    origin = command_and_commit(["benchmarks/official.py", *sys.argv[1:]]) | {"note": FLAGS.note}
    if lines and lines.has(FLAGS.name, origin["commit"], origin["command"]):
        print(f"{FLAGS.csv} has {FLAGS.name} of this commit and command.")
        return

    def taken(side: str, number: int) -> Taken:
        found = take(side, FLAGS[side].value, number)
        print(f"{side} {number}: {found.seconds:.2f} s, CPU {found.cpu_seconds:.2f} s", flush=True)
        return found

    for side in SIDES:
        taken(side, numbers[0])
    runs: dict[str, list[tuple[Taken, Taken]]] = {side: [] for side in SIDES}
    for turn in range(FLAGS.rounds):
        for side in SIDES[:: -1 if turn % 2 else 1]:
            runs[side].append((taken(side, numbers[0]), taken(side, numbers[1])))
    line = {"name": FLAGS.name} | row(runs, numbers, FLAGS.examples) | origin
    print("; ".join(f"{column} {line[column]}" for column in COLUMNS[: COLUMNS.index("note")]))
    if lines:  # the devices are asked for at the end: JAX takes their memory, which the programs need
        lines.append([line | {"machine": describe_machine()}])


if __name__ == "__main__":
    run(main, define_flags)
