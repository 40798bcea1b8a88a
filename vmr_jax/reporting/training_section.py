"""The section 'Training' of a report: its curves and its speed."""

import math
import statistics
from collections.abc import Mapping, Sequence

from vmr_jax.errors import is_number
from vmr_jax.reporting import tables
from vmr_jax.reporting.charts import Series, line_chart
from vmr_jax.reporting.markup import Markup, tag
from vmr_jax.reporting.run_files import Run
from vmr_jax.reporting.scales import figure

MAX_POINTS = 150  # of a curve; more are averaged, so that the page stays small and its titles can be hit
_SPEEDS = {
    "steps_per_second": "steps/s",
    "examples_per_second": "examples/s",
    "compile_seconds": "s for the first step with its compilation",
}


def training(run: Run) -> list[Markup]:
    """Curves of the losses, the validation metrics, the learning rate and the gradient norm; the speed."""
    curves = _curves(run.metrics)
    if not curves:
        return [tag("p", "metrics.jsonl holds no value.", class_="none")]
    charts = [_loss_chart(curves), _validation_chart(run, curves)]
    for key, title in (("train/learning_rate", "Learning rate"), ("train/grad_norm", "Gradient norm")):
        if key in curves:
            charts.append(line_chart(title, [Series(title.lower(), _thinned(curves[key]), "line total")]))
    return [tag("div", *charts, class_="charts"), *_training_notes(run, curves)]


def _curves(records: Sequence[Mapping]) -> dict[str, list[tuple[float, float]]]:
    """Points (step, value) per key, in order of step; of two records of one step the later counts."""
    curves: dict[str, dict] = {}
    for record in records:
        for key, value in record.items():
            if "/" in key:
                curves.setdefault(key, {})[record["step"]] = value if is_number(value) else math.nan
    return {key: sorted(points.items()) for key, points in curves.items()}


def _group_size(points: Sequence) -> int:
    return math.ceil(len(points) / MAX_POINTS)


def _thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most MAX_POINTS points: means of equal groups of neighbours, each at the last step of its group.

    A group with a value that is not finite is not finite, so that a gap stays visible.
    """
    size = _group_size(points)
    groups = [points[i : i + size] for i in range(0, len(points), size)]
    return [(group[-1][0], sum(value for _, value in group) / len(group)) for group in groups]


def _terms(curves: Mapping) -> list[str]:
    other = ("train/loss", "train/learning_rate", "train/grad_norm")
    return [key for key in curves if key.startswith("train/") and key not in other]


def _is_loss(key: str, curves: Mapping) -> bool:
    """True for a loss or one of its terms, on the training split or another."""
    name = key.split("/", 1)[1]
    return name == "loss" or f"train/{name}" in _terms(curves)


def _loss_chart(curves: Mapping) -> Markup:
    series = [
        Series(key.removeprefix("train/"), _thinned(curves[key]), f"line s{i % 8}")
        for i, key in enumerate(_terms(curves))
    ]
    for key in curves:
        if key == "train/loss":
            series.insert(0, Series("loss", _thinned(curves[key]), "line total"))
        elif key.endswith("/loss"):
            series.append(Series(key.replace("/", " "), curves[key], "line held dash1"))
    return line_chart("Loss and its terms", series)


def _validation_chart(run: Run, curves: Mapping) -> Markup | None:
    keys = [key for key in curves if not key.startswith("train/") and not _is_loss(key, curves)]
    if not keys:
        return None
    prefixes = {key.split("/", 1)[0] for key in keys}
    names = [key.split("/", 1)[1] for key in keys]
    series = [
        Series(name if len(prefixes) == 1 else key, curves[key], f"line {style}")
        for key, name, style in zip(keys, names, _metric_styles(names))
    ]
    title = f"Metrics on {' and '.join(sorted(prefixes))}, %"
    best = run.results.get("best_step")
    mark = (best, f"best step {best}") if is_number(best) else None
    return line_chart(title, series, mark)


def _metric_styles(names: Sequence[str]) -> list[str]:
    """A colour per IoU threshold and a dash per n of R@n; other metrics take the colours that are left."""
    headings = [tables.column_heading(name) for name in names]
    thresholds = sorted({under for over, under in headings if over})
    depths = sorted({over for over, _ in headings if over}, key=lambda over: int(over.split("@")[1]))
    rest = [under for over, under in headings if not over]
    return [
        f"s{thresholds.index(under) % 8} dash{depths.index(over) % 3}"
        if over
        else f"s{(len(thresholds) + rest.index(under)) % 8}"
        for over, under in headings
    ]


def _training_notes(run: Run, curves: Mapping) -> list[Markup]:
    notes = []
    size = max(_group_size(points) for key, points in curves.items())
    if size > 1:
        notes.append(f"Each point of a training curve is the mean of up to {size} records.")
    speed = [
        f"{figure(statistics.median(values))} {unit}"
        for key, unit in _SPEEDS.items()
        if (values := [row[key] for row in run.timing if is_number(row.get(key))])
    ]
    if speed:
        notes.append(f"Median of {len(run.timing)} timing records: {', '.join(speed)}.")
    return [tag("p", " ".join(notes), class_="caption")] if notes else []
