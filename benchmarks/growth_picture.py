"""The curves of `growth.py` as a picture: operations, temporaries and CPU time of a step over each length."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

from vmr_jax.reporting.markup import Markup, join, tag

_LEFT, _RIGHT, _TOP, _FOOT = 58, 22, 30, 30  # px around the plot of a panel
_LEGEND = 34  # px above all panels
_COLOURS = ("#c33", "#36c", "#393", "#939", "#b60", "#099", "#555", "#a06")
_PREFIXES = {-6: "µ", -3: "m", 0: "", 3: "k", 6: "M", 9: "G", 12: "T", 15: "P"}
QUANTITIES = {
    "operations": ("operations", ""),
    "temporary_bytes": ("temporaries", "B"),
    "cpu_seconds": ("CPU time", "s"),
}
AXES = {"clips": "clips", "map": "clips of a map's side", "words": "words", "batch": "rows of a batch"}
Row = Mapping[str, str]
Curve = Mapping[int, float]
Scale = Callable[[float], float]


def picture(rows: Sequence[Row], width: int = 330, height: int = 250) -> str:
    """An SVG with a panel for each axis and quantity that was measured; both scales are logarithmic.

    Args:
      rows: of the output of `growth.py`; of the same point the last counts.
      width: px of a panel.
      height: px of a panel.
    """
    axes = [axis for axis in AXES if any(row["axis"] == axis for row in rows)]
    models = list(dict.fromkeys(row["model"] for row in rows))
    panels = [_legend(models)]
    for line, what in enumerate(QUANTITIES):
        for place, axis in enumerate(axes):
            curves: dict[str, dict[int, float]] = {}
            for row in rows:
                if row["axis"] == axis and row[what]:
                    curves.setdefault(row["model"], {})[int(row["length"])] = float(row[what])
            title = f"{QUANTITIES[what][0]} of a step over {AXES[axis]}"
            drawn = panel(title, QUANTITIES[what][1], curves, models, width, height)
            panels.append(tag("g", drawn, transform=f"translate({place * width},{_LEGEND + line * height})"))
    style = Markup("text{font:11px system-ui,sans-serif;fill:#777}line{stroke:#8884}polyline{fill:none}")
    across, down = width * len(axes), _LEGEND + len(QUANTITIES) * height
    size = {"width": str(across), "height": str(down), "viewBox": f"0 0 {across} {down}"}
    return str(tag("svg", tag("style", style), *panels, xmlns="http://www.w3.org/2000/svg", **size))


def panel(
    title: str, unit: str, curves: Mapping[str, Curve], models: Sequence[str], width: int, height: int
) -> Markup:
    """A curve for every architecture, of the colour that its place among `models` has, over a grid."""
    parts = [tag("text", title, x=str(_LEFT), y="18")]
    points = [(length, value) for curve in curves.values() for length, value in curve.items()]
    if not points:
        return join([*parts, tag("text", "not measured", x=str(_LEFT), y="60")])
    lengths = sorted({length for length, _ in points})
    values = [value for _, value in points]
    decades = (10.0 ** math.floor(math.log10(min(values))), 10.0 ** math.ceil(math.log10(max(values))))
    across = _scale(lengths[0], lengths[-1], _LEFT, width - _RIGHT)
    down = _scale(*decades, height - _FOOT, _TOP)
    for length in lengths:
        x = f"{across(length):.1f}"
        parts += [
            tag("line", x1=x, x2=x, y1=str(_TOP), y2=str(height - _FOOT)),
            tag("text", f"{length:,}", x=x, y=str(height - _FOOT + 15), text_anchor="middle"),
        ]
    for value in _powers(*decades):
        y = f"{down(value):.1f}"
        parts += [
            tag("line", x1=str(_LEFT), x2=str(width - _RIGHT), y1=y, y2=y),
            tag("text", _short(value, unit), x=str(_LEFT - 6), y=f"{down(value) + 4:.1f}", text_anchor="end"),
        ]
    for name, curve in curves.items():
        places = [f"{across(x):.1f},{down(y):.1f}" for x, y in sorted(curve.items())]
        colour = _colour(models, name)
        parts.append(tag("polyline", points=" ".join(places), stroke=colour, stroke_width="1.5"))
        for place in places:
            x, _, y = place.partition(",")
            parts.append(tag("circle", cx=x, cy=y, r="2", fill=colour))
    return join(parts)


def _legend(models: Sequence[str]) -> Markup:
    """The names of the architectures beside their colours, in one line."""
    parts, x = [], _LEFT
    for name in models:
        colour = _colour(models, name)
        parts += [
            tag("line", x1=str(x), x2=str(x + 18), y1="16", y2="16", style=f"stroke:{colour};stroke-width:3"),
            tag("text", name, x=str(x + 24), y="20"),
        ]
        x += 48 + 7 * len(name)
    return tag("g", *parts)


def _colour(models: Sequence[str], name: str) -> str:
    return _COLOURS[models.index(name) % len(_COLOURS)]


def _powers(low: float, high: float) -> Iterator[float]:
    """Powers of ten from `low` to `high`, at most five of them and the last one."""
    first, last = round(math.log10(low)), round(math.log10(high))
    for exponent in range(first, last + 1, -(-(last - first) // 5) or 1):
        yield 10.0**exponent


def _short(power: float, unit: str) -> str:
    """A power of ten with its unit: '100 M', '10 ms'."""
    exponent = round(math.log10(power))
    thousands = 3 * (exponent // 3)
    return f"{10 ** (exponent - thousands)} {_PREFIXES[thousands]}{unit}".rstrip()


def _scale(low: float, high: float, first: float, last: float) -> Scale:
    """A function from values to px: `low` is at `first`, `high` at `last`, by their logarithms."""
    span = math.log(high / low) or 1.0
    return lambda value: first + (last - first) * math.log(value / low) / span
