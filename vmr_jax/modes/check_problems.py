"""The problems that `--mode=check` collects, and how its sections write lists, counts and facts."""

import contextlib
from collections.abc import Iterable, Iterator

from rich.table import Table
from rich.text import Text

from vmr_jax.errors import UserError

LISTED = 20  # ids or rows of one problem


class Problems:
    """Problems that were found: `fatal` stops training, `warnings` do not. Each is one line with what to do."""

    def __init__(self) -> None:
        self.fatal: list[str] = []
        self.warnings: list[str] = []

    @contextlib.contextmanager
    def caught(self) -> Iterator[None]:
        """Turns a UserError of the block into a fatal problem."""
        try:
            yield
        except UserError as error:
            if str(error) not in self.fatal:  # training asks some things twice
                self.fatal.append(str(error))


def listed(items: Iterable[str], most: int = LISTED) -> str:
    """The first items, and how many there are where that is not all."""
    items = list(items)
    shown = ("; " if any("," in item for item in items) else ", ").join(items[:most])
    return f"{shown}, ... ({len(items):,} in all)" if len(items) > most else shown


def counted(count: int, one: str) -> str:
    """'1 video', '1,334 videos', '2 queries'."""
    many = f"{one[:-1]}ies" if one.endswith("y") else f"{one}s"
    return f"{count:,} {one if count == 1 else many}"


def option(options, name: str):
    """A field of `config.dataset` that only some datasets have; None where this one has not."""
    return options[name] if name in options else None


def facts_table(facts: Iterable[tuple[str, str]]) -> Table:
    """Two columns: what, and its value."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(min_width=21, max_width=30, style="dim")
    table.add_column(overflow="fold")
    for what, value in facts:
        table.add_row(Text(what), Text(value))
    return table
