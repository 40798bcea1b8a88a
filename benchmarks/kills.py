"""Kills runs in every phase, resumes them, and compares what they end with with a run that nobody killed.

    python benchmarks/kills.py --kills=100
        ten minutes on two free cores: a tiny model on the embedded dataset, its programs compiled once.

A chain is one run in one folder, with data of its own: it is killed in each phase in turn, half of the times by
SIGKILL, half by SIGTERM, at a random instant of the phase, and then started until it ends. The table counts
the kills by the phase in which they fell. A run is lost where a start does not go on, different where its
losses, its metrics, its predictions or any number of its last state differ from those of the run left alone.
The runs are in a temporary folder, which stays where one of them is lost or different.
"""

import argparse
import collections
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import jax
import program
from forks import Fork

from vmr_jax.modes import launch
from vmr_jax.training import finish, fit, journal, loop  # imported once: each start is a fork of this process

PHASES = ("preparing", "compiling", "step", "evaluation", "save", "final evaluation", "report")
LASTS = {
    "preparing": 3.0,
    "compiling": 1.0,
    "step": 0.1,
    "evaluation": 0.2,
    "save": 0.1,
    "report": 0.1,
}  # seconds
SAME = ("metrics.jsonl", "results.json", "predictions.jsonl")
LAST = 12  # step
RUN = (
    "--config=configs/ctrl.py",
    "--config.dataset.train_videos=20",
    "--config.model.features=8",
    "--config.batch_size=16",
    "--config.evaluation.batch_size=64",
    "--config.evaluation.splits=('val',)",
    "--config.evaluation.sanity=()",
    f"--config.train_for={LAST} steps",
    "--config.evaluate_every=4 steps",
    "--config.log_every=1 steps",
    "--config.checkpoint_every=0.05 seconds",
)


def main() -> None:
    """Runs chains until there were as many kills as asked for; exit status 1 after a loss."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    wrong: list[str] = []
    folder = Path(tempfile.mkdtemp(prefix="kills"))
    try:
        kill_chains(folder, options.kills, random.Random(options.seed), wrong)
    finally:
        if not wrong:
            shutil.rmtree(folder, ignore_errors=True)
    sys.exit(bool(wrong))


def kill_chains(folder: Path, kills: int, draw: random.Random, wrong: list[str]) -> None:
    """Runs chains in a folder until there were as many kills; adds to `wrong` what is, and prints a table."""
    jax.config.update("jax_compilation_cache_dir", str(folder / "compiled"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    alone = folder / "alone"
    with Started(alone, folder / "alone.txt") as process:
        assert process.ended() == 0, (folder / "alone.txt").read_text()
    expected, counts, number = ended(alone), collections.Counter(), 0
    while sum(counts.values()) < kills:
        number += 1
        chain = folder / f"chain{number}"
        killed = list(kill_in_turn(chain, draw, kills - sum(counts.values())))
        counts.update(killed)
        outcome = finished(chain, expected)
        if outcome:
            wrong.append(f"{chain}: {outcome}; killed by {killed}")
        print(f"chain {number}: {sum(counts.values())} kills, {outcome or 'the same bytes'}", flush=True)
    print_table(counts, number, wrong)


# --- a process ------------------------------------------------------------------------------------


class Started(Fork):
    """A run in a process of its own, started or resumed as `launch.py` does, and its phase.

    Attributes:
      phase: that in which the run says that it is.
    """

    def __init__(self, workdir: Path, told: Path):
        """Starts it.

        Args:
          workdir: its folder.
          told: file of what it prints.
        """
        super().__init__(lambda tell: train(workdir, told, tell))
        self.phase = "preparing"

    def look(self) -> str:
        """The phase; '' where the process has ended."""
        self.phase = [self.phase, *self.news()][-1]
        return self.phase if self.poll() is None else ""

    def ended(self, seconds: float = 300) -> int | None:
        """The exit status; None where the process does not end."""
        until = time.monotonic() + seconds
        while self.look() and time.monotonic() < until:
            time.sleep(0.005)
        return self.status


def train(workdir: Path, told: Path, tell: int) -> None:
    """Trains in this process, which prints into the file `told` and writes its phases into a pipe."""
    with told.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    announce(tell)
    sys.argv = ["launch.py", *RUN, f"--config.dataset.data_dir={workdir}-data", f"--workdir={workdir}"]
    launch.cli()


def announce(tell: int) -> None:
    """Makes the functions of this process write into a pipe which phase they begin."""

    def said(owner, name, phase, after=""):
        function = getattr(owner, name)

        def saying(*args, **kwargs):
            os.write(tell, f"{phase}\n".encode())
            try:
                return function(*args, **kwargs)
            finally:
                if after:
                    os.write(tell, f"{after}\n".encode())

        setattr(owner, name, saying)

    said(fit, "open_experiment", "preparing", "compiling")
    said(journal.Journal, "scalars", "step")
    said(loop.Trainer, "_evaluate_and_save", "evaluation", "step")
    said(loop.Checkpoints, "save", "save", "step")
    said(loop, "finish", "final evaluation")
    said(finish, "_write", "report")


# --- a chain --------------------------------------------------------------------------------------


def kill_in_turn(workdir: Path, draw: random.Random, most: int):
    """Kills the run in each phase; yields (phase in which the kill fell, name of the signal)."""
    between = ["compiling", "step", "evaluation", "save"]
    draw.shuffle(between)
    for phase in ["preparing", *between, "final evaluation", "report"][:most]:
        number = draw.choice([signal.SIGKILL, signal.SIGTERM])
        with Started(workdir, Path(f"{workdir}-{phase.replace(' ', '_')}.txt")) as process:
            while (now := process.look()) and now != phase:
                time.sleep(0.001)
            time.sleep(draw.uniform(0, LASTS.get(phase, 0.5)))
            fell = process.look()
            if not fell:
                continue  # it has ended meanwhile
            os.kill(process.pid, number)
            status = process.ended()
        assert status in (-signal.SIGKILL, 143, 0), (workdir, phase, status)
        if status:
            yield fell, number.name


def finished(workdir: Path, expected: dict) -> str:
    """Starts the run until it ends; what is wrong with what it ends with, '' for nothing."""
    told = Path(f"{workdir}-end.txt")
    with Started(workdir, told) as process:
        status = process.ended()
    if status not in (0, 2) or (status == 2 and "already at its last step" not in told.read_text()):
        return f"lost, exit status {status}: {told.read_text()[-500:]}"
    found = ended(workdir)
    return ", ".join(f"another {name}" for name in expected if found[name] != expected[name])


def ended(workdir: Path) -> dict:
    """All that a run ends with: its files, and the checksums of every leaf of its last state."""
    position = json.loads((workdir / "checkpoints" / str(LAST) / "position" / "metadata").read_text())
    return {**{name: (workdir / name).read_bytes() for name in SAME}, "state": position}


def print_table(counts, chains: int, wrong: list[str]) -> None:
    """Kills by phase and signal, and what became of the runs."""
    print(f"\n{'killed in':<18}{'SIGKILL':>8}{'SIGTERM':>8}")
    for phase in PHASES:
        print(f"{phase:<18}{counts[phase, 'SIGKILL']:>8}{counts[phase, 'SIGTERM']:>8}")
    lost = sum("lost" in text for text in wrong)
    print(
        f"\n{sum(counts.values())} kills of {chains} runs: {chains - len(wrong)} ended with the same bytes, "
        f"{lost} lost, {len(wrong) - lost} different"
    )
    print("\n".join(wrong))


if __name__ == "__main__":
    with program.ended_in_one_line():
        main()
