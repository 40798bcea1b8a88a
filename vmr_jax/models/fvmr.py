"""FVMR: moments are encoded once, and a query is matched with all of them by a dot product.

The video and the sentence meet only in a dot product, so all moments of a video are encoded once, and a
query costs one sentence encoding and one matrix-vector product. In training, a teacher that reads the
semantic role tree of the sentence scores the same moments; its scores are distilled into the dot
product. At test the teacher is gone.

  tensor     shape      meaning                                                   symbol of the paper
  clips      [B,G,F]    clip features, projected and averaged per map clip
  moments    [B,G,G,F]  row = first clip, column = last clip                      m_i, Eq. 1
  sentence   [B,F]      first plus last state of the BiLSTM                       s, Eq. 2
  verbs      [B,V,F]    mean GRU state of the words of a verb                     g^(v), Section 3.2
  nouns      [B,N,F]    mean GRU state of the words of a noun                     g^(n), Section 3.2
  phrases    [B,V,F]    a verb with its nouns                                     h_i, Eq. 4
  u          [B,F]      fine-grained sentence feature                             u, Eq. 5
  p          [B,G,G]    student scores, phi_m(m)^T phi_s(s)                       p_i, Eq. 6
  q          [B,G,G]    teacher scores, phi_fuse(phi_m(m) * phi_u(u))             q_i, Eq. 7

The tree is that of the library's own parser (`vmr_jax.text.parse`: spaCy where an English model is installed,
rules otherwise), the paper's that of a toolkit for semantic role labelling; a user's own trees are read
(data/jsonl). phi_m learns by all losses, phi_s by L_ce(p, y) and the distillation, phi_u and phi_fuse by
L_ce(q, y) alone, since q is fixed where it is imitated.

G is `num_clips`; M of the G x G cells are candidates (the paper's N). F is `features` (D_v = D_s = D_f), E is
`common` (D).

Note that, as Eq. 3 is written, the guidance of the upper level adds the same number to every node of
one level: it cancels in softmax(alpha^(v)), and acts only where verbs and nouns are weighed
together, in Eq. 4.

Ablations of table 5 and figure 3, as fields: 'w/o SD' is `distillation='none'`; 'p + q' is
`score='p+q'`; '+FeatDist' is `feature_distillation=1.0`; D is `common`; BiLSTM layers are
`lstm_layers`. The row 'HGR' is left out: the paper defines it by equation 13 of another paper (Chen et
al., CVPR 2020) and says nothing of the graph network beneath it.

Training of the paper (Section 4.1): Adam, learning rate 2e-4, batch 32, queries cut at 20 words, 4 verbs, 6
nouns.
"""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from vmr_jax.errors import UserError
from vmr_jax.layers import map2d
from vmr_jax.layers.attention import masked_softmax
from vmr_jax.layers.clips import ClipPool
from vmr_jax.layers.corpus import moment_contrast
from vmr_jax.layers.norm import MaskedBatchNorm, l2_normalize
from vmr_jax.layers.recurrent import GRU, LSTM, first_state, last_state
from vmr_jax.layers.text import WordEmbedding
from vmr_jax.losses import binary_cross_entropy, scaled_iou
from vmr_jax.models.base import DualEncoder, GroundingModel
from vmr_jax.models.card import Card
from vmr_jax.types import Array, Batch, Mean, Moments, Tree

CARD = Card(
    title="Fast Video Moment Retrieval",
    authors=("Gao", "Xu"),
    venue="ICCV",
    year=2021,
    family="ranking",
    kind="common space, dual encoder",
    supervision="full",
    features="VGG, I3D, C3D; GloVe; role trees in training",
    equations=(1, 2, 3, 4, 5, 6, 7, 8, 9, 10),
    sections=("3.1", "3.2", "3.3", "4.1"),
    ours=(
        "No official code is known, so no result of this file is a reproduction of the authors' program.",
        "The moment map is 2D-TAN's, which the paper says it follows: linear layer with ReLU, average per map "
        "clip, max-pool over clips (or stacked convolutions, `front_end='conv'`), its set of candidate cells; "
        "other cells are zeroed before every convolution, and batch norm counts candidates of real examples "
        "only.",
        "The clips along the map are 2D-TAN's: 16 on Charades-STA, 64 on ActivityNet Captions, 128 on TACoS.",
        "The BiLSTM has F/2 units per direction, since D_s = 512 (the text says 512 hidden units).",
        "The teacher's GRU is bidirectional, one layer, F/2 units per direction, on the same word vectors; "
        "its nodes, the sentence included, are means of the states of their words.",
        "Word vectors are fixed unless `vocab_size` is given (the paper's initialisation with GloVe may mean "
        "either).",
        "W_top, W_low and W_alpha of Eq. 3 are shared by both levels, as they carry no level index.",
        "A sentence without verbs has u = g^(s).",
        "The MLPs phi are linear, ReLU, linear, with a hidden layer of width E; phi_fuse has ReLU between its "
        "two convolutions, E channels in the first, and the gated one is a(x) * sigmoid(b(x)) with one "
        "channel.",
        "The scores of Eq. 8 pass through a sigmoid, Eq. 9 takes its softmax over the candidates, and the "
        "soft label is clip((o - 0.3) / (0.7 - 0.3), 0, 1) (the text swaps the two thresholds, and its "
        "denominator has a slip).",
        "'p + q' of table 5 is the mean of the two raw scores.",
        "The loss of '+FeatDist' is not given; ours is the squared distance between phi_s(s) and phi_u(u), "
        "both of unit length, with the gradient stopped at u and the same warm-up.",
        "The paper trains on moments of one video at a time, so nothing orders those of several. With "
        "`contrast_weight`, which is 0 unless a config sets it, a sentence also tells its moment from those of "
        "the other videos of the batch.",
        "Recurrent layers start as PyTorch's do, the others as Flax's (LeCun normal, biases 0): with "
        "PyTorch's smaller values the score hardly depends on the query for many epochs. There is no dropout.",
    ),
    verified=(
        "Every equation equals an independent computation.",
        "Every ablation of table 5 and figure 3 but 'HGR' runs.",
        "The contrast equals numbers computed by hand.",
    ),
)


@struct.dataclass
class Outputs:
    """Raw scores of the moment map (meaningless outside the candidates) and the encoded query."""

    p: Array  # [B,G,G] float32, student
    q: Array | None  # [B,G,G] float32, teacher; None where it was not run
    s: Array  # [B,E] float32, phi_s(s), times 1/sqrt(E) with `score_scale`
    u: Array | None  # [B,E] float32, phi_u(u); None where the teacher was not run
    moments: Array | None = None  # [B,M,E] float32, phi_m of the candidates, for the contrast; else None


# Section 3.1: video and text encoders.


class MomentEncoder(nn.Module):
    """Eq. 1: the map of moment features, after two convolutions with batch norm and tanh (Section 4.1)."""

    features: int
    num_clips: int
    scale_layers: tuple[int, ...]
    front_end: str
    kernels: tuple[int, ...]
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, video: Array, video_mask: Array, example_mask: Array, *, train: bool) -> Array:
        """Returns m [B,G,G,F] of clips [B,T,D], zero outside the candidates and in filling rows."""
        cells = map2d.candidate_mask(self.num_clips, self.scale_layers)
        clips = ClipPool(self.features, self.num_clips, dtype=self.dtype, name="clips")(video, video_mask)
        if self.front_end == "conv":
            moments = map2d.StackedConvMap(self.features, self.scale_layers, self.dtype, name="map")(clips)
        else:
            moments = map2d.max_pool_map(clips, cells)
        counted = jnp.asarray(cells)[None] & example_mask[:, None, None]  # [B,G,G]
        for i, kernel in enumerate(self.kernels):
            # Without a bias: batch norm would take it away again.
            moments = nn.Conv(
                self.features,
                (kernel, kernel),
                use_bias=False,
                dtype=self.dtype,
                name=f"conv{i}",
            )(moments)
            # Zero outside the mask, so tanh is too, and the next convolution reads no invalid cell.
            moments = jnp.tanh(MaskedBatchNorm(dtype=self.dtype, name=f"norm{i}")(moments, counted, train))
        return moments


class SentenceEncoder(nn.Module):
    """Eq. 2: a BiLSTM over the words; s = w_1 + w_L."""

    features: int
    layers: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, words: Array, query_mask: Array) -> Array:
        """Returns s [B,F] of word vectors [B,L,W]."""
        states = LSTM(self.features // 2, self.layers, True, self.dtype, name="lstm")(words, query_mask)
        return first_state(states, query_mask) + last_state(states, query_mask)


# Section 3.2: the fine-grained semantic extractor (the teacher's sentence encoder).


class SemanticExtractor(nn.Module):
    """Node features from a BiGRU, phrases by attention along the tree, and u, Eq. 5."""

    features: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, words: Array, query_mask: Array, tree: Tree) -> Array:
        """Returns u [B,F] of word vectors [B,L,W]; g^(s) where the tree has no verb."""
        states = GRU(self.features // 2, 1, True, self.dtype, name="gru")(words, query_mask)
        sentence = node_features(states, query_mask[:, None])[:, 0]
        verbs = node_features(states, tree.verb_words)
        nouns = node_features(states, tree.noun_words)
        phrases = HierarchicalAttention(self.features, self.dtype, name="attention")(
            sentence, verbs, nouns, tree
        )
        count = tree.verb_mask.sum(-1)[:, None]  # [B,1]
        mean = (phrases * tree.verb_mask[..., None]).sum(1) / jnp.maximum(count, 1)
        return jnp.where(count > 0, sentence * mean, sentence)  # Eq. 5


def node_features(states: Array, node_words: Array) -> Array:
    """Returns [B,V,F], the mean state [B,L,F] of the words [B,V,L] of each node; 0 for a node without words."""
    words = node_words.astype(states.dtype)
    total = jnp.einsum("bvl,blf->bvf", words, states)
    return total / jnp.maximum(words.sum(-1, keepdims=True), 1)


class HierarchicalAttention(nn.Module):
    """Hierarchical semantic-guided attention: Eq. 3 weighs nodes under their guide, Eq. 4 adds them up."""

    features: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, sentence: Array, verbs: Array, nouns: Array, tree: Tree) -> Array:
        """Returns phrases h [B,V,F] of g^(s) [B,F], g^(v) [B,V,F] and g^(n) [B,N,F].

        The phrase of a verb that is not real is meaningless.
        """
        chex.assert_equal_shape_prefix([verbs, tree.edges], 2)
        chex.assert_shape(nouns, (*tree.edges.shape[::2], self.features))
        top = self._matrix(self.features, "top")
        low = self._matrix(self.features, "low")
        alpha = self._matrix(1, "alpha")

        def importance(guide: Array, nodes: Array) -> Array:
            """Eq. 3: alpha [B,V] of nodes [B,V,F] under a guide [B,F]."""
            upper = jnp.broadcast_to(top(guide)[:, None], nodes.shape)
            pair = jnp.concatenate([upper, low(nodes)], axis=-1)
            return alpha(jnp.tanh(pair))[..., 0].astype(jnp.float32)

        # (i, j) = (s, v): the sentence is its level's only node, so its own weight is 1.
        verb_scores = importance(sentence, verbs)
        verb_weights = masked_softmax(verb_scores, tree.verb_mask).astype(verbs.dtype)
        # (i, j) = (v, n)
        noun_scores = importance(jnp.einsum("bv,bvf->bf", verb_weights, verbs), nouns)

        # Eq. 4: b_i is a softmax over verb i and the nouns that hang on it.
        own = tree.edges & tree.noun_mask[:, None]
        scores = jnp.broadcast_to(noun_scores[:, None], own.shape)
        scores = jnp.concatenate([verb_scores[..., None], scores], axis=-1)
        real = jnp.concatenate([tree.verb_mask[..., None], own], axis=-1)
        b = masked_softmax(scores, real).astype(verbs.dtype)  # [B,V,1+N]
        return b[..., :1] * verbs + jnp.einsum("bvn,bnf->bvf", b[..., 1:], nouns)

    def _matrix(self, features: int, name: str) -> nn.Dense:
        return nn.Dense(features, use_bias=False, dtype=self.dtype, name=name)


# Section 3.3: the moment-query common space.


class Projection(nn.Module):
    """phi_m, phi_s, phi_u: an MLP with one hidden layer, both layers E wide."""

    features: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Returns [...,E] of [...,F]."""
        for i in range(2):
            x = nn.relu(x) if i else x
            x = nn.Dense(
                self.features,
                dtype=self.dtype,
                name=f"linear{i}",
            )(x)
        return x


class Fusion(nn.Module):
    """phi_fuse of Eq. 7: a convolution and a gated convolution (Yu et al., ICCV 2019) to one channel."""

    features: int
    kernels: tuple[int, int]
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, fused: Array, cells: np.ndarray) -> Array:
        """Returns q [B,G,G] float32 of fused features [B,G,G,E]; `cells` [G,G] are the candidates."""
        valid = jnp.asarray(cells, fused.dtype)[None, :, :, None]
        hidden = nn.relu(self._conv(self.features, self.kernels[0], fused * valid, "conv"))
        # Both halves of the gated convolution, content and gate, are one convolution of two channels.
        content, gate = jnp.moveaxis(self._conv(2, self.kernels[1], hidden * valid, "gated"), -1, 0)
        return content.astype(jnp.float32) * nn.sigmoid(gate.astype(jnp.float32))

    def _conv(self, features: int, kernel: int, x: Array, name: str) -> Array:
        return nn.Conv(
            features,
            (kernel, kernel),
            dtype=self.dtype,
            name=name,
        )(x)


class Model(GroundingModel, DualEncoder):
    """FVMR, with the settings of Section 4.1 for Charades-STA; our choices are in `CARD.ours`.

    Attributes:
      features: F, width of the layers of both encoders (D_v = D_s = D_f in the paper); even.
      common: E, width of the common space (D in the paper, figure 3a).
      num_clips: G, number of clips along each side of the moment map; the T clips of a video are a multiple of
        it.
      scale_layers: diagonals of the map that hold candidates, by scale (2D-TAN): (16,) for 16 clips,
        (16, 8, 8) for 64, (16, 8, 8, 8) for 128.
      front_end: how a cell pools its clips: 'pool' (maximum) or 'conv' (stacked convolutions).
      map_kernels: side of the kernel of each convolution of the video encoder, in cells.
      fuse_kernels: side of the kernels of the plain and of the gated convolution of the teacher, in cells.
      vocab_size: number of words whose vectors are fine-tuned; 0 keeps the word vectors of the batch fixed.
      lstm_layers: number of layers of the text encoder's BiLSTM (figure 3b).
      teacher: 'tree', or 'none' for the student alone, trained by L_ce(p, y).
      distillation: 'bce' (Eq. 8 on softmaxed scores, as Eq. 9), 'cross_entropy' (between the two
        softmaxes; ours), or 'none' ('w/o SD': the teacher is trained but not imitated).
      feature_distillation: weight of the loss '+FeatDist'; 0 leaves it out.
      distillation_weight: weight of the distillation loss (lambda of Eq. 10).
      temperature: temperature of both softmaxes (T of Eq. 9).
      warmup_epochs: number of first epochs in which nothing is distilled.
      contrast_weight: weight of the contrast between videos, which is ours; 0 leaves it out, as the paper does.
      iou_low: IoU below which a candidate has the label 0 (o_min).
      iou_high: IoU above which a candidate has the label 1 (o_max).
      score: score that ranks the moments at test: 'p', or 'p+q', their mean, which needs the tree at test.
      score_scale: whether p is divided by sqrt(E); the paper takes the raw dot product.
      keep: number of moments that `predict` returns; 0 for all candidates.
      dtype: number format of the layers; parameters, scores and losses are float32.
    """

    features: int = 512
    common: int = 512
    num_clips: int = 16
    scale_layers: tuple[int, ...] = (16,)
    front_end: str = "pool"
    map_kernels: tuple[int, ...] = (5, 3)
    fuse_kernels: tuple[int, int] = (3, 9)
    vocab_size: int = 0
    lstm_layers: int = 2
    teacher: str = "tree"
    distillation: str = "bce"
    feature_distillation: float = 0.0
    distillation_weight: float = 3.0
    temperature: float = 1.0
    warmup_epochs: int = 8
    contrast_weight: float = 0.0
    iou_low: float = 0.3
    iou_high: float = 0.7
    score: str = "p"
    score_scale: bool = False
    keep: int = 0
    dtype: jnp.dtype = jnp.float32

    choices = {
        "front_end": ("pool", "conv"),
        "teacher": ("tree", "none"),
        "distillation": ("bce", "cross_entropy", "none"),
        "score": ("p", "p+q"),
    }

    def setup(self):
        """Names the parts; raises UserError for settings that contradict each other."""
        self._check_fields()
        self.words = WordEmbedding(self.vocab_size, self.dtype)
        self.moment_encoder = MomentEncoder(
            self.features, self.num_clips, self.scale_layers, self.front_end, self.map_kernels, self.dtype
        )
        self.sentence_encoder = SentenceEncoder(self.features, self.lstm_layers, self.dtype)
        self.phi_m = Projection(self.common, self.dtype)
        self.phi_s = Projection(self.common, self.dtype)
        if self.teacher == "tree":
            self.semantic_extractor = SemanticExtractor(self.features, self.dtype)
            self.phi_u = Projection(self.common, self.dtype)
            self.phi_fuse = Fusion(self.common, self.fuse_kernels, self.dtype)

    def __call__(self, batch: Batch, *, train: bool) -> Outputs:
        """Scores every cell; runs the teacher in training, and at test if it has a say in the score."""
        batch.check()
        moments = self.phi_m(self._moments(batch, train))
        s = self.encode_query(batch)
        # Eq. 6, in full float32 (TPUs round by default): these numbers rank the moments.
        p = jnp.einsum("bije,be->bij", moments.astype(jnp.float32), s, precision="highest")
        chex.assert_shape(p, (batch.size, self.num_clips, self.num_clips))
        contrasted = None
        if train and self.contrast_weight:
            contrasted = self._candidates(moments.astype(jnp.float32))
        if self.teacher == "none" or not (train or self.score == "p+q"):
            return Outputs(p=p, q=None, s=s, u=None, moments=contrasted)
        if batch.tree is None:
            raise UserError(
                "FVMR's teacher needs the semantic role tree of every query, and this batch has none. Use "
                "a dataset with trees, or set teacher='none' (and score='p')."
            )
        u = self.phi_u(self.semantic_extractor(self.words(batch), batch.query_mask, batch.tree))
        q = self.phi_fuse(moments * u[:, None, None], self._cells())  # Eq. 7
        return Outputs(p=p, q=q, s=s, u=u.astype(jnp.float32), moments=contrasted)

    def encode_moments(self, batch: Batch) -> tuple[Array, Array, Array]:
        """Returns phi_m of the M candidates: vectors [B,M,E], spans [B,M,2] in seconds, mask [B,M].

        Reads the video, its mask and its duration. Filling rows of the batch have an all-False mask.
        """
        rows, columns = np.nonzero(self._cells())
        vectors = self.phi_m(self._moments(batch, train=False)[:, rows, columns])
        spans = map2d.cell_spans(self.num_clips, batch.duration)[:, rows, columns]
        mask = jnp.broadcast_to(batch.example_mask[:, None], spans.shape[:2])
        return vectors.astype(jnp.float32), spans, mask

    def encode_query(self, batch: Batch) -> Array:
        """Returns phi_s(s) [B,E] of the words alone: its dot product with a moment's vector is p (Eq. 6)."""
        chex.assert_equal_shape_prefix([batch.query_vectors, batch.query_mask], 2)
        s = self.phi_s(self.sentence_encoder(self.words(batch), batch.query_mask)).astype(jnp.float32)
        return s / self.common**0.5 if self.score_scale else s

    def loss(self, outputs: Outputs, batch: Batch, *, epoch: Array) -> dict[str, Mean]:
        """Returns the terms of Eq. 10, 'student', 'teacher' and 'distillation'.

        Where they have a weight also 'feature_distillation' and 'contrast'.
        """
        # Epoch 0 is the first: with 8 epochs of warm-up, epoch 8 is the first with distillation.
        after_warmup = jnp.where(epoch >= self.warmup_epochs, 1.0, 0.0)
        overlap = map2d.iou_map(self.num_clips, batch.span, batch.duration)
        y = self._candidates(scaled_iou(overlap, self.iou_low, self.iou_high))  # soft labels, Section 3.3
        p = self._candidates(outputs.p)
        real = jnp.broadcast_to(batch.example_mask[:, None], y.shape)
        terms = {"student": Mean.of(binary_cross_entropy(p, y), real)}  # Eq. 8, L_ce(p, y)
        if outputs.moments is not None:
            moment, query = moment_contrast(outputs.moments, outputs.s, p, y, batch)
            terms["contrast"] = Mean.of((moment + query) / 2, batch.example_mask, self.contrast_weight)
        if outputs.q is None:
            return terms
        q = self._candidates(outputs.q)
        terms["teacher"] = Mean.of(binary_cross_entropy(q, y), real)  # L_ce(q, y)
        if self.distillation != "none":
            weight = self.distillation_weight * after_warmup  # lambda
            terms["distillation"] = self._distillation(p, jax.lax.stop_gradient(q), real, weight)
        if self.feature_distillation:
            weight = self.feature_distillation * after_warmup
            gap = l2_normalize(outputs.s) - l2_normalize(jax.lax.stop_gradient(outputs.u))
            terms["feature_distillation"] = Mean.of((gap**2).sum(-1), batch.example_mask, weight)
        return terms

    def predict(self, outputs: Outputs, batch: Batch) -> Moments:
        """Returns all candidates (or the `keep` best), best first; cell (a,b) is clips a to b, both in."""
        return map2d.rank_cells(self._score(outputs), self._cells(), batch.duration, self.keep)

    def requires(self) -> tuple[str, ...]:
        """Names the tree, where there is a teacher. Indexing and searching with 'p' does not read it."""
        return ("tree",) if self.teacher == "tree" else ()

    def explain(self, outputs: Outputs, batch: Batch) -> dict[str, Array]:
        """Returns 'map' [B,G,G], the scores as probabilities, NaN outside the candidates."""
        score = self._score(outputs)
        valid = jnp.broadcast_to(jnp.asarray(self._cells())[None], score.shape)
        return {"map": jnp.where(valid, nn.sigmoid(score), jnp.nan)}

    def _moments(self, batch: Batch, train: bool) -> Array:
        return self.moment_encoder(batch.video, batch.video_mask, batch.example_mask, train=train)

    def _cells(self) -> np.ndarray:
        """Returns [G,G] bool, the candidates."""
        return map2d.candidate_mask(self.num_clips, self.scale_layers)

    def _candidates(self, cells: Array) -> Array:
        """Returns [B,M,...], the candidates of cells [B,G,G,...]."""
        rows, columns = np.nonzero(self._cells())
        return cells[:, rows, columns]

    def _score(self, outputs: Outputs) -> Array:
        return outputs.p if self.score == "p" else (outputs.p + outputs.q) / 2

    def _distillation(self, p: Array, q: Array, real: Array, weight: Array) -> Mean:
        """Returns Eq. 9 of student scores p [B,M] and fixed teacher scores q [B,M]."""
        log_p, log_not_p = log_softmax_pair(p / self.temperature)
        log_q, log_not_q = log_softmax_pair(q / self.temperature)
        if self.distillation == "cross_entropy":
            return Mean.of(-(jnp.exp(log_q) * log_p).sum(-1), real[:, 0], weight)
        return Mean.of(-jnp.exp(log_q) * log_p - jnp.exp(log_not_q) * log_not_p, real, weight)

    def _check_fields(self) -> None:
        if self.features % 2:
            raise UserError(
                f"features of FVMR is {self.features}; it must be even, half for each direction of the "
                "recurrent networks."
            )
        if self.teacher == "none" and (self.score == "p+q" or self.feature_distillation):
            raise UserError(
                "score='p+q' and feature_distillation of FVMR need the teacher, and teacher is 'none'. Set "
                "teacher='tree', or score='p' and feature_distillation=0."
            )


def log_softmax_pair(x: Array) -> tuple[Array, Array]:
    """Returns the logarithms of softmax(x) and of 1 - softmax(x), [B,M] of x [B,M], M > 1.

    Finite for any finite x: where a probability rounds to 1, its complement is the sum of the other cells.
    """
    total = jax.nn.logsumexp(x, axis=-1, keepdims=True)
    log_p = x - total
    best = jax.nn.one_hot(x.argmax(-1), x.shape[-1], dtype=bool)
    others = jax.nn.logsumexp(jnp.where(best, -jnp.inf, x), axis=-1, keepdims=True)
    # Every cell but the best has a probability of at most 1/2, where log1p is exact.
    log_not_p = jnp.log1p(-jnp.exp(jnp.where(best, -jnp.inf, log_p)))
    return log_p, jnp.where(best, others - total, log_not_p)
