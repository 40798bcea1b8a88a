"""The contract: what the trainer, the evaluator and `launch.py` know of an architecture."""

from typing import Any, ClassVar

import flax.linen as nn
import jax

from vmr_jax.types import Batch, Mean, Moments

Outputs = Any  # a flax.struct dataclass of the architecture's own file


class GroundingModel(nn.Module):
    """Finds the moment that a sentence describes. Fields are hyper-parameters, defaults the paper's.

    Three pure methods carry everything, weak supervision, reinforcement learning, contrast between the
    examples of a batch and distillation included:

    - `__call__` maps a batch to the outputs of the network (jitted, differentiable);
    - `loss` maps outputs to named means; the training objective is the sum of their values, each
      divided once, after the sum over devices. Weights are already inside;
    - `predict` maps outputs to ranked moments in seconds.
    """

    def __call__(self, batch: Batch, *, train: bool) -> Outputs:
        """Runs the network."""
        raise NotImplementedError

    def loss(self, outputs: Outputs, batch: Batch, *, epoch: jax.Array) -> dict[str, Mean]:
        """Returns the terms of the objective. `epoch` is the 0-based int32 epoch of the step."""
        raise NotImplementedError

    def predict(self, outputs: Outputs, batch: Batch) -> Moments:
        """Returns the candidate moments, best first, before NMS (which is the protocol's)."""
        raise NotImplementedError

    def requires(self) -> tuple[str, ...]:
        """Names the optional `Batch` fields that this setting cannot do without."""
        return ()

    def explain(self, outputs: Outputs, batch: Batch) -> dict[str, jax.Array]:
        """Returns pictures for the report: 'map' [B,T,T] (start row, end column) or 'clips' [B,T].

        Scores in [0,1], NaN where there is no candidate.
        """
        return {}


class DualEncoder:
    """The extra protocol of an architecture whose score is a dot product of two encodings.

    Moments are then encoded once per video and never per query. Both are called through
    `model.apply(variables, batch, method='encode_moments')`.
    """

    dual_encoder: ClassVar[bool] = True

    def encode_moments(self, batch: Batch) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Returns vectors [B,N,D], spans [B,N,2] in seconds and mask [B,N]; reads no query field."""
        raise NotImplementedError

    def encode_query(self, batch: Batch) -> jax.Array:
        """Returns vectors [B,D]; reads no video field. Score = dot product with a moment's vector."""
        raise NotImplementedError
