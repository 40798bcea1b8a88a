"""`--mode=score`: scores a prediction file, of whatever program, against the annotations of a dataset.

    python launch.py --mode=score --predictions=FILE --config=configs/NAME.py:DATASET

Nothing of the config but `dataset` and `evaluation` is read. Predictions are taken as they are, best first in
the order of the file: no NMS, no cut to the video. Annotated moments are those of the records, which
are cut to the video.
"""

import dataclasses
import io
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from vmr_jax.data.didemo.annotations import CHUNK_SECONDS
from vmr_jax.data.qvhighlights.annotations import CLIP_SECONDS
from vmr_jax.errors import UserError, nearest
from vmr_jax.evaluation import metrics
from vmr_jax.evaluation import prediction_files as files
from vmr_jax.evaluation.prediction_files import Prediction, PredictionFile
from vmr_jax.input.dataset import Dataset, Split
from vmr_jax.reporting.tables import percent

log = logging.getLogger("vmr_jax")

DEFAULT = "moment_retrieval"
_DEPTH = 100  # moments of a query that TVR's evaluation reads
_CHUNKS = 6  # of a DiDeMo video
_TOLERANCE = 0.01  # seconds by which a time may miss the grid of chunks: files are rounded


@dataclasses.dataclass(frozen=True)
class Protocol:
    """A way to score: its function of (file, split, `config.evaluation`), and the rule in one sentence."""

    score: Callable[[PredictionFile, Split, object], metrics.Groups]
    rule: Callable[[object], str]


def score(config, workdir: Path, predictions: str | None) -> None:
    """Prints the metrics of the prediction file for every split of the dataset that it is for."""
    del workdir
    if not predictions:
        raise UserError("--mode=score needs --predictions=FILE.")
    found = files.read(Path(predictions).expanduser())
    name = protocol_name(config)
    protocol = PROTOCOLS[name]
    dataset = Dataset(config.dataset, annotations_only=True)
    for split in splits_of(found, dataset, tuple(config.evaluation.splits)):
        groups = protocol.score(found, split, config.evaluation)
        print(f"{found.path.name} on {split.name}, {len(split.queries)} queries, %")
        print(table(groups))
    print(f"protocol: {name}; {protocol.rule(config.evaluation)}")
    print("Predictions are taken as they are, best first in the order of the file; NMS: none.")
    print("Annotated moments are cut to their video.")


def protocol_name(config) -> str:
    """`config.evaluation.protocol`; where that is the default, the dataset's own protocol if it has one."""
    name = config.evaluation.protocol
    if name not in PROTOCOLS:
        raise UserError(
            f'config.evaluation.protocol is "{name}".{nearest(name, PROTOCOLS)} A file can be scored by: '
            f"{', '.join(PROTOCOLS)}."
        )
    return config.dataset.name if name == DEFAULT and config.dataset.name in PROTOCOLS else name


def splits_of(found: PredictionFile, dataset: Dataset, asked: Sequence[str]) -> list[Split]:
    """The splits to score.

    Those that the rows of the file name; where they name none, the split whose query ids are those of the file,
    or, where no split has them all, the one that shares most. Of these, the ones in `asked`
    (`config.evaluation.splits`) unless that is empty.
    """
    rows = next(iter(found.tasks.values()))
    named = list(dict.fromkeys(p.split for p in rows if p.split))
    if named:
        chosen = [name for name in named if name in asked or not asked]
        if not chosen:
            raise UserError(
                f"{found.path} has predictions for {', '.join(named)}; config.evaluation.splits asks for "
                f"{', '.join(asked)}. Set --config.evaluation.splits to splits of the file."
            )
        return [dataset.split(name) for name in chosen]
    ids = {p.qid for p in rows}
    candidates = [dataset.split(name) for name in asked or dataset.split_names]
    return [max(candidates, key=lambda split: _agreement(ids, {q.qid for q in split.queries}))]


def _agreement(ids: set[str], of_split: set[str]) -> float:
    """Jaccard index of two sets of ids; 1 where they are the same."""
    return len(ids & of_split) / max(len(ids | of_split), 1)


# --- protocols ------------------------------------------------------------------------------------


def moment_retrieval(found: PredictionFile, split: Split, options) -> metrics.Groups:
    """R@n,IoU=m, mIoU and dR@n,IoU=m of one moment in a given video."""
    spans, scores = files.stacked(_in_own_video(found, split))
    truth, durations = _decimal(split.spans), _decimal(split.durations)
    ious = metrics.ranked_iou(spans, scores, truth)
    asked = (tuple(options.top_n), tuple(options.thresholds), bool(options.strict))
    values = metrics.retrieval_metrics(ious, *asked)
    values |= metrics.discounted_recall(spans, ious, truth, durations, *asked)
    return {"all": values}


def qvhighlights(found: PredictionFile, split: Split, options) -> metrics.Groups:
    """R@1 and mAP of several moments, by their length, and highlights where the file has saliency scores."""
    del options
    rows = _task(found, split, "SVMR")
    spans, scores = files.stacked(_in_own_video(found, split))
    groups = metrics.detection_metrics(spans, scores, _windows(split))
    without = [p.qid for p in rows if p.saliency is None]
    if len(without) == len(rows):
        log.info("%s: no pred_saliency_scores, so no highlight metrics", found.path)
        return groups
    if without:
        raise UserError(
            f"{found.path}: {len(without)} of {len(rows)} queries have no pred_saliency_scores, such as "
            f"{without[0]}. Give them for every query or for none."
        )
    if any(q.saliency is None for q in split.queries):
        raise UserError(
            f"The split {split.name} has no annotated saliency, which the protocol qvhighlights needs."
        )
    predicted = np.full((len(rows), max(len(p.saliency) for p in rows)), -np.inf)
    for i, p in enumerate(rows):
        predicted[i, : len(p.saliency)] = p.saliency
    clips = (_decimal(split.durations) / CLIP_SECONDS).astype(int)
    saliency = np.stack([q.saliency for q in split.queries])
    return {**groups, **metrics.highlight_metrics(predicted, saliency, clips)}


def didemo(found: PredictionFile, split: Split, options) -> metrics.Groups:
    """Rank@1, Rank@5 and mIoU with the consensus of the annotators, over the 21 segments."""
    del options
    ranking, annotated = _segments(found, split)
    same = (annotated[:, :, None] == ranking[:, None]).all(axis=-1).any(axis=-1) | (annotated[..., 0] < 0)
    if not same.all():
        queries = [split.queries[i].qid for i in np.flatnonzero(~same.all(axis=1))]
        raise UserError(
            f"{found.path}: for {len(queries)} of {len(split.queries)} queries, such as {queries[0]}, a "
            "segment that an annotator chose is not ranked. DiDeMo's ranks need all "
            f"{metrics.SEGMENTS} segments of every query (config.evaluation.keep=21 without NMS)."
        )
    return metrics.mean_by_type(metrics.segment_values(ranking, annotated))


def tempo(found: PredictionFile, split: Split, options) -> metrics.Groups:
    """Rank@1, Rank@3, Rank@5 and mIoU by type of sentence; the headline is the mean over types."""
    del options
    values = metrics.segment_values(*_segments(found, split), top_n=(1, 3, 5))
    return metrics.mean_over_types(values, _types(split))


def tvr(found: PredictionFile, split: Split, options) -> metrics.Groups:
    """VCMR, SVMR and VR, whichever the file has, by type of query."""
    del options
    windows, types = _windows(split), _types(split)
    values = {}
    for task in found.tasks:
        rows = _task(found, split, task)
        spans, scores = files.stacked([p.windows for p in rows], _DEPTH)
        right = np.isfinite(scores)
        for i, mask in enumerate(_of_own_video(found, split, rows)):
            right[i, : len(mask[:_DEPTH])] &= mask[:_DEPTH]
        values |= metrics.corpus_values(task, right, spans, windows)
    return metrics.mean_by_type(values, types)


def _hits(options) -> str:
    return f"a hit is IoU {'>' if options.strict else '>='} m; mIoU of the first moment"


PROTOCOLS = {
    DEFAULT: Protocol(moment_retrieval, _hits),
    "qvhighlights": Protocol(
        qvhighlights, lambda _: "a hit is IoU >= m; mAP of the first 10 moments, VOC 2011 interpolation"
    ),
    "didemo": Protocol(didemo, lambda _: "the three best-agreeing annotators count; 21 segments"),
    "tempo": Protocol(
        tempo, lambda _: "the three best-agreeing annotators count; a segment that is not ranked has rank 21"
    ),
    "tvr": Protocol(tvr, lambda _: f"a hit is IoU >= m in the right video; the first {_DEPTH} moments"),
}


# --- from files and records to arrays -------------------------------------------------------------


def _task(found: PredictionFile, split: Split, task: str) -> list[Prediction]:
    """The predictions of one task, in the order of the split's queries."""
    if task not in found.tasks:
        raise UserError(
            f"{found.path} has predictions for {', '.join(found.tasks)}, not for {task}, moments in the "
            "query's own video. This protocol needs them."
        )
    rows = files.of_split(found.tasks[task], split.name)
    return files.match(rows, [q.qid for q in split.queries], f"{found.path}, split {split.name}")


def _of_own_video(found: PredictionFile, split: Split, rows: Sequence[Prediction]) -> list[np.ndarray]:
    """[K] bool of each query: which of its moments are in its own video."""
    if not found.video_index:
        return [np.ones(len(p.windows), bool) for p in rows]
    own = [split.videos[v].id for v in split.owner]
    unknown = sorted(set(own) - found.video_index.keys())
    if unknown:
        raise UserError(
            f"{found.path}: video2idx lacks {len(unknown)} videos of the split {split.name}, such as "
            f"{unknown[0]}.{nearest(unknown[0], found.video_index)} Add them."
        )
    return [p.videos == found.video_index[video] for p, video in zip(rows, own)]


def _in_own_video(found: PredictionFile, split: Split) -> list[np.ndarray]:
    """The moments [K,3] of each query, those of other videos removed."""
    rows = _task(found, split, "SVMR")
    return [p.windows[mask] for p, mask in zip(rows, _of_own_video(found, split, rows))]


def _windows(split: Split) -> np.ndarray:
    """[Q,W,2] annotated moments of the split, zeros past the last."""
    annotated = [q.windows or [q.span] for q in split.queries]
    count = np.asarray([len(rows) for rows in annotated])
    windows = np.zeros((len(annotated), count.max(), 2))
    windows[np.arange(count.max()) < count[:, None]] = _decimal(np.concatenate(annotated))
    return windows


def _decimal(values: np.ndarray) -> np.ndarray:
    """float64 of the shortest decimals that a float32 stands for: records hold 24.3 as 24.299999.

    With the number that was annotated, an IoU of exactly m falls on the same side as in other evaluators.
    """
    return np.asarray(values, np.float32).astype(str).astype(np.float64)


def _types(split: Split) -> list[str]:
    """The type of each query, its first tag."""
    untyped = [q.qid for q in split.queries if not q.tags]
    if untyped:
        raise UserError(f"{len(untyped)} queries of {split.name} have no type, such as {untyped[0]}.")
    return [q.tags[0] for q in split.queries]


def _segments(found: PredictionFile, split: Split) -> tuple[np.ndarray, np.ndarray]:
    """Ranked [Q,R,2] and annotated [Q,A,2] segments as first and last chunk, -1 past the last."""
    spans, scores = files.stacked(_in_own_video(found, split))
    ranking = _chunks(spans, np.isfinite(scores), found, split)
    windows = _windows(split)
    return ranking, _chunks(windows, windows[..., 1] > 0, found, split)


def _chunks(spans: np.ndarray, given: np.ndarray, found: PredictionFile, split: Split) -> np.ndarray:
    """[Q,K,2] first and last chunk of spans in seconds; -1 where not `given`."""
    edges = np.rint(spans / CHUNK_SECONDS).astype(int)
    wrong = (np.abs(spans - edges * CHUNK_SECONDS) > _TOLERANCE).any(axis=-1)
    wrong |= (edges[..., 0] < 0) | (edges[..., 0] >= edges[..., 1]) | (edges[..., 1] > _CHUNKS)
    if (wrong & given).any():
        i, k = np.argwhere(wrong & given)[0]
        raise UserError(
            f"{found.path}: query {split.queries[i].qid} has the moment {spans[i, k, 0]:g} to "
            f"{spans[i, k, 1]:g} s, which is none of the {metrics.SEGMENTS} segments, runs of the "
            f"{_CHUNKS} chunks of {CHUNK_SECONDS:g} s."
        )
    return np.where(given[..., None], edges - [0, 1], -1)


# --- printing -------------------------------------------------------------------------------------


def table(groups: Mapping[str, Mapping[str, float]]) -> str:
    """One line a metric, one column a group of queries; groups of other metrics follow below."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(file=io.StringIO(), width=100)
    together: dict[tuple[str, ...], list[str]] = {}
    for group, values in groups.items():
        together.setdefault(tuple(values), []).append(group)
    for names, members in together.items():
        grid = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
        grid.add_column("")
        for group in members:
            grid.add_column(Text(group), justify="right", min_width=7)
        for name in names:
            grid.add_row(name, *(percent(groups[group][name]) for group in members))
        console.print(grid)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines())
