"""LGI: phrases of the query meet the video one by one, clip by clip, then clips meet each other.

Mun, Cho, Han: Local-Global Video-Text Interactions for Temporal Grounding, CVPR 2020. What the paper leaves
open is as in its official code (JonghwanMun/LGI4temporalgrounding), whose checkpoints `vmr_jax.torch_import`
reads.

  tensor          shape     what it is
  batch.video     [B,T,D]   clip features, not normalised; at most 128 rows, shorter videos are padded
  words           [B,L,F]   two-layer bidirectional LSTM over the words; sentence [B,F]: its two last states
  clips           [B,T,F]   linear and ReLU, plus a learned position
  phrases         [B,N,F]   sequential query attention, over the words [B,N,L]        eq. 4 to 7
  local           [B,T,F]   per phrase: Hadamard product with the clips, a residual block
  context         [B,T,F]   mean over the phrases by attention, non-local blocks      eq. 12, R
  attention       [B,T]     one softmax over the clips                                eq. 13
  span            [B,2]     start and end, fractions of the video                     eq. 15

The settings of the paper's official code (F = 512 in both):

  data set              N   lambda   heads, blocks   activation of the span
  Charades-STA          3   0.3      4, 2            ReLU
  ActivityNet Captions  5   0.2      1, 1            sigmoid

What differs from the official code:
- Padding does not matter: convolutions see zeros at padded clips (there: biases), batch normalisation counts
  real clips only, and the last clip of a label is a real one (there: a moment that lasts to the end of a video
  of fewer than 128 rows also covers one padded row, which adds 18). Without padding all outputs are equal.
- The rows of a video of more than 128 are averaged (there: 128 of them are picked, in training from a random
  offset that the labels do not follow). Nothing is random in the input here.
- The N copies of a layer, one per phrase, start from draws of their own (there: from one draw, as copies).
- A predicted end before its start gives an empty moment at the start; both have IoU 0 with everything.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import struct

from vmr_jax.errors import UserError
from vmr_jax.layers.attention import MultiHeadAttention, masked_softmax
from vmr_jax.layers.dropout import Dropout
from vmr_jax.layers.init import torch_bias, torch_default_kernel
from vmr_jax.layers.linear import torch_dense, torch_linear
from vmr_jax.layers.norm import MaskedBatchNorm
from vmr_jax.layers.recurrent import LSTM, first_state, last_state
from vmr_jax.layers.text import WordEmbedding
from vmr_jax.models.base import GroundingModel
from vmr_jax.moments import rank
from vmr_jax.types import Batch, Mean, Moments

ACTIVATIONS = {"relu": nn.relu, "sigmoid": jax.nn.sigmoid}


@struct.dataclass
class Outputs:
    """What the network says, float32."""

    span: jax.Array  # [B,2] fractions of the video, neither cut to it nor in order
    attention: jax.Array  # [B,T] over the clips, sums to 1
    words: jax.Array | None  # [B,N,L] of each phrase over the words, sums to 1; None for one phrase


class Model(GroundingModel):
    """LGI. The defaults are those of Charades-STA.

    Attributes:
      features: F, width of every layer; the LSTM has half of it in each direction.
      attention_features: width of the hidden layer of the attentions over words, phrases and clips.
      num_phrases: N. With 1 the sentence itself is the phrase: the ablation without sequential query attention,
        which has no diversity loss.
      local_kernel: odd, clips that a convolution of the local context sees.
      global_layers: non-local blocks of the global context, 0 for none.
      heads: of the non-local blocks.
      activation: of the predicted span, 'relu' or 'sigmoid'.
      max_clips: clips that have a position.
      guidance_weight: of the temporal attention guidance loss, 0 leaves it out.
      diversity_weight: of the distinct query attention loss, 0 leaves it out.
      self_overlap: lambda of the diversity loss, up to 1: the lower, the more words a phrase attends to.
      dropout: of clips and positions, and between the layers of the LSTM.
      vocab_size: size of the vocabulary to learn word vectors from random ones (the paper's); they do not start
        from the batch's. 0 takes those as they are, and learns one for all the words that have none.
      dtype: of the layers; parameters, attentions, span and loss are float32.
    """

    features: int = 512
    attention_features: int = 256
    num_phrases: int = 3
    local_kernel: int = 15
    global_layers: int = 2
    heads: int = 4
    activation: str = "relu"
    max_clips: int = 128
    guidance_weight: float = 1.0
    diversity_weight: float = 1.0
    self_overlap: float = 0.3
    dropout: float = 0.5
    vocab_size: int = 0
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, batch: Batch, *, train: bool) -> Outputs:
        """Regresses a span per pair; UserError for an unknown activation, an even kernel, too many clips."""
        batch.check()
        self._check(batch)
        mask = batch.video_mask
        words, sentence = self._encode_query(batch, train)
        clips = self._encode_video(batch, train)

        phrases, word_attention = sentence[:, None], None
        if self.num_phrases > 1:
            phrases, word_attention = SequentialQueryAttention(
                self.features, self.attention_features, self.num_phrases, self.dtype, name="phrases"
            )(words, sentence, batch.query_mask)

        local = []
        for n in range(self.num_phrases):
            fused = Fusion(self.features, self.dtype, name=f"fusion_{n}")(clips, phrases[:, n])
            context = LocalContext(self.features, self.local_kernel, self.dtype, name=f"local_{n}")
            local.append(context(fused, mask & batch.example_mask[:, None], train))
        x = self._aggregate(jnp.stack(local, axis=1), phrases)
        for i in range(self.global_layers):
            # The official bias starts as PyTorch's too.
            block = MultiHeadAttention(
                self.features,
                self.heads,
                kernel_init=torch_default_kernel,
                bias_init=torch_bias(self.features),
                dtype=self.dtype,
                name=f"global_{i}",
            )
            x = x + block(x, x, mask, batch.example_index, train)
        attention = self._attention("attention")(x, mask)
        return Outputs(span=self._regress(x, attention), attention=attention, words=word_attention)

    def _check(self, batch: Batch) -> None:
        if self.activation not in ACTIVATIONS:
            raise UserError(f'activation is "{self.activation}"; LGI has {" and ".join(ACTIVATIONS)}.')
        if self.local_kernel % 2 == 0:
            raise UserError(f"local_kernel is {self.local_kernel}; it must be odd (the paper's: 15).")
        if batch.video.shape[1] > self.max_clips:
            raise UserError(
                f"LGI has positions for {self.max_clips} clips, and the batch has {batch.video.shape[1]}. Set "
                "config.input.num_clips to no more, or raise max_clips."
            )

    def _encode_query(self, batch: Batch, train: bool) -> tuple[jax.Array, jax.Array]:
        """Words [B,L,F], and the sentence [B,F]: forward at the last word, backward at the first."""
        if self.vocab_size:
            shape = (self.vocab_size, batch.query_vectors.shape[-1])
            words = self.param("words", nn.initializers.normal(1.0), shape)[batch.query]
        else:
            words = WordEmbedding(unknown=nn.initializers.normal(1.0), name="words")(batch)
        lstm = LSTM(self.features // 2, 2, True, self.dtype, self.dropout, name="lstm")
        states = lstm(words, batch.query_mask, batch.example_index, train)
        forward, backward = jnp.split(states, 2, axis=-1)
        ends = last_state(forward, batch.query_mask), first_state(backward, batch.query_mask)
        return states, jnp.concatenate(ends, axis=-1)

    def _encode_video(self, batch: Batch, train: bool) -> jax.Array:
        """Clips [B,T,F], zero at padding."""

        def part(x, name):
            dropped = Dropout(self.dropout, name=name)(nn.relu(x), batch.example_index, train)
            return jnp.where(batch.video_mask[..., None], dropped, 0)

        clips = torch_linear(self.features, batch.video, self.dtype, "video")
        shape = (self.max_clips, self.features)
        positions = self.param("positions", nn.initializers.normal(1.0), shape)[None, : clips.shape[1]]
        positions = jnp.broadcast_to(positions.astype(self.dtype), clips.shape)
        return part(clips, "drop_clips") + part(positions, "drop_positions")

    def _aggregate(self, local: jax.Array, phrases: jax.Array) -> jax.Array:
        """[B,N,T,F] and phrases [B,N,F] -> [B,T,F]: the mean over the phrases, by attention to them."""
        if self.num_phrases == 1:
            return local[:, 0]
        every = jnp.ones(phrases.shape[:2], bool)
        weights = self._attention("aggregate")(phrases, every).astype(self.dtype)
        return jnp.einsum("bn,bntf->btf", weights, local)

    def _attention(self, name: str) -> "Attention":
        return Attention(self.attention_features, self.dtype, name=name)

    def _regress(self, x: jax.Array, attention: jax.Array) -> jax.Array:
        """Clips [B,T,F] and attention [B,T] -> span [B,2]."""
        video = jnp.einsum("bt,btf->bf", attention.astype(self.dtype), x)
        video = torch_linear(self.features, video, self.dtype, "summary")
        hidden = nn.relu(torch_linear(self.features, video, self.dtype, "span_hidden"))
        # In float32 whatever the dtype of the layers.
        return ACTIVATIONS[self.activation](torch_linear(2, hidden.astype(jnp.float32), jnp.float32, "span"))

    def loss(self, outputs: Outputs, batch: Batch, *, epoch: jax.Array) -> dict[str, Mean]:
        """Smooth L1 of start and end, guidance of the attention, diversity of the phrases."""
        del epoch
        real = batch.example_mask
        errors = optax.huber_loss(outputs.span, batch.span / batch.duration[:, None]).sum(-1)
        terms = {"span": Mean.of(errors, real)}
        if self.guidance_weight:
            inside = inside_labels(batch.span, batch.duration, batch.video_mask)
            terms["guidance"] = Mean.of(guidance_loss(outputs.attention, inside), real, self.guidance_weight)
        if self.diversity_weight and outputs.words is not None:
            overlap = diversity_loss(outputs.words, self.self_overlap)
            terms["diversity"] = Mean.of(overlap, real, self.diversity_weight)
        return terms

    def predict(self, outputs: Outputs, batch: Batch) -> Moments:
        """The one moment of each pair, with score 1."""
        start, end = jnp.moveaxis(outputs.span * batch.duration[:, None], -1, 0)
        span = jnp.stack([start, jnp.maximum(start, end)], axis=-1)
        certain = jnp.ones((batch.size, 1))
        return rank(span[:, None], certain, certain > 0, 1)

    def explain(self, outputs: Outputs, batch: Batch) -> dict[str, jax.Array]:
        """The attention over the clips relative to the highest: 'clips' [B,T]."""
        highest = jnp.maximum(outputs.attention.max(-1, keepdims=True), 1e-30)
        return {"clips": jnp.where(batch.video_mask, outputs.attention / highest, jnp.nan)}


# Sequential query attention.


class SequentialQueryAttention(nn.Module):
    """N phrases, each a mean of the words by attention; each knows the one before it."""

    features: int
    attention_features: int
    num_phrases: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, words: jax.Array, sentence: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Words [B,L,F], sentence [B,F], mask [B,L] -> phrases [B,N,F], attention [B,N,L] float32."""
        guide = torch_dense(self.features, 2 * self.features, self.dtype, "guide")
        key = torch_dense(self.attention_features, self.features, self.dtype, "key")
        score = torch_dense(1, self.attention_features, self.dtype, "score")
        of_words = torch_linear(self.attention_features, words, self.dtype, "word")
        phrase, phrases, attentions = jnp.zeros_like(sentence), [], []
        for n in range(self.num_phrases):
            query = torch_linear(self.features, sentence, self.dtype, f"query_{n}")
            guidance = nn.relu(guide(jnp.concatenate([query, phrase], axis=-1)))
            logits = score(jnp.tanh(key(guidance)[:, None] + of_words))[..., 0]
            attention = masked_softmax(logits, mask)
            phrase = jnp.einsum("bl,blf->bf", attention.astype(self.dtype), words)
            phrases.append(phrase)
            attentions.append(attention)
        return jnp.stack(phrases, axis=1), jnp.stack(attentions, axis=1)


# Local-global interaction, and attention over phrases and clips.


class Fusion(nn.Module):
    """The Hadamard product of clip and phrase in a common space."""

    features: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, clips: jax.Array, phrase: jax.Array) -> jax.Array:
        """[B,T,F], [B,F] -> [B,T,F]."""
        clips = nn.relu(torch_linear(self.features, clips, self.dtype, "clip"))
        phrase = nn.relu(torch_linear(self.features, phrase, self.dtype, "phrase"))
        return nn.relu(torch_linear(self.features, clips * phrase[:, None], self.dtype, "output"))


class LocalContext(nn.Module):
    """A residual block of two convolutions over the clips."""

    features: int
    kernel: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array, train: bool) -> jax.Array:
        """[B,T,F] and mask [B,T] -> [B,T,F], zero where the mask is False."""
        x = jnp.where(mask[..., None], x, 0)
        y = nn.relu(self._normed_conv(x, mask, train, 0))
        return nn.relu(x + self._normed_conv(y, mask, train, 1))

    def _normed_conv(self, x: jax.Array, mask: jax.Array, train: bool, layer: int) -> jax.Array:
        conv = nn.Conv(
            self.features,
            (self.kernel,),
            padding=self.kernel // 2,
            use_bias=False,
            kernel_init=torch_default_kernel,
            dtype=self.dtype,
            name=f"conv_{layer}",
        )
        return MaskedBatchNorm(dtype=self.dtype, name=f"norm_{layer}")(conv(x), mask, train)


class Attention(nn.Module):
    """Weights of a softmax over a set, from a hidden layer without bias."""

    attention_features: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        """[B,T,F] and mask [B,T] -> [B,T] float32."""
        hidden = torch_linear(self.attention_features, x, self.dtype, "hidden", use_bias=False)
        scores = torch_linear(1, jnp.tanh(hidden), self.dtype, "score", use_bias=False)[..., 0]
        return masked_softmax(scores, mask)


# Labels and losses.


def inside_labels(span: jax.Array, duration: jax.Array, mask: jax.Array) -> jax.Array:
    """[B,T] bool: the clips from round(start) to round(end) inclusive, in clips; at least one after the start.

    The end of a moment is thus one clip late where it lies on the grid, as in the official code.
    """
    count = mask.sum(-1)
    bounds = jnp.round(span / duration[:, None] * count[:, None]).astype(jnp.int32)  # halves to even
    first = jnp.minimum(bounds[:, 0], count - 1)
    last = jnp.maximum(bounds[:, 1], first + 1)
    clip = jnp.arange(mask.shape[1])[None, :]
    return (clip >= first[:, None]) & (clip <= last[:, None]) & mask


def guidance_loss(attention: jax.Array, inside: jax.Array) -> jax.Array:
    """[B]: minus the mean log attention over the clips of the moment."""
    surprise = jnp.where(inside, -jnp.log(attention + 1e-8), 0.0)
    return surprise.sum(-1) / jnp.maximum(inside.sum(-1), 1)


def diversity_loss(words: jax.Array, self_overlap: float) -> jax.Array:
    """[B] of attentions A [B,N,L]: the squared Frobenius norm of A A^T - lambda I."""
    overlap = jnp.einsum("bnl,bml->bnm", words, words)
    return jnp.square(overlap - self_overlap * jnp.eye(words.shape[1])[None]).sum((1, 2))
