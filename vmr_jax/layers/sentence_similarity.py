"""How alike two sentences of word ids are, for rewards and pseudo-labels that are computed while training."""

import jax
import jax.numpy as jnp


def meteor(found: jax.Array, found_mask: jax.Array, wanted: jax.Array, wanted_mask: jax.Array) -> jax.Array:
    """METEOR [...] of sentences [...,L] with sentences [...,L'], 0 to 1, of words that are exactly the same.

    Precision P and recall R of the words make P R / (0.85 P + 0.15 R), less a share 0.6 (chunks / matches)^0.2
    of it: a word starts a new chunk unless it and the one before it are neighbours in the other sentence too
    (Denkowski and Lavie, 2014, parameters for English; without stems, synonyms and paraphrases, and all words
    alike). Words past a mask do not count.
    """
    matches = _common(found, found_mask, wanted, wanted_mask)
    pairs = [
        (words[..., :-1] * _PAIR + words[..., 1:], mask[..., 1:])
        for words, mask in ((found, found_mask), (wanted, wanted_mask))
    ]
    neighbours = _common(*pairs[0], *pairs[1])
    precision, recall = (matches / jnp.maximum(mask.sum(-1), 1) for mask in (found_mask, wanted_mask))
    mean = precision * recall / jnp.maximum(_ALPHA * precision + (1 - _ALPHA) * recall, 1e-9)
    chunks = jnp.maximum(matches - neighbours, 1)
    penalty = _GAMMA * (chunks / jnp.maximum(matches, 1)) ** _BETA
    return mean * (1 - penalty)


_ALPHA, _BETA, _GAMMA = 0.85, 0.2, 0.6
_PAIR = 2**15  # ids are below, so that a pair is one number


def _common(found: jax.Array, found_mask: jax.Array, wanted: jax.Array, wanted_mask: jax.Array) -> jax.Array:
    """Number [...] of ids that both have, each as often as both have it."""

    def before(x, mask):
        """How often the same id stands earlier."""
        earlier = jnp.tri(x.shape[-1], k=-1, dtype=bool).reshape(*(1,) * (x.ndim - 1), x.shape[-1], x.shape[-1])
        return ((x[..., :, None] == x[..., None, :]) & mask[..., None, :] & earlier).sum(-1)

    same = (found[..., :, None] == wanted[..., None, :]) & wanted_mask[..., None, :]
    return (found_mask & (before(found, found_mask) < same.sum(-1))).sum(-1)
