"""Submissions: the moments of a split in the form of the dataset's own evaluation server.

- QVHighlights: hl_val_submission.jsonl and hl_test_submission.jsonl, Moment-DETR's lines, both flat in one zip.
- TVR: tvr_val_submission.json and tvr_test_public_submission.json, TVR's document, both flat in one zip; the
  second without SVMR, as the videos of its queries are not told.
- Of other datasets, which have no server: Moment-DETR's lines, DATASET_SPLIT_submission.jsonl.

A form asks for moments best first, in seconds, within the video; of QVHighlights a score for every clip of 2 s.
"""

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vmr_jax.errors import UserError
from vmr_jax.evaluation import prediction_files as files
from vmr_jax.evaluation.prediction_files import Prediction
from vmr_jax.evaluation.protocols import SALIENCY
from vmr_jax.input.dataset import Split

ARCHIVE = "submission.zip"
# dataset -> split -> name of its file; all of them go into one archive.
SERVED = {
    "qvhighlights": {"val": "hl_val_submission.jsonl", "test": "hl_test_submission.jsonl"},
    "tvr": {"val": "tvr_val_submission.json", "test_public": "tvr_test_public_submission.json"},
}


def file_name(dataset: str, split: str) -> str:
    """The name that the server of the dataset expects for a split."""
    return SERVED.get(dataset, {}).get(split, f"{dataset}_{split}_submission.jsonl")


def write_split(
    folder: Path,
    dataset: str,
    split: Split,
    written: Mapping[str, Any],
    video_index: Mapping[str, int] | None = None,
    own: bool = True,
) -> Path:
    """Writes the file of one split and returns its path.

    Args:
      folder: where it goes.
      dataset: name of the dataset.
      split: whose queries were predicted.
      written: of the protocol's `as_written`.
      video_index: TVR's numbers of the videos; None writes Moment-DETR's lines.
      own: whether the own video of each query is known, so that SVMR can be answered.

    Raises:
      UserError: where the form needs what the run has not predicted.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / file_name(dataset, split.name)
    if video_index is None:
        files.write_moment_detr(path, own_video(split, written))
        return path
    if "extra" not in written:
        raise UserError(
            f"{path.name} holds moments of the whole corpus, which a run with "
            "config.evaluation.protocol='corpus' predicts."
        )
    tasks = corpus(split, written, video_index)
    if own:
        tasks["SVMR"] = own_video(split, written)
    files.write_tvr(path, tasks, video_index)
    return path


def own_video(split: Split, written: Mapping[str, Any]) -> list[Prediction]:
    """The moments of each query in its own video, and the saliency of its clips where there is one."""
    saliency = written.get(SALIENCY)
    return [
        Prediction(
            qid=query.qid,
            windows=_rows(files.windows_of(written["spans"][i, 0], written["scores"][i, 0])),
            saliency=None if saliency is None else np.asarray(saliency[i]),
            query=query.text,
            vid=split.videos[split.owner[i]].id,
        )
        for i, query in enumerate(split.queries)
    ]


def corpus(
    split: Split, written: Mapping[str, Any], video_index: Mapping[str, int]
) -> dict[str, list[Prediction]]:
    """VCMR, the moments of each query in all videos, and VR, its videos, whose times are 0."""
    tasks: dict[str, list[Prediction]] = {"VCMR": [], "VR": []}
    extra = written["extra"]
    for i, query in enumerate(split.queries):
        moments, videos = extra["pred_corpus_windows"][i], extra["pred_videos"][i]
        ranks = [[0.0, 0.0, -float(rank)] for rank in range(len(videos))]
        for task, ids, rows in (
            ("VCMR", [moment[0] for moment in moments], [moment[1:] for moment in moments]),
            ("VR", videos, ranks),
        ):
            numbers = np.asarray([video_index[video] for video in ids], np.int64)
            tasks[task].append(Prediction(query.qid, _rows(rows), numbers, query=query.text))
    return tasks


def _rows(windows: Sequence[Sequence[float]]) -> np.ndarray:
    return np.asarray(windows, np.float64).reshape(-1, 3)


def pack(folder: Path, dataset: str) -> tuple[Path | None, list[str]]:
    """Puts the files that a server takes together into one zip, without a folder in it.

    Returns:
      The zip, None where the dataset has no server or files are missing; and the missing ones.
    """
    names = [*SERVED.get(dataset, {}).values()]
    missing = [name for name in names if not (folder / name).is_file()]
    if missing or not names:
        return None, missing
    with zipfile.ZipFile(folder / ARCHIVE, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            archive.write(folder / name, name)
    return folder / ARCHIVE, []
