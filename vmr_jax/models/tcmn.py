"""TCMN: a tree of the sentence is split, softly, into main event, context event and temporal signal.

Names at the right, and "official code" in the file, are those of the authors' program, whose checkpoints
`vmr_jax.torch_import` reads. No copy of the paper was at hand: its equations have no numbers here.

  tensor        shape      meaning                                                          official code
  batch.video   [B,T,D]    features of the chunks, not normalised; T = 6 chunks of 5 s on DiDeMo and TEMPO
  batch.flow    [B,T,D]    the same of optical flow, for the networks that read it
  constituents  [B,Z]      nodes of the constituency tree, children before their parent     Forest
  segments      [B,M,D]    means of the chunks of all segments, by their length, of unit    MCN
                           length; M = 21 of 6 chunks
  states        [B,Z,F]    Tree-LSTM (child-sum), the words at the leaves                   ChildSumTreeLSTM
  text          3 [B,F]    signal, main and context event: the nodes as each of three       NodeAttentionModule
                           attentions weighs them, by label and state of a node
  main, context [B,M,D]    segments, each times its probability of being the event          PropAttentionModule
  endpoints     [M,M,4]    first and last chunk of a pair of segments, over 6               conTEF
  visual        [B,M,M]    fit of the root's state and [main; context; endpoints]           prop_score_builder
  location      [B,M,M]    fit of the signal and the endpoints                              loc_score_builder
  scores        [B,M,M]    visual + location, of main segment i with context segment j

A segment's score is that with its best context. F = 500; the two attentions over segments and the two scores
share no weights. The paper's model is an ensemble of four such networks, in which main and context event are
each looked for in RGB (batch.video) or in flow: they share nothing, and are trained at once by the sum of their
losses. The gradients are those of four trainings, but the norm by which they are clipped is that of all.
"""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from vmr_jax.errors import UserError
from vmr_jax.layers.attention import MASKED, masked_softmax
from vmr_jax.layers.draws import annotated_moment
from vmr_jax.layers.init import torch_bias, torch_default_kernel
from vmr_jax.layers.linear import torch_linear
from vmr_jax.layers.norm import l2_normalize
from vmr_jax.layers.text import WordEmbedding
from vmr_jax.models.base import GroundingModel
from vmr_jax.models.card import Card
from vmr_jax.moments import iou, rank
from vmr_jax.text.constituency import LABELS
from vmr_jax.types import Array, Batch, Constituents, Mean, Moments

CARD = Card(
    title="Exploiting Temporal Relationships in Video Moment Localization with Natural Language",
    authors=("Zhang", "Su", "Luo"),
    venue="ACM MM",
    year=2019,
    family="ranking",
    kind="pairs of main and context segment, Tree-LSTM",
    supervision="full",
    features="VGG and flow; GloVe",
    official_code="Sy-Zhang/TCMN-Release@61a6cc4fc452 (PyTorch)",
    ours=(
        "Beside what follows all is as in the official code; no copy of the paper was at hand.",
        "A video has as many chunks as there are up to the last one that is not all zeros; the official code "
        "reads their number from the annotations and pads the features with zeros.",
        "In training too, the context of a segment is the best among the video's own segments. Officially it "
        "may then lie in the padding of a shorter video: official_padding=True.",
        "The softmax over segments is over those of the video; the official one is over all, then divided by "
        "what is left.",
        "Scores are ranked as they are. The official program adds 10,000 to them, which rounds them to a "
        "thousandth in float32, and sorts in an order that leaves ties to chance.",
        "The moment of a sentence is the segment with the highest IoU (of several, the first). On DiDeMo and "
        "TEMPO it is the moment itself.",
        "A leaf without a word of the tokeniser, such as a full stop, reads zeros; officially punctuation has "
        "vectors. A label that the Penn Treebank does not have is X, where the official program stops.",
        "Trees with more nodes than config.text.max_nodes lose their last words.",
        "The L2 term is in the gradient when that is clipped. The official schedule is left out: it lowers the "
        "learning rate, if ever, after the last epoch.",
        "Weights of the ensemble are given; the official script chooses them on the test split.",
        "Left out: dropout, which is 0 in every published command, and an initialisation that is off.",
    ),
    verified=(
        "Against the official code at this commit, running on its own data set (the target of its loss, one "
        "number, is repeated, which PyTorch no longer does), with random weights and our rows, trees and "
        "moments read from the same files: rows, labels of nodes, segments, masks and moments are the same; of "
        "six sentences of 1 to 11 words and videos of five and six chunks in one batch, the scores agree to "
        "4e-7 of the largest, the losses, that of the context too, to 1e-7, gradients to 7e-6, and all "
        "segments are ranked alike; with float32 the official program rounds two of them to a tie.",
        "Alone and in a batch a sentence has the same scores to 5e-7 of the largest, officially too.",
        "Checkpoints are imported, with the names of TEMPO-TL's, and the parses that the official program has.",
    ),
)

STREAMS = ("video", "flow")
NETWORKS = tuple(f"{main}_{context}" for main in STREAMS for context in STREAMS)


@struct.dataclass
class Outputs:
    """Scores of all pairs of segments, and what they are to find."""

    scores: dict[str, Array]  # of each network [B,M,M] float32: main segment, context segment
    moment: Array  # [B,2] seconds, the moment that the sentence is to find


class Model(GroundingModel):
    """TCMN, with the sizes of the official checkpoints.

    Attributes:
      networks: where the networks look for main and context event, of 'video_video', 'video_flow', 'flow_video'
        and 'flow_flow'.
      weights: shares of the networks in the score of a segment, in their order; empty: all alike.
      moments: 'windows' draws one of the annotated moments of a query in each step; 'span' is the one to learn.
      num_clips: number of chunks of the longest video, by which the places of a segment are divided.
      max_length: number of chunks of the longest segment; 0 for all segments (the official).
      tree_features: F, units of the Tree-LSTM.
      visual_features: width of the hidden layer on a segment in its attention.
      attention_features: width of the space in which segments and sentence meet in the attention.
      features: width of the space in which pairs of segments and sentence meet.
      margin: margin of the losses.
      context_weight: weight of the supervision of the context event, which published commands leave off; where
        it is on, the official one is 1.
      official_padding: whether, in training, segments in the padding can be the context, as officially.
      vocab_size: number of words whose vectors are fine-tuned, 0 to keep them (the official).
      keep: number of segments that `predict` returns; 0 for all.
      dtype: number format of the layers; parameters, states of the tree, scores and losses are float32.
    """

    networks: tuple[str, ...] = NETWORKS
    weights: tuple[float, ...] = ()
    moments: str = "windows"
    num_clips: int = 6
    max_length: int = 0
    tree_features: int = 500
    visual_features: int = 500
    attention_features: int = 250
    features: int = 250
    margin: float = 0.1
    context_weight: float = 0.0
    official_padding: bool = False
    vocab_size: int = 0
    keep: int = 0
    dtype: jnp.dtype = jnp.float32

    choices = {"moments": ("windows", "span"), "networks": NETWORKS}

    @nn.compact
    def __call__(self, batch: Batch, *, train: bool) -> Outputs:
        """Scores all pairs of segments; UserError for settings that do not exist, and without trees or flow."""
        batch.check()
        tree, mask = self._checked(batch), self._real(batch)
        words = WordEmbedding(self.vocab_size, self.dtype, name="words")(batch)
        leaves = tree.words & tree.leaves[..., None]
        inputs = jnp.einsum("bzl,blw->bzw", leaves.astype(self.dtype), words)
        inputs = inputs / jnp.maximum(leaves.sum(-1, keepdims=True), 1).astype(self.dtype)
        first, last = segments(batch.video.shape[1], self.max_length)
        read = sorted({stream for network in self.networks for stream in network.split("_")})
        means = {name: segment_means(getattr(batch, name), first, last) * mask[..., None] for name in read}
        ends = endpoints(first, last, self.num_clips)
        scores = {}
        for number, network in enumerate(self.networks):
            main, context = (means[stream] for stream in network.split("_"))
            scores[network] = Network(
                self.tree_features,
                self.visual_features,
                self.attention_features,
                self.features,
                self.dtype,
                name=f"network_{number}",
            )(inputs, tree, main, context, mask, ends)
        moment = batch.span
        if train:
            moment = annotated_moment(self.make_rng("dropout"), batch, self.moments, "TCMN")
        return Outputs(scores=scores, moment=moment)

    def loss(self, outputs: Outputs, batch: Batch, *, epoch: Array) -> dict[str, Mean]:
        """Returns of each network the hinge max(0, margin + score - that of the moment), over the segments.

        The moment itself is among them (official code: ranking_loss). 'NETWORK_context' is the same of the
        contexts of the moment; where none is told it is the whole video.
        """
        del epoch
        real = self._real(batch)
        own = self._nearest(outputs.moment, batch)
        counted = real & batch.example_mask[:, None]

        def hinge(scores: Array, target: Array) -> Array:
            return jnp.maximum(scores - jnp.take_along_axis(scores, target[:, None], axis=1) + self.margin, 0.0)

        terms = {}
        for network, scores in outputs.scores.items():
            best = scores.max(-1) if self.official_padding else best_context(scores, real)
            terms[network] = Mean.of(hinge(best, own), counted)
            if self.context_weight:
                contexts = jnp.take_along_axis(scores, own[:, None, None], axis=1)[:, 0]
                hinges = hinge(contexts, self._nearest(self._context(batch), batch))
                terms[f"{network}_context"] = Mean.of(hinges, counted, self.context_weight)
        return terms

    def predict(self, outputs: Outputs, batch: Batch) -> Moments:
        """Returns the segments of the video, best first, by their scores with their best contexts."""
        spans = self._spans(batch)
        return rank(spans, self._fused(outputs, batch), self._real(batch), self.keep or spans.shape[1])

    def requires(self) -> tuple[str, ...]:
        """Names the trees, flow where a network reads it, and the moments where one is drawn from them."""
        flow = ("flow",) if any("flow" in network for network in self.networks) else ()
        windows = ("windows",) if self.moments == "windows" else ()
        return ("constituents", *flow, *windows, *(("context",) if self.context_weight else ()))

    def explain(self, outputs: Outputs, batch: Batch) -> dict[str, Array]:
        """Returns 'map' [B,T,T], the exponential of a segment's score less the best one, NaN elsewhere."""
        real = self._real(batch)
        fused = jnp.where(real, self._fused(outputs, batch), -jnp.inf)
        scores = jnp.where(real, jnp.exp(fused - fused.max(-1, keepdims=True)), jnp.nan)
        num_clips = batch.video.shape[1]
        empty = jnp.full((batch.size, num_clips, num_clips), jnp.nan)
        return {"map": empty.at[:, *segments(num_clips, self.max_length)].set(scores)}

    def _fused(self, outputs: Outputs, batch: Batch) -> Array:
        """[B,M], the scores of the segments by all networks (official code: late_fusion)."""
        shares = self.weights or (1 / len(self.networks),) * len(self.networks)
        real = self._real(batch)
        best = [best_context(outputs.scores[network], real) for network in self.networks]
        return jnp.stack([share * scores for share, scores in zip(shares, best)]).sum(0)

    def _real(self, batch: Batch) -> Array:
        """[B,M] bool, which segments end before the video does."""
        _, last = segments(batch.video.shape[1], self.max_length)
        return jnp.asarray(last)[None] < chunks(batch)[:, None]

    def _spans(self, batch: Batch) -> Array:
        """[B,M,2] seconds of the segments."""
        first, last = segments(batch.video.shape[1], self.max_length)
        seconds = batch.duration / jnp.maximum(jnp.asarray(batch.video_mask).sum(-1), 1)
        return jnp.asarray(np.stack([first, last + 1], axis=-1))[None] * seconds[:, None, None]

    def _nearest(self, moment: Array, batch: Batch) -> Array:
        """[B] the segment of the video that has the highest IoU with the moment [B,2] in seconds."""
        overlap = iou(self._spans(batch), moment[:, None])
        return jnp.where(self._real(batch), overlap, -1.0).argmax(-1)

    def _context(self, batch: Batch) -> Array:
        """[B,2] seconds of the context event, the whole video where none is told."""
        if batch.context is None:
            raise UserError(
                "TCMN learns the context event with context_weight, and this batch has none. Use a dataset "
                "that has it, or leave context_weight out."
            )
        whole = jnp.stack([jnp.zeros_like(batch.duration), batch.duration], axis=-1)
        return jnp.where(batch.context[:, 1:] > 0, batch.context, whole)

    def _checked(self, batch: Batch) -> Constituents:
        """The trees of a batch that has all that the settings, which exist, ask for."""
        if not self.networks:
            raise UserError(
                f"config.model.networks of TCMN is empty; expected is one or more of {', '.join(NETWORKS)}, of "
                "main and context event."
            )
        if len(self.weights) not in (0, len(self.networks)):
            raise UserError(
                f"config.model.weights of TCMN has {len(self.weights)} shares for {len(self.networks)} "
                "networks. Give one for each, or none."
            )
        if batch.constituents is None:
            raise UserError(
                "TCMN reads the constituency trees of the sentences, and this batch has none. Use a dataset "
                "that has them, or set config.text.parses."
            )
        if "flow" in self.requires() and batch.flow is None:
            raise UserError(
                "A network of TCMN reads flow, and this batch has none. Use a dataset that has it, or set "
                "networks=('video_video',)."
            )
        return batch.constituents


class Network(nn.Module):
    """One network of the ensemble (official code: MLLC_FullAtt)."""

    tree_features: int
    visual_features: int
    attention_features: int
    features: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(
        self, inputs: Array, tree: Constituents, main: Array, context: Array, mask: Array, ends: Array
    ) -> Array:
        """Returns the scores [B,M,M] float32 of pairs of segments.

        Args:
          inputs: [B,Z,W] the word vectors of leaves, zeros of other nodes.
          tree: the nodes.
          main: [B,M,D] segments for the main event, zeros where `mask` [B,M] is False.
          context: [B,M,D] the same for the context event.
          mask: which segments are the video's.
          ends: [M,M,4] of the pairs.
        """
        states = TreeLSTM(self.tree_features, self.dtype, name="tree_lstm")(inputs, tree.parents)
        root = jnp.take_along_axis(states, tree.root[:, None, None], axis=1)[:, 0]
        text = {
            name: NodeAttention(inputs.shape[-1], self.dtype, name=f"{name}_nodes")(tree, states)
            for name in ("signal", "main", "context")
        }
        sizes = self.visual_features, self.attention_features, self.dtype
        main = SegmentAttention(*sizes, name="main_segments")(text["main"], main, mask)
        context = SegmentAttention(*sizes, name="context_segments")(text["context"], context, mask)
        pair = PairScore(self.features, self.dtype, name="visual")
        visual = pair(root, main[:, :, None], context[:, None], ends[None])
        location = PairScore(self.features, self.dtype, name="location")(text["signal"], ends[None])
        return visual + location


class TreeLSTM(nn.Module):
    """Child-sum Tree-LSTM (Tai et al., ACL 2015; official code: ChildSumTreeLSTMCell).

    With x the input of a node and h, c those of its children k:

        i, o, u = W [x; sum h_k] + b            c = sigmoid(i) tanh(u) + sum f_k c_k
        f_k = sigmoid(W_f x + b_f + U_f h_k + b_u)          h = sigmoid(o) tanh(c)

    Nodes are taken one after the other; each hands h and f c up to its parent, which comes later. What none is
    above, the root and padding, hands them to node 0, which has been read by then.
    """

    features: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, inputs: Array, parents: Array) -> Array:
        """Returns the states [B,Z,F] float32 of nodes with inputs [B,Z,W] and parents [B,Z]."""
        chex.assert_equal_shape_prefix([inputs, parents], 2)
        size, width, features = inputs.shape[0], inputs.shape[-1], self.features
        kernel = self.param("gates_kernel", torch_default_kernel, (width + features, 3 * features))
        bias = self.param("gates_bias", torch_bias(width + features), (3 * features,))
        forget_kernel = self.param("forget_kernel", torch_default_kernel, (features, features))
        forget_bias = self.param("forget_bias", torch_bias(features), (features,))

        def times(x: Array, weights: Array) -> Array:
            return (x.astype(self.dtype) @ weights.astype(self.dtype)).astype(jnp.float32)

        gates = times(inputs, kernel[:width]) + bias[None, None]
        forget = torch_linear(features, inputs, self.dtype, "forget_inputs").astype(jnp.float32)
        forget = jnp.take_along_axis(forget, parents[..., None], axis=1) + forget_bias[None, None]
        rows = jnp.arange(size)

        def step(below: tuple[Array, Array], node: tuple) -> tuple[tuple[Array, Array], Array]:
            states, cells = below  # [B,Z,F] sums over the children so far
            place, of_input, forget, parent = node
            i, o, u = jnp.split(of_input + times(states[:, place], kernel[width:]), 3, axis=-1)
            c = nn.sigmoid(i) * jnp.tanh(u) + cells[:, place]
            h = nn.sigmoid(o) * jnp.tanh(c)
            f = nn.sigmoid(forget + times(h, forget_kernel))
            return (states.at[rows, parent].add(h), cells.at[rows, parent].add(f * c)), h

        none = jnp.zeros((*parents.shape, features), jnp.float32)
        nodes = jnp.arange(parents.shape[1]), *(jnp.moveaxis(x, 1, 0) for x in (gates, forget, parents))
        _, states = jax.lax.scan(step, (none, none), nodes)
        return jnp.moveaxis(states, 0, 1)


class NodeAttention(nn.Module):
    """Sums the states of the nodes by weights of label and state (official code: NodeAttentionModule)."""

    label_features: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, tree: Constituents, states: Array) -> Array:
        """Returns [B,F] float32 of the states [B,Z,F]."""
        of_normal = nn.initializers.normal(1.0)
        embed = nn.Embed(len(LABELS), self.label_features, self.dtype, embedding_init=of_normal, name="labels")
        labels = embed(jnp.maximum(tree.labels - 1, 0))
        x = jnp.concatenate([labels, states.astype(self.dtype)], axis=-1)
        logits = torch_linear(1, x, self.dtype, "score")[..., 0]
        return jnp.einsum("bz,bzf->bf", masked_softmax(logits, tree.mask), states)


class SegmentAttention(nn.Module):
    """Multiplies each segment with its probability of being what a text says (official PropAttentionModule)."""

    visual_features: int
    features: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, text: Array, segments: Array, mask: Array) -> Array:
        """Returns [B,M,D] float32 of segments [B,M,D] with mask [B,M] and a text [B,F]."""
        v = nn.relu(
            torch_linear(self.visual_features, segments.astype(self.dtype), self.dtype, "segment_hidden")
        )
        v = torch_linear(self.features, v, self.dtype, "segment")
        t = torch_linear(self.features, text.astype(self.dtype), self.dtype, "text")
        hidden = nn.relu(torch_linear(self.features, l2_normalize(t[:, None] * v), self.dtype, "hidden"))
        logits = torch_linear(1, hidden, self.dtype, "score")[..., 0]
        return masked_softmax(logits, mask)[..., None] * segments


class PairScore(nn.Module):
    """Scores pairs of segments against a text (official code: PairLocationModule)."""

    features: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, text: Array, *parts: Array) -> Array:
        """Returns [B,M,M] float32 of the text [B,F] and pairs, the parts of which are side by side.

        Every part has the axes [B,M,M,D], or 1 in place of an axis along which it does not change: the first
        layer multiplies it before it is repeated.
        """
        width = sum(part.shape[-1] for part in parts)
        kernel = self.param("pair_kernel", torch_default_kernel, (width, self.features)).astype(self.dtype)
        v = self.param("pair_bias", torch_bias(width), (self.features,)).astype(self.dtype)[None, None, None]
        begin = 0
        for part in parts:
            end = begin + part.shape[-1]
            v = v + part.astype(self.dtype) @ kernel[begin:end]
            begin = end
        t = torch_linear(self.features, text.astype(self.dtype), self.dtype, "text")[:, None, None]
        hidden = nn.relu(torch_linear(self.features, l2_normalize(t * v), self.dtype, "hidden"))
        # In float32 whatever the dtype of the layers: these numbers rank the segments.
        return torch_linear(1, hidden.astype(jnp.float32), jnp.float32, "score")[..., 0]


def segments(num_clips: int, max_length: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Returns first and last chunk [M] of all segments, the shortest first, then by their start.

    They have at most `max_length` chunks; 0 for any number.
    """
    first, last = np.triu_indices(num_clips)
    order = np.lexsort((first, last - first))
    first, last = first[order], last[order]
    kept = last - first < (max_length or num_clips)
    return first[kept], last[kept]


def segment_means(rows: Array, first: np.ndarray, last: np.ndarray) -> Array:
    """Returns [B,M,D] float32, the mean of the chunks [B,T,D] of each segment, of unit length."""
    chunk = np.arange(rows.shape[1])
    inside = (chunk >= first[:, None]) & (chunk <= last[:, None])
    shares = jnp.asarray(inside / inside.sum(-1, keepdims=True), jnp.float32)
    return l2_normalize(jnp.einsum("mt,btd->bmd", shares, rows.astype(jnp.float32)))


def endpoints(first: np.ndarray, last: np.ndarray, num_clips: int) -> Array:
    """Returns [M,M,4]: first and last chunk of the main segment, then of the context's, over `num_clips`."""
    ends = np.stack([first, last], axis=-1) / num_clips
    shape = len(ends), len(ends), 2
    pairs = [np.broadcast_to(ends[:, None], shape), np.broadcast_to(ends[None], shape)]
    return jnp.asarray(np.concatenate(pairs, axis=-1), jnp.float32)


def chunks(batch: Batch) -> Array:
    """Returns [B], the number of chunks up to the last that is not all zeros; all real ones where all are."""
    mask = jnp.asarray(batch.video_mask)
    there = mask & jnp.any(batch.video != 0, axis=-1)
    last = jnp.where(there, jnp.arange(1, mask.shape[1] + 1)[None], 0).max(-1)
    return jnp.where(last > 0, last, mask.sum(-1))


def best_context(scores: Array, real: Array) -> Array:
    """Returns [B,M], the score [B,M,M] of each main segment with the best of the real contexts [B,M]."""
    return jnp.where(real[:, None], scores, MASKED).max(-1)
