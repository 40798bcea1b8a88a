"""What a query costs on the Charades-STA CLIP re-split, and the picture of accuracy against that cost.

    python benchmarks/real_cost.py        # every architecture of results/charades_clip.csv; some ten minutes

Measured as benchmarks/latency.py does, one query of one video at the sizes of benchmarks/real_config.py, with
random weights: it needs no dataset and no TensorFlow. One that `--output` has is not measured again.
Then `--picture` is drawn: R@1,IoU=0.5 in % on test, the mean over the seeds of the `--budget`, over text
encoding and matching together (what is done once a video is not in it), and the best span of the prior.
"""

import statistics
from collections.abc import Iterable
from pathlib import Path

import jax
import numpy as np
from absl import flags, logging
from figure import Row, picture
from lines import Lines, check_folder, read_rows
from machine import command_and_commit, describe_machine
from program import run
from queries import Limits, measured, of_queries, opened
from real_config import get_config

from vmr_jax.evaluation.rows import PRIOR

FLAGS = flags.FLAGS
LIMITS = Limits(rounds=100, seconds=2.0, memory_gib=8.0)
STAGES = ("text_encoding_ms", "matching_ms", "once_a_video_ms")
COLUMNS = ("model", *STAGES, "command", "commit", "versions", "machine")


def main(_):
    """Measures what is not there yet, and draws."""
    logging.set_verbosity(logging.WARNING)
    check_folder(Path(FLAGS.picture))
    runs = read_rows(Path(FLAGS.results))
    accuracy = of_budget(runs, FLAGS.budget)
    lines = Lines(Path(FLAGS.output), COLUMNS, ("model",))
    for name in accuracy:
        if not lines.has(name):
            lines.append([measure(name)])
            print(", ".join(lines.rows[-1][column] for column in COLUMNS[:4]), flush=True)
    rows = [
        Row(
            "Charades-STA CLIP re-split",
            model,
            float(row[STAGES[0]]),
            float(row[STAGES[1]]),
            accuracy[model],
            "",
        )
        for row in lines.rows
        if (model := row["model"]) in accuracy
    ]
    (prior,) = (float(row["r1_iou05"]) for row in runs if row["row"] == PRIOR)
    Path(FLAGS.picture).write_text(picture(rows, 820, 520, (PRIOR, prior)), encoding="utf-8")


def of_budget(rows: Iterable[dict[str, str]], budget: float) -> dict[str, float]:
    """Architecture -> mean R@1,IoU=0.5 on test over the seeds of a budget in CPU minutes."""
    found: dict[str, list[float]] = {}
    for row in rows:
        if row["split"] == "test" and row["budget"] and float(row["budget"]) == budget:
            found.setdefault(row["row"], []).append(float(row["r1_iou05"]))
    return {name: statistics.mean(values) for name, values in found.items()}


def measure(name: str) -> dict[str, str]:
    """The line of an architecture."""
    stages, variables, video, query = opened(get_config(name))
    encoded = measured(LIMITS, stages.video, variables, video)
    text, match = of_queries(stages, variables, encoded.result, query, 1, LIMITS)
    times = (f"{1e3 * float(np.median(stage.seconds)):.4g}" for stage in (text, match, encoded))
    return {
        "model": name,
        **dict(zip(STAGES, times, strict=True)),
        **command_and_commit(["benchmarks/real_cost.py"]),
        "versions": f"jax {jax.__version__}",
        "machine": describe_machine(),
    }


def define_flags(holder: flags.FlagValues) -> None:
    """The flags of the program."""
    into = "Gets a line for each architecture."
    flags.DEFINE_string(
        "results", "results/charades_clip.csv", "Lines of benchmarks/real.py.", flag_values=holder
    )
    flags.DEFINE_string("output", "results/charades_clip_cost.csv", into, flag_values=holder)
    flags.DEFINE_string("picture", "docs/charades_clip.svg", "Is drawn anew.", flag_values=holder)
    flags.DEFINE_float("budget", 3.0, "CPU minutes of the runs that are drawn.", flag_values=holder)


if __name__ == "__main__":
    run(main, define_flags)
