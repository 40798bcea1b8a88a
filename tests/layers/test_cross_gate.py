"""The gates that two modalities set each other, by hand."""

import jax
import jax.numpy as jnp
import numpy as np

from vmr_jax.layers.cross_gate import CrossGate


def test_each_modality_sets_the_gate_of_the_other():
    gate = CrossGate(1, jnp.float32)
    params = {
        "words": {"kernel": jnp.full((1, 1), np.log(3))},
        "clips": {"kernel": jnp.full((1, 1), -np.log(3))},
    }
    # The words (1) open the clips' gate to 3/4, the clips (2) the words' gate to 1 / (1 + 9).
    found = jax.jit(gate.apply)({"params": params}, jnp.full((1, 1, 1), 2.0), jnp.ones((1, 1, 1)))
    np.testing.assert_allclose(found[0, 0], [1.5, 0.1], rtol=1e-6)
