"""SeqPAN: attention to oneself and to the other modality side by side, and a label for every clip.

Tensors (F = `features`; names of the official code at the right):

    batch.video      [B,T,D]  clip features, not normalised; shorter videos are padded
    query            [B,L,F]  word vectors and characters, linear layer, position, convolutions    qfeats
    video            [B,T,F]  linear layer, position, the same convolutions                        vfeats
    fused            [B,T,F]  context-query attention both ways, the pooled query at every clip    fuse_feats
    match            [B,T,4]  logits of a clip: background, begin, inside or end of the moment     match_scores
    labels           [4,F]    a vector of each of the four                                         label_emb
    start, end       [B,T]    logits of the first and of the last clip                             start_logits

The vectors of the labels, weighed by their probabilities, are added to the clips before start and end are read.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct

from vmr_jax.layers.attention import attended, attention_weights
from vmr_jax.layers.characters import QueryEmbedding
from vmr_jax.layers.draws import draw_per_example
from vmr_jax.layers.dropout import Dropout
from vmr_jax.layers.linear import xavier_linear
from vmr_jax.layers.norm import layer_norm
from vmr_jax.layers.padding import batch_steps
from vmr_jax.layers.qanet import ContextQueryAttention, FeatureEncoder, QueryConcat, check_reads
from vmr_jax.layers.span import boundary_logits, explain_pairs, rank_pairs, span_labels
from vmr_jax.models.base import GroundingModel
from vmr_jax.models.card import Card
from vmr_jax.types import Batch, Mean, Moments

CARD = Card(
    title="Parallel Attention Network with Sequence Matching for Video Grounding",
    authors=("Zhang", "Sun", "Jing", "Zhen", "Zhou", "Goh"),
    venue="Findings of ACL",
    year=2021,
    family="span",
    kind="parallel attention, begin-inside-end labels",
    supervision="full",
    features="I3D; GloVe, characters",
    official_code="26hzhang/SeqPAN@0512ac358c65 (TensorFlow)",
    ours=(
        "The paper's equations could not be seen; layers, losses and defaults are those of the official code.",
        "Predictions have no Gumbel noise; the official program draws it there too, so that two evaluations of "
        "one checkpoint differ.",
        "IoU is that with the annotation; the official program takes the nearest pair of clips for it, which "
        "raises all its numbers.",
        "Padding matters only with official_padding=True, as for VSLNet.",
        "The learning rate falls step by step, in the official program once an epoch.",
    ),
    verified=(
        "Against the official code at this commit, running in TensorFlow's compat.v1, with small random "
        "weights, in a ragged batch with official_padding=True and noise of zero, and without padding and "
        "noise: logits and probabilities of the labels to 2e-6 of their size, every loss term to 2e-7, all "
        "gradients to 4e-5, and the best moment; soft and matching labels of 3,000 moments are the same.",
        "1,186,558 parameters on Charades-STA with I3D and 39 characters, beside the words.",
    ),
)


@struct.dataclass
class Outputs:
    """Logits, float32."""

    start: jax.Array  # [B,T], `MASKED` at padded clips
    end: jax.Array  # [B,T]
    match: jax.Array  # [B,T,4], noise and temperature included
    labels: jax.Array  # [4,F], a parameter


class Model(GroundingModel):
    """SeqPAN. The defaults are those of the official code's options.

    Attributes:
      features: F, width of every layer.
      heads: number of attention heads.
      conv_layers: number of depthwise-separable convolutions of an encoder.
      conv_kernel: kernel size of these convolutions.
      attention_layers: number of layers of parallel attention, each with one set of weights for both sides.
      max_positions: number of clips and words that have a position; the official code has 64 on Charades-STA,
        100 on ActivityNet Captions and 256 on TACoS.
      gumbel: whether the labels of the clips are drawn while training, by Gumbel noise; without it the
        temperature is 1.
      temperature: number by which the logits of the labels are divided, the official tau.
      matching_weight: weight of the labels' loss and of what keeps their vectors apart.
      char_features: width of a character's embedding.
      num_chars: number of characters, padding and unknown included.
      dropout: dropout rate of all layers.
      vocab_size: number of words whose vectors are fine-tuned, 0 to keep them (the paper's).
      keep: number of moments that `predict` ranks, 0 for all pairs of clips. The official program takes the
        best pair alone, so what follows it, and R@5, are ours.
      longest_share: length of the longest moment that is ranked, as a share of the video (ours; 1 ranks all).
      official_padding: whether padding matters as in the official code, see the card.
      dtype: number format of the layers; parameters, logits and loss are float32.
    """

    features: int = 128
    heads: int = 8
    conv_layers: int = 4
    conv_kernel: int = 7
    attention_layers: int = 2
    max_positions: int = 256
    gumbel: bool = True
    temperature: float = 0.3
    matching_weight: float = 1.0
    char_features: int = 50
    num_chars: int = 40
    dropout: float = 0.2
    vocab_size: int = 0
    keep: int = 100
    longest_share: float = 1.0
    official_padding: bool = False
    dtype: jnp.dtype = jnp.float32

    of_evaluation = ("longest_share",)

    def requires(self) -> tuple[str, ...]:
        """Names the characters of the words."""
        return ("query_chars",)

    @nn.compact
    def __call__(self, batch: Batch, *, train: bool) -> Outputs:
        """Scores every clip as start and as end, and its four labels; UserError for too many clips or words."""
        batch.check()
        check_reads("SeqPAN", batch, self.max_positions)
        index, mask, words_mask = batch.example_index, batch.video_mask, batch.query_mask
        seen, seen_words, alike = mask, words_mask, None
        if self.official_padding:
            seen, seen_words = (batch_steps(m, batch.example_mask) for m in (mask, words_mask))
            alike = ~mask, seen
        query = QueryEmbedding(
            self.features,
            self.char_features,
            self.num_chars,
            self.dropout,
            self.vocab_size,
            self.dtype,
            self.official_padding,
            name="words",
        )(batch, train)
        video = Dropout(self.dropout)(batch.video.astype(self.dtype), index, train)
        video = layer_norm(xavier_linear(self.features, video, self.dtype, "clips"), self.dtype, "clips_norm")
        encoder = self._encoder("encoder", attend=False)
        video = encoder(video, mask, index, train, seen)
        query = layer_norm(query, self.dtype, "words_norm")
        query = encoder(query, words_mask, index, train, seen_words)
        for i in range(self.attention_layers):
            layer = ParallelAttention(self.features, self.heads, self.dropout, self.dtype, name=f"parallel_{i}")
            video, query = (
                layer(video, query, mask, words_mask, index, train),
                layer(query, video, words_mask, mask, index, train),
            )
        fused = self._fuse(video, query, batch, train)

        match = xavier_linear(4, fused.astype(jnp.float32), jnp.float32, "match")
        labels = self.param("labels", nn.initializers.orthogonal(), (4, self.features))
        if self.gumbel:
            if train:
                key = self.make_rng("dropout")
                match = match + draw_per_example(key, index, jax.random.gumbel, match.shape[1:])
            match = match / self.temperature
        fused = fused + jnp.einsum("btk,kf->btf", jax.nn.softmax(match), labels).astype(self.dtype)
        fused = jnp.where(mask[..., None], fused, 0)

        encoder = self._encoder("span_encoder")  # official `conditioned_predictor`
        start = encoder(fused, mask, index, train, seen, alike)
        end = encoder(start, mask, index, train, seen, alike)
        start = layer_norm(start, self.dtype, "start_norm")
        end = layer_norm(end, self.dtype, "end_norm")
        return Outputs(
            start=boundary_logits(start, fused, mask, self.dtype, "start"),
            end=boundary_logits(end, fused, mask, self.dtype, "end"),
            match=match,
            labels=labels,
        )

    def _encoder(self, name: str, attend: bool = True) -> FeatureEncoder:
        return FeatureEncoder(
            self.features,
            self.heads,
            self.conv_layers,
            self.conv_kernel,
            self.max_positions,
            self.dropout,
            self.dtype,
            attend,
            name=name,
        )

    def _fuse(self, video: jax.Array, query: jax.Array, batch: Batch, train: bool) -> jax.Array:
        """Returns clips [B,T,F] that know the query, and the query that knows the clips at each of them."""

        def attend(x, x_mask, other, other_mask, name):
            layer = ContextQueryAttention(self.features, self.dropout, self.dtype, use_bias=False, name=name)
            return layer(x, other, x_mask, other_mask, batch.example_index, train)

        clips = attend(video, batch.video_mask, query, batch.query_mask, "video_attention")
        words = attend(query, batch.query_mask, video, batch.video_mask, "query_attention")
        return QueryConcat(self.features, self.dtype, name="concat")(clips, words, batch.query_mask)

    def loss(self, outputs: Outputs, batch: Batch, *, epoch: jax.Array) -> dict[str, Mean]:
        """'start', 'end': of softened clips; 'matching': of clips' labels; 'apart': of the labels' vectors."""
        del epoch
        mask, real = batch.video_mask, batch.example_mask
        first, last = span_labels(batch.span, batch.duration, mask)
        ends = {"start": (outputs.start, first), "end": (outputs.end, last)}
        terms = {
            name: Mean.of(soft_cross_entropy(logits, soft_labels(clip, mask)), real)
            for name, (logits, clip) in ends.items()
        }
        if self.matching_weight:
            which = matching_labels(first, last, mask)
            log_probs = jax.nn.log_softmax(outputs.match)
            errors = -jnp.take_along_axis(log_probs, which[..., None], axis=2)[..., 0]
            overlap = outputs.labels @ outputs.labels.T * (1 - jnp.eye(4))
            # The root has no gradient at zero, where orthogonal vectors are.
            length = jnp.sqrt(jnp.maximum(jnp.square(overlap).sum(), 1e-20))
            terms["matching"] = Mean.of(errors, mask & real[:, None], self.matching_weight)
            terms["apart"] = Mean.of(jnp.broadcast_to(length, real.shape), real, self.matching_weight)
        return terms

    def predict(self, outputs: Outputs, batch: Batch) -> Moments:
        """Returns moments from a start clip to an end clip, by the product of both probabilities."""
        return rank_pairs(
            outputs.start, outputs.end, batch.duration, batch.video_mask, self.keep, self.longest_share
        )

    def explain(self, outputs: Outputs, batch: Batch) -> dict[str, jax.Array]:
        """Returns probabilities: relative to the best, 'map' [B,T,T], and of being inside, 'clips' [B,T]."""
        mask = batch.video_mask
        inside = 1 - jax.nn.softmax(outputs.match)[..., 0]
        pictures = {"map": explain_pairs(outputs.start, outputs.end, mask, self.longest_share)}
        return {**pictures, "clips": jnp.where(mask, inside, jnp.nan)}


class ParallelAttention(nn.Module):
    """Each step attends to its own modality and to the other; both pass gates (official `dual_attn_block`).

    Attributes:
      features: F, width of every layer.
      heads: number of attention heads.
      dropout: dropout rate of the attention weights and of every sub-layer.
      dtype: number format of the layers; the softmax is float32.
    """

    features: int
    heads: int
    dropout: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        other: jax.Array,
        mask: jax.Array,
        other_mask: jax.Array,
        example_index: jax.Array,
        train: bool,
    ) -> jax.Array:
        """Returns [B,T,F] of steps [B,T,F] and the others [B,L,F]; the result at padding is meaningless."""

        def drop(y):
            return Dropout(self.dropout)(y, example_index, train)

        def linear(y, name, use_bias=True):
            return xavier_linear(self.features, y, self.dtype, name, use_bias)

        def heads(y, name):
            return linear(y, name).reshape(*y.shape[:2], self.heads, -1)

        def attend(keys, keys_mask, name):
            weights = attention_weights(queries, heads(keys, f"{name}_key"), keys_mask[:, None, None])
            return linear(attended(drop(weights), heads(keys, f"{name}_value")), f"{name}_output")

        own, others = layer_norm(x, self.dtype, "norm"), layer_norm(other, self.dtype, "other_norm")
        queries = heads(own, "query")
        of_self, of_other = attend(own, mask, "self"), attend(others, other_mask, "other")
        # Each lets through the other (official `dual_multihead_attention`).
        gated = nn.sigmoid(linear(of_self, "self_gate")) * of_other
        gated = linear(gated + nn.sigmoid(linear(of_other, "other_gate")) * of_self, "guided")
        score = linear(own, "score_own") + linear(gated, "score_guided", use_bias=False)
        value = linear(own, "value_own") + linear(gated, "value_guided", use_bias=False)
        y = jnp.where(mask[..., None], nn.sigmoid(score) * value, 0)
        x = x + drop(linear(y, "hidden"))
        y = linear(drop(layer_norm(x, self.dtype, "output_norm")), "output")
        return x + drop(y)


# Labels, as in the official `TrainLoader`.


def soft_labels(position: jax.Array, mask: jax.Array) -> jax.Array:
    """Returns [B,T] that sum to 1: 1/2 at a clip [B], 1/4 at both neighbours, 1e-10 at the other real clips.

    The share of a neighbour that is no real clip goes to the clip.
    """
    count = mask.sum(1)
    share = ((1 - count * 1e-10 - 0.5) / 2)[:, None]
    clip, position = jnp.arange(mask.shape[1])[None], position[:, None]
    beside = (jnp.abs(clip - position) == 1) & mask
    outside = 2 - beside.sum(1, keepdims=True)
    own = 0.5 + 1e-10 + outside * share
    return jnp.where(clip == position, own, jnp.where(beside, share, 1e-10 * mask))


def soft_cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Returns [B], the cross-entropy of logits [B,T] with labels [B,T], which are zero at padding."""
    return -jnp.where(labels > 0, labels * jax.nn.log_softmax(logits), 0.0).sum(1)


def matching_labels(first: jax.Array, last: jax.Array, mask: jax.Array) -> jax.Array:
    """Returns [B,T] int32: 1 at the begin of a moment [B], 2 inside, 3 at its end, 0 elsewhere.

    Begin and end are a clip and its neighbours. Where they meet, the begin gives way, but for its clip itself,
    and the end is written last.
    """
    clip, final = jnp.arange(mask.shape[1])[None], mask.sum(1)[:, None] - 1
    first, last = first[:, None], last[:, None]
    end = jnp.maximum(last - 1, 0)
    begin = jnp.minimum(first + 1, final)  # the last clip of the begin
    begin = jnp.where(begin >= end, jnp.maximum(first, end - 1), begin)
    labels = jnp.where((clip >= first - 1) & (clip <= begin), 1, 0)
    labels = jnp.where((clip > begin) & (clip < end), 2, labels)
    return jnp.where((clip >= end) & (clip <= jnp.minimum(last + 1, final)), 3, labels)
