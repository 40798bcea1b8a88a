"""How a benchmark starts, refuses in one line what the user can put right, and ends what it has started."""

import contextlib
import math
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence

from absl import app, flags

from vmr_jax.errors import UserError, printable_line, unknown
from vmr_jax.memory import LARGE_PAGES, start_with_large_pages
from vmr_jax.models import architectures
from vmr_jax.training.interrupt import NAMES, Terminated, error_of

_MISSING = re.compile(r"flag --(?P<name>\w+)=None: ")  # how absl says that a flag must be given
GRACE = 60.0  # seconds that a program has to save after SIGTERM


def run(main: Callable, define_flags: Callable[[flags.FlagValues], None] | None = None) -> None:
    """Defines the flags of the command, runs `main`, and ends the process.

    Ctrl-C and SIGTERM end it in one line, exit status 130 and 143, and with it what `child` has started. Its
    memory is that of `launch.py`.

    Args:
      main: of the program; called with the arguments.
      define_flags: None where the program's module defines them.
    """
    start_with_large_pages()
    if define_flags:
        define_flags(flags.FLAGS)

    def checked(arguments: Sequence[str]) -> None:
        check(arguments, flags.FLAGS)
        main(arguments)

    try:
        with ended_in_one_line():
            app.run(checked, flags_parser=lambda argv: parsed(argv, flags.FLAGS))
    except UserError as error:
        sys.exit(f"{error}")


@contextlib.contextmanager
def ended_in_one_line() -> Iterator[None]:
    """Ctrl-C and SIGTERM end the block, and the process, without a traceback."""
    signal.signal(signal.SIGTERM, _stop)
    try:
        yield
    except KeyboardInterrupt:
        _end_of(signal.SIGINT)
    except Terminated:
        _end_of(signal.SIGTERM)


def _stop(number: int, _) -> None:
    raise error_of(number)


def _end_of(number: int) -> None:
    print(f"Stopped by {NAMES[number]}.", file=sys.stderr)
    sys.exit(128 + number)


def users_environment() -> dict[str, str]:
    """The environment without the large pages that `run` asks for; what is started may ask for them itself."""
    tunables = os.environ.get("GLIBC_TUNABLES", "").split(":")
    return os.environ | {"GLIBC_TUNABLES": ":".join(part for part in tunables if part != LARGE_PAGES)}


@contextlib.contextmanager
def child(command: Sequence[str] | str, **options) -> Iterator[subprocess.Popen]:
    """A program in a session of its own; when the block is left, it ends with all that it has started.

    A Ctrl-C at the terminal reaches it through this program alone. It gets SIGTERM, on which a training saves,
    and is killed where it has not ended `GRACE` seconds later.

    Args:
      command: as of `subprocess.Popen`.
      options: others of `subprocess.Popen`.
    """
    with subprocess.Popen(command, start_new_session=True, **options) as process:
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):  # all have ended
                _end_group(process)


def _end_group(process: subprocess.Popen) -> None:
    os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(GRACE)
    except subprocess.TimeoutExpired:
        pass
    finally:
        os.killpg(process.pid, signal.SIGKILL)


def parsed(argv: Sequence[str], values: flags.FlagValues) -> list[str]:
    """Reads the flags, and returns the other arguments; UserError for what absl refuses."""
    try:
        return values(argv)
    except flags.Error as error:
        if missing := _MISSING.match(str(error)):
            name = missing["name"]
            text = f"--{name} is missing: {values[name].help.rstrip('.')}"
        else:
            text = printable_line(f"{error}".rstrip("."))
        raise UserError(f"{text}. --help has all flags.") from None


def check(arguments: Sequence[str], values: flags.FlagValues) -> None:
    """UserError for what no program takes.

    That is an argument that is no flag, an architecture in --models that does not exist, a number below 0 or
    without end, and bytes that are no UTF-8, in which the command is kept beside its figures.
    """
    for text in sys.argv:
        if any("\ud800" <= letter <= "\udfff" for letter in text):
            raise UserError(f"The argument '{printable_line(text)}' is no UTF-8; write it in UTF-8.")
    if arguments[1:]:
        raise UserError(
            f"Unexpected argument '{arguments[1]}'; flags look like --NAME=VALUE, and --help has them all."
        )
    for module, own in values.flags_by_module_dict().items():
        for flag in () if module.startswith("absl.") else own:
            number = flag.value if isinstance(flag.value, (int, float)) else 0
            if not 0 <= number < math.inf:
                raise UserError(f"--{flag.name} is {number}; it must not be negative, and finite.")
    known("models", values["models"].value if "models" in values else (), architectures())


def known(flag: str, names: Iterable[str], choices: Iterable[str]) -> None:
    """UserError for a name in a flag that is none of the choices."""
    for name in names:
        if name not in choices:
            raise unknown(f"--{flag} has", name, choices)


def positive(flag: str, texts: Iterable[str]) -> list[float]:
    """The numbers of a flag, '1e3' too; UserError for what is no number above 0."""
    found = []
    for text in texts:
        try:
            found.append(float(text))
        except ValueError:
            found.append(math.nan)
        if not 0 < found[-1] < math.inf:
            raise UserError(f'{flag} has "{text}"; expected are numbers above 0, with commas between them.')
    return found


def whole(flag: str, texts: Iterable[str]) -> list[int]:
    """The whole numbers of a flag, '1e3' too; UserError for what is none above 0."""
    texts = list(texts)
    found = positive(flag, texts)
    for text, number in zip(texts, found, strict=True):
        if number % 1:
            raise UserError(f'{flag} has "{text}"; expected are whole numbers, with commas between them.')
    return [int(number) for number in found]
