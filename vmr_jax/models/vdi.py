"""VDI: a text encoder that learns from video frames what words of change look like; then MMN.

CLIP's image features stay as they are, its text encoder is trained. In training only, two branches read the
dynamic query (the sentence without its noun chunks): it shall say what the static query (its noun chunks) finds
in the frames, and two dynamic queries shall be as alike as their videos' movements. What is MMN's, that is Eq.
6 to Eq. 10, stands in `vmr_jax.models.mmn`.

Tensors (B rows of U videos; E = `space`; F = `text_features`, the paper's D, also the width of the map; symbols
of the paper at the right):

    batch.video      [B,T,D]    CLIP embedding of each frame, L2-normalised rows              x_i^v
    batch.objects    [B,T,O,D]  its patches (for ViT-B/32: 7 x 7 = 49 tokens), normalised     X~_i^v
    clips            [U,G,D]    mean over T / G frames
    moments          2 [U,M,E]  unit vectors of the IoU space and of the contrastive space    X~^m, Eq. 8
    sentence         [B,F]      the whole, static or dynamic query, encoded                   x^q, x^qs, x^qd
    context          [B,F]      transformer decoder: the static query attends to the frames   x~^qs, Eq. 1
    heat             [B,T,O]    FC(frame) . FC(patch) / sqrt(F)                               M_i, Eq. 3
    movement         [B,F]      transformer encoder over FC(heat), mean over frames           m~, Eq. 4
    iou_logits       [B,M]      10 times the cosine in the IoU space                          Y~^iou, Eq. 6
    contrast         [B,M]      cosine in the contrastive space                               Y~^cl, Eq. 9

Ablations of table 3, as fields: baseline `context='off', dynamics='off'`; L_vc without a query, with Q and with
Q^s `context='video'`, 'query' and 'static', each with `dynamics='off'`; L_sd with LSTM and with a transformer
`dynamics='lstm'` and 'transformer', each with `context='off'`. Figure 3 retrieves with `test_query`.

Training of the paper (section 4.1.3): AdamW, batch 48, learning rate 1e-4 (Charades-STA) or 8e-4 (ActivityNet
Captions), a tenth of it for the text encoder, lambda_vc 0.5, lambda_sd 0.01, early stopping.
"""

import dataclasses

import flax.linen as nn
import jax.numpy as jnp
from flax import struct

from vmr_jax.errors import check_choices
from vmr_jax.layers.clip_text import ClipText
from vmr_jax.layers.clips import average_clips
from vmr_jax.layers.norm import l2_normalize
from vmr_jax.layers.recurrent import LSTM, mean_state
from vmr_jax.layers.sentence import MeanState
from vmr_jax.layers.text import WordEmbedding
from vmr_jax.layers.transformer import DecoderLayer, EncoderLayer, sine_positions
from vmr_jax.models import mmn
from vmr_jax.models.card import Card
from vmr_jax.parallel import gather_examples
from vmr_jax.types import Array, Batch, Mean, Moments

CARD = Card(
    title="Towards Generalisable Video Moment Retrieval: Visual-Dynamic Injection to Image-Text Pre-Training",
    authors=("Luo", "Huang", "Gong", "Jin", "Liu"),
    venue="CVPR",
    year=2023,
    family="ranking",
    kind="MMN with visual-dynamic injection (dual encoder)",
    supervision="full",
    features="CLIP frames and patches; CLIP text",
    equations=tuple(range(1, 12)),
    ours=(
        "A masked word is removed, and the words that remain close up; with masked='placeholder' another word "
        "stands in its place: `placeholder` of CLIP's vocabulary ('_'), a learned vector with text='glove'.",
        "The deleted 'linear layer in the pooling module' takes its ReLU with it.",
        "The plug-ins have one layer, 8 heads, 2048 hidden units, dropout 0.1 and DETR's sinusoidal positions "
        "on the frames; every FC of the paper is a linear layer of its own, as wide as a sentence.",
        "The ablation without a text query, context='video', probes the frames with a learned vector.",
        "The LSTM of the ablation has one layer as wide as a sentence, and its states are averaged as those of "
        "the transformer.",
        "A masked patch has heat 0; all pairs of a batch count in L_sd, (i, i) and pairs of one video "
        "included.",
        "Frames and patches are L2-normalised, each patch for itself; the paper does not say. The heat of Eq. "
        "3 then starts with a standard deviation of 2e-3 (2e-4 where the 49 patches of a frame are one unit "
        "vector).",
        "L_vc is the sum of Eq. 2, not a mean. The decoder ends in layer normalisation, whose output has a "
        "squared length of F = 512 at first, so that L_vc starts above 512, with lambda_vc above 256, beside "
        "0.8 of L_iou. AdamW divides its gradient by its own size in the text encoder; the map never sees it.",
        "L_sd is the mean over all pairs, as in Eq. 11. It is a squared difference of cosines, so that with "
        "lambda_sd it is 0.04 at most; it starts at 5e-4 to 3e-3.",
        "Of the training the paper states optimiser, rates, batch and weights, and that it stops early; beta2 "
        "0.99, weight decay 1e-5, the clip of the gradient at norm 5 and 18 epochs are MMN's, a patience of 3 "
        "evaluations is ours.",
        "Eq. 6 and 7 compare the cosine with the IoU itself; here, as in MMN's program, 10 times the cosine "
        "is the logit, and the label is the IoU scaled from [0.5, 1] to [0, 1].",
        "The weight lambda_iou is 1; lambda_cl, temperature, margin and the other constants of contrast, map, "
        "joint spaces and score are MMN's for Charades-STA, and the weight of the contrast does not fade.",
        "Eq. 10 multiplies the cosines themselves; MMN's product of probabilities, which is used here, orders "
        "better where one cosine is negative.",
        "With text='glove', word vectors, a bidirectional LSTM and the mean of its states take the place of "
        "CLIP's text encoder.",
    ),
    verified=(
        "Every ablation of table 3 runs.",
        "Eq. 3 and Eq. 4 equal a computation frame by frame in numpy, and both injection losses numbers "
        "computed by hand.",
        "CLIP's text encoder equals that of the library `transformers` with the same weights.",
    ),
)
CHOICES = {
    "text": ("clip", "glove"),
    "masked": ("remove", "placeholder"),
    "context": ("static", "query", "video", "off"),
    "dynamics": ("transformer", "lstm", "off"),
    "test_query": ("query", "static", "dynamic"),
}


@struct.dataclass
class Outputs(mmn.Outputs):
    """As MMN's, and in training what the two injections compare."""

    context_gap: Array | None = None  # [B] float32, squared distance of Eq. 2
    movement: Array | None = None  # [B,F] float32 unit vectors, m~ of Eq. 4
    dynamic: Array | None = None  # [B,F] float32 unit vectors, FC(x^qd) of Eq. 5


class Model(mmn.MutualMatching):
    """VDI: the further fields beside those of `vmr_jax.models.mmn.MutualMatching`. Defaults: Charades-STA.

    Attributes:
      text: text encoder, 'clip' or 'glove' (word vectors).
      text_features: F, width of a sentence.
      text_layers: number of layers of CLIP's text encoder.
      text_heads: number of attention heads of CLIP's text encoder.
      text_vocab: number of subwords in the vocabulary of CLIP's text encoder.
      text_positions: number of subwords in the longest sentence of CLIP's text encoder.
      masked: how masked words are left out, 'remove' or 'placeholder' (another word in their place).
      placeholder: id of the subword that stands in their place.
      context: source of the vector that probes the frames in L_vc: 'static' query, whole 'query', or 'video', a
        learned vector without a query; 'off' leaves L_vc out.
      dynamics: sequence model that reads the heat maps in L_sd, 'transformer' or 'lstm'; 'off' leaves L_sd out.
      context_weight: lambda_vc, weight of L_vc.
      dynamics_weight: lambda_sd, weight of L_sd.
      plugin_heads: number of attention heads of both transformers of the injections.
      plugin_hidden: width inside their feed-forward networks.
      plugin_dropout: dropout rate of both.
      test_query: query that moments are retrieved with: 'query', the whole one, 'static' or 'dynamic'.
    """

    shared_by_heads = {"text_heads": "text_features", "plugin_heads": "text_features"}

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
            self.text_encoder = MeanState(self.text_features, self.dtype)
            if self.masked == "placeholder":
                self.placeholder_word = PlaceholderWord()
        self.sentence_spaces = mmn.JointSpaces(self.space, self.dtype)
        plugin = (self.text_features, self.plugin_heads, self.plugin_hidden, self.plugin_dropout, self.dtype)
        if self.context != "off":
            self.visual_context = VisualContext(*plugin)
        if self.dynamics != "off":
            self.spatial_dynamics = SpatialDynamics(self.dynamics, *plugin)

    def __call__(self, batch: Batch, *, train: bool) -> Outputs:
        """Compares every query with the candidates of its video; in training also runs the injections.

        Raises UserError where T is not a multiple of G, or the rows of a device not one of J (training).
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
            outputs = dataclasses.replace(outputs, context_gap=gap)
        if self.dynamics != "off":
            movement, dynamic = self.spatial_dynamics(sentences["dynamic"], batch)
            outputs = dataclasses.replace(outputs, movement=movement, dynamic=dynamic)
        return outputs

    def loss(self, outputs: Outputs, batch: Batch, *, epoch: Array) -> dict[str, Mean]:
        """Eq. 11: 'iou' (L_iou), 'moment' and 'sentence' (L_cl), 'context' (L_vc) and 'dynamics' (L_sd)."""
        del epoch
        terms = self.matching_terms(outputs, batch, self.contrast_weight)  # Eq. 7 and Eq. 8
        if outputs.context_gap is not None:
            terms["context"] = Mean.of(outputs.context_gap, batch.example_mask, self.context_weight)
        if outputs.movement is not None:
            gap = consistency(outputs.movement, outputs.dynamic)
            pairs = batch.example_mask[:, None] & gather_examples(batch.example_mask)[None]
            terms["dynamics"] = Mean.of(gap, pairs, self.dynamics_weight)
        return terms

    def requires(self) -> tuple[str, ...]:
        """Names the subwords or words of the queries that are read, and the patches for L_sd."""
        kinds = dict.fromkeys([*self._injected(), self.test_query])
        if self.text == "clip":
            fields = ("subwords", *(f"subword_{kind}" for kind in kinds if kind != "query"))
        else:
            fields = tuple(f"{kind}_words" for kind in kinds if kind != "query")
        return fields + (("objects",) if self.dynamics != "off" else ())

    def predict(self, outputs: Outputs, batch: Batch) -> Moments:  # type: ignore[override]  # of outputs of its own
        """Eq. 10, by MMN's product of both scores."""
        return super().predict(outputs, batch)

    def _injected(self) -> list[str]:
        """Returns the names of the queries that the injections read."""
        static = ["static"] if self.context == "static" else []
        return [*static, "dynamic"] if (self.context, self.dynamics) != ("off", "off") else []

    def _matched(self, moments: tuple[Array, Array], query: tuple[Array, Array]) -> Outputs:
        """Eq. 6 and Eq. 9."""
        return Outputs(**vars(mmn.match(moments, query, self.iou_scale)))

    def _moments(self, batch: Batch, train: bool) -> tuple[Array, Array]:
        """Returns [U,M,E] of both spaces: the vectors of candidates in Eq. 6 and Eq. 8."""
        video, mask, real = self.videos(batch, train)
        return self.map(average_clips(video.astype(self.dtype), mask, self.num_clips), real, train)

    def _query(self, batch: Batch, train: bool) -> tuple[Array, Array]:
        """Returns [B,E] of both spaces, of the query that is retrieved with at test."""
        del train
        return self.sentence_spaces(*self._sentences(batch, self.test_query))

    def _sentences(self, batch: Batch, *kinds: str) -> list[Array]:
        """Returns [B,F] of 'query', 'static' or 'dynamic', encoded together: f^q of Eq. 1 and Eq. 2."""
        tokens, masks = zip(*(self._tokens(batch, kind) for kind in kinds), strict=True)
        encoded = self.text_encoder(jnp.concatenate(tokens), jnp.concatenate(masks))
        sentences = encoded[1] if self.text == "clip" else encoded
        return jnp.split(sentences, len(kinds))

    def _tokens(self, batch: Batch, kind: str) -> tuple[Array, Array]:
        """Returns the input of the text encoder, subwords [B,S] or word vectors [B,L,W], and its mask."""
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


# Section 3.1: the two injections.


class PlaceholderWord(nn.Module):
    """A learned vector in the place of masked words."""

    @nn.compact
    def __call__(self, words: Array, kept: Array) -> Array:
        """Puts the vector in the place of word vectors [B,L,W] that are not kept [B,L]."""
        vector = self.param("vector", nn.initializers.normal(1.0), words.shape[-1:])
        return jnp.where(kept[..., None], words, vector[None, None].astype(words.dtype))


class VisualContext(nn.Module):
    """Visual context injection: what a query finds in the frames, and how far the dynamic query is from it.

    Attributes:
      features: F, width of a sentence.
      heads: number of attention heads.
      hidden: width inside the feed-forward network.
      dropout: dropout rate of the decoder layer.
      dtype: number format of the layers; the distance is float32.
    """

    features: int
    heads: int
    hidden: int
    dropout: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, dynamic: Array, probe: Array | None, batch: Batch) -> Array:
        """Returns [B], the squared distance of the dynamic query [B,F] from the context of `probe` [B,F].

        Where `probe` is None it is a learned vector.
        """
        if probe is None:
            probe = self.param("probe", nn.initializers.normal(1.0), (self.features,))
            probe = jnp.broadcast_to(probe[None], dynamic.shape).astype(self.dtype)
        decoder = DecoderLayer(self.features, self.heads, self.hidden, self.dropout, self.dtype, name="decoder")
        context = decoder(  # Eq. 1
            probe[:, None],
            batch.video.astype(self.dtype),
            jnp.ones((batch.size, 1), bool),
            batch.video_mask,
            batch.example_index,
            train=True,
            memory_positions=sine_positions(batch.video_mask, batch.video.shape[-1]),
        )[:, 0]
        gap = nn.Dense(self.features, dtype=self.dtype, name="dynamic")(dynamic) - context
        return jnp.square(gap.astype(jnp.float32)).sum(-1)  # Eq. 2


class SpatialDynamics(nn.Module):
    """Spatial dynamic injection: how the places that stand out move, and the dynamic query in the same space.

    Attributes:
      sequence: sequence model over the frames, 'transformer' or 'lstm'.
      features: F, width of a sentence.
      heads: number of attention heads of the transformer.
      hidden: width inside its feed-forward network.
      dropout: dropout rate of the transformer.
      dtype: number format of the layers; the result is float32.
    """

    sequence: str
    features: int
    heads: int
    hidden: int
    dropout: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, dynamic: Array, batch: Batch) -> tuple[Array, Array]:
        """Returns unit vectors [B,F] of the movement in a video and of its dynamic query [B,F]."""
        frames = self._dense("frame", batch.video.astype(self.dtype))
        patches = self._dense("patch", batch.objects.astype(self.dtype))
        heat = jnp.einsum("btf,btof->bto", frames, patches) / jnp.sqrt(self.features).astype(
            self.dtype
        )  # Eq. 3
        x = self._dense("heat", jnp.where(batch.object_mask, heat, 0))  # Eq. 4, m_i
        if self.sequence == "lstm":
            x = LSTM(self.features, dtype=self.dtype, name="lstm")(x, batch.video_mask)
        else:
            layer = EncoderLayer(
                self.features, self.heads, self.hidden, self.dropout, self.dtype, name="encoder"
            )
            positions = sine_positions(batch.video_mask, self.features)
            x = layer(x, batch.video_mask, batch.example_index, train=True, positions=positions)
        movement = mean_state(x, batch.video_mask)  # Eq. 4, m~
        dynamic = self._dense("dynamic", dynamic)
        return l2_normalize(movement.astype(jnp.float32)), l2_normalize(dynamic.astype(jnp.float32))

    def _dense(self, name: str, x: Array) -> Array:
        return nn.Dense(self.features, dtype=self.dtype, name=name)(x)


def consistency(movement: Array, dynamic: Array) -> Array:
    """Eq. 5: (cosine of movements - cosine of dynamic queries)^2 of all pairs, [B,B'].

    Rows are the local examples of unit vectors [B,F], columns B' those of all devices.
    """

    def cosines(vectors):
        return jnp.einsum("bf,cf->bc", vectors, gather_examples(vectors), precision="highest")

    return jnp.square(cosines(movement) - cosines(dynamic))


def close_up(tokens: Array, kept: Array) -> tuple[Array, Array]:
    """Moves the kept tokens of [B,L,...] to the left, in order; returns them and their mask [B,L]."""
    order = jnp.argsort(~kept, axis=1, stable=True)
    index = order.reshape(order.shape + (1,) * (tokens.ndim - 2))
    return jnp.take_along_axis(tokens, index, axis=1), jnp.take_along_axis(kept, order, axis=1)
