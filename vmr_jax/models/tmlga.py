"""TMLGA: a filter made of the query lights up the clips that fit it; both ends are found on what is lit.

Tensors (F = `features`, E = `recurrent_features`; the names of the official code at the right):

    batch.video   [B,T,D]    feature rows, not normalised; all rows of a video
    words         [B,L,2E]   bidirectional GRU over the words                            tail_df
    filter        [B,F]      tanh of a linear layer on the mean of the words             head_df
    clips         [B,T,F]    linear layer                                                reduction
    attention     [B,T]      softmax of clip . filter / sqrt(number of words)            attention
    states        [B,T,2E]   two-layer bidirectional GRU over the clips times their
                             attention                                                   rnn_localization
    start, end    [B,T]      logits of the first and of the last clip                    starting, ending

The labels of both ends are soft: half of the mass on the clip itself, a quarter on each neighbour.
"""

import flax.linen as nn
import jax.numpy as jnp

from vmr_jax.layers.attention import masked_softmax
from vmr_jax.layers.guided_ends import FLOOR, GuidedEnds, GuidedLocalizer, read_ends, word_scaled
from vmr_jax.layers.linear import torch_linear
from vmr_jax.layers.recurrent import GRU, mean_state
from vmr_jax.layers.text import WordEmbedding
from vmr_jax.models.base import GroundingModel
from vmr_jax.models.card import Card
from vmr_jax.types import Batch

Outputs = GuidedEnds

CARD = Card(
    title=(
        "Proposal-free Temporal Moment Localization of a Natural-Language Query in Video using Guided Attention"
    ),
    authors=("Rodriguez-Opazo", "Marrese-Taylor", "Saleh", "Li", "Gould"),
    venue="WACV",
    year=2020,
    family="span",
    kind="guided attention, soft labels of both ends",
    supervision="full",
    features="I3D; GloVe",
    official_code="crodriguezo/TMLGA@da696a4cb723 (PyTorch)",
    ours=(
        "Pairs of a start and an end that is not before it are ranked by the product of their probabilities; "
        "the official program takes the best of each for itself (`independent_ends`).",
        "The softmax is over the real clips. The official one takes padded clips for zeros and divides by what "
        "is left: where all real logits are far below zero, probabilities differ by up to 6e-5 of their size.",
        "Words are split as GloVe's are, without punctuation and names as they are; the official program puts "
        "the kind of a name in its place. Words without a vector are zero, where it has fixed random ones.",
        "Rows beyond config.input.num_clips are averaged; no video of Charades-STA's test split has so many.",
        "On ActivityNet Captions the official program trains on every pair twice, once with a random part "
        "before the moment cut off; here on each once.",
        "The L2 term is in the gradient when that is clipped; the official program adds it behind.",
    ),
    verified=(
        "4,003,332 parameters with I3D features, as in the official code, of which 1,538 are in layers that it "
        "builds and does not use.",
        "Against the official code at this commit, running, with random weights of two sizes, eight real pairs "
        "of ragged length in one batch, moments at both borders among them, with and without biases: rows are "
        "the same; probabilities of start and end agree to 3e-7 of their size (with the larger weights, 6e-5), "
        "attention to 8e-6, the objective to 7e-8, gradients to 1.2e-5, and the best moment where the start "
        "is before the end. A clip alone and in a padded batch agree there to 2.4e-7.",
        "Labels of 3,720 real moments: 3 differ by a clip, by rounding of seconds to float32.",
        "Outputs, losses and gradients equal those of a PyTorch reference to 1e-4.",
        "Whole models, as the official program saves them, are imported, and its two files of word vectors.",
    ),
)


class Model(GuidedLocalizer, GroundingModel):
    """TMLGA, with the settings of the official code for Charades-STA.

    Attributes:
      features: F, width of clips and filter.
      recurrent_features: E, units of both GRUs in each direction.
      recurrent_layers: number of layers of the GRU over the clips.
      use_bias: whether the GRUs have biases.
      attention_weight: weight of the loss of the attention, 0 leaves it out.
      dropout: dropout rate between the layers of the GRU over the clips.
      independent_ends: whether the moment is that of the best start and the best end, each for itself, as the
        official program has it: one moment a query, empty where the end comes first. False ranks pairs of a
        start and an end that is not before it, by the product of both probabilities.
      keep: number of moments that `predict` ranks, 0 for all pairs of clips.
      longest_share: length of the longest moment that is ranked, as a share of the video (ours; 1 ranks all).
      vocab_size: number of words whose vectors are fine-tuned, 0 to keep them (the paper's).
      dtype: number format of the layers; parameters, attention, logits and losses are float32.
    """

    features: int = 512
    recurrent_features: int = 256
    recurrent_layers: int = 2
    use_bias: bool = False
    attention_weight: float = 1.0
    dropout: float = 0.5
    independent_ends: bool = False
    keep: int = 100
    longest_share: float = 1.0
    vocab_size: int = 0
    dtype: jnp.dtype = jnp.float32

    positive = ("recurrent_layers",)
    of_evaluation = ("longest_share",)

    @nn.compact
    def __call__(self, batch: Batch, *, train: bool) -> Outputs:
        """Scores every clip as start and as end."""
        batch.check()
        mask, width = batch.video_mask, self.recurrent_features
        words = WordEmbedding(self.vocab_size, self.dtype, name="words")(batch)
        read = GRU(width, bidirectional=True, dtype=self.dtype, use_bias=self.use_bias, name="query_gru")
        sentence = mean_state(read(words, batch.query_mask), batch.query_mask)
        query = jnp.tanh(torch_linear(self.features, sentence, self.dtype, "filter"))

        # Official `Localization.forward` and `attention`.
        clips = torch_linear(self.features, batch.video, self.dtype, "clips")
        fit = word_scaled(jnp.einsum("btf,bf->bt", clips, query), batch.query_mask)
        attention = masked_softmax(fit, mask)

        # The floor is the official one: a clip without attention is not wholly dark.
        lit = jnp.where(mask, attention + FLOOR, 0.0).astype(self.dtype)[..., None] * clips
        start, end = read_ends(
            lit,
            batch,
            train,
            features=width,
            layers=self.recurrent_layers,
            use_bias=self.use_bias,
            dropout=self.dropout,
            dtype=self.dtype,
        )
        return Outputs(start=start, end=end, attention=attention)
