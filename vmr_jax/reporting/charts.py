"""Curves over the training step, and tables with bars, as inline SVG.

Horizontal positions are percentages and vertical ones pixels, so that a drawing fills the width it is
given, on a phone or a desk, while its text keeps the size of the page. Curves, which cannot be written
in percentages, lie in a nested viewport of fixed units that is stretched. Colours are CSS classes of
vmr_jax/reporting/page.css, which also serve the dark scheme.
"""

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence

from vmr_jax.errors import is_number
from vmr_jax.reporting.markup import Markup, join, tag
from vmr_jax.reporting.scales import figure, number, share, ticks, ticks_around
from vmr_jax.reporting.tables import MISSING

PLOT_HEIGHT = 200  # px, of a line chart without its labels
CURVE_UNITS = 1000  # horizontal units of the stretched viewport
BAR = 14  # px, height of a bar


@dataclasses.dataclass(frozen=True)
class Series:
    """One curve.

    Attributes:
      label: its name in the legend.
      points: (step, value), in order of step. A value that is not finite interrupts the curve.
      style: CSS classes of the line.
    """

    label: str
    points: Sequence[tuple[float, float]]
    style: str


def line_chart(title: str, series: Sequence[Series], mark: tuple[float, str] | None = None) -> Markup:
    """Curves over the training step, with a legend, axes with round ticks and a title on hover.

    Args:
      title: heading, with the unit of the values.
      series: the curves; those without a finite value are left out.
      mark: (step, label) of a vertical line.
    """
    series = [s for s in series if _finite(s.points)]
    if not series:
        body = tag("p", "No value was recorded.", class_="none")
        return tag("figure", tag("figcaption", title), body, class_="chart")
    levels = ticks_around([y for s in series for _, y in _finite(s.points)])
    low, high = levels[0], levels[-1]
    end = max([x for s in series for x, _ in s.points] + ([mark[0]] if mark else [])) or 1

    def across(x):
        return x / end

    def down(y):
        return PLOT_HEIGHT * (high - y) / (high - low)

    drawing = tag(
        "svg",
        *_axes(levels, end, across, down),
        _mark(mark, across) if mark else None,
        tag(
            "svg",
            *(path for s in series for path in _paths(s, across, down)),
            viewBox=f"0 0 {CURVE_UNITS} {PLOT_HEIGHT}",
            preserveAspectRatio="none",
            width="100%",
            height=PLOT_HEIGHT,
        ),
        *(dot for s in series for dot in _dots(s, across, down)),
        *_hover(series, end, across),
        width="100%",
        height=PLOT_HEIGHT,
        role="img",
        aria_label=f"{title}: {', '.join(s.label for s in series)}",
    )
    names = [tag("li", _swatch(s.style), s.label) for s in series]
    return tag(
        "figure",
        tag("figcaption", title),
        tag("div", drawing, class_="plot"),
        tag("ul", *names, class_="legend") if len(names) > 1 else None,
        class_="chart",
    )


def _finite(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    return [point for point in points if is_number(point[1])]


def _axes(levels, end, across, down) -> list[Markup]:
    parts = []
    for y in levels:
        at = number(down(y))
        parts.append(tag("line", class_="base" if y == levels[0] else "grid", x1="0", x2="100%", y1=at, y2=at))
        parts.append(tag("text", figure(y), x="-8", y=at, dy="0.35em", text_anchor="end"))
    for x in ticks(0, end, 5):
        at = share(across(x))
        parts.append(tag("line", class_="base", x1=at, x2=at, y1=PLOT_HEIGHT, y2=PLOT_HEIGHT + 4))
        parts.append(tag("text", figure(x), x=at, y=PLOT_HEIGHT + 18, text_anchor="middle"))
    parts.append(tag("text", "step", x="100%", y=PLOT_HEIGHT + 34, text_anchor="end"))
    return parts


def _mark(mark, across) -> Markup:
    step, label = mark
    at = share(across(step))
    anchor = "end" if across(step) > 0.5 else "start"
    return tag(
        "g",
        tag("line", class_="mark", x1=at, x2=at, y1="-4", y2=PLOT_HEIGHT),
        tag("text", label, class_="strong", x=at, y="-8", text_anchor=anchor),
    )


def _paths(series: Series, across, down) -> list[Markup]:
    paths, run = [], []
    for x, y in [*series.points, (0.0, math.nan)]:
        if is_number(y):
            run.append(f"{number(CURVE_UNITS * across(x))} {number(down(y))}")
            continue
        if len(run) > 1:
            paths.append(
                tag("path", class_=series.style, d="M" + "L".join(run), vector_effect="non-scaling-stroke")
            )
        run = []
    return paths


def _dots(series: Series, across, down) -> list[Markup]:
    """A dot per point where they are few, or where the point has no neighbour to be joined to."""
    points = [(x, y if is_number(y) else None) for x, y in series.points]
    dots = []
    for i, (x, y) in enumerate(points):
        near = points[max(i - 1, 0) : i] + points[i + 1 : i + 2]
        if y is not None and (len(points) <= 25 or all(other is None for _, other in near)):
            dots.append(tag("circle", class_=series.style, cx=share(across(x)), cy=number(down(y)), r="2.5"))
    return dots


def _hover(series: Sequence[Series], end: float, across) -> list[Markup]:
    """One transparent band per step, whose title lists every curve's value there."""
    values: dict[float, list[str]] = {}
    for s in series:
        for x, y in s.points:
            values.setdefault(x, []).append(f"{s.label} {figure(y) if is_number(y) else MISSING}")
    steps = sorted(values)
    edges = [(a + b) / 2 for a, b in itertools.pairwise(steps)]
    bands = []
    for x, left, right in zip(steps, [0, *edges], [*edges, end]):
        at, start, width = share(across(x)), share(across(left)), share(across(right) - across(left))
        bands.append(
            tag(
                "g",
                tag("title", "\n".join([f"step {x}", *values[x]])),
                tag("rect", x=start, y="0", width=width, height=PLOT_HEIGHT),
                tag("line", x1=at, x2=at, y1="0", y2=PLOT_HEIGHT),
                class_="hover",
            )
        )
    return bands


def _swatch(style: str) -> Markup:
    line = tag("line", class_=style, x1="0", x2="24", y1="5", y2="5")
    return tag("svg", line, width="24", height="10", aria_hidden="true")


def bar_table(title: str, groups: Sequence[Mapping], metric: str, overall: float | None) -> Markup:
    """A table of groups, each with a bar of `metric` in percent of 100, its value and its count.

    Args:
      title: what the groups divide.
      groups: {'label', 'count', 'metrics'} each.
      metric: name of the metric.
      overall: its value over all groups, drawn as a line; None for none.
    """
    rows = [_bar_row(group, metric, overall) for group in groups]
    columns = [tag("col", class_=name) for name in ("label", None, "value", "value")]
    head = tag(
        "tr",
        tag("th", title, scope="col", colspan=2),
        tag("th", "%", scope="col", class_="figure"),
        tag("th", "queries", scope="col", class_="figure"),
    )
    return tag("table", tag("colgroup", *columns), tag("thead", head), tag("tbody", *rows), class_="bars")


def _bar_row(group: Mapping, metric: str, overall: float | None) -> Markup:
    value = group["metrics"].get(metric)
    written = f"{value:.2f}" if is_number(value) else MISSING
    bar = line = None
    if is_number(value):
        bar = tag("rect", class_="bar", x="0", y="0", width=share(min(value, 100) / 100), height=BAR)
    if is_number(overall):
        at = share(overall / 100)
        line = join(tag("line", class_=c, x1=at, x2=at, y1="-3", y2=BAR + 3) for c in ("gap", "all"))
    drawing = tag(
        "svg",
        tag("title", f"{group['label']}: {metric} {written}, {group['count']} queries"),
        tag("rect", class_="track", x="0", y="0", width="100%", height=BAR),
        bar,
        line,
        width="100%",
        height=BAR,
    )
    return tag(
        "tr",
        tag("th", group["label"], scope="row"),
        tag("td", drawing),
        tag("td", written, class_="figure"),
        tag("td", f"{group['count']}", class_="figure"),
    )
