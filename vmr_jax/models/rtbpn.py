"""RTBPN: a gate that the sentence opens makes two streams of a video, and the moments of both are compared.

Supervision is weak: the loss reads which sentence belongs to which video, never `batch.span`. No copy of the
paper was at hand: names at the right, and "official code" in the file, are those of the authors' program.

  tensor        shape       meaning                                                            official code
  batch.video   [B,T,D]     clip features, not normalised; T is G times an integer (256)     frames_feat
  clips         [B,G,F]     linear, mean over T / G rows                                     FrameAvgPool
  words         [B,L,F]     BiGRU over the words that have a vector                          QueryEncoder
  weight        [B,P,G]     g: gate of each clip, 0 at the least and 1 at the most open one  Filter
  streams       [B,P,G,F]   clips times a gate                                               frames_encoded
  fused         [B,P,G,F]   BiGRU over clips and attended words under gates of each other    BetterFusion
  cells         [Z,G,G,F]   map of 2D-TAN: cell (i, j) is the maximum over clips i..j        SparsePropMaxPool
  scores        [B,P,M]     one convolution over the map, linear; logits of the candidates   MapConv

Letters beyond the usual: P streams, Z = B P rows of all streams, X clusters of words.

The P streams: the video enhanced by g; while training also the same video suppressed, by 1 - g, and the
enhanced video of another sentence.

A stream's score k is the mean of the sigmoids p of the K candidates that overlap most with the best one. The
loss has three aims: k is 1 for the enhanced video and 0 for that of the other sentence; it is lower for the
suppressed one; and few candidates (clips) have a high score (gate).

The settings of the official program, F = 512 and K = 32 in both:

  data set               G    scale_layers   lengths (of training)     k   score_weight   filter_weight
  ActivityNet Captions   64   (16, 8, 8)     8, 16, 24, 32, 48, 56, 64 5   0.1            0.01
  Charades-STA           32   (16,)          1 to 32 (1, 3, .., 15)    3   0.01           0.001
"""

import dataclasses

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from vmr_jax.errors import UserError
from vmr_jax.layers.additive_attention import AdditiveAttention
from vmr_jax.layers.clips import ClipPool
from vmr_jax.layers.cross_gate import CrossGate
from vmr_jax.layers.dropout import Dropout
from vmr_jax.layers.examples import own_rows
from vmr_jax.layers.linear import torch_linear
from vmr_jax.layers.map2d import MapConvs, candidate_layers, candidate_mask, cell_spans, max_pool_map
from vmr_jax.layers.norm import MaskedBatchNorm, l2_normalize
from vmr_jax.layers.padding import batch_steps
from vmr_jax.layers.recurrent import GRU
from vmr_jax.layers.text import WordEmbedding, words_with_vectors
from vmr_jax.models.base import GroundingModel
from vmr_jax.models.card import Card
from vmr_jax.moments import rank
from vmr_jax.parallel import gather_examples
from vmr_jax.types import Array, Batch, Mean, Moments

CARD = Card(
    title="Regularized Two-Branch Proposal Networks for Weakly-Supervised Moment Retrieval in Videos",
    authors=("Zhang", "Lin", "Zhao", "Zhu", "He"),
    venue="ACM MM",
    year=2020,
    family="ranking",
    kind="2D map, streams enhanced and suppressed by a gate",
    supervision="weak",
    features="C3D; GloVe",
    official_code="ikuinen/regularized_two-branch_proposal_network@19be0314681b (PyTorch)",
    ours=(
        "All is as in the official code; no copy of the paper was at hand.",
        "The other video of a sentence is that of the row which has its place from the end of the batch, over "
        "all devices. A row that is its own, in the middle of an odd number, or of the same video has none; "
        "officially its own video is then to score 0.",
        "The statistics of the gate's batch normalisation are over the words of the batch; with "
        "official_padding=True also over padding up to its longest sentence, as officially.",
        "The words without a vector are left out after the sentence is cut to `config.text.max_words`, "
        "officially before.",
        "Of candidates that are best alike, or overlap alike with the best, the higher score and then the "
        "earlier start counts. Officially the order is open (argsort), which moves the loss by 0.03% to 0.3%; "
        "and on ActivityNet Captions the shorter of two equal ones comes first.",
        "Other datasets than the paper's have all cells of their moment map as candidates.",
    ),
    verified=(
        "Against the official code at this commit, running (without the imports of files that it lacks, with a "
        "reshape where PyTorch now refuses a view, and with ties in their order), with small random weights, "
        "the candidates of both data sets, videos of 25 to 601 rows, sentences with unknown words and rows "
        "that only fill the batch, with official_padding=True: rows to 2.4e-7, candidates the same, logits and "
        "gates to 5e-7, the loss to 1e-7, running statistics to 1.3e-7 of their size, gradients to 2e-6 of the "
        "largest, and the best and the best five moments of its own evaluation are the same.",
        "Without official_padding logits of size 2 move by up to 0.001.",
        "Its greedy choice of five moments is NMS: each choice also removes what overlaps with earlier ones.",
        "Candidates, partners, scores of streams and losses equal computations by hand.",
    ),
)

STREAMS = ("enhanced", "suppressed", "other")  # along P
EPSILON = 1e-10  # official code: in every division and logarithm


@struct.dataclass
class Outputs:
    """Logits of the candidates of each stream, and the gates."""

    scores: Array  # [B,P,M] float32; while training P = 3 and M of `train_lengths`, else P = 1
    weight: Array  # [B,G] float32, of the enhanced stream
    has_other: Array | None = None  # [B] bool, whether the third stream is of another video


class Model(GroundingModel):
    """RTBPN, with the settings of ActivityNet Captions.

    Attributes:
      num_clips: G, number of clips along each side of the moment map.
      scale_layers: diagonals of the map that are pooled, by scale, see `vmr_jax.layers.map2d.candidate_layers`.
      lengths: lengths of the candidate moments, in clips; (): of all that are pooled. Those of a length that is
        not pooled begin at every clip; their cells hold nothing but what the convolution brings.
      train_lengths: those of the candidates of the loss; (): the same.
      features: F, width of every layer; even.
      clusters: X, number of clusters of words by which a sentence is described.
      map_kernel: k, side of the kernel of the map's convolution, in cells; odd.
      nearest: K, number of candidates around the best one whose mean is the score of a stream (official: topK).
      margin: margin by which the enhanced stream is to score higher than the suppressed one.
      suppressed_weight: weight of the comparison with the suppressed stream (official: intra).
      score_weight: weight of the regularisation of the scores (official: norm1; Charades-STA: 0.01).
      filter_weight: weight of the regularisation of the gates (official: norm2; Charades-STA: 0.001).
      dropout: dropout rate of the fused clips (official code: dropout_rate).
      official_padding: whether padded words are among those of the batch normalisation, see the card.
      vocab_size: number of words whose vectors are fine-tuned; 0 keeps the word vectors of the batch fixed (the
        official).
      keep: number of moments that `predict` returns; 0 for all candidates.
      dtype: number format of the layers; parameters, scores and losses are float32.
    """

    positive = ("clusters", "nearest")

    num_clips: int = 64
    scale_layers: tuple[int, ...] = (16, 8, 8)
    lengths: tuple[int, ...] = (8, 16, 24, 32, 48, 56, 64)
    train_lengths: tuple[int, ...] = ()
    features: int = 512
    clusters: int = 8
    map_kernel: int = 5
    nearest: int = 32
    margin: float = 0.2
    suppressed_weight: float = 0.1
    score_weight: float = 0.1
    filter_weight: float = 0.01
    dropout: float = 0.1
    official_padding: bool = False
    vocab_size: int = 0
    keep: int = 0
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, batch: Batch, *, train: bool) -> Outputs:
        """Scores every candidate of every pair; in training also of the two negative streams.

        Raises UserError where T is not a multiple of G, `features` is odd or a length longer than the video.
        """
        batch.check()
        self._check()
        index = batch.example_index
        batch = words_with_vectors(batch, self.vocab_size)
        pool = ClipPool(self.features, self.num_clips, activation=None, dtype=self.dtype, name="clips")
        clips = pool(batch.video, batch.video_mask)[:, None]  # [B,1,G,F]
        vectors = WordEmbedding(self.vocab_size, self.dtype, name="words")(batch)
        words = self._gru("query_gru")(vectors, batch.query_mask)

        has_other = None
        if train:
            partner, has_other = partners(batch)
            clips = jnp.concatenate([clips, jnp.take(gather_examples(clips), partner, axis=0)], axis=1)
        gate = LanguageFilter(self.clusters, self.official_padding, self.dtype, name="filter")
        weight = gate(clips, words, batch, train)
        if train:  # the own video a second time, with the gate turned round
            clips = jnp.stack([clips[:, 0], clips[:, 0], clips[:, 1]], axis=1)
            weight = jnp.stack([weight[:, 0], 1 - weight[:, 0], weight[:, 1]], axis=1)
        streams = clips * weight[..., None].astype(self.dtype)

        size, count = streams.shape[:2]
        fused = self._fuse(streams.reshape(-1, *streams.shape[2:]), words, batch.query_mask, count)
        fused = fused.reshape(size, count, *fused.shape[1:])
        fused = Dropout(self.dropout, name="fused_dropout")(fused, index, train)
        scores = self._score(fused.reshape(-1, *fused.shape[2:]), self.candidates(train))
        return Outputs(scores.reshape(size, count, -1), weight[:, 0], has_other)

    def _check(self) -> None:
        if self.features % 2:
            raise UserError(
                f"config.model.features of RTBPN is {self.features}; it must be even, half for each direction "
                "of its GRUs."
            )
        for field in ("lengths", "train_lengths"):
            wrong = [n for n in getattr(self, field) if not 0 < n <= self.num_clips]
            if wrong:
                raise UserError(
                    f"config.model.{field} of RTBPN has {wrong[0]}; the lengths of moments are 1 to "
                    f"{self.num_clips} clips (config.model.num_clips)."
                )

    def candidates(self, train: bool) -> np.ndarray:
        """Returns [M,2], the first and the last clip of every candidate."""
        pooled = candidate_mask(self.num_clips, self.scale_layers)
        diagonals = {offset + 1 for _, offset in candidate_layers(self.num_clips, self.scale_layers)}
        rows, columns = np.triu_indices(self.num_clips)
        length = columns - rows + 1
        wanted = (self.train_lengths if train else ()) or self.lengths or tuple(diagonals)
        kept = np.isin(length, wanted) & (pooled[rows, columns] | ~np.isin(length, tuple(diagonals)))
        return np.stack([rows, columns], axis=1)[kept]

    def _gru(self, name: str) -> GRU:
        return GRU(self.features // 2, bidirectional=True, dtype=self.dtype, name=name)

    def _fuse(self, streams: Array, words: Array, mask: Array, count: int) -> Array:
        """Streams [Z,G,F] read the words [B,L,F] of their sentence (official code: BetterFusion)."""
        words, mask = (jnp.repeat(x, count, axis=0) for x in (words, mask))
        attended = AdditiveAttention(self.features, self.dtype, name="attention")(streams, words, mask)
        gated = CrossGate(self.features, self.dtype, name="cross_gate")(streams, attended)
        return self._gru("fused_gru")(gated, jnp.ones(gated.shape[:2], bool))

    def _score(self, fused: Array, candidates: np.ndarray) -> Array:
        """Clips [Z,G,F] -> logits [Z,M] of the candidates (SparsePropMaxPool, MapConv)."""
        pooled = candidate_mask(self.num_clips, self.scale_layers)
        counted = pooled.copy()  # cells by whose number a convolution divides
        counted[tuple(candidates.T)] = True
        cells = max_pool_map(fused, pooled)
        cells = MapConvs(self.features, self.map_kernel, 1, self.dtype, name="convs")(cells, counted)
        cells = cells[:, candidates[:, 0], candidates[:, 1]]
        # In float32 whatever the dtype of the layers, as is everything from here on.
        return torch_linear(1, cells.astype(jnp.float32), jnp.float32, "score")[..., 0]

    def loss(self, outputs: Outputs, batch: Batch, *, epoch: Array) -> dict[str, Mean]:
        """Returns the terms of the official weakly_supervised_loss.

        'alignment' and 'negative_alignment': cross-entropy of the scores of the own and of the other video;
        'suppression': hinge of the enhanced and the suppressed stream; 'score_regularization' and
        'filter_regularization': how many candidates and clips stand out.
        """
        del epoch
        chex.assert_axis_dimension(outputs.scores, 1, len(STREAMS))
        real, has_other = batch.example_mask, jnp.asarray(outputs.has_other)
        table = official_iou(self.candidates(train=True))
        chosen = nearest_scores(outputs.scores, table, self.nearest)  # [B,P,K]
        enhanced, suppressed, other = jnp.moveaxis(chosen.mean(-1), 1, 0)
        normal = stretched(jax.nn.sigmoid(outputs.scores[:, 0]))
        peak = -jax.nn.log_softmax(chosen[:, 0]).max(-1)
        entropy = -jax.nn.softmax(outputs.weight) * jax.nn.log_softmax(outputs.weight)
        filtered = outputs.weight.mean(-1) + entropy.mean(-1)
        behind = nn.relu(suppressed - enhanced + self.margin)
        return {
            "alignment": Mean.of(-jnp.log(enhanced + EPSILON), real),
            "negative_alignment": Mean.of(-jnp.log(1 - other + EPSILON), real & has_other),
            "suppression": Mean.of(behind, real, self.suppressed_weight),
            "score_regularization": Mean.of(normal.mean(-1) + peak, real, self.score_weight),
            "filter_regularization": Mean.of(filtered, real, self.filter_weight),
        }

    def predict(self, outputs: Outputs, batch: Batch) -> Moments:
        """Returns the candidates, best first; the score is the sigmoid of the logit."""
        rows, columns = self.candidates(train=False).T
        spans = cell_spans(self.num_clips, batch.duration)[:, rows, columns]
        scores = outputs.scores[:, 0]
        ranked = rank(spans, scores, jnp.ones(scores.shape, bool), self.keep or len(rows))
        return dataclasses.replace(ranked, scores=jax.nn.sigmoid(ranked.scores))

    def explain(self, outputs: Outputs, batch: Batch) -> dict[str, Array]:
        """Returns the score of every candidate: 'map' [B,G,G], NaN at no candidate."""
        rows, columns = self.candidates(train=False).T
        empty = jnp.full((batch.size, self.num_clips, self.num_clips), jnp.nan)
        return {"map": empty.at[:, rows, columns].set(jax.nn.sigmoid(outputs.scores[:, 0]))}


class LanguageFilter(nn.Module):
    """Gates of clips by a description of the sentence, which clusters of words make (official code: Filter).

    It learns alone: clips and words are constants to it. Parameters: clusters and centres [F,X] for X clusters
    (NetVLAD; Arandjelovic et al., CVPR 2016), norm, a batch normalisation of the words' logits, and the linear
    layers description, hidden and gate.

    Attributes:
      clusters: X, number of clusters of words.
      official_padding: whether padding up to the longest sentence is in the statistics of `norm`.
      dtype: number format of the layers; logits and gates are float32.
    """

    clusters: int
    official_padding: bool
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, clips: Array, words: Array, batch: Batch, train: bool) -> Array:
        """Clips [B,P,G,F] and the words [B,L,F] of the batch -> gates [B,P,G], 0 to 1 in every video."""
        clips, words = jax.lax.stop_gradient((clips, words))
        features = words.shape[-1]
        description = self._describe(words, batch, train)
        mixed = clips * torch_linear(features, description, self.dtype, "description")[:, None, None]
        hidden = jnp.tanh(torch_linear(features, mixed, self.dtype, "hidden"))
        gates = torch_linear(1, hidden.astype(jnp.float32), jnp.float32, "gate")[..., 0]
        return stretched(jax.nn.sigmoid(gates))

    def _describe(self, words: Array, batch: Batch, train: bool) -> Array:
        """Returns [B,X F], the words' distances from the centres, of unit length (NetVLAD)."""
        shape = (words.shape[-1], self.clusters)
        start = nn.initializers.normal(shape[0] ** -0.5)
        clusters, centres = (self.param(name, start, shape) for name in ("clusters", "centres"))
        mask = batch.query_mask
        counted = mask & batch.example_mask[:, None]
        if self.official_padding:
            counted = batch_steps(mask, batch.example_mask) & batch.example_mask[:, None]
        # The official filter runs twice on the words of a step, and so the statistics move twice.
        norm = MaskedBatchNorm(momentum=0.9**2, name="norm")
        logits = norm(words.astype(jnp.float32) @ clusters, counted, train)
        share = jnp.where(mask[..., None], jax.nn.softmax(logits), 0.0)
        total = jnp.einsum("blf,blk->bfk", words, share) - share.sum(1)[:, None] * centres[None]
        return l2_normalize(l2_normalize(total, axis=1).reshape(len(words), -1)).astype(self.dtype)


def partners(batch: Batch) -> tuple[Array, Array]:
    """The row of all devices whose video a sentence is compared with: [B] int32, and whether there is one [B].

    Of the real rows the first and the last are partners, and so on inwards.
    """
    own, real = own_rows(batch)
    place = jnp.cumsum(real) - 1
    wanted = real.sum() - 1 - (own * place[None]).sum(1)
    partner = jnp.argmax(real[None] & (place[None] == wanted[:, None]), axis=1)
    video = jnp.take(gather_examples(batch.video_index), partner)
    return partner, batch.example_mask & (video != batch.video_index)


def stretched(x: Array) -> Array:
    """Brings numbers [...,M] to [0,1], the least to (nearly) 0 and the largest to 1."""
    least, most = x.min(-1, keepdims=True), x.max(-1, keepdims=True)
    return (x - least + EPSILON) / (most - least + EPSILON)


def official_iou(candidates: np.ndarray) -> np.ndarray:
    """Overlap [M,M] of candidates [M,2], over their common hull; hardly above 0 where they only touch.

    Official code: calculate_IoU_batch.
    """
    first, end = candidates[:, 0], candidates[:, 1] + 1
    shared = np.minimum(end[:, None], end) - np.maximum(first[:, None], first)
    hull = np.maximum(end[:, None], end) - np.minimum(first[:, None], first)
    epsilon = np.float32(EPSILON)
    return np.maximum((shared.astype(np.float32) + epsilon) / (hull.astype(np.float32) + epsilon), 0)


def nearest_scores(logits: Array, overlaps: np.ndarray, count: int) -> Array:
    """The sigmoids [...,K] of the K candidates that overlap most with the best one, of logits [...,M].

    Of equal overlaps the higher score comes first, then the first candidate.
    """
    probability = jax.nn.sigmoid(logits)
    order = -stretched(jax.lax.stop_gradient(probability))
    overlap = jnp.asarray(overlaps)[jnp.argmin(order, axis=-1)]
    ranked = jax.lax.sort((-overlap, order, probability), num_keys=2, is_stable=True)
    return ranked[-1][..., :count]
