"""Moment-DETR: all moments of a query as a set, and how salient every clip is for it.

Tensors (F = `features`; M = `num_queries`, the slots of the decoder, each a candidate moment; A annotated
moments; I = `decoder_layers`; the names at the right are the official code's):

    batch.video          [B,T,D]    clip features, rows L2-normalised; begin and end of each clip are appended
    batch.query_vectors  [B,L,W]    token features of CLIP (or word vectors), each L2-normalised
    clips                [B,T,F]    2 linear layers with layer norms and dropout          `src_vid`
    words                [B,L,F]    likewise                                              `src_txt`
    memory               [B,T+L,F]  2 encoder layers over both; clips have sine positions, words have none
    saliency             [B,T]      a linear layer, of the memory of the clips            `saliency_scores`
    decoded              [B,I,M,F]  M learned slots after each decoder layer              `hs`
    logits               [B,I,M,2]  a linear layer: moment of the sentence, or none       `pred_logits`
    spans                [B,I,M,2]  3 linear layers and a sigmoid: centre and width, as
                                    shares of the video                                   `pred_spans`

In training the M slots of each decoder layer are matched with the A annotated moments, one to one at the least
cost (Hungarian algorithm, on the device); matched ones learn their moment, the others to be none.

Defaults are those of the official code's `BaseOptions` and, for `round_to`, `PostProcessorDETR`.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import struct

from vmr_jax.errors import UserError
from vmr_jax.layers.attention import MASKED
from vmr_jax.layers.clips import clip_length
from vmr_jax.layers.dropout import Dropout
from vmr_jax.layers.linear import torch_linear
from vmr_jax.layers.norm import l2_normalize
from vmr_jax.layers.text import WordEmbedding
from vmr_jax.layers.transformer import DecoderLayer, EncoderLayer, sine_positions
from vmr_jax.models.base import GroundingModel
from vmr_jax.models.card import Card
from vmr_jax.moments import iou, rank
from vmr_jax.types import Batch, Mean, Moments

CARD = Card(
    title="QVHighlights: Detecting Moments and Highlights in Videos via Natural Language Queries",
    authors=("Lei", "Berg", "Bansal"),
    venue="NeurIPS",
    year=2021,
    family="set prediction",
    kind="transformer encoder-decoder, highlights",
    supervision="full",
    features="SlowFast, CLIP; CLIP tokens",
    official_code="jayleicn/moment_detr@b7e553ac3b0c (PyTorch)",
    ours=(
        "Times are shares of the video's duration in training too; in the official code they are shares of 2 s "
        "times the rows of features.",
        "A clip is relevant if its middle is in an annotated moment. Where nobody scored saliency "
        "(annotated_saliency=False), two random pairs of a relevant and another clip are compared, as the "
        "official code does for pre-training on subtitles, and the field for all other datasets.",
        "Predicted times are cut to the video, not to 150 s.",
        "Of more rows than the model reads QVHighlights keeps the first 75 (input.resample='cut'), as "
        "officially. On other datasets they are averaged: moments behind the first 75 could not be found.",
        "Among equally salient clips the last is the best and the first the worst, as officially where NumPy's "
        "sort keeps the order of equal sums (up to 16 clips, before it was vectorised).",
    ),
    verified=(
        "Against the official code at this commit, running, with small random weights, videos of 60 to 80 "
        "rows, queries of 3 to 9 tokens and tied scores: rows, outputs, loss terms, gradients and rounded "
        "moments agree to 1e-6.",
        "Checkpoints of the official code are imported.",
        "The matching equals a search through all assignments, and the set loss a loop over examples.",
    ),
)
MOMENT = 0  # index of the class 'moment'; 1 is 'none' (official `SetCriterion`: foreground_label 0)


@struct.dataclass
class Outputs:
    """Predicted moments and saliency, float32, and the random numbers of the training labels."""

    logits: jax.Array  # [B,I,M,2] of 'moment' and 'none', after each decoder layer
    spans: jax.Array  # [B,I,M,2] centre and width as shares of the video
    saliency: jax.Array  # [B,T], `MASKED` at padded clips
    window_draws: jax.Array  # [B,A] uniform: which annotated moments are learnt where there are many
    clip_draws: jax.Array  # [B,T] uniform: which clips are compared


class Model(GroundingModel):
    """Moment-DETR. The defaults are those of QVHighlights.

    Attributes:
      features: F, width of every layer.
      heads: number of attention heads.
      hidden: width inside the feed-forward networks.
      encoder_layers: number of encoder layers over clips and words.
      decoder_layers: I, number of decoder layers.
      num_queries: M, number of slots of the decoder, that is of moments that are predicted.
      all_windows: whether all annotated moments (batch.windows) are learnt; else batch.span alone.
      max_windows: number of annotated moments that are learnt in a step; of more, random ones.
      annotated_saliency: whether clips are compared by the scores of annotators (batch.saliency); else clips
        inside the annotated moments are compared with others.
      span_weight: weight of the L1 distance, in the matching and in the loss.
      giou_weight: weight of the generalised IoU, in the matching and in the loss.
      label_weight: weight of the classes, in the matching and in the loss.
      none_weight: weight of the class 'none' in the loss, beside 1 of the class 'moment'.
      saliency_weight: weight of the saliency loss.
      saliency_margin: score difference by which the more salient of two clips is to be ahead.
      round_to: step in seconds to which predicted times are rounded; 0 leaves them as they are.
      normalize_words: whether each word vector is L2-normalised.
      dropout: dropout rate of the transformer.
      input_dropout: dropout rate before the linear layers that clips and words first go through.
      vocab_size: number of words whose vectors are fine-tuned, 0 to keep them (the paper's).
      dtype: number format of the layers; parameters, heads and loss are float32.
    """

    features: int = 256
    heads: int = 8
    hidden: int = 1024
    encoder_layers: int = 2
    decoder_layers: int = 2
    num_queries: int = 10
    all_windows: bool = True
    max_windows: int = 5
    annotated_saliency: bool = True
    span_weight: float = 10.0
    giou_weight: float = 1.0
    label_weight: float = 4.0
    none_weight: float = 0.1
    saliency_weight: float = 1.0
    saliency_margin: float = 0.2
    round_to: float = 2.0
    normalize_words: bool = True
    dropout: float = 0.1
    input_dropout: float = 0.5
    vocab_size: int = 0
    dtype: jnp.dtype = jnp.float32

    def requires(self) -> tuple[str, ...]:
        """Names the annotated moments and the saliency scores, where they are learnt."""
        labels = (("windows", self.all_windows), ("saliency", self.annotated_saliency))
        return tuple(name for name, learnt in labels if learnt)

    @nn.compact
    def __call__(self, batch: Batch, *, train: bool) -> Outputs:
        """Predicts M moments and the saliency of every clip; UserError without the labels that are required."""
        batch.check()
        self._check(batch)
        index = batch.example_index
        words = WordEmbedding(self.vocab_size, dtype=jnp.float32, name="word_vectors")(batch)
        if self.normalize_words:
            words = l2_normalize(words)
        words = self._project(words, index, train, "words")
        clips = jnp.concatenate([batch.video, clip_bounds(batch.video_mask)], axis=-1)
        clips = self._project(clips, index, train, "clips")

        source = jnp.concatenate([clips, words], axis=1)
        mask = jnp.concatenate([batch.video_mask, batch.query_mask], axis=1)
        positions = sine_positions(batch.video_mask, self.features)
        positions = jnp.concatenate([positions, jnp.zeros(words.shape, positions.dtype)], axis=1)
        memory = self._encode(source, positions, mask, index, train)
        decoded = self._decode(memory, positions, mask, index, train).astype(jnp.float32)

        saliency = torch_linear(
            1, memory[:, : clips.shape[1]].astype(jnp.float32), jnp.float32, "saliency_head"
        )
        hidden = nn.relu(torch_linear(self.features, decoded, jnp.float32, "span_head_0"))
        hidden = nn.relu(torch_linear(self.features, hidden, jnp.float32, "span_head_1"))
        return Outputs(
            logits=torch_linear(2, decoded, jnp.float32, "label_head"),
            spans=jax.nn.sigmoid(torch_linear(2, hidden, jnp.float32, "span_head_2")),
            saliency=jnp.where(batch.video_mask, saliency[..., 0], MASKED),
            window_draws=self._draw(index, self._windows(batch)[1].shape[1], train),
            clip_draws=self._draw(index, clips.shape[1], train),
        )

    def _check(self, batch: Batch) -> None:
        absent = [name for name in self.requires() if getattr(batch, name) is None]
        if absent:
            raise UserError(
                f"Moment-DETR learns {' and '.join(absent)}, and this batch has none. Choose a data set that "
                "has them, or set config.model.all_windows and config.model.annotated_saliency to False."
            )

    def _project(self, x: jax.Array, index: jax.Array, train: bool, name: str) -> jax.Array:
        """Two linear layers, each behind a layer norm and dropout (`LinearLayer`): [B,*,D] -> [B,*,F]."""
        x = _layer_norm(x.astype(self.dtype), self.dtype, f"{name}_norm_0")
        x = Dropout(self.input_dropout)(x, index, train)
        x = nn.relu(torch_linear(self.features, x, self.dtype, f"{name}_0"))
        x = _layer_norm(x, self.dtype, f"{name}_norm_1")
        x = Dropout(self.input_dropout)(x, index, train)
        return torch_linear(self.features, x, self.dtype, f"{name}_1")

    def _encode(self, x, positions, mask, index, train: bool) -> jax.Array:
        """Returns the memory [B,T+L,F]."""
        for i in range(self.encoder_layers):
            layer = EncoderLayer(**self._sizes(), name=f"encoder_{i}")
            x = layer(x, mask, index, train, positions)
        return x

    def _decode(self, memory, positions, mask, index, train: bool) -> jax.Array:
        """Returns the slots after each layer [B,I,M,F], under one layer norm; they start at zero."""
        queries = self.param("queries", nn.initializers.normal(1.0), (self.num_queries, self.features))
        shape = (memory.shape[0], *queries.shape)
        places = jnp.broadcast_to(queries[None], shape)
        x, every = jnp.zeros(shape, self.dtype), jnp.ones(shape[:2], bool)
        norm = nn.LayerNorm(epsilon=1e-5, dtype=self.dtype, name="decoder_norm")
        decoded = []
        for i in range(self.decoder_layers):
            layer = DecoderLayer(**self._sizes(), name=f"decoder_{i}")
            x = layer(x, memory, every, mask, index, train, places, positions)
            decoded.append(norm(x))
        return jnp.stack(decoded, axis=1)

    def _sizes(self) -> dict:
        names = ("features", "heads", "hidden", "dropout", "dtype")
        return {name: getattr(self, name) for name in names}

    def _draw(self, index: jax.Array, count: int, train: bool) -> jax.Array:
        """Returns uniform numbers [B,count] that depend on example and column alone; zeros at evaluation."""
        if not train:
            return jnp.zeros((*index.shape, count))
        key = self.make_rng("dropout")

        def one(row, column):
            return jax.random.uniform(jax.random.fold_in(jax.random.fold_in(key, row), column))

        return jax.vmap(jax.vmap(one, (None, 0)), (0, None))(index, jnp.arange(count))

    # Targets and losses.

    def _windows(self, batch: Batch) -> tuple[jax.Array, jax.Array]:
        """Returns the annotated moments [B,A,2] in seconds and their mask [B,A]."""
        if self.all_windows:
            return batch.windows, batch.window_mask
        return batch.span[:, None], jnp.ones((batch.size, 1), bool)

    def loss(self, outputs: Outputs, batch: Batch, *, epoch: jax.Array) -> dict[str, Mean]:
        """'span', 'giou' and 'label' of matched moments, and 'saliency' of pairs of clips (`SetCriterion`)."""
        del epoch
        windows, mask = self._windows(batch)
        relevant = relevant_clips(windows, mask, batch.duration, batch.video_mask)
        chosen, mask = choose_windows(
            mask & batch.example_mask[:, None], outputs.window_draws, self.max_windows
        )
        windows = jnp.take_along_axis(windows, chosen[..., None], axis=1)
        truth = centre_width(windows / batch.duration[:, None, None])[:, None]  # [B,1,A,2]

        cost = jax.lax.stop_gradient(self._cost(outputs, truth))
        of_layers = jax.vmap(match, (0, None))
        query, found = jax.vmap(of_layers)(cost, mask)  # [B,I,A]
        spans = jnp.take_along_axis(outputs.spans, query[..., None], axis=2)
        distance = jnp.abs(spans - truth)  # `loss_spans`
        missed = 1.0 - generalized_iou(bounds(spans), bounds(truth))

        of_query = query[..., None] == jnp.arange(self.num_queries)[None, None, None]  # [B,I,A,M]
        is_moment = (of_query & found[..., None]).any(2)
        logit = jnp.where(is_moment, outputs.logits[..., MOMENT], outputs.logits[..., 1 - MOMENT])
        errors = jax.nn.logsumexp(outputs.logits, axis=-1) - logit  # `loss_labels`
        errors = jnp.where(is_moment, 1.0, self.none_weight) * errors
        counted = jnp.broadcast_to(batch.example_mask[:, None, None], errors.shape)
        # The losses of the layers are added up; as many moments are matched in each.
        layers = cost.shape[1]
        return {
            "span": Mean.of(
                distance, jnp.broadcast_to(found[..., None], distance.shape), layers * self.span_weight
            ),
            "giou": Mean.of(missed, found, layers * self.giou_weight),
            "label": Mean.of(errors, counted, layers * self.label_weight),
            "saliency": self._saliency_loss(outputs, batch, relevant),
        }

    def _cost(self, outputs: Outputs, truth: jax.Array) -> jax.Array:
        """Returns the cost [B,I,M,A] of matching moment a with slot m (official `HungarianMatcher`)."""
        spans, truth = outputs.spans[:, :, :, None], truth[:, :, None]
        distance = jnp.abs(spans - truth).sum(-1)
        overlap = generalized_iou(bounds(spans), bounds(truth))
        probability = jax.nn.softmax(outputs.logits, axis=-1)[..., MOMENT]
        return (
            self.span_weight * distance
            - self.giou_weight * overlap
            - self.label_weight * probability[..., None]
        )

    def _saliency_loss(self, outputs: Outputs, batch: Batch, relevant: jax.Array) -> Mean:
        """Hinge loss of two pairs of clips, added up (`loss_saliency`)."""
        if self.annotated_saliency:
            relevant = relevant | ((batch.saliency > 0) & batch.video_mask)
            pairs = annotated_pairs(relevant, batch.saliency, batch.video_mask, outputs.clip_draws)
        else:
            pairs = random_pairs(relevant, batch.video_mask, outputs.clip_draws)
        high, low, mask = pairs
        high, low = (jnp.take_along_axis(outputs.saliency, clips, axis=1) for clips in (high, low))
        behind = jax.nn.relu(self.saliency_margin + low - high)
        pairs_of_one = mask.shape[1]
        return Mean.of(behind, mask & batch.example_mask[:, None], pairs_of_one * self.saliency_weight)

    # Inference.

    def predict(self, outputs: Outputs, batch: Batch) -> Moments:
        """Returns the M moments of the last layer; the score is the probability of being a moment.

        Source: `compute_mr_results` and `PostProcessorDETR` of the official code.
        """
        scores = jax.nn.softmax(outputs.logits[:, -1], axis=-1)[..., MOMENT]
        duration = batch.duration[:, None, None]
        spans = bounds(outputs.spans[:, -1]) * duration
        if self.round_to:
            spans = jnp.round(spans / self.round_to) * self.round_to  # halves to even, as in PyTorch
        spans = jnp.clip(spans, 0.0, duration)
        return rank(spans, scores, jnp.ones(scores.shape, bool), self.num_queries)

    def saliency(self, outputs: Outputs, batch: Batch) -> jax.Array:
        """Returns scores [B,T] of the clips, of any range; `MASKED` at padding."""
        del batch
        return outputs.saliency

    def explain(self, outputs: Outputs, batch: Batch) -> dict[str, jax.Array]:
        """Returns the saliency of clips, between the least (0) and the most (1) of the video: 'clips' [B,T]."""
        mask = batch.video_mask
        most = outputs.saliency.max(-1, keepdims=True)
        least = jnp.where(mask, outputs.saliency, jnp.inf).min(-1, keepdims=True)
        share = (outputs.saliency - least) / jnp.maximum(most - least, 1e-6)
        return {"clips": jnp.where(mask, share, jnp.nan)}


# Spans as centre and width, or as start and end (official `span_utils.py`).


def bounds(spans: jax.Array) -> jax.Array:
    """Returns (start, end) of (centre, width) [...,2]."""
    centre, half = spans[..., 0], spans[..., 1] / 2
    return jnp.stack([centre - half, centre + half], axis=-1)


def centre_width(spans: jax.Array) -> jax.Array:
    """Returns (centre, width) of (start, end) [...,2]."""
    return jnp.stack([spans.mean(-1), spans[..., 1] - spans[..., 0]], axis=-1)


def generalized_iou(a: jax.Array, b: jax.Array) -> jax.Array:
    """IoU - (hull - union) / hull, in (-1, 1], of spans [...,2] with [...,2] (start, end).

    The hull is the shortest span over both; a gap between them is a loss (Rezatofighi et al., CVPR 2019).
    """
    hull = jnp.maximum(a[..., 1], b[..., 1]) - jnp.minimum(a[..., 0], b[..., 0])
    lengths = (a[..., 1] - a[..., 0]) + (b[..., 1] - b[..., 0])
    # On a line the union is the hull, less the gap between them where they do not meet.
    gap = jnp.maximum(hull - lengths, 0.0)
    return iou(a, b) - gap / jnp.where(hull > 0, hull, 1.0)


def clip_bounds(mask: jax.Array) -> jax.Array:
    """Where each clip begins and ends, as shares of the video: mask [B,T] -> [B,T,2], zero at padding."""
    count = jnp.maximum(mask.sum(-1), 1)[:, None]
    begin = jnp.arange(mask.shape[1])[None, :] / count
    ends = jnp.stack([begin, begin + 1 / count], axis=-1)
    return jnp.where(mask[..., None], ends, 0.0)


# Matching.


def choose_windows(mask: jax.Array, draws: jax.Array, most: int) -> tuple[jax.Array, jax.Array]:
    """Returns positions and mask [B,A'] of up to A' = min(most, A) windows of mask [B,A], by draws [B,A]."""
    chosen = jax.lax.top_k(jnp.where(mask, draws, -1.0), min(most, mask.shape[1]))[1]
    return chosen, jnp.take_along_axis(mask, chosen, axis=1)


def match(cost: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the assignment of least cost: the slot [A] of each annotated moment, and which moments have one.

    Args:
      cost: [M,A] of answering annotated moment a with slot m; no gradient goes through.
      mask: [A] bool, the real annotated moments. As many as there are slots are matched.
    """
    # Columns of padding cost more than any real one, so none is preferred to a real one, and the same whatever
    # the slot, so they do not sway the others.
    cost = jnp.where(mask[None, :], cost, cost.max() + 1.0)
    rows, columns = optax.assignment.hungarian_algorithm(cost)
    query = jnp.zeros(mask.shape, jnp.int32).at[columns].set(rows.astype(jnp.int32))
    return query, jnp.zeros(mask.shape, bool).at[columns].set(True) & mask


# Saliency labels.


def relevant_clips(
    windows: jax.Array, window_mask: jax.Array, duration: jax.Array, mask: jax.Array
) -> jax.Array:
    """Returns [B,T] bool, clips whose middle is in one of the windows [B,A,2], or that hold the middle of one.

    The second matters for windows so short that no clip has its middle there.
    """
    seconds = clip_length(duration, mask)[:, None, None]
    clip = jnp.arange(mask.shape[1])[None, :, None]
    middle = (clip + 0.5) * seconds  # [B,T,1]
    start, end = windows[:, None, :, 0], windows[:, None, :, 1]
    inside = (start <= middle) & (middle < end)
    offset = (start + end) / 2 - middle
    holds = (-seconds / 2 < offset) & (offset <= seconds / 2)
    return ((inside | holds) & window_mask[:, None]).any(-1) & mask


def annotated_pairs(
    relevant: jax.Array, scores: jax.Array, mask: jax.Array, draws: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Pairs of clips by annotators' scores (`get_saliency_labels`): the more and the less salient one [B,2].

    Returns their positions and which pairs exist.

    The first pair is hard: the best and the worst relevant clip; among equal ones the last is the best and the
    first the worst. The second is easy: a random relevant one and a random other one; it is the first again
    where all clips are relevant. All arguments are [B,T].
    """
    backwards = jnp.where(relevant, scores, -jnp.inf)[:, ::-1]
    best = scores.shape[1] - 1 - backwards.argmax(-1)
    worst = jnp.where(relevant, scores, jnp.inf).argmin(-1)
    inside, outside = _random_clips(relevant, draws, 1)[0], _random_clips(~relevant & mask, draws, 1)[0]
    others = (~relevant & mask).any(-1)
    high = jnp.stack([best, jnp.where(others, inside[:, 0], best)], axis=1)
    low = jnp.stack([worst, jnp.where(others, outside[:, 0], worst)], axis=1)
    return high, low, jnp.broadcast_to(relevant.any(-1, keepdims=True), high.shape)


def random_pairs(
    relevant: jax.Array, mask: jax.Array, draws: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Two random pairs of a relevant and another clip, as `annotated_pairs`; both are one where it is alone.

    Source: `get_saliency_labels_sub_as_query` of the official code.
    """
    (high, some), (low, others) = (_random_clips(x, draws, 2) for x in (relevant, ~relevant & mask))
    return high, low, jnp.broadcast_to((some & others)[:, None], high.shape)


def _random_clips(candidates: jax.Array, draws: jax.Array, count: int) -> tuple[jax.Array, jax.Array]:
    """Returns positions [B,count] of different candidates [B,T], else the first again, and if there is any."""
    values, clips = jax.lax.top_k(jnp.where(candidates, draws, -1.0), count)
    return jnp.where(values >= 0, clips, clips[:, :1]), candidates.any(-1)


def _layer_norm(x: jax.Array, dtype: jnp.dtype, name: str) -> jax.Array:
    return nn.LayerNorm(epsilon=1e-5, dtype=dtype, name=name)(x)
