"""VDI: a text encoder that learns from video frames what words of change look like; then MMN.

CLIP's image features stay as they are, its text encoder is trained. In training only, two branches read the
dynamic query (the sentence without its noun chunks): it shall say what the static query (its noun chunks) finds
in the frames, and two dynamic queries shall be as alike as their videos' movements. Both stand in
`vmr_jax.layers.injection`, which other architectures can carry too; what is MMN's, that is Eq. 6 to Eq. 10,
stands in `vmr_jax.models.mmn`.

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

import flax.linen as nn
import jax.numpy as jnp

from vmr_jax.layers import injection
from vmr_jax.layers.clip_text import ClipText
from vmr_jax.layers.clips import average_clips
from vmr_jax.layers.sentence import MeanState
from vmr_jax.layers.text import WordEmbedding
from vmr_jax.models import mmn
from vmr_jax.models.card import Card
from vmr_jax.types import Array, Batch, Mean

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


class Model(mmn.MutualMatching):
    """VDI: the further fields beside those of `vmr_jax.models.mmn.MutualMatching`. Defaults: Charades-STA.

    Its `__call__` (Eq. 6 and Eq. 9) and `predict` (Eq. 10, by MMN's product of both scores) are MMN's.

    Attributes:
      text: text encoder, 'clip' or 'glove' (word vectors).
      text_features: F, width of a sentence.
      text_layers: number of layers of CLIP's text encoder.
      text_heads: number of attention heads of CLIP's text encoder.
      text_vocab: number of subwords in the vocabulary of CLIP's text encoder.
      text_positions: number of subwords in the longest sentence of CLIP's text encoder.
      masked: how masked words are left out, 'remove' or 'placeholder' (another word in their place).
      placeholder: id of the subword that stands in their place.
    """

    choices = {"text": ("clip", "glove"), "masked": ("remove", "placeholder"), **injection.CHOICES}
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

    def setup(self):
        """Names the parts."""
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
        # Section 3.1: Eq. 1-5.
        self.visual_context, self.spatial_dynamics = self.injection_parts(self.text_features)

    def loss(self, outputs: mmn.Outputs, batch: Batch, *, epoch: Array) -> dict[str, Mean]:
        """Eq. 11: 'iou' (L_iou), 'moment' and 'sentence' (L_cl), 'context' (L_vc) and 'dynamics' (L_sd)."""
        del epoch
        return self.terms(outputs, batch, self.contrast_weight)  # Eq. 7 and Eq. 8

    def requires(self) -> tuple[str, ...]:
        """Names the subwords or words of the queries that are read, and the patches for L_sd."""
        clip = self.text == "clip"
        return (("subwords",) if clip else ()) + self.injection_fields(subwords=clip)

    def _moments(self, batch: Batch, train: bool) -> tuple[Array, Array]:
        """Returns [U,M,E] of both spaces: the vectors of candidates in Eq. 6 and Eq. 8."""
        video, mask, real = self.videos(batch, train)
        return self.map(average_clips(video.astype(self.dtype), mask, self.num_clips), real, train)

    def _sentences(self, batch: Batch, kinds: tuple[str, ...], train: bool) -> list[Array]:
        """Returns [B,F] of each of the `kinds` of queries: f^q of Eq. 1 and Eq. 2."""
        del train
        if self.text == "clip":
            read = self.read_queries(batch, kinds, batch.subwords, batch.subword_mask, subwords=True)
            sentences = self.text_encoder(*read)[1]
        else:
            sentences = self.text_encoder(*self.read_queries(batch, kinds, self.words(batch), batch.query_mask))
        return jnp.split(sentences, len(kinds))

    def masked_query(self, tokens: Array, mask: Array, kept: Array) -> tuple[Array, Array]:
        """The tokens [B,L,...] and the mask [B,L] of a query of which some words are `kept` [B,L]."""
        if self.masked == "remove":
            return super().masked_query(tokens, mask, kept)
        if self.text == "clip":
            return jnp.where(kept, tokens, self.placeholder), mask
        return self.placeholder_word(tokens, kept), mask


class PlaceholderWord(nn.Module):
    """A learned vector in the place of masked words."""

    @nn.compact
    def __call__(self, words: Array, kept: Array) -> Array:
        """Puts the vector in the place of word vectors [B,L,W] that are not kept [B,L]."""
        vector = self.param("vector", nn.initializers.normal(1.0), words.shape[-1:])
        return jnp.where(kept[..., None], words, vector[None, None].astype(words.dtype))
