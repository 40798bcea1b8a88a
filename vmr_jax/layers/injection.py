"""Visual-dynamic injection: what an encoder of sentences learns from frames, in training alone.

The plug-in of VDI (Luo et al., CVPR 2023), for any architecture that encodes a sentence as one vector. The
encoder also reads the dynamic query, the sentence without its noun chunks, which shall say what the static
query, the noun chunks, finds in the frames (`VisualContext`); and two dynamic queries shall be as alike as the
movements in their videos (`SpatialDynamics`). Nothing of either is left at test. Equations are those of the
paper; what it leaves open stands on the card of `vmr_jax.models.vdi`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from flax import struct

from vmr_jax.errors import UserError
from vmr_jax.layers.norm import l2_normalize
from vmr_jax.layers.recurrent import LSTM, mean_state
from vmr_jax.layers.transformer import DecoderLayer, EncoderLayer, sine_positions
from vmr_jax.parallel import gather_examples
from vmr_jax.types import Array, Batch, Mean

CHOICES = {
    "context": ("static", "query", "video", "off"),
    "dynamics": ("transformer", "lstm", "off"),
    "test_query": ("query", "static", "dynamic"),
}


@struct.dataclass
class Injected:
    """The two comparisons of the injections; None where one is off."""

    context_gap: Array | None = None  # [B] float32, squared distance of Eq. 2
    movement: Array | None = None  # [B,F] float32 unit vectors, m~ of Eq. 4
    dynamic: Array | None = None  # [B,F] float32 unit vectors, FC(x^qd) of Eq. 5


class VisualContext(nn.Module):
    """Visual context injection: what a query finds in the frames, and how far the dynamic query is from it.

    Attributes:
      features: F, width of a sentence.
      heads: number of attention heads.
      hidden: width inside the feed-forward network.
      dropout: dropout rate of the decoder layer.
      dtype: number format of the layers; the distance is float32.
    """

    features: int
    heads: int
    hidden: int
    dropout: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, dynamic: Array, probe: Array | None, batch: Batch) -> Array:
        """Returns [B], the squared distance of the dynamic query [B,F] from the context of `probe` [B,F].

        Where `probe` is None it is a learned vector.
        """
        if probe is None:
            probe = self.param("probe", nn.initializers.normal(1.0), (self.features,))
            probe = jnp.broadcast_to(probe[None], dynamic.shape).astype(self.dtype)
        decoder = DecoderLayer(self.features, self.heads, self.hidden, self.dropout, self.dtype, name="decoder")
        context = decoder(  # Eq. 1
            probe[:, None],
            batch.video.astype(self.dtype),
            jnp.ones((batch.size, 1), bool),
            batch.video_mask,
            batch.example_index,
            train=True,
            memory_positions=sine_positions(batch.video_mask, batch.video.shape[-1]),
        )[:, 0]
        gap = nn.Dense(self.features, dtype=self.dtype, name="dynamic")(dynamic) - context
        return jnp.square(gap.astype(jnp.float32)).sum(-1)  # Eq. 2


class SpatialDynamics(nn.Module):
    """Spatial dynamic injection: how the places that stand out move, and the dynamic query in the same space.

    Attributes:
      sequence: sequence model over the frames, 'transformer' or 'lstm'.
      features: F, width of a sentence.
      heads: number of attention heads of the transformer.
      hidden: width inside its feed-forward network.
      dropout: dropout rate of the transformer.
      dtype: number format of the layers; the result is float32.
    """

    sequence: str
    features: int
    heads: int
    hidden: int
    dropout: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, dynamic: Array, batch: Batch) -> tuple[Array, Array]:
        """Returns unit vectors [B,F] of the movement in a video and of its dynamic query [B,F]."""
        objects: Any = batch.objects  # the patches of a frame [B,T,O,D]
        object_mask: Any = batch.object_mask
        frames = self._dense("frame", batch.video.astype(self.dtype))
        patches = self._dense("patch", objects.astype(self.dtype))
        scale = jnp.sqrt(self.features).astype(self.dtype)
        heat = jnp.einsum("btf,btof->bto", frames, patches) / scale  # Eq. 3
        x = self._dense("heat", jnp.where(object_mask, heat, 0))  # Eq. 4, m_i
        if self.sequence == "lstm":
            x = LSTM(self.features, dtype=self.dtype, name="lstm")(x, batch.video_mask)
        else:
            layer = EncoderLayer(
                self.features, self.heads, self.hidden, self.dropout, self.dtype, name="encoder"
            )
            positions = sine_positions(batch.video_mask, self.features)
            x = layer(x, batch.video_mask, batch.example_index, train=True, positions=positions)
        movement = mean_state(x, batch.video_mask)  # Eq. 4, m~
        dynamic = self._dense("dynamic", dynamic)
        return l2_normalize(movement.astype(jnp.float32)), l2_normalize(dynamic.astype(jnp.float32))

    def _dense(self, name: str, x: Array) -> Array:
        return nn.Dense(self.features, dtype=self.dtype, name=name)(x)


def consistency(movement: Array, dynamic: Array) -> Array:
    """Eq. 5: (cosine of movements - cosine of dynamic queries)^2 of all pairs, [B,B'].

    Rows are the local examples of unit vectors [B,F], columns B' those of all devices.
    """

    def cosines(vectors):
        return jnp.einsum("bf,cf->bc", vectors, gather_examples(vectors), precision="highest")

    return jnp.square(cosines(movement) - cosines(dynamic))


def close_up(tokens: Array, kept: Array) -> tuple[Array, Array]:
    """Moves the kept tokens of [B,L,...] to the left, in order; returns them and their mask [B,L]."""
    order = jnp.argsort(~kept, axis=1, stable=True)
    index = order.reshape(order.shape + (1,) * (tokens.ndim - 2))
    return jnp.take_along_axis(tokens, index, axis=1), jnp.take_along_axis(kept, order, axis=1)


# How an architecture carries them.


class Injections(nn.Module):
    """Fields and methods that an architecture inherits to carry both; they are off unless it says otherwise.

    In `setup` it sets `visual_context` and `spatial_dynamics` to the `injection_parts`. In `__call__` it
    encodes the `queries`, which `read_queries` puts below each other, and gives their vectors to
    `inject`. Its loss has the `injection_terms`, and it requires the `injection_fields`.

    Attributes:
      context: source of the vector that probes the frames in L_vc: 'static' query, whole 'query', or 'video', a
        learned vector without a query; 'off' leaves L_vc out.
      dynamics: sequence model that reads the heat maps in L_sd, 'transformer' or 'lstm'; 'off' leaves L_sd out.
      context_weight: lambda_vc, weight of L_vc.
      dynamics_weight: lambda_sd, weight of L_sd.
      plugin_heads: number of attention heads of both transformers of the injections.
      plugin_hidden: width inside their feed-forward networks.
      plugin_dropout: dropout rate of both.
      test_query: query that moments are retrieved with: 'query', the whole one, 'static' or 'dynamic'.
      dtype: number format of the layers; distances and losses are float32.
    """

    context: str = "off"
    dynamics: str = "off"
    context_weight: float = 0.5
    dynamics_weight: float = 0.01
    plugin_heads: int = 8
    plugin_hidden: int = 2048
    plugin_dropout: float = 0.1
    test_query: str = "query"
    dtype: jnp.dtype = jnp.float32

    def injection_parts(self, width: int) -> tuple[VisualContext | None, SpatialDynamics | None]:
        """The parts that train a sentence of `width` numbers; None where one is off.

        Raises UserError where the attention heads cannot share that width.
        """
        plugin = (width, self.plugin_heads, self.plugin_hidden, self.plugin_dropout, self.dtype)
        if self._injected() and width % self.plugin_heads:
            raise UserError(
                f"config.model.plugin_heads is {self.plugin_heads}, and a sentence is {width} wide here, which "
                "so many attention heads of the injections cannot share equally. Set it to a divisor."
            )
        return (
            VisualContext(*plugin) if self.context != "off" else None,
            SpatialDynamics(self.dynamics, *plugin) if self.dynamics != "off" else None,
        )

    def queries(self, train: bool) -> tuple[str, ...]:
        """Names of the queries to encode: the one to retrieve with, and in training those of the injections."""
        return ("query", *self._injected()) if train else (self.test_query,)

    def _injected(self) -> tuple[str, ...]:
        static = ("static",) if self.context == "static" else ()
        return (*static, "dynamic") if (self.context, self.dynamics) != ("off", "off") else ()

    def read_queries(
        self, batch: Batch, kinds: Sequence[str], tokens: Array, mask: Array, *, subwords: bool = False
    ) -> tuple[Array, Array]:
        """The tokens and the masks of n queries `kinds`, below each other: [n B,L,...] and [n B,L].

        The whole query has `tokens` [B,L,...] and `mask` [B,L]; they are word vectors or, with `subwords`, ids.
        """

        def one(kind: str) -> tuple[Array, Array]:
            if kind == "query":
                return tokens, mask
            return self.masked_query(tokens, mask, getattr(batch, _field(kind, subwords)))

        found, masks = zip(*map(one, kinds), strict=True)
        return jnp.concatenate(found), jnp.concatenate(masks)

    def masked_query(self, tokens: Array, mask: Array, kept: Array) -> tuple[Array, Array]:
        """Tokens [B,L,...] and mask [B,L] of a query of which some words are `kept` [B,L]: they close up."""
        del mask
        return close_up(tokens, kept)

    def inject(self, sentences: Mapping[str, Array], batch: Batch, train: bool) -> Injected | None:
        """Compares the dynamic query with the video, given the `queries`, each [B,F]; None at test."""
        if not (train and self._injected()):
            return None
        dynamic, gap, movement, words = sentences["dynamic"], None, None, None
        if self.context != "off":
            gap = self.visual_context(dynamic, sentences.get(self.context), batch)
        if self.dynamics != "off":
            movement, words = self.spatial_dynamics(dynamic, batch)
        return Injected(gap, movement, words)

    def injection_terms(self, injected: Injected | None, batch: Batch) -> dict[str, Mean]:
        """'context', L_vc of Eq. 2, and 'dynamics', L_sd of Eq. 5 over all pairs of the batch, as in Eq. 11."""
        terms: dict[str, Mean] = {}
        if injected is not None and injected.context_gap is not None:
            terms["context"] = Mean.of(injected.context_gap, batch.example_mask, self.context_weight)
        if injected is not None and injected.movement is not None:
            gap = consistency(injected.movement, jnp.asarray(injected.dynamic))
            pairs = batch.example_mask[:, None] & gather_examples(batch.example_mask)[None]
            terms["dynamics"] = Mean.of(gap, pairs, self.dynamics_weight)
        return terms

    def injection_fields(self, *, subwords: bool = False) -> tuple[str, ...]:
        """Names the fields of a batch that the masked queries and L_sd need."""
        kinds = [kind for kind in dict.fromkeys([*self._injected(), self.test_query]) if kind != "query"]
        objects = ("objects",) if self.dynamics != "off" else ()
        return (*(_field(kind, subwords) for kind in kinds), *objects)


def _field(kind: str, subwords: bool) -> str:
    """The field that says which words, or subwords, belong to the static or to the dynamic query."""
    return f"subword_{kind}" if subwords else f"{kind}_words"
