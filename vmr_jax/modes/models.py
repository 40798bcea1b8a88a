"""`--mode=models`: the architectures, a line each; with `--architecture`, all that there is to know of one."""

import dataclasses
import importlib
import shutil
import textwrap
from collections.abc import Iterable, Mapping

from vmr_jax import published, torch_import
from vmr_jax.configs import datasets
from vmr_jax.errors import unknown
from vmr_jax.models import architectures
from vmr_jax.models.card import FAMILIES, SUPERVISION, Card

_HEADINGS = ("name", "paper", "labels", "family", "import", "datasets", "published")
_COMPARED = ("charades_sta", "test", "R@1,IoU=0.5")  # dataset, split and metric of the column 'published'


@dataclasses.dataclass(frozen=True)
class Entry:
    """Facts that the list gives of an architecture.

    Attributes:
      name: of its file.
      card: of its file.
      imported: whether `--mode=import` reads official checkpoints.
      datasets: datasets of its config -> their options.
      lacking: the other datasets -> why it does not run on them.
      published: number of published numbers in the store.
      best: the best published R@1,IoU=0.5 on the test split of Charades-STA; None where there is none.
    """

    name: str
    card: Card
    imported: bool
    datasets: Mapping[str, tuple[str, ...]]
    lacking: Mapping[str, str]
    published: int
    best: float | None


def entries() -> list[Entry]:
    """Every architecture, by name."""
    importable = torch_import.architectures()
    return [_entry(name, name in importable) for name in architectures()]


def _entry(name: str, imported: bool) -> Entry:
    config = importlib.import_module(f"vmr_jax.configs.{name}")
    numbers = [number for number in published.numbers() if number.architecture == name]
    compared = [
        number.value
        for number in numbers
        if (number.dataset, number.split, number.metric) == _COMPARED
        and not number.source.endswith(published.UNCONFIRMED)
    ]
    return Entry(
        name,
        importlib.import_module(f"vmr_jax.models.{name}").CARD,
        imported,
        config.DATASETS,
        getattr(config, "LACKING", {}),
        len(numbers),
        max(compared, default=None),
    )


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
    architecture: str | None = None,
    family: str | None = None,
    supervision: str | None = None,
    dataset: str | None = None,
    imports: bool | None = None,
) -> None:
    """`--mode=models`: prints a line for each architecture that agrees with all that is given; see `selected`.

    Args:
      architecture: the one, or several with commas between them, of which all is told instead.
      family: as in `selected`.
      supervision: as in `selected`.
      dataset: as in `selected`.
      imports: as in `selected`.

    Raises:
      UserError: for an unknown value, with the nearest name.
    """
    named = architecture.split(",") if architecture else []
    for name in named:
        if name not in architectures():
            raise unknown("There is no architecture", name, architectures())
    found = selected(family, supervision, dataset, imports)
    if named:
        told = [_told(entry) for entry in found if entry.name in named]
        print("\n\n".join([*told, *_left_out(named, found, dataset)]))
        return
    rows = [_HEADINGS, *map(_cells, found)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    print(
        f"\n{len(found)} of {len(entries())} architectures. All of one: --mode=models --architecture=NAME.\n"
        "Train one: --config=configs/NAME.py:DATASET. The last column is the best R@1,IoU=0.5 on Charades-STA\n"
        "that its paper or code reports, whatever the features; --mode=survey has every number."
    )


def _left_out(named: Iterable[str], found: Iterable[Entry], dataset: str | None) -> list[str]:
    """A line for each named architecture that the other flags leave out, with the reason of its config."""
    agreeing = [entry.name for entry in found]
    others = [entry for entry in entries() if entry.name in named and entry.name not in agreeing]
    return [
        f"{entry.name} does not run on {dataset}: {entry.lacking[dataset]}."
        if dataset and dataset in entry.lacking
        else f"{entry.name} does not agree with the other flags."
        for entry in others
    ]


def _cells(entry: Entry) -> list[str]:
    card = entry.card
    return [
        entry.name,
        card.citation,
        card.supervision,
        card.family,
        "yes" if entry.imported else "no",
        str(len(entry.datasets)),
        "" if entry.best is None else f"{entry.best:.2f}",
    ]


def _told(entry: Entry) -> str:
    """All that the card and the config say, a fact a line."""
    card, width = entry.card, max(min(shutil.get_terminal_size().columns, 112), 60)
    with_options = {name: ", ".join(options) or "no option" for name, options in entry.datasets.items()}
    reasons: dict[str, list[str]] = {}
    for dataset in datasets.DATASETS:
        if dataset in entry.lacking:
            reasons.setdefault(entry.lacking[dataset], []).append(dataset)
    facts: dict[str, Iterable[str]] = {
        "paper": [f"{card.title}. {card.citation}"],
        "family": [f"{card.family}: {card.kind}"],
        "labels": [card.supervision],
        "features": [card.features],
        "official code": [card.official_code or "nobody published any"],
        "checkpoints": ["--mode=import reads the official ones" if entry.imported else "none can be imported"],
        "published": [f"{entry.published} numbers, in --mode=survey"],
        "train": [f"python launch.py --config=configs/{entry.name}.py[:DATASET[,OPTION...]]"],
        "datasets": [f"{name}: {options}" for name, options in with_options.items()],
        "not on": [f"{', '.join(names)}: {why}" for why, names in reasons.items()],
        "ours": card.ours,
        "verified": card.verified,
    }
    label = max(map(len, facts)) + 4
    lines = []
    for name, texts in facts.items():
        for place, text in enumerate(texts):
            first = (" " * 2 + name if place == 0 else "").ljust(label)
            lines.append(textwrap.fill(text, width, initial_indent=first, subsequent_indent=" " * label + "  "))
    return "\n".join([entry.name, *lines])
