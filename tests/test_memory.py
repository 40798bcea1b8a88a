"""What the C library does with freed memory."""

import ctypes
import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import pytest

from vmr_jax import memory
from vmr_jax.modes import launch

ROOT = Path(__file__).resolve().parents[1]

PROGRAM = """
import ctypes, resource, sys
from vmr_jax.memory import keep_freed_memory, start_with_large_pages

if "large" in sys.argv:
    start_with_large_pages()
if "keep" in sys.argv:
    keep_freed_memory()
library, size = ctypes.CDLL(None), 64 * 2**20
library.malloc.restype = ctypes.c_void_p
library.malloc.argtypes = [ctypes.c_size_t]
library.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
library.free.argtypes = [ctypes.c_void_p]
for _ in range(3):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    place = library.malloc(size)
    library.memset(place, 1, size)
    library.free(place)
    print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) * resource.getpagesize() / size)
"""


TOLD = """
import os, sys
from vmr_jax.memory import start_with_large_pages

print(os.getpid())
sys.stdout.flush()
BEFORE
start_with_large_pages()
print(os.environ.get("GLIBC_TUNABLES"), sys.flags.optimize, sys.argv[1:], sys.stdin.read())
sys.exit(7)
"""


def environment(tunables):
    """Of a process; `tunables`: of the C library, None for none."""
    others = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    return others if tunables is None else {**others, "GLIBC_TUNABLES": tunables}


def cleared(folder, *arguments):
    """How often the system cleared pages, in shares of the 16,384 of 64 MiB, each of three times that these
    were taken and freed.
    """
    (folder / "program.py").write_text(PROGRAM)
    command = [sys.executable, str(folder / "program.py"), *arguments]
    run = subprocess.run(command, capture_output=True, text=True, check=True, env=environment(None))
    return [float(line) for line in run.stdout.split()]


ARGUMENTS = ["--an=argument", "and another"]


def told(folder, tunables=None, before=""):
    """What TOLD prints after what comes `before` it, and its exit status."""
    return told_by(folder, ["-O", "FILE", *ARGUMENTS], tunables, before)


def told_by(folder, arguments, tunables=None, before="", given="a line"):
    """The same of Python with any arguments, of which FILE is TOLD; what is `given` is its input."""
    file = folder / "a program.py"
    file.write_text(TOLD.replace("BEFORE", before))
    command = [sys.executable, *(argument.replace("FILE", str(file)) for argument in arguments)]
    run = subprocess.run(command, capture_output=True, text=True, input=given, env=environment(tunables))
    assert not run.stderr
    return run.stdout.splitlines(), run.returncode


large_pages_on_request = pytest.mark.skipif(
    not memory._given_on_request(), reason="large pages are not to be had for the asking"
)


@pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "mallopt"), reason="not with the C library of GNU"
)
def test_memory_that_is_kept_is_not_cleared_again(tmp_path):
    given_back, kept = cleared(tmp_path), cleared(tmp_path, "keep")
    # A page at a time. Where the system has larger ones on its own, there is nothing to see.
    if given_back[2] < 0.9:
        pytest.skip("the system gives out pages larger than it says")
    assert max(kept[1:]) < 0.01


@large_pages_on_request
def test_a_large_page_is_cleared_at_once(tmp_path):
    """Of 2 MiB are 31 or 32 in 64 MiB; at either end at most 511 of 4 KiB do not fill one."""
    assert cleared(tmp_path)[2] > 0.9
    assert max(cleared(tmp_path, "large")) <= (31 + 2 * 511) / 16384


@large_pages_on_request
@pytest.mark.parametrize("options", [["-O"], ["-W", "error", "-O"], ["-O", "-X", "utf8", "-Werror"]])
def test_the_same_program_starts_anew(tmp_path, options):
    lines, status = told_by(tmp_path, [*options, "FILE", *ARGUMENTS])
    first, second, rest = lines  # what comes before the start is told again
    assert first == second  # one process
    assert rest == "glibc.malloc.hugetlb=1 1 ['--an=argument', 'and another'] a line"
    assert status == 7


@pytest.mark.parametrize("before", ["sys.settrace(lambda *_: None)", "sys.executable = ''"])
def test_it_goes_on_as_it_is_where_it_cannot_or_should_not_start_anew(tmp_path, before):
    """Under a debugger, and where the interpreter is not known."""
    lines, status = told(tmp_path, before=before)
    assert len(lines) == 2 and lines[1].startswith("None ")
    assert status == 7


RUNNER = """
import runpy, sys
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@large_pages_on_request
@pytest.mark.parametrize(
    "start",
    [
        ["-c", RUNNER, "FILE"],  # as %run of a notebook does
        ["RUNNER", "FILE", *ARGUMENTS],  # as profilers do that are commands
        ["-m", "cProfile", "-o", "PROFILE", "FILE", *ARGUMENTS],
    ],
)
def test_what_runs_a_command_in_its_own_process_is_not_started_anew(tmp_path, start):
    (tmp_path / "runner.py").write_text(RUNNER)
    places = {"RUNNER": tmp_path / "runner.py", "PROFILE": tmp_path / "profile"}
    lines, status = told_by(tmp_path, [str(places.get(word, word)) for word in start])
    assert len(lines) == 2 and lines[1].startswith("None ")
    assert status == 7 or "cProfile" in start  # which tells no status


@large_pages_on_request
@pytest.mark.parametrize("file", ["-", "/dev/stdin", ""])
def test_a_program_that_comes_by_a_pipe_runs(tmp_path, file):
    """It can be read once."""
    lines, status = told_by(tmp_path, [file, *ARGUMENTS] if file else [], given=TOLD.replace("BEFORE", ""))
    assert len(lines) == 2 and lines[1].startswith("None ")
    assert status == 7


@large_pages_on_request
def test_who_may_not_start_programs_goes_on(tmp_path):
    lines, status = told(tmp_path, before="sys.executable = '/no/such/interpreter'")
    assert len(lines) == 2 and lines[1].startswith("glibc.malloc.hugetlb=1 ")
    assert status == 7


@large_pages_on_request
def test_other_settings_of_the_user_stay(tmp_path):
    lines, _ = told(tmp_path, "glibc.malloc.arena_max=3")
    assert lines[2].startswith("glibc.malloc.arena_max=3:glibc.malloc.hugetlb=1 ")


@pytest.mark.parametrize("chosen", ["glibc.malloc.hugetlb=0", "glibc.malloc.hugetlb=2:glibc.malloc.check=0"])
def test_what_the_user_says_of_large_pages_holds(tmp_path, chosen):
    lines, status = told(tmp_path, chosen)
    assert len(lines) == 2  # it did not start anew
    assert lines[1].startswith(f"{chosen} ")
    assert status == 7


@pytest.mark.parametrize("hidden", [PermissionError, IsADirectoryError])
def test_a_system_that_hides_its_setting_is_not_asked(monkeypatch, hidden):
    """As containers do that let nobody read /sys."""

    class Hidden(type(Path())):
        def stat(self, **_):
            raise hidden

        open = stat

    monkeypatch.setattr(memory.platform, "libc_ver", lambda: ("glibc", "2.36"))
    monkeypatch.setattr(memory, "_WHO_GETS_THEM", Hidden("/sys"))
    assert memory._given_on_request() is False


@pytest.mark.parametrize(
    "found,setting,on_request",
    [
        (("glibc", "2.36"), "always [madvise] never", True),
        (("glibc", "2.35"), "always [madvise] never", True),
        (("glibc", "2.100"), "always [madvise] never", True),
        (("glibc", "3.0"), "always [madvise] never", True),
        (("glibc", "2.34"), "always [madvise] never", False),  # cannot ask
        (("glibc", "2.36"), "[always] madvise never", False),  # gives them unasked
        (("glibc", "2.36"), "always madvise [never]", False),
        (("glibc", "2.36"), None, False),  # a system that has none
        (("", ""), "always [madvise] never", False),  # musl, macOS
    ],
)
def test_who_is_asked_for_large_pages(monkeypatch, tmp_path, found, setting, on_request):
    monkeypatch.setattr(memory.platform, "libc_ver", lambda: found)
    monkeypatch.setattr(memory, "_WHO_GETS_THEM", tmp_path / "enabled")
    if setting is not None:
        Path(tmp_path / "enabled").write_text(f"{setting}\n")
    assert memory._given_on_request() is on_request


def test_the_installed_command_starts_with_them(monkeypatch):
    calls = []
    monkeypatch.setattr(launch, "start_with_large_pages", lambda: calls.append("large pages"))
    monkeypatch.setattr(launch, "cli", lambda: calls.append("command"))
    (entry,) = importlib.metadata.entry_points(group="console_scripts", name="vmr_jax")
    entry.load()()
    assert calls == ["large pages", "command"]


def test_a_command_without_an_output_ends_well():
    """It is then None; the command starts anew first, where it does."""
    command = 'exec "$0" launch.py --help >&-'
    run = subprocess.run(
        ["sh", "-c", command, sys.executable], cwd=ROOT, stderr=subprocess.PIPE, env=environment(None)
    )
    assert (run.returncode, run.stderr) == (0, b"")
