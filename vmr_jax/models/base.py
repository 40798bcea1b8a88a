"""The contract: what the trainer, the evaluator and `launch.py` know of an architecture."""

import functools
from collections.abc import Collection, Mapping
from typing import Any, ClassVar

import flax.linen as nn
import jax
from flax.traverse_util import flatten_dict

from vmr_jax.errors import unknown
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

    A class of your own:

    >>> class WholeVideo(GroundingModel):
    ...     def __call__(self, batch, *, train):
    ...         return None
    ...     def predict(self, outputs, batch):
    ...         spans = jax.numpy.stack([0 * batch.duration, batch.duration], -1)[:, None]
    ...         return Moments(spans, jax.numpy.ones(spans.shape[:2]))
    >>> batch = Batch.of(duration=[30.0, 12.5], video=np.ones((2, 4, 3)))
    >>> WholeVideo().predict(None, batch).spans[1].tolist()
    [[0.0, 12.5]]

    Attributes:
      choices: field of text -> the values that it can have; of a tuple, those of its parts.
      positive: fields that must be above 0, beside those whose names say so (`vmr_jax.models.create`).
      shared_by_heads: field with a number of attention heads -> field with the width that they divide.
      of_evaluation: fields that neither parameters nor training depend on, which an evaluation may set anew.
    """

    choices: ClassVar[Mapping[str, Collection[str]]] = {}
    positive: ClassVar[tuple[str, ...]] = ()
    shared_by_heads: ClassVar[Mapping[str, str]] = {"heads": "features"}
    of_evaluation: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        """Raises UserError where a field is none of its `choices`, however the model is made."""
        kind = type(self)
        owner = kind.__module__.rpartition(".")[2] if kind.__qualname__ == "Model" else kind.__qualname__
        for field, known in self.choices.items():
            value = getattr(self, field)
            for part in value if isinstance(value, tuple) else (value,):
                if part not in known:
                    raise unknown(f"config.model.{field} of {owner} is", part, known)
        super().__post_init__()

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

    @property
    def needs_vocabulary(self) -> bool:
        """Whether this setting has a table of words.

        The field `vocab_size` is then the size of the training vocabulary, padding and unknown included; of the
        others it is 0 unless word vectors are trained.
        """
        return False

    def saliency(self, outputs: Outputs, batch: Batch) -> jax.Array:
        """Returns [B,T], how well each clip fits the query: what the protocol 'highlights' ranks."""
        raise NotImplementedError

    def explain(self, outputs: Outputs, batch: Batch) -> dict[str, jax.Array]:
        """Returns pictures for the report: 'map' [B,T,T] (start row, end column) or 'clips' [B,T].

        Scores in [0,1], NaN where there is no candidate.
        """
        return {}


class DualEncoder:
    """The extra protocol of an architecture whose score is a dot product of two encodings.

    Moments are then encoded once per video and never per query. Both are called through
    `model.apply(variables, batch, method='encode_moments')`.

    >>> vectors, spans, mask = run.model.apply(run.variables, batch, method="encode_moments")
    >>> queries = run.model.apply(run.variables, batch, method="encode_query")
    >>> (vectors @ queries[..., None]).shape[:2] == spans.shape[:2] == mask.shape
    True
    """

    dual_encoder: ClassVar[bool] = True

    def encode_moments(self, batch: Batch) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Returns vectors [B,M,E], spans [B,M,2] in seconds and mask [B,M]; reads no query field."""
        raise NotImplementedError

    def encode_query(self, batch: Batch) -> jax.Array:
        """Returns vectors [B,E]; reads no video field. Score = dot product with a moment's vector."""
        raise NotImplementedError


class CorpusRetriever:
    """The extra protocol of an architecture that finds the video too: what the protocol 'corpus' asks.

    Videos are encoded once; the scores of a moment, video and place in it, add up.

    >>> issubclass(vmr.models.model_class("xml"), CorpusRetriever)
    True
    """

    def encode_videos(self, batch: Batch) -> Any:
        """Returns a tree of arrays [B,...], what the other two need of a video; reads no query field."""
        raise NotImplementedError

    def score_videos(self, batch: Batch, videos: Any) -> jax.Array:
        """Returns [B,U], how well the queries fit the U videos of the tree; reads no video field."""
        raise NotImplementedError

    def localize(self, batch: Batch, videos: Any, video_mask: jax.Array, duration: jax.Array) -> Moments:
        """Returns K moments of query b in video b of the tree, with log scores; reads no video field.

        Args:
          batch: the queries.
          videos: the tree [B,...].
          video_mask: [B,T] of these videos.
          duration: [B] seconds, of these videos.
        """
        raise NotImplementedError


# Variables of a model.


def abstract_variables(model: GroundingModel, batch: Batch) -> dict[str, Any]:
    """Shapes and dtypes of the variables from a batch or its spec; nothing is computed."""
    return initializer(model).eval_shape(jax.random.key(0), batch)


def initializer(model: GroundingModel) -> Any:
    """The function (key, batch) -> initial variables, jitted; equal models share it, and one trace."""
    try:
        return _initializer(model)
    except TypeError:  # a field of a user's class has no hash
        return _initializer.__wrapped__(model)


@functools.lru_cache(maxsize=2)
def _initializer(model: GroundingModel) -> Any:
    return jax.jit(lambda key, batch: model.init(key, batch, train=True))


def first_difference(ours: Any, theirs: Any) -> tuple[str, Any, Any] | None:
    """The first path of two trees with another shape: the path and both shapes, 'absent' where one lacks it."""
    wanted, found = (flatten_dict(tree, sep="/") for tree in (ours, theirs))
    for path in sorted(wanted.keys() | found.keys()):
        shapes = [tree[path].shape if path in tree else "absent" for tree in (wanted, found)]
        if shapes[0] != shapes[1]:
            return path, *shapes
    return None
