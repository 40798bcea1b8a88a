"""Seconds from the command to the first step of training on the embedded dataset, cold and with a warm cache.

    python benchmarks/start.py --csv=results/start.csv                # five architectures, two starts of each
    python benchmarks/start.py --models=vslnet

Each start is `launch.py` in a process of its own, which is stopped after its first step. The first start of an
architecture finds an empty folder of compiled programs (`config.compilation_cache`), the second what the first
has left there. The embedded dataset is prepared before, where it is not there yet, and that is not timed. A
stage ends when its line is printed: 'imports' with the first line that the program prints, 'data' with that on
compiling. CPU seconds are of all threads of the process, and do not depend on what else the machine does.
"""

import importlib
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from absl import flags
from lines import Lines
from machine import command_and_commit, cpu_seconds, describe_machine
from program import child, run

from vmr_jax.errors import UserError
from vmr_jax.input.dataset import Dataset

FLAGS = flags.FLAGS
MODELS = ("fvmr", "two_d_tan", "vslnet", "moment_detr", "mmn")
KEY = ("model", "cache", "commit")
STAGES = ("imports", "data", "compile")
FIGURES = ("seconds", "cpu_s", *(f"{stage}{unit}" for stage in STAGES for unit in ("_s", "_cpu_s")))
COLUMNS = ("model", "cache", *FIGURES, "command", "commit", "machine")
# What the program prints at the end of each of the stages.
_ENDS = ("Preparing the data", "Compiling the training step", "First step done")


def define_flags(holder: flags.FlagValues) -> None:
    """The flags of the program."""
    flags.DEFINE_list("models", [*MODELS], "Architectures.", flag_values=holder)
    flags.DEFINE_string("csv", "", "A file for the figures; empty: none.", flag_values=holder)


def prepare(name: str) -> None:
    """Prepares the embedded dataset as the config reads it, where it is not there yet."""
    config = importlib.import_module(f"vmr_jax.configs.{name}").get_config()
    Dataset(config.dataset, annotations_only=True)


def start(name: str, folder: Path, workdir: Path) -> dict[str, str]:
    """The columns `FIGURES` of a start with compiled programs in a folder.

    Raises:
      UserError: where the program ends before its first step.
    """
    root = Path(__file__).resolve().parents[1]
    command = [
        sys.executable, str(root / "launch.py"), f"--config={root}/configs/{name}.py",
        f"--config.compilation_cache={folder}", f"--workdir={workdir}",
    ]  # fmt: skip
    begin, ends, said = time.perf_counter(), [(0.0, 0.0)], []
    with child(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        for line in process.stderr or ():
            said.append(line)
            if _ENDS[len(ends) - 1] in line:
                ends.append((time.perf_counter() - begin, cpu_seconds(process.pid)))
            if len(ends) > len(_ENDS):
                break
    if len(ends) <= len(_ENDS):
        raise UserError(f"{name} ended before its first step. It said last: {''.join(said[-3:]).strip()}")
    line = dict(zip(("seconds", "cpu_s"), ends[-1], strict=True))
    for stage, before, after in zip(STAGES, ends, ends[1:], strict=False):
        line |= {f"{stage}_s": after[0] - before[0], f"{stage}_cpu_s": after[1] - before[1]}
    return {column: f"{x:.1f}" for column, x in line.items()}


def main(arguments: list[str]) -> None:
    """Prints a line for each start that --csv does not have of this commit."""
    origin = command_and_commit(["benchmarks/start.py", *sys.argv[1:]]) | {"machine": describe_machine()}
    lines = Lines(Path(FLAGS.csv), COLUMNS, KEY) if FLAGS.csv else None
    for name in FLAGS.models:
        if lines and all(lines.has(name, cache, origin["commit"]) for cache in ("cold", "warm")):
            continue
        prepare(name)
        with tempfile.TemporaryDirectory() as folder:
            for cache in ("cold", "warm"):
                found = {"model": name, "cache": cache, **origin}
                found |= start(name, Path(folder) / "programs", Path(folder) / cache)
                print(
                    "; ".join(f"{column} {found[column]}" for column in COLUMNS[: 2 + len(FIGURES)]), flush=True
                )
                if lines:
                    lines.append([found])


if __name__ == "__main__":
    run(main, define_flags)
