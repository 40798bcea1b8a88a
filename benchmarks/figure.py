"""The rows of a table of speed and accuracy, and their picture: what `speed_accuracy.py` measures and draws."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from vmr_jax import published
from vmr_jax.reporting.markup import Markup, join, tag

METRIC = "R@1,IoU=0.5"
_LEFT, _FOOT = 46, 40  # px left of the plot of a panel, and below it
_LETTER, _LINE = 6.6, 11  # px: width of a letter at most, height of a line


class Row(NamedTuple):
    """A row of the table: milliseconds of one query, and the accuracy, None where there is none."""

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


def picture(
    rows: Sequence[Row], width: int = 420, height: int = 300, level: tuple[str, float] | None = None
) -> str:
    """An SVG with a panel for each dataset: accuracy over the total time, which is logarithmic.

    Args:
      rows: of all datasets.
      width: px of a panel.
      height: px of a panel.
      level: name and accuracy of what needs no time, a line across each panel.
    """
    names = list(dict.fromkeys(row.dataset for row in rows))
    panels = [
        tag(
            "g",
            panel(name, [r for r in rows if r.dataset == name], width, height, level),
            transform=f"translate({i * width},0)",
        )
        for i, name in enumerate(names)
    ]
    style = Markup(
        "text{font:11px system-ui,sans-serif;fill:#777}.axis{stroke:#888}.ours{fill:#c33}.other{fill:#36c}"
    )
    whole = width * len(names)
    size = {"width": str(whole), "height": str(height), "viewBox": f"0 0 {whole} {height}"}
    return str(tag("svg", tag("style", style), *panels, xmlns="http://www.w3.org/2000/svg", **size))


def panel(title: str, rows: Sequence[Row], width: int, height: int, level: tuple[str, float] | None) -> Markup:
    """One dataset: a mark with its name for every row that has an accuracy; `picture` has the arguments."""
    rows = [row for row in rows if row.accuracy is not None]
    bottom = height - _FOOT
    parts = [tag("text", f"{title}: {METRIC} (%) over ms per query", x=str(_LEFT), y="16")]
    if not rows:
        return join([*parts, tag("text", "no published accuracy", x=str(_LEFT), y="60")])
    powers = [math.log10(row.total_ms) for row in rows]
    first, last = math.floor(min(powers)), math.ceil(max(powers) + 1e-9)
    top = 10 * math.ceil(max(row.accuracy or 0 for row in rows) / 10)

    def across(power: float) -> float:
        return _LEFT + (width - _LEFT - 90) * (power - first) / max(last - first, 1)

    def down(accuracy: float) -> float:
        return bottom - (bottom - 30) * accuracy / top

    for power in range(first, last + 1):
        parts.append(tag("text", f"{10.0**power:g}", x=f"{across(power):.1f}", y=str(bottom + 16)))
    for accuracy in range(0, top + 1, 10):
        parts.append(tag("text", str(accuracy), x="18", y=f"{down(accuracy) + 4:.1f}"))
    ends = {"x1": str(_LEFT), "y1": str(bottom), "class_": "axis"}
    parts += [
        tag("line", x2=str(width - 20), y2=str(bottom), **ends),
        tag("line", x2=str(_LEFT), y2="24", **ends),
    ]
    taken = []
    if level:
        name, y = level[0], down(level[1])
        left = width - 20 - _LETTER * len(name)
        ends = {"y1": f"{y:.1f}", "y2": f"{y:.1f}"}
        parts += [
            tag("line", x1=str(_LEFT), x2=str(width - 20), **ends, class_="axis", stroke_dasharray="4"),
            tag("text", name, x=f"{left:.1f}", y=f"{y - 4:.1f}"),
        ]
        taken.append((left, y - _LINE - 4, float(width), y))
    marks = [(across(power), down(row.accuracy or 0)) for row, power in zip(rows, powers)]
    for row, (x, y), (left, base) in zip(rows, marks, labels([row.method for row in rows], marks, taken)):
        kind = "ours" if row.method.startswith("fvmr") else "other"
        parts += [
            tag("circle", cx=f"{x:.1f}", cy=f"{y:.1f}", r="4", class_=kind),
            tag("text", row.method, x=f"{left:.1f}", y=f"{base:.1f}"),
        ]
    return join(parts)


def labels(
    names: Sequence[str], marks: Sequence[tuple[float, float]], boxes: Sequence[tuple[float, ...]] = ()
) -> list[tuple[float, float]]:
    """Where the name of each mark begins: beside it, where it hides neither another name nor a mark.

    Right and left of the mark are tried, then both up to three lines higher and lower; where no place is free
    it is right of the mark.

    Args:
      names: what is written.
      marks: (x, y) in px.
      boxes: (left, top, right, bottom) in px of what else is there.
    """
    taken = [*boxes, *((x - 4, y - 4, x + 4, y + 4) for x, y in marks)]
    found = []
    for name, (x, y) in zip(names, marks):
        length = _LETTER * len(name)
        tries = [
            (left, y + 4 + sign * step * _LINE)
            for step in range(4)
            for sign in (-1, 1)
            for left in (x + 7, x - 7 - length)
        ]
        covered = [(left, base - _LINE + 2, left + length, base + 2) for left, base in tries]
        free = [not any(_overlap(box, other) for other in taken) for box in covered]
        chosen = free.index(True) if any(free) else 0
        taken.append(covered[chosen])
        found.append(tries[chosen])
    return found


def _overlap(a: Sequence[float], b: Sequence[float]) -> bool:
    """Whether two boxes (left, top, right, bottom) have points in common."""
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
