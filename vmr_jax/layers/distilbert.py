"""DistilBERT: the text encoder of MMN (Sanh et al., "DistilBERT, a distilled version of BERT", 2019).

The encoder of BERT (Devlin et al., NAACL 2019) with half its layers, without token types and pooler. Widths,
rates and epsilons are those of the published 'distilbert-base-uncased'. Its weights come in through
`vmr_jax.torch_import.text_encoders`.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from vmr_jax.layers.attention import MultiHeadAttention
from vmr_jax.layers.dropout import Dropout
from vmr_jax.layers.text import SubwordEmbedding

_KERNEL = nn.initializers.normal(0.02)


class DistilBert(nn.Module):
    """Maps subwords to the last hidden states.

    Attributes:
      vocab_size: number of subwords in the WordPiece vocabulary.
      features: F, width of the states, a multiple of `heads`.
      layers: number of transformer layers.
      heads: number of attention heads.
      hidden: width inside the feed-forward networks.
      max_positions: number of subwords in the longest sentence, special tokens included.
      dropout: dropout rate of the embeddings, the attention weights and the feed-forward networks.
      dtype: number format of the computation; parameters are float32.
    """

    vocab_size: int = 30522
    features: int = 768
    layers: int = 6
    heads: int = 12
    hidden: int = 3072
    max_positions: int = 512
    dropout: float = 0.1
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self, subwords: jax.Array, mask: jax.Array, example_index: jax.Array, train: bool
    ) -> jax.Array:
        """Maps [B,S] int32 with CLS and SEP, mask [B,S] and positions in the split [B] to [B,S,F].

        The result is zero at padding. Padding is on the right.
        """
        x = SubwordEmbedding(
            self.vocab_size, self.features, self.max_positions, dtype=self.dtype, name="embedding"
        )(subwords)
        x = Dropout(self.dropout, name="input")(_norm("embedding_norm", self.dtype)(x), example_index, train)
        for i in range(self.layers):
            layer = _Layer(self.features, self.heads, self.hidden, self.dropout, self.dtype, name=f"layer_{i}")
            x = layer(x, mask, example_index, train)
        return jnp.where(mask[..., None], x, 0)


class _Layer(nn.Module):
    """Attention and a feed-forward network; the layer normalisations are after the sums.

    Attributes:
      features: F, width of the states.
      heads: number of attention heads.
      hidden: width inside the feed-forward network.
      dropout: dropout rate of the attention weights and the feed-forward network.
      dtype: number format of the computation.
    """

    features: int
    heads: int
    hidden: int
    dropout: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array, example_index: jax.Array, train: bool) -> jax.Array:
        """Returns the next states [B,S,F] of states [B,S,F]."""
        attention = MultiHeadAttention(
            self.features, self.heads, self.dropout, kernel_init=_KERNEL, dtype=self.dtype, name="attention"
        )
        attended = self._dense(self.features, "output")(attention(x, x, mask, example_index, train))
        x = _norm("attention_norm", self.dtype)(x + attended)
        hidden = nn.gelu(self._dense(self.hidden, "hidden")(x), approximate=False)
        y = self._dense(self.features, "feed_forward")(hidden)
        y = Dropout(self.dropout, name="feed_forward_dropout")(y, example_index, train)
        return _norm("output_norm", self.dtype)(x + y)

    def _dense(self, features: int, name: str) -> nn.Dense:
        return nn.Dense(features, kernel_init=_KERNEL, dtype=self.dtype, name=name)


def _norm(name: str, dtype: jnp.dtype) -> nn.LayerNorm:
    """Two passes: with so small an epsilon the difference of E[x^2] and E[x]^2 would be amplified."""
    return nn.LayerNorm(epsilon=1e-12, use_fast_variance=False, dtype=dtype, name=name)
