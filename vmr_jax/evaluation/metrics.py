"""Metrics of every protocol of the field, on the host in float64. Nothing is divided twice.

R@n,IoU=m (Gao et al. 2017), mIoU, dR@n,IoU=m (Yuan et al. 2021), the ranking of 21 segments of DiDeMo and TEMPO
(Hendricks et al. 2017, 2018), moments in a corpus (TVR, Lei et al. 2020), several moments and highlights
(QVHighlights, Lei et al. 2021). Everything is in percent. Spans are seconds. All functions take every query at
once: Q queries, K ranked moments, A annotated moments, T clips, Z annotators of their saliency, I IoUs
at which a hit is asked for; padding is said where it is allowed.

Metrics of subsets of the queries come as `Groups`, name of the subset -> metrics; the first is the headline.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vmr_jax.errors import unknown

Groups = dict[str, dict[str, float]]

IOU_GRID = tuple(round(0.5 + 0.05 * i, 2) for i in range(10))  # .50, .55, ..., .95
LENGTHS = {"full": (0.0, math.inf), "short": (0.0, 10.0), "middle": (10.0, 30.0), "long": (30.0, 150.0)}
SALIENT = {"Fair": 2, "Good": 3, "VeryGood": 4}  # least score of a highlight
SEGMENTS = 21  # runs of the six chunks of a DiDeMo video
TASKS = ("VCMR", "SVMR", "VR")  # video corpus moment retrieval, single video, video retrieval


# --- one moment in a given video ------------------------------------------------------------------


def iou(a: np.ndarray, b: np.ndarray, dtype: type = np.float64) -> np.ndarray:
    """Temporal IoU of spans [...,2] with [...,2] (leading axes broadcast), 0 for an empty union.

    Intersection over hull, which is the union wherever the spans overlap, as most evaluators of the field
    compute it (2D-TAN, LGI, TVR): the rounding decides whether an IoU of m is a hit.
    """
    a, b = np.asarray(a, dtype), np.asarray(b, dtype)
    intersection = np.minimum(a[..., 1], b[..., 1]) - np.maximum(a[..., 0], b[..., 0])
    hull = np.maximum(a[..., 1], b[..., 1]) - np.minimum(a[..., 0], b[..., 0])
    return np.divide(np.maximum(intersection, 0), hull, out=np.zeros_like(hull), where=hull > 0)


def ranked_iou(spans: np.ndarray, scores: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """IoU [Q,K] of ranked moments [Q,K,2] with the annotated span [Q,2]; 0 where score is -inf."""
    return np.where(np.isfinite(scores), iou(spans, truth[:, None, :]), 0.0)


def hit(ious: np.ndarray, threshold: float, strict: bool) -> np.ndarray:
    """Which IoUs reach the threshold: > where strict (2D-TAN, DRN), >= otherwise (most others)."""
    return ious > threshold if strict else ious >= threshold


def retrieval_metrics(
    ious: np.ndarray, top_n: tuple[int, ...], thresholds: tuple[float, ...], strict: bool
) -> dict[str, float]:
    """R@n,IoU=m and mIoU in percent: the means of `retrieval_values`, which has the arguments."""
    values = retrieval_values(ious, top_n, thresholds, strict)
    return {name: 100.0 * _mean(column) for name, column in values.items()}


def retrieval_values(
    ious: np.ndarray, top_n: tuple[int, ...], thresholds: tuple[float, ...], strict: bool
) -> dict[str, np.ndarray]:
    """Per-query values of R@n,IoU=m and mIoU: a hit, or the IoU of the first moment; [Q] each.

    Args:
      ious: [Q,K] IoU of the moments of each query, best-scored first. A query with fewer than n moments
        simply has fewer chances.
      top_n: the n of R@n.
      thresholds: the m of IoU=m.
      strict: whether a hit needs IoU > m instead of IoU >= m.
    """
    values = {}
    for n in top_n:
        best = ious[:, :n].max(axis=1, initial=0.0)
        for m in thresholds:
            values[recall_name(n, m)] = hit(best, m, strict)
    return {**values, "mIoU": ious[:, 0]}


def recall_name(n: int, threshold: float) -> str:
    """The canonical name, 'R@1,IoU=0.5'."""
    return f"R@{n},IoU={threshold:g}"


def discounted_recall(
    spans: np.ndarray,
    ious: np.ndarray,
    truth: np.ndarray,
    durations: np.ndarray,
    top_n: tuple[int, ...],
    thresholds: tuple[float, ...],
    strict: bool,
) -> dict[str, float]:
    """dR@n,IoU=m in percent: the means of `discounted_values`, which has the arguments."""
    values = discounted_values(spans, ious, truth, durations, top_n, thresholds, strict)
    return {name: 100.0 * _mean(column) for name, column in values.items()}


def discounted_values(
    spans: np.ndarray,
    ious: np.ndarray,
    truth: np.ndarray,
    durations: np.ndarray,
    top_n: tuple[int, ...],
    thresholds: tuple[float, ...],
    strict: bool,
) -> dict[str, np.ndarray]:
    """A hit as (1 - |start error| / duration) (1 - |end error| / duration), else 0; [Q] of each dR@n,IoU=m.

    The pair is that of the best-ranked hit among the first n (Yuan et al. 2021; for n = 1 also CPL's code). An
    error longer than the video counts as its length.

    Args:
      spans: [Q,K,2] moments, best first.
      ious: [Q,K] their IoU (`ranked_iou`).
      truth: [Q,2] annotated spans.
      durations: [Q] seconds of the videos.
      top_n: the n of dR@n.
      thresholds: the m of IoU=m.
      strict: whether a hit needs IoU > m instead of IoU >= m.
    """
    errors = np.abs(np.asarray(spans, np.float64) - truth[:, None, :]) / durations[:, None, None]
    discount = np.maximum(1.0 - errors, 0.0).prod(axis=-1)  # [Q,K]
    values = {}
    for n in top_n:
        for m in thresholds:
            hits = hit(ious[:, :n], m, strict)
            first = np.take_along_axis(discount, hits.argmax(axis=1)[:, None], axis=1)[:, 0]
            values["d" + recall_name(n, m)] = np.where(hits.any(axis=1), first, 0.0)
    return values


def _mean(values: np.ndarray) -> float:
    return float(values.sum() / values.size) if values.size else float("nan")


# --- 21 segments: DiDeMo and TEMPO ----------------------------------------------------------------


def segment_values(
    ranking: np.ndarray, annotated: np.ndarray, top_n: tuple[int, ...] = (1, 5), agree: int = 3
) -> dict[str, np.ndarray]:
    """Rank@n and IoU [Q] of each query, by the consensus of its annotators.

    The rank of a query is the mean of its `agree` best ranks over the annotators, and Rank@n asks whether that
    is n or less; its IoU is the mean of the `agree` highest IoUs of the first segment. DiDeMo has four
    annotators or more, TEMPO three. A segment that is not ranked has rank 21.

    Args:
      ranking: [Q,K,2] int, first and last chunk (inclusive) of the segments, best first; -1 past the last.
      annotated: [Q,A,2] int, the same of every annotator; -1 past the last.
      top_n: the n of Rank@n.
      agree: how many annotators count.

    Source: Hendricks et al. 2017, "Localizing Moments in Video with Natural Language".
    """
    given = annotated[..., 0] >= 0
    same = (annotated[:, :, None] == ranking[:, None]).all(axis=-1)  # [Q,A,K]
    ranks = np.where(same.any(axis=-1), same.argmax(axis=-1) + 1, SEGMENTS)
    ious = iou(ranking[:, :1] + _INCLUSIVE, annotated + _INCLUSIVE)
    rank = _mean_of_lowest(np.where(given, ranks, np.nan), agree)
    values = {f"Rank@{n}": rank <= n for n in top_n}
    return {**values, "mIoU": -_mean_of_lowest(np.where(given, -ious, np.nan), agree)}


_INCLUSIVE = np.asarray([0, 1])  # chunks i to j, both inclusive, are the interval [i, j + 1]


def _mean_of_lowest(values: np.ndarray, count: int) -> np.ndarray:
    """Mean [Q] of the `count` lowest of [Q,A], or of all where there are fewer; NaN is padding."""
    return np.nanmean(np.sort(values, axis=1)[:, :count], axis=1)


def mean_by_type(values: Mapping[str, np.ndarray], types: Sequence[str] = ()) -> Groups:
    """Means in percent of per-query values [Q]: 'all', then each type of query in order of appearance."""
    members: dict[str, Any] = {"all": slice(None)}
    members |= {kind: np.asarray([t == kind for t in types]) for kind in dict.fromkeys(types)}
    return {
        group: {name: 100.0 * _mean(column[member]) for name, column in values.items()}
        for group, member in members.items()
    }


def mean_over_types(values: Mapping[str, np.ndarray], types: Sequence[str]) -> Groups:
    """As `mean_by_type`, but the headline is the unweighted mean of the types (TEMPO)."""
    groups = mean_by_type(values, types)
    del groups["all"]
    mean = {name: _mean(np.asarray([group[name] for group in groups.values()])) for name in values}
    return {"mean over types": mean, **groups}


# --- a corpus: TVR --------------------------------------------------------------------------------


def corpus_values(
    task: str,
    right: np.ndarray,
    spans: np.ndarray,
    windows: np.ndarray,
    top_n: tuple[int, ...] = (1, 5, 10, 100),
    thresholds: tuple[float, ...] = (0.5, 0.7),
    strict: bool = False,
) -> dict[str, np.ndarray]:
    """Which queries [Q] find their moment, or video, among the first n.

    VCMR: the right video and IoU >= m. SVMR: the same after the moments of other videos are removed. VR: the
    right video. Where a query has four annotated moments or more (DiDeMo), two of them must be met.

    Args:
      task: one of `TASKS`.
      right: [Q,K] whether a moment is of the query's video; False past the last.
      spans: [Q,K,2] seconds, best first.
      windows: [Q,A,2] annotated moments, zeros past the last.
      top_n: the n of R@n.
      thresholds: the m of IoU=m.
      strict: whether a hit needs IoU > m instead of IoU >= m, as theirs.

    Source: Lei et al. 2020, "TVR: A Large-Scale Dataset for Video-Subtitle Moment Retrieval". Their evaluator
    computes in float32, which decides ties at a threshold, so this does too.
    """
    if task == "VR":
        return {f"VR-R@{n}": np.any(right[:, :n], axis=1) for n in top_n}
    place = np.cumsum(right, axis=1) if task == "SVMR" else 1 + np.arange(right.shape[1])[None]
    needed = np.where((_length(windows) > 0).sum(axis=1) >= 4, 2, 1)
    ious = iou(spans[:, :, None], windows[:, None], np.float32)  # [Q,K,A]
    values = {}
    for m in thresholds:
        met = right & (hit(ious, m, strict).sum(axis=-1) >= needed[:, None])
        for n in top_n:
            values[f"{task}-{recall_name(n, m)}"] = (met & (place <= n)).any(axis=1)
    return values


def _length(spans: np.ndarray) -> np.ndarray:
    return spans[..., 1] - spans[..., 0]


# --- several moments and highlights: QVHighlights -------------------------------------------------


def detection_metrics(spans: np.ndarray, scores: np.ndarray, windows: np.ndarray, keep: int = 10) -> Groups:
    """R@1,IoU=m and mAP of several annotated moments, for all of them and by their length.

    R@1: IoU of the first moment with the annotated one it meets best, >= m. mAP: the first `keep` moments are
    sorted by score and matched one to one, each with the free annotated moment of highest IoU >= m;
    interpolated average precision as in VOC 2011; mean over queries. 'mAP' alone is the mean over the ten
    thresholds. 'short' (0,10], 'middle' (10,30] and 'long' (30,150] seconds keep the annotated moments of that
    length and the queries that have one; predictions stay.

    Args:
      spans: [Q,K,2] seconds, best first.
      scores: [Q,K], -inf past the last moment.
      windows: [Q,A,2] annotated moments, zeros past the last.
      keep: how many moments count for mAP.

    Source: Lei et al. 2021, "QVHighlights: Detecting Moments and Highlights in Videos via Natural Language
    Queries".
    """
    length = _length(np.asarray(windows, np.float64))
    groups = {}
    for group, (low, high) in LENGTHS.items():
        member = (length > low) & (length <= high)
        rows = member.any(axis=1)
        values = detection_values(
            spans[rows], scores[rows], np.where(member[..., None], windows, 0.0)[rows], keep
        )
        groups[group] = {name: 100.0 * _mean(column) for name, column in values.items()}
    return groups


def detection_values(
    spans: np.ndarray, scores: np.ndarray, windows: np.ndarray, keep: int = 10
) -> dict[str, np.ndarray]:
    """Per-query values [Q] of R@1,IoU=m and mAP; `detection_metrics` gives their means and the arguments."""
    spans, windows = np.asarray(spans, np.float64), np.asarray(windows, np.float64)
    given = _length(windows) > 0  # [Q,A]
    first = np.where(np.isfinite(scores[:, :1]) & given, iou(spans[:, :1], windows), 0.0)
    order = np.argsort(-scores[:, :keep], axis=1, kind="stable")
    spans, scores = spans[np.arange(len(spans))[:, None], order], np.take_along_axis(scores, order, axis=1)
    ious = _iou_by_lengths(spans[:, :, None], windows[:, None])  # [Q,K,A]
    ious = np.where(np.isfinite(scores)[:, :, None] & given[:, None], ious, 0.0)
    precisions = _average_precision(ious, given.sum(axis=1))  # [Q,I]
    top = first.max(axis=1, initial=0.0)
    return {
        **{recall_name(1, m): top >= m for m in IOU_GRID},
        **{f"mAP,IoU={m:g}": column for m, column in zip(IOU_GRID, precisions.T)},
        "mAP": precisions.mean(axis=1),
    }


def _iou_by_lengths(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """`iou` with the union as the sum of lengths less the intersection: the rounding of the official mAP."""
    intersection = np.minimum(a[..., 1], b[..., 1]) - np.maximum(a[..., 0], b[..., 0])
    intersection = np.maximum(intersection, 0.0)
    union = _length(a) + _length(b) - intersection
    return np.divide(intersection, union, out=np.zeros_like(union), where=union > 0)


def _average_precision(ious: np.ndarray, count: np.ndarray) -> np.ndarray:
    """[Q,I] average precision at each IoU of the grid.

    Args:
      ious: [Q,K,A] of the moments in rank order with the annotated ones; 0 where there is no such pair.
      count: [Q] number of annotated moments.
    """
    found = _matched(ious)  # [Q,I,K]
    hits = found.cumsum(axis=-1)
    precision = hits / np.arange(1, ious.shape[1] + 1)
    envelope = np.maximum.accumulate(precision[..., ::-1], axis=-1)[..., ::-1]
    return (envelope * found).sum(axis=-1) / count[:, None]


def _matched(ious: np.ndarray) -> np.ndarray:
    """[Q,I,K] whether each moment, in rank order, takes a free annotated moment at each IoU of the grid."""
    ious = ious[..., ::-1]  # of equal IoUs the last annotated moment is taken
    grid = np.asarray(IOU_GRID)[:, None]
    free = np.ones((len(ious), len(IOU_GRID), ious.shape[2]), bool)
    found = np.zeros((len(ious), len(IOU_GRID), ious.shape[1]), bool)
    for k in range(ious.shape[1]):
        near = ious[:, k, None, :]  # [Q,1,A]
        candidates = np.where(free & (near >= grid), near, 0.0)
        taken = candidates.argmax(axis=-1)[..., None]
        found[:, :, k] = np.take_along_axis(candidates, taken, axis=-1)[..., 0] > 0
        still = np.take_along_axis(free, taken, axis=-1) & ~found[:, :, k, None]
        np.put_along_axis(free, taken, still, axis=-1)
    return found


def highlight_metrics(predicted: np.ndarray, saliency: np.ndarray, clips: np.ndarray) -> Groups:
    """HL-mAP and HL-Hit@1 for highlights that are at least Fair, Good, VeryGood.

    Hit@1: whether any annotator calls the clip of highest predicted score a highlight (the first of equal
    ones). mAP: for each annotator, the mean over recall levels of the highest precision at that recall or a
    higher one, clips of equal score together; mean over annotators and queries. An annotator without a
    highlight counts 0.

    Args:
      predicted: [Q,T] score of each clip, -inf past the last given one. For mAP they are cut to the clips of
        the video, and clips without a score get 0.
      saliency: [Q,T,Z] annotators' scores, below 0 where none was given.
      clips: [Q] number of clips of the video, at most T of the saliency.

    Source: Lei et al. 2021.
    """
    values = highlight_values(predicted, saliency, clips)
    return {
        group: {name: 100.0 * _mean(column) for name, column in columns.items()}
        for group, columns in values.items()
    }


def highlight_values(
    predicted: np.ndarray, saliency: np.ndarray, clips: np.ndarray
) -> dict[str, dict[str, np.ndarray]]:
    """Per-query values [Q] of HL-mAP and HL-Hit@1; `highlight_metrics` gives their means and the arguments."""
    best = predicted.argmax(axis=1)
    inside = np.arange(saliency.shape[1])[None] < clips[:, None]  # [Q,T]
    at_best = np.take_along_axis(saliency, np.minimum(best, saliency.shape[1] - 1)[:, None, None], axis=1)
    at_best = np.where(best < clips, at_best.max(axis=(1, 2)), -1)
    scores = np.zeros(inside.shape)
    width = min(predicted.shape[1], inside.shape[1])
    scores[:, :width] = np.where(np.isfinite(predicted[:, :width]), predicted[:, :width], 0.0)
    scores = np.where(inside, scores, -np.inf)
    order = np.argsort(-scores, axis=1, kind="stable")
    scores = np.take_along_axis(scores, order, axis=1)
    ranked = np.where(inside[:, :, None], saliency, -1)[np.arange(len(order))[:, None], order]
    return {
        name: {
            "HL-mAP": _clip_precision(scores, ranked >= least).mean(axis=1),
            "HL-Hit@1": at_best >= least,
        }
        for name, least in SALIENT.items()
    }


def _clip_precision(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """[Q,Z] average precision of labels [Q,T,Z] in the order of descending scores [Q,T]."""
    ends = np.ones(scores.shape, bool)  # the last clip of each run of equal scores
    ends[:, :-1] = scores[:, 1:] != scores[:, :-1]
    ends = ends[:, :, None]
    hits = np.where(ends, labels.cumsum(axis=1), 0)
    before = np.maximum.accumulate(hits, axis=1)
    before = np.concatenate([np.zeros_like(before[:, :1]), before[:, :-1]], axis=1)
    precision = hits / np.arange(1, scores.shape[1] + 1)[:, None]
    envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    levels = ends & (hits > before)  # where recall grows
    return (envelope * levels).sum(axis=1) / np.maximum(levels.sum(axis=1), 1)


# --- names ----------------------------------------------------------------------------------------

_PARTS = {name.lower(): name for name in (*LENGTHS, *SALIENT, "v", "t", "vt")}
_TAIL = r"(?:,(?P<tail>\w+))?"
_IOU = r"(?P<m>0?\.\d+|1(?:\.0*)?)"
# What the field writes -> our name, whose {part} is a subset of the queries.
_ALIASES = tuple(
    (re.compile(pattern, re.IGNORECASE), name)
    for pattern, name in (
        (
            r"(?:(?P<task>VCMR|SVMR)-)?(?:MR-(?P<part>\w+)-)?(?P<d>d?)R(?:ank|ecall)?@?(?:Top)?(?P<n>\d+)"
            rf"[,_]?(?:m?IoU)?[@=-]{_IOU}{_TAIL}",
            "{task}{d}R@{n},IoU={m}",
        ),
        (rf"(?:(?P<task>VCMR|SVMR)-)?(?:(?P<part>vt?|t)-)?{_IOU}-r(?P<n>\d+)", "{task}R@{n},IoU={m}"),
        (rf"Acc(?:uracy)?@(?:IoU=)?{_IOU}", "R@1,IoU={m}"),
        (rf"(?:MR-(?P<part>\w+)-)?mAP(?:(?:@|,IoU=){_IOU}){_TAIL}", "mAP,IoU={m}"),
        (rf"(?:MR-(?P<part>\w+)-)?mAP{_TAIL}", "mAP"),
        (rf"HL-(?:min-(?P<part>\w+)-)?mAP{_TAIL}", "HL-mAP"),
        (rf"HL-(?:min-(?P<part>\w+)-)?Hit@?1{_TAIL}", "HL-Hit@1"),
        (rf"(?P<task>VR)-(?:(?P<part>vt?|t)-)?R@?(?P<n>\d+){_TAIL}", "{task}R@{n}"),
        (r"Rank@?(?P<n>\d+)", "Rank@{n}"),
        (r"(?:MR-full-)?(?:m|mean)IoU", "mIoU"),
    )
)


def canonical_name(alias: str) -> str:
    """The name that this library gives to a metric of the field.

    'Rank1@0.5', 'Rank@1,mIoU@0.5', 'R1-0.5', 'MR-full-R1@0.5', 'Recall@Top1_IoU=0.5', '0.5-r1' and 'Acc@0.5'
    are all 'R@1,IoU=0.5'. A subset of the queries comes last: 'MR-short-mAP' is 'mAP,short', 'vt-0.7-r1' is
    'R@1,IoU=0.7,vt'. Blanks and case do not matter; our own names are returned as they are.

    Raises:
      UserError: for a name that is none of these.
    """
    text = re.sub(r"\s", "", alias)
    for pattern, name in _ALIASES:
        match = pattern.fullmatch(text)
        if match and (found := _filled(name, match.groupdict())):
            return found
    known = ("R@1,IoU=0.5", "dR@1,IoU=0.5", "mIoU", "mAP", "mAP,IoU=0.5", "HL-mAP,VeryGood", "Rank@1", "VR-R@1")
    raise unknown("There is no metric of the field", alias, known, "Other numbers are possible.")


def _filled(name: str, found: Mapping[str, str | None]) -> str | None:
    """The template with what was found; None where the subset is unknown."""
    part = found.get("part") or found.get("tail") or "full"
    if part.lower() not in _PARTS:
        return None
    filled = name.format(
        task=f"{task.upper()}-" if (task := found.get("task")) else "",
        d=(found.get("d") or "").lower(),
        n=found.get("n"),
        m=f"{float(found.get('m') or 0):g}",
    )
    return filled if part.lower() == "full" else f"{filled},{_PARTS[part.lower()]}"


def flat(groups: Groups) -> dict[str, float]:
    """One level: the names of the headline group as they are, of the others with ',group' behind."""
    headline = next(iter(groups))
    return {
        name if group == headline else f"{name},{group}": value
        for group, metrics in groups.items()
        for name, value in metrics.items()
    }
