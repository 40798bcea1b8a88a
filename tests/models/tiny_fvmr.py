"""Batches, variables and a step of the tiny FVMR of its tests."""

import jax
import jax.numpy as jnp
import numpy as np

from vmr_jax.parallel import sum_over_devices
from vmr_jax.types import Batch, Tree

# D differs from F, and no two axes of a batch are equal, so that a mix-up of axes is an error.
TINY = {"features": 8, "common": 10, "num_clips": 4, "scale_layers": (4,)}
CELLS = 10  # valid cells of 4 clips: 4 + 3 + 2 + 1


def make_batch(b=3, t=12, length=7, v=2, n=5, seed=0) -> Batch:
    """A random batch (numpy) with ragged queries and trees; its first query has no verb."""
    rng = np.random.default_rng(seed)
    words = rng.integers(2, length + 1, b)
    query_mask = np.arange(length)[None] < words[:, None]
    verb_words = (rng.random((b, v, length)) < 0.3) & query_mask[:, None]
    verb_words[1:, 0, 0] = True
    verb_words[0] = False
    noun_words = (rng.random((b, n, length)) < 0.3) & query_mask[:, None]
    edges = (rng.random((b, v, n)) < 0.6) & verb_words.any(-1)[:, :, None] & noun_words.any(-1)[:, None]
    duration = rng.uniform(5, 30, b).astype(np.float32)
    span = np.sort(rng.random((b, 2)), axis=-1).astype(np.float32) * duration[:, None]
    return Batch(
        video=rng.normal(size=(b, t, 6)).astype(np.float32),
        video_mask=np.arange(t)[None] < rng.integers(t // 2, t + 1, b)[:, None],
        duration=duration,
        query=rng.integers(2, 20, (b, length)).astype(np.int32) * query_mask,
        query_vectors=rng.normal(size=(b, length, 9)).astype(np.float32) * query_mask[..., None],
        query_mask=query_mask,
        span=span,
        example_mask=np.ones(b, bool),
        example_index=np.arange(b, dtype=np.int32),
        video_index=np.arange(b, dtype=np.int32),
        tree=Tree(verb_words=verb_words, noun_words=noun_words, edges=edges),
    )


def random_variables(model, batch, seed=0):
    """Variables of the right shapes, drawn by numpy (compiling `init` takes seconds).

    Nothing is left at the 0 or 1 at which biases, scales and running statistics would start.
    """
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), batch, train=True))

    def draw(path, x):
        fan_in = int(np.prod(x.shape[:-1])) if len(x.shape) > 1 else 4
        around_one = path[-1].key in ("scale", "var")
        return np.float32(rng.uniform(-1, 1, x.shape) / fan_in**0.5 + around_one)

    return jax.tree.map_with_path(draw, shapes)


def sum_of_means(terms):
    """The share of this device in the objective: local sums over global counts."""
    counts = sum_over_devices({name: term.count for name, term in terms.items()})
    return sum(term.sum / counts[name] for name, term in terms.items())


def train_step(model, variables, batch):
    """The terms, the gradient of the objective, and the new batch statistics, summed over devices."""

    def objective(params):
        outputs, updates = model.apply(
            {**variables, "params": params}, batch, train=True, mutable=["batch_stats"]
        )
        terms = model.loss(outputs, batch, epoch=jnp.int32(8))
        return sum_of_means(terms), (terms, updates)

    (_, (terms, updates)), grads = jax.value_and_grad(objective, has_aux=True)(variables["params"])
    return *sum_over_devices((terms, grads)), updates
