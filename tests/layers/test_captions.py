"""Sentences as ids, soft masks and the beam search, by hand and against every sentence that there is."""

import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from batches import random_batch

from vmr_jax.layers.captions import CaptionGenerator, sentences_of, soft_masks


def test_sentences_begin_and_end():
    batch = random_batch(size=2, words=3, fill=0).replace(
        query=np.array([[5, 9, 0], [2, 1, 4]]), query_mask=np.array([[True, True, False], [True, True, True]])
    )
    # Five classes: end, unknown, words 2 and 3, start. Words 5 and 9 are none of them.
    ids, mask = sentences_of(batch, 5)
    assert ids.tolist() == [[4, 1, 1, 0, 0], [4, 2, 1, 1, 0]]
    assert mask.tolist() == [[True] * 4 + [False], [True] * 5]


def test_soft_masks():
    """A segment from clip 1 to clip 3 with the slope log 3: sigmoids of its ends are powers of 3."""
    mask = np.array([True, True, True, False])
    found = soft_masks(jnp.array([2.0, 2.0]), mask, np.log(3))
    # Clip 0: start is 1 behind, end 3 behind: 1 / (1 + 1/3), 1/(1+3) - 1/(1+27), 1/(1+27), and so on.
    left = np.array([3 / 4, 1 / 2, 1 / 4, 0])
    right = np.array([1 / 28, 1 / 10, 1 / 4, 0])
    np.testing.assert_allclose(found, [left, np.where(mask, 1 - left - right, 0), right], rtol=1e-5)


def test_the_search_finds_the_likeliest_sentence():
    """With as many beams as there are beginnings it is the best of all sentences of up to three words."""
    classes, words = 4, 3
    generator = CaptionGenerator(classes, 3, 4, 2, 0.1, 0.0, jnp.float32)
    rng = np.random.default_rng(0)
    context, first = rng.normal(size=(3, 12)), rng.normal(size=(3, 2, 4))
    context, first = context.astype(np.float32), first.astype(np.float32)

    def start(module):
        module.encode(jnp.zeros((3, 2, 5)), jnp.ones((3, 2), bool), jnp.arange(3), False)
        return module.search(context, first, 1, 1)

    shapes = jax.eval_shape(lambda: nn.init(start, generator)(jax.random.key(0)))
    params = jax.tree.map(lambda x: (2 * rng.normal(size=x.shape)).astype(np.float32), shapes["params"])
    # A sentence ends with 0 or runs at its third word; the start, 3, is a class too.
    ended = [(*s, 0) for n in range(words) for s in itertools.product(range(1, classes), repeat=n)]
    every = [*ended, *itertools.product(range(1, classes), repeat=words)]

    @jax.jit
    def run(params):
        def both(module):
            rows = len(every)
            table = jnp.asarray([[3, *s, *[0] * (words - len(s))] for s in every])[:, :-1]
            wanted = jnp.asarray([[*s, *[0] * (words - len(s))] for s in every])
            length = jnp.asarray([len(s) for s in every])
            totals = []
            for z in range(3):
                repeated = (jnp.repeat(x[z : z + 1], rows, axis=0) for x in (context, first))
                steps = module.teach(table, *repeated, jnp.arange(rows), False)
                chosen = jnp.take_along_axis(steps, wanted[..., None], axis=2)[..., 0]
                totals.append(jnp.where(jnp.arange(words)[None] < length[:, None], chosen, 0).sum(1))
            return jnp.stack(totals), module.search(context, first, words, 27)

        return nn.apply(both, generator)({"params": params})

    totals, (ids, mask) = run(params)
    for z in range(3):
        best = [x for x in every[int(totals[z].argmax())] if x]
        assert np.asarray(ids)[z][np.asarray(mask)[z]].tolist() == best
