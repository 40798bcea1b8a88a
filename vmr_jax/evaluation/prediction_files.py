"""Prediction files of the field: ranked moments of queries, read and written.

- Moment-DETR's jsonl, one query a line: {"qid", "query", "vid", "pred_relevant_windows": [[start, end, score],
  ...], "pred_saliency_scores": [...]}; the saliency may be absent. Our predictions.jsonl has "split" beside it;
  with the protocol 'corpus' also "pred_corpus_windows": [[video, start, end, score],
  ...] and "pred_videos": [video, ...],
  and where NMS depends on the m of R@n,IoU=m "pred_relevant_windows_at": {m: [[start, end, score], ...]}.
- TVR's json: {"video2idx": {video: number}, "VCMR" | "SVMR" | "VR": [{"desc_id", "desc", "predictions":
  [[number, start, end, score], ...]}]}.
- Read only: CBP's json {"results": {qid: [{"timestamp": [start, end], "score"}, ...]}}, in which ActivityNet's
  "segment" may stand for "timestamp"; a json list of Moment-DETR's objects; {qid: [[start, end, score], ...]}.

A file may be packed as .gz, or alone in a .zip.

Moments are best first, in seconds. A query id is text here: 7 and "7" are the same id, 7 and "07" are not.
"""

import dataclasses
import json
import logging
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vmr_jax.errors import UserError, first_few, nearest
from vmr_jax.evaluation.metrics import TASKS
from vmr_jax.files import parsed, write_whole
from vmr_jax.input.dataset import Split
from vmr_jax.input.text_files import json_of, jsonl_of, text_of

log = logging.getLogger("vmr_jax")

_SHOWN = 10  # ids that a message lists
_FIRST_KEY = re.compile(rf'\{{\s*"(video2idx|results|version|{"|".join(TASKS)})"')


@dataclasses.dataclass
class Prediction:
    """The ranked moments of one query.

    Attributes:
      qid: id of the query.
      windows: [K,3] start, end (seconds) and score, best first.
      videos: [K] number of the video of each moment (`PredictionFile.video_index`); None: all are in the
        query's own video.
      saliency: [T] score of each clip, or None.
      query: the sentence, '' where the file has none.
      vid: the query's video, '' where the file does not say.
      split: '' where the file does not say.
      windows_at: m of R@n,IoU=m -> the moments for it, as `windows`; empty where there is one list for all.
    """

    qid: str
    windows: np.ndarray
    videos: np.ndarray | None = None
    saliency: np.ndarray | None = None
    query: str = ""
    vid: str = ""
    split: str = ""
    windows_at: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class PredictionFile:
    """The content of a file: task (one of `metrics.TASKS`) -> predictions, and the numbers of the videos."""

    path: Path
    tasks: dict[str, list[Prediction]]
    video_index: dict[str, int] = dataclasses.field(default_factory=dict)


# --- reading --------------------------------------------------------------------------------------


def read(path: Path) -> PredictionFile:
    """Reads a prediction file of any of the formats above.

    Predictions are taken in the order of the file; where that is not the order of the scores, the log says so.

    Raises:
      UserError: for a file that is missing, damaged, not UTF-8 or of no known format, for a row that is wrong
        and for an id that two rows have, naming file and line or row.
    """
    if not path.is_file():
        raise UserError(f"The prediction file {path} does not exist. Give --predictions=FILE.")
    found = _moment_detr(path, _lines(path)) if _is_jsonl(path) else _read_document(path)
    for task, predictions in found.tasks.items():
        _refuse_repeated(predictions, f"{path}, {task}")
        unsorted = sum(bool((np.diff(p.windows[:, 2]) > 0).any()) for p in predictions)
        if unsorted:
            log.warning(
                "%s, %s: the moments of %d of %d queries are not in the order of their scores; they are "
                "taken in the order of the file",
                path, task, unsorted, len(predictions),
            )  # fmt: skip
    return found


def _is_jsonl(path: Path) -> bool:
    """Whether the file is one object a line, not a document."""
    start = text_of(path).lstrip()
    if start.startswith("[") or _FIRST_KEY.match(start):
        return False
    line, _, rest = start.partition("\n")
    try:
        first = parsed(line)
    except ValueError:
        return len(line.strip()) > 1  # '{' alone begins a document over several lines
    if not isinstance(first, dict) or first.keys() & {"qid", "query", "pred_relevant_windows"}:
        return True
    if rest.strip():
        raise _other_format(f"{path}, line 1", first)
    return False


def _lines(path: Path) -> Iterator[tuple[str, dict]]:
    for line, row in jsonl_of(path):
        yield f"{path}, line {line}", row


def _moment_detr(path: Path, rows: Iterable[tuple[str, dict]]) -> PredictionFile:
    """Rows with their places; tasks beyond SVMR where a run with the protocol 'corpus' wrote them."""
    found = PredictionFile(path, {"SVMR": []})
    for where, row in rows:
        saliency = row.get("pred_saliency_scores")
        at = row.get("pred_relevant_windows_at", {})
        if not isinstance(at, dict):
            raise UserError(f'{where}: expected "pred_relevant_windows_at": {{"m": [[...], ...]}}. Correct it.')
        prediction = Prediction(
            qid=_qid(row, "qid", where),
            windows=_numbers(row.get("pred_relevant_windows"), 3, "pred_relevant_windows", where),
            saliency=None if saliency is None else _scores(saliency, where),
            query=str(row.get("query", "")),
            vid=str(row.get("vid", "")),
            split=str(row.get("split", "")),
            windows_at={m: _numbers(rows, 3, "pred_relevant_windows_at", where) for m, rows in at.items()},
        )
        found.tasks["SVMR"].append(prediction)
        if "pred_videos" in row:
            _add_corpus(found, prediction, row, where)
    return found


def _add_corpus(found: PredictionFile, prediction: Prediction, row: Mapping[str, Any], where: str) -> None:
    """Adds a query's moments and videos in the corpus, whose videos it numbers as they come."""
    windows: Any = row.get("pred_corpus_windows")
    videos: Any = row["pred_videos"]
    try:
        ids, moments = [str(w[0]) for w in windows], [w[1:] for w in windows]
        ranked = list(map(str, videos))
    except (TypeError, IndexError):
        raise UserError(
            f'{where}: expected "pred_corpus_windows": [[video, start, end, score], ...] with "pred_videos": '
            "[video, ...]. Correct it."
        ) from None
    number = found.video_index
    for video in (prediction.vid, *ids, *ranked):
        number.setdefault(video, len(number))
    order = -np.arange(len(ranked), dtype=np.float64)
    for task, names, rows in (
        ("VCMR", ids, _numbers(moments, 3, "pred_corpus_windows", where)),
        ("VR", ranked, np.stack([0 * order, 0 * order, order], axis=1)),
    ):
        one = dataclasses.replace(
            prediction, windows=rows, videos=np.asarray([number[name] for name in names], np.int64)
        )
        found.tasks.setdefault(task, []).append(one)


def _read_document(path: Path) -> PredictionFile:
    document = json_of(path)
    if isinstance(document, list) and document and all(isinstance(row, dict) for row in document):
        return _moment_detr(path, ((f"{path}, row {k}", row) for k, row in enumerate(document)))
    found = document if isinstance(document, dict) else {}
    if isinstance(found.get("results"), dict):
        return PredictionFile(path, {"SVMR": _cbp(path, found["results"])})
    tasks, index = [task for task in TASKS if task in found], found.get("video2idx")
    if tasks and isinstance(index, dict) and all(type(number) is int for number in index.values()):
        return PredictionFile(path, {task: _tvr(found[task], f"{path}, {task}") for task in tasks}, index)
    if not tasks and found and all(map(_are_windows, found.values())):
        rows = [Prediction(qid, _numbers(rows, 3, qid, str(path))) for qid, rows in found.items()]
        return PredictionFile(path, {"SVMR": rows})
    raise _other_format(str(path), document)


_KNOWN = (
    'expected is one object a line, or a list of them, with "qid" and "pred_relevant_windows": '
    '[[start, end, score], ...] (Moment-DETR); {"video2idx": {"VIDEO": number}, "VCMR" or "SVMR" or "VR": '
    '[...]} (TVR); {"results": {"QUERY": [{"timestamp" or "segment": [start, end], "score": ...}]}} (CBP, '
    'ActivityNet); {"QUERY": [[start, end, score], ...]}.'
)


def _are_windows(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(row, list) for row in value)


def _other_format(where: str, document: Any) -> UserError:
    """The error for what is of no format that is read."""
    return UserError(f"{where}: {_described(document)}; {_KNOWN}")


def _described(document: Any) -> str:
    if isinstance(document, dict) and isinstance(document.get("results"), list):
        kind = f' of the challenge "{document["challenge"]}"' if "challenge" in document else ""
        return f'a submission{kind} whose "results" are a list, not {{"QUERY": [...]}}'
    if isinstance(document, dict):
        return f"an object with the keys {', '.join(map(str, [*document][:5])) or '(none)'}"
    return "a list of something else" if isinstance(document, list) else "a single value"


def _tvr(rows: Any, place: str) -> list[Prediction]:
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise UserError(f'{place}: expected [{{"desc_id": ..., "predictions": [...]}}, ...].')
    predictions = []
    for k, row in enumerate(rows):
        where = f"{place}, row {k}"
        moments = _numbers(row.get("predictions"), 4, "predictions", where, first=1)
        if (moments[:, 0] % 1).any():
            raise UserError(f'{where}: "predictions" has a video number that is not whole. Correct it.')
        predictions.append(
            Prediction(
                qid=_qid(row, "desc_id", where),
                windows=moments[:, 1:],
                videos=moments[:, 0].astype(np.int64),
                query=str(row.get("desc", "")),
            )
        )
    return predictions


def _cbp(path: Path, results: Mapping[str, Any]) -> list[Prediction]:
    predictions = []
    for qid, rows in results.items():
        where = f"{path}, results, {qid}"
        try:
            moments = [[*row.get("timestamp", row.get("segment")), row["score"]] for row in rows]
        except (TypeError, KeyError, AttributeError):
            raise UserError(f'{where}: expected [{{"timestamp": [start, end], "score": ...}}, ...].') from None
        predictions.append(Prediction(qid=qid, windows=_numbers(moments, 3, "timestamp and score", where)))
    return predictions


def _qid(row: Mapping[str, Any], field: str, where: str) -> str:
    qid = row.get(field)
    if type(qid) not in (int, str) or qid == "":
        raise UserError(f'{where}: "{field}" is {qid!r}; expected the id of a query, a whole number or text.')
    return str(qid)


def _numbers(value: Any, width: int, field: str, where: str, first: int = 0) -> np.ndarray:
    """[K,width] float64 from rows of finite numbers, of which start and end are at `first`."""
    try:
        rows = np.array(value if value != [] else np.zeros((0, width)))
    except ValueError:  # rows of different length
        rows = np.zeros(())
    if rows.ndim != 2 or rows.shape[1] != width or rows.dtype.kind not in "if" or not np.isfinite(rows).all():
        names = ", ".join((*["video number"] * first, "start", "end", "score"))
        raise UserError(f'{where}: "{field}" is not [[{names}], ...], finite numbers in every row. Correct it.')
    rows = rows.astype(np.float64)
    reverse = np.flatnonzero(rows[:, first] > rows[:, first + 1])
    if len(reverse):
        start, end = rows[reverse[0], first : first + 2]
        raise UserError(
            f'{where}: moment {reverse[0]} of "{field}" starts at {start:g} s and ends at {end:g} s; the start '
            "comes first. Correct it."
        )
    return rows


def _scores(value: Any, where: str) -> np.ndarray:
    scores = np.array(value) if isinstance(value, list) and value else np.zeros(())
    if scores.ndim != 1 or scores.dtype.kind not in "if" or not np.isfinite(scores).all():
        raise UserError(
            f'{where}: "pred_saliency_scores" is not a list of finite numbers, one a clip. Correct it.'
        )
    return scores.astype(np.float64)


def _refuse_repeated(predictions: Iterable[Prediction], place: str) -> None:
    count = Counter((p.split, p.qid) for p in predictions)
    twice = [qid for (_, qid), times in count.items() if times > 1]
    if twice:
        raise UserError(
            f"{place}: {len(twice)} ids stand more than once: {_listed(twice)}. Keep one row of each."
        )


# --- matching -------------------------------------------------------------------------------------


def of_split(predictions: Sequence[Prediction], split: str) -> list[Prediction]:
    """Those of the split: the rows that name it, and the rows that name none."""
    return [p for p in predictions if p.split in (split, "")]


def match(predictions: Sequence[Prediction], qids: Sequence[str], place: str) -> list[Prediction]:
    """The predictions in the order of the queries.

    Args:
      predictions: of one split (`of_split`).
      qids: ids of the annotated queries.
      place: the file and the split, for the message.

    Raises:
      UserError: unless the two sets of ids are the same, listing what is missing and what is too much.
    """
    by_id = {p.qid: p for p in predictions}
    missing = [qid for qid in qids if qid not in by_id]
    unknown = sorted(by_id.keys() - set(qids))
    if missing or unknown:
        parts = [
            f"{len(missing)} of {len(qids)} queries have no prediction: {_listed(missing)}" if missing else "",
            f"{len(unknown)} ids are of no query: {_listed(unknown)}" if unknown else "",
        ]
        raise UserError(
            f"{place}: {'; '.join(part for part in parts if part)}. Scores compare over the same "
            "queries alone: give one prediction for every query of the split."
        )
    return [by_id[qid] for qid in qids]


def _listed(ids: Sequence[str]) -> str:
    return first_few(ids, _SHOWN)


def of_task(found: PredictionFile, split: Split, task: str) -> list[Prediction]:
    """The predictions of one task, in the order of the split's queries; UserError where the file has none."""
    if task not in found.tasks:
        raise UserError(
            f"{found.path} has predictions for {', '.join(found.tasks)}, not for {task}, moments in the "
            "query's own video. This protocol needs them."
        )
    rows = of_split(found.tasks[task], split.name)
    return match(rows, [q.qid for q in split.queries], f"{found.path}, split {split.name}")


def of_own_video(found: PredictionFile, split: Split, rows: Sequence[Prediction]) -> list[np.ndarray]:
    """[K] bool of each query: which of its moments are in its own video.

    Raises:
      UserError: where the file numbers its videos and lacks one of the split.
    """
    own = [split.videos[v].id for v in split.owner]
    numbered = [video for video, p in zip(own, rows) if p.videos is not None]
    unknown = sorted(set(numbered) - found.video_index.keys())
    if unknown:
        raise UserError(
            f"{found.path}: video2idx lacks {len(unknown)} videos of the split {split.name}, such as "
            f"{unknown[0]}.{nearest(unknown[0], found.video_index)} Add them."
        )
    return [
        np.ones(len(p.windows), bool) if p.videos is None else p.videos == found.video_index[video]
        for p, video in zip(rows, own)
    ]


def in_own_video(found: PredictionFile, split: Split) -> list[np.ndarray]:
    """The moments [K,3] of each query, those of other videos removed."""
    rows = of_task(found, split, "SVMR")
    return [p.windows[mask] for p, mask in zip(rows, of_own_video(found, split, rows))]


def stacked(windows: Sequence[np.ndarray], depth: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Moments [K_i,3] of Q queries as spans [Q,K,2] and scores [Q,K], -inf past the last one.

    At most the first `depth` moments of each query are kept. K is at least 1.
    """
    kept = [rows[:depth] for rows in windows]
    size = max([1, *(len(rows) for rows in kept)])
    spans, scores = np.zeros((len(kept), size, 2)), np.full((len(kept), size), -np.inf)
    for i, rows in enumerate(kept):
        spans[i, : len(rows)], scores[i, : len(rows)] = rows[:, :2], rows[:, 2]
    return spans, scores


def padded(spans: np.ndarray, scores: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Moments [Q,K,2], [Q,K] as [Q,size,2], [Q,size]; the score is -inf past the last one."""
    more = size - scores.shape[1]
    return np.pad(spans, ((0, 0), (0, more), (0, 0))), np.pad(
        scores, ((0, 0), (0, more)), constant_values=-np.inf
    )


# --- writing --------------------------------------------------------------------------------------


def windows_of(spans: np.ndarray, scores: np.ndarray) -> list[list[float]]:
    """[[start, end, score], ...] of ranked moments [K,2], [K], as a line of a file holds them."""
    return [
        [float(start), float(end), round(float(score), 6)]
        for (start, end), score in zip(spans, scores)
        if np.isfinite(score)
    ]


def write_moment_detr(path: Path, predictions: Iterable[Prediction]) -> None:
    """Writes Moment-DETR's jsonl; whole numbers among the ids are written as such, as its evaluator needs."""
    lines = []
    for p in predictions:
        row: dict[str, Any] = {"split": p.split} if p.split else {}
        row |= {"qid": _number_or_text(p.qid), "query": p.query, "vid": p.vid}
        row["pred_relevant_windows"] = p.windows.tolist()
        if p.saliency is not None:
            row["pred_saliency_scores"] = p.saliency.tolist()
        lines.append(json.dumps(row) + "\n")
    write_whole(path, "".join(lines))


def write_tvr(path: Path, tasks: Mapping[str, Iterable[Prediction]], video_index: Mapping[str, int]) -> None:
    """Writes TVR's json. Predictions without `videos` are all in their `vid`.

    Args:
      path: the file.
      tasks: one of `metrics.TASKS` -> its predictions.
      video_index: video -> number, of every video of the predictions.
    """
    document: dict[str, Any] = {"video2idx": dict(video_index)}
    for task, predictions in tasks.items():
        document[task] = [
            {
                "desc_id": _number_or_text(p.qid),
                "desc": p.query,
                "predictions": [
                    [int(video), *window] for video, window in zip(_videos(p, video_index), p.windows.tolist())
                ],
            }
            for p in predictions
        ]
    write_whole(path, json.dumps(document) + "\n")


def _videos(prediction: Prediction, video_index: Mapping[str, int]) -> np.ndarray:
    if prediction.videos is not None:
        return prediction.videos
    return np.full(len(prediction.windows), video_index[prediction.vid])


def _number_or_text(qid: str) -> int | str:
    return int(qid) if qid.isdecimal() and str(int(qid)) == qid else qid
