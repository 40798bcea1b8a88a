"""AVMR: an agent proposes segments by moving one over the video; a discriminator, its adversary, ranks them.

Tensors (names of the official code at the right):

  batch.video   [B,T,D]      clips (official code: frames), with their mask
  sentence      [B,E]        q: the vector of the sentence                          w_vec
  segment       [B,2]        start and end in parts of the video, at first the      location
                             middle half
  state         [B,F]        x: q, mean clip of the segment, mean clip of the       state
                             video, and the segment
  vector        [B,Z]        the actor's numbers for six actions, with noise; the   action
                             largest one is the action
  rewards       [B,Y]        did the IoU rise, weighted by the discriminator, and   reward
                             how the discriminator ranks the segment
  score         [B,Y]        D: how well a segment fits the query                   sim_score

Actions move both ends back (0) or on (1), the start back (2) or on (3), the end back (4) or on (5), by a
twentieth of the video. A move that would leave the video or no segment is not made.

The agent is trained by DDPG (`vmr_jax.layers.ddpg`): its critic learns the value of a state and an action
vector, its actor follows the critic's gradient. The discriminator learns to rank the annotated moment above
every segment that the agent visits, and to score those low by which the agent gains. At test the visited
segments are ranked by it.

Letters beyond the usual: Z actions of a policy.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct

from vmr_jax.layers.ddpg import (
    FIRST,
    MOVES,
    DeterministicAgent,
    Values,
    act,
    ddpg_terms,
    episode_noise,
    explored,
    improvement,
    mean_inside,
    next_segment,
    rows_inside,
    values_of,
)
from vmr_jax.layers.norm import l2_normalize
from vmr_jax.layers.recurrent import LSTM, mean_state
from vmr_jax.layers.sentence import SENTENCE_VECTORS, SentenceVector, read_fields
from vmr_jax.models.base import GroundingModel
from vmr_jax.models.card import Card
from vmr_jax.moments import rank
from vmr_jax.types import Batch, Mean, Moments

CARD = Card(
    title="Adversarial Video Moment Retrieval by Jointly Modeling Ranking and Localization",
    authors=("Cao", "Zeng", "Wei", "Nie", "Hong", "Qin"),
    venue="ACM MM",
    year=2020,
    family="reinforcement learning",
    kind="iterative, deterministic policy and discriminator",
    supervision="full",
    features="ResNet; skip-thoughts",
    official_code="yawenzeng/AVMR@0ce81f3c6ccd (PyTorch)",
    ours=(
        "The paper's text was not at hand: everything is as in the official code, which does not run as "
        "published, and no reproduction is claimed.",
        "The official data are windows of 64 to 512 frames cut around the moments; here a video is whole, and "
        "the published numbers are not comparable.",
        "An update learns from the transitions of the batch's own episodes. The official replay memory, of a "
        "million of them, would be part of the state of training; and it stores one tensor for both states of "
        "all transitions of an episode, which holds the last one.",
        "Critic, actor and discriminator learn at once and from the same episode, in place of one after the "
        "other and of a second episode.",
        "An IoU is none where segments are apart (`absolute_iou` is the official one), and one that rises by "
        "less than 1e-6 has not risen.",
        "At test the agent is greedy (`noise_at_test` explores, as the official code does).",
        "The discriminator reads the mean clip of a segment; 'lstm' (`pooling`) is the official layer, which "
        "fails there, with the frames padded to `frames` and the visual vector normalised over its numbers.",
        "The mean clip in the state is that of the first segment for good, as in the official code; "
        "`look_every` renews it.",
        "The vectors 'mean' and 'lstm' of the query (`text`) are not in the paper.",
    ),
    verified=(
        "Against the official code at this commit, running, repaired as told above and with copies of states "
        "in its memory, small random weights, six videos of 24 to 64 clips, the pooling 'lstm' and "
        "`absolute_iou`: all 3,000 moves, segments and rewards of episodes are the same to 1e-6, loss terms to "
        "8e-7, gradients to 3e-5, soft updates of the targets to the bit. The IoU of the first five answers is "
        "the same to 1e-7 with one of three sets of weights; with the others some of the five differ, which "
        "was not looked into: segments of the same clips have equal scores, and there the official code takes "
        "one twice. Of 3,000 random moves on its grid 1.2% get another reward there, where the IoU is equal "
        "but for its float32.",
        "Episodes of 10 steps equal a PyTorch twin.",
        "Every move, reward and loss equals a computation by hand.",
    ),
)


@struct.dataclass
class Outputs:
    """The episode, Y steps."""

    before: jax.Array  # [B,Y,2] segments
    after: jax.Array  # [B,Y,2]
    can: jax.Array  # [B,Y] bool, the move could be made
    values: Values  # [B,Y]
    logits: jax.Array  # [B,Y] float32, of the discriminator for `after`
    true_logit: jax.Array  # [B] for the annotated moment, zero at test
    consistency: jax.Array  # [B] mean squared difference of its visual vector and the sentence's


class Model(GroundingModel):
    """AVMR, with the settings of the official code; our choices are in `CARD.ours`.

    Attributes:
      actor_hidden: widths of the actor's hidden layers.
      critic_hidden: widths of the critic's hidden layers.
      features: width of the space that the discriminator shares between video and sentence.
      hidden: widths of the discriminator's hidden layers over a fused pair.
      pooling: clips of a segment as one vector for the discriminator: 'mean', or 'lstm', which reads the
        `frames` numbers of each feature at once.
      frames: number of clips of a segment that 'lstm' reads, the later ones cut (official code: pack).
      horizon: Y, number of steps of an episode (official code: n_episode).
      step: part of the video that an action moves an end (official code: quick).
      discount: weight of what the next state is worth (official code: GAMMA).
      reward_scale: factor of the rewards in the critic's target (official code: scale_reward).
      iou_weight: weight of the improvement in reward and discriminator (official code: p1).
      consistency_weight: weight of the consistency in the reward (official code: p2).
      step_penalty: part of the reward that is lost with every further step.
      target_rate: share of the way that the target networks go at a time (official code: tau).
      target_every: number of updates between two such times.
      noise: deviation of the noise on the actor's numbers at first (official code: var).
      noise_decay: factor of the noise with every step of an episode.
      noise_least: deviation of the noise below which it does not fall.
      noise_at_test: whether the agent explores at test too, with the deviation `noise`.
      look_every: number of steps after which the state holds the clips of where the segment is; 0: never.
      absolute_iou: whether segments that are apart overlap by the gap between them.
      text: vector of the query: 'sentence' is `batch.sentence` (the skip-thought vector), 'mean' that of the
        word vectors, 'lstm' the last state of an LSTM over them.
      lstm_features: width of the LSTM over the words.
      unit_weights: whether linear layers of the discriminator start as N(0, 1) and those over a fused pair as
        N(0, 0.01), as in the official code; False starts them as Flax does (LeCun normal).
      vocab_size: number of words whose vectors are fine-tuned; 0 keeps the word vectors of the batch fixed.
      dtype: number format of the layers; parameters, values, logits and losses are float32.
    """

    actor_hidden: tuple[int, ...] = (500, 128)
    critic_hidden: tuple[int, ...] = (1024, 512, 300)
    features: int = 1024
    hidden: tuple[int, ...] = (1000, 100)
    pooling: str = "mean"
    frames: int = 128
    horizon: int = 10
    step: float = 0.05
    discount: float = 0.95
    reward_scale: float = 0.01
    iou_weight: float = 0.8
    consistency_weight: float = 0.2
    step_penalty: float = 0.01021
    target_rate: float = 0.01
    target_every: int = 100
    noise: float = 1.0
    noise_decay: float = 0.999998
    noise_least: float = 0.05
    noise_at_test: bool = False
    look_every: int = 0
    absolute_iou: bool = False
    text: str = "sentence"
    lstm_features: int = 1024
    unit_weights: bool = True
    vocab_size: int = 0
    dtype: jnp.dtype = jnp.float32

    choices = {"pooling": ("mean", "lstm"), "text": SENTENCE_VECTORS}

    def requires(self) -> tuple[str, ...]:
        """Names the vector of the sentence, where `text` says so."""
        return read_fields(self.text)

    @nn.compact
    def __call__(self, batch: Batch, *, train: bool) -> Outputs:
        """Plays an episode with every pair and scores what it visits.

        Raises UserError where the batch lacks the vector of the sentence.
        """
        batch.check()
        sentence = SentenceVector(self.text, self.lstm_features, self.vocab_size, jnp.float32, name="sentence")
        query = sentence(batch)
        updates = self.variable("schedule", "step", lambda: jnp.int32(0))
        whole = mean_state(batch.video.astype(jnp.float32), batch.video_mask)
        agent = DeterministicAgent(
            inputs=query.shape[1] + 2 * batch.video.shape[2] + 2,
            actions=len(MOVES),
            actor_hidden=self.actor_hidden,
            critic_hidden=self.critic_hidden,
            target_rate=self.target_rate,
            target_every=self.target_every,
            name="agent",
        )
        networks = agent(updates.value, train)
        shape = (self.horizon, len(MOVES))
        noise = episode_noise(self, batch.example_index, shape, updates.value, train)
        if train and not self.is_initializing():
            updates.value = updates.value + 1

        def local_of(segment):
            return mean_inside(batch.video, rows_inside(segment[:, None], batch.video_mask))[:, 0]

        def state_of(segment, local):
            return jnp.concatenate([query, local, whole, segment], axis=-1)

        def step(carry, inputs):
            segment, local = carry
            noise, t = inputs
            state = state_of(segment, local)
            vector = explored(act(networks.actor, jax.lax.stop_gradient(state), self.dtype), noise, 1.0)
            after, can = next_segment(segment, vector, self.step)
            if self.look_every:
                local = jnp.where((t + 1) % self.look_every == 0, local_of(after), local)
            return (after, local), (segment, after, can, state, vector)

        first = jnp.tile(jnp.array([FIRST], jnp.float32), (batch.size, 1))
        times = jnp.arange(self.horizon)
        carry, seen = jax.lax.scan(step, (first, local_of(first)), (noise.swapaxes(0, 1), times))
        before, after, can, states, vectors = (x.swapaxes(0, 1) for x in seen)
        following = jnp.concatenate([states[:, 1:], state_of(*carry)[:, None]], axis=1)
        vectors = jax.lax.stop_gradient(vectors)
        values = values_of(networks, states, vectors, following, self.dtype)

        truth = batch.span / batch.duration[:, None] if train else first
        judged = jnp.concatenate([truth[:, None], after], axis=1)
        logits, consistency = Discriminator(
            self.features,
            self.hidden,
            self.frames if self.pooling == "lstm" else 0,
            self.unit_weights,
            self.dtype,
            name="discriminator",
        )(batch.video, rows_inside(judged, batch.video_mask), query)
        return Outputs(
            before=before,
            after=after,
            can=can,
            values=values,
            logits=logits[:, 1:],
            true_logit=logits[:, 0],
            consistency=consistency[:, 0],
        )

    def loss(self, outputs: Outputs, batch: Batch, *, epoch: jax.Array) -> dict[str, Mean]:
        """Returns 'critic' and 'actor' of the agent, and 'discriminator', the sum over an episode.

        Official code: train.
        """
        del epoch
        real = jnp.broadcast_to(batch.example_mask[:, None], outputs.logits.shape)
        truth = batch.span / batch.duration[:, None]
        rises = improvement(outputs.before, outputs.after, truth, self.absolute_iou)
        gain = jnp.where(outputs.can, rises.astype(jnp.float32), -1.0)
        fitting = self.iou_weight * gain * nn.sigmoid(outputs.logits) - self._ranking(outputs)
        late = self.step_penalty * jnp.arange(self.horizon)[None]
        rewards = fitting - self.consistency_weight * outputs.consistency[:, None] - late
        critic, actor = ddpg_terms(
            outputs.values, rewards, real, discount=self.discount, reward_scale=self.reward_scale
        )
        return {"critic": critic, "actor": actor, "discriminator": Mean.of(fitting.sum(1), batch.example_mask)}

    def _ranking(self, outputs: Outputs) -> jax.Array:
        """Returns [B,Y], the weighted log-probability that the moment ranks above the segment.

        Official code: get_bpr, the weight.
        """
        true, found = nn.sigmoid(outputs.true_logit)[:, None], nn.sigmoid(outputs.logits)
        weight = jnp.where(true > found, 0.1, jnp.where(true == found, 0.5, 1.0))
        return weight * nn.log_sigmoid(true - found)

    def predict(self, outputs: Outputs, batch: Batch) -> Moments:
        """Returns the segments that were visited, by the discriminator's score. Official code: test."""
        spans = outputs.after * batch.duration[:, None, None]
        return rank(spans, nn.sigmoid(outputs.logits), jnp.ones_like(outputs.can), self.horizon)


class Discriminator(nn.Module):
    """Scores segments (official code: Disciminator, sic).

    Attributes:
      features: width of the common space.
      hidden: widths of the hidden layers over a fused pair.
      frames: number of clips that an LSTM reads at once; 0 takes their mean.
      unit_weights: as in `Model`.
      dtype: number format of the layers.
    """

    features: int
    hidden: tuple[int, ...]
    frames: int
    unit_weights: bool
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, video: jax.Array, inside: jax.Array, query: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Video [B,T,D], clips [B,M,T] of M segments, sentence [B,E] -> logits and consistency, both [B,M]."""
        pooled = self._clips_at_once(video, inside) if self.frames else mean_inside(video, inside)
        wide = 1.0 if self.unit_weights else None
        v = l2_normalize(self._linear(self.features, wide, "video")(pooled.astype(self.dtype)))
        s = l2_normalize(self._linear(self.features, wide, "query")(query.astype(self.dtype)))
        s = jnp.broadcast_to(s[:, None], v.shape)
        x = jnp.concatenate([v * s, v + s, v, s], axis=-1)
        narrow = 0.01 if self.unit_weights else None
        for i, width in enumerate(self.hidden):
            x = nn.relu(self._linear(width, narrow, f"hidden_{i}")(x))
        logits = self._linear(1, narrow, "score", jnp.float32)(x.astype(jnp.float32))[..., 0]
        difference = v.astype(jnp.float32) - s.astype(jnp.float32)
        return logits, jnp.square(difference).mean(-1)

    def _clips_at_once(self, video: jax.Array, inside: jax.Array) -> jax.Array:
        """Returns [B,M,D]: of each feature, its numbers in the clips are one input of an LSTM of one step."""
        (b, m, t), width = inside.shape, video.shape[-1]
        place = jnp.argmax(inside, axis=-1)[..., None] + jnp.arange(self.frames)[None, None]
        there = place < (jnp.argmax(inside, axis=-1) + inside.sum(-1))[..., None]
        rows = jnp.minimum(place, t - 1).reshape(b, -1)
        clips = jnp.take_along_axis(video, rows[..., None], axis=1).reshape(b, m, self.frames, width)
        clips = jnp.where(there[..., None], clips, 0.0)
        numbers = clips.swapaxes(2, 3).reshape(-1, 1, self.frames)
        states = LSTM(self.frames, dtype=self.dtype, name="lstm")(numbers, jnp.ones(numbers.shape[:2], bool))
        pooled = self._linear(1, 1.0 if self.unit_weights else None, "pool")(states)
        return pooled.reshape(b, m, width)

    def _linear(self, features: int, std: float | None, name: str, dtype=None) -> nn.Dense:
        init = nn.initializers.normal(std) if std else nn.initializers.lecun_normal()
        return nn.Dense(features, kernel_init=init, dtype=dtype or self.dtype, name=name)
