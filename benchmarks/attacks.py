"""Damages each file of a run and of its data in turn, and shows what reading it comes to.

    python benchmarks/attacks.py                # all; ten minutes on two free cores
    python benchmarks/attacks.py --only=index   # files whose path has this word

A small run on the embedded dataset is trained, evaluated and indexed once. Then one file of a copy is damaged,
and a process of its own reads it as the command would. Right outcomes are 'same' (what was read is what was
written), 'line' (one message, without a traceback) and 'other' (what was read differs, which is for logs and
annotations). Wrong are a traceback, a process that does not end, and memory beyond the limit: the exit status
says so.
"""

import hashlib
import json
import logging
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from absl import flags
from program import child, run

from vmr_jax.config import load_config
from vmr_jax.errors import UserError
from vmr_jax.evaluation import prediction_files
from vmr_jax.reporting.page import write_report
from vmr_jax.retrieval.store import MomentStore
from vmr_jax.run import Run
from vmr_jax.training.experiment import Experiment
from vmr_jax.training.identity import changed_data

FLAGS = flags.FLAGS
flags.DEFINE_string("only", "", "Files whose path has this word.")
SECONDS, MEMORY = 60, 4 << 30  # that a reading may take: bytes of address space beyond those of this process
TRAIN = (
    "--config=configs/fvmr.py",
    "--config.dataset.train_videos=20",
    "--config.train_for=4 steps",
    "--config.batch_size=8",
    "--config.evaluation.sanity=()",
)

# --- damages --------------------------------------------------------------------------------------


def flipped(path: Path, part: float) -> None:
    """Flips a bit."""
    content = bytearray(path.read_bytes())
    content[int(len(content) * part)] ^= 4
    path.write_bytes(content)


def instead(path: Path, make: Callable[[Path], None]) -> None:
    """Puts something else in the place of a file."""
    path.unlink()
    make(path)


def before(path: Path, content: bytes) -> None:
    """Puts bytes before those of a file."""
    path.write_bytes(content + path.read_bytes())


DEEP = b"[" * 100_000 + b"]" * 100_000
DAMAGES: dict[str, Callable[[Path], None]] = {
    "bit at the head": lambda p: flipped(p, 0.02),
    "bit in the middle": lambda p: flipped(p, 0.5),
    "bit at the end": lambda p: flipped(p, 0.97),
    "cut": lambda p: os.truncate(p, p.stat().st_size // 2),
    "empty": lambda p: os.truncate(p, 0),
    "zeros": lambda p: p.write_bytes(bytes(p.stat().st_size)) and None,
    "absent": lambda p: p.unlink(),
    "a folder": lambda p: instead(p, Path.mkdir),
    "a pipe": lambda p: instead(p, os.mkfifo),
    "/dev/zero": lambda p: instead(p, lambda q: q.symlink_to("/dev/zero")),
    "no UTF-8": lambda p: p.write_bytes(p.read_bytes().replace(b"e", b"\xff\xfe", 3)) and None,
    "byte order mark": lambda p: before(p, b"\xef\xbb\xbf"),
    "Windows' line ends": lambda p: p.write_bytes(p.read_bytes().replace(b"\n", b"\r\n")) and None,
    "100,000 brackets": lambda p: before(p, DEEP + b"\n"),
    "brackets within": lambda p: p.write_bytes(p.read_bytes().replace(b":", b": " + DEEP + b",", 1)) and None,
    "5,000 digits": lambda p: p.write_bytes(p.read_bytes().replace(b": ", b": " + b"9" * 5000, 1)) and None,
    "1e400": lambda p: p.write_bytes(p.read_bytes().replace(b": 1", b": 1e400", 3)) and None,
    "100 MB in a line": lambda p: before(p, b'{"a": "' + b"x" * 10**8 + b'"}\n'),
}
TEXT = (".json", ".jsonl")  # the others get the first ten alone

# --- readings -------------------------------------------------------------------------------------


def opened(run: Path) -> list:
    """All that an evaluation reads before it computes: config, words, records, features."""
    experiment = Experiment(load_config(run), run)
    splits = ("train", "val")
    batches = [experiment.loader(name).batch(np.arange(len(experiment.loader(name)))) for name in splits]
    return [experiment.vocabulary, jax.tree.leaves(batches), changed_data(experiment, run, splits)]


def reported(run: Path) -> list:
    """The report of the run."""
    return [write_report(run).read_text()]


READERS: dict[str, Callable[[Path], list]] = {
    "run/*.json": opened,
    "run/*.json*": reported,
    "run/*.npz": reported,
    "run/predictions.jsonl": lambda run: [prediction_files.read(run / "predictions.jsonl").tasks],
    "run/index/*": lambda run: [segment.vectors for segment in MomentStore.open(run / "index")._segments],
    "run/best/*/**/*": lambda run: jax.tree.leaves(Run.load(run).variables),
    "data/storyboard/*/*/*": opened,
}


def outcome(read: Callable[[Path], list], run: Path) -> tuple[str, str]:
    """(kind, what was said) of a reading in a process of its own."""
    receive, send = os.pipe()
    pid = os.fork()
    if not pid:
        resource.setrlimit(resource.RLIMIT_AS, (_size() + MEMORY,) * 2)
        silent = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silent, 1), os.dup2(silent, 2)
        try:
            plain = jax.tree.map(lambda x: np.asarray(x).tolist(), read(run))
            found = "read", hashlib.sha256(repr(plain).encode()).hexdigest()
        except UserError as error:
            found = "line", str(error)
        except BaseException as error:
            found = "TRACEBACK", f"{type(error).__name__}: {error}"[:500]
        os.write(send, json.dumps(found).encode()[:60_000])
        os._exit(0)
    os.close(send)
    until = time.monotonic() + SECONDS
    while not (ended := os.waitpid(pid, os.WNOHANG)[0]) and time.monotonic() < until:
        time.sleep(0.01)
    if not ended:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    with os.fdopen(receive, "rb") as file:
        said = file.read()
    return tuple(json.loads(said)) if said else ("ENDLESS" if not ended else "KILLED", "")


def _size() -> int:
    """Bytes of address space of this process."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def main(argv: list[str]) -> None:
    """Prints a row for each attack, and the counts."""
    del argv
    logging.getLogger("vmr_jax").setLevel(logging.ERROR)
    root = Path(tempfile.mkdtemp(prefix="attacks"))
    whole, copy = root / "whole", root / "w"
    program = f"{sys.executable} launch.py --workdir={copy}/run"
    settings = " ".join(f"'{setting}'" for setting in (*TRAIN, f"--config.dataset.data_dir={copy}/data"))
    for command in (f"{program} {settings}", f"{program} --mode=index"):
        with (root / "log").open("wb") as log, child(command, shell=True, stdout=log, stderr=log) as process:
            if process.wait():
                sys.exit((root / "log").read_text())
    copy.rename(whole)
    counts: Counter[str] = Counter()
    for pattern, read in READERS.items():
        shutil.copytree(whole, copy)
        expected = outcome(read, copy / "run")
        files = [path.relative_to(copy) for path in sorted(copy.glob(pattern)) if path.is_file()]
        for file in (f for f in files if FLAGS.only in str(f) and (whole / f).stat().st_size):
            for name, damage in list(DAMAGES.items())[: None if file.suffix in TEXT else 10]:
                shutil.rmtree(copy)
                shutil.copytree(whole, copy)
                damage(copy / file)
                kind, said = outcome(read, copy / "run")
                if kind == "read":
                    kind, said = "same" if said == expected[1] else "other", ""
                counts[kind] += 1
                print(
                    f"{kind:<10}{str(file)[-36:]:<37}{name:<19}{said.replace(str(root), '')[:150]}", flush=True
                )
        shutil.rmtree(copy)
    print(", ".join(f"{count} {kind}" for kind, count in counts.most_common()))
    sys.exit(bool({"TRACEBACK", "ENDLESS", "KILLED"} & counts.keys()))


if __name__ == "__main__":
    run(main)
