"""The curves of `growth.py` as a picture: seconds of a step, or its operations, over each length."""

import math
from collections.abc import Mapping, Sequence

from vmr_jax.reporting.markup import Markup, join, tag

_LEFT, _RIGHT, _TOP, _FOOT = 56, 96, 30, 34  # px around the plot of a panel
_COLOURS = ("#c33", "#36c", "#393", "#939", "#c83", "#099", "#555", "#a06")
Row = Mapping[str, str]


def picture(rows: Sequence[Row], width: int = 420, height: int = 300) -> str:
    """An SVG with a panel for each axis and quantity that was measured; both scales are logarithmic.

    Args:
      rows: of the output of `growth.py`; of the same point the last counts.
      width: px of a panel.
      height: px of a panel.
    """
    axes = list(dict.fromkeys(row["axis"] for row in rows))
    models = list(dict.fromkeys(row["model"] for row in rows))
    panels = []
    for line, what in enumerate(("operations", "temporary_bytes", "seconds")):
        for place, axis in enumerate(axes):
            curves: dict[str, dict[int, float]] = {}
            for row in rows:
                if row["axis"] == axis and row[what]:
                    curves.setdefault(row["model"], {})[int(row["length"])] = float(row[what])
            title = f"{what.replace('_', ' ')} of a step over {axis}"
            drawn = panel(title, curves, models, width, height)
            panels.append(tag("g", drawn, transform=f"translate({place * width},{line * height})"))
    style = Markup("text{font:11px system-ui,sans-serif;fill:#777}.axis{stroke:#888}polyline{fill:none}")
    size = {"width": str(width * len(axes)), "height": str(3 * height)}
    return str(tag("svg", tag("style", style), *panels, xmlns="http://www.w3.org/2000/svg", **size))


def panel(
    title: str, curves: Mapping[str, Mapping[int, float]], models: Sequence[str], width: int, height: int
) -> Markup:
    """A curve with its name for every architecture, of the colour that its place among `models` has."""
    parts = [tag("text", title, x=str(_LEFT), y="16")]
    points = [(length, value) for curve in curves.values() for length, value in curve.items()]
    if not points:
        return join([*parts, tag("text", "not measured", x=str(_LEFT), y="60")])
    across = _scale([length for length, _ in points], _LEFT, width - _RIGHT)
    down = _scale([value for _, value in points], height - _FOOT, _TOP)
    for length in sorted({length for length, _ in points}):
        parts.append(tag("text", str(length), x=f"{across(length):.1f}", y=str(height - _FOOT + 16)))
    for value in (min(value for _, value in points), max(value for _, value in points)):
        parts.append(tag("text", f"{value:.2g}", x="4", y=f"{down(value) + 4:.1f}"))
    for name, curve in curves.items():
        colour = _COLOURS[models.index(name) % len(_COLOURS)]
        places = [(across(length), down(value)) for length, value in sorted(curve.items())]
        drawn = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        x, y = places[-1]
        parts += [
            tag("polyline", points=drawn, stroke=colour),
            tag("text", name, x=f"{x + 5:.1f}", y=f"{y + 4:.1f}", style=f"fill:{colour}"),
        ]
    return join(parts)


def _scale(values: Sequence[float], first: float, last: float):
    """A function from values to px: the least at `first`, the largest at `last`, by their logarithms."""
    low, high = math.log(min(values)), math.log(max(values))
    return lambda value: first + (last - first) * (math.log(value) - low) / (high - low or 1.0)
