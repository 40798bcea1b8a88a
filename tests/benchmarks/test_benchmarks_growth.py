"""Operations are counted as they are done, and the exponent is the slope of their logarithms."""

import jax
import jax.numpy as jnp
import pytest


@pytest.fixture(scope="module")
def growth(program):
    """The program."""
    return program("growth")


def test_operations_of_products_loops_and_branches(growth):
    def counted(function, *shapes):
        return growth.operations(jax.make_jaxpr(function)(*map(jnp.zeros, shapes)).jaxpr)

    # [2,3] times [3,3]: 6 numbers of 3 pairs.
    assert counted(jax.lax.dot, (2, 3), (3, 3)) == 36

    def loop(a, b):
        return jax.lax.scan(lambda x, _: (jax.lax.dot(x, b), None), a, None, length=5)[0]

    assert counted(loop, (2, 3), (3, 3)) == 5 * 36

    def branches(a, b):
        return jax.lax.switch(0, [jax.lax.dot, lambda a, b: jax.lax.dot(jax.lax.dot(a, b), b)], a, b)

    assert counted(branches, (2, 3), (3, 3)) == pytest.approx(72, abs=4)  # the dearer, and its index

    def convolution(x, kernel):  # 8 places of 5 features, each of 3 steps of 2 features
        return jax.lax.conv_general_dilated(x, kernel, (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC"))

    assert counted(convolution, (1, 8, 2), (3, 2, 5)) == 2 * 40 * 6


def test_the_exponent_is_a_slope(growth):
    assert growth.exponent((1, 2, 4), (3, 12, 48)) == pytest.approx(2)
    points = [(3.0, ""), (6.0, ""), (12.0, ""), (24.0, ""), (96.0, "")]  # doubles, and at last is four times
    said = growth.said("vslnet", "batch", points)
    assert "mathematics 1; operations exponent 1.2" in said and said.endswith("last 2.00  FASTER")
