"""MMN: moments and sentences meet only in a cosine, trained against the negatives of the whole batch.

The candidate moments of a video and a sentence are unit vectors in two joint spaces. In the IoU space the
cosine is trained to tell the overlap with the described moment, by cross-entropy; in the contrastive space the
described moment and its sentence are told from all other moments and sentences of the batch ("mutual
matching"). A candidate is ranked by the product of its scores in both, the contrastive one to a power
(`score_power`).

Tensors (U videos of the batch, B = U J rows, J = `queries_per_video`; G = `num_clips`; M candidates in
row-major order of the map; Z = `positives`; E = `space`; F, the width of an encoder, is `features` for the
video and `text_features` for the sentence; T is a multiple of G, officially 2, 4 and 2 times):

    batch.video  [B,T,D]    clip features, rows L2-normalised
    clips        [U,G,F]    linear layer, ReLU, mean over T / G rows             `FeatAvgPool`
    proposals    [U,M,F]    maximum over the clips of each candidate             `SparseMaxPool`
    context      [U,M,F]    several convolutions with batch norm and ReLU        `ProposalConv`
    moments      2 [U,M,E]  unit vectors of either space, a linear layer each    `map2d_iou`, `map2d`
    sentence     [B,F]      layer norm of DistilBERT's mean last state           `DistilBert`
    sentences    2 [B,E]    unit vectors of either space, a linear layer each    `sent_feat_iou`, `sent_feat`
    iou_logits   [B,M]      10 times the cosine in the IoU space                 a logit of `iou_scores`
    contrast     [B,M]      cosine in the contrastive space                      `contrastive_scores`

A training example of the paper is a video with all its sentences: the rows of a training batch come in groups
of J of one video (missing ones filled up), and its map is computed once. In evaluation J = 1. A video that
comes twice in a batch counts once as a source of negatives either way.

The settings of the official code (its folder `configs`; F = 512, E = 256, temperature 0.1 in all):

    dataset               scale_layers    map_kernel, map_layers  iou_low, iou_high  positives  score_power
    Charades-STA          (16,)           5, 8                    0.5, 1.0           1          0.5
    ActivityNet Captions  (16, 8, 8)      9, 4                    0.5, 1.0           1          0.5
    TACoS                 (16, 8, 8, 8)   5, 8                    0.3, 0.7           3          0.3

and num_clips 16, 64, 128; margin 0.4, 0.3, 0.1; contrast_weight 0.05, 0.1, 0.1; contrast_epochs 7, 6, 100;
NMS 0.5, 0.5, 0.4.
"""

import dataclasses

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from vmr_jax.errors import UserError
from vmr_jax.layers import injection, map2d
from vmr_jax.layers.attention import MASKED
from vmr_jax.layers.clips import ClipPool
from vmr_jax.layers.distilbert import DistilBert
from vmr_jax.layers.linear import torch_linear
from vmr_jax.layers.map2d import MapConvs, candidate_mask, candidate_spans, iou_map, max_pool_map
from vmr_jax.layers.norm import l2_normalize
from vmr_jax.layers.recurrent import mean_state
from vmr_jax.layers.sentence import MeanState
from vmr_jax.layers.text import WordEmbedding
from vmr_jax.losses import binary_cross_entropy, scaled_iou
from vmr_jax.models.base import DualEncoder, GroundingModel
from vmr_jax.models.card import Card
from vmr_jax.moments import iou
from vmr_jax.parallel import gather_examples
from vmr_jax.types import Array, Batch, Mean, Moments

CARD = Card(
    title="Negative Sample Matters: A Renaissance of Metric Learning for Temporal Grounding",
    authors=("Wang", "Wang", "Wu", "Li", "Wu"),
    venue="AAAI",
    year=2022,
    family="ranking",
    kind="2D map, metric learning (dual encoder)",
    supervision="full",
    features="VGG, C3D; DistilBERT",
    official_code="MCG-NJU/MMN@e694e69d218a (PyTorch)",
    ours=(
        "Negatives and batch-norm statistics come from all devices, not from one GPU's share, so that nothing "
        "depends on the number of devices.",
        "With text='glove', word vectors, a bidirectional LSTM and the mean of its states take DistilBERT's "
        "place.",
        "The official code's map of convolutions, which none of its configs uses, is left out.",
        "The injections of VDI (Luo et al., CVPR 2023) are an option, off by default; the sentence that they "
        "train is that behind the layer norm. With the paper's weights they harm it on storyboard: after 3 "
        "epochs R@1,IoU=0.5 is 32.94 with them and 35.99 without, on the validation split 30.63 and 36.71.",
        "Ties: of equal overlaps the earlier candidate is the positive (official: torch.topk, any; 6e-4 of the "
        "contrast), and one equal to NMS's threshold is kept (official: as rounded; 3 lists of 9 differed).",
    ),
    verified=(
        "Checkpoints of the official code are imported.",
        "Against the official code at this commit, running, with random weights and 1 to 3 sentences a video: "
        "rows to 1e-7, scores to 1e-6, loss terms to 5e-7, gradients to 3e-6, and the ranked moments.",
        "Scores, losses, gradients and running statistics equal those of a PyTorch reference with DistilBERT.",
        "Both terms of the contrast equal numbers computed by hand, and are the same on one and on four "
        "devices.",
    ),
)
_EPSILON = 1e-6  # under the logarithm of the sentence term (official `ContrastiveLoss`)


@struct.dataclass
class Outputs:
    """Every sentence against the candidates of its video, and the vectors that the contrast needs. float32."""

    iou_logits: Array  # [B,M] cosine in the IoU space, scaled; a logit
    contrast: Array  # [B,M] cosine in the contrastive space
    moments: Array  # [U,M,E] unit vectors of the contrastive space
    sentences: Array  # [B,E] unit vectors of the contrastive space
    injected: injection.Injected | None = None  # of VDI's injections; at test None


# Encoders.


class JointSpaces(nn.Module):
    """Two linear layers into the joint spaces, 'iou' and 'contrast', each followed by L2 normalisation.

    Attributes:
      features: E, width of both spaces.
      dtype: number format of the linear layers; the result is float32.
    """

    features: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> tuple[Array, Array]:
        """Maps [...,F] to unit vectors [...,E] of the IoU space and of the contrastive space."""

        def head(name):
            return l2_normalize(torch_linear(self.features, x, self.dtype, name).astype(jnp.float32))

        return head("iou"), head("contrast")


class MomentMap(nn.Module):
    """The candidates of a video in both joint spaces (official `SparseMaxPool` and `ProposalConv`).

    Attributes:
      num_clips: G, number of clips along each side of the map.
      scale_layers: which moments are candidates, see `vmr_jax.layers.map2d.candidate_layers`.
      features: F, width of the convolutions.
      kernel: kernel size of the convolutions.
      layers: number of convolutions.
      space: E, width of both joint spaces.
      dtype: number format of the layers; the result is float32.
    """

    num_clips: int
    scale_layers: tuple[int, ...]
    features: int
    kernel: int
    layers: int
    space: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, clips: Array, real: Array, train: bool) -> tuple[Array, Array]:
        """Maps clips [U,G,D], and which videos are real [U], to [U,M,E] of either space."""
        candidates = candidate_mask(self.num_clips, self.scale_layers)
        convs = MapConvs(self.features, self.kernel, self.layers, self.dtype, norm=True, name="convs")
        context = convs(max_pool_map(clips, candidates), candidates, real, train)
        rows, columns = np.nonzero(candidates)
        return JointSpaces(self.space, self.dtype, name="spaces")(context[:, rows, columns])


def first_of_video(x: Array, sentences: int) -> Array:
    """Returns [U,...], the first of every J = `sentences` rows of [B,...]; UserError if J does not divide B."""
    if x.shape[0] % sentences:
        raise UserError(
            f"A device has {x.shape[0]} rows of the batch, which videos with {sentences} queries each cannot "
            "share equally. Let config.batch_size be a multiple of config.input.queries_per_video times the "
            "number of devices, and config.model.queries_per_video equal to config.input.queries_per_video."
        )
    return x[::sentences]


def match(moments: tuple[Array, Array], sentences: tuple[Array, Array], iou_scale: float) -> Outputs:
    """Compares the candidates of U videos, [U,M,E], with the sentences of the same videos, [B,E].

    Each is a pair: unit vectors of the IoU space and of the contrastive space.
    """

    def cosine(moments, sentences):
        chex.assert_equal(moments.shape[-1], sentences.shape[-1])
        grouped = sentences.reshape(moments.shape[0], -1, sentences.shape[-1])
        # In full float32 (TPUs round by default): these numbers rank the moments.
        cosine = jnp.einsum("ume,uje->ujm", moments, grouped, precision="highest")
        return cosine.reshape(sentences.shape[0], moments.shape[1])

    iou_cosine, contrast = (cosine(m, s) for m, s in zip(moments, sentences, strict=True))
    return Outputs(iou_scale * iou_cosine, contrast, moments[1], sentences[1])


# Losses.


def overlaps(candidates: np.ndarray, batch: Batch) -> Array:
    """Returns [B,M], the IoU of every one of the candidates [G,G] with the described moment."""
    rows, columns = np.nonzero(candidates)
    return iou_map(len(candidates), batch.span, batch.duration)[:, rows, columns]


def overlap_loss(outputs: Outputs, overlap: Array, batch: Batch, low: float, high: float) -> Mean:
    """Cross-entropy of every candidate with its scaled IoU (`BceLoss`); `overlap` [B,M] is the IoU."""
    counted = jnp.broadcast_to(batch.example_mask[:, None], overlap.shape)
    return Mean.of(binary_cross_entropy(outputs.iou_logits, scaled_iou(overlap, low, high)), counted)


def contrast_losses(
    outputs: Outputs,
    overlap: Array,
    batch: Batch,
    *,
    positives: int,
    margin: float,
    temperature: float,
    negative_iou: float,
    same_iou: float,
    weight: Array | float,
) -> tuple[Mean, Mean]:
    """The two cross-entropies of mutual matching, over all devices (`ContrastiveLoss`: loss_vid, loss_sent).

    The positive pairs of a sentence are the Z candidates of highest IoU. From the cosine of a positive pair
    `margin` is taken away, in numerator and denominator.

    - Moment: its sentence among all sentences. Those of the same video whose moment has an IoU of `same_iou` or
      more with that of the sentence are left out.
    - Sentence: its moment among all candidates of all videos. A candidate of the same video whose IoU is
      `negative_iou` or more has a cosine of 0 there (so does the official code; it still counts exp(0)).

    Args:
      outputs: outputs of the local rows.
      overlap: [B,M] IoU of the candidates with the described moment.
      batch: the local rows.
      positives: Z; this and the next four are fields of `MutualMatching`.
      margin: difference of cosines.
      temperature: divisor of all cosines.
      negative_iou: IoU from which on a candidate of the same video is no negative.
      same_iou: IoU from which on a sentence of the same video is no negative.
      weight: weight of both terms.

    Returns:
      The means over sentences and positives: moment, sentence.
    """
    best = jax.lax.top_k(overlap, positives)[1]  # [B,Z]
    positive = (jnp.take_along_axis(outputs.contrast, best, axis=1) - margin) / temperature
    counted = jnp.broadcast_to(batch.example_mask[:, None], best.shape)
    moment = _all_sentences(outputs, best, batch, margin, same_iou) / temperature
    negatives = jnp.where(overlap < negative_iou, outputs.contrast, 0.0)
    others, other_mask = _other_videos(outputs, batch)
    sentence = jnp.concatenate([negatives, others], axis=1) / temperature
    mask = jnp.concatenate([jnp.ones(negatives.shape, bool), other_mask], axis=1)
    total = jax.nn.logsumexp(jnp.where(mask, sentence, MASKED), axis=1)
    total = jnp.logaddexp(jnp.logaddexp(total[:, None], positive), jnp.log(_EPSILON))
    return (
        Mean.of(jax.nn.logsumexp(moment, axis=-1) - positive, counted, weight),
        Mean.of(total - positive, counted, weight),
    )


def _all_sentences(outputs: Outputs, best: Array, batch: Batch, margin: float, same_iou: float) -> Array:
    """Returns cosines [B,Z,B'] of positive moments with sentences B' of all devices; MASKED if left out."""
    sentences, video, span, index, real = gather_examples(
        (outputs.sentences, batch.video_index, batch.span, batch.example_index, batch.example_mask)
    )
    own_map = jnp.arange(best.shape[0]) // (best.shape[0] // outputs.moments.shape[0])
    cosine = jnp.einsum("bze,ce->bzc", outputs.moments[own_map[:, None], best], sentences, precision="highest")
    own = batch.example_index[:, None] == index[None]
    same_video = batch.video_index[:, None] == video[None]
    same_moment = same_video & (iou(batch.span[:, None], span[None]) >= same_iou)
    allowed = real[None] & (own | ~same_moment)
    cosine = cosine - jnp.where(own, margin, 0.0)[:, None]
    return jnp.where(allowed[:, None], cosine, MASKED)


def _other_videos(outputs: Outputs, batch: Batch) -> tuple[Array, Array]:
    """Returns cosines [B,U'M] of sentences with the candidates of videos U' of all devices, and which count.

    The own video does not, and a video that more than one group of rows shares counts once.
    """
    groups = outputs.moments.shape[0]
    video = batch.video_index.reshape(groups, -1)[:, 0]
    real = batch.example_mask.reshape(groups, -1).any(1)
    moments, video, real = gather_examples((outputs.moments, video, real))
    again = (video[:, None] == video[None]) & real[None] & np.tri(len(video), k=-1, dtype=bool)
    counted = (real & ~again.any(1))[None] & (batch.video_index[:, None] != video[None])  # [B,U']
    cosine = jnp.einsum("be,ume->bum", outputs.sentences, moments, precision="highest")
    counted = jnp.broadcast_to(counted[:, :, None], cosine.shape)
    return cosine.reshape(len(cosine), -1), counted.reshape(len(cosine), -1)


# Scores.


def product_score(outputs: Outputs, power: float) -> Array:
    """Returns [B,M]: ((1 + contrastive cosine) / 2)^power times the IoU space's probability (`evaluate`)."""
    contrast = jnp.maximum(0.5 + 0.5 * outputs.contrast, 0.0)  # rounding can leave a cosine below -1
    return contrast**power * jax.nn.sigmoid(outputs.iou_logits)


def joined_sentence(sentences: tuple[Array, Array], power: float, iou_scale: float) -> Array:
    """Returns [B,2E], whose dot product with joined moments orders them nearly as `product_score` does.

    The logarithm of the score is power log((1 + c) / 2) + log sigmoid(iou_scale o) of the cosines c and o. The
    dot product is its linear part where both cosines are 0: power c + iou_scale / 2 o.
    """
    overlap, contrast = sentences
    return jnp.concatenate([iou_scale / 2 * overlap, power * contrast], axis=-1)


# The architecture.


class MutualMatching(injection.Injections, GroundingModel, DualEncoder):
    """Everything of MMN but its encoders of clips and sentences, which a subclass adds. Defaults: Charades-STA.

    A subclass gives the unit vectors of moments in `_moments(batch, train)`, [U,M,E] of both spaces, and the
    sentences in `_sentences(batch, kinds, train)`, [B,F] of each of several queries, which VDI's injections
    train where they are on. As a dual encoder its vectors are those of both spaces, joined; the dot product is
    not the score but the linear part of its logarithm, see `joined_sentence`.

    Attributes:
      num_clips: G, number of clips along each side of the map.
      scale_layers: which moments are candidates, see `vmr_jax.layers.map2d.candidate_layers`.
      features: F, width of clips and map convolutions.
      space: E, width of both joint spaces.
      map_kernel: kernel size of the map convolutions.
      map_layers: number of map convolutions.
      queries_per_video: J, number of consecutive rows of a training batch that are of one video, whose map is
        computed once; it must be config.input.queries_per_video.
      iou_low: IoU up to which a candidate is a full negative.
      iou_high: IoU from which a candidate is a full positive.
      iou_scale: factor that makes the cosine in the IoU space a logit.
      positives: Z, number of candidates of highest IoU that are positive in the contrast.
      margin: difference that is taken from the cosine of positive pairs in the contrast.
      temperature: divisor of the cosines in the contrast (tau).
      negative_iou: IoU from which on a candidate of the same video is no negative.
      same_iou: IoU of two moments of a video from which on their sentences are no negatives of each other.
      contrast_weight: weight of both terms of the contrast.
      score_power: exponent of the contrastive score.
      vocab_size: number of words whose vectors are fine-tuned, 0 to keep them; read by text='glove' alone.
      keep: number of candidates that `predict` ranks, 0 for all.
      dtype: number format of the layers; parameters, cosines and losses are float32.
    """

    num_clips: int = 16
    scale_layers: tuple[int, ...] = (16,)
    features: int = 512
    space: int = 256
    map_kernel: int = 5
    map_layers: int = 8
    queries_per_video: int = 1
    iou_low: float = 0.5
    iou_high: float = 1.0
    iou_scale: float = 10.0
    positives: int = 1
    margin: float = 0.4
    temperature: float = 0.1
    negative_iou: float = 0.5
    same_iou: float = 0.5
    contrast_weight: float = 0.05
    score_power: float = 0.5
    vocab_size: int = 0
    keep: int = 0
    dtype: jnp.dtype = jnp.float32

    @property
    def candidates(self) -> np.ndarray:
        """The moments that are scored, [G,G] bool."""
        return candidate_mask(self.num_clips, self.scale_layers)

    def moment_map(self) -> MomentMap:
        """Returns the part that encodes moments."""
        sizes = self.num_clips, self.scale_layers, self.features, self.map_kernel, self.map_layers, self.space
        return MomentMap(*sizes, self.dtype)

    def videos(self, batch: Batch, train: bool) -> tuple[Array, Array, Array]:
        """Returns every video once: clips [U,T,D], mask [U,T], and whether one of its rows is real [U]."""
        # Only training batches come in groups; the batch that initialises the parameters is of any size.
        rows = self.queries_per_video if train and not self.is_initializing() else 1
        video, mask = (first_of_video(x, rows) for x in (batch.video, batch.video_mask))
        return video, mask, batch.example_mask.reshape(-1, rows).any(1)

    def __call__(self, batch: Batch, *, train: bool) -> Outputs:
        """Compares every query with the candidates of its video; in training also runs the injections.

        Raises UserError where T is not a multiple of G, or the rows of a device not one of J (training).
        """
        batch.check()
        moments = self._moments(batch, train)
        kinds = self.queries(train)
        sentences = dict(zip(kinds, self._sentences(batch, kinds, train), strict=True))
        outputs = match(moments, self.sentence_spaces(sentences[kinds[0]]), self.iou_scale)
        return dataclasses.replace(outputs, injected=self.inject(sentences, batch, train))

    def terms(self, outputs: Outputs, batch: Batch, weight: Array | float) -> dict[str, Mean]:
        """'iou', the cross-entropy with scaled IoU; 'moment' and 'sentence', the contrast of `weight`.

        With the injections also their `injection_terms`.
        """
        overlap = overlaps(self.candidates, batch)
        names = ("positives", "margin", "temperature", "negative_iou", "same_iou")
        settings = {name: getattr(self, name) for name in names}
        moment, sentence = contrast_losses(outputs, overlap, batch, **settings, weight=weight)
        terms = {"iou": overlap_loss(outputs, overlap, batch, self.iou_low, self.iou_high)}
        terms |= {"moment": moment, "sentence": sentence}
        return terms | self.injection_terms(outputs.injected, batch)

    def predict(self, outputs: Outputs, batch: Batch) -> Moments:
        """Returns the candidates, best first, by the product of both scores."""
        scores = product_score(outputs, self.score_power)
        return map2d.rank_candidates(scores, self.candidates, batch.duration, self.keep)

    def explain(self, outputs: Outputs, batch: Batch) -> dict[str, Array]:
        """Returns the score of every candidate: 'map' [B,G,G]."""
        return {"map": map2d.score_map(product_score(outputs, self.score_power), self.candidates)}

    def encode_moments(self, batch: Batch) -> tuple[Array, Array, Array]:
        """Returns the M candidates: vectors [B,M,2E], spans [B,M,2] in seconds, mask [B,M]."""
        vectors = jnp.concatenate(self._moments(batch, train=False), axis=-1)
        spans = candidate_spans(self.candidates, batch.duration)
        return vectors, spans, jnp.broadcast_to(batch.example_mask[:, None], spans.shape[:2])

    def encode_query(self, batch: Batch) -> Array:
        """Returns vectors [B,2E]; their dot product with those of moments orders nearly as the score does."""
        (sentence,) = self._sentences(batch, self.queries(train=False), train=False)
        return joined_sentence(self.sentence_spaces(sentence), self.score_power, self.iou_scale)


class Model(MutualMatching):
    """MMN: the further fields beside those of `MutualMatching`.

    Attributes:
      text: text encoder, 'distilbert' or 'glove' (word vectors).
      text_features: F, width of the states of the text encoder.
      text_layers: number of layers of DistilBERT.
      text_heads: number of attention heads of DistilBERT.
      text_hidden: width inside DistilBERT's feed-forward networks.
      text_vocab: number of subwords in DistilBERT's vocabulary.
      text_positions: number of subwords in the longest sentence of DistilBERT.
      text_dropout: dropout rate of DistilBERT.
      contrast_epochs: number of first epochs, in which the contrast has its full weight (official ONLY_IOU).
      late_weight: factor of `contrast_weight` after them (official train loop: 0.01).
    """

    text: str = "distilbert"
    text_features: int = 768
    text_layers: int = 6
    text_heads: int = 12
    text_hidden: int = 3072
    text_vocab: int = 30522
    text_positions: int = 512
    text_dropout: float = 0.1
    contrast_epochs: int = 7
    late_weight: float = 0.01

    choices = {"text": ("distilbert", "glove"), **injection.CHOICES}

    def setup(self):
        """Names the parts."""
        self.clips = ClipPool(self.features, self.num_clips, dtype=self.dtype)
        self.map = self.moment_map()
        if self.text == "distilbert":
            names = ("vocab", "features", "layers", "heads", "hidden", "positions", "dropout")
            self.text_encoder = DistilBert(*(getattr(self, f"text_{name}") for name in names), self.dtype)
        else:
            self.words = WordEmbedding(self.vocab_size, self.dtype)
            self.text_encoder = MeanState(self.text_features, self.dtype)
        self.sentence_norm = nn.LayerNorm(epsilon=1e-5, use_fast_variance=False, dtype=self.dtype)
        self.sentence_spaces = JointSpaces(self.space, self.dtype)
        self.visual_context, self.spatial_dynamics = self.injection_parts(self.text_features)

    def loss(self, outputs: Outputs, batch: Batch, *, epoch: Array) -> dict[str, Mean]:
        """The `terms`, of which the contrast fades."""
        factor = jnp.where(epoch < self.contrast_epochs, 1.0, self.late_weight)
        return self.terms(outputs, batch, self.contrast_weight * factor)

    def requires(self) -> tuple[str, ...]:
        """Names DistilBERT's subwords, and what the injections read."""
        subwords = self.text == "distilbert"
        return (("subwords",) if subwords else ()) + self.injection_fields(subwords=subwords)

    def _moments(self, batch: Batch, train: bool) -> tuple[Array, Array]:
        """Returns moments [U,M,E] of both spaces."""
        video, mask, real = self.videos(batch, train)
        return self.map(self.clips(video, mask), real, train)

    def _sentences(self, batch: Batch, kinds: tuple[str, ...], train: bool) -> list[Array]:
        """Returns [B,F] of each of the `kinds` of queries."""
        if self.text == "distilbert":
            tokens, mask = self.read_queries(batch, kinds, batch.subwords, batch.subword_mask, subwords=True)
            index = jnp.tile(batch.example_index, len(kinds))
            sentences = mean_state(self.text_encoder(tokens, mask, index, train), mask)  # CLS and SEP included
        else:
            sentences = self.text_encoder(*self.read_queries(batch, kinds, self.words(batch), batch.query_mask))
        return jnp.split(self.sentence_norm(sentences), len(kinds))
