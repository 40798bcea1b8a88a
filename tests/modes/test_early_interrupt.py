"""Ctrl-C before the command listens: it ends without a traceback, also where it starts anew meanwhile."""

import signal
import subprocess
import sys

import pytest

# The command gets the signal at the instant at which it starts anew, or would. Then it imports all again.
PROGRAM = """
import os, signal, sys
from vmr_jax.modes import launch

def starts():
    if AGAIN and "ANEW" in os.environ:
        return
    os.kill(os.getpid(), signal.SIGINT)
    if AGAIN:
        os.environ["ANEW"] = "1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])

launch.start_with_large_pages = starts
launch.cli = lambda: print("it listens")
launch.command()
"""


@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="nothing starts anew on Windows")
@pytest.mark.parametrize("again", [False, True])
def test_ctrl_c_ends_a_command_that_does_not_listen_yet(tmp_path, again):
    (tmp_path / "program.py").write_text(PROGRAM.replace("AGAIN", str(again)))
    command = [sys.executable, str(tmp_path / "program.py")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")
