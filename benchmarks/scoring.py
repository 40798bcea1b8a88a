"""Speed of scoring a prediction file by the protocol of QVHighlights.

    python benchmarks/scoring.py                                            # a synthetic file of val's size
    python benchmarks/scoring.py --predictions=FILE --annotations=highlight_val_release.jsonl
    python benchmarks/scoring.py --keep=FOLDER        # leaves the synthetic files, for another evaluator

Reads both files as `--mode=score` does, then computes every metric. Medians of `--repeats` runs in one process,
with the 10th and 90th percentile.
"""

import json
import platform
import tempfile
import time
from pathlib import Path

import numpy as np
from absl import flags
from program import run
from rich.console import Console
from rich.table import Table

from vmr_jax.configs import moment_detr
from vmr_jax.data.qvhighlights import annotations
from vmr_jax.errors import UserError
from vmr_jax.evaluation import prediction_files as files
from vmr_jax.evaluation.protocols import make_protocol
from vmr_jax.input import schema
from vmr_jax.input.annotations import Annotations
from vmr_jax.input.dataset import Split, Video

FLAGS = flags.FLAGS
flags.DEFINE_string("predictions", None, "A file in Moment-DETR's format; none: synthetic.")
flags.DEFINE_string("annotations", None, "The annotation file that it is for, in QVHighlights' format.")
flags.DEFINE_string("keep", None, "Folder for the synthetic files; none: they are removed.")
flags.DEFINE_integer("queries", 1550, "Of the synthetic file.")
flags.DEFINE_integer("windows", 10, "Predicted for each query of the synthetic file.")
flags.DEFINE_integer("repeats", 9, "Timed runs.")

SECONDS = annotations.CLIPS * annotations.CLIP_SECONDS


def write_synthetic(folder):
    """Writes predictions and annotations of `--queries` queries from seed 0; returns their paths.

    One to five annotated moments on the grid of clips; the predictions are these, moved a little, and others.
    """
    rng = np.random.default_rng(0)
    annotated, predicted = [], []
    for i in range(FLAGS.queries):
        edges = np.sort(rng.choice(annotations.CLIPS + 1, 2 * rng.integers(1, 6), replace=False)).reshape(-1, 2)
        windows = edges * annotations.CLIP_SECONDS
        clips = np.concatenate([np.arange(a, b) for a, b in edges])
        common = {"qid": i, "query": "a synthetic query", "vid": f"video{i}"}
        annotated.append(
            {
                **common,
                "duration": SECONDS,
                "relevant_windows": windows.tolist(),
                "relevant_clip_ids": clips.tolist(),
                "saliency_scores": rng.integers(0, 5, (len(clips), 3)).tolist(),
            }
        )
        moved = windows[rng.integers(len(windows), size=FLAGS.windows)] + rng.normal(0, 5, (FLAGS.windows, 2))
        spans = np.sort(np.clip(moved, 0, SECONDS)).round(1)
        scores = np.sort(rng.random(FLAGS.windows))[::-1].round(4)
        predicted.append(
            {
                **common,
                "pred_relevant_windows": np.column_stack([spans, scores]).tolist(),
                "pred_saliency_scores": rng.normal(size=annotations.CLIPS).tolist(),
            }
        )
    paths = folder / "predictions.jsonl", folder / "annotations.jsonl"
    for path, rows in zip(paths, (predicted, annotated)):
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return paths


def read_split(path):
    """The annotated queries as a split."""
    split = Split(path.stem, [], [], np.zeros(0, np.int32))
    owner = []
    for video in annotations.read_file(path, {}, Annotations({})):
        owner += [len(split.videos)] * len(video.queries)
        split.videos.append(Video(video.id, video.duration, {}))
        split.queries += [
            schema.Query(q.qid, q.text, q.span, windows=q.windows, saliency=q.saliency) for q in video.queries
        ]
    split.owner = np.asarray(owner, np.int32)
    return split


def timed(function, *arguments):
    """The result and the seconds of each run."""
    seconds = []
    for _ in range(FLAGS.repeats):
        start = time.perf_counter()
        result = function(*arguments)
        seconds.append(time.perf_counter() - start)
    return result, np.asarray(seconds)


def measure(predictions, annotated):
    """Prints one row a stage."""
    split, reading_annotations = timed(read_split, annotated)
    found, reading = timed(files.read, predictions)
    protocol = make_protocol(moment_detr.get_config("qvhighlights").evaluation)
    groups, scoring = timed(lambda: protocol.groups(split, protocol.read(split, found)))
    table = Table(
        title=f"numpy {np.__version__}, Python {platform.python_version()}, {platform.machine()}; "
        f"{len(split.queries)} queries, median of {FLAGS.repeats} (p10-p90)"
    )
    table.add_column("stage")
    table.add_column("ms", justify="right")
    for name, seconds in (
        ("read the annotations", reading_annotations),
        ("read the predictions", reading),
        ("compute all metrics", scoring),
        ("all", reading_annotations + reading + scoring),
    ):
        low, high = 1e3 * np.percentile(seconds, [10, 90])
        table.add_row(name, f"{1e3 * np.median(seconds):.1f} ({low:.1f}-{high:.1f})")
    console = Console(width=110)
    console.print(table)
    console.print(f"mAP {groups['full']['mAP']:.2f}, R@1,IoU=0.5 {groups['full']['R@1,IoU=0.5']:.2f}")


def main(_):
    """Measures the given files or synthetic ones."""
    if bool(FLAGS.predictions) != bool(FLAGS.annotations):
        raise UserError("--predictions and --annotations go together.")
    if FLAGS.predictions:
        measure(Path(FLAGS.predictions), Path(FLAGS.annotations))
    elif FLAGS.keep:
        Path(FLAGS.keep).mkdir(parents=True, exist_ok=True)
        measure(*write_synthetic(Path(FLAGS.keep)))
    else:
        with tempfile.TemporaryDirectory() as folder:
            measure(*write_synthetic(Path(folder)))


if __name__ == "__main__":
    run(main)
