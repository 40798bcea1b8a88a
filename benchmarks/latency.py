"""Milliseconds per query, divided as in the FVMR paper: text encoding, cross-modal matching, and both.

    python benchmarks/latency.py                                            # all; 20 min on two CPU cores
    python benchmarks/latency.py --datasets=charades_sta                    # the smallest; 3 min
    python benchmarks/latency.py --models=fvmr,two_d_tan --datasets=tacos   # what the paper compares

Random weights and features of the shapes of each config, so it needs no dataset and no TensorFlow. All queries
are of one video, and as long as the config allows. What is done once a video stands apart. The stages come from
the trace of the architecture (`benchmarks/stages.py`): what depends on the query alone is text encoding; what
depends on video and query, up to the ranked moments, is matching. Of a dual encoder they are `encode_moments`,
`encode_query`, and the dot products with the best `config.evaluation.keep` of them, as search has it.

A figure is the time of a batch divided by its queries, dispatch included: median and 10th to 90th percentile of
the rounds, at least three, then as many as `--seconds` allow. Compile seconds are apart: of the video's stage
and of the two others. Where many queries would take more than `--memory_gib`, or a round of them more than
`--seconds`, the largest power of two that does not is measured: '4 for 256'.
"""

import importlib
import math
import sys
from collections.abc import Iterator

import numpy as np
from absl import flags, logging
from machine import describe_machine
from program import run, whole
from queries import Limits, TooLarge, figure, largest, measured, of_queries, opened
from rich.console import Console
from rich.table import Table

from vmr_jax import models

FLAGS = flags.FLAGS
flags.DEFINE_list("models", models.architectures(), "Configs to measure.")
flags.DEFINE_list("datasets", ["charades_sta", "activitynet_captions", "tacos"], "Their arguments.")
flags.DEFINE_list("batch_sizes", ["1", "256"], "Queries at once.")
flags.DEFINE_integer("words", 0, "Words of a query; 0: as many as the config keeps.")
flags.DEFINE_integer("rounds", 100, "Measurements of a stage, at most.")
flags.DEFINE_float("seconds", 2.0, "In which a stage is measured, and the longest round of many queries.")
flags.DEFINE_float("memory_gib", 8.0, "The most that a stage may take.")


def main(_):
    """Prints a table for each dataset."""
    logging.set_verbosity(logging.WARNING)
    console = Console(width=150, highlight=False, soft_wrap=True)
    console.print(f"python {' '.join(sys.argv)}\n{describe_machine()}")
    for dataset in FLAGS.datasets:
        table = Table(title=f"{dataset}: ms per query, median (p10-p90)")
        for column in ("model", "queries", "text", "matching", "total", "once a video", "compile s"):
            table.add_column(column, justify="left" if column == "model" else "right")
        matching: dict[str, list[float]] = {}
        for name in FLAGS.models:
            matching[name] = []
            for row, seconds in rows(name, dataset):
                table.add_row(name, *row)
                matching[name].append(seconds)
        console.print(table)
        if {"fvmr", "two_d_tan"} <= matching.keys():
            times = [f"{b / a:,.0f}" for a, b in zip(matching["fvmr"], matching["two_d_tan"])]
            console.print(f"matching of 2D-TAN / matching of FVMR, row by row: {', '.join(times)}")


def limits_of_flags() -> Limits:
    """Those that the flags set."""
    return Limits(FLAGS.rounds, FLAGS.seconds, FLAGS.memory_gib)


def rows(name: str, dataset: str) -> Iterator[tuple[tuple[str, ...], float]]:
    """The table's rows of an architecture, one a batch size, and the seconds of matching a query."""
    config = importlib.import_module(f"vmr_jax.configs.{name}").get_config(dataset)
    if FLAGS.words:
        config.text.max_words = FLAGS.words
    stages, variables, video, query = opened(config)
    limits = limits_of_flags()
    try:
        encoded = measured(limits, stages.video, variables, video)
        alone = of_queries(stages, variables, encoded.result, query, 1, limits)
    except TooLarge as error:
        yield ("", f"skipped: {error}", "", "", "", ""), math.nan
        return
    for asked in whole("--batch_sizes", FLAGS.batch_sizes):
        queries = largest(asked, *alone, limits)
        given = (stages, variables, encoded.result, query, queries)
        text, match = alone if queries == 1 else of_queries(*given, limits)
        medians = [float(np.median(stage.seconds)) / queries for stage in (text, match)]
        yield (
            (
                f"{asked}" if queries == asked else f"{queries} for {asked}",
                text.per_query(queries),
                match.per_query(queries),
                figure(1e3 * sum(medians)),
                encoded.per_query(1),
                f"{encoded.compiling:.1f} + {text.compiling + match.compiling:.1f}",
            ),
            medians[1],
        )


if __name__ == "__main__":
    run(main)
