"""Drawings of the report as inline SVG, and the markup they are made of.

Horizontal positions are percentages and vertical ones pixels, so that a drawing fills the width it is
given, on a phone or a desk, while its text keeps the size of the page. Curves, which cannot be written
in percentages, lie in a nested viewport of fixed units that is stretched. Colours are CSS classes of
the page (vmr_jax/reporting/page.py), which also serve the dark scheme.
"""

import dataclasses
import html
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from vmr_jax.reporting.tables import MISSING, is_number

PLOT_HEIGHT = 200  # px, of a line chart without its labels
CURVE_UNITS = 1000  # horizontal units of the stretched viewport
ROW = 24  # px, one row of a timeline
CLIP_ROW = 44  # px, the row with the scores of the clips
BAR = 14  # px, height of a bar
LEVELS = 9  # colours of a score map; the page defines the classes h0..h8
TOP = 5  # predicted moments drawn
_EMPTY = frozenset({"circle", "col", "line", "meta", "path", "rect"})


class Markup(str):
    """Text that is HTML already and is not escaped again."""


def tag(name: str, /, *children: str | None, **attributes: object) -> Markup:
    """One element. Children that are not Markup, and all attribute values, are escaped.

    Attribute names: `class_` is class, `stroke_width` is stroke-width; one that is None is left out.
    """
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in _EMPTY and not children:
        return Markup(f"<{name}{written}/>")
    return Markup(f"<{name}{written}>{join(children)}</{name}>")


def join(parts: Iterable[str | None]) -> Markup:
    """The parts one after another, escaped unless Markup; None is nothing."""
    return Markup("".join(p if isinstance(p, Markup) else html.escape(str(p)) for p in parts if p is not None))


def number(value: float) -> str:
    """A coordinate with at most two decimals: 12.5, 40, 0.33."""
    return f"{round(value, 2) + 0.0:.8g}"  # adding 0 makes -0 a 0


def share(value: float) -> str:
    """A fraction as a percentage of the width: 0.125 is 12.5%."""
    return f"{number(100 * value)}%"


def figure(value: float) -> str:
    """A value for a label: at most four digits, thousands as k, millions as M."""
    for size, suffix, unit in ((1e6, "M", 1e6), (1e4, "k", 1e3)):
        if abs(value) >= size:
            return f"{value / unit:.4g}{suffix}"
    return f"{value + 0.0:.4g}"


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About `count` round numbers (multiples of 1, 2 or 5 times a power of ten) inside [low, high]."""
    step = _step(low, high, count)
    return _multiples(step, math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9))


def ticks_around(values: Sequence[float], count: int = 5) -> list[float]:
    """Round numbers of which the first and the last enclose `values`: a vertical axis.

    It begins at zero, unless the values are negative or vary by less than a quarter of the largest.
    """
    low, high = min(values), max(values)
    if low >= 0 and (high - low >= 0.25 * high or low == high):
        low = 0.0
    if low == high:
        low, high = (0.0, 1.0) if low == 0 else (low, 0.0)
    step = _step(low, high, count)
    return _multiples(step, math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9))


def _step(low: float, high: float, count: int) -> float:
    """The smallest of 1, 2, 5 times a power of ten that is at least (high - low) / count."""
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    return next(m * power for m in (1, 2, 5, 10) if m * power >= rough * (1 - 1e-9))


def _multiples(step: float, first: int, last: int) -> list[float]:
    return [float(f"{i * step:.12g}") for i in range(first, last + 1)]


# --- Curves -------------------------------------------------------------------------------------------


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


# --- Bars ---------------------------------------------------------------------------------------------


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


# --- Moments ------------------------------------------------------------------------------------------


def best_iou(span: Sequence[float], windows: Sequence[Sequence[float]]) -> float:
    """The largest temporal IoU of `span` (start, end) with any of `windows`; 0 where there is none."""
    best = 0.0
    for start, end, *_ in windows:
        overlap = max(0.0, min(span[1], end) - max(span[0], start))
        union = (span[1] - span[0]) + (end - start) - overlap
        best = max(best, overlap / union if union > 0 else 0.0)
    return best


def timeline(
    duration: float,
    windows: Sequence[Sequence[float]],
    moments: Sequence[Sequence[float]],
    clips: np.ndarray | None = None,
) -> Markup:
    """The annotated moments, the scores of the clips and the five best predictions on one time axis.

    Args:
      duration: length of the video, seconds; the width of the drawing.
      windows: annotated (start, end), seconds.
      moments: predicted (start, end, score), best first.
      clips: [T] scores in [0,1], the clips dividing the video equally; NaN interrupts the curve.
    """
    moments = moments[:TOP]
    first = ROW + (0 if clips is None else CLIP_ROW)
    height = first + ROW * len(moments)
    parts = [*_time_axis(duration, height), _row_label("annotated", ROW / 2)]
    parts += [_moment(w, duration, 0, f"annotated {_seconds(w)}", class_="truth") for w in windows]
    if clips is not None:
        parts += [_row_label("clips", ROW + CLIP_ROW / 2), _clip_curve(clips, ROW + 4, CLIP_ROW - 8)]
    if moments:
        parts += _beside("score", "IoU", -10, None)
    opacities = _opacities([moment[2] for moment in moments])
    for i, (moment, opacity) in enumerate(zip(moments, opacities)):
        top, score, overlap = first + ROW * i, _score(moment[2]), f"{best_iou(moment, windows):.2f}"
        title = f"predicted {i + 1}: {_seconds(moment)}, score {score}, IoU {overlap}"
        parts.append(_row_label(f"predicted {i + 1}" if i == 0 else f"{i + 1}", top + ROW / 2))
        parts.append(_moment(moment, duration, top, title, class_="predicted", fill_opacity=opacity))
        parts += _beside(score, overlap, top + ROW / 2, "strong" if i == 0 else None)
    name = "; ".join(f"annotated {_seconds(w)}" for w in windows)
    best = f"best prediction {_seconds(moments[0])}" if moments else "no prediction"
    drawing = tag("svg", *parts, width="100%", height=height, role="img", aria_label=f"{name}; {best}")
    return tag("div", drawing, class_="timeline")


def _score(value: float | None) -> str:
    if not is_number(value):
        return MISSING
    return f"{value:.2f}" if value == 0 or abs(value) >= 0.01 else f"{value:.0e}"


def _beside(score: str, overlap: str, middle: float, style: str | None) -> list[Markup]:
    """The two columns of text to the right of a timeline."""
    return [
        tag("text", text, x="100%", y=number(middle), dx=dx, dy="0.35em", text_anchor="end", class_=style)
        for text, dx in ((score, 44), (overlap, 84))
    ]


def _seconds(span: Sequence[float]) -> str:
    return f"{span[0]:.1f}–{span[1]:.1f} s"


def _row_label(text: str, middle: float) -> Markup:
    return tag("text", text, x="-8", y=number(middle), dy="0.35em", text_anchor="end")


def _moment(span, duration: float, top: float, title: str, **attributes) -> Markup:
    """A bar over the part of `span` that lies in the video; its title says the whole span."""
    start, end = (min(max(t / duration, 0.0), 1.0) for t in span[:2])
    return tag(
        "rect",
        tag("title", title),
        x=share(start),
        y=number(top + (ROW - BAR) / 2),
        width=share(max(end - start, 0.0)),
        height=BAR,
        rx="2",
        **attributes,
    )


def _opacities(scores: Sequence[float]) -> list[str]:
    """Between 0.3 and 1, linear in the score, so that any scale of scores can be told apart."""
    known = [s for s in scores if is_number(s)]
    low, high = min(known, default=0.0), max(known, default=0.0)
    spread = (high - low) or 1.0
    return [number(1 - 0.7 * (high - s) / spread if is_number(s) else 0.3) for s in scores]


def _time_axis(duration: float, height: float) -> list[Markup]:
    parts = []
    for t in ticks(0, duration, 6):
        at = share(t / duration)
        parts.append(tag("line", class_="grid", x1=at, x2=at, y1="0", y2=height))
        if t <= 0.95 * duration:  # the end has a label of its own
            parts.append(tag("text", figure(t), x=at, y=height + 16, text_anchor="middle"))
    parts.append(tag("line", class_="base", x1="0", x2="100%", y1=height, y2=height))
    parts.append(tag("line", class_="base", x1="100%", x2="100%", y1="0", y2=height))
    parts.append(tag("text", f"{duration:.1f} s", x="100%", y=height + 16, dx="6"))
    return parts


def _clip_curve(clips: np.ndarray, top: float, height: float) -> Markup:
    """Steps, one per clip, over a filled ground: the score is the clip's, not of an instant."""
    areas = []
    for i, score in enumerate(clips):
        if math.isfinite(score):
            y = height * (1 - min(max(float(score), 0.0), 1.0))
            areas.append(f"M{i} {number(height)}V{number(y)}H{i + 1}V{number(height)}Z")
    return tag(
        "svg",
        tag("title", f"score of each of the {len(clips)} clips, from 0 to 1"),
        tag("rect", class_="track", x="0", y="0", width=len(clips), height=number(height)),
        tag("path", class_="clip", d="".join(areas)),
        y=top,
        width="100%",
        height=height,
        viewBox=f"0 0 {len(clips)} {number(height)}",
        preserveAspectRatio="none",
    )


# --- Score maps ---------------------------------------------------------------------------------------

MAP_SIZE = 176  # px


def trimmed(scores: np.ndarray) -> np.ndarray:
    """Scores [T] or [N,N] without the last clips that have none in any moment: they are padding."""
    scores = np.asarray(scores, np.float64)
    known = [axis.max(initial=-1) for axis in np.nonzero(np.isfinite(scores))]
    size = max(known, default=-1) + 1
    return scores[(slice(size),) * scores.ndim]


def nearest_cell(span: Sequence[float], duration: float, n: int) -> tuple[int, int]:
    """(start clip, end clip) of the cell with the largest IoU with `span`; ties: the first.

    Cell (i, j), i <= j, is the moment from i to j + 1, in units of duration / n.
    """
    start, end = np.arange(n)[:, None], np.arange(1, n + 1)[None, :]
    a, b = (np.clip(t / duration, 0, 1) * n for t in span[:2])
    overlap = np.clip(np.minimum(end, b) - np.maximum(start, a), 0, None)
    union = (end - start) + (b - a) - overlap
    score = np.where(end > start, overlap / np.where(union > 0, union, 1), -1.0)
    # Rounding keeps exact ties ties.
    row, column = np.unravel_index(np.argmax(np.round(score, 9)), score.shape)
    return int(row), int(column)


def heat_map(
    scores: np.ndarray,
    duration: float,
    windows: Sequence[Sequence[float]],
    moments: Sequence[Sequence[float]],
) -> Markup:
    """A score map as a square of coloured cells: row = start clip, column = end clip.

    Nine colours divide the range from the map's smallest to its largest score. The cells nearest to the
    annotated moments are outlined; the one nearest to the first prediction is crossed.

    Args:
      scores: [N,N], NaN where there is no candidate. The N clips divide the video equally.
      duration: seconds.
      windows: annotated (start, end).
      moments: predicted (start, end, score), best first.
    """
    n = scores.shape[0]
    known = scores[np.isfinite(scores)]
    low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 0.0)
    marks = [_outline(nearest_cell(w, duration, n), n) for w in windows]
    if moments:
        marks.append(_cross(nearest_cell(moments[0], duration, n), n))
    cells = tag(
        "svg",
        *_cells(scores, low, high),
        viewBox=f"0 0 {n} {n}",
        width=MAP_SIZE,
        height=MAP_SIZE,
        shape_rendering="crispEdges",
    )
    drawing = tag(
        "svg",
        tag("rect", class_="frame", x="0", y="0", width=MAP_SIZE, height=MAP_SIZE),
        cells,
        *marks,
        *_map_axes(duration),
        width=MAP_SIZE,
        height=MAP_SIZE,
        role="img",
        aria_label=f"Score map of {n} by {n} clips",
    )
    return tag("div", tag("div", drawing, class_="map"), _colours(low, high), class_="mapbox")


def level(score: float, low: float, high: float) -> int:
    """The colour of a score, 0..8: nine equal parts of [low, high]; 8 where low = high."""
    if high <= low:
        return LEVELS - 1
    return min(int(LEVELS * (score - low) / (high - low)), LEVELS - 1)


def _cells(scores: np.ndarray, low: float, high: float) -> list[Markup]:
    """One path per colour; neighbours of one colour in a row are one rectangle, which keeps it small."""
    n = scores.shape[0]
    runs: dict[int, list[str]] = {}
    for i in range(n):
        colours = [level(s, low, high) if math.isfinite(s) else None for s in scores[i]]
        start = 0
        for j in range(1, n + 1):
            if j == n or colours[j] != colours[start]:
                if colours[start] is not None:
                    runs.setdefault(colours[start], []).append(f"M{start} {i}H{j}V{i + 1}H{start}Z")
                start = j
    return [tag("path", class_=f"h{colour}", d="".join(runs[colour])) for colour in sorted(runs)]


def _outline(cell: tuple[int, int], n: int) -> Markup:
    size = MAP_SIZE / n
    pad = max((15 - size) / 2, 0)  # so that a small cell, and a cross on it, stay visible inside
    place = {"x": number(cell[1] * size - pad), "y": number(cell[0] * size - pad)}
    side = number(size + 2 * pad)
    return join(
        [
            tag("rect", class_="halo", **place, width=side, height=side),
            tag("rect", class_="outline", **place, width=side, height=side),
        ]
    )


def _cross(cell: tuple[int, int], n: int) -> Markup:
    size = MAP_SIZE / n
    x, y = (cell[1] + 0.5) * size, (cell[0] + 0.5) * size
    d = f"M{number(x - 5)} {number(y - 5)}l10 10m0 -10l-10 10"
    return join([tag("path", class_="halo", d=d), tag("path", class_="cross", d=d)])


def _map_axes(duration: float) -> list[Markup]:
    parts = []
    for t in ticks(0, duration, 3):
        at = MAP_SIZE * t / duration
        parts.append(tag("text", figure(t), x=number(at), y=MAP_SIZE + 15, text_anchor="middle"))
        parts.append(tag("text", figure(t), x="-6", y=number(at), dy="0.35em", text_anchor="end"))
    parts.append(tag("text", "end, s", x=MAP_SIZE, y=MAP_SIZE + 30, text_anchor="end"))
    parts.append(tag("text", "start, s", x="0", y="-6", text_anchor="start"))
    return parts


def _colours(low: float, high: float) -> Markup:
    ramp = tag(
        "svg",
        *(tag("rect", class_=f"h{i}", x=10 * i, y="0", width="10", height="10") for i in range(LEVELS)),
        width=10 * LEVELS,
        height="10",
        role="img",
        aria_label="colours from the lowest to the highest score",
    )
    return tag("ul", tag("li", f"score {low:.2f}", ramp, f"{high:.2f}"), class_="legend")


# --- Legends ------------------------------------------------------------------------------------------


def timeline_legend() -> Markup:
    """What the bars of a timeline are."""
    truth = tag("rect", class_="truth", x="0", y="1", width="18", height="10", rx="2")
    moment = tag("rect", class_="predicted", x="0", y="1", width="18", height="10", rx="2")
    return _legend(
        [(truth, "annotated"), (moment, f"predicted, at most {TOP}; the lower the score, the paler")]
    )


def map_legend() -> Markup:
    """What the marks of a score map are; its colours have a legend of their own under each map."""
    truth = tag("rect", class_="outline", x="5", y="2", width="8", height="8")
    cross = tag("path", class_="cross", d="M5 2l8 8m0 -8l-8 8")
    nothing = tag("rect", class_="frame", x="0.5", y="1.5", width="17", height="9")
    return _legend([(truth, "annotated cell"), (cross, "cell of prediction 1"), (nothing, "no candidate")])


def _legend(entries: Sequence[tuple[Markup, str]]) -> Markup:
    items = [
        tag("li", tag("svg", mark, width="18", height="12", aria_hidden="true"), text) for mark, text in entries
    ]
    return tag("ul", *items, class_="legend")
