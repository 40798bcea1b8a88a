"""LGI: phrases of the query meet the video one by one, clip by clip, then clips meet each other.

Tensors (F = `features`, the paper's d; Z = `num_phrases` semantic phrases, the paper's N; clips are the paper's
segments; symbols of the paper at the right):

    batch.video      [B,T,D]    clip features, not normalised; 128 rows of longer videos, shorter ones padded
    words            [B,L,F]    two-layer bidirectional LSTM over the words                w_l, Section 3.2
    sentence         [B,F]      its last states, forward and backward                      q, Section 3.2
    clips            [B,T,F]    linear layer and ReLU, plus a learned position             s_i, Eq. 3
    word_attention   [B,Z,L]    softmax over the words, one for each phrase                a^(n), Eq. 6
    phrases          [B,Z,F]    sequential query attention over the words                  e^(n), Eq. 7
    fused            [B,T,F]    Hadamard product of clips and a phrase                     m~^(n), Eq. 8
    local         Z of [B,T,F]  a residual block over the clips, for each phrase           M^(n), Eq. 9
    x                [B,T,F]    mean over the phrases by attention, then non-local blocks  R, Eq. 12
    attention        [B,T]      one softmax over the clips                                 o, Eq. 13
    span             [B,2]      start and end, fractions of the video                      t^s, t^e, Eq. 15

The settings of the official code's configs (F = 512 in both):

    dataset               Z   lambda   heads, blocks   activation of the span
    Charades-STA          3   0.3      4, 2            ReLU
    ActivityNet Captions  5   0.2      1, 1            sigmoid
"""

import functools

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
from vmr_jax.models.card import Card
from vmr_jax.moments import rank
from vmr_jax.types import Batch, Mean, Moments

CARD = Card(
    title="Local-Global Video-Text Interactions for Temporal Grounding",
    authors=("Mun", "Cho", "Han"),
    venue="CVPR",
    year=2020,
    family="regression",
    kind="semantic phrases, attention over clips",
    supervision="full",
    features="I3D, C3D",
    official_code="JonghwanMun/LGI4temporalgrounding@199e7ab855c3 (PyTorch)",
    equations=tuple(range(3, 20)),
    ours=(
        "Padding does not matter: convolutions see zeros at padded clips, where the official code has biases, "
        "and batch normalisation counts real clips only; without padding all outputs are equal, and with it "
        "those of official_padding=True are the official ones.",
        "The last clip of a label is a real one; in the official code a moment that lasts to the end of a "
        "video of fewer than 128 rows also covers one padded row, which adds 18 to the loss.",
        "In training the official code picks the 128 rows of a longer video from a random offset, which its "
        "labels do not follow; here they are always those of its evaluation (config.input.resample='pick').",
        "Dropout of the positions is drawn for each video; in the official code once for the whole batch.",
        "The copies of a layer, one for each phrase, start from draws of their own, not as equal copies.",
        "A predicted end before its start gives an empty moment at the start; both have IoU 0 with everything.",
    ),
    verified=(
        "Against the official code at this commit, running, in the settings of both datasets at small widths, "
        "with random weights of five seeds. Without padding: span and both attentions to 1.2e-7, each loss and "
        "their sum to 3e-7 of theirs, gradients to 2.2e-7. With padded videos and official_padding=True: to "
        "1.2e-7, 2e-7 and 2e-7. With the plain scan of the LSTM: to 1.8e-7, 2.5e-7 and 2.2e-7.",
        "Trained on the same batches as the official program (docs/results.md): the same loss in five steps to "
        "1.1e-6, and no difference on test that is sure.",
        "Outputs, losses and gradients equal those of a PyTorch reference to 1e-5.",
        "Checkpoints of the official code are imported, with its vocabulary json.",
        "Every ablation is tested.",
    ),
)
ACTIVATIONS = {"relu": nn.relu, "sigmoid": jax.nn.sigmoid}


@struct.dataclass
class Outputs:
    """The predicted span and the attentions that the losses read, float32."""

    span: jax.Array  # [B,2] fractions of the video, neither cut to it nor in order
    attention: jax.Array  # [B,T] over the clips, sums to 1
    words: jax.Array | None  # [B,Z,L] of each phrase over the words, sums to 1; None for one phrase


class Model(GroundingModel):
    """LGI. The defaults are those of Charades-STA.

    Attributes:
      features: F, width of every layer; the LSTM has half of it in each direction.
      attention_features: width of the hidden layer of the attentions over words, phrases and clips.
      num_phrases: Z, number of semantic phrases. With 1 the sentence itself is the phrase: the ablation without
        sequential query attention, which has no distinct query attention loss.
      local_kernel: number of clips that a convolution of the local context sees, odd (Section 3.4: 15).
      global_layers: number of non-local blocks of the global context, 0 for none.
      heads: number of attention heads of the non-local blocks.
      activation: activation of the predicted span, 'relu' or 'sigmoid'.
      max_clips: number of clips that have a position.
      guidance_weight: weight of the temporal attention guidance loss, 0 leaves it out.
      diversity_weight: weight of the distinct query attention loss, 0 leaves it out.
      self_overlap: lambda of Eq. 19, up to 1: the lower, the more words a phrase attends to.
      dropout: dropout rate of clips and positions, and between the layers of the LSTM.
      official_padding: whether padding matters as in the official code, see the card; every video is
        padded to `max_clips` there, and must be in the batch (config.input.num_clips).
      vocab_size: number of words whose vectors are learned from random ones (the paper's way), not from the
        batch's. 0 takes those as they are, and learns one vector for all the words that have none.
      dtype: number format of the layers; parameters, attentions, span and loss are float32.
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
    official_padding: bool = False
    vocab_size: int = 0
    dtype: jnp.dtype = jnp.float32

    choices = {"activation": ACTIVATIONS}

    @nn.compact
    def __call__(self, batch: Batch, *, train: bool) -> Outputs:
        """Regresses a span per pair; UserError for an even kernel or too many clips."""
        batch.check()
        self._check(batch)
        mask = batch.video_mask
        words, sentence = self._encode_query(batch, train)
        clips = self._encode_video(batch, train)  # Eq. 3

        phrases, word_attention = sentence[:, None], None
        if self.num_phrases > 1:
            phrases, word_attention = SequentialQueryAttention(
                self.features, self.attention_features, self.num_phrases, self.dtype, name="phrases"
            )(words, sentence, batch.query_mask)

        # The official convolutions and batch statistics take padded clips too.
        local, seen = [], jnp.ones_like(mask) if self.official_padding else mask
        for n in range(self.num_phrases):
            fused = Fusion(self.features, self.dtype, name=f"fusion_{n}")(clips, phrases[:, n])
            context = LocalContext(self.features, self.local_kernel, self.dtype, name=f"local_{n}")
            local.append(context(fused, seen & batch.example_mask[:, None], train))
        x = self._aggregate(local, phrases)
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
            x = x + block(x, x, mask, batch.example_index, train)  # Eq. 12
        attention = self._attention("attention")(x, mask)  # Eq. 13
        return Outputs(span=self._regress(x, attention), attention=attention, words=word_attention)

    def _check(self, batch: Batch) -> None:
        if self.local_kernel % 2 == 0:
            raise UserError(f"local_kernel is {self.local_kernel}; it must be odd (the paper's: 15).")
        if batch.video.shape[1] > self.max_clips:
            raise UserError(
                f"LGI has positions for {self.max_clips} clips, and the batch has {batch.video.shape[1]}. Set "
                "config.input.num_clips to no more, or raise max_clips."
            )

    def _encode_query(self, batch: Batch, train: bool) -> tuple[jax.Array, jax.Array]:
        """Section 3.2: words [B,L,F] and the sentence [B,F], the last state forward and the first backward."""
        if self.vocab_size:
            shape = (self.vocab_size, batch.query_vectors.shape[-1])
            words = self.param("words", nn.initializers.normal(1.0), shape)[batch.query]
        else:
            words = WordEmbedding(unknown=nn.initializers.normal(1.0), name="words")(batch)
        lstm = LSTM(self.features // 2, 2, True, self.dtype, self.dropout, fast=True, name="lstm")
        states = lstm(words, batch.query_mask, batch.example_index, train)
        forward, backward = jnp.split(states, 2, axis=-1)
        ends = last_state(forward, batch.query_mask), first_state(backward, batch.query_mask)
        return states, jnp.concatenate(ends, axis=-1)

    def _encode_video(self, batch: Batch, train: bool) -> jax.Array:
        """Eq. 3: clips [B,T,F], zero at padding."""

        def part(x, name):
            dropped = Dropout(self.dropout, name=name)(nn.relu(x), batch.example_index, train)
            return jnp.where(batch.video_mask[..., None], dropped, 0)

        clips = torch_linear(self.features, batch.video, self.dtype, "video")
        shape = (self.max_clips, self.features)
        positions = self.param("positions", nn.initializers.normal(1.0), shape)[None, : clips.shape[1]]
        positions = jnp.broadcast_to(positions.astype(self.dtype), clips.shape)
        return part(clips, "drop_clips") + part(positions, "drop_positions")

    def _aggregate(self, local: list[jax.Array], phrases: jax.Array) -> jax.Array:
        """Returns [B,T,F], the mean of `local`, one [B,T,F] a phrase, by attention to the phrases [B,Z,F]."""
        if self.num_phrases == 1:
            return local[0]
        every = jnp.ones(phrases.shape[:2], bool)
        weights = self._attention("aggregate")(phrases, every).astype(self.dtype)  # Eq. 10
        # Eq. 11; a stack of them all would be a copy.
        parts = [weights[:, n, None, None] * part for n, part in enumerate(local)]
        return functools.reduce(jnp.add, parts)

    def _attention(self, name: str) -> "Attention":
        return Attention(self.attention_features, self.dtype, name=name)

    def _regress(self, x: jax.Array, attention: jax.Array) -> jax.Array:
        """Returns the span [B,2] of clips [B,T,F] under attention [B,T]."""
        video = jnp.einsum("bt,btf->bf", attention.astype(self.dtype), x)  # Eq. 14
        video = torch_linear(self.features, video, self.dtype, "summary")
        hidden = nn.relu(torch_linear(self.features, video, self.dtype, "span_hidden"))
        # Eq. 15, in float32 whatever the dtype of the layers.
        return ACTIVATIONS[self.activation](torch_linear(2, hidden.astype(jnp.float32), jnp.float32, "span"))

    def loss(self, outputs: Outputs, batch: Batch, *, epoch: jax.Array) -> dict[str, Mean]:
        """Eq. 16, each term of weight 1 in the paper.

        'regression' is L_reg, 'attention_guidance' L_tag and 'distinct_query_attention' L_dqa.
        """
        del epoch
        real = batch.example_mask
        errors = optax.huber_loss(outputs.span, batch.span / batch.duration[:, None]).sum(-1)  # Eq. 17
        terms = {"regression": Mean.of(errors, real)}
        if self.guidance_weight:
            inside = inside_labels(batch.span, batch.duration, batch.video_mask, self.official_padding)
            surprise = guidance_loss(outputs.attention, inside)
            terms["attention_guidance"] = Mean.of(surprise, real, self.guidance_weight)
        if self.diversity_weight and outputs.words is not None:
            overlap = diversity_loss(outputs.words, self.self_overlap)
            terms["distinct_query_attention"] = Mean.of(overlap, real, self.diversity_weight)
        return terms

    def predict(self, outputs: Outputs, batch: Batch) -> Moments:
        """Returns the one moment of each pair, with score 1."""
        start, end = jnp.moveaxis(outputs.span * batch.duration[:, None], -1, 0)
        span = jnp.stack([start, jnp.maximum(start, end)], axis=-1)
        certain = jnp.ones((batch.size, 1))
        return rank(span[:, None], certain, certain > 0, 1)

    def explain(self, outputs: Outputs, batch: Batch) -> dict[str, jax.Array]:
        """Returns the attention over the clips relative to the highest: 'clips' [B,T]."""
        highest = jnp.maximum(outputs.attention.max(-1, keepdims=True), 1e-30)
        return {"clips": jnp.where(batch.video_mask, outputs.attention / highest, jnp.nan)}


# Section 3.3: sequential query attention.


class SequentialQueryAttention(nn.Module):
    """The semantic phrases, each a mean of the words by attention; each knows the one before it.

    Attributes:
      features: F, width of a phrase.
      attention_features: width of the hidden layer of the attention.
      num_phrases: Z, number of phrases.
      dtype: number format of the layers; the attention is float32.
    """

    features: int
    attention_features: int
    num_phrases: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, words: jax.Array, sentence: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns phrases [B,Z,F], attention [B,Z,L] float32 of words [B,L,F], mask [B,L], sentence [B,F]."""
        guide = torch_dense(self.features, 2 * self.features, self.dtype, "guide")
        key = torch_dense(self.attention_features, self.features, self.dtype, "key")
        score = torch_dense(1, self.attention_features, self.dtype, "score")
        of_words = torch_linear(self.attention_features, words, self.dtype, "word")
        phrase, phrases, attentions = jnp.zeros_like(sentence), [], []
        for n in range(self.num_phrases):
            query = torch_linear(self.features, sentence, self.dtype, f"query_{n}")
            guidance = nn.relu(guide(jnp.concatenate([query, phrase], axis=-1)))  # Eq. 4
            logits = score(jnp.tanh(key(guidance)[:, None] + of_words))[..., 0]  # Eq. 5
            attention = masked_softmax(logits, mask)  # Eq. 6
            phrase = jnp.einsum("bl,blf->bf", attention.astype(self.dtype), words)  # Eq. 7
            phrases.append(phrase)
            attentions.append(attention)
        return jnp.stack(phrases, axis=1), jnp.stack(attentions, axis=1)


# Section 3.4: local-global interaction, and attention over phrases and clips.


class Fusion(nn.Module):
    """Eq. 8, with a ReLU behind every layer (official code): the Hadamard product of clip and phrase.

    Attributes:
      features: F, width of every layer.
      dtype: number format of the layers.
    """

    features: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, clips: jax.Array, phrase: jax.Array) -> jax.Array:
        """Returns [B,T,F] of clips [B,T,F] and a phrase [B,F]."""
        clips = nn.relu(torch_linear(self.features, clips, self.dtype, "clip"))
        phrase = nn.relu(torch_linear(self.features, phrase, self.dtype, "phrase"))
        return nn.relu(torch_linear(self.features, clips * phrase[:, None], self.dtype, "output"))


class LocalContext(nn.Module):
    """Eq. 9: a residual block of two convolutions over the clips.

    Attributes:
      features: F, width of both convolutions.
      kernel: number of clips that a convolution sees, odd.
      dtype: number format of the layers.
    """

    features: int
    kernel: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array, train: bool) -> jax.Array:
        """Returns [B,T,F] of clips [B,T,F], zero where the mask [B,T] is False."""
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
    """Weights of a softmax over a set, from a hidden layer without bias: MLP_satt and MLP_tatt.

    Attributes:
      attention_features: width of the hidden layer.
      dtype: number format of the layers; the softmax is float32.
    """

    attention_features: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        """Returns weights [B,T] float32 of a set [B,T,F] with mask [B,T]."""
        hidden = torch_linear(self.attention_features, x, self.dtype, "hidden", use_bias=False)
        scores = torch_linear(1, jnp.tanh(hidden), self.dtype, "score", use_bias=False)[..., 0]
        return masked_softmax(scores, mask)


# Section 3.6: labels and losses.


def inside_labels(
    span: jax.Array, duration: jax.Array, mask: jax.Array, official_padding: bool = False
) -> jax.Array:
    """Returns [B,T] bool, the clips from round(start) to round(end) inclusive, one after the start at least.

    The end of a moment is thus one clip late where it lies on the grid, as in the official code; there it can
    be the first padded clip, which counts only with `official_padding`.
    """
    count = mask.sum(-1)
    bounds = jnp.round(span / duration[:, None] * count[:, None]).astype(jnp.int32)  # halves to even
    first = jnp.minimum(bounds[:, 0], count - 1)
    last = jnp.maximum(bounds[:, 1], first + 1)
    clip = jnp.arange(mask.shape[1])[None, :]
    inside = (clip >= first[:, None]) & (clip <= last[:, None])
    return inside if official_padding else inside & mask


def guidance_loss(attention: jax.Array, inside: jax.Array) -> jax.Array:
    """Eq. 18, [B]: minus the mean log attention over the clips of the moment."""
    surprise = jnp.where(inside, -jnp.log(attention + 1e-8), 0.0)  # 1e-8 as in the official code
    return surprise.sum(-1) / jnp.maximum(inside.sum(-1), 1)


def diversity_loss(words: jax.Array, self_overlap: float) -> jax.Array:
    """Eq. 19, [B] of attentions A [B,Z,L]: the squared Frobenius norm of A A^T - lambda I."""
    overlap = jnp.einsum("bzl,byl->bzy", words, words)
    return jnp.square(overlap - self_overlap * jnp.eye(words.shape[1])[None]).sum((1, 2))
