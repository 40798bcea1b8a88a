"""`--mode=models`: the architectures, what each of them is, and what it runs on."""

import dataclasses
import importlib
import re
import shutil

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from vmr_jax import published, torch_import
from vmr_jax.configs import datasets
from vmr_jax.errors import unknown
from vmr_jax.models import architectures
from vmr_jax.models.card import FAMILIES, SUPERVISION, Card

_HEADINGS = (
    "name", "paper", "family", "labels", "features", "official code", "import", "datasets", "published"
)  # fmt: skip
_NARROWEST = 120  # columns of the table where the terminal has fewer


@dataclasses.dataclass(frozen=True)
class Entry:
    """Facts that the list gives of an architecture.

    Attributes:
      name: of its file.
      card: of its file.
      imported: whether `--mode=import` reads official checkpoints.
      datasets: names of the datasets of its config.
      published: number of published numbers in the store.
    """

    name: str
    card: Card
    imported: bool
    datasets: tuple[str, ...]
    published: int


def entries() -> list[Entry]:
    """Every architecture, by name."""
    importable = torch_import.architectures()
    counted = [number.architecture for number in published.numbers()]
    return [
        Entry(
            name,
            importlib.import_module(f"vmr_jax.models.{name}").CARD,
            name in importable,
            tuple(importlib.import_module(f"vmr_jax.configs.{name}").DATASETS),
            counted.count(name),
        )
        for name in architectures()
    ]


def selected(
    family: str | None = None,
    supervision: str | None = None,
    dataset: str | None = None,
    imports: bool | None = None,
) -> list[Entry]:
    """The architectures that agree with all that is given; UserError with the nearest name for a wrong value.

    Args:
      family: one of `FAMILIES`.
      supervision: one of `SUPERVISION`.
      dataset: one of the datasets that configs have.
      imports: True for those whose official checkpoints can be imported, False for the others.
    """
    for what, value, known in (
        ("There is no family", family, FAMILIES),
        ("There is no supervision", supervision, SUPERVISION),
        ("No config has the dataset", dataset, datasets.DATASETS),
    ):
        if value is not None and value not in known:
            raise unknown(what, value, known)
    return [
        entry
        for entry in entries()
        if family in (None, entry.card.family)
        and supervision in (None, entry.card.supervision)
        and (dataset is None or dataset in entry.datasets)
        and imports in (None, entry.imported)
    ]


def models(
    family: str | None = None,
    supervision: str | None = None,
    dataset: str | None = None,
    imports: bool | None = None,
) -> None:
    """`--mode=models`: prints the architectures that agree with all that is given; see `selected`."""
    found = selected(family, supervision, dataset, imports)
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    for heading in _HEADINGS:
        table.add_column(
            heading,
            justify="right" if heading == "published" else "left",
            overflow="fold",
            no_wrap=heading == "name",
        )
    for entry in found:
        table.add_row(*map(Text, _cells(entry)))
    Console(width=max(shutil.get_terminal_size().columns, _NARROWEST)).print(table)
    print(
        f"\n{len(found)} of {len(entries())} architectures. Train one with --config=configs/NAME.py:DATASET;\n"
        "vmr_jax/models/NAME.py says what was verified. The last column counts its numbers in\n"
        "vmr_jax/published.csv."
    )


def _cells(entry: Entry) -> list[str]:
    card = entry.card
    return [
        entry.name,
        card.citation,
        f"{card.family}: {card.kind}",
        card.supervision,
        card.features,
        _without_commit(card.official_code) or "none",
        "yes" if entry.imported else "no",
        _datasets(entry.datasets),
        str(entry.published),
    ]


def _without_commit(code: str) -> str:
    """'owner/name (framework)' of 'owner/name@commit (framework)'."""
    return re.sub(r"@\w+", "", code)


def _datasets(names: tuple[str, ...]) -> str:
    """'all', or the few that are missing."""
    missing = [name for name in datasets.DATASETS if name not in names]
    return f"all but {', '.join(missing)}" if missing else "all"
