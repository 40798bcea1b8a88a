"""A decoder whose slots are anchors: centre and width, which every layer moves.

Attention by content and place apart (Conditional DETR, Meng et al., ICCV 2021) with moving anchors (DAB-DETR,
Liu et al., ICLR 2022), along one axis, as QD-DETR (Moon et al., CVPR 2023) has them. Names in backquotes are
those of wjun0830/QD-DETR@56c63b2c75c5.

Axes beyond the usual: I layers of the decoder; Z steps of its memory.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from vmr_jax.layers.attention import attended, attention_weights
from vmr_jax.layers.init import torch_bias
from vmr_jax.layers.transformer import PostNormLayer, glorot, sines


def inverse_sigmoid(x: jax.Array, eps: float = 1e-3) -> jax.Array:
    """log(x / (1 - x)) of x in [0,1], both cut at `eps` (`inverse_sigmoid`)."""
    x = jnp.clip(x, 0.0, 1.0)
    return jnp.log(jnp.maximum(x, eps) / jnp.maximum(1.0 - x, eps))


def anchor_sines(anchors: jax.Array, features: int) -> jax.Array:
    """Sines and cosines [B,M,F] of anchors [B,M,2]: half of them of the centre, then half of the width."""
    angle = 2 * math.pi * anchors
    return jnp.concatenate([sines(angle[..., i], features // 2) for i in range(2)], axis=-1)


class Perceptron(nn.Module):
    """Linear layers with ReLU between them, with the start of the official transformer (`MLP`).

    Parameters: layer_0, layer_1 and so on.

    Attributes:
      widths: width of each layer's result.
      dtype: number format of the computation.
    """

    widths: tuple[int, ...]
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [...,D] to the last of the widths."""
        for i, width in enumerate(self.widths):
            bias = torch_bias(x.shape[-1])
            layer = nn.Dense(width, kernel_init=glorot, bias_init=bias, dtype=self.dtype, name=f"layer_{i}")
            x = layer(nn.relu(x) if i else x)
        return x


class ConditionalLayer(PostNormLayer):
    """Self-attention of the slots, attention to a memory by content and place, and a feed-forward network.

    Places have linear layers of their own. To the memory, content and place attend apart: queries and keys of a
    head are those of the content, then those of the place (`TransformerDecoderLayer`).

    Parameters: self_query, self_key, self_value, self_query_place, self_key_place, self_out, attention_norm;
    query, key, value, query_sines, key_place, out, memory_norm, in the first layer query_place too; hidden,
    slope, output, output_norm.

    Attributes:
      first: whether it is the first layer, in which places are added to the content too.
    """

    first: bool = False

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        places: jax.Array,
        place_sines: jax.Array,
        memory: jax.Array,
        memory_places: jax.Array,
        memory_mask: jax.Array,
        example_index: jax.Array,
        train: bool,
    ) -> jax.Array:
        """Returns [B,M,F] of slots, their places and their anchors' sines [B,M,F], and a memory [B,Z,F]."""

        def linear(of, name):
            return self._linear(self.features, of, name)

        query = linear(x, "self_query") + linear(places, "self_query_place")
        key = linear(x, "self_key") + linear(places, "self_key_place")
        every = jnp.ones((1, 1, 1, 1), bool)
        query, key, value = map(self._split, (query, key, linear(x, "self_value")))
        y = self._attend(query, key, value, every, example_index, train, "self_out")
        x = self._norm(x + self._drop(y, example_index, train), "attention_norm")

        query, key = linear(x, "query"), linear(memory, "key")
        key_place = linear(memory_places.astype(memory.dtype), "key_place")
        if self.first:
            query, key = query + linear(places, "query_place"), key + key_place
        by_place = (linear(place_sines, "query_sines"), key_place)
        query, key = (
            jnp.concatenate([self._split(content), self._split(place)], axis=-1)
            for content, place in zip((query, key), by_place)
        )
        value = self._split(linear(memory, "value"))
        y = self._attend(query, key, value, memory_mask[:, None, None], example_index, train, "out")
        x = self._norm(x + self._drop(y, example_index, train), "memory_norm")
        return self._feed_forward(x, example_index, train)

    def _split(self, x: jax.Array) -> jax.Array:
        """[B,Z,F] by heads: [B,Z,H,F / H]."""
        return x.reshape(*x.shape[:2], self.heads, -1)

    def _attend(self, query, key, value, mask, example_index, train: bool, name: str) -> jax.Array:
        weights = self._drop(attention_weights(query, key, mask), example_index, train)
        out = nn.Dense(self.features, kernel_init=glorot, dtype=self.dtype, name=name)
        return out(attended(weights, value))


class AnchorDecoder(nn.Module):
    """Decoder layers between which the anchors move (`TransformerDecoder`).

    Parameters: anchors [M,2]; place, scale, width and move, perceptrons that all layers share; layer_0 and so
    on; norm.

    Attributes:
      layers: I, number of layers.
      slots: M, number of slots.
      features: F, width of the layers, a multiple of 4 and of `heads`.
      heads: number of attention heads.
      hidden: width inside the feed-forward networks.
      dropout: dropout rate of the layers.
      dtype: number format of the layers; anchors are float32.
    """

    layers: int
    slots: int
    features: int
    heads: int
    hidden: int
    dropout: float = 0.1
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        memory: jax.Array,
        memory_places: jax.Array,
        memory_mask: jax.Array,
        example_index: jax.Array,
        train: bool,
    ) -> tuple[jax.Array, jax.Array]:
        """Returns the slots after each layer, and the anchors before it.

        Args:
          memory: [B,Z,F].
          memory_places: [B,Z,F] positions of its steps.
          memory_mask: [B,Z] bool, the real ones.
          example_index: [B] int32.
          train: whether there is dropout.

        Returns:
          [B,I,M,F] under one layer norm, and [B,I,M,2] centre and width; both float32.
        """
        learned = self.param("anchors", nn.initializers.normal(1.0), (self.slots, 2))
        anchors = jnp.broadcast_to(jax.nn.sigmoid(learned), (len(memory), self.slots, 2))
        width = self.features
        place, scale, widen, move = (
            Perceptron(widths, self.dtype, name=name)
            for name, widths in (
                ("place", (width, width)),
                ("scale", (width, width)),
                ("width", (width, 1)),
                ("move", (width, width, 2)),
            )
        )
        norm = nn.LayerNorm(epsilon=1e-5, dtype=self.dtype, name="norm")
        x = jnp.zeros((*anchors.shape[:2], width), self.dtype)
        decoded, used = [], []
        for i in range(self.layers):
            if i:
                moved = jax.nn.sigmoid(move(x).astype(jnp.float32) + inverse_sigmoid(anchors))
                used.append(moved)
                anchors = jax.lax.stop_gradient(moved)  # the next layer does not move it backwards
            else:
                used.append(anchors)
            of_place = anchor_sines(anchors, width)
            places = place(of_place.astype(self.dtype))
            if i:
                of_place = of_place * scale(x)
            # Attention is as wide as the anchor (`modulate_t_attn`), whose width may be tiny, as officially.
            of_place = of_place * jax.nn.sigmoid(widen(x).astype(jnp.float32)) / anchors[..., 1:]
            layer = ConditionalLayer(
                self.features,
                self.heads,
                self.hidden,
                self.dropout,
                self.dtype,
                True,
                i == 0,
                name=f"layer_{i}",
            )
            x = layer(
                x, places, of_place.astype(self.dtype), memory, memory_places, memory_mask, example_index, train
            )
            decoded.append(norm(x).astype(jnp.float32))
        return jnp.stack(decoded, axis=1), jnp.stack(used, axis=1)
