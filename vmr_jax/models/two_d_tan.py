"""2D-TAN: a map of all moments by start and end, on which each moment sees its neighbours.

The paper numbers no sections: names at the right, and "official code" in the file, are modules of the authors'
program, whose checkpoints `vmr_jax.torch_import` reads.

  tensor        shape      meaning                                                         official code
  batch.video   [B,T,D]    clip features, rows L2-normalised; T is G times an integer (the official: 256)
  clips         [B,G,F]    linear, ReLU, mean over T / G rows                              FrameAvgPool
  proposals     [B,G,G,F]  F^M: cell (i, j) holds the clips i..j, max-pooled               SparsePropMaxPool
                           or convolved; zero at no candidate                              SparsePropConv
  query         [B,F]      f^S: 3-layer LSTM over word vectors, state at the last word     BaseFusion
  fused         [B,G,G,F]  F: L2-normalised product of (linear) query and (linear) cell    BaseFusion
  context       [B,G,G,F]  L convolutions k x k over the candidates                        MapConv
  logits        [B,G,G]    linear; zero at no candidate. Their sigmoid is p_i              TAN

G is N in the paper. The settings of the paper (F = 512 in all):

  data set              G    scale_layers    k, L   iou_low, iou_high   NMS, pool and conv
  Charades-STA          16   (16,)           5, 8   0.5, 1.0            0.45, 0.5
  ActivityNet Captions  64   (16, 8, 8)      9, 4   0.5, 1.0            0.5, 0.5
  TACoS                 128  (16, 8, 8, 8)   5, 8   0.3, 0.7            0.4, 0.5
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from vmr_jax.layers import injection
from vmr_jax.layers.clips import ClipPool
from vmr_jax.layers.linear import torch_linear
from vmr_jax.layers.map2d import MapConvs, StackedConvMap, candidate_mask, iou_map, max_pool_map, rank_cells
from vmr_jax.layers.norm import l2_normalize
from vmr_jax.layers.recurrent import LSTM, last_state
from vmr_jax.layers.text import WordEmbedding
from vmr_jax.losses import binary_cross_entropy, scaled_iou
from vmr_jax.models.base import GroundingModel
from vmr_jax.models.card import Card
from vmr_jax.types import Batch, Mean, Moments

CARD = Card(
    title="Learning 2D Temporal Adjacent Networks for Moment Localization with Natural Language",
    authors=("Zhang", "Peng", "Fu", "Luo"),
    venue="AAAI",
    year=2020,
    family="ranking",
    kind="2D map",
    supervision="full",
    features="VGG, C3D; GloVe",
    official_code="microsoft/2D-TAN@2f7410f0de5e (PyTorch)",
    ours=(
        "What the paper leaves open is as in the official code.",
        "NMS keeps an IoU that equals the threshold. In the official code rounding decides: with random smooth "
        "scores the first five of 40% (16 clips), 20% (64) or 10% (128) of the queries are others at the "
        "threshold 0.5, of 2% at 0.4 (128), of none at 0.45.",
        "Of equal scores the earlier moment comes first, in the official code the later; cells that are no "
        "candidates, which it ranks behind all others, are left out.",
        "The injections of VDI (Luo et al., CVPR 2023) are an option, off by default; the sentence that they "
        "train is the LSTM's last state. With the paper's weights they harm an LSTM that learns from nothing: "
        "on storyboard R@1,IoU=0.5 is 20.5 with them and 67.4 without; the term of L_vc, at first 40 times "
        "that of the map, falls to 0.01.",
    ),
    verified=(
        "Parameter counts are those of the official code: 60,925,953 and 69,060,609 (Charades-STA, VGG, pool "
        "and conv), 91,588,609 and 108,644,353 (ActivityNet Captions, C3D).",
        "Against the official code at this commit, running, with small random weights, pool and conv, one and "
        "three scales, 16 and 64 clips: rows (1 to 1,500 of them), logits and loss agree to 1e-6, gradients to "
        "3e-7; ranked moments are the same where scores are more than 1e-7 apart.",
        "Every stage, the loss and the gradients equal a PyTorch twin to 1e-5, pool and conv.",
        "Official checkpoints of both variants are read by `torch_import`.",
    ),
)


@struct.dataclass
class Outputs:
    """Logits of all cells: row is the first clip, column the last; 0 at no candidate."""

    logits: jax.Array  # [B,G,G] float32
    injected: injection.Injected | None = None  # of VDI's injections; at test None


class Model(injection.Injections, GroundingModel):
    """2D-TAN, with the settings of Charades-STA and max-pooled proposals; it can carry VDI's `Injections`.

    Attributes:
      num_clips: G, number of clips along each side of the moment map.
      scale_layers: diagonals of the map that hold candidates, by scale, see
        `vmr_jax.layers.map2d.candidate_layers`.
      features: F, width of every layer.
      map_kernel: k, side of the kernels of the map convolutions, in cells; odd.
      map_layers: L, number of map convolutions.
      lstm_layers: number of layers of the query's LSTM.
      proposal: 'pool' or 'conv', how the features of a moment come from its clips.
      iou_low: IoU up to which a candidate is a full negative (t_min).
      iou_high: IoU from which a candidate is a full positive (t_max).
      vocab_size: number of words whose vectors are fine-tuned; 0 keeps the word vectors of the batch fixed (the
        paper's).
      keep: number of moments that `predict` returns; 0 for all candidates.
      dtype: number format of the layers; parameters, logits and loss are float32.
    """

    num_clips: int = 16
    scale_layers: tuple[int, ...] = (16,)
    features: int = 512
    map_kernel: int = 5
    map_layers: int = 8
    lstm_layers: int = 3
    proposal: str = "pool"
    iou_low: float = 0.5
    iou_high: float = 1.0
    vocab_size: int = 0
    keep: int = 0
    dtype: jnp.dtype = jnp.float32

    choices = {"proposal": ("pool", "conv"), **injection.CHOICES}

    @property
    def candidates(self) -> np.ndarray:
        """Returns [G,G] bool, the moments that are scored."""
        return candidate_mask(self.num_clips, self.scale_layers)

    def setup(self):
        """Names the parts of the injections."""
        self.visual_context, self.spatial_dynamics = self.injection_parts(self.features)

    @nn.compact
    def __call__(self, batch: Batch, *, train: bool) -> Outputs:
        """Scores every candidate of every pair; without the injections `train` changes nothing.

        Raises UserError where T is not a multiple of G.
        """
        batch.check()
        # Official code: FrameAvgPool.
        pool = ClipPool(self.features, self.num_clips, dtype=self.dtype, name="clips")
        clips = pool(batch.video, batch.video_mask)
        if self.proposal == "pool":  # Official code: SparsePropMaxPool.
            proposals = max_pool_map(clips, self.candidates)
        else:  # Official code: SparsePropConv.
            proposals = StackedConvMap(self.features, self.scale_layers, self.dtype, name="proposals")(clips)

        words = WordEmbedding(self.vocab_size, self.dtype, name="words")(batch)
        kinds = self.queries(train)  # the query alone where there are no injections
        words, mask = self.read_queries(batch, kinds, words, batch.query_mask)
        states = LSTM(self.features, self.lstm_layers, dtype=self.dtype, name="lstm")(words, mask)
        sentences = dict(zip(kinds, jnp.split(last_state(states, mask), len(kinds)), strict=True))

        fusion = Fusion(self.features, self.dtype, name="fusion")
        fused = fusion(proposals, sentences[kinds[0]], self.candidates)
        # Official code: MapConv.
        convs = MapConvs(self.features, self.map_kernel, self.map_layers, self.dtype, name="convs")
        context = convs(fused, self.candidates)
        # Official code: TAN. In float32 whatever the dtype of the layers, as is everything from here on.
        logits = torch_linear(1, context.astype(jnp.float32), jnp.float32, "score")[..., 0]
        logits = logits * self.candidates[None].astype(jnp.float32)
        return Outputs(logits, self.inject(sentences, batch, train))

    def loss(self, outputs: Outputs, batch: Batch, *, epoch: jax.Array) -> dict[str, Mean]:
        """Returns 'iou': cross-entropy with the scaled IoU (official code: bce_rescale_loss).

        With the injections also their `injection_terms`.
        """
        del epoch
        iou = iou_map(self.num_clips, batch.span, batch.duration)
        targets = scaled_iou(iou, self.iou_low, self.iou_high)  # y_i
        counted = self.candidates[None] & batch.example_mask[:, None, None]
        terms = {"iou": Mean.of(binary_cross_entropy(outputs.logits, targets), counted)}
        return terms | self.injection_terms(outputs.injected, batch)

    def requires(self) -> tuple[str, ...]:
        """Names what the injections read."""
        return self.injection_fields()

    def predict(self, outputs: Outputs, batch: Batch) -> Moments:
        """Returns the candidates, best first; the score is the sigmoid of the logit."""
        ranked = rank_cells(outputs.logits, self.candidates, batch.duration, self.keep)
        return dataclasses.replace(ranked, scores=jax.nn.sigmoid(ranked.scores))

    def explain(self, outputs: Outputs, batch: Batch) -> dict[str, jax.Array]:
        """Returns the score of every candidate: 'map' [B,G,G], NaN at no candidate."""
        return {"map": jnp.where(self.candidates[None], jax.nn.sigmoid(outputs.logits), jnp.nan)}


class Fusion(nn.Module):
    """Query times proposal in a common space (official code: BaseFusion)."""

    features: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, proposals: jax.Array, query: jax.Array, candidates: np.ndarray) -> jax.Array:
        """[B,G,G,F], [B,F] and the candidates [G,G] -> [B,G,G,F], unit vectors, zero at no candidate."""
        query = torch_linear(self.features, query, self.dtype, "query")
        proposals = torch_linear(self.features, proposals, self.dtype, "proposals")
        fused = l2_normalize(query[:, None, None] * proposals)
        return jnp.where(candidates[None, :, :, None], fused, 0)
