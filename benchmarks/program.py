"""How a benchmark starts: with its flags, and with an error that the user can put right in one line."""

import math
import sys
from collections.abc import Callable, Iterable, Sequence

from absl import app, flags

from vmr_jax.errors import UserError, unknown
from vmr_jax.models import architectures


def run(main: Callable, define_flags: Callable[[flags.FlagValues], None] | None = None) -> None:
    """Defines the flags of the command, runs `main`, and ends the process.

    Args:
      main: of the program; called with the arguments.
      define_flags: None where the program's module defines them.
    """
    if define_flags:
        define_flags(flags.FLAGS)

    def checked(arguments: Sequence[str]) -> None:
        check(arguments, flags.FLAGS)
        main(arguments)

    try:
        app.run(checked)
    except UserError as error:
        sys.exit(f"{error}")


def check(arguments: Sequence[str], values: flags.FlagValues) -> None:
    """UserError for an argument that is no flag, and for an architecture in --models that does not exist."""
    if arguments[1:]:
        raise UserError(
            f"Unexpected argument '{arguments[1]}'; flags look like --NAME=VALUE, and --help has them all."
        )
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
