"""RWM: an agent that reads, watches and moves: a window over the video, step by step, until it says stop.

The authors published no code. The names at the right, and "port" in the file, are those of a re-implementation
by others, whose checkpoints `vmr_jax.torch_import` reads.

A step u is a tenth of the units. The actions move both ends u units to the right (0) or to the left (1), the
start to the right (2) or to the left (3), the end to the right (4) or to the left (5), or stop (6).

  tensor        shape           meaning                                                      port
  batch.video   [B,T,D]         units: feature rows of equal length                          original_feats
  window        [B,2] int32     first and last unit that are observed; at first the          current_offset
                                middle half
  global_state  [B,F]           the mean of all units                                        gobal_fc (sic)
  local         [B,F]           the mean of the window's                                     local_fc
  query         [B,F]           the vector of the sentence                                   sentence_fc
  location      [B,F]           both ends of the window, in parts of the video               location_fc
  state         [B,F]           x: ReLU of a linear layer over the four                      state_fc
  iou           [B]             estimate of the window's IoU, on x                           tiou_resfc
  moment        [B,2]           estimate of the moment, in parts of the video, on x          location_resfc
  hidden        [B,F]           h: GRU over the steps                                        gru
  policy        [B,7], [B]      logits of the actions and value, on h                        actor_linear,
                                                                                             critic_linear

The first four are linear layers, each over its L2 norm, then a ReLU. The episode is one scan of Y steps. It
ends with the action that stops it or leaves no window; the scan goes on from where the window then is, and
what follows counts for the two estimates alone. Behind such an action the agent observes nothing (zeros).

In training actions are drawn, at test the likeliest one is taken.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from vmr_jax.layers.actor_critic import (
    Decision,
    action_noise,
    decide,
    episode_terms,
)
from vmr_jax.layers.recurrent import GRUCell, mean_state
from vmr_jax.layers.sentence import SENTENCE_VECTORS, SentenceVector, read_fields
from vmr_jax.layers.window_agent import (
    agent_linear,
    annotated_window,
    first_window,
    plays,
    policy_and_value,
    ranked_windows,
    relu_of_unit,
    signed_iou,
    valid,
)
from vmr_jax.models.base import GroundingModel
from vmr_jax.models.card import Card
from vmr_jax.types import Batch, Mean, Moments

CARD = Card(
    title=(
        "Read, Watch, and Move: Reinforcement Learning for Temporally Grounding Natural Language Descriptions "
        "in Videos"
    ),
    authors=("He", "Zhao", "Huang", "Li", "Liu", "Wen"),
    venue="AAAI",
    year=2019,
    family="reinforcement learning",
    kind="iterative, advantage actor-critic",
    supervision="full",
    features="C3D; skip-thoughts",
    ours=(
        "The authors published no code. Networks, rewards, losses and constants are those of the "
        "re-implementation WuJie1010/Temporally-language-grounding@37d4ac691013 (PyTorch), which is not "
        "theirs; no reproduction of the paper is claimed.",
        "No window begins before the video (in the re-implementation that of less than four units does).",
        "A window whose end is one behind the last unit averages the units that there are (in training the "
        "re-implementation averages a row of zeros too: `zero_row`).",
        "Where the last action leaves no window, the answer is the one before it (the re-implementation "
        "answers none, which is always wrong: `answer_nothing`).",
        "Moments come in seconds, not from a file that is not public: `whole_units` says how they become "
        "units.",
        "Rewards compare IoUs of whole units, so that equal ones are equal. The re-implementation divides by "
        "the length of the video first, in float32: of 4,000 random moves 1.5% get another reward.",
        "Behind the answer stand the windows that the agent has seen, by the estimate of their IoU; the "
        "re-implementation has one prediction.",
        "A batch in which no window overlaps by more than `overlap` has no error of location (the "
        "re-implementation divides by zero), and units beyond the 127th are counted (there the numbers "
        "overflow).",
        "The vectors 'mean' and 'lstm' of the query (`text`), and the narrower initial weights of "
        "`unit_weights=False`, are not in the paper.",
    ),
    verified=(
        "There are 17,650,059 parameters, as in the re-implementation.",
        "Against the re-implementation at this commit, running, with small random weights, videos of 6 to 64 "
        "units and episodes of 10 steps, with `zero_row` and `answer_nothing` as there: rows, first "
        "windows, 4,970 moves and all 32 answers are the same; estimates, values, log-probabilities, entropies "
        "and rewards agree to 6e-7, loss terms to 4e-7, gradients to 1e-6.",
        "Episodes of 10 steps equal a PyTorch twin.",
        "Every action, reward, loss and answer equals a computation by hand.",
    ),
)

# What each action moves, in steps: start and end.
MOVES = np.array([[1, 1], [-1, -1], [1, 0], [-1, 0], [0, 1], [0, -1], [0, 0]])
STOP = len(MOVES) - 1


@struct.dataclass
class Outputs:
    """The episode, Y steps; `windows` are those before the action."""

    windows: jax.Array  # [B,Y,2] int32
    moved: jax.Array  # [B,Y,2] int32, the window that the action led to
    ended: jax.Array  # [B,Y] bool, the action stops or leaves no window
    iou: jax.Array  # [B,Y] float32, estimates for `windows`
    moment: jax.Array  # [B,Y,2] float32, estimates of the moment, in parts of the video
    policy: Decision  # [B,Y]


class Model(GroundingModel):
    """RWM, with the settings of the re-implementation; our choices are in `CARD.ours`.

    Attributes:
      features: F of state and GRU.
      video_features: F of the means of all units and of the window's.
      query_features: F of the query.
      location_features: F of the window's place.
      horizon: Y, largest number of steps of an episode (the paper's T_max; port: num_steps).
      discount: weight of what the next step returns (port: gamma).
      entropy_weight: weight of the policy's entropy in its loss (port: entropy-coef).
      step_penalty: part of the reward that is lost with every further step (the paper's phi).
      overlap: the IoU above which a window teaches the estimate of the moment (port: 0.4).
      detach_advantage: whether gradients of policy and returns stop before the values, as textbooks have it;
        False lets them through, as the re-implementation does.
      text: vector of the query: 'sentence' is `batch.sentence` (the paper's skip-thought vector), 'mean' that
        of the word vectors, 'lstm' the last state of an LSTM over them.
      whole_units: whether a window lasts to the end of its last unit and moments keep their fractions; False
        ends it at the start of its last unit, which may then be one behind the last of the video, and rounds
        moments to units, as the re-implementation does.
      unit_weights: whether weights of linear layers start as N(0, 1), as in the re-implementation; False starts
        them as Flax does (LeCun normal), from which narrow layers learn faster.
      zero_row: whether a slip of the re-implementation's training is repeated: a window that ends one behind
        the last unit averages a row of zeros too. Not at test, as there.
      answer_nothing: whether an episode whose last action leaves no window is answered with that, an empty
        moment, as in the re-implementation.
      vocab_size: number of words whose vectors are fine-tuned; 0 keeps the word vectors of the batch fixed.
      dtype: number format of the layers; parameters, policy, value, estimates and losses are float32.
    """

    features: int = 1024
    video_features: int = 512
    query_features: int = 1024
    location_features: int = 128
    horizon: int = 10
    discount: float = 0.4
    entropy_weight: float = 0.1
    step_penalty: float = 0.001
    overlap: float = 0.4
    detach_advantage: bool = False
    text: str = "sentence"
    whole_units: bool = False
    unit_weights: bool = True
    zero_row: bool = False
    answer_nothing: bool = False
    vocab_size: int = 0
    dtype: jnp.dtype = jnp.float32

    choices = {"text": SENTENCE_VECTORS}

    def requires(self) -> tuple[str, ...]:
        """Names the vector of the sentence, where `text` says so."""
        return read_fields(self.text)

    @nn.compact
    def __call__(self, batch: Batch, *, train: bool) -> Outputs:
        """Plays an episode with every pair; UserError where the batch lacks the vector of the sentence."""
        batch.check()
        units = batch.video_mask.sum(1, dtype=jnp.int32)
        sentence = SentenceVector(self.text, self.query_features, self.vocab_size, self.dtype, name="sentence")
        whole = mean_state(batch.video, batch.video_mask).astype(self.dtype)
        context = Context(
            video=batch.video,
            units=units,
            query=relu_of_unit(self._linear(self.query_features, "query")(sentence(batch))),
            global_state=relu_of_unit(self._linear(self.video_features, "global")(whole)),
        )
        agent = plays(Agent, in_axes=(1, nn.broadcast))(
            self.features,
            self.video_features,
            self.location_features,
            self.unit_weights,
            self.whole_units,
            self.zero_row and train,
            self.dtype,
            name="agent",
        )
        shape = (self.horizon, len(MOVES))
        if train:
            noise = action_noise(self.make_rng("dropout"), batch.example_index, shape)
        else:
            noise = jnp.zeros((batch.size, *shape))
        hidden = jnp.zeros((batch.size, self.features), jnp.float32)
        start = first_window(units), hidden, jnp.zeros(batch.size, bool)
        _, seen = agent(start, noise, context)
        return Outputs(**seen)

    def _linear(self, features: int, name: str) -> nn.Dense:
        return agent_linear(features, self.unit_weights, self.dtype, name)

    def loss(self, outputs: Outputs, batch: Batch, *, epoch: jax.Array) -> dict[str, Mean]:
        """Returns 'policy' and 'value', and the L1 errors 'iou' of every window and 'location' of good ones.

        Port: train, of main_charades_RL.py.
        """
        del epoch
        units = batch.video_mask.sum(1, dtype=jnp.int32)
        truth = annotated_window(batch.span, batch.duration, units, self.whole_units)
        last = int(self.whole_units)
        before, after = (
            signed_iou(windows, truth[:, None], last) for windows in (outputs.windows, outputs.moved)
        )
        rewards = reward(before, after, self.step_penalty)
        played = self._played(outputs) & batch.example_mask[:, None]
        policy, value = episode_terms(
            outputs.policy,
            rewards,
            played,
            discount=self.discount,
            entropy_weight=self.entropy_weight,
            detach_advantage=self.detach_advantage,
        )
        real = jnp.broadcast_to(batch.example_mask[:, None], before.shape)
        part = truth / jnp.maximum(units - 1, 1)[:, None]
        distance = jnp.abs(outputs.moment - part[:, None]).sum(-1)
        return {
            "policy": policy,
            "value": value,
            "iou": Mean.of(jnp.abs(before - outputs.iou), real),
            "location": Mean.of(distance, real & (before > self.overlap)),
        }

    def _played(self, outputs: Outputs) -> jax.Array:
        """Returns [B,Y] bool, the steps up to and with the one that ends the episode."""
        return jnp.cumsum(outputs.ended, axis=1) - outputs.ended == 0

    def predict(self, outputs: Outputs, batch: Batch) -> Moments:
        """Returns the last window, with score 1, then those that were seen, by the estimate of their IoU."""
        played = self._played(outputs)
        last = played.sum(1) - 1

        def at_last(windows):
            return jnp.take_along_axis(windows, last[:, None, None], axis=1)

        answer = at_last(outputs.moved)
        if self.answer_nothing:
            answer = answer.at[..., 1].set(answer.max(-1))
        else:
            answer = jnp.where(valid(answer)[..., None], answer, at_last(outputs.windows))
        windows = jnp.concatenate([answer, outputs.windows], axis=1)
        first = jnp.full_like(outputs.iou[:, :1], jnp.inf)
        scores = jnp.concatenate([first, outputs.iou], axis=1)
        there = jnp.concatenate([jnp.ones_like(played[:, :1]), played & valid(outputs.windows)], axis=1)
        return ranked_windows(windows, scores, there, batch, self.whole_units)


@struct.dataclass
class Context:
    """All that stays the same during an episode."""

    video: jax.Array  # [B,T,D]
    units: jax.Array  # [B] int32, number of real units
    query: jax.Array  # [B,F]
    global_state: jax.Array  # [B,F]


class Agent(nn.Module):
    """One step of the episode: look at the window, then move it (port: A2C)."""

    features: int
    video_features: int
    location_features: int
    unit_weights: bool
    whole_units: bool
    zero_row: bool
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, carry, noise: jax.Array, context: Context):
        """(window [B,2], hidden [B,F], blind [B]), noise [B,7] -> the next ones, `Outputs` of the step."""
        window, hidden, blind = carry
        state = self._observe(window, blind, context)
        estimates = state.astype(jnp.float32)
        iou = agent_linear(1, self.unit_weights, jnp.float32, "iou")(estimates)[:, 0]
        moment = agent_linear(2, self.unit_weights, jnp.float32, "moment")(estimates)
        hidden = GRUCell(self.features, self.dtype, name="gru")(hidden, state)
        logits, value = policy_and_value(len(MOVES), hidden)
        action = (logits + noise).argmax(-1)
        moved = next_window(window, action, context.units, self.whole_units)
        ended = (action == STOP) | ~valid(moved)
        seen = {
            "windows": window,
            "moved": moved,
            "ended": ended,
            "iou": iou,
            "moment": moment,
            "policy": decide(logits, value, action),
        }
        return (moved, hidden, ended), seen

    def _observe(self, window, blind, context: Context) -> jax.Array:
        """Returns the state x [B,F] of windows [B,2], without their units where `blind` [B]."""
        local = mean_of_units(context.video, window, context.units, self.zero_row)
        local = jnp.where(blind[:, None], 0.0, local).astype(self.dtype)
        location = (window / jnp.maximum(context.units - 1, 1)[:, None]).astype(self.dtype)
        local = relu_of_unit(self._linear(self.video_features, "local")(local))
        location = relu_of_unit(self._linear(self.location_features, "location")(location))
        parts = [context.global_state, local, context.query, location]
        return nn.relu(self._linear(self.features, "state")(jnp.concatenate(parts, axis=-1)))

    def _linear(self, features: int, name: str) -> nn.Dense:
        return agent_linear(features, self.unit_weights, self.dtype, name)


# The environment: windows [...,2] of integers, first and last unit.


def next_window(window: jax.Array, action: jax.Array, units: jax.Array, whole_units: bool) -> jax.Array:
    """Returns the window [B,2] that actions [B] lead to from windows [B,2], cut to the video of units [B].

    A window that is not valid stays. Its last unit may be one behind the video's unless `whole_units`.

    Port: determine_range.
    """
    moved = window + (units // 10)[:, None] * jnp.asarray(MOVES)[action]
    last = units - int(whole_units)
    cut = jnp.stack([jnp.maximum(moved[:, 0], 0), jnp.minimum(moved[:, 1], last)], axis=-1)
    return jnp.where((valid(window) & (action != STOP))[:, None], cut, window)


def mean_of_units(video: jax.Array, window: jax.Array, units: jax.Array, zero_row: bool) -> jax.Array:
    """Returns [B,D] float32, the mean of the units of windows [B,2] in video [B,T,D] of units [B].

    With `zero_row` a window that ends behind the last unit has a row of zeros there.
    """
    place = jnp.arange(video.shape[1])[None]
    inside = (place >= window[:, :1]) & (place <= window[:, 1:]) & (place < units[:, None])
    total = jnp.einsum("bt,btd->bd", inside.astype(jnp.float32), video.astype(jnp.float32))
    count = window[:, 1] - window[:, 0] + 1 if zero_row else inside.sum(1)
    return total / jnp.maximum(count, 1)[:, None]


def reward(before: jax.Array, after: jax.Array, step_penalty: float) -> jax.Array:
    """Returns the reward [B,Y] of signed IoUs [B,Y] before and after each of Y steps: did they improve?

    Port: calculate_reward_batch_withstop.
    """
    better = (after > before) & (before >= 0)
    worse = jnp.where((after <= before) & (after >= 0), 0.0, -1.0)
    step = 1 + np.arange(before.shape[1])[None]
    return jnp.where(better, 1.0, worse) - step_penalty * step
