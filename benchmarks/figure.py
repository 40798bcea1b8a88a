"""The rows of a table of speed and accuracy, and their picture: what `speed_accuracy.py` measures and draws."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from vmr_jax import published
from vmr_jax.reporting.markup import Markup, join, tag

METRIC = "R@1,IoU=0.5"
_WIDTH, _HEIGHT, _LEFT, _FOOT = 420, 300, 46, 40  # px of a panel, and of what is left and below of its plot


class Row(NamedTuple):
    """A row of the table: milliseconds of one query, and the accuracy, None where no number was published."""

    dataset: str
    method: str
    text_ms: float
    matching_ms: float
    accuracy: float | None
    source: str

    @property
    def total_ms(self) -> float:
        """Text encoding and matching."""
        return self.text_ms + self.matching_ms


def best_published(config) -> tuple[float | None, str]:
    """The highest published accuracy beside which a run of the config may stand, with its source.

    The features are those of the config, or where its paper has none on them, any that it states.
    """
    split = (config.evaluation.splits or ("test",))[0]
    found = [n for n in published.comparable(config, split) if n.metric == METRIC]
    if not found:
        key = (config.model.name, config.dataset.name, published.version_of(config.dataset))
        found = [
            n
            for n in published.numbers()
            if (n.architecture, n.dataset, n.version) == key and n.metric == METRIC and n.split != "val"
        ]
    best = max(found, key=lambda number: number.value, default=None)
    return (None, "") if best is None else (best.value, best.source)


def of_variant(name: str, dataset: str, variant: str) -> tuple[float | None, str]:
    """The published accuracy of a variant."""
    key = (name, dataset, variant, METRIC)
    found = [n for n in published.numbers() if (n.architecture, n.dataset, n.variant, n.metric) == key]
    return (found[0].value, found[0].source) if found else (None, "")


def line(row: Row) -> str:
    """A line of the printed table."""
    accuracy = f"{row.accuracy:6.2f}" if row.accuracy is not None else "     -"
    return (
        f"{row.dataset:22s} {row.method:14s} text {row.text_ms:9.3f}  matching {row.matching_ms:9.3f}  "
        f"total {row.total_ms:9.3f} ms  {METRIC} {accuracy}  {row.source}"
    )


def picture(rows: Sequence[Row]) -> str:
    """An SVG with a panel for each dataset: accuracy over the total time, which is logarithmic."""
    names = list(dict.fromkeys(row.dataset for row in rows))
    panels = [
        tag("g", panel(name, [r for r in rows if r.dataset == name]), transform=f"translate({i * _WIDTH},0)")
        for i, name in enumerate(names)
    ]
    style = Markup("text{font:11px system-ui,sans-serif}.axis{stroke:#888}.ours{fill:#c33}.other{fill:#36c}")
    size = {"width": str(_WIDTH * len(names)), "height": str(_HEIGHT)}
    return str(tag("svg", tag("style", style), *panels, xmlns="http://www.w3.org/2000/svg", **size))


def panel(title: str, rows: Sequence[Row]) -> Markup:
    """One dataset: a mark with its name for every row that has an accuracy."""
    rows = [row for row in rows if row.accuracy is not None]
    bottom = _HEIGHT - _FOOT
    parts = [tag("text", f"{title}: {METRIC} (%) over ms per query", x=str(_LEFT), y="16")]
    if not rows:
        return join([*parts, tag("text", "no published accuracy", x=str(_LEFT), y="60")])
    powers = [math.log10(row.total_ms) for row in rows]
    first, last = math.floor(min(powers)), math.ceil(max(powers) + 1e-9)
    top = 10 * math.ceil(max(row.accuracy or 0 for row in rows) / 10)

    def across(power: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - 90) * (power - first) / max(last - first, 1)

    def down(accuracy: float) -> float:
        return bottom - (bottom - 30) * accuracy / top

    for power in range(first, last + 1):
        parts.append(tag("text", f"{10.0**power:g}", x=f"{across(power):.1f}", y=str(bottom + 16)))
    for accuracy in range(0, top + 1, 10):
        parts.append(tag("text", str(accuracy), x="18", y=f"{down(accuracy) + 4:.1f}"))
    ends = {"x1": str(_LEFT), "y1": str(bottom), "class_": "axis"}
    parts += [
        tag("line", x2=str(_WIDTH - 20), y2=str(bottom), **ends),
        tag("line", x2=str(_LEFT), y2="24", **ends),
    ]
    for row, power in zip(rows, powers):
        x, y = across(power), down(row.accuracy or 0)
        kind = "ours" if row.method.startswith("fvmr") else "other"
        parts += [
            tag("circle", cx=f"{x:.1f}", cy=f"{y:.1f}", r="4", class_=kind),
            tag("text", row.method, x=f"{x + 7:.1f}", y=f"{y + 4:.1f}"),
        ]
    return join(parts)
