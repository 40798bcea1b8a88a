"""The numbers that papers report: one store, `published.csv`, in which every number has its source.

A number belongs to an architecture, or to a method that the library does not have, to a dataset, its version or
convention, features and a split. Where sources disagree, each has its row. `source` is the paper, or the
repository of its authors, that states the number; `note` says through which other paper it came, or what makes
it hard to compare. A source that ends in `UNCONFIRMED` is only believed to state the number: it is from memory,
and no text that could be read has it.
"""

import csv
import dataclasses
import functools
import importlib.resources
from collections.abc import Iterable
from typing import Any

UNCONFIRMED = "(unconfirmed)"
TIMES = ("text encoding, ms", "matching, ms", "total, ms")  # metrics that are no percentages


@dataclasses.dataclass(frozen=True)
class Number:
    """One published number.

    Attributes:
      architecture: file name of the architecture; of another method its name, as the field writes it.
      variant: what the source calls the variant, '' for its main one.
      settings: fields of the config with the values of that variant: 'model.proposal=conv ...'.
      dataset: folder of the dataset.
      version: `config.dataset.version` or `config.dataset.convention`, '' where the dataset has neither.
      features: option of the config, '' where the source does not state them.
      split: evaluated split.
      metric: name of the metric.
      value: in percent; milliseconds of a query where the metric is one of `TIMES`.
      source: who states it, with `UNCONFIRMED` behind it where that is from memory.
      note: what a reader must know, or ''.
    """

    architecture: str
    variant: str
    settings: str
    dataset: str
    version: str
    features: str
    split: str
    metric: str
    value: float
    source: str
    note: str


@functools.cache
def numbers() -> tuple[Number, ...]:
    """Every number of the store."""
    text = (importlib.resources.files("vmr_jax") / "published.csv").read_text(encoding="utf-8")
    found: list[dict[str, Any]] = [
        {**row, "value": float(row["value"])} for row in csv.DictReader(text.splitlines())
    ]
    return tuple(Number(**row) for row in found)


def comparable(config: Any, split: str, store: Iterable[Number] | None = None) -> list[Number]:
    """The numbers that a run of `config` may stand beside on a split.

    They are of its architecture with the settings of the config, its dataset in the same version or convention,
    and the same features.

    Args:
      config: a resolved config.
      split: name of the split.
      store: other numbers than those of the store.
    """
    dataset = config.dataset
    key = (config.model.name, dataset.name, version_of(dataset), features_of(dataset), split)
    return [
        number
        for number in (numbers() if store is None else store)
        if (number.architecture, number.dataset, number.version, number.features, number.split) == key
        and number.features
        and number.metric not in TIMES
        and all(_is_set(config, setting) for setting in number.settings.split())
    ]


def rows(config: Any, split: str) -> list[dict[str, Any]]:
    """The published rows of results.json for a split, one for each variant and source.

    A row is {"name", "kind": "published", "source", "metrics"}, and "note" where there is one.
    """
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for number in comparable(config, split):
        name = ", ".join(part for part in ("published", number.features, number.variant) if part)
        row = {"name": name, "kind": "published", "source": number.source, "metrics": {}}
        if number.note:
            row["note"] = number.note
        found.setdefault((name, number.source), row)["metrics"][number.metric] = number.value
    names = [name for name, _ in found]
    for (name, source), row in found.items():
        if names.count(name) > 1:
            row["name"] = f"{name} ({source})"
    return list(found.values())


def version_of(dataset: Any) -> str:
    """The version or the convention of `config.dataset`, '' where it has neither."""
    return str(dataset.get("version", "") or dataset.get("convention", ""))


def features_of(dataset: Any) -> str:
    """The option that stands for the features of `config.dataset`: 'vgg', with flow beside it 'vgg+flow'.

    '' where they are the user's own.
    """
    from vmr_jax.configs.datasets import FEATURES

    known = FEATURES.get(dataset.name, {})
    names = [name for name, f in known.items() if (f.path, f.dim) == (dataset.features, dataset.feature_dim)]
    flow = dataset.get("streams", {}).get("flow", ())
    beside = [name for name, f in known.items() if flow and (f.path, f.dim) == (flow[0], flow[1])]
    return "+".join([*names[:1], *beside]) if names else ""


def _is_set(config: Any, setting: str) -> bool:
    """Whether a field of the config has the value of 'model.proposal=conv'."""
    path, _, value = setting.partition("=")
    for part in path.split("."):
        config = config[part]
    return str(config) == value
