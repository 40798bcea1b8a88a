"""Text encoding and matching of queries of one video: what `latency.py` and `accelerator.py` time."""

import dataclasses
import functools
import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from stages import QUERY, VIDEO, Stages, split

from vmr_jax import models
from vmr_jax.input.spec import batch_spec
from vmr_jax.modes.inspect import abstract_variables
from vmr_jax.training.experiment import make_model
from vmr_jax.types import Batch, Moments

_LEAST = 3  # measurements


class Limits(NamedTuple):
    """Of the measurements of a stage: rounds and seconds at most, three rounds at least, and its memory."""

    rounds: int
    seconds: float
    memory_gib: float


class Stage(NamedTuple):
    """Measurements of a stage: its result, compile seconds, seconds of each round, bytes it takes.

    `flops` and `traffic`, bytes read and written, are the compiler's, of one round.
    """

    result: Any
    compiling: float
    seconds: np.ndarray
    size: int
    flops: float
    traffic: float

    def per_query(self, queries: int) -> str:
        """Median and spread in ms."""
        low, median, high = (figure(1e3 * x / queries) for x in np.percentile(self.seconds, (10, 50, 90)))
        return f"{median} ({low}-{high})"


class TooLarge(Exception):
    """A stage would take more memory than is allowed."""


def largest(asked: int, text: Stage, match: Stage, limits: Limits) -> int:
    """The queries of a batch that the limits allow, judged by those of one."""
    size = max(text.size, match.size)
    seconds = max(float(np.median(stage.seconds)) for stage in (text, match))
    allowed = min(limits.memory_gib * 2**30 / max(size, 1), limits.seconds / seconds)
    return asked if asked <= allowed else 1 << max(int(allowed), 1).bit_length() - 1


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


def of_queries(stages: Stages, variables, of_video, query, queries: int, limits: Limits) -> tuple[Stage, Stage]:
    """Text encoding and matching of a batch of queries of one video."""
    query = jax.device_put(jax.tree.map(lambda x: np.broadcast_to(x, (queries, *x.shape)), query))
    text = measured(limits, jax.vmap(stages.query, (None, 0)), variables, query)
    return text, measured(limits, jax.vmap(stages.match, (None, None, 0)), variables, of_video, text.result)


def measured(limits: Limits, function: Callable, *args) -> Stage:
    """Compiles and measures a function; TooLarge where it needs more memory than allowed."""
    start = time.perf_counter()
    compiled = jax.jit(function).lower(*args).compile()
    compiling = time.perf_counter() - start
    memory = compiled.memory_analysis()
    size = memory.temp_size_in_bytes + memory.output_size_in_bytes
    if size > limits.memory_gib * 2**30:
        raise TooLarge(f"{size / 2**30:.1f} GiB")
    result, seconds = jax.block_until_ready(compiled(*args)), []
    while len(seconds) < _LEAST or (len(seconds) < limits.rounds and sum(seconds) < limits.seconds):
        start = time.perf_counter()
        jax.block_until_ready(compiled(*args))
        seconds.append(time.perf_counter() - start)
    cost = compiled.cost_analysis() or {}
    counts = (cost.get(name, math.nan) for name in ("flops", "bytes accessed"))
    return Stage(result, compiling, np.asarray(seconds), size, *counts)


def figure(x: float) -> str:
    """Three digits."""
    return f"{x:.3g}" if x < 100 else f"{x:,.0f}"
