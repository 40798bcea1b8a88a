"""DCM: a moment map whose scores may not come from where moments usually lie.

Which places of a video are described most often is the same in training and test, so that a model can score
them without looking at the video. DCM splits the features of every moment into content and location, makes them
independent, and scores each moment with all locations at once (the back-door adjustment of its causal graph).

No copy of the paper was at hand: names at the right, and "official code" in the file, are modules of the
authors' program, whose checkpoints `vmr_jax.torch_import` reads.

  tensor         shape      meaning                                                          official code
  batch.video    [B,T,D]    clip features, rows L2-normalised; T is G times an integer       feats
                            (the official: 256)
  clips          [B,G,F]    linear, ReLU, mean over T / G rows                               FeatAvgPool
  cells          [B,M,F]    candidate moments: the maximum over their clips                  SparseMaxPool
  query          [B,F]      3-layer LSTM over word vectors, state at the last word           Integrator
  content        [B,M,F]    linear                                                           map2d_feat
  location       [B,M,F]    linear, tanh; trained to be a sine code of start and end         map2d_pos
  adjusted       [B,M,F]    for each moment, what it attends to of all locations             BD_Adjust_Att
  fused          [B,M,F]    L2-normalised product of (linear) query and content + adjusted   map2d_f
  context        [B,M,F]    L convolutions k x k over the candidates, and a linear layer     TCN
                            beside them
  logits         [B,G,G]    linear without bias; zero at no candidate                        scores2d

The objective (weights in the order gamma, sigma, lambda of the official code): every sentence is also scored on
the video of another row of the batch, where no moment fits it; the location must tell where it is; and the
distance correlation of content and location over all moments of the batch is to vanish.

The settings of the official scripts (F = 512, learning rate 1e-4 in all):

  data set              G    scale_layers   iou_low, iou_high   location_weight   NMS     batch   epochs
  Charades-STA          16   (16,)          0.5, 1.0            1                 0.45    32      25
  ActivityNet Captions  16   (16,)          0.5, 1.0            1                 0.5     64      20
  DiDeMo                6    (6,)           0.7, 1.0            0.5               0.45    64      20
"""

import dataclasses

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from vmr_jax.errors import UserError
from vmr_jax.layers.attention import attended, attention_weights
from vmr_jax.layers.clips import ClipPool
from vmr_jax.layers.draws import uniform_choice
from vmr_jax.layers.dropout import Dropout
from vmr_jax.layers.linear import torch_linear
from vmr_jax.layers.map2d import CandidateConvs, candidate_mask, iou_map, max_pool_map, place_cells, rank_cells
from vmr_jax.layers.norm import l2_normalize
from vmr_jax.layers.recurrent import LSTM, last_state
from vmr_jax.layers.text import WordEmbedding
from vmr_jax.layers.transformer import sine_positions
from vmr_jax.losses import binary_cross_entropy, scaled_iou
from vmr_jax.models.base import GroundingModel
from vmr_jax.models.card import Card
from vmr_jax.parallel import gather_examples, sum_over_devices
from vmr_jax.types import Array, Batch, Mean, Moments

CARD = Card(
    title="Deconfounded Video Moment Retrieval with Causal Intervention",
    authors=("Yang", "Feng", "Ji", "Wang", "Chua"),
    venue="SIGIR",
    year=2021,
    family="ranking",
    kind="2D map, causal intervention on location",
    supervision="full",
    features="C3D, I3D, VGG; GloVe",
    official_code="Xun-Yang/Causal_Video_Moment_Retrieval@f2cf09f6b93f (PyTorch)",
    ours=(
        "All is as in the official code; no copy of the paper was at hand.",
        "The negative video of a sentence is that of another row of the batch, over all devices, each with the "
        "same probability; officially that of a random annotation. A sentence without any does not count.",
        "Distance correlation and norms, which are of a whole batch, are of the real rows of all devices.",
        "Distances of a moment to itself are exactly zero, and no root is taken of less than 1e-12: the "
        "official distance correlation has NaN where rounding leaves its covariance below zero.",
        "NMS keeps an IoU that equals the threshold; of equal scores the earlier moment comes first, "
        "officially the later; cells that are no candidates, which it ranks behind all others, are left out.",
        "The official test sets with random rows before the video (10 and 15 s on Charades-STA) are not made.",
    ),
    verified=(
        "Against the official code at this commit, running, with small random weights, with and without the "
        "intervention, one and two scales, videos of 20 to 300 rows and its negatives: rows, words, labels, "
        "outputs and every loss term agree to 2e-6, and the ranked moments are the same.",
        "Gradients agree to 1.1e-3 of the largest number of each parameter, and to 1.1e-4 without the "
        "intervention: the official distance correlation of a moment with itself, or with that of another row "
        "of the same video, is rounding. From the official code in float64 ours are 1.5e-4 away, and the "
        "official ones in float32 1.2e-3.",
        "At the threshold 0.45 of NMS the first five are the same; at 0.5, where rounding decides officially, "
        "one to three of seven lists are others.",
        "There are 28,420,096 parameters on Charades-STA with I3D features, as in the official code.",
        "Distance correlation, adjustment, codes and losses equal computations by hand.",
    ),
)
CODE_EPSILON = 1e-6  # added to every difference in the location's distance (torch.nn.PairwiseDistance)
DISTANCE_EPSILON = 1e-9  # under every root of the distance correlation (official code: util.eps)
LEAST_COVARIANCE = 1e-12


@struct.dataclass
class Outputs:
    """Logits of all cells, 0 at no candidate; in training also what the other losses read. float32."""

    logits: Array  # [B,G,G]: row is the first clip, column the last
    content: Array | None = None  # [B,M,F]
    location: Array | None = None  # [B,M,F]
    negative_logits: Array | None = None  # [B,G,G], of the same sentences on other videos
    negatives: Array | None = None  # [B] int32, which row of all devices that other video is of
    has_negative: Array | None = None  # [B] bool


class Model(GroundingModel):
    """DCM, with the settings of Charades-STA.

    Attributes:
      num_clips: G, number of clips along each side of the moment map.
      scale_layers: diagonals of the map that hold candidates, by scale, see
        `vmr_jax.layers.map2d.candidate_layers`.
      features: F, width of every layer; a multiple of 4.
      map_kernel: k, side of the kernels of the map convolutions, in cells; odd.
      map_layers: L, number of map convolutions.
      lstm_layers: number of layers of the query's LSTM.
      intervention: whether every moment attends to all locations; else its own is added to its content
      (official
        code: DO).
      heads: number of attention heads of the intervention.
      dropout: dropout rate of the attention weights of the intervention.
      own_weight: weight of a moment's own location beside those it attends to (official code: ETA).
      iou_low: IoU up to which a candidate is a full negative.
      iou_high: IoU from which a candidate is a full positive.
      negative_weight: weight of the loss on other videos (official code: GAMMA); 0 leaves it out.
      location_weight: weight of the distance of location and sine code (official code: SIGMA).
      independence_weight: weight of the distance correlation (official code: LAMBDA); 0 leaves it out.
      norm_weight: weight of the Frobenius norms of content and location (official code: TCN_DCM.forward).
      vocab_size: number of words whose vectors are fine-tuned; 0 keeps the word vectors of the batch fixed (the
        official).
      keep: number of moments that `predict` returns; 0 for all candidates.
      dtype: number format of the layers; parameters, logits and losses are float32.
    """

    num_clips: int = 16
    scale_layers: tuple[int, ...] = (16,)
    features: int = 512
    map_kernel: int = 5
    map_layers: int = 3
    lstm_layers: int = 3
    intervention: bool = True
    heads: int = 4
    dropout: float = 0.1
    own_weight: float = 1.0
    iou_low: float = 0.5
    iou_high: float = 1.0
    negative_weight: float = 1.0
    location_weight: float = 1.0
    independence_weight: float = 1e-3
    norm_weight: float = 1e-5
    vocab_size: int = 0
    keep: int = 0
    dtype: jnp.dtype = jnp.float32

    @property
    def candidates(self) -> np.ndarray:
        """Returns [G,G] bool, the moments that are scored."""
        return candidate_mask(self.num_clips, self.scale_layers)

    @nn.compact
    def __call__(self, batch: Batch, *, train: bool) -> Outputs:
        """Scores every candidate of every pair; in training also of each sentence in another video.

        Raises UserError where T is not a multiple of G, or `features` not one of 4.
        """
        batch.check()
        if self.features % 4:
            raise UserError(
                f"config.model.features of DCM is {self.features}; it must be a multiple of 4, as a "
                "location is compared with sines and cosines of its start and of its end."
            )
        clips = ClipPool(self.features, self.num_clips, dtype=self.dtype, name="clips")(
            batch.video, batch.video_mask
        )
        words = WordEmbedding(self.vocab_size, self.dtype, name="words")(batch)
        query = LSTM(self.features, self.lstm_layers, dtype=self.dtype, name="lstm")(words, batch.query_mask)
        query = last_state(query, batch.query_mask)
        moment_map = DeconfoundedMap(
            self.features,
            self.map_kernel,
            self.map_layers,
            self.intervention,
            self.heads,
            self.dropout,
            self.own_weight,
            self.dtype,
            name="map",
        )
        index = batch.example_index
        if not train:
            return Outputs(moment_map(clips, query, self.candidates, index, train)[0])

        negatives, has_negative = self._negatives(batch)
        if self.negative_weight:  # the same sentences, and dropout of their own, on other videos
            clips = jnp.concatenate([clips, jnp.take(gather_examples(clips), negatives, axis=0)])
            query, index = jnp.concatenate([query, query]), jnp.concatenate([index, ~index])
        scored = moment_map(clips, query, self.candidates, index, train)
        logits, content, location = (x[: batch.size].astype(jnp.float32) for x in scored)
        negative_logits = scored[0][batch.size :] if self.negative_weight else None
        return Outputs(logits, content, location, negative_logits, negatives, has_negative)

    def _negatives(self, batch: Batch) -> tuple[Array, Array]:
        """Draws for every row a row of another video, of all devices: [B] int32, and whether there is one [B].

        Official code: neg_vid.
        """
        videos, real = gather_examples((batch.video_index, batch.example_mask))
        others = real[None] & (videos[None] != batch.video_index[:, None])
        return uniform_choice(self.make_rng("dropout"), batch.example_index, others)

    def loss(self, outputs: Outputs, batch: Batch, *, epoch: Array) -> dict[str, Mean]:
        """Returns the terms of the official TCN_DCM.forward.

        'iou' and 'negative': cross-entropy with the scaled IoU, and with 0 in the other video; 'location':
        distance of location and sine code; 'independence': distance correlation; 'norm': Frobenius norms.
        """
        del epoch
        targets = scaled_iou(iou_map(self.num_clips, batch.span, batch.duration), self.iou_low, self.iou_high)
        real = batch.example_mask
        counted = self.candidates[None] & real[:, None, None]
        terms = {"iou": Mean.of(binary_cross_entropy(outputs.logits, targets), counted)}
        if outputs.negative_logits is not None and outputs.has_negative is not None:
            errors = binary_cross_entropy(outputs.negative_logits, jnp.zeros_like(targets))
            found = outputs.has_negative[:, None, None]
            terms["negative"] = Mean.of(errors, counted & found, self.negative_weight)

        content, location = outputs.content, outputs.location
        if content is None or location is None:
            return terms
        gap = location - location_codes(self.candidates, self.features)[None] + CODE_EPSILON
        distance = jnp.sqrt(jnp.square(gap).sum(-1))
        terms["location"] = Mean.of(
            distance, jnp.broadcast_to(real[:, None], distance.shape), self.location_weight
        )

        def of_batch(value, weight):
            """One number of the whole batch: every example has it."""
            return Mean.of(jnp.broadcast_to(value, real.shape), real, weight)

        if self.independence_weight:
            correlation = distance_correlation(content, location, batch.example_index, real)
            terms["independence"] = of_batch(correlation, self.independence_weight)
        norms = frobenius_norm(content, real) + frobenius_norm(location, real)
        terms["norm"] = of_batch(norms, self.norm_weight)
        return terms

    def predict(self, outputs: Outputs, batch: Batch) -> Moments:
        """Returns the candidates, best first; the score is the sigmoid of the logit."""
        ranked = rank_cells(outputs.logits, self.candidates, batch.duration, self.keep)
        return dataclasses.replace(ranked, scores=jax.nn.sigmoid(ranked.scores))

    def explain(self, outputs: Outputs, batch: Batch) -> dict[str, Array]:
        """Returns the score of every candidate: 'map' [B,G,G], NaN at no candidate."""
        return {"map": jnp.where(self.candidates[None], jax.nn.sigmoid(outputs.logits), jnp.nan)}


class DeconfoundedMap(nn.Module):
    """Scores of all candidates, with content and location apart (official code: TCN).

    Attributes:
      features: F, width of every layer.
      kernel: k, side of the kernels of the convolutions, in cells.
      layers: L, number of convolutions.
      intervention: whether every moment attends to all locations; else its own is added to its content.
      heads: number of attention heads.
      dropout: dropout rate of the attention weights.
      own_weight: weight of a moment's own location beside those it attends to.
      dtype: number format of the layers; logits are float32.
    """

    features: int
    kernel: int
    layers: int
    intervention: bool
    heads: int
    dropout: float
    own_weight: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(
        self, clips: Array, query: Array, candidates: np.ndarray, example_index: Array, train: bool
    ) -> tuple[Array, Array, Array]:
        """Clips [B,G,F] and query [B,F] -> logits [B,G,G], and content and location [B,M,F] of `candidates`."""
        rows, columns = np.nonzero(candidates)
        cells = max_pool_map(clips, candidates)[:, rows, columns]  # official code: SparseMaxPool

        def linear(x, name):
            return torch_linear(self.features, x, self.dtype, name)

        content = linear(cells, "content")
        location = jnp.tanh(linear(cells, "location"))
        if self.intervention:
            probe = linear(nn.relu(query), "query_probe")[:, None] + linear(nn.relu(content), "content_probe")
            adjust = BackdoorAdjustment(
                self.features, self.heads, self.dropout, self.own_weight, self.dtype, name="adjustment"
            )
            combined = content + adjust(probe, location, example_index, train)
        else:
            combined = content + location
        fused = l2_normalize(linear(query, "query")[:, None] * combined)

        convs = CandidateConvs(self.features, self.kernel, self.layers, self.dtype, name="convs")
        context = convs(place_cells(fused, rows, columns, len(candidates)), candidates)[:, rows, columns]
        context = context + nn.relu(linear(fused, "residual"))
        # In float32 whatever the dtype of the layers, as is everything from here on.
        logits = torch_linear(1, context.astype(jnp.float32), jnp.float32, "score", use_bias=False)
        return place_cells(logits, rows, columns, len(candidates))[..., 0], content, location


class BackdoorAdjustment(nn.Module):
    """The back-door adjustment: each moment attends to the locations of all (official code: BD_Adjust_Att).

    ReLU of the attention's result and of `own_weight` times the moment's own value. Parameters: query, key
    (both without bias) and value, linear layers.

    Attributes:
      features: F, width of the result, a multiple of `heads`.
      heads: number of attention heads.
      dropout: dropout rate of the attention weights.
      own_weight: weight of a moment's own value.
      dtype: number format of the layers; the softmax is float32.
    """

    features: int
    heads: int
    dropout: float
    own_weight: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, probe: Array, location: Array, example_index: Array, train: bool) -> Array:
        """Probes and locations [B,M,F] of all candidates -> [B,M,F]."""
        chex.assert_equal_shape([probe, location])
        width = self.features // self.heads

        def project(x, name, use_bias=False):
            y = torch_linear(self.features, x, self.dtype, name, use_bias)
            return y.reshape(*x.shape[:2], self.heads, width)

        queries, keys = project(probe, "query"), project(location, "key")
        values = nn.relu(project(location, "value", use_bias=True))
        weights = attention_weights(queries, keys, jnp.ones((1, 1, 1, keys.shape[1]), bool))
        weights = Dropout(self.dropout, name="weights")(weights, example_index, train)
        return nn.relu(attended(weights, values) + self.own_weight * values.reshape(probe.shape))


def location_codes(candidates: np.ndarray, features: int) -> Array:
    """Returns [M,F] for the candidates [G,G]: sines and cosines of the first clip, and of the last.

    Of F / 2 numbers each, of positions (i + 1) 2 pi / G (official code: PositionEmbeddingSine, of DETR).
    """
    places = sine_positions(jnp.ones((1, len(candidates)), bool), features // 2)[0]
    rows, columns = np.nonzero(candidates)
    return jnp.concatenate([places[rows], places[columns]], axis=-1)


def distance_correlation(x: Array, y: Array, example_index: Array, real: Array) -> Array:
    """Returns the distance correlation [] of two descriptions [B,M,F] of the same moments of a batch.

    Over all moments of real rows [B] of all devices; of one batch with other rows it is another number.
    Official
    code: util.dcor; Szekely, Rizzo and Bakirov, 2007.
    """
    a, b = (_centred_distances(z, example_index, real) for z in (x, y))
    covariances = sum_over_devices(((a * b).sum(), (a * a).sum(), (b * b).sum()))
    pairs = jnp.square(_moments_of_batch(real, x.shape[1]))
    roots = [jnp.sqrt(jnp.maximum(covariance / pairs, LEAST_COVARIANCE)) for covariance in covariances]
    return roots[0] / jnp.sqrt(roots[1] * roots[2] + DISTANCE_EPSILON)


def frobenius_norm(x: Array, real: Array) -> Array:
    """Returns the root [] of the sum of squares of [B,M,F] over the real rows [B] of all devices."""
    squares = jnp.where(real[:, None, None], jnp.square(x), 0.0).sum()
    return jnp.sqrt(jnp.maximum(sum_over_devices(squares), LEAST_COVARIANCE))


def _moments_of_batch(real: Array, moments: int) -> Array:
    """Number [] of moments of the real rows of all devices, 1 at least."""
    return jnp.maximum(sum_over_devices(real.sum(dtype=jnp.float32)) * moments, 1.0)


def _centred_distances(x: Array, example_index: Array, real: Array) -> Array:
    """Euclidean distances [B,M,B',M] of local moments [B,M,F] to those of all devices, B' rows.

    Each without the means of its row and of its column, with the mean of all added; zero where one of both is
    not of a real row.
    """
    everyone, indices, all_real = gather_examples((x, example_index, real))
    squares = jnp.square(x).sum(-1)
    products = jnp.einsum("bmf,cnf->bmcn", x, everyone, precision="highest")
    gap = squares[:, :, None, None] + gather_examples(squares)[None, None] - 2.0 * products
    same_moment = np.eye(x.shape[1], dtype=bool)[None, :, None, :]
    itself = (example_index[:, None] == indices[None])[:, None, :, None] & same_moment
    distances = jnp.sqrt(jnp.where(itself, 0.0, jnp.maximum(gap, 0.0)) + DISTANCE_EPSILON)

    count = _moments_of_batch(real, x.shape[1])
    columns = jnp.where(all_real[None, None, :, None], distances, 0.0)
    of_rows = columns.sum((2, 3)) / count  # [B,M]; those of columns are the same
    of_columns = gather_examples(of_rows)
    of_all = sum_over_devices(jnp.where(real[:, None], of_rows, 0.0).sum()) / count
    centred = distances - of_rows[:, :, None, None] - of_columns[None, None] + of_all
    both = real[:, None, None, None] & all_real[None, None, :, None]
    return jnp.where(both, centred, 0.0)
