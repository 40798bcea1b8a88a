"""VLG-Net: graphs of clips and of words, matched with each other, and moments pooled by attention.

Names at the right, and "official code" in the file, are modules of the authors' program, whose checkpoints
`vmr_jax.torch_import` reads. The paper was not at hand: its equations have no numbers here.

  tensor              shape      meaning                                                     official code
  batch.video         [B,T,D]    clip features, rows L2-normalised
  batch.dependencies  [B,L,L]    relation of each word (column) to its head (row); here      syntactic_dep
                                 it only matters whether there is one
  clips               [B,G,F]    means of windows of rows, places added, a convolution over  feat_pool
                                 three, ReLU
                      [B,G,F]    N times the same layer of a graph: neighbours in time, and  GCNeXt
                                 the k nearest clips by their features
  words               [B,L,E]    LSTM; then N times the same layer of the syntactic graph    Syntac_GCN
                      [B,L,F]    linear, ReLU                                                fc_query
  matched             [B,G,F]    each clip hears those like it, those beside it and the      BidirectionalGraph-
                                 words that it attends to; linear, ReLU                      Matching
  weights             [B,G]      linear, one logit for each clip                             Learnable_Cross_-
  moments             [B,M,F]    the clips of a moment, added up by the softmax of their     AttentionPooling
                                 weights; then its place in the map is added                 pos2d_encoder
  logits              [B,G,G]    linear layers, ReLU; 0 at no candidate. Their sigmoid is    convs_pred, iou
                                 the score

Letters beyond the usual: k neighbours of a node, N layers.

The official settings, of which the first column is the default (F = 512, 256, 512; E = 512):

                        ActivityNet Captions   DiDeMo                 TACoS
  rows T, clips G       256, 64                150, 48                256, 256
  window, places        4, yes                 7, no                  1, no
  scale_layers          (16, 8, 8)             (10, 4)                (6, 8, 8, 8)
  context: N, k         1, 9                   1, 7                   4, 3
  match: k, groups      7, 4 of width 32       3, 32 of width 4       3, 32 of width 4
  LSTM, syntax layers   4, 4                   1, 1                   5, 2
  scoring layers        1                      2                      1
  labels                0.7, 0.71              0.69, 1                0.5, 0.7
  dropout               none                   query 0.1, graph 0.1   video 0.1, query 0.1
"""

import dataclasses

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from vmr_jax.errors import UserError
from vmr_jax.layers.attention import masked_softmax
from vmr_jax.layers.dropout import Dropout
from vmr_jax.layers.grouped import GroupedConv
from vmr_jax.layers.init import torch_bias, torch_default_kernel
from vmr_jax.layers.linear import torch_dense, torch_linear
from vmr_jax.layers.map2d import candidate_mask, iou_map, place_cells, rank_cells
from vmr_jax.layers.positions import positions
from vmr_jax.layers.recurrent import LSTM
from vmr_jax.layers.text import WordEmbedding
from vmr_jax.losses import binary_cross_entropy, scaled_iou
from vmr_jax.models.base import GroundingModel
from vmr_jax.models.card import Card
from vmr_jax.types import Array, Batch, Mean, Moments

CARD = Card(
    title="VLG-Net: Video-Language Graph Matching Network for Video Grounding",
    authors=("Soldan", "Xu", "Qu", "Tegner", "Ghanem"),
    venue="ICCV Workshops",
    year=2021,
    family="ranking",
    kind="2D map, graphs of clips and words",
    supervision="full",
    features="C3D, VGG; GloVe",
    official_code="Soldelli/VLG-Net@c14940a3f9c5 (PyTorch)",
    ours=(
        "All is as in the official code; no copy of the paper was at hand.",
        "The layers of a graph share their weights, as do the scoring layers after the first: the official "
        "program repeats one module.",
        "A word hears the words that hang from it. The official matrices of dependencies come with the "
        "annotations, which are not part of the code, so that their direction is not known here.",
        "The official program also lets words hear the clips, and makes a sentence of them, which adds one "
        "number to the logits of all clips; their softmax takes it away. Nothing depends on it, and the "
        "weights of these layers have no gradient: they are left out.",
        "A clip hears the features of its nearest clips. Officially [F,G] in memory is taken for [G,F], so "
        "that a neighbour is a few features of all clips; official_neighbours=True does the same, and its "
        "checkpoints were trained with it.",
        "NMS keeps an IoU that equals the threshold, which the official program leaves to rounding.",
        "The distance of a node to itself is zero. Officially it is noise of the size of a rounded square root "
        "where more than 25 nodes are compared, and moves the weights of the neighbours by some thousandths.",
        "Kernels of the scoring layers have one cell, as in all official configs, so that only candidates are "
        "scored. The official program also has two other kinds of pooling, which its configs do not use.",
        "The graph of the clips starts from random weights; the authors' from those of a G-TAD checkpoint.",
    ),
    verified=(
        "Against the official code at this commit, running, with random weights of small sizes, the three "
        "settings, four videos of 24 to 200 rows and sentences of 3 to 9 words: rows agree to 1e-7, candidates "
        "are the same, scores agree to 8e-7, the loss to 5e-7, gradients to 5e-6 of the largest of each "
        "parameter, and the moments after NMS are the same.",
        "A sentence in a longer batch and alone have the same scores to 6e-7, in the official code too.",
        "11,193,601 parameters on ActivityNet Captions, 18,800,385 on TACoS and 6,625,281 on DiDeMo with VGG; "
        "the official models have 548,098, 530,178 and 266,754 more, in the layers that are left out.",
        "Official checkpoints are imported.",
    ),
)


@struct.dataclass
class Outputs:
    """Logits of all cells: row is the first clip, column the last; 0 at no candidate."""

    logits: Array  # [B,G,G] float32


class Model(GroundingModel):
    """VLG-Net, with the settings of ActivityNet Captions.

    Attributes:
      num_clips: G, number of clips along each side of the moment map.
      scale_layers: diagonals of the map that hold candidates, by scale, see
        `vmr_jax.layers.map2d.candidate_layers`; the first is one more than in the official configs.
      window: number of rows that are averaged to a clip; windows begin T // G rows apart.
      places: whether sines and cosines of their places are added to the clips.
      features: F, width of clips and words in the graphs that are matched.
      query_features: E, width of the LSTM and of the syntactic graph.
      context_layers: number of layers of the graph of the clips.
      context_neighbours: number of nearest clips in it, the clip itself included.
      context_groups: number of groups of its hidden features.
      context_width: number of hidden features of a group.
      match_neighbours: number of nearest clips, and words, in the graphs that are matched.
      match_groups: number of groups of their hidden features.
      match_width: number of hidden features of a group there.
      lstm_layers: number of layers of the query's LSTM.
      syntax_layers: number of layers of the syntactic graph.
      score_features: width of the scoring layers.
      score_layers: number of scoring layers before the logit.
      iou_low: IoU up to which a candidate is a full negative.
      iou_high: IoU from which a candidate is a full positive.
      video_dropout: dropout rate of the clips, and of whole features in the scoring layers.
      query_dropout: dropout rate between the layers of the LSTM, and before the words' ReLU.
      graph_dropout: dropout rate in the syntactic graph.
      official_neighbours: whether the features of neighbours are taken as in the official code, see the card.
      vocab_size: number of words whose vectors are fine-tuned; 0 keeps the word vectors of the batch fixed (the
        official).
      keep: number of moments that `predict` returns; 0 for all candidates.
      dtype: number format of the layers; parameters, distances, logits and loss are float32.
    """

    num_clips: int = 64
    scale_layers: tuple[int, ...] = (16, 8, 8)
    window: int = 4
    places: bool = True
    features: int = 512
    query_features: int = 512
    context_layers: int = 1
    context_neighbours: int = 9
    context_groups: int = 32
    context_width: int = 4
    match_neighbours: int = 7
    match_groups: int = 4
    match_width: int = 32
    lstm_layers: int = 4
    syntax_layers: int = 4
    score_features: int = 512
    score_layers: int = 1
    iou_low: float = 0.7
    iou_high: float = 0.71
    video_dropout: float = 0.0
    query_dropout: float = 0.0
    graph_dropout: float = 0.0
    official_neighbours: bool = False
    vocab_size: int = 0
    keep: int = 0
    dtype: jnp.dtype = jnp.float32

    def requires(self) -> tuple[str, ...]:
        """Names the dependencies of the words."""
        return ("dependencies",)

    @property
    def rows(self) -> int:
        """The fewest rows T of which the windows make G clips."""
        return self.num_clips - 1 + self.window

    @property
    def candidates(self) -> np.ndarray:
        """Returns [G,G] bool, the moments that are scored."""
        return candidate_mask(self.num_clips, self.scale_layers)

    @nn.compact
    def __call__(self, batch: Batch, *, train: bool) -> Outputs:
        """Scores every candidate of every pair.

        Raises UserError where the batch has no dependencies, where the windows do not make G clips, and for
        features that are not a multiple of 4.
        """
        batch.check()
        if batch.dependencies is None:
            raise UserError("VLG-Net reads the syntax of the query, and this batch has none (dependencies).")
        if self.features % 4:
            raise UserError(
                f"config.model.features of VLG-Net is {self.features}; it must be a multiple of 4, for the "
                "sines and cosines of both ends of a moment."
            )
        clips, real = self._clips(batch, train)
        words = self._words(batch, train)
        matching = GraphMatching(
            self.match_neighbours,
            self.match_groups,
            self.match_width,
            self.official_neighbours,
            self.dtype,
            name="matching",
        )
        clips = matching(clips, words, real, batch.query_mask)
        clips = nn.relu(torch_linear(self.features, clips, self.dtype, "matched"))

        rows, columns = np.nonzero(self.candidates)
        pooled = MomentPool(self.dtype, name="pool")(clips, real, rows, columns)
        pooled = pooled + jnp.asarray(self._places(rows, columns), self.dtype)[None]
        logits = self._scores(pooled, batch, train)
        return Outputs(logits=place_cells(logits, rows, columns, self.num_clips)[..., 0])

    def _clips(self, batch: Batch, train: bool) -> tuple[Array, Array]:
        """Returns clips [B,G,F] and which of them have real rows [B,G] (official code: feat_pool, GCNeXt)."""
        clips, real = window_means(batch.video, batch.video_mask, self.num_clips, self.window)
        if self.places:
            clips = clips + jnp.asarray(positions(*clips.shape[1:]))[None]
        clips = jnp.where(real[..., None], clips, 0).astype(self.dtype)
        convolution = nn.Conv(
            self.features,
            (3,),
            kernel_init=torch_default_kernel,
            bias_init=torch_bias(3 * clips.shape[-1]),
            dtype=self.dtype,
            name="clips",
        )
        clips = nn.relu(Dropout(self.video_dropout)(convolution(clips), batch.example_index, train))
        graph = ClipGraph(
            self.context_neighbours,
            self.context_groups,
            self.context_width,
            self.official_neighbours,
            self.dtype,
            name="context",
        )
        for _ in range(self.context_layers):
            clips = graph(jnp.where(real[..., None], clips, 0), real)
        return jnp.where(real[..., None], clips, 0), real

    def _words(self, batch: Batch, train: bool) -> Array:
        """Returns words [B,L,F] (official code: lstm_syntacGCN_encoder)."""
        index = batch.example_index
        words = WordEmbedding(self.vocab_size, self.dtype, name="words")(batch)
        lstm = LSTM(
            self.query_features, self.lstm_layers, dtype=self.dtype, dropout=self.query_dropout, name="lstm"
        )
        words = lstm(words, batch.query_mask, index, train)
        syntax = SyntacticGraph(self.query_features, self.graph_dropout, self.dtype, name="syntax")
        for _ in range(self.syntax_layers):
            words = words + syntax(words, jnp.asarray(batch.dependencies) > 1, index, train)
        words = torch_linear(self.features, words, self.dtype, "query")
        return nn.relu(Dropout(self.query_dropout)(words, index, train))

    def _places(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Returns [M,F], what the place of each moment adds to it (official code: PositionalEncoding2d)."""
        table = positions(self.num_clips, self.features // 2)
        return np.concatenate([table[columns], table[rows]], axis=-1)

    def _scores(self, moments: Array, batch: Batch, train: bool) -> Array:
        """Returns logits [B,M,1] of moments [B,M,F] (official code: predict_scores)."""
        inputs = [moments.shape[-1], self.score_features]
        layers = [
            torch_dense(self.score_features, width, self.dtype, f"hidden_{i}")
            for i, width in enumerate(inputs[: self.score_layers])
        ]
        ones = jnp.ones((batch.size, self.score_features), self.dtype)
        for i in range(self.score_layers):
            moments = layers[min(i, 1)](moments)
            # Official code: Dropout2d, of a feature in all cells at once.
            kept = Dropout(self.video_dropout)(ones, batch.example_index, train)
            moments = nn.relu(moments * kept[:, None])
        return torch_linear(1, moments.astype(jnp.float32), jnp.float32, "score")

    def loss(self, outputs: Outputs, batch: Batch, *, epoch: Array) -> dict[str, Mean]:
        """Returns 'iou': cross-entropy with the scaled IoU (official code: TanLoss)."""
        del epoch
        overlap = iou_map(self.num_clips, batch.span, batch.duration)
        targets = scaled_iou(overlap, self.iou_low, self.iou_high)
        counted = self.candidates[None] & batch.example_mask[:, None, None]
        return {"iou": Mean.of(binary_cross_entropy(outputs.logits, targets), counted)}

    def predict(self, outputs: Outputs, batch: Batch) -> Moments:
        """Returns the candidates, best first; the score is the sigmoid of the logit."""
        ranked = rank_cells(outputs.logits, self.candidates, batch.duration, self.keep)
        return dataclasses.replace(ranked, scores=jax.nn.sigmoid(ranked.scores))

    def explain(self, outputs: Outputs, batch: Batch) -> dict[str, Array]:
        """Returns the score of every candidate: 'map' [B,G,G], NaN at no candidate."""
        return {"map": jnp.where(self.candidates[None], jax.nn.sigmoid(outputs.logits), jnp.nan)}


# Clips, and nodes that are near each other.


def window_means(video: Array, mask: Array, num_clips: int, window: int) -> tuple[Array, Array]:
    """Means of the real rows of windows that begin T // G apart: [B,T,D] -> float32 [B,G,D] and mask [B,G].

    Raises UserError where G windows do not fill the T rows (official code: AvgPool1d).
    """
    length = video.shape[1]
    stride = length // num_clips
    if not stride or (length - window) // stride + 1 != num_clips:
        raise UserError(
            f"The video has {length} rows, of which windows of {window} rows make no {num_clips} clips. Set "
            f"config.input.num_clips to a multiple of {num_clips} and config.model.window to their quotient, "
            "or as the official configs have it (150 rows in windows of 7 make 48 clips)."
        )
    rows = stride * np.arange(num_clips)[:, None] + np.arange(window)[None]
    inside = mask[:, rows]
    total = jnp.where(inside[..., None], video.astype(jnp.float32)[:, rows], 0.0).sum(2)
    count = inside.sum(2)
    return total / jnp.maximum(count, 1)[..., None], count > 0


def distances(nodes: Array) -> Array:
    """Euclidean distances [B,T,T] float32 of nodes [B,T,F]; exactly zero of a node to itself."""
    x = nodes.astype(jnp.float32)
    products = jnp.einsum("bif,bjf->bij", x, x, precision=jax.lax.Precision.HIGHEST)
    norms = jnp.square(x).sum(-1)
    squares = norms[:, :, None] + norms[:, None, :] - 2 * products
    apart = (squares > 0) & ~jnp.eye(x.shape[1], dtype=bool)[None]
    return jnp.where(apart, jnp.sqrt(jnp.where(apart, squares, 1.0)), 0.0)


def nearest(nodes: Array, mask: Array, k: int, mixed: bool = False) -> tuple[Array, Array]:
    """The k nearest real nodes of each node of [B,T,F] under mask [B,T], itself the first.

    Returns their features [B,T,k,F] and minus their distances [B,T,k], -inf where there are no more. Where
    there are fewer than k nodes, k is their number. `mixed`: the features of node t are those that stand at its
    place where [F,T] is taken for [T,F] (official code: get_graph_feature).
    """
    closeness = jnp.where(mask[:, None, :], -distances(nodes), -jnp.inf)
    closeness, index = jax.lax.top_k(closeness, min(k, nodes.shape[1]))
    features = nodes.swapaxes(1, 2).reshape(nodes.shape) if mixed else nodes
    return jax.vmap(lambda x, i: x[i])(features, index), closeness


class Bottleneck(nn.Module):
    """Linear, ReLU, grouped convolution, ReLU, linear (official code: tconvs, sconvs, vconvs, qconvs).

    Parameters: reduce, grouped, expand.

    Attributes:
      features: F, width of the result.
      groups: number of groups of the hidden features.
      width: hidden features of each group.
      size: number of steps that the convolution reads.
      dtype: number format of the result.
    """

    features: int
    groups: int
    width: int
    size: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Array, mask: Array | None = None) -> Array:
        """[B,T,...,D] -> [B,T,...,F]; the convolution reads zeros where the mask [B,T] is False."""
        hidden = nn.relu(torch_linear(self.groups * self.width, x, self.dtype, "reduce"))
        if mask is not None:
            hidden = jnp.where(mask[..., None], hidden, 0)
        hidden = nn.relu(GroupedConv(self.groups, self.width, self.size, self.dtype, name="grouped")(hidden))
        return torch_linear(self.features, hidden, self.dtype, "expand")


class ClipGraph(nn.Module):
    """A layer of the graph of the clips: neighbours in time and nearest clips (official code: GCNeXt).

    Parameters: temporal and semantic, `Bottleneck`s.
    """

    neighbours: int
    groups: int
    width: int
    mixed: bool
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, clips: Array, mask: Array) -> Array:
        """[B,G,F], zero where the mask [B,G] is False -> [B,G,F]; meaningless there."""
        sizes = clips.shape[-1], self.groups, self.width
        temporal = Bottleneck(*sizes, 3, self.dtype, name="temporal")(clips, mask)
        near, closeness = nearest(clips, mask, self.neighbours, self.mixed)
        itself = jnp.broadcast_to(clips[:, :, None], near.shape)
        edges = Bottleneck(*sizes, 1, self.dtype, name="semantic")(jnp.concatenate([near, itself], -1))
        # A video without a real clip has no neighbours, and nothing in its graph counts.
        real = jnp.isfinite(closeness) | ~mask[:, :, None]
        semantic = jnp.where(real[..., None], edges, -jnp.inf).max(2)
        return nn.relu(temporal + clips + semantic)


class SyntacticGraph(nn.Module):
    """Words hear each other along their dependencies (official code: Syntac_GCN).

    Parameters: edge, weight, message, linear layers without bias.

    Attributes:
      features: E, width of the words.
      dropout: dropout rate of edges and messages.
      dtype: number format of the products; the softmax is float32.
    """

    features: int
    dropout: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, words: Array, edges: Array, example_index: Array, train: bool) -> Array:
        """Words [B,L,E] and edges [B,L,L], True where the row's word hears the column's -> [B,L,E]."""
        chex.assert_shape(edges, (*words.shape[:2], words.shape[1]))

        def drop(x):
            return Dropout(self.dropout)(x, example_index, train)

        shape = (*edges.shape, self.features)
        heads = jnp.broadcast_to(words[:, :, None], shape)
        others = jnp.broadcast_to(words[:, None], shape)
        hidden = torch_linear(
            self.features, jnp.concatenate([heads, others], -1), self.dtype, "edge", use_bias=False
        )
        logits = torch_linear(1, nn.relu(drop(hidden)), self.dtype, "weight", use_bias=False)[..., 0]
        weights = masked_softmax(logits, edges).astype(self.dtype)
        messages = drop(torch_linear(self.features, words, self.dtype, "message", use_bias=False))
        return nn.relu(words + jnp.einsum("bij,bjf->bif", weights, messages))


class GraphMatching(nn.Module):
    """Clips hear words, clips like them and those beside them (official code: BidirectionalGraphMatching).

    Parameters: near, other, order, `Bottleneck`s.

    Attributes:
      neighbours: k.
      groups: number of groups of the hidden features.
      width: hidden features of a group.
      mixed: as in `nearest`.
      dtype: number format of the products; the softmax is float32.
    """

    neighbours: int
    groups: int
    width: int
    mixed: bool
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, clips: Array, words: Array, video_mask: Array, query_mask: Array) -> Array:
        """Clips [B,G,F], zero where they are not real, words [B,L,F] and both masks -> clips [B,G,F]."""

        def layer(name, x, size=1, mask=None):
            sizes = clips.shape[-1], self.groups, self.width, size
            return Bottleneck(*sizes, self.dtype, name=name)(x, mask)

        edges = jnp.einsum("bgf,blf->bgl", clips, words)
        weights = masked_softmax(edges, query_mask[:, None, :]).astype(self.dtype)
        other = jnp.einsum("bgl,blf->bgf", weights, words)
        near, closeness = nearest(clips, video_mask, self.neighbours, self.mixed)
        weights = masked_softmax(closeness, jnp.isfinite(closeness)).astype(self.dtype)
        near = jnp.einsum("bgk,bgkf->bgf", weights, near)
        heard = layer("near", jnp.concatenate([clips, near], -1))
        heard = heard + layer("other", jnp.concatenate([clips, other], -1))
        return heard + layer("order", clips, 3, video_mask) + clips


class MomentPool(nn.Module):
    """The clips of each moment, added up by the softmax of their logits. Parameters: logit, a linear layer.

    Official code: Learnable_Cross_Attention_Pooling.
    """

    dtype: jnp.dtype

    @nn.compact
    def __call__(self, clips: Array, mask: Array, rows: np.ndarray, columns: np.ndarray) -> Array:
        """Clips [B,G,F] with mask [B,G], first and last clips [M] of the moments -> [B,M,F]."""
        logits = torch_linear(1, clips, self.dtype, "logit", use_bias=False)[..., 0]
        place = np.arange(clips.shape[1])[None]
        inside = (place >= rows[:, None]) & (place <= columns[:, None])
        weights = masked_softmax(logits[:, None], jnp.asarray(inside)[None] & mask[:, None])
        return jnp.einsum("bmg,bgf->bmf", weights.astype(self.dtype), clips)
