"""DORi: clips, people and things tell each other what they are for the query; both ends are read off the clips.

Tensors (F = `features`, E = `recurrent_features`; the names of the official code at the right):

    batch.video    [B,T,D]     feature rows, not normalised; all rows of a video
    batch.objects  [B,T,O,D]   vectors of the regions that a detector found in a frame of each row
    batch.persons  [B,T,O]     which of them are people; the others are things
    words          [B,L,2E]    bidirectional GRU over the words                        factor_query
    nodes          [B,2E]      three query nodes, of human and thing, clip and thing, clip and human: words by
                               their attention                                         nodeQueryHO, VO, VH
    clip           [B,T,F]     node of the activity, tanh of a linear layer at first   nodeVideo
    human          [B,T,O,F]   node of each region that is a person                    nodeHuman
    thing          [B,T,O,F]   node of each other region                               nodeObject
    attention      [B,T]       softmax of a linear layer on the clip / sqrt(number of words)
    states         [B,T,2E]    two-layer bidirectional GRU over the clips              rnn_localization
    start, end     [B,T]       logits of the first and of the last clip                starting, ending

In each of `iterations` rounds the clips read both kinds of regions, then things read humans and the new clips,
then humans read the new things and clips. Labels, losses and moments are TMLGA's (`layers.guided_ends`).
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from vmr_jax.errors import UserError
from vmr_jax.layers.attention import masked_softmax
from vmr_jax.layers.guided_ends import GuidedEnds, GuidedLocalizer, read_ends, word_scaled
from vmr_jax.layers.init import symmetric_uniform
from vmr_jax.layers.linear import torch_dense, torch_linear
from vmr_jax.layers.recurrent import GRU, mean_state
from vmr_jax.layers.text import WordEmbedding
from vmr_jax.models.base import GroundingModel
from vmr_jax.models.card import Card
from vmr_jax.parallel import gather_examples
from vmr_jax.types import Batch

CARD = Card(
    title=(
        "DORi: Discovering Object Relationships for Moment Localization of a Natural Language Query in a Video"
    ),
    authors=("Rodriguez-Opazo", "Marrese-Taylor", "Fernando", "Li", "Gould"),
    venue="WACV",
    year=2021,
    family="span",
    kind="graph of activity, people and things",
    supervision="full",
    features="I3D; Faster R-CNN of Visual Genome; GloVe",
    official_code="crodriguezo/DORi@ba22c6d20d0c (PyTorch)",
    ours=(
        "Sums over people and over things run over those that there are. The official ones run over zero "
        "vectors too, as many as fill every clip up to the most regions of their kind that a clip of the batch "
        "has: the result of a query depends on what stands beside it (`official_padding`).",
        "Pairs of a start and an end that is not before it are ranked by the product of their probabilities; "
        "the official program takes the best of each for itself (`independent_ends`).",
        "The softmax is over the real clips; the official one takes padded clips for zeros and divides by what "
        "is left.",
        "Of a video with more rows than config.input.num_clips rows at equal distances are read, with their "
        "regions; the official program reads all, and all regions of a frame, here as many as "
        "config.dataset.streams says.",
        "Words are split as GloVe's are; words without a vector are zero, where the official program has fixed "
        "random ones.",
        "The L2 term is in the gradient when that is clipped; the official program adds it behind.",
        "The official loader of ActivityNet Captions reads no regions, so that its published run cannot be "
        "repeated with it; what is set for other datasets than Charades-STA is ours.",
    ),
    verified=(
        "10,865,155 parameters with I3D features, as in the official code, of which 462,336 are in layers "
        "that it builds and does not use.",
        "Against the official code at this commit, running, at its sizes, with random weights of two sizes, "
        "three rounds without biases of the last GRU and two with them, six real moments of ragged length in "
        "one batch and made-up detections of 0 to 6 regions a frame: rows, regions, people and labels are the "
        "same; with `official_padding` probabilities of start and end agree to 6e-7 of their size, attention "
        "to 9e-7, the objective to 2e-7, gradients to 3e-6, and the best moment where the start is before the "
        "end. Empty slots beyond change that by 5e-7.",
        "Where every clip has as many people and as many things, the default equals the official code as "
        "closely. Elsewhere the official probabilities of a start alone and in this batch differ by 0.4% of "
        "their size, with the larger weights by up to 19% from ours.",
        "Outputs, losses and gradients equal those of a PyTorch reference to 1e-4.",
        "Whole models, as the official program saves them, are imported.",
    ),
)

Outputs = GuidedEnds

# Pairs of nodes, each with a query node of its own: the official heads 1, 2 and 3.
_PAIRS = ("human_thing", "clip_thing", "clip_human")


class Joined(nn.Module):
    """A linear layer on two vectors side by side, which starts as torch.nn.Linear.

    Parameters: kernel, whose first rows are those of the first vector, and bias.

    Attributes:
      features: F, width of the result.
      dtype: number format of the products and of the result.
    """

    features: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, first: jax.Array, second: jax.Array) -> jax.Array:
        """Maps two arrays of any widths, whose other axes are broadcast, to [...,F]; neither is repeated."""
        width = first.shape[-1]
        inputs = width + second.shape[-1]
        uniform = symmetric_uniform(1 / math.sqrt(inputs))
        kernel = self.param("kernel", uniform, (inputs, self.features)).astype(self.dtype)
        bias = self.param("bias", uniform, (self.features,)).astype(self.dtype)
        joined = first.astype(self.dtype) @ kernel[:width] + second.astype(self.dtype) @ kernel[width:]
        return joined + jnp.expand_dims(bias, range(joined.ndim - 1))


class Model(GuidedLocalizer, GroundingModel):
    """DORi, with the settings of the official code for Charades-STA.

    Attributes:
      features: F, width of the nodes.
      recurrent_features: E, units of both GRUs in each direction.
      key_features: width in which a query node looks for its words.
      iterations: rounds of messages (2 on ActivityNet Captions and YouCookII).
      recurrent_layers: number of layers of the GRU over the clips.
      use_bias: whether that GRU has biases.
      attention_weight: weight of the loss of the attention, 0 leaves it out.
      dropout: dropout rate between the layers of the GRU over the clips.
      official_padding: whether sums over regions run over zero vectors too, up to the most regions of a kind in
        a clip of the batch (the official code), or over the regions that there are.
      independent_ends: whether the moment is that of the best start and the best end, each for itself, as the
        official program has it: one moment a query, empty where the end comes first. False ranks pairs of a
        start and an end that is not before it, by the product of both probabilities.
      keep: number of moments that `predict` ranks, 0 for all pairs of clips.
      longest_share: length of the longest moment that is ranked, as a share of the video (ours; 1 ranks all).
      vocab_size: number of words whose vectors are fine-tuned, 0 to keep them (the paper's).
      dtype: number format of the layers; parameters, attention, logits and losses are float32.
    """

    features: int = 512
    recurrent_features: int = 256
    key_features: int = 256
    iterations: int = 3
    recurrent_layers: int = 2
    use_bias: bool = False
    attention_weight: float = 1.0
    dropout: float = 0.5
    official_padding: bool = False
    independent_ends: bool = False
    keep: int = 100
    longest_share: float = 1.0
    vocab_size: int = 0
    dtype: jnp.dtype = jnp.float32

    positive = ("recurrent_layers", "iterations")
    of_evaluation = ("longest_share",)

    @nn.compact
    def __call__(self, batch: Batch, *, train: bool) -> Outputs:
        """Scores every clip as start and as end."""
        batch.check()
        clips = self._graph(batch, self._query_nodes(batch))
        fit = word_scaled(torch_linear(1, clips, self.dtype, "attention")[..., 0], batch.query_mask)
        start, end = read_ends(
            clips,
            batch,
            train,
            features=self.recurrent_features,
            layers=self.recurrent_layers,
            use_bias=self.use_bias,
            dropout=self.dropout,
            dtype=self.dtype,
        )
        return Outputs(start=start, end=end, attention=masked_softmax(fit, batch.video_mask))

    def requires(self) -> tuple[str, ...]:
        """Names the regions, and which of them are people."""
        return ("objects", "persons")

    def _query_nodes(self, batch: Batch) -> dict[str, jax.Array]:
        """Returns [B,2E] for each of `_PAIRS`: the words that count for such a pair."""
        embedded = WordEmbedding(self.vocab_size, self.dtype, name="words")(batch)
        read = GRU(self.recurrent_features, bidirectional=True, dtype=self.dtype, name="query_gru")
        words = read(embedded, batch.query_mask)
        sentence = jnp.tanh(mean_state(words, batch.query_mask))

        def node(pair: str) -> jax.Array:
            # Products are not scaled, and values are the words themselves (official `SpatialGraph.forward`).
            query = torch_linear(self.key_features, sentence, self.dtype, f"{pair}_query")
            keys = torch_linear(self.key_features, embedded, self.dtype, f"{pair}_key")
            weights = masked_softmax(jnp.einsum("bf,blf->bl", query, keys), batch.query_mask)
            return jnp.einsum("bl,blf->bf", weights.astype(self.dtype), words)

        return {pair: node(pair) for pair in _PAIRS}

    def _graph(self, batch: Batch, query: dict[str, jax.Array]) -> jax.Array:
        """Returns the clips [B,T,F] after all rounds of messages, from the three query nodes."""
        if batch.objects is None or batch.object_mask is None or batch.persons is None:
            raise UserError("dori reads batch.objects, and batch.persons, which of them are people. Give both.")
        kinds = {"human": batch.object_mask & batch.persons, "thing": batch.object_mask & ~batch.persons}
        weights = {kind: self._weights(batch, mask).astype(self.dtype) for kind, mask in kinds.items()}
        seen = {kind: jnp.where(mask[..., None], batch.objects, 0.0) for kind, mask in kinds.items()}
        seen["clip"] = batch.video
        first = {kind: jnp.tanh(torch_linear(self.features, x, self.dtype, kind)) for kind, x in seen.items()}
        speak = {kind: Joined(self.features, self.dtype, name=f"{kind}_message") for kind in first}
        pairs = {pair: Joined(self.features, self.dtype, name=f"{pair}_pair") for pair in _PAIRS}
        update = {
            kind: torch_dense(self.features, self.features, self.dtype, f"{kind}_update") for kind in first
        }
        node = dict(first)

        def message(pair: str, kind: str) -> jax.Array:
            """The message of a node to the other of a pair, from it and the query node of that pair."""
            asked = query[pair][:, None] if kind == "clip" else query[pair][:, None, None]
            return speak[kind](asked, node[kind])

        def all_of(pair: str, kind: str) -> jax.Array:
            """[B,T,F], the sum over the regions of a kind."""
            return (weights[kind][..., None] * message(pair, kind)).sum(2)

        def updated(kind: str, one: jax.Array, other: jax.Array) -> jax.Array:
            return nn.relu(update[kind](one * other) * first[kind])

        for _ in range(self.iterations):
            node["clip"] = updated(
                "clip",
                pairs["clip_human"](message("clip_human", "clip"), all_of("clip_human", "human")),
                pairs["clip_thing"](message("clip_thing", "clip"), all_of("clip_thing", "thing")),
            )
            for kind, other in (("thing", "human"), ("human", "thing")):
                pair = f"clip_{kind}"
                node[kind] = updated(
                    kind,
                    pairs["human_thing"](
                        message("human_thing", kind), all_of("human_thing", other)[:, :, None]
                    ),
                    pairs[pair](message(pair, kind), message(pair, "clip")[:, :, None]),
                )
        return node["clip"]

    def _weights(self, batch: Batch, mask: jax.Array) -> jax.Array:
        """Returns [B,T,O] float32, how often each region counts in the sums over those of a mask [B,T,O].

        With `official_padding` those that are not of the mask, which are all the same, stand together for the
        zero vectors that fill a clip up.
        """
        weights = mask.astype(jnp.float32)
        if not self.official_padding:
            return weights
        there = mask.sum(2)
        most = gather_examples(jnp.where(batch.example_mask[:, None], there, 0)).max()
        filling = (most - there) / jnp.maximum(mask.shape[2] - there, 1)
        return jnp.where(mask, weights, filling[..., None])
