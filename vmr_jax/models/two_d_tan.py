"""2D-TAN: a map of all moments by start and end, on which each moment sees its neighbours.

Zhang, Peng, Fu, Luo: Learning 2D Temporal Adjacent Networks for Moment Localization with Natural Language,
AAAI 2020. What the paper leaves open is as in its official code (microsoft/2D-TAN), whose checkpoints
`vmr_jax.torch_import` reads.

  tensor        shape      what it is
  batch.video   [B,T,D]    clip features, rows L2-normalised; T is N times an integer (the official: 256)
  clips         [B,N,F]    linear, ReLU, mean over T / N rows
  proposals     [B,N,N,F]  cell (i, j): the clips i..j, max-pooled or convolved; zero at no candidate
  query         [B,F]      3-layer LSTM over word vectors, state at the last word
  fused         [B,N,N,F]  L2-normalised product of (linear) query and (linear) proposal
  context       [B,N,N,F]  L convolutions k x k over the candidates
  logits        [B,N,N]    linear; zero at no candidate

The settings of the paper (F = 512 in all):

  data set              N    scale_layers    k, L   iou_low, iou_high   NMS, pool and conv
  Charades-STA          16   (16,)           5, 8   0.5, 1.0            0.45, 0.5
  ActivityNet Captions  64   (16, 8, 8)      9, 4   0.5, 1.0            0.5, 0.5
  TACoS                 128  (16, 8, 8, 8)   5, 8   0.3, 0.7            0.4, 0.5
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from vmr_jax.errors import UserError
from vmr_jax.layers.clips import ClipPool
from vmr_jax.layers.linear import torch_linear
from vmr_jax.layers.map2d import MapConvs, StackedConvMap, candidate_mask, iou_map, max_pool_map, rank_cells
from vmr_jax.layers.norm import l2_normalize
from vmr_jax.layers.recurrent import LSTM, last_state
from vmr_jax.layers.text import WordEmbedding
from vmr_jax.losses import binary_cross_entropy, scaled_iou
from vmr_jax.models.base import GroundingModel
from vmr_jax.types import Batch, Mean, Moments

PROPOSALS = ("pool", "conv")


@struct.dataclass
class Outputs:
    """Logits of all cells [B,N,N], float32: row is the first clip, column the last; 0 at no candidate."""

    logits: jax.Array


class Model(GroundingModel):
    """2D-TAN. The defaults are those of Charades-STA with max-pooled proposals.

    Attributes:
      num_clips: N, clips per side of the map.
      scale_layers: which moments are candidates, see `vmr_jax.layers.map2d.candidate_layers`.
      features: F, width of every layer.
      map_kernel: k, kernel of the map convolutions.
      map_layers: L, number of map convolutions.
      lstm_layers: layers of the query's LSTM.
      proposal: 'pool' or 'conv', how the features of a moment come from its clips.
      iou_low: IoU up to which a cell is a full negative.
      iou_high: IoU from which a cell is a full positive.
      vocab_size: size of the vocabulary to fine-tune word vectors, 0 to keep them (the paper's).
      keep: candidates that `predict` ranks, 0 for all.
      dtype: of the layers; parameters, logits and loss are float32.
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

    @property
    def candidates(self) -> np.ndarray:
        """[N,N] bool, the moments that are scored."""
        return candidate_mask(self.num_clips, self.scale_layers)

    @nn.compact
    def __call__(self, batch: Batch, *, train: bool) -> Outputs:
        """Scores every candidate of every pair; there is nothing random, `train` changes nothing.

        Raises UserError for an unknown `proposal`, and where T is not a multiple of N.
        """
        del train
        batch.check()
        pool = ClipPool(self.features, self.num_clips, dtype=self.dtype, name="clips")
        clips = pool(batch.video, batch.video_mask)
        if self.proposal == "pool":
            proposals = max_pool_map(clips, self.candidates)
        elif self.proposal == "conv":
            proposals = StackedConvMap(self.features, self.scale_layers, self.dtype, name="proposals")(clips)
        else:
            raise UserError(
                f'proposal is "{self.proposal}"; 2D-TAN has the proposals {" and ".join(PROPOSALS)}.'
            )

        words = WordEmbedding(self.vocab_size, self.dtype, name="words")(batch)
        query = LSTM(self.features, self.lstm_layers, dtype=self.dtype, name="lstm")(words, batch.query_mask)
        query = last_state(query, batch.query_mask)

        fused = Fusion(self.features, self.dtype, name="fusion")(proposals, query, self.candidates)
        convs = MapConvs(self.features, self.map_kernel, self.map_layers, self.dtype, name="convs")
        context = convs(fused, self.candidates)
        # In float32 whatever the dtype of the layers, as is everything from here on.
        logits = torch_linear(1, context.astype(jnp.float32), jnp.float32, "score")[..., 0]
        return Outputs(logits=logits * self.candidates[None].astype(jnp.float32))

    def loss(self, outputs: Outputs, batch: Batch, *, epoch: jax.Array) -> dict[str, Mean]:
        """Cross-entropy of every candidate with its scaled IoU."""
        del epoch
        iou = iou_map(self.num_clips, batch.span, batch.duration)
        targets = scaled_iou(iou, self.iou_low, self.iou_high)
        counted = self.candidates[None] & batch.example_mask[:, None, None]
        return {"iou": Mean.of(binary_cross_entropy(outputs.logits, targets), counted)}

    def predict(self, outputs: Outputs, batch: Batch) -> Moments:
        """The candidates, best first; the score is the sigmoid of the logit."""
        ranked = rank_cells(outputs.logits, self.candidates, batch.duration, self.keep)
        return ranked.replace(scores=jax.nn.sigmoid(ranked.scores))

    def explain(self, outputs: Outputs, batch: Batch) -> dict[str, jax.Array]:
        """The score of every candidate: 'map' [B,N,N]."""
        return {"map": jnp.where(self.candidates[None], jax.nn.sigmoid(outputs.logits), jnp.nan)}


class Fusion(nn.Module):
    """Query times proposal in a common space."""

    features: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, proposals: jax.Array, query: jax.Array, candidates: np.ndarray) -> jax.Array:
        """[B,N,N,F], [B,F] and the candidates [N,N] -> [B,N,N,F], unit vectors, zero at no candidate."""
        query = torch_linear(self.features, query, self.dtype, "query")
        proposals = torch_linear(self.features, proposals, self.dtype, "proposals")
        fused = l2_normalize(query[:, None, None] * proposals)
        return jnp.where(candidates[None, :, :, None], fused, 0)
