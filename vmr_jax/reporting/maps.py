"""The strengths of a moment map, as a square of coloured cells."""

import math
from collections.abc import Sequence

import numpy as np

from vmr_jax.reporting.markup import Markup, join, legend, tag
from vmr_jax.reporting.scales import figure, number, ticks

LEVELS = 9  # colours of a score map; vmr_jax/reporting/page.css defines the classes h0..h8
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
    """A map as a square of coloured cells: row = start clip, column = end clip.

    Nine colours divide the range from the map's smallest to its largest strength. The cells nearest to the
    annotated moments are outlined; the one nearest to the first prediction is crossed.

    Args:
      scores: [N,N] strengths in [0,1], NaN where there is no candidate. The N clips divide the video equally.
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
        aria_label=f"Map of {n} by {n} clips",
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
                colour = colours[start]
                if colour is not None:
                    runs.setdefault(colour, []).append(f"M{start} {i}H{j}V{i + 1}H{start}Z")
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
        aria_label="colours from the lowest to the highest strength",
    )
    return tag("ul", tag("li", f"strength {low:.2f}", ramp, f"{high:.2f}"), class_="legend")


def map_legend() -> Markup:
    """Legend of the marks of a map; its colours have a legend of their own under each map."""
    truth = tag("rect", class_="outline", x="5", y="2", width="8", height="8")
    cross = tag("path", class_="cross", d="M5 2l8 8m0 -8l-8 8")
    nothing = tag("rect", class_="frame", x="0.5", y="1.5", width="17", height="9")
    return legend([(truth, "annotated cell"), (cross, "cell of prediction 1"), (nothing, "no candidate")])
