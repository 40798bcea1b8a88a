"""MMN: moments and sentences meet only in a cosine, trained against the negatives of the whole batch.

Wang, Wang, Wu, Li, Wu: Negative Sample Matters: A Renaissance of Metric Learning for Temporal Grounding,
AAAI 2022. What the paper leaves open is as in its official code (MCG-NJU/MMN), whose checkpoints
`vmr_jax.torch_import` reads.

  tensor         shape     what it is
  batch.video    [B,T,D]   clip features, rows L2-normalised; T is N times an integer (the official: 2, 4, 2)
  clips          [G,N,F]   linear, ReLU, mean over T / N rows
  proposals      [G,M,F]   max over the clips of each of the M candidates (2D-TAN's map)
  context        [G,M,F]   L times: convolution k x k, batch norm, ReLU, division by the cells under the kernel
  moments        2 [G,M,C] unit vectors of the IoU space and of the contrastive space, each from a linear layer
  sentence       [B,E]     mean of DistilBERT's last states, [CLS] and [SEP] included; layer norm
  sentences      2 [B,C]   unit vectors of both spaces, each from a linear layer
  iou_logits     [B,M]     10 times the cosine in the IoU space
  contrast       [B,M]     cosine in the contrastive space

A training example of the paper is a video with all its sentences: with `queries_per_video` = S the rows of a
training batch come in groups of S of one video (missing ones filled up), and its map is computed once:
G = B / S. Otherwise, and in evaluation, G = B. A video that comes twice in a batch counts once as a source of
negatives either way.

The settings of the official code (F = 512, C = 256, tau = 0.1 in all):

  data set              N    scale_layers    k, L  iou_low, high  K  margin  weight  full epochs  power  NMS
  Charades-STA          16   (16,)           5, 8  0.5, 1.0       1  0.4     0.05    7            0.5    0.5
  ActivityNet Captions  64   (16, 8, 8)      9, 4  0.5, 1.0       1  0.3     0.1     6            0.5    0.5
  TACoS                 128  (16, 8, 8, 8)   5, 8  0.3, 0.7       3  0.1     0.1     100          0.3    0.4

Not as in the official code: negatives and batch-norm statistics come from all devices, not one GPU's share, so
that nothing depends on the number of devices. `text='glove'` is ours: word vectors, a bidirectional LSTM and
the mean of its states in the place of DistilBERT's. The official code's map of convolutions ("conv", in none of
its configs) is left out.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct

from vmr_jax.errors import UserError, nearest
from vmr_jax.layers import metric_map
from vmr_jax.layers.clips import ClipPool
from vmr_jax.layers.distilbert import DistilBert
from vmr_jax.layers.text import WordEmbedding
from vmr_jax.models.base import DualEncoder, GroundingModel
from vmr_jax.types import Batch, Mean

TEXTS = ("distilbert", "glove")


@struct.dataclass
class Outputs(metric_map.Matching):
    """The fields of `vmr_jax.layers.metric_map.Matching`: scores of all candidates, and unit vectors."""


class Model(metric_map.MutualMatching, GroundingModel, DualEncoder):
    """MMN. The defaults are those of Charades-STA.

    As a dual encoder its vectors are those of both spaces, joined; the dot product is not the score but the
    linear part of its logarithm, see `vmr_jax.layers.metric_map.joined_sentence`.

    Attributes:
      num_clips: N, clips per side of the map.
      scale_layers: which moments are candidates, see `vmr_jax.layers.map2d.candidate_layers`.
      features: F, width of clips and convolutions.
      space: C, width of both joint spaces.
      map_kernel: k, kernel of the map convolutions.
      map_layers: L, number of map convolutions.
      text: 'distilbert' or 'glove'.
      text_features: E, width of the states of the text encoder.
      text_layers: of DistilBERT.
      text_heads: of DistilBERT.
      text_hidden: width inside DistilBERT's feed-forward networks.
      text_vocab: subwords of DistilBERT.
      text_positions: longest sentence of DistilBERT.
      text_dropout: of DistilBERT.
      queries_per_video: S, consecutive rows of a training batch that are of one video; it must be
        config.input.queries_per_video.
      iou_low: IoU up to which a candidate is a full negative.
      iou_high: IoU from which a candidate is a full positive.
      iou_scale: of the cosine in the IoU space.
      positives: K, candidates of highest IoU that are positive in the contrast.
      margin: taken from the cosine of positive pairs in the contrast.
      temperature: tau of the contrast.
      negative_iou: from which on a candidate of the same video is no negative.
      same_iou: IoU of two moments from which on their sentences are no negatives of each other.
      contrast_weight: of both terms of the contrast in the first epochs.
      contrast_epochs: those first epochs.
      late_weight: factor of `contrast_weight` after them.
      score_power: exponent of the contrastive score.
      vocab_size: size of the vocabulary to fine-tune word vectors, 0 to keep them; read by 'glove' alone.
      keep: candidates that `predict` ranks, 0 for all.
      dtype: of the layers; parameters, cosines and losses are float32.
    """

    num_clips: int = 16
    scale_layers: tuple[int, ...] = (16,)
    features: int = 512
    space: int = 256
    map_kernel: int = 5
    map_layers: int = 8
    text: str = "distilbert"
    text_features: int = 768
    text_layers: int = 6
    text_heads: int = 12
    text_hidden: int = 3072
    text_vocab: int = 30522
    text_positions: int = 512
    text_dropout: float = 0.1
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
    contrast_epochs: int = 7
    late_weight: float = 0.01
    score_power: float = 0.5
    vocab_size: int = 0
    keep: int = 0
    dtype: jnp.dtype = jnp.float32

    def setup(self):
        """Names the parts; raises UserError for an unknown `text`."""
        self.clips = ClipPool(self.features, self.num_clips, dtype=self.dtype)
        self.map = self.moment_map()
        if self.text == "distilbert":
            self.text_encoder = DistilBert(
                self.text_vocab,
                self.text_features,
                self.text_layers,
                self.text_heads,
                self.text_hidden,
                self.text_positions,
                self.text_dropout,
                self.dtype,
            )
        elif self.text == "glove":
            self.words = WordEmbedding(self.vocab_size, self.dtype)
            self.text_encoder = metric_map.MeanState(self.text_features, self.dtype)
        else:
            raise UserError(
                f'text of MMN is "{self.text}".{nearest(self.text, TEXTS)} It must be one of: '
                f"{', '.join(TEXTS)}."
            )
        self.sentence_norm = nn.LayerNorm(epsilon=1e-5, use_fast_variance=False, dtype=self.dtype)
        self.sentence_spaces = metric_map.JointSpaces(self.space, self.dtype)

    def __call__(self, batch: Batch, *, train: bool) -> Outputs:
        """Compares every query with the candidates of its video.

        Raises UserError where T is not a multiple of N, or the rows of a device not one of S (training).
        """
        batch.check()
        matching = metric_map.match(self._moments(batch, train), self._query(batch, train), self.iou_scale)
        return Outputs(**vars(matching))

    def loss(self, outputs: Outputs, batch: Batch, *, epoch: jax.Array) -> dict[str, Mean]:
        """'iou': cross-entropy with scaled IoU; 'moment' and 'sentence': the contrast of either."""
        factor = jnp.where(epoch < self.contrast_epochs, 1.0, self.late_weight)
        return self.matching_terms(outputs, batch, self.contrast_weight * factor)

    def requires(self) -> tuple[str, ...]:
        """DistilBERT's subwords."""
        return ("subwords",) if self.text == "distilbert" else ()

    def _moments(self, batch: Batch, train: bool) -> tuple[jax.Array, jax.Array]:
        """[G,M,C] of both spaces."""
        video, mask, real = self.videos(batch, train)
        return self.map(self.clips(video, mask), real, train)

    def _query(self, batch: Batch, train: bool) -> tuple[jax.Array, jax.Array]:
        """[B,C] of both spaces."""
        if self.text == "distilbert":
            states = self.text_encoder(batch.subwords, batch.subword_mask, batch.example_index, train)
            sentence = metric_map.mean_state(states, batch.subword_mask)
        else:
            sentence = self.text_encoder(self.words(batch), batch.query_mask)
        return self.sentence_spaces(self.sentence_norm(sentence))
