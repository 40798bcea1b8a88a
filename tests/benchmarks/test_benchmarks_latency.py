"""The stages of the latency benchmark do, one after the other, what the whole architecture does."""

import dataclasses

import cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from batches import random_batch

from benchmarks import stages
from vmr_jax import models
from vmr_jax.types import Batch


def test_every_field_is_of_the_video_or_the_query_or_of_neither():
    annotations = {"span", "windows", "window_mask", "context", "saliency"}
    neither = {*annotations, "example_mask", "example_index", "video_index"}
    known = [*stages.VIDEO, *stages.QUERY, *neither]
    assert sorted(known) == sorted(field.name for field in dataclasses.fields(Batch))


def test_a_step_is_done_where_all_that_it_reads_is_known():
    weights, clips, words = (
        np.ones((4, 4), np.float32),
        np.ones((5, 4), np.float32),
        np.ones((3, 4), np.float32),
    )

    @jax.jit  # a call that mixes both must not hide what is inside it
    def whole(weights, clips, words):
        query = jnp.tanh(words @ jnp.exp(weights)).sum(0)  # [4]
        moments = jnp.cos(clips @ weights)  # [5,4]
        spread = jnp.broadcast_to(query[None], moments.shape)
        return {"scores": (jnp.where(moments > 0, moments, 0.0) * spread).sum(1), "clips": clips}

    parts = stages.split(whole, weights, clips, words)
    of_video, of_query = parts.video(weights, clips), parts.query(weights, words)
    # The query goes over as one vector, not as the map; clips are a result, so they go over too.
    assert sorted(x.shape for x in of_video) == [(5, 4), (5, 4)]
    assert [x.shape for x in of_query] == [(4,)]
    steps = {name: str(jax.make_jaxpr(getattr(parts, name))(*given)) for name, given in (
        ("video", (weights, clips)), ("query", (weights, words)), ("match", (weights, of_video, of_query)),
    )}  # fmt: skip
    known = ("cos", "tanh", "exp", "reduce_sum")
    found = {name: {word for word in known if f" {word}" in text} for name, text in steps.items()}
    assert found == {"video": {"cos"}, "query": {"tanh", "exp", "reduce_sum"}, "match": {"reduce_sum"}}
    expected = whole(weights, clips, words)
    result = parts.match(weights, of_video, of_query)
    jax.tree.map(np.testing.assert_allclose, result, expected)


@pytest.mark.parametrize("name", ["two_d_tan", "fvmr", "vslnet", "tsp_prl"])
def test_stages_are_the_whole(name):
    batch = random_batch(size=2, fill=0)
    model = models.create(name, **cases.ALL[name].SMALL)
    shapes = jax.eval_shape(lambda key: model.init(key, batch, train=True), jax.random.key(0))
    rng = np.random.default_rng(0)
    variables = jax.tree_util.tree_map_with_path(
        # Variances of batch norm are positive.
        lambda path, x: rng.uniform(-0.5 if path[0].key == "params" else 0.1, 0.5, x.shape).astype(x.dtype),
        shapes,
    )

    def whole(variables, video, query):
        """One row of the batch alone."""
        given = dataclasses.replace(one, **video, **query)
        return model.predict(model.apply(variables, given, train=False), given)

    one, other = (jax.tree.map(lambda x: x[i : i + 1], batch) for i in (0, 1))  # noqa: B023
    video, query, next_query = (
        {field: getattr(row, field) for field in fields}
        for row, fields in ((one, stages.VIDEO), (one, stages.QUERY), (other, stages.QUERY))
    )
    parts = stages.split(whole, variables, video, query)
    of_video = jax.jit(parts.video)(variables, video)
    # Two queries of one video: what is made of the video is shared.
    queries = jax.tree.map(lambda *x: np.stack(x), query, next_query)
    of_queries = jax.jit(jax.vmap(parts.query, (None, 0)))(variables, queries)
    found = jax.jit(jax.vmap(parts.match, (None, None, 0)))(variables, of_video, of_queries)
    for i, text in enumerate((query, next_query)):
        expected = jax.jit(whole)(variables, video, text)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a[i], b, atol=1e-5), found, expected)  # noqa: B023
    assert of_video and of_queries
