"""Metric learning on the 2D map: what MMN (Wang et al., AAAI 2022) and VDI (Luo et al., CVPR 2023) share.

The candidate moments of a video and a sentence are unit vectors in two joint spaces, and their cosine says how
well they match. In the IoU space it is trained to tell the overlap with the described moment, by cross-entropy;
in the contrastive space the described moment and its sentence are told from all other moments and sentences of
the batch ("mutual matching"). The final score is the product of both.

Axes beyond the usual: G videos (B = G S, S consecutive sentences of one video), M candidates of a video, in
row-major order of the map, C width of a joint space.
"""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from vmr_jax.errors import UserError
from vmr_jax.layers.attention import MASKED
from vmr_jax.layers.linear import torch_linear
from vmr_jax.layers.map2d import MapConvs, candidate_mask, cell_spans, iou_map, max_pool_map
from vmr_jax.layers.norm import l2_normalize
from vmr_jax.layers.recurrent import LSTM
from vmr_jax.losses import binary_cross_entropy, scaled_iou
from vmr_jax.moments import iou, rank
from vmr_jax.parallel import gather_examples
from vmr_jax.types import Batch, Mean, Moments

_EPSILON = 1e-6  # under the logarithm of the sentence loss, as in MMN's official code


@struct.dataclass
class Matching:
    """Every sentence against the candidates of its video, and what the contrast of a batch needs. float32."""

    iou_logits: jax.Array  # [B,M] cosine in the IoU space, scaled; a logit
    contrast: jax.Array  # [B,M] cosine in the contrastive space
    moments: jax.Array  # [G,M,C] unit vectors of the contrastive space
    sentences: jax.Array  # [B,C] unit vectors of the contrastive space


# --- encoders -------------------------------------------------------------------------------------


class JointSpaces(nn.Module):
    """Two linear layers into the joint spaces, 'iou' and 'contrast', each followed by L2 normalisation.

    Attributes:
      features: C, width of both.
      dtype: of the linear layers; the result is float32.
    """

    features: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """[...,D] -> unit vectors [...,C] of the IoU space and of the contrastive space."""

        def head(name):
            return l2_normalize(torch_linear(self.features, x, self.dtype, name).astype(jnp.float32))

        return head("iou"), head("contrast")


class MomentMap(nn.Module):
    """The candidates of a video in both joint spaces: max-pooled map, convolutions with batch norm, two heads.

    Attributes:
      num_clips: N, clips per side of the map.
      scale_layers: which moments are candidates, see `vmr_jax.layers.map2d.candidate_layers`.
      features: width of the convolutions.
      kernel: of the convolutions.
      layers: number of convolutions.
      space: C.
      dtype: of the layers; the result is float32.
    """

    num_clips: int
    scale_layers: tuple[int, ...]
    features: int
    kernel: int
    layers: int
    space: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, clips: jax.Array, real: jax.Array, train: bool) -> tuple[jax.Array, jax.Array]:
        """Map clips [G,N,D] and which videos are real [G] -> [G,M,C] of the IoU and the contrastive space."""
        candidates = candidate_mask(self.num_clips, self.scale_layers)
        convs = MapConvs(self.features, self.kernel, self.layers, self.dtype, norm=True, name="convs")
        context = convs(max_pool_map(clips, candidates), candidates, real, train)
        rows, columns = np.nonzero(candidates)
        return JointSpaces(self.space, self.dtype, name="spaces")(context[:, rows, columns])


class MeanState(nn.Module):
    """A sentence from word vectors: the mean state of a bidirectional LSTM ('lstm').

    Attributes:
      features: F, width of the result; even, half for each direction.
      dtype: of the result.
    """

    features: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, words: jax.Array, mask: jax.Array) -> jax.Array:
        """[B,L,W] and right-padded mask [B,L] -> [B,F]; zero without a word. UserError for an odd F."""
        if self.features % 2:
            raise UserError(
                f"The bidirectional LSTM of the query is {self.features} wide; it must be even, half for each "
                "direction."
            )
        states = LSTM(self.features // 2, bidirectional=True, dtype=self.dtype, name="lstm")(words, mask)
        return mean_state(states, mask)


def mean_state(states: jax.Array, mask: jax.Array) -> jax.Array:
    """[B,L,D] and mask [B,L] -> [B,D], the mean over what is real; zero where nothing is."""
    chex.assert_shape(mask, states.shape[:2])
    total = jnp.where(mask[..., None], states.astype(jnp.float32), 0.0).sum(1)
    return (total / jnp.maximum(mask.sum(1), 1)[:, None]).astype(states.dtype)


def first_of_video(x: jax.Array, sentences: int) -> jax.Array:
    """[B,...] -> [B / S,...]: the first row of every `sentences` = S rows, which are of one video.

    Raises UserError where B is not a multiple of S.
    """
    if x.shape[0] % sentences:
        raise UserError(
            f"A device has {x.shape[0]} rows of the batch, which videos with {sentences} queries each cannot "
            "share equally. Let config.batch_size be a multiple of config.input.queries_per_video times the "
            "number of devices, and config.model.queries_per_video equal to config.input.queries_per_video."
        )
    return x[::sentences]


def match(
    moments: tuple[jax.Array, jax.Array], sentences: tuple[jax.Array, jax.Array], iou_scale: float
) -> Matching:
    """Compares the candidates of G videos, [G,M,C], with the sentences of the same videos, [B,C].

    Each is a pair: unit vectors of the IoU space and of the contrastive space.
    """
    iou_cosine, contrast = (_cosine(m, s) for m, s in zip(moments, sentences, strict=True))
    return Matching(iou_scale * iou_cosine, contrast, moments[1], sentences[1])


def _cosine(moments: jax.Array, sentences: jax.Array) -> jax.Array:
    """[G,M,C] and [B,C] -> [B,M], in full float32: these numbers rank the moments."""
    chex.assert_equal(moments.shape[-1], sentences.shape[-1])
    videos, cells, width = moments.shape
    grouped = sentences.reshape(videos, -1, width)
    cosine = jnp.einsum("gmc,gsc->gsm", moments, grouped, precision="highest")
    return cosine.reshape(sentences.shape[0], cells)


# --- losses ---------------------------------------------------------------------------------------


def overlaps(candidates: np.ndarray, batch: Batch) -> jax.Array:
    """IoU of every candidate with the described moment: candidates [N,N] -> [B,M]."""
    rows, columns = np.nonzero(candidates)
    return iou_map(len(candidates), batch.span, batch.duration)[:, rows, columns]


def overlap_loss(matching: Matching, overlap: jax.Array, batch: Batch, low: float, high: float) -> Mean:
    """Cross-entropy of every candidate with its scaled IoU (2D-TAN's); `overlap` [B,M] is the IoU."""
    counted = jnp.broadcast_to(batch.example_mask[:, None], overlap.shape)
    return Mean.of(binary_cross_entropy(matching.iou_logits, scaled_iou(overlap, low, high)), counted)


def contrast_losses(
    matching: Matching,
    overlap: jax.Array,
    batch: Batch,
    *,
    positives: int,
    margin: float,
    temperature: float,
    negative_iou: float,
    same_iou: float,
    weight: jax.Array | float,
) -> tuple[Mean, Mean]:
    """The two cross-entropies of mutual matching, over the moments and sentences of all devices.

    The positive pairs of a sentence are the `positives` = K candidates of highest IoU. From the cosine of a
    positive pair `margin` is taken away, in numerator and denominator.

    - Moment: its sentence among all sentences. Those of the same video whose moment has an IoU of `same_iou` or
      more with that of the sentence are left out.
    - Sentence: its moment among all candidates of all videos. A candidate of the same video whose IoU is
      `negative_iou` or more has a cosine of 0 there (so does the official code; it still counts exp(0)).

    Args:
      matching: of the local rows.
      overlap: [B,M] IoU of the candidates with the described moment.
      batch: the local rows.
      positives: K.
      margin: m, a difference of cosines.
      temperature: tau.
      negative_iou: from which on a candidate of the same video is no negative.
      same_iou: from which on a sentence of the same video is no negative.
      weight: of both terms.

    Returns:
      The means over sentences and positives: moment, sentence.
    """
    best = jax.lax.top_k(overlap, positives)[1]  # [B,K]
    positive = (jnp.take_along_axis(matching.contrast, best, axis=1) - margin) / temperature
    counted = jnp.broadcast_to(batch.example_mask[:, None], best.shape)
    moment = _moment_candidates(matching, best, batch, margin, same_iou) / temperature
    negatives = jnp.where(overlap < negative_iou, matching.contrast, 0.0)
    others, other_mask = _other_videos(matching, batch)
    sentence = jnp.concatenate([negatives, others], axis=1) / temperature
    mask = jnp.concatenate([jnp.ones(negatives.shape, bool), other_mask], axis=1)
    total = jax.nn.logsumexp(jnp.where(mask, sentence, MASKED), axis=1)
    total = jnp.logaddexp(jnp.logaddexp(total[:, None], positive), jnp.log(_EPSILON))
    return (
        Mean.of(jax.nn.logsumexp(moment, axis=-1) - positive, counted, weight),
        Mean.of(total - positive, counted, weight),
    )


def _moment_candidates(
    matching: Matching, best: jax.Array, batch: Batch, margin: float, same_iou: float
) -> jax.Array:
    """Cosines [B,K,B'] of the positive moments with the sentences B' of all devices; MASKED if left out."""
    sentences, video, span, index, real = gather_examples(
        (matching.sentences, batch.video_index, batch.span, batch.example_index, batch.example_mask)
    )
    group = jnp.arange(best.shape[0]) // (best.shape[0] // matching.moments.shape[0])
    cosine = jnp.einsum("bkc,qc->bkq", matching.moments[group[:, None], best], sentences, precision="highest")
    own = batch.example_index[:, None] == index[None]
    same_video = batch.video_index[:, None] == video[None]
    same_moment = same_video & (iou(batch.span[:, None], span[None]) >= same_iou)
    allowed = real[None] & (own | ~same_moment)
    cosine = cosine - jnp.where(own, margin, 0.0)[:, None]
    return jnp.where(allowed[:, None], cosine, MASKED)


def _other_videos(matching: Matching, batch: Batch) -> tuple[jax.Array, jax.Array]:
    """Cosines [B,G'M] of the sentences with all candidates of the videos G' of all devices, and which count.

    The own video does not, and a video that more than one group of rows shares counts once.
    """
    groups = matching.moments.shape[0]
    video = batch.video_index.reshape(groups, -1)[:, 0]
    real = batch.example_mask.reshape(groups, -1).any(1)
    moments, video, real = gather_examples((matching.moments, video, real))
    again = (video[:, None] == video[None]) & real[None] & np.tri(len(video), k=-1, dtype=bool)
    counted = (real & ~again.any(1))[None] & (batch.video_index[:, None] != video[None])  # [B,G']
    cosine = jnp.einsum("bc,gmc->bgm", matching.sentences, moments, precision="highest")
    counted = jnp.broadcast_to(counted[:, :, None], cosine.shape)
    return cosine.reshape(len(cosine), -1), counted.reshape(len(cosine), -1)


# --- scores ---------------------------------------------------------------------------------------


def product_score(matching: Matching, power: float) -> jax.Array:
    """[B,M] in [0,1]: ((1 + contrastive cosine) / 2)^power times the probability of the IoU space."""
    contrast = jnp.maximum(0.5 + 0.5 * matching.contrast, 0.0)  # rounding can leave a cosine below -1
    return contrast**power * jax.nn.sigmoid(matching.iou_logits)


def candidate_spans(candidates: np.ndarray, duration: jax.Array) -> jax.Array:
    """[N,N] and [B] seconds -> [B,M,2] seconds."""
    rows, columns = np.nonzero(candidates)
    return cell_spans(len(candidates), duration)[:, rows, columns]


def rank_candidates(scores: jax.Array, candidates: np.ndarray, duration: jax.Array, keep: int) -> Moments:
    """The `keep` best of scores [B,M], best first; all of them where it is 0."""
    spans = candidate_spans(candidates, duration)
    return rank(spans, scores, jnp.ones(scores.shape, bool), keep or scores.shape[1])


def score_map(scores: jax.Array, candidates: np.ndarray) -> jax.Array:
    """Scores [B,M] on the map [B,N,N], NaN where there is no candidate."""
    rows, columns = np.nonzero(candidates)
    empty = jnp.full((scores.shape[0], *candidates.shape), jnp.nan, scores.dtype)
    return empty.at[:, rows, columns].set(scores)


def joined_moments(moments: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Both vectors of a moment as one, [...,2C], for `joined_sentence`."""
    return jnp.concatenate(moments, axis=-1)


def joined_sentence(sentences: tuple[jax.Array, jax.Array], power: float, iou_scale: float) -> jax.Array:
    """[B,2C] such that its dot product with `joined_moments` orders moments nearly as `product_score` does.

    The logarithm of the score is power log((1 + c) / 2) + log sigmoid(iou_scale o) of the cosines c and o. The
    dot product is its linear part where both cosines are 0: power c + iou_scale / 2 o.
    """
    overlap, contrast = sentences
    return jnp.concatenate([iou_scale / 2 * overlap, power * contrast], axis=-1)


# --- models ---------------------------------------------------------------------------------------


class MutualMatching:
    """The methods that architectures of this kind share, for their `Model` to inherit.

    It has the fields num_clips, scale_layers, features, map_kernel, map_layers and space of `MomentMap`, those
    of `contrast_losses`, and queries_per_video, iou_low, iou_high, iou_scale, score_power, keep and dtype; and
    two methods, which give the unit vectors of both spaces: `_moments(batch, train)` [G,M,C] and
    `_query(batch, train)` [B,C].
    """

    @property
    def candidates(self) -> np.ndarray:
        """[N,N] bool, the moments that are scored."""
        return candidate_mask(self.num_clips, self.scale_layers)

    def moment_map(self) -> MomentMap:
        """The part that encodes moments."""
        sizes = self.num_clips, self.scale_layers, self.features, self.map_kernel, self.map_layers, self.space
        return MomentMap(*sizes, self.dtype)

    def videos(self, batch: Batch, train: bool) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Every video once: clips [G,T,D], mask [G,T], and whether one of its rows is real [G]."""
        # Only training batches come in groups; the batch that initialises the parameters is of any size.
        rows = self.queries_per_video if train and not self.is_initializing() else 1
        video, mask = (first_of_video(x, rows) for x in (batch.video, batch.video_mask))
        return video, mask, batch.example_mask.reshape(-1, rows).any(1)

    def matching_terms(self, matching: Matching, batch: Batch, weight: jax.Array | float) -> dict[str, Mean]:
        """'iou', the cross-entropy with scaled IoU; 'moment' and 'sentence', the contrast of `weight`."""
        overlap = overlaps(self.candidates, batch)
        moment, sentence = contrast_losses(
            matching,
            overlap,
            batch,
            positives=self.positives,
            margin=self.margin,
            temperature=self.temperature,
            negative_iou=self.negative_iou,
            same_iou=self.same_iou,
            weight=weight,
        )
        terms = {"iou": overlap_loss(matching, overlap, batch, self.iou_low, self.iou_high)}
        return {**terms, "moment": moment, "sentence": sentence}

    def predict(self, outputs: Matching, batch: Batch) -> Moments:
        """The candidates, best first, by the product of both scores."""
        scores = product_score(outputs, self.score_power)
        return rank_candidates(scores, self.candidates, batch.duration, self.keep)

    def explain(self, outputs: Matching, batch: Batch) -> dict[str, jax.Array]:
        """The score of every candidate: 'map' [B,N,N]."""
        return {"map": score_map(product_score(outputs, self.score_power), self.candidates)}

    def encode_moments(self, batch: Batch) -> tuple[jax.Array, jax.Array, jax.Array]:
        """The M candidates: vectors [B,M,2C], spans [B,M,2] in seconds, mask [B,M]."""
        vectors = joined_moments(self._moments(batch, train=False))
        spans = candidate_spans(self.candidates, batch.duration)
        return vectors, spans, jnp.broadcast_to(batch.example_mask[:, None], spans.shape[:2])

    def encode_query(self, batch: Batch) -> jax.Array:
        """Vectors [B,2C]; their dot product with those of moments orders nearly as the score does."""
        return joined_sentence(self._query(batch, train=False), self.score_power, self.iou_scale)
