"""QD-DETR: clips that have first read the query, and a saliency that another query must not raise.

Tensors (F = `features`; M = `num_queries`, the slots of the decoder, each a candidate moment; A annotated
moments; I = `decoder_layers`; the names at the right are the official code's):

    batch.video          [B,T,D]    clip features, rows L2-normalised; begin and end of each clip are appended
    batch.query_vectors  [B,L,W]    token features of CLIP (or word vectors), each L2-normalised
    clips                [B,T,F]    2 linear layers with layer norms and dropout          `src_vid`
    words                [B,L,F]    likewise                                              `src_txt`
    aware                [B,T,F]    2 layers in which clips attend to words alone         `t2v_encoder`
    memory               [B,T,F]    2 encoder layers over a learned token and the clips   `memory_local`
    token                [B,F]      what they make of the token                           `memory_global`
    saliency             [B,T]      <W1 memory, W2 token> / sqrt(F)                       `saliency_scores`
    other                [B,T]      the same with the words of the next row of the batch  `saliency_scores_neg`
    anchors              [B,I,M,2]  centre and width with which a decoder layer begins    `reference`
    decoded              [B,I,M,F]  the slots after each decoder layer                    `hs`
    logits               [B,I,M,2]  a linear layer: moment of the sentence, or none       `pred_logits`
    spans                [B,I,M,2]  3 linear layers, which move the anchor                `pred_spans`

Slots are matched with the annotated moments as in Moment-DETR (`vmr_jax.layers.set_prediction`). In training
every video is read a second time, with the query of the next row: its clips are to be salient for the own query
alone.

Defaults are those of the official code's `BaseOptions` and, for `round_to`, `PostProcessorDETR`. There are no
numbers of equations here: the paper was not at hand.
"""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct

from vmr_jax.errors import UserError
from vmr_jax.layers.attention import MASKED
from vmr_jax.layers.clips import clip_bounds
from vmr_jax.layers.conditional_decoder import AnchorDecoder, inverse_sigmoid
from vmr_jax.layers.examples import own_rows
from vmr_jax.layers.linear import torch_linear
from vmr_jax.layers.saliency import relevant_clips
from vmr_jax.layers.transformer import EncoderLayer, PostNormLayer, sine_positions
from vmr_jax.models import moment_detr
from vmr_jax.models.card import Card
from vmr_jax.parallel import gather_examples
from vmr_jax.types import Batch, Mean

CARD = Card(
    title="Query-Dependent Video Representation for Moment Retrieval and Highlight Detection",
    authors=("Moon", "Hyun", "Park", "Park", "Heo"),
    venue="CVPR",
    year=2023,
    family="set prediction",
    kind="query-dependent clips, negative queries, moving anchors",
    supervision="full",
    features="SlowFast, CLIP, PANN; CLIP tokens",
    official_code="wjun0830/QD-DETR@56c63b2c75c5 (PyTorch)",
    ours=(
        "The negative query is that of the next real row of the whole batch with another example, on any "
        "device; a batch of one has none, where the official code takes the own query.",
        "The official code hides some words from clips by the masks of other rows (official_padding).",
        "Times are shares of the video's duration in training too, and predicted ones are cut to the video, as "
        "in our Moment-DETR. So are relevant clips and pairs where nobody scored saliency; relevant clips then "
        "have the level 1.",
        "Of more rows than the model reads QVHighlights keeps the first 75 (input.resample='cut'), as "
        "officially.",
        "TVSum, whose protocol learns highlights without moments, is no dataset of this library.",
    ),
    verified=(
        "Against the official code at this commit, running, at its width of 256 with random weights, three "
        "decoder layers, videos of 52 to 80 rows, queries of 3 to 9 tokens, six moments in one, tied scores, "
        "with and without sound: rows, levels, outputs of both readings, all loss terms, gradients and rounded "
        "moments agree to 1e-6, with official_padding=True.",
        "With the order of its mask of padded words put right in a copy of the official code, the default "
        "agrees as well; there that mask changes the loss by 3e-5.",
        "Checkpoints of the official code are imported.",
    ),
)


@struct.dataclass
class Outputs(moment_detr.Outputs):
    """And the saliency of the second reading, float32."""

    other_saliency: jax.Array  # [B,T] as `saliency`, for another row's query; `MASKED` where there is none
    has_other: jax.Array  # [B] bool, whether there is another query: never at evaluation


class Model(moment_detr.SetPrediction):
    """QD-DETR: the further fields beside those of `vmr_jax.models.moment_detr.SetPrediction`.

    `features` is a multiple of 4; `encoder_layers` are those in which clips read the words, and as many after
    them.

    Attributes:
      audio: whether sound (batch.audio) is read beside the features of the clips.
      ranks: number by which the loss of ranks is divided; clips of one level less are told from those below.
      rank_temperature: number by which saliency is divided in the loss of ranks.
      official_padding: whether the masks of other rows hide words, as in the official code; results then depend
        on the rows of the batch. For checkpoints that were trained on videos of different lengths.
    """

    audio: bool = False
    ranks: int = 12  # official `loss_saliency`: levels 1 to 11, of three annotators' scores from 0 to 4
    rank_temperature: float = 0.5  # official `loss_saliency`: tau
    official_padding: bool = False

    def requires(self) -> tuple[str, ...]:
        """Names the sound, the annotated moments and the saliency scores, where they are read."""
        return ("audio",) * self.audio + super().requires()

    @nn.compact
    def __call__(self, batch: Batch, *, train: bool) -> Outputs:
        """Predicts M moments and the saliency of every clip; UserError without the fields that are required."""
        batch.check()
        self._check(batch)
        index, size = batch.example_index, batch.size
        clips, words = self._inputs(self._rows(batch), batch, train)
        mask, seen = batch.video_mask, self._seen(batch, batch.query_mask)
        has_other = jnp.zeros(size, bool)
        if train:  # the second reading of a video is further rows, with draws of their own
            other, other_mask, has_other = other_words(words, batch)
            words, clips = jnp.concatenate([words, other]), jnp.concatenate([clips, clips])
            seen = jnp.concatenate([seen, self._seen(batch, other_mask)])
            mask, index = jnp.concatenate([mask, mask]), jnp.concatenate([index, ~index])

        memory, token, positions = self._encode(clips, words, mask, seen, index, train)
        saliency = jnp.where(mask, self._saliency(memory, token), MASKED)
        other = saliency[size:] if train else jnp.full_like(saliency, MASKED)
        index, memory, positions = index[:size], memory[:size], positions[:size]
        decoder = AnchorDecoder(self.decoder_layers, self.num_queries, **self._sizes(), name="decoder")
        decoded, anchors = decoder(memory, positions, batch.video_mask, index, train)
        logits, moved = self._heads(decoded)
        return Outputs(
            logits=logits,
            spans=jax.nn.sigmoid(moved + inverse_sigmoid(anchors)),
            saliency=saliency[:size],
            other_saliency=jnp.where(has_other[:, None], other, MASKED),
            has_other=has_other,
            window_draws=self._draw(index, self._windows(batch)[1].shape[1], train),
            clip_draws=self._draw(index, mask.shape[1], train),
        )

    def _check(self, batch: Batch) -> None:
        absent = [name for name in self.requires() if getattr(batch, name) is None]
        if absent:
            raise UserError(
                f"QD-DETR reads {' and '.join(absent)}, and this batch has none. Choose a data set that has "
                "them, or set config.model.audio, config.model.all_windows and "
                "config.model.annotated_saliency to False."
            )
        if self.features % 4:
            raise UserError(
                f"config.model.features of QD-DETR is {self.features}; centre and width of an anchor have half "
                "of it each, in pairs of sine and cosine, so it must be a multiple of 4."
            )

    def _rows(self, batch: Batch) -> jax.Array:
        """Returns the features of the clips [B,T,*], each stream with the clips' bounds (official datasets)."""
        ends = clip_bounds(batch.video_mask)
        if self.audio:
            return jnp.concatenate((batch.video, ends, batch.audio, ends), axis=-1)
        return jnp.concatenate((batch.video, ends), axis=-1)

    def _seen(self, batch: Batch, word_mask: jax.Array) -> jax.Array:
        """Returns the mask of the words that clips see: [B,L], or by the official code [B,H,T,L].

        There the mask of padded words at padded clips has the heads of a row side by side, and is read as if it
        had the rows of a head side by side: head h of row b has the mask of row (H b + h) mod B.
        """
        if not self.official_padding:
            return word_mask
        clips, words = gather_examples((batch.video_mask, word_mask))
        own, real = own_rows(batch)
        head = own.argmax(-1)[:, None] * self.heads + jnp.arange(self.heads)[None]
        row = head % jnp.maximum(real.sum(), 1)
        clips, words = jnp.take(clips, row, axis=0), jnp.take(words, row, axis=0)
        hidden = ~clips[..., None] & ~words[..., None, :]
        return word_mask[:, None, None] & ~hidden

    def _encode(self, clips, words, mask, seen, index, train: bool) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Returns the memory [B,T,F] of the clips, the token [B,F], and the positions [B,T,F] of the clips."""
        positions = sine_positions(mask, self.features)
        for i in range(self.encoder_layers):
            read = TextToClips(**self._sizes(), learned_slope=True, name=f"text_{i}")
            clips = read(clips, words, seen, index, train, positions)
        normal, one = nn.initializers.normal(1.0), (len(clips), 1, self.features)
        token = self.param("token", normal, (self.features,))
        place = self.param("token_position", normal, (self.features,))
        x = jnp.concatenate([jnp.broadcast_to(token.astype(clips.dtype), one), clips], axis=1)
        places = jnp.concatenate([jnp.broadcast_to(place, one), positions], axis=1)
        mask = jnp.concatenate([jnp.ones((len(clips), 1), bool), mask], axis=1)
        for i in range(self.encoder_layers):
            layer = EncoderLayer(**self._sizes(), learned_slope=True, name=f"encoder_{i}")
            x = layer(x, mask, index, train, places)
        return x[:, 1:], x[:, 0], positions

    def _saliency(self, memory: jax.Array, token: jax.Array) -> jax.Array:
        """Returns scores [B,T] of clips [B,T,F] by the token [B,F] (official `saliency_proj1`, `_proj2`)."""
        clips = torch_linear(self.features, memory.astype(jnp.float32), jnp.float32, "saliency_clips")
        token = torch_linear(self.features, token.astype(jnp.float32), jnp.float32, "saliency_token")
        return jnp.einsum("btf,bf->bt", clips, token, precision="highest") / self.features**0.5

    def loss(self, outputs: Outputs, batch: Batch, *, epoch: jax.Array) -> dict[str, Mean]:
        """'span', 'giou' and 'label' of matched moments; of the clips 'saliency', 'rank' and 'negative'.

        Source: official `SetCriterion`, whose `loss_saliency` is the sum of the last three.
        """
        del epoch
        terms = self._losses(outputs, batch)
        relevant = relevant_clips(*self._windows(batch), batch.duration, batch.video_mask)
        scores = batch.saliency if self.annotated_saliency else None
        levels = relevant.astype(jnp.float32) if scores is None else scores
        ranked = rank_contrast(outputs, levels, batch.video_mask, self.ranks, self.rank_temperature)
        terms["rank"] = Mean.of(ranked, batch.example_mask, self.saliency_weight)
        raised = jax.nn.softplus(outputs.other_saliency)  # -log(1 - sigmoid(x)); 0 where it is `MASKED`
        terms["negative"] = Mean.of(
            raised.sum(-1), batch.example_mask & outputs.has_other, self.saliency_weight
        )
        return terms


# The query of another row.


def other_words(words: jax.Array, batch: Batch) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The words [B,L,F] of the next real row of all devices that is another example; after the last, the first.

    Returns them with their mask [B,L] and whether there is such a row [B]. Source: the official model's "Neg
    Pairs", which rolls the queries of a batch by one.
    """
    own, real = own_rows(batch)
    size = real.shape[0]
    ahead = (jnp.arange(size)[None] - own.argmax(-1)[:, None]) % size
    others = real[None] & ~own
    row = jnp.where(others, ahead, size).argmin(-1)
    all_words, all_masks = gather_examples((words, batch.query_mask))
    return jnp.take(all_words, row, axis=0), jnp.take(all_masks, row, axis=0), others.any(-1)


def rank_contrast(
    outputs: Outputs, levels: jax.Array, mask: jax.Array, ranks: int, temperature: float
) -> jax.Array:
    """How far clips of a level and above are from all others, of every level: a loss [B].

    The clips of the second reading have the level 0, below every other one. Source: official `loss_saliency`,
    with its epsilons; it has one level less than the number by which it divides.

    Args:
      outputs: saliency of both readings [B,T].
      levels: [B,T] scores of the annotators, summed.
      mask: [B,T] bool, the real clips.
      ranks: number by which the sum over the levels 1 to `ranks` - 1 is divided.
      temperature: number by which saliency is divided.
    """
    chex.assert_equal_shape([levels, mask, outputs.saliency])
    scores = jnp.concatenate([outputs.saliency, outputs.other_saliency], axis=1) / temperature
    logits = outputs.saliency / temperature - scores.max(-1, keepdims=True)
    total = jnp.exp(scores - scores.max(-1, keepdims=True)).sum(-1, keepdims=True)
    log_share = jnp.where(mask, logits - jnp.log(total + 1e-6), 0.0)
    above = (levels[:, None] >= jnp.arange(1, ranks)[None, :, None]) & mask[:, None]  # [B,ranks - 1,T]
    mean = (above * log_share[:, None]).sum(-1) / (above.sum(-1) + 1e-6)
    return -mean.sum(-1) / ranks


# Layers.


class TextToClips(PostNormLayer):
    """Attention of clips to words alone, and a feed-forward network (official `T2V_TransformerEncoderLayer`).

    The sum around the feed-forward network begins before the norm that the network reads, as in the official
    code; an encoder layer's begins behind it.

    Parameters: attention, attention_norm; hidden, slope, output, output_norm.
    """

    @nn.compact
    def __call__(
        self,
        clips: jax.Array,
        words: jax.Array,
        seen: jax.Array,
        example_index: jax.Array,
        train: bool,
        positions: jax.Array,
    ) -> jax.Array:
        """Returns [B,T,F] of clips [B,T,F] with positions and words [B,L,F] with mask [B,L] or [B,H,T,L]."""
        chex.assert_equal_shape([clips, positions])
        placed = clips + positions.astype(clips.dtype)
        y = self._attention("attention")(placed, words, words, seen, example_index, train)
        y = clips + self._drop(y, example_index, train)
        return self._feed_forward(self._norm(y, "attention_norm"), example_index, train, residual=y)
