"""Random numbers that compile in a third of the time of JAX's own, for tests that need no particular ones."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.random import define_prng_impl


def _mix(x):
    """One uint32 for each uint32, every bit of which depends on every bit (the finaliser of MurmurHash3)."""
    x = (x ^ x >> 16) * np.uint32(0x85EBCA6B)
    x = (x ^ x >> 13) * np.uint32(0xC2B2AE35)
    return x ^ x >> 16


def _hash(key, count):
    """Two uint32 for each uint32, a function of the key [2] and of it.

    Threefry, which JAX takes, is a loop in every program that draws, once for each place that does.
    """
    x = _mix(_mix(count + key[0]) + key[1])
    return x, x * np.uint32(0x9E3779B9) + count


def _place(shape):
    """The number of each place; of these as of JAX's only the first axis may be padded."""
    return _count(shape, shape)


def _coordinates(shape):
    """A number of each place of its coordinates alone, so that any axis may be padded."""
    return _count(shape, (np.uint32(0x9E3779B1),) * len(shape))


def _count(shape, factors):
    count = jnp.zeros(shape, jnp.uint32)
    for axis, factor in enumerate(factors):
        count = count * np.uint32(factor) + jax.lax.broadcasted_iota(jnp.uint32, shape, axis)
    return count


def _seed(seed):
    return jnp.stack([jnp.uint32(0), seed.astype(jnp.uint32)])


def _fold_in(key, number):
    return jnp.stack(_hash(key, number.astype(jnp.uint32)))


def _split(key, shape):
    return jnp.stack(_hash(key, _place(shape)), axis=-1)


def _random_bits(number, key, bit_width, shape):
    bits = _hash(key, number(shape))[0]
    return (bits >> 32 - bit_width).astype(f"uint{bit_width}")


def _key(name, number):
    """`jax.random.key` of draws that depend on what `number` gives each place of an array."""
    draws = define_prng_impl(
        key_shape=(2,),
        seed=_seed,
        split=_split,
        random_bits=functools.partial(_random_bits, number),
        fold_in=_fold_in,
        name=name,
        tag=name,
    )
    return functools.partial(jax.random.key, impl=draws)


simple_key = _key("simple", _place)
padded_key = _key("padded", _coordinates)
