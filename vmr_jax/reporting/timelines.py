"""Moments on the time axis of their video, as inline SVG.

Horizontal positions are percentages and vertical ones pixels, so that a drawing fills the width it is
given, on a phone or a desk, while its text keeps the size of the page. Colours are CSS
classes of vmr_jax/reporting/page.css.
"""

import math
from collections.abc import Sequence

import numpy as np

from vmr_jax.errors import is_number
from vmr_jax.reporting.markup import Markup, legend, tag
from vmr_jax.reporting.scales import figure, number, share, ticks
from vmr_jax.reporting.tables import MISSING

ROW = 24  # px, one row of a timeline
CLIP_ROW = 44  # px, the row with the strengths of the clips
BAR = 14  # px, height of a bar
TOP = 5  # predicted moments drawn


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
    """The annotated moments, the strengths of the clips and the five best predictions on one time axis.

    Args:
      duration: length of the video, seconds; the width of the drawing.
      windows: annotated (start, end), seconds.
      moments: predicted (start, end, score), best first; the score is of the architecture's own scale.
      clips: [T] strengths in [0,1], the clips dividing the video equally; NaN interrupts the curve.
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
    """Steps, one per clip, over a filled ground: the strength is the clip's, not of an instant."""
    areas = []
    for i, strength in enumerate(clips):
        if math.isfinite(strength):
            y = height * (1 - min(max(float(strength), 0.0), 1.0))
            areas.append(f"M{i} {number(height)}V{number(y)}H{i + 1}V{number(height)}Z")
    return tag(
        "svg",
        tag("title", f"strength of each of the {len(clips)} clips, from 0 to 1"),
        tag("rect", class_="track", x="0", y="0", width=len(clips), height=number(height)),
        tag("path", class_="clip", d="".join(areas)),
        y=top,
        width="100%",
        height=height,
        viewBox=f"0 0 {len(clips)} {number(height)}",
        preserveAspectRatio="none",
    )


def timeline_legend() -> Markup:
    """Legend of the bars of a timeline."""
    truth = tag("rect", class_="truth", x="0", y="1", width="18", height="10", rx="2")
    moment = tag("rect", class_="predicted", x="0", y="1", width="18", height="10", rx="2")
    return legend([(truth, "annotated"), (moment, f"predicted, at most {TOP}; the lower the score, the paler")])
