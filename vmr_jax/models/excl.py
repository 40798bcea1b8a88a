"""ExCL: a sentence beside every clip; recurrent networks over both find the first and the last clip.

Tensors (F = 2 `recurrent_features`, of both directions; symbols of the paper at the right, and the names of the
re-implementation in the repository of TVR, "port" in this file):

    batch.video   [B,T,D]    feature rows
    sentence      [B,F]      last states of a bidirectional LSTM over the words    h^T, `query_encoder`
    clips         [B,T,F]    bidirectional LSTM over the rows                      h^V, `video_encoder`
    pairs         [B,T,2F]   clip and sentence
    states        [B,T,F]    bidirectional LSTM over the pairs                     h^P, `video_encoder2`
    start, end    [B,T]      logits of two layers with a tanh between them over
                             states, clip and sentence                             S_start, S_end

The paper's three predictors: 'mlp' has no states, and the logits see the pairs alone; 'tied' has the same ones
for start and end; 'conditioned' has two networks, of which that of the end reads the states of the start.

With several streams of a video each has networks of its own, and the logits are their means (port).
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct

from vmr_jax.layers.attention import MASKED, masked_softmax
from vmr_jax.layers.corpus import STREAMS, PairRule, clip_seconds, span_labels, stream_rows
from vmr_jax.layers.dropout import Dropout
from vmr_jax.layers.norm import l2_normalize
from vmr_jax.layers.recurrent import LSTM, first_state, last_state
from vmr_jax.layers.text import WordEmbedding
from vmr_jax.losses import position_cross_entropy
from vmr_jax.models.base import GroundingModel
from vmr_jax.models.card import Card
from vmr_jax.moments import rank
from vmr_jax.types import Batch, Mean, Moments

CARD = Card(
    title="ExCL: Extractive Clip Localization Using Natural Language Descriptions",
    authors=("Ghosh", "Agarwal", "Parekh", "Hauptmann"),
    venue="NAACL",
    year=2019,
    family="span",
    kind="recurrent networks over clip and sentence",
    supervision="full",
    features="I3D; GloVe",
    ours=(
        "The authors published no code. What the paper leaves open is as in the re-implementation "
        "jayleicn/TVRetrieval@d99a9ea7e724 (PyTorch), which is not theirs: dropout on what the LSTMs of the "
        "video read, initial weights, the width of the layer with the tanh; no reproduction is claimed.",
        "The re-implementation departs from the paper: LSTMs of 128 units in each direction, two streams of "
        "clips and subtitles whose logits are averaged, the predictor 'tied' alone, token features of unit "
        "length, an end one clip behind the moment (`late_end`) and moments of 3 to 16 clips. Here all of that "
        "are fields, whose defaults are the paper's where it is known.",
        "With the objective 'regression' the L1 error is that of the expected clips, of each end for itself, "
        "and there is one moment a query.",
        "Rows beyond config.input.num_clips are averaged.",
    ),
    verified=(
        "7,221,252 parameters with the settings for TVR, as in the re-implementation.",
        "Against the re-implementation at its commit, running, with random weights, five ragged pairs in one "
        "batch, with clips alone and with subtitles: labels are the same; logits agree to 2e-6 of their size, "
        "the loss to 1.1e-7, gradients to 9e-6, and all moments of 3 to 16 clips are in its order. With "
        "subtitles alone it does not run.",
        "Outputs, losses and gradients equal those of a PyTorch reference to 1e-4.",
        "Checkpoints of the re-implementation are imported.",
    ),
)


@struct.dataclass
class Outputs:
    """Logits [B,T], float32, `MASKED` at padded clips."""

    start: jax.Array
    end: jax.Array


class Model(GroundingModel):
    """ExCL. The defaults are the paper's where it is known, else our choices.

    Attributes:
      recurrent_features: number of units of every LSTM in each direction.
      hidden: width of the layer with the tanh.
      predictor: kind of the span predictor, 'mlp', 'tied' or 'conditioned'.
      objective: 'classification', the cross-entropy of both clips, or 'regression', the distance of the
        expected ones.
      streams: streams of a video that are read, 'both', 'video' or 'subtitles'.
      unit_words: whether vectors of words are scaled to length 1, as the port does.
      initial_std: standard deviation of the initial weights of linear layers (port: initializer_range).
      dropout: dropout rate of what the LSTMs of the video read.
      clip_seconds: length of a clip in seconds; 0: the clips cover the video.
      late_end: whether the clip after the moment is learned as its end, as in the port.
      shortest: number of clips of the shortest moment that is predicted.
      longest: number of clips of the longest moment that is predicted; 0: any.
      keep: number of moments that `predict` ranks.
      vocab_size: number of words whose vectors are fine-tuned, 0 to keep them (the paper's).
      dtype: number format of the layers; parameters, logits and losses are float32.
    """

    recurrent_features: int = 256
    hidden: int = 256
    predictor: str = "tied"
    objective: str = "classification"
    streams: str = "video"
    unit_words: bool = False
    initial_std: float = 0.02
    dropout: float = 0.5
    clip_seconds: float = 0.0
    late_end: bool = False
    shortest: int = 1
    longest: int = 0
    keep: int = 100
    vocab_size: int = 0
    dtype: jnp.dtype = jnp.float32

    choices = {
        "predictor": ("mlp", "tied", "conditioned"),
        "objective": ("classification", "regression"),
        "streams": STREAMS,
    }
    positive = ("shortest", "keep")
    of_evaluation = ("shortest", "longest")

    def requires(self) -> tuple[str, ...]:
        """Names the subtitles, where they are read."""
        return () if self.streams == "video" else ("subtitles",)

    @nn.compact
    def __call__(self, batch: Batch, *, train: bool) -> Outputs:
        """Scores every clip as start and as end.

        Raises UserError where subtitles are read and the batch has none.
        """
        batch.check()
        words = WordEmbedding(self.vocab_size, name="words")(batch)
        words = l2_normalize(words) if self.unit_words else words
        states = self._lstm("query_lstm")(words.astype(self.dtype), batch.query_mask)
        forward, backward = jnp.split(states, 2, axis=-1)
        ends = last_state(forward, batch.query_mask), first_state(backward, batch.query_mask)
        sentence = jnp.concatenate(ends, axis=-1)

        found = []
        for name, rows in stream_rows(batch, self.streams, "ExCL").items():
            found.append(self._stream(rows.astype(self.dtype), sentence, batch, train, name))
        start, end = (sum(logits) / len(found) for logits in zip(*found))
        mask = batch.video_mask
        return Outputs(start=jnp.where(mask, start, MASKED), end=jnp.where(mask, end, MASKED))

    def _stream(self, rows, sentence, batch: Batch, train: bool, name: str) -> tuple[jax.Array, jax.Array]:
        """Returns logits [B,T] of both ends from the rows of a stream."""
        mask, index = batch.video_mask, batch.example_index
        sentences = jnp.broadcast_to(sentence[:, None], (*rows.shape[:2], sentence.shape[-1]))

        def read(x, part):  # the port drops out what these LSTMs read, and nothing of the query
            return self._lstm(f"{name}_{part}")(Dropout(self.dropout)(x, index, train), mask)

        clips = read(rows, "lstm")
        pairs = jnp.concatenate([clips, sentences], axis=-1)
        if self.predictor == "mlp":
            of_start = of_end = pairs
        elif self.predictor == "tied":
            states = read(pairs, "predictor_lstm")
            of_start = of_end = jnp.concatenate([states, pairs], axis=-1)
        else:
            states = read(pairs, "start_lstm")
            of_start = jnp.concatenate([states, pairs], axis=-1)
            states = read(jnp.concatenate([states, sentences], axis=-1), "end_lstm")
            of_end = jnp.concatenate([states, pairs], axis=-1)
        return self._logits(of_start, f"{name}_start"), self._logits(of_end, f"{name}_end")

    def _lstm(self, name: str) -> LSTM:
        return LSTM(self.recurrent_features, bidirectional=True, dtype=self.dtype, fast=True, name=name)

    def _logits(self, x: jax.Array, name: str) -> jax.Array:
        """Returns [B,T] of [B,T,*] (port: `video_st_predictor` and its sisters)."""
        init = nn.initializers.normal(self.initial_std)
        hidden = nn.Dense(self.hidden, kernel_init=init, dtype=self.dtype, name=f"{name}_hidden")(x)
        logits = nn.Dense(1, kernel_init=init, name=f"{name}_logit")(jnp.tanh(hidden).astype(jnp.float32))
        return logits[..., 0]

    def loss(self, outputs: Outputs, batch: Batch, *, epoch: jax.Array) -> dict[str, Mean]:
        """'start' and 'end': cross-entropy of the clip, or the distance of the expected clip from it."""
        del epoch
        seconds = self._clip_seconds(batch)
        count = batch.video_mask.sum(-1)
        labels = span_labels(batch.span / seconds[:, None], count, self.late_end)
        terms = {}
        for name, logits, clip in zip(("start", "end"), (outputs.start, outputs.end), labels):
            if self.objective == "classification":
                errors = position_cross_entropy(logits, clip)
            else:
                errors = jnp.abs(expected_clip(logits, batch.video_mask) - clip)
            terms[name] = Mean.of(errors, batch.example_mask)
        return terms

    def _clip_seconds(self, batch: Batch) -> jax.Array:
        return clip_seconds(batch.duration, batch.video_mask, self.clip_seconds)

    @property
    def _rule(self) -> PairRule:
        return PairRule(self.shortest, self.longest)

    def predict(self, outputs: Outputs, batch: Batch) -> Moments:
        """Returns the most probable pairs, with the logarithm of p(start) p(end), or the expected moment."""
        seconds = self._clip_seconds(batch)
        if self.objective == "classification":
            return self._rule.moments(
                outputs.start, outputs.end, batch.video_mask, batch.duration, seconds, self.keep
            )
        start, end = (expected_clip(x, batch.video_mask) for x in (outputs.start, outputs.end))
        span = jnp.stack([start, jnp.maximum(start, end + 1)], axis=-1) * seconds[:, None]
        span = jnp.minimum(span, batch.duration[:, None])
        certain = jnp.ones((batch.size, 1))
        return rank(span[:, None], certain, certain > 0, 1)

    def explain(self, outputs: Outputs, batch: Batch) -> dict[str, jax.Array]:
        """Returns the probability of every moment relative to the best: 'map' [B,T,T]."""
        return {"map": self._rule.picture(outputs.start, outputs.end, batch.video_mask)}


def expected_clip(logits: jax.Array, mask: jax.Array) -> jax.Array:
    """Returns [B], the mean place of a clip under the softmax of logits [B,T]."""
    return (masked_softmax(logits, mask) * jnp.arange(mask.shape[1])[None]).sum(-1)
