"""VDI: a text encoder that learns from video frames what words of change look like; then MMN.

Luo, Huang, Gong, Jin, Liu: Towards Generalisable Video Moment Retrieval: Visual-Dynamic Injection to Image-Text
Pre-Training, CVPR 2023. CLIP's image features stay as they are, its text encoder is trained. In training only,
two branches read the dynamic query (the sentence without its noun chunks): it shall say what the static query
(its noun chunks) finds in the frames, and two dynamic queries shall be as alike as their videos' movements.

  tensor          shape       what it is (symbols of the paper)
  batch.video     [B,T,D']    CLIP embedding of each frame, L2-normalised rows                 x_i^v
  batch.objects   [B,T,O,D"]  its patches (for ViT-B/32: 7 x 7 = 49 tokens)                    X~_i^v
  clips           [B,N,D']    mean over T / N frames
  moments         2 [G,M,C]   unit vectors of the IoU space and of the contrastive space, as MMN's
  sentence        [B,D]       of the text encoder: whole, static, dynamic query                x^q, x^qs, x^qd
  context         [B,D]       transformer decoder: the static query attends to the frames      Eq. 1
  heat            [B,T,O]     FC(frame) . FC(patch) / sqrt(D)                                  M_i, Eq. 3
  movement        [B,D]       transformer encoder over FC(heat), mean over frames              m~, Eq. 4

No official code is known. The following is not in the paper and is our choice, so no result of this file is a
reproduction of the authors' program:

- a masked word is removed, and the words that remain close up (`masked='remove'`); with 'placeholder' another
  word stands in its place: `placeholder` of CLIP's vocabulary ("_"), a learned vector with `text='glove'`;
- the deleted "linear layer in the pooling module" takes its ReLU with it;
- sizes of the plug-ins: one layer, 8 heads, 2048 hidden units, dropout 0.1, DETR's sinusoidal positions on the
  frames; every FC of the paper is a linear layer of its own, D wide;
- 'video', the ablation without a text query, probes the frames with a learned vector;
- the LSTM of the ablation has one layer of D units, and its states are averaged as those of the transformer;
- a masked patch has heat 0; all pairs of a batch count in L_sd, (i, i) and pairs of one video included;
- lambda_iou is 1; lambda_cl, temperature, margin and other constants of the contrast, map, joint spaces and the
  score are MMN's (Charades-STA), the weight of the contrast does not fade. The paper's Eq. 10 multiplies the
  cosines themselves; MMN's product of probabilities orders better where one is negative;
- `text='glove'`: word vectors, a bidirectional LSTM and the mean of its states, where there is no CLIP.

Ablations of table 3, as fields: baseline `context='off', dynamics='off'`; L_vc without a query, with Q and with
Q^s `context='video'`, 'query' and 'static', each with `dynamics='off'`; L_sd with LSTM and with a transformer
`dynamics='lstm'` and 'transformer', each with `context='off'`. Figure 3 retrieves with `test_query`.

Training of the paper: AdamW, batch 48, learning rate 1e-4 (Charades-STA) or 8e-4 (ActivityNet Captions), a
tenth of it for the text encoder, lambda_vc 0.5, lambda_sd 0.01, early stopping.
"""

import flax.linen as nn
import jax.numpy as jnp
from flax import struct

from vmr_jax.errors import check_choices
from vmr_jax.layers import metric_map
from vmr_jax.layers.clip_text import ClipText
from vmr_jax.layers.clips import average_clips
from vmr_jax.layers.norm import l2_normalize
from vmr_jax.layers.recurrent import LSTM
from vmr_jax.layers.text import WordEmbedding
from vmr_jax.layers.transformer import DecoderLayer, EncoderLayer, sine_positions
from vmr_jax.models.base import DualEncoder, GroundingModel
from vmr_jax.parallel import gather_examples
from vmr_jax.types import Array, Batch, Mean

CHOICES = {
    "text": ("clip", "glove"),
    "masked": ("remove", "placeholder"),
    "context": ("static", "query", "video", "off"),
    "dynamics": ("transformer", "lstm", "off"),
    "test_query": ("query", "static", "dynamic"),
}


@struct.dataclass
class Outputs(metric_map.Matching):
    """As MMN's, and in training what the two injections compare."""

    context_gap: Array | None = None  # [B] float32, squared distance of Eq. 2
    movement: Array | None = None  # [B,D] float32 unit vectors, m~
    dynamic: Array | None = None  # [B,D] float32 unit vectors, FC(x^qd) of Eq. 5


class Model(metric_map.MutualMatching, GroundingModel, DualEncoder):
    """VDI. The defaults are those of Charades-STA.

    As a dual encoder it is MMN: see `vmr_jax.layers.metric_map.joined_sentence`.

    Attributes:
      num_clips: N, clips per side of the map.
      scale_layers: which moments are candidates, see `vmr_jax.layers.map2d.candidate_layers`.
      features: width of the map convolutions.
      space: C, width of both joint spaces.
      map_kernel: kernel of the map convolutions.
      map_layers: number of map convolutions.
      text: 'clip' or 'glove'.
      text_features: D, width of a sentence.
      text_layers: of CLIP's text encoder.
      text_heads: of CLIP's text encoder.
      text_vocab: subwords of CLIP's text encoder.
      text_positions: longest sentence of CLIP's text encoder.
      masked: 'remove' or 'placeholder', what becomes of masked words.
      placeholder: subword that stands in their place.
      context: what probes the frames in L_vc: 'static', 'query' (whole), 'video' (nothing); 'off': no L_vc.
      dynamics: what reads the heat maps in L_sd: 'transformer', 'lstm'; 'off': no L_sd.
      context_weight: lambda_vc.
      dynamics_weight: lambda_sd.
      plugin_heads: of both transformers.
      plugin_hidden: width inside their feed-forward networks.
      plugin_dropout: of both transformers.
      test_query: what is retrieved with: 'query', 'static' or 'dynamic'.
      queries_per_video: consecutive rows of a training batch that are of one video, whose map is computed once;
        it must be config.input.queries_per_video. 1: random pairs, as the paper's.
      iou_low: IoU up to which a candidate is a full negative.
      iou_high: IoU from which a candidate is a full positive.
      iou_scale: of the cosine in the IoU space.
      positives: candidates of highest IoU that are positive in the contrast.
      margin: taken from the cosine of positive pairs in the contrast.
      temperature: tau of the contrast.
      negative_iou: from which on a candidate of the same video is no negative.
      same_iou: IoU of two moments of a video from which on their sentences are no negatives of each other.
      contrast_weight: lambda_cl.
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
    text: str = "clip"
    text_features: int = 512
    text_layers: int = 12
    text_heads: int = 8
    text_vocab: int = 49408
    text_positions: int = 77
    masked: str = "remove"
    placeholder: int = 318
    context: str = "static"
    dynamics: str = "transformer"
    context_weight: float = 0.5
    dynamics_weight: float = 0.01
    plugin_heads: int = 8
    plugin_hidden: int = 2048
    plugin_dropout: float = 0.1
    test_query: str = "query"
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

    def setup(self):
        """Names the parts; raises UserError for a field that has no such value."""
        check_choices("VDI", self, CHOICES)
        self.map = self.moment_map()
        if self.text == "clip":
            self.text_encoder = ClipText(
                self.text_vocab,
                self.text_features,
                self.text_layers,
                self.text_heads,
                self.text_positions,
                self.text_features,
                self.dtype,
            )
        else:
            self.words = WordEmbedding(self.vocab_size, self.dtype)
            self.text_encoder = metric_map.MeanState(self.text_features, self.dtype)
            if self.masked == "placeholder":
                self.placeholder_word = PlaceholderWord()
        self.sentence_spaces = metric_map.JointSpaces(self.space, self.dtype)
        plugin = (self.text_features, self.plugin_heads, self.plugin_hidden, self.plugin_dropout, self.dtype)
        if self.context != "off":
            self.visual_context = VisualContext(*plugin)
        if self.dynamics != "off":
            self.spatial_dynamics = SpatialDynamics(self.dynamics, *plugin)

    def __call__(self, batch: Batch, *, train: bool) -> Outputs:
        """Compares every query with the candidates of its video; in training also runs the injections.

        Raises UserError where T is not a multiple of N, or the rows of a device not one of queries_per_video
        (training).
        """
        batch.check()
        moments = self._moments(batch, train)
        if not train:
            return self._matched(moments, self._query(batch, train))
        kinds = ["query", *self._injected()]
        sentences = dict(zip(kinds, self._sentences(batch, *kinds), strict=True))
        outputs = self._matched(moments, self.sentence_spaces(sentences["query"]))
        if self.context != "off":
            gap = self.visual_context(sentences["dynamic"], sentences.get(self.context), batch)
            outputs = outputs.replace(context_gap=gap)
        if self.dynamics != "off":
            movement, dynamic = self.spatial_dynamics(sentences["dynamic"], batch)
            outputs = outputs.replace(movement=movement, dynamic=dynamic)
        return outputs

    def loss(self, outputs: Outputs, batch: Batch, *, epoch: Array) -> dict[str, Mean]:
        """Eq. 11: 'iou', 'moment' and 'sentence' (L_cl), 'context' (L_vc) and 'dynamics' (L_sd)."""
        del epoch
        terms = self.matching_terms(outputs, batch, self.contrast_weight)
        if outputs.context_gap is not None:
            terms["context"] = Mean.of(outputs.context_gap, batch.example_mask, self.context_weight)
        if outputs.movement is not None:
            gap = consistency(outputs.movement, outputs.dynamic)
            pairs = batch.example_mask[:, None] & gather_examples(batch.example_mask)[None]
            terms["dynamics"] = Mean.of(gap, pairs, self.dynamics_weight)
        return terms

    def requires(self) -> tuple[str, ...]:
        """The subwords or words of the queries that are read, and the patches for L_sd."""
        kinds = dict.fromkeys([*self._injected(), self.test_query])
        if self.text == "clip":
            fields = ("subwords", *(f"subword_{kind}" for kind in kinds if kind != "query"))
        else:
            fields = tuple(f"{kind}_words" for kind in kinds if kind != "query")
        return fields + (("objects",) if self.dynamics != "off" else ())

    def _injected(self) -> list[str]:
        """The queries that the injections read."""
        static = ["static"] if self.context == "static" else []
        return [*static, "dynamic"] if (self.context, self.dynamics) != ("off", "off") else []

    def _matched(self, moments: tuple[Array, Array], query: tuple[Array, Array]) -> Outputs:
        return Outputs(**vars(metric_map.match(moments, query, self.iou_scale)))

    def _moments(self, batch: Batch, train: bool) -> tuple[Array, Array]:
        """[G,M,C] of both spaces."""
        video, mask, real = self.videos(batch, train)
        return self.map(average_clips(video.astype(self.dtype), mask, self.num_clips), real, train)

    def _query(self, batch: Batch, train: bool) -> tuple[Array, Array]:
        """[B,C] of both spaces, of what is retrieved with at test."""
        del train
        return self.sentence_spaces(*self._sentences(batch, self.test_query))

    def _sentences(self, batch: Batch, *kinds: str) -> list[Array]:
        """[B,D] of 'query', 'static' or 'dynamic', encoded together."""
        tokens, masks = zip(*(self._tokens(batch, kind) for kind in kinds), strict=True)
        encoded = self.text_encoder(jnp.concatenate(tokens), jnp.concatenate(masks))
        sentences = encoded[1] if self.text == "clip" else encoded
        return jnp.split(sentences, len(kinds))

    def _tokens(self, batch: Batch, kind: str) -> tuple[Array, Array]:
        """What the text encoder reads of a query, subwords [B,S] or word vectors [B,L,W], and its mask."""
        if self.text == "clip":
            tokens, mask, field = batch.subwords, batch.subword_mask, f"subword_{kind}"
        else:
            tokens, mask, field = self.words(batch), batch.query_mask, f"{kind}_words"
        if kind == "query":
            return tokens, mask
        kept = getattr(batch, field)
        if self.masked == "remove":
            return close_up(tokens, kept)
        if self.text == "clip":
            return jnp.where(kept, tokens, self.placeholder), mask
        return self.placeholder_word(tokens, kept), mask


class PlaceholderWord(nn.Module):
    """A learned vector in the place of masked words."""

    @nn.compact
    def __call__(self, words: Array, kept: Array) -> Array:
        """Word vectors [B,L,W] and which are kept [B,L] -> [B,L,W]."""
        vector = self.param("vector", nn.initializers.normal(1.0), words.shape[-1:])
        return jnp.where(kept[..., None], words, vector[None, None].astype(words.dtype))


class VisualContext(nn.Module):
    """Eqs. 1 and 2: what a query finds in the frames, and how far the dynamic query is from it."""

    features: int
    heads: int
    hidden: int
    dropout: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, dynamic: Array, probe: Array | None, batch: Batch) -> Array:
        """[B]: squared distance of the dynamic query [B,D] from the context of `probe` [B,D]; None: learned."""
        if probe is None:
            probe = self.param("probe", nn.initializers.normal(1.0), (self.features,))
            probe = jnp.broadcast_to(probe[None], dynamic.shape).astype(self.dtype)
        decoder = DecoderLayer(self.features, self.heads, self.hidden, self.dropout, self.dtype, name="decoder")
        context = decoder(
            probe[:, None],
            batch.video.astype(self.dtype),
            jnp.ones((batch.size, 1), bool),
            batch.video_mask,
            batch.example_index,
            train=True,
            memory_positions=sine_positions(batch.video_mask, batch.video.shape[-1]),
        )[:, 0]
        gap = nn.Dense(self.features, dtype=self.dtype, name="dynamic")(dynamic) - context
        return jnp.square(gap.astype(jnp.float32)).sum(-1)


class SpatialDynamics(nn.Module):
    """Eqs. 3 to 5: how the places that stand out move, and the dynamic query in the same space."""

    sequence: str
    features: int
    heads: int
    hidden: int
    dropout: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, dynamic: Array, batch: Batch) -> tuple[Array, Array]:
        """Unit vectors [B,D] of the movement in a video and of its dynamic query [B,D]."""
        frames = self._dense("frame", batch.video.astype(self.dtype))
        patches = self._dense("patch", batch.objects.astype(self.dtype))
        heat = jnp.einsum("btd,btod->bto", frames, patches) / jnp.sqrt(self.features).astype(self.dtype)
        x = self._dense("heat", jnp.where(batch.object_mask, heat, 0))
        if self.sequence == "lstm":
            x = LSTM(self.features, dtype=self.dtype, name="lstm")(x, batch.video_mask)
        else:
            layer = EncoderLayer(
                self.features, self.heads, self.hidden, self.dropout, self.dtype, name="encoder"
            )
            positions = sine_positions(batch.video_mask, self.features)
            x = layer(x, batch.video_mask, batch.example_index, train=True, positions=positions)
        movement = metric_map.mean_state(x, batch.video_mask)
        both = movement, self._dense("dynamic", dynamic)
        return tuple(l2_normalize(vector.astype(jnp.float32)) for vector in both)

    def _dense(self, name: str, x: Array) -> Array:
        return nn.Dense(self.features, dtype=self.dtype, name=name)(x)


def consistency(movement: Array, dynamic: Array) -> Array:
    """Eq. 5: (cosine of movements - cosine of dynamic queries)^2 of all pairs, [B,B'].

    Rows are the local examples of unit vectors [B,D], columns B' those of all devices.
    """

    def cosines(vectors):
        return jnp.einsum("bd,cd->bc", vectors, gather_examples(vectors), precision="highest")

    return jnp.square(cosines(movement) - cosines(dynamic))


def close_up(tokens: Array, kept: Array) -> tuple[Array, Array]:
    """Moves the kept tokens of [B,L,...] to the left, in order; returns them and their mask [B,L]."""
    order = jnp.argsort(~kept, axis=1, stable=True)
    index = order.reshape(order.shape + (1,) * (tokens.ndim - 2))
    return jnp.take_along_axis(tokens, index, axis=1), jnp.take_along_axis(kept, order, axis=1)
