"""The command in processes of its own that have everything imported: they are forked from one that has.

Importing TensorFlow and JAX takes longer than most of what the tests ask of a command. This file is also what
the process runs that the others are forked from: it reads a line of JSON for each thing to do, and answers so.
"""

import atexit
import gc
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
IMPORTED = (
    "flax.linen",
    "optax",
    "orbax.checkpoint",
    "tensorflow",
    "tensorflow_datasets",
    "vmr_jax.modes.launch",
    *(f"vmr_jax.modes.{mode}" for mode in ("train", "evaluate", "predict", "score", "check", "inspect")),
)


class Started:
    """A command that runs, or has run; what it says is in two files."""

    def __init__(self, ask, pid: int, stdout: Path, stderr: Path):
        self._ask, self._pid, self.returncode = ask, pid, None
        self._stdout, self._stderr = stdout, stderr

    @property
    def stdout(self) -> str:
        return self._stdout.read_text() if self._stdout.exists() else ""  # it has only just been asked for

    @property
    def stderr(self) -> str:
        return self._stderr.read_text() if self._stderr.exists() else ""

    def poll(self) -> int | None:
        """The exit status, negative where a signal ended it; None while it runs."""
        if self.returncode is None:
            self.returncode, seconds = self._ask({"poll": self._pid})
            Commands.seconds += seconds
        return self.returncode

    def wait(self, timeout: float = 570) -> int:
        """Its exit status, when it has ended; it is killed where that takes longer."""
        deadline = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > deadline:
                self.kill()
                raise TimeoutError(self.stderr)
            time.sleep(0.02)
        return self.returncode

    def kill(self) -> None:
        if self.poll() is None:
            os.kill(self._pid, signal.SIGKILL)
            while self.poll() is None:
                time.sleep(0.005)


class Commands:
    """Runs `launch.py`, or `vmr_jax` in a folder of the user's, in a process of its own.

    Attributes:
      seconds: CPU seconds of those that have ended, which the system does not tell before `close`.
    """

    seconds = 0.0

    def __init__(self):
        self._folder, self._process, self._number = tempfile.TemporaryDirectory(), None, 0

    def _ask(self, request):
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, __file__],
                cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            )  # fmt: skip
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def start(self, *arguments, folder: Path = ROOT, devices: int = 1, **environment: str) -> Started:
        """Starts it with the compiler's own settings, as a user does, on some devices.

        `environment` is added to that of the tests; what JAX reads of it when it is imported has no effect.
        """
        flags = f"--xla_force_host_platform_device_count={devices}"
        self._number += 1
        out, err = (Path(self._folder.name) / f"{self._number}.{name}" for name in ("out", "err"))
        request = {
            "arguments": [str(argument) for argument in arguments],
            "folder": str(folder),
            "environment": {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags, **environment},
            "stdout": str(out),
            "stderr": str(err),
        }
        return Started(self._ask, self._ask(request), out, err)

    def run(self, *arguments, **settings) -> Started:
        """Runs it to its end."""
        started = self.start(*arguments, **settings)
        started.wait()
        return started

    def close(self) -> None:
        if self._process is not None:
            self._process.stdin.close()
            self._process.wait()
            self._process.stdout.close()
            Commands.seconds = 0.0
        self._folder.cleanup()


# --- the process that the others are forked from --------------------------------------------------


def poll(pid: int) -> tuple[int | None, float]:
    ended, status, used = os.wait4(pid, os.WNOHANG)
    return (os.waitstatus_to_exitcode(status), used.ru_utime + used.ru_stime) if ended else (None, 0.0)


def become(request) -> None:
    """Makes this process, which was forked a moment ago, what the command line would have started."""
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(request[name], os.O_WRONLY | os.O_CREAT), number)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.path[0] = request["folder"]
    sys.argv = ["launch.py", *request["arguments"]]


def end_with(call) -> None:
    """Ends this process as Python would after the call, but leaves what is imported to the system to free."""
    status = 0
    try:
        call()
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        if isinstance(ended.code, str):
            print(ended.code, file=sys.stderr)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        status = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def main() -> None:
    for name in IMPORTED:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # a collection would write to, and so copy, what the processes share
    # JAX warns of threads, of which there are none before its first computation.
    warnings.filterwarnings("ignore", "os.fork", RuntimeWarning)
    for line in sys.stdin:
        request = json.loads(line)
        if "poll" in request:
            answer = poll(request["poll"])
        elif not (answer := os.fork()):
            become(request)
            end_with(sys.modules["vmr_jax.modes.launch"].cli)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
