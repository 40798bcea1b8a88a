"""EMB: start and end are elastic, between the annotated clip and that of a proposal which the model trusts.

Tensors (F = `features`; a proposal is a moment from one block of clips to a later one; frames are clips; names
of the official code at the right):

    batch.video      [B,T,D]  clip features, not normalised; at most 128 rows, shorter videos are padded
    frames           [B,T,F]  linear layer and position, then guided attention               vfeats
    proposals        [B,M,F]  the maximum of the frames of a proposal, then the same         pfeats
    frame_words      [B,L,F]  the words as the frames see them                               vqfeats
    proposal_words   [B,L,F]  the words as the proposals see them                            pqfeats
    highlight        [B,T]    logit of being in the extended elastic moment                  h_score
    start, end       [B,T]    logits of the first and of the last clip                       start_logits
    proposal         [B,M]    logit of a proposal's overlap with the moment                  p_score

While it learns, the best proposal that overlaps the annotation well enough is a second opinion of the moment:
every clip between both starts is a right start, and likewise the end. How well is enough falls from all to
`threshold` in the middle of the training. Moments are found from start and end alone.

Letters beyond the usual: N blocks of a video.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from vmr_jax.layers.attention import MASKED, MultiHeadAttention
from vmr_jax.layers.dropout import Dropout
from vmr_jax.layers.linear import xavier_linear
from vmr_jax.layers.map2d import max_pool_map, place_cells
from vmr_jax.layers.norm import layer_norm
from vmr_jax.layers.padding import batch_steps
from vmr_jax.layers.qanet import ContextQueryAttention, QueryConcat
from vmr_jax.layers.recurrent import LSTM
from vmr_jax.layers.span import (
    boundary_logits,
    clip_logits,
    explain_pairs,
    highlight_errors,
    highlight_labels,
    rank_pairs,
    span_labels,
)
from vmr_jax.layers.text import WordEmbedding
from vmr_jax.layers.transformer import sines
from vmr_jax.losses import binary_cross_entropy, scaled_iou
from vmr_jax.models.base import GroundingModel
from vmr_jax.models.card import Card
from vmr_jax.moments import iou
from vmr_jax.types import Batch, Mean, Moments

CARD = Card(
    title="Video Activity Localisation with Uncertainties in Temporal Boundary",
    authors=("Huang", "Jin", "Gong", "Liu"),
    venue="ECCV",
    year=2022,
    family="span",
    kind="elastic boundaries, taught by a proposal ranker",
    supervision="full",
    features="I3D; GloVe",
    official_code="Raymond-sci/EMB@a81e57af960e (PyTorch)",
    ours=(
        "The paper could not be seen; layers, losses and defaults are those of the official code. The second "
        "opinion's end is one clip late in it, and the highlight ends with the earlier of both ends; so here.",
        "Only real frames guide a proposal. In the official code (official_padding=True) padded frames of its "
        "block do too, and zeros where the batch ends within a block (-1e-30 stands there, where -1e30 was "
        "meant): ranker scores moved by up to 0.14.",
        "Stacks that start as equal copies in the official code have draws of their own.",
        "The official option 'elastic' takes, of the boundaries between both opinions, those nearest to the "
        "annotation; what needs the answer is left out.",
    ),
    verified=(
        "Against the official code at this commit, running, with small random weights and blocks of 4 clips, "
        "in ragged batches with official_padding=True, at epochs 0, 50, 60 and 99: logits and scores of "
        "proposals to 9e-7 of their size, every loss term to 4e-7, the best moment, and all gradients to 2e-5; "
        "the same without padding, in whole blocks (gradients to 5e-5).",
        "2,199,856 parameters with I3D, beside the words; as many as the official code reads.",
    ),
)
_xavier = nn.initializers.xavier_uniform()


@struct.dataclass
class Outputs:
    """Logits, float32."""

    start: jax.Array  # [B,T], `MASKED` at padded clips
    end: jax.Array  # [B,T]
    highlight: jax.Array  # [B,T]
    proposal: jax.Array  # [B,M], `MASKED` where the proposal is not in the video


class Model(GroundingModel):
    """EMB. The defaults are those of the official code's options.

    Attributes:
      features: F, width of every layer.
      heads: number of attention heads.
      layers: number of attention layers in each of the eleven stacks, and of convolutions of the ranker.
      block: number of clips of the shortest proposal, and of the grid on which proposals begin and end.
      longest: number of blocks of the longest proposal.
      guide_kernel: number of frames that the convolution of frames and their guides sees, odd.
      ranker_kernel: side of the ranker's convolution over the map of proposals, in blocks; odd.
      highlight_weight: weight of the highlighting loss.
      ranking_weight: weight of the ranker's loss.
      extension: share of the moment's clips by which the highlight goes beyond it on each side.
      low: IoU up to which the label of a proposal is 0.
      high: IoU from which the label of a proposal is 1.
      threshold: IoU with the annotation that a proposal needs in the end to be a second opinion.
      elastic_epochs: number of epochs over which that IoU falls from 1 to `threshold`; those of the training.
      steepness: share of these epochs by which the middle of the fall is steep, the official alpha.
      dropout: dropout rate of all layers but the LSTMs.
      vocab_size: number of words whose vectors are fine-tuned, 0 to keep them (the paper's).
      keep: number of moments that `predict` ranks, 0 for all pairs of clips. The official program takes the
        best pair alone, so what follows it, and R@5, are ours.
      longest_share: length of the longest moment that is ranked, as a share of the video (ours; 1 ranks all).
      official_padding: whether padding matters as in the official code, see the card.
      dtype: number format of the layers; parameters, logits and loss are float32.
    """

    features: int = 128
    heads: int = 8
    layers: int = 1
    block: int = 8
    longest: int = 16
    guide_kernel: int = 7
    ranker_kernel: int = 3
    highlight_weight: float = 5.0
    ranking_weight: float = 1.0
    extension: float = 0.1
    low: float = 0.3
    high: float = 0.7
    threshold: float = 0.5
    elastic_epochs: int = 100
    steepness: float = 0.25
    dropout: float = 0.2
    vocab_size: int = 0
    keep: int = 100
    longest_share: float = 1.0
    official_padding: bool = False
    dtype: jnp.dtype = jnp.float32

    positive = ("block", "longest", "elastic_epochs")
    of_evaluation = ("longest_share",)

    @nn.compact
    def __call__(self, batch: Batch, *, train: bool) -> Outputs:
        """Scores every clip as start and as end, and every proposal."""
        batch.check()
        mask, words_mask, index = batch.video_mask, batch.query_mask, batch.example_index
        vectors = WordEmbedding(self.vocab_size, jnp.float32, _xavier, name="vectors")(batch)
        frames = self._embed(batch.video, "clips", index, train)
        words = self._embed(vectors, "words", index, train)
        (frames, frame_words), (proposals, proposal_words) = GuidedEncoder(
            self.features,
            self.heads,
            self.layers,
            self.block,
            self.longest,
            self.guide_kernel,
            self.dropout,
            self.official_padding,
            self.dtype,
            name="encoder",
        )(frames, words, batch, train)

        def fuse(x, x_mask, words, name):
            """Official `VSLFuser`: what VSLNet does with clips and words, and a ReLU."""
            attention = ContextQueryAttention(self.features, self.dropout, self.dtype, name=f"{name}_attention")
            x = attention(x, words, x_mask, words_mask, index, train)
            return nn.relu(QueryConcat(self.features, self.dtype, name=f"{name}_concat")(x, words, words_mask))

        frames = fuse(frames, mask, frame_words, "frames")
        highlight = clip_logits(frames, mask, "highlight_logit")
        frames = frames * jax.nn.sigmoid(highlight).astype(self.dtype)[..., None]
        start = self._read(frames, mask, "start")
        end = self._read(start, mask, "end")
        cells = proposal_cells(mask.shape[1], self.block, self.longest)
        real = proposal_mask(mask, cells, self.block)
        return Outputs(
            start=boundary_logits(start, frames, mask, self.dtype, "start"),
            end=boundary_logits(end, frames, mask, self.dtype, "end"),
            highlight=highlight,
            proposal=self._rank(fuse(proposals, real, proposal_words, "proposals"), cells, real),
        )

    def _embed(self, x: jax.Array, name: str, index: jax.Array, train: bool) -> jax.Array:
        """Returns [B,T,F] of [B,T,D]: a linear layer, and the position of each step (`CosinePosition`)."""
        x = Dropout(self.dropout)(x.astype(self.dtype), index, train)
        positions = sines(jnp.arange(x.shape[1], dtype=jnp.float32)[None], self.features)
        return xavier_linear(self.features, x, self.dtype, name) + positions.astype(self.dtype)

    def _read(self, x: jax.Array, mask: jax.Array, name: str) -> jax.Array:
        """Returns [B,T,F], a linear layer over an LSTM in both directions (official `LSTMBlock`)."""
        states = LSTM(self.features, bidirectional=True, dtype=self.dtype, name=f"{name}_lstm")(x, mask)
        return xavier_linear(self.features, states, self.dtype, f"{name}_output")

    def _rank(self, proposals: jax.Array, cells: "Cells", real: jax.Array) -> jax.Array:
        """Returns logits [B,M] of proposals [B,M,F] (official `Conv2dRanker`).

        A convolution over the map of proposals divides by the number of those under its kernel.
        """
        size, window = cells[1].max() + 1, (1, self.ranker_kernel, self.ranker_kernel, 1)
        x = place_cells(proposals, *cells, size)
        valid = place_cells(real[..., None].astype(self.dtype), *cells, size)
        count = jax.lax.reduce_window(valid, jnp.zeros((), valid.dtype), jax.lax.add, window, (1,) * 4, "SAME")
        for i in range(self.layers):
            conv = nn.Conv(
                self.features, window[1:3], kernel_init=_xavier, dtype=self.dtype, name=f"ranker_{i}"
            )
            x = nn.relu(conv(x * valid)) / jnp.maximum(count, 1)
        return clip_logits(x[:, cells[0], cells[1]], real, "proposal_logit")

    def loss(self, outputs: Outputs, batch: Batch, *, epoch: jax.Array) -> dict[str, Mean]:
        """'start', 'end': of the elastic boundaries; 'highlight': as VSLNet's; 'ranking': of the proposals."""
        mask, real = batch.video_mask, batch.example_mask
        first, last = span_labels(batch.span, batch.duration, mask)
        cells = proposal_cells(mask.shape[1], self.block, self.longest)
        bounds = proposal_bounds(mask, cells, self.block)
        label = jnp.stack([first, last + 1], axis=-1)[:, None]
        overlap = iou(bounds.astype(jnp.float32), label.astype(jnp.float32))
        start, end = second_opinion(outputs.proposal, bounds, overlap, self.needed_iou(epoch), first, last)
        # The official labels are [first, last], the second opinion's end is one clip behind it.
        inside = highlight_labels(jnp.minimum(first, start), jnp.minimum(last, end), mask, self.extension)
        errors = highlight_errors(outputs.highlight, inside)
        ranking = binary_cross_entropy(outputs.proposal, scaled_iou(overlap, self.low, self.high))
        proposals = proposal_mask(mask, cells, self.block)
        return {
            "start": Mean.of(elastic_loss(outputs.start, first, start), real),
            "end": Mean.of(elastic_loss(outputs.end, last, end), real),
            "highlight": Mean.of(errors, mask & real[:, None], self.highlight_weight),
            "ranking": Mean.of(ranking, proposals & real[:, None], self.ranking_weight),
        }

    def needed_iou(self, epoch: jax.Array) -> jax.Array:
        """Returns the IoU from which a proposal is a second opinion (official `SigmoidThreshold`)."""
        share = epoch / self.elastic_epochs
        fallen = jax.nn.sigmoid((share - 0.5) / (self.steepness / 5))
        return self.threshold + (1 - self.threshold) * (1 - fallen)

    def predict(self, outputs: Outputs, batch: Batch) -> Moments:
        """Returns moments from a start clip to an end clip, by the product of both probabilities."""
        return rank_pairs(
            outputs.start, outputs.end, batch.duration, batch.video_mask, self.keep, self.longest_share
        )

    def explain(self, outputs: Outputs, batch: Batch) -> dict[str, jax.Array]:
        """Returns probabilities relative to the best, 'map' [B,T,T], and the highlight, 'clips' [B,T]."""
        mask = batch.video_mask
        return {
            "map": explain_pairs(outputs.start, outputs.end, mask, self.longest_share),
            "clips": jnp.where(mask, jax.nn.sigmoid(outputs.highlight), jnp.nan),
        }


# The encoder.


class GuidedEncoder(nn.Module):
    """Frames, proposals and words attend to themselves and to each other (official `GuidedAttentionEncoder`).

    Attributes:
      features: F, width of every layer.
      heads: number of attention heads.
      layers: number of attention layers in each stack.
      block: number of frames of the shortest proposal.
      longest: number of blocks of the longest proposal.
      guide_kernel: number of frames that the convolution of frames and their guides sees.
      dropout: dropout rate of all layers.
      official_padding: whether padded frames are among those that guide proposals, as in the official code.
      dtype: number format of the layers.
    """

    features: int
    heads: int
    layers: int
    block: int
    longest: int
    guide_kernel: int
    dropout: float
    official_padding: bool
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, frames: jax.Array, words: jax.Array, batch: Batch, train: bool):
        """Maps frames [B,T,F] and words [B,L,F] to two pairs: frames and words, proposals [B,M,F] and words."""
        mask, words_mask, index = batch.video_mask, batch.query_mask, batch.example_index
        cells = proposal_cells(mask.shape[1], self.block, self.longest)
        real = proposal_mask(mask, cells, self.block)
        steps, tail, alike = mask, None, None
        if self.official_padding:  # padded frames of the last block guide its proposals
            steps = batch_steps(mask, batch.example_mask)
            tail, alike = last_block(steps, self.block), (~mask, batch_steps(words_mask, batch.example_mask))

        def attend(name, x, x_mask, kernel=1, **others):
            layer = AttentionLayer(self.features, self.heads, kernel, self.dropout, self.dtype, name=name)
            return layer(x, x_mask, index, train, **others)

        def each(name, x, x_mask, **others):
            for i in range(self.layers):
                x = attend(f"{name}_{i}", x, x_mask, **others)
            return x

        def each_frame(name, x, **others):
            for i in range(self.layers):
                around = surroundings(x, mask)
                x = attend(f"{name}_{i}", x, mask, self.guide_kernel, guides=around, **others)
            return x

        def each_proposal(name, x, guide, **others):
            blocks = block_maxima(guide, steps, self.block, tail)
            ends = jnp.stack([blocks[:, part] for part in cells], axis=2)
            return each(name, x, real, guides=jnp.where(real[:, :, None, None], ends, 0), **others)

        blocks = block_maxima(frames, mask, self.block, tail)
        grid = np.zeros((blocks.shape[1],) * 2, bool)
        grid[cells] = True
        proposals = jnp.where(real[..., None], max_pool_map(blocks, grid)[:, cells[0], cells[1]], 0)
        proposals, frames, words = (
            each_proposal("proposals_self", proposals, frames),
            each_frame("frames_self", frames),
            each("words_self", words, words_mask),
        )
        to_words = {"source": words, "source_mask": words_mask}
        proposal_words = each("words_proposals", words, words_mask, source=proposals, source_mask=real)
        frame_words = each("words_frames", words, words_mask, source=frames, source_mask=mask)
        proposals = each_proposal("proposals_words", proposals, frames, **to_words)
        frames = each_frame("frames_words", frames, **to_words, alike=alike)
        proposals = each_proposal("proposals_again", proposals, frames)
        proposal_words = each("proposal_words_again", proposal_words, words_mask)
        frames = each_frame("frames_again", frames)
        frame_words = each("frame_words_again", frame_words, words_mask)
        return (frames, frame_words), (proposals, proposal_words)


class AttentionLayer(nn.Module):
    """Attention and two linear layers, with a normalisation after each sum (official `GuidedAttentionLayer`).

    Attributes:
      features: F, width of every layer.
      heads: number of attention heads.
      kernel: number of steps that the convolution of steps and guides sees, odd.
      dropout: dropout rate of the attention weights, the guides and before every sum.
      dtype: number format of the layers.
    """

    features: int
    heads: int
    kernel: int
    dropout: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        mask: jax.Array,
        example_index: jax.Array,
        train: bool,
        source: jax.Array | None = None,
        source_mask: jax.Array | None = None,
        guides: jax.Array | None = None,
        alike: tuple[jax.Array, jax.Array] | None = None,
    ) -> jax.Array:
        """Returns [B,T,F] of steps [B,T,F] with mask [B,T]; the result at padding is meaningless.

        Args:
          x: the steps.
          mask: which of them are real.
          example_index: [B] int32.
          train: whether dropout is on.
          source: [B,L,F] to attend to; None: the steps themselves, guided.
          source_mask: [B,L].
          guides: [B,T,2,F], two neighbours of each step, zero at padding; None: there are none.
          alike: steps and what they weigh alike, see `MultiHeadAttention`.
        """

        def drop(y):
            return Dropout(self.dropout)(y, example_index, train)

        queries = x
        if guides is not None:
            x = jnp.where(mask[..., None], x, 0)
            mixed = self._mix(jnp.concatenate([guides, x[:, :, None]], axis=2))
            queries = nn.relu(layer_norm(drop(mixed), self.dtype, "guide_norm"))
        keys, keys_mask = (queries, mask) if source is None else (source, jnp.asarray(source_mask))
        attention = MultiHeadAttention(
            self.features, self.heads, self.dropout, dtype=self.dtype, name="attention"
        )
        attended = attention(queries, keys, keys_mask, example_index, train, alike=alike)
        x = layer_norm(x + drop(attended), self.dtype, "attention_norm")
        hidden = nn.relu(xavier_linear(self.features, x, self.dtype, "hidden"))
        y = xavier_linear(self.features, hidden, self.dtype, "output")
        return layer_norm(x + drop(y), self.dtype, "output_norm")

    def _mix(self, x: jax.Array) -> jax.Array:
        """Returns [B,T,F] of [B,T,3,F], guides and step: a depthwise convolution over steps and the three."""
        kernel = self.param("guide_kernel", _xavier, (self.kernel, 3, 1, self.features))
        length, before = x.shape[1], self.kernel // 2
        padded = jnp.pad(x, ((0, 0), (before, before), (0, 0), (0, 0)))
        # As a sum of shifted products: XLA's grouped convolution is several times slower on the CPU.
        shifted = jnp.stack([padded[:, i : i + length] for i in range(self.kernel)], axis=1)
        mixed = jnp.einsum("bktgf,kgf->btf", shifted, kernel[:, :, 0].astype(self.dtype))
        return xavier_linear(self.features, mixed, self.dtype, "guide")


# Guides: what is before and after a frame, and the blocks at both ends of a proposal.


def surroundings(frames: jax.Array, mask: jax.Array) -> jax.Array:
    """Returns [B,T,2,F], the maxima over all real frames before and after each real one; zero where is none."""
    x = jnp.where(mask[..., None], frames, MASKED)
    none = jnp.full_like(x[:, :1], MASKED)
    before = jnp.concatenate([none, jax.lax.cummax(x, axis=1)[:, :-1]], axis=1)
    after = jnp.concatenate([jax.lax.cummax(x, axis=1, reverse=True)[:, 1:], none], axis=1)
    both = jnp.stack([before, after], axis=2)
    return jnp.where((both > MASKED / 2) & mask[:, :, None, None], both, 0)


def block_maxima(frames: jax.Array, seen: jax.Array, block: int, tail: jax.Array | None = None) -> jax.Array:
    """Returns [B,N,F], the maxima of blocks of frames [B,T,F], of those that are seen, [B,T] or [1,T].

    Frames of `tail` [1,N*block] are zeros that are seen.
    """
    missing = -frames.shape[1] % block
    x = jnp.where(seen[..., None], frames, MASKED)
    x = jnp.pad(x, ((0, 0), (0, missing), (0, 0)), constant_values=MASKED)
    blocks = (x.shape[0], -1, block, x.shape[2])
    if tail is None:
        return x.reshape(blocks).max(2)
    x = jnp.where(tail[..., None], 0, x).reshape(blocks)
    # Padded frames can be equal; the official gradient goes to the first of them, that of a maximum to all.
    return jnp.take_along_axis(x, x.argmax(2, keepdims=True), axis=2)[:, :, 0]


def last_block(steps: jax.Array, block: int) -> jax.Array:
    """Returns [1,N*block] bool: behind the steps [1,T] of a batch, what its last block lacks.

    The official code fills it with -1e-30 (`downscale1d`), which is not the -1e30 that it has elsewhere.
    """
    place = jnp.arange(-(-steps.shape[1] // block) * block)[None]
    return (place >= steps.sum()) & (place < -(-steps.sum() // block) * block)


# Proposals.

Cells = tuple[np.ndarray, np.ndarray]  # first and last block of M proposals


def proposal_cells(num_clips: int, block: int, longest: int) -> Cells:
    """Returns first and last block [M] of the moments of up to `longest` blocks (official `TAN2dProposal`)."""
    first, last = np.triu_indices(-(-num_clips // block))
    short = last - first < longest
    return first[short], last[short]


def proposal_mask(mask: jax.Array, cells: Cells, block: int) -> jax.Array:
    """Returns [B,M] bool, the proposals whose last block has a real clip."""
    return jnp.asarray(cells[1] * block)[None] < mask.sum(1)[:, None]


def proposal_bounds(mask: jax.Array, cells: Cells, block: int) -> jax.Array:
    """Returns [B,M,2] int32: the first clip of each proposal, and the one behind its last in the video."""
    length = mask.sum(1)[:, None]
    start = jnp.broadcast_to(jnp.asarray(cells[0] * block)[None], (mask.shape[0], len(cells[0])))
    end = jnp.minimum(jnp.asarray((cells[1] + 1) * block)[None], length)
    return jnp.stack([start, end], axis=-1)


# Losses.


def second_opinion(
    logits: jax.Array,
    bounds: jax.Array,
    overlap: jax.Array,
    needed: jax.Array,
    first: jax.Array,
    last: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Returns a start and an end [B], both in clips, the end behind the moment (official `topk_confident`).

    Of the proposals with enough overlap [B,M] that of the highest logit [B,M], the first of equals; where there
    is none, the annotation, the clips first and last [B].
    """
    enough = (overlap >= needed) & (logits > MASKED / 2)
    best = jnp.where(enough, jax.nn.sigmoid(logits), -1).argmax(1)
    proposed = jnp.take_along_axis(bounds, best[:, None, None], axis=1)[:, 0]
    found = enough.any(1)
    return jnp.where(found, proposed[:, 0], first), jnp.where(found, proposed[:, 1], last + 1)


def elastic_loss(logits: jax.Array, one: jax.Array, other: jax.Array) -> jax.Array:
    """Returns [B]: minus the log probability, by logits [B,T], of a clip from `one` to `other` [B]."""
    clip = jnp.arange(logits.shape[1])[None]
    inside = (clip >= jnp.minimum(one, other)[:, None]) & (clip <= jnp.maximum(one, other)[:, None])
    right = jax.nn.logsumexp(jnp.where(inside, logits, MASKED), axis=-1)
    return jax.nn.logsumexp(logits, axis=-1) - right
