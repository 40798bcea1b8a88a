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

import dataclasses
import functools
import importlib
import math
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import app, flags, logging
from machine import describe_machine
from rich.console import Console
from rich.table import Table
from stages import QUERY, VIDEO, Stages, split

from vmr_jax import models
from vmr_jax.input.spec import batch_spec
from vmr_jax.modes.inspect import abstract_variables
from vmr_jax.training.experiment import make_model
from vmr_jax.types import Batch, Moments

FLAGS = flags.FLAGS
flags.DEFINE_list("models", models.architectures(), "Configs to measure.")
flags.DEFINE_list("datasets", ["charades_sta", "activitynet_captions", "tacos"], "Their arguments.")
flags.DEFINE_list("batch_sizes", ["1", "256"], "Queries at once.")
flags.DEFINE_integer("words", 0, "Words of a query; 0: as many as the config keeps.")
flags.DEFINE_integer("rounds", 100, "Measurements of a stage, at most.")
flags.DEFINE_float("seconds", 2.0, "In which a stage is measured, and the longest round of many queries.")
flags.DEFINE_float("memory_gib", 8.0, "The most that a stage may take.")

_LEAST = 3  # measurements


class Stage(NamedTuple):
    """Measurements of a stage: its result, compile seconds, seconds of each round, bytes it takes."""

    result: Any
    compiling: float
    seconds: np.ndarray
    size: int

    def per_query(self, queries: int) -> str:
        """Median and spread in ms."""
        low, median, high = (_figure(1e3 * x / queries) for x in np.percentile(self.seconds, (10, 50, 90)))
        return f"{median} ({low}-{high})"


class TooLarge(Exception):
    """A stage would take more than `--memory_gib`."""


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


def rows(name: str, dataset: str) -> Iterator[tuple[tuple[str, ...], float]]:
    """The table's rows of an architecture, one a batch size, and the seconds of matching a query."""
    config = importlib.import_module(f"vmr_jax.configs.{name}").get_config(dataset)
    if FLAGS.words:
        config.text.max_words = FLAGS.words
    stages, variables, video, query = opened(config)
    try:
        encoded = measured(stages.video, variables, video)
        alone = of_queries(stages, variables, encoded.result, query, 1)
    except TooLarge as error:
        yield ("", f"skipped: {error}", "", "", "", ""), math.nan
        return
    for asked in map(int, FLAGS.batch_sizes):
        queries = largest(asked, *alone)
        text, match = alone if queries == 1 else of_queries(stages, variables, encoded.result, query, queries)
        medians = [float(np.median(stage.seconds)) / queries for stage in (text, match)]
        yield (
            (
                f"{asked}" if queries == asked else f"{queries} for {asked}",
                text.per_query(queries),
                match.per_query(queries),
                _figure(1e3 * sum(medians)),
                encoded.per_query(1),
                f"{encoded.compiling:.1f} + {text.compiling + match.compiling:.1f}",
            ),
            medians[1],
        )


def largest(asked: int, text: Stage, match: Stage) -> int:
    """The queries of a batch that the limits allow, judged by those of one."""
    size = max(text.size, match.size)
    seconds = max(float(np.median(stage.seconds)) for stage in (text, match))
    allowed = min(FLAGS.memory_gib * 2**30 / max(size, 1), FLAGS.seconds / seconds)
    return asked if asked <= allowed else 1 << max(int(allowed), 1).bit_length() - 1


# --- stages ---------------------------------------------------------------------------------------


def opened(config) -> tuple[Stages, Any, Any, Any]:
    """Stages of an architecture, and on the device: random variables, one video, one query."""
    model, rng = make_model(config), np.random.default_rng(0)

    def noise(s):
        return rng.standard_normal(s.shape, np.float32) if s.dtype == np.float32 else np.ones(s.shape, s.dtype)

    def weights(s):
        # Positive, as variances of batch norm must be, and a mean of what is before.
        return (rng.random(s.shape, np.float32) / max(math.prod(s.shape[:-1]), 1)).astype(s.dtype)

    batch = jax.tree.map(noise, batch_spec(config, 1, model.requires()))
    batch = dataclasses.replace(batch, duration=np.full(1, 30, np.float32))
    variables = jax.tree.map(weights, abstract_variables(config))
    video, query = (
        {name: getattr(batch, name) for name in names if getattr(batch, name) is not None}
        for names in (VIDEO, QUERY)
    )
    # With FVMR's score 'p+q' the teacher compares query and moments, so that they are no dual encoder.
    if isinstance(model, models.DualEncoder) and "score" in config.model and config.model.score != "p":
        stages = split(functools.partial(predict, model, batch), variables, video, query)
    elif isinstance(model, models.DualEncoder):
        stages = dual_stages(model, batch, config.evaluation.keep)
    else:
        stages = split(functools.partial(predict, model, batch), variables, video, query)
    return stages, *jax.device_put((variables, video, query))


def predict(model: models.GroundingModel, batch: Batch, variables, video, query) -> Moments:
    """The ranked moments of a batch with these fields of video and query."""
    batch = dataclasses.replace(batch, **video, **query)
    return model.predict(model.apply(variables, batch, train=False), batch)


def dual_stages(model: models.DualEncoder, batch: Batch, keep: int) -> Stages:
    """The stages of a dual encoder, as an index has them."""

    def encode_video(variables, video):
        vectors, spans, _ = model.apply(variables, dataclasses.replace(batch, **video), method="encode_moments")
        return [vectors[0], spans[0]]

    def encode_query(variables, query):
        return [model.apply(variables, dataclasses.replace(batch, **query), method="encode_query")[0]]

    def match(variables, of_video, of_query):
        (vectors, spans), (sentence,) = of_video, of_query
        scores, moments = jax.lax.top_k(vectors @ sentence, min(keep, len(vectors)))
        return Moments(spans=spans[moments], scores=scores)

    return Stages(encode_video, encode_query, match)


def of_queries(stages: Stages, variables, of_video, query, queries: int) -> tuple[Stage, Stage]:
    """Text encoding and matching of a batch of queries of one video."""
    query = jax.device_put(jax.tree.map(lambda x: np.broadcast_to(x, (queries, *x.shape)), query))
    text = measured(jax.vmap(stages.query, (None, 0)), variables, query)
    return text, measured(jax.vmap(stages.match, (None, None, 0)), variables, of_video, text.result)


def measured(function: Callable, *args) -> Stage:
    """Compiles and measures a function; TooLarge where it needs more memory than allowed."""
    start = time.perf_counter()
    compiled = jax.jit(function).lower(*args).compile()
    compiling = time.perf_counter() - start
    memory = compiled.memory_analysis()
    size = memory.temp_size_in_bytes + memory.output_size_in_bytes
    if size > FLAGS.memory_gib * 2**30:
        raise TooLarge(f"{size / 2**30:.1f} GiB")
    result, seconds = jax.block_until_ready(compiled(*args)), []
    while len(seconds) < _LEAST or (len(seconds) < FLAGS.rounds and sum(seconds) < FLAGS.seconds):
        start = time.perf_counter()
        jax.block_until_ready(compiled(*args))
        seconds.append(time.perf_counter() - start)
    return Stage(result, compiling, np.asarray(seconds), size)


# --- the report -----------------------------------------------------------------------------------


def _figure(x: float) -> str:
    """Three digits."""
    return f"{x:.3g}" if x < 100 else f"{x:,.0f}"


if __name__ == "__main__":
    app.run(main)
