"""How a benchmark starts: with its flags, and with an error that the user can put right in one line."""

import sys
from collections.abc import Callable

from absl import app, flags

from vmr_jax.errors import UserError


def run(main: Callable, define_flags: Callable[[flags.FlagValues], None]) -> None:
    """Defines the flags of the command, runs `main`, and ends the process."""
    define_flags(flags.FLAGS)
    try:
        app.run(main)
    except UserError as error:
        sys.exit(f"{error}")
