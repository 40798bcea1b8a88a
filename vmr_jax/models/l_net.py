"""L-Net: a recurrent network that attends to the sentence from every clip, then to all clips, then points.

Tensors (F = `features`; names of the parts as the paper's abstract gives them):

    batch.video   [B,T,D]   feature rows
    clips         [B,T,F]   linear layer, bidirectional GRU over the rows
    words         [B,L,F]   likewise of the word vectors
    states        [B,T,F]   cross-gated attended recurrent network: each clip attends to the words, knowing what
                            was read before; sentence and clip gate each other, a GRU reads both
    matched       [B,T,F]   self interactor: each state attends to all states, a bidirectional GRU reads both
    start, end    [B,T]     pointer: logits of the first clip for the pooled sentence, of the last clip for what
                            a GRU makes of it and of the clips that the first may be
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct

from vmr_jax.errors import UserError
from vmr_jax.layers.attention import MASKED, masked_softmax
from vmr_jax.layers.dropout import Dropout
from vmr_jax.layers.linear import torch_dense, torch_linear
from vmr_jax.layers.recurrent import GRU, GRUCell
from vmr_jax.layers.span import explain_pairs, rank_pairs, span_terms
from vmr_jax.layers.text import WordEmbedding
from vmr_jax.models.base import GroundingModel
from vmr_jax.models.card import Card
from vmr_jax.types import Batch, Mean, Moments

CARD = Card(
    title="Localizing Natural Language in Videos",
    authors=("Chen", "Ma", "Chen", "Jie", "Luo"),
    venue="AAAI",
    year=2019,
    family="span",
    kind="cross-gated recurrent attention, pointer",
    supervision="full",
    features="C3D, VGG; GloVe",
    ours=(
        "The authors published no code, and the paper was not at hand: the parts are those of its abstract, "
        "their equations from memory of it and of the networks that they come from (match-LSTM, R-Net). No "
        "reproduction is claimed.",
        "Widths, dropout and training are ours; so are the dot of gates (each side is multiplied by a sigmoid "
        "of a linear layer of the other), the self interactor that reads all clips in both directions, and the "
        "pooled sentence as the first query of the pointer.",
        "The clips of a moment are the pair with which it has the highest IoU, so that a moment that ends "
        "where a clip begins does not reach into it; DiDeMo's 21 segments are all pairs of its six chunks.",
    ),
    verified=(
        "The number of parameters, a step of the attended recurrent network, the self interactor and the "
        "pointer equal NumPy computations of their own.",
    ),
)


@struct.dataclass
class Outputs:
    """Logits [B,T], float32, `MASKED` at padded clips."""

    start: jax.Array
    end: jax.Array


class Model(GroundingModel):
    """L-Net. The defaults are ours.

    Attributes:
      features: F, width of every layer, even: the two directions of a recurrent network have half of it each.
      dropout: dropout rate of what the recurrent networks read.
      keep: number of moments that `predict` ranks, 0 for all pairs of clips.
      longest_share: length of the longest moment that is ranked, as a share of the video (ours; 1 ranks all).
      vocab_size: number of words whose vectors are fine-tuned, 0 to keep them.
      dtype: number format of the matrix products; parameters, states, logits and losses are float32.
    """

    features: int = 256  # ours, as is the dropout
    dropout: float = 0.5
    keep: int = 100
    longest_share: float = 1.0
    vocab_size: int = 0
    dtype: jnp.dtype = jnp.float32

    of_evaluation = ("longest_share",)

    @nn.compact
    def __call__(self, batch: Batch, *, train: bool) -> Outputs:
        """Scores every clip as start and as end; UserError for an odd width."""
        batch.check()
        if self.features % 2:
            raise UserError(
                f"features is {self.features}; L-Net reads both ways with half of it: make it even."
            )
        index, mask = batch.example_index, batch.video_mask

        def encoded(x, mask, name):
            x = torch_linear(self.features, x.astype(self.dtype), self.dtype, f"{name}_linear")
            x = Dropout(self.dropout)(x, index, train)
            return self._both_ways(f"{name}_gru")(x, mask)

        clips = encoded(batch.video, mask, "clip")
        words = encoded(WordEmbedding(self.vocab_size, name="words")(batch), batch.query_mask, "word")
        states = self._interact(clips, words, batch)
        states = Dropout(self.dropout)(states, index, train)
        seen = SelfAttention(self.features, self.dtype, name="self_attention")(states, mask)
        # Ours: both ways, where every state has attended to all others (as in R-Net).
        matched = self._both_ways("matching_gru")(jnp.concatenate([states, seen], axis=-1), mask)
        matched = Dropout(self.dropout)(matched, index, train)
        return self._pointer(matched, words, batch)

    def _both_ways(self, name: str) -> GRU:
        return GRU(self.features // 2, bidirectional=True, dtype=self.dtype, name=name)

    def _interact(self, clips: jax.Array, words: jax.Array, batch: Batch) -> jax.Array:
        """Returns states [B,T,F] of the cross-gated attended recurrent network, zero at padding."""
        reader = nn.scan(
            Reader,
            variable_broadcast="params",
            split_rngs={"params": False},
            in_axes=(1, 1, nn.broadcast, nn.broadcast, nn.broadcast),
            out_axes=1,
        )(self.features, self.dtype, name="reader")
        keys = torch_linear(self.features, words, self.dtype, "word_key")
        start = jnp.zeros((batch.size, self.features), jnp.float32)
        _, states = reader(start, clips, batch.video_mask, words, keys, batch.query_mask)
        return states.astype(self.dtype)

    def _pointer(self, matched: jax.Array, words: jax.Array, batch: Batch) -> Outputs:
        """Returns the logits of both ends from clips [B,T,F] and words [B,L,F]."""
        mask = batch.video_mask
        hidden = jnp.tanh(torch_linear(self.features, words, self.dtype, "pool_hidden"))
        weights = masked_softmax(_logit(hidden, "pool_logit"), batch.query_mask).astype(self.dtype)
        query = jnp.einsum("bl,blf->bf", weights, words)
        # Ours: the pooled sentence is the first query, the same layers score both ends (as in R-Net).
        key = torch_linear(self.features, matched, self.dtype, "pointer_key")
        of_query = torch_dense(self.features, self.features, self.dtype, "pointer_query", use_bias=False)
        score = torch_dense(1, self.features, jnp.float32, "pointer_logit", use_bias=False)

        def logits(query):
            hidden = jnp.tanh(key + of_query(query)[:, None])
            return jnp.where(mask, score(hidden.astype(jnp.float32))[..., 0], MASKED)

        start = logits(query)
        context = jnp.einsum("bt,btf->bf", masked_softmax(start, mask).astype(self.dtype), matched)
        query = GRUCell(self.features, self.dtype, name="pointer_gru")(query.astype(jnp.float32), context)
        return Outputs(start=start, end=logits(query.astype(self.dtype)))

    def loss(self, outputs: Outputs, batch: Batch, *, epoch: jax.Array) -> dict[str, Mean]:
        """'start', 'end': cross-entropy of both clips."""
        del epoch
        return span_terms(outputs.start, outputs.end, None, batch)

    def predict(self, outputs: Outputs, batch: Batch) -> Moments:
        """Returns moments from a start clip to an end clip, by the product of both probabilities."""
        return rank_pairs(
            outputs.start, outputs.end, batch.duration, batch.video_mask, self.keep, self.longest_share
        )

    def explain(self, outputs: Outputs, batch: Batch) -> dict[str, jax.Array]:
        """Returns the probability of every moment relative to the best: 'map' [B,T,T]."""
        return {"map": explain_pairs(outputs.start, outputs.end, batch.video_mask, self.longest_share)}


class Reader(nn.Module):
    """One step of the cross-gated attended recurrent network, at one clip.

    Attributes:
      features: F, width of every layer.
      dtype: number format of the matrix products; the state is float32.
    """

    features: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(
        self,
        state: jax.Array,
        clip: jax.Array,
        real: jax.Array,
        words: jax.Array,
        keys: jax.Array,
        mask: jax.Array,
    ) -> tuple[jax.Array, jax.Array]:
        """Returns the next state [B,F], twice, the second time zero at padding.

        Args:
          state: [B,F] float32, what was read before.
          clip: [B,F].
          real: [B], False at padding, which leaves the state alone.
          words: [B,L,F].
          keys: [B,L,F], projections of the words.
          mask: [B,L] of the words.
        """
        f, dtype = self.features, self.dtype
        query = torch_linear(f, clip, dtype, "clip_query", use_bias=False)
        query = query + torch_linear(f, state.astype(dtype), dtype, "state_query", use_bias=False)
        logits = _logit(jnp.tanh(keys + query[:, None]), "word_logit")
        attended = jnp.einsum("bl,blf->bf", masked_softmax(logits, mask).astype(dtype), words)
        # Ours: the gate of a side is a sigmoid of the other side.
        by_clip = jax.nn.sigmoid(torch_linear(f, clip, dtype, "clip_gate"))
        by_words = jax.nn.sigmoid(torch_linear(f, attended, dtype, "word_gate"))
        both = jnp.concatenate([clip * by_words, attended * by_clip], axis=-1)
        new = GRUCell(f, dtype, name="gru")(state, both)
        state = jnp.where(real[:, None], new, state)
        return state, jnp.where(real[:, None], new, 0.0)


class SelfAttention(nn.Module):
    """Each clip's mean of all clips, weighed by softmax(w . tanh(W_1 h_t + W_2 h_j + b)).

    One clip after the other, so that no tensor [B,T,T,F] is held.

    Attributes:
      features: F, width of the two projections.
      dtype: number format of the products; the softmax is float32.
    """

    features: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, states: jax.Array, mask: jax.Array) -> jax.Array:
        """Returns [B,T,F] of [B,T,F] with mask [B,T]."""
        queries = torch_linear(self.features, states, self.dtype, "query")
        keys = torch_linear(self.features, states, self.dtype, "key", use_bias=False)
        weight = self.param("weight", nn.initializers.lecun_normal(), (self.features, 1))

        @jax.checkpoint
        def attended(query):  # [B,F]
            hidden = jnp.tanh(keys + query[:, None]).astype(jnp.float32)
            weights = masked_softmax((hidden @ weight)[..., 0], mask).astype(self.dtype)
            return jnp.einsum("bt,btf->bf", weights, states)

        return jax.lax.map(attended, queries.swapaxes(0, 1)).swapaxes(0, 1)


def _logit(hidden: jax.Array, name: str) -> jax.Array:
    """Returns [B,L] of [B,L,F] by a layer `name` of the calling module without a bias, in float32."""
    return torch_linear(1, hidden.astype(jnp.float32), jnp.float32, name, use_bias=False)[..., 0]
