"""TSP-PRL: an agent that scales and shifts a window, with a tree of actions learned one level at a time.

The paper numbers no sections: names at the right, and "official code" in the file, are those of the authors'
program, whose checkpoints `vmr_jax.torch_import` reads.

A root policy picks one of five branches, then the leaf policy of that branch one of its moves (u is a tenth of
the units; c is the window's middle, l its length):

  scale          ends at c -/+ .6 l, .75 l, .417 l, .333 l: the window gets 6/5, 3/2, 5/6, 2/3 as long
  left_move      both ends, the start, or the end: u units to the left
  right_move     the same to the right
  left_offset    the same by a single unit
  right_offset   the same by a single unit

  tensor        shape           meaning                                                      official code
  batch.video   [B,T,D]         units: feature rows of equal length                          original_feats
  window        [B,2] int32     first and last unit that are observed; at first the          current_offset
                                middle half
  global_state  [B,F]           a: ten units of the whole video                              gobal_fc (sic)
  local         [B,F]           b: ten units of the window                                   local_fc
  location      [B,F]           c: both ends of the window, in parts of the video            location_fc
  gate          [B,F]           q: sigmoid of the query                                      sentence_fc
  state         [B,F]           x: ReLU of a linear layer over b q, a q, c q                 state_fc
  iou           [B]             logit of the window's IoU, on x                              iou_fc1 to iou_fc3
  hidden        [B,F]           h: GRU over the steps                                        gru
  root          [B,5], [B]      policy and value, on h                                       global_policy
  leaves        [B,5,4], [B,5]  policies (all but scale have three moves) and values, on h   scale_policy, ...

The episode is one scan of Y steps. A window whose end is not behind its start is not valid: it ends the
episode, stays as it is until the scan is over, and counts for nothing.

In training the leaves learn for `phase_steps` updates while the root is greedy, then the root while the leaves
are greedy, and so on. The level that rests has no gradient, and config.optimizer.rules hold it still. At test
both are greedy; the answer is the window with the highest logit of its IoU, of all that the agent has seen. The
others are ranked behind it.

Letters beyond the usual: Z actions of a policy.
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
from vmr_jax.layers.attention import MASKED
from vmr_jax.layers.recurrent import GRUCell
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
from vmr_jax.losses import binary_cross_entropy
from vmr_jax.models.base import GroundingModel
from vmr_jax.models.card import Card
from vmr_jax.types import Batch, Mean, Moments

CARD = Card(
    title=(
        "Tree-Structured Policy based Progressive Reinforcement Learning for Temporally Language Grounding in "
        "Video"
    ),
    authors=("Wu", "Li", "Liu", "Lin"),
    venue="AAAI",
    year=2020,
    family="reinforcement learning",
    kind="iterative, tree-structured policy",
    supervision="full",
    features="two-stream; skip-thoughts",
    official_code="WuJie1010/TSP-PRL@f286ab4d6ef0 (PyTorch)",
    ours=(
        "What the paper leaves open is as in the official code.",
        "The level that rests does not move (in the official code Adam's momentum moves it on).",
        "No window begins before the video (in the official code those of less than four units do).",
        "Moments come in seconds, not from a file that is not public: `whole_units` says how they become "
        "units.",
        "Rewards compare IoUs of whole units, so that equal ones are equal. The official code divides by the "
        "length of the video first, in float32: of 4,000 random moves 1.7% get another reward of the leaf, "
        "and 5% of the root, each where several branches are best.",
        "All windows that the agent has seen are ranked by the estimate of their IoU; the paper has one "
        "prediction.",
        "The vectors 'mean' and 'lstm' of the query (`text`), and the narrower initial weights of "
        "`unit_weights=False`, are not in the paper.",
    ),
    verified=(
        "There are 182,460,956 parameters, as in the official code.",
        "Against the official code at this commit, running, with small random weights, videos of 6 to 64 "
        "units and episodes of 12 steps, in both phases: rows, first windows, the ten units of runs of 1 to "
        "399, 10,624 moves and all 32 answers are the same; logits of the IoU, values, "
        "log-probabilities, entropies and rewards agree to 8e-7, loss terms to 4e-7, gradients to 1e-6.",
        "Episodes of 20 steps equal a PyTorch twin.",
        "Every action, reward and loss equals a computation by hand.",
    ),
)

BRANCHES = {"scale": 4, "left_move": 3, "right_move": 3, "left_offset": 3, "right_offset": 3}  # leaf -> moves
MOVES = max(BRANCHES.values())
# Half of the new length in thousandths of the old one: the official decimals, as integers that cut like int().
_HALVES = (600, 750, 417, 333)
_SHIFTS = ((1, 1), (1, 0), (0, 1))  # what a shift moves: both ends, the start, the end


@struct.dataclass
class Outputs:
    """The episode, Y steps; `windows` are those before the action."""

    windows: jax.Array  # [B,Y,2] int32
    branches: jax.Array  # [B,Y,5,2] int32, the window that each branch with its greedy leaf would lead to
    moved: jax.Array  # [B,Y,2] int32, the window that the actions led to
    iou: jax.Array  # [B,Y] float32 logits of the IoU of `windows`
    root: Decision  # [B,Y]
    leaf: Decision  # [B,Y], of the branch that was picked
    root_learns: jax.Array  # [] bool, the phase


class Model(GroundingModel):
    """TSP-PRL, with the settings of the official code; our choices are in `CARD.ours`.

    Attributes:
      features: F, width of every layer.
      critic_features: widths of the two hidden layers of the IoU's logit.
      horizon: Y, number of steps of an episode (official code: num_steps).
      discount: weight of what the next step returns (official code: gamma).
      entropy_weight: weight of the policies' entropy in the policy loss (official code: entropy-coef).
      detach_advantage: whether gradients of policies and returns stop before the values, as textbooks have it;
        False lets them through, as the official code does.
      phase_steps: number of updates after which the other level learns; config.optimizer.rules must say the
        same.
      text: vector of the query: 'sentence' is `batch.sentence` (the paper's skip-thought vector), 'mean' that
        of the word vectors, 'lstm' the last state of an LSTM of F units over them.
      whole_units: whether a window lasts to the end of its last unit and moments keep their fractions; False
        ends it at the start of its last unit and rounds moments to units, as the official code does.
      unit_weights: whether weights of linear layers start as N(0, 1), as in the official code; False starts all
        but those of query and state as Flax does (LeCun normal), from which narrow layers learn faster.
      slip_in_first_window: whether a slip of the official test loader is repeated: of the ten units of the
        first window, the ninth is the first.
      vocab_size: number of words whose vectors are fine-tuned; 0 keeps the word vectors of the batch fixed.
      dtype: number format of the layers; parameters, policies, values, logits and losses are float32.
    """

    features: int = 1024
    critic_features: tuple[int, int] = (256, 128)
    horizon: int = 20
    discount: float = 0.4
    entropy_weight: float = 0.1
    detach_advantage: bool = False
    phase_steps: int = 200
    text: str = "sentence"
    whole_units: bool = False
    unit_weights: bool = True
    slip_in_first_window: bool = False
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
        video = batch.video.astype(self.dtype)
        sentence = SentenceVector(self.text, self.features, self.vocab_size, self.dtype, name="sentence")(batch)
        updates = self.variable("schedule", "step", lambda: jnp.int32(0))
        root_learns = (updates.value // self.phase_steps) % 2 == 1
        if train and not self.is_initializing():
            updates.value = updates.value + 1

        whole = jnp.stack([jnp.zeros_like(units), units - 1], axis=-1)
        context = Context(
            video=video,
            units=units,
            gate=nn.sigmoid(agent_linear(self.features, True, self.dtype, "query")(sentence)),
            global_state=relu_of_unit(self._linear("global")(_join(gather_units(video, ten_units(whole))))),
        )
        agent = plays(Agent, in_axes=(0, 1, nn.broadcast))(
            self.features,
            self.critic_features,
            self.unit_weights,
            self.slip_in_first_window and not train,
            self.dtype,
            name="agent",
        )
        start = first_window(units), jnp.zeros((batch.size, self.features), jnp.float32)
        _, seen = agent(start, jnp.arange(self.horizon), self._noise(batch, root_learns, train), context)
        return Outputs(**seen, root_learns=root_learns)

    def _noise(self, batch: Batch, root_learns: jax.Array, train: bool) -> jax.Array:
        """Returns noise [B,Y,2,5] for the actions of root and leaf: zero for the level that is greedy."""
        shape = (self.horizon, 2, len(BRANCHES))
        if not train:
            return jnp.zeros((batch.size, *shape))
        noise = action_noise(self.make_rng("dropout"), batch.example_index, shape)
        drawn = jnp.stack([root_learns, ~root_learns])
        return jnp.where(drawn[None, None, :, None], noise, 0.0)

    def _linear(self, name: str) -> nn.Dense:
        return agent_linear(self.features, self.unit_weights, self.dtype, name)

    def loss(self, outputs: Outputs, batch: Batch, *, epoch: jax.Array) -> dict[str, Mean]:
        """Returns 'policy' and 'value' of the level that learns, 'iou' of every window that overlaps.

        Official code: train.
        """
        del epoch
        # Up to and with the action that ends the episode.
        counted = _seen(outputs.windows) & batch.example_mask[:, None]
        units = batch.video_mask.sum(1, dtype=jnp.int32)
        truth = annotated_window(batch.span, batch.duration, units, self.whole_units)
        before, after = (self._iou(windows, truth) for windows in (outputs.windows, outputs.moved))
        reachable = self._iou(outputs.branches, truth)
        # Taken from the five, so that it equals the best one to the bit where it is that.
        picked = jnp.take_along_axis(reachable, outputs.root.action[..., None], axis=2)[..., 0]

        rewards, decisions = jax.tree.map(
            lambda root, leaf: jnp.where(outputs.root_learns, root, leaf),
            (root_reward(before, picked, reachable), outputs.root),
            (leaf_reward(before, after), outputs.leaf),
        )
        policy, value = episode_terms(
            decisions,
            rewards,
            counted,
            discount=self.discount,
            entropy_weight=self.entropy_weight,
            detach_advantage=self.detach_advantage,
        )
        overlaps = counted & valid(outputs.windows) & (before > 0)
        iou = Mean.of(binary_cross_entropy(outputs.iou, before), overlaps)
        return {"policy": policy, "value": value, "iou": iou}

    def _iou(self, windows: jax.Array, truth: jax.Array) -> jax.Array:
        """Returns the signed IoU [B,Y,...] of windows [B,Y,...,2] and truth [B,2]."""
        truth = jnp.expand_dims(truth, tuple(range(1, windows.ndim - 1)))
        return signed_iou(windows, truth, int(self.whole_units))

    def predict(self, outputs: Outputs, batch: Batch) -> Moments:
        """Returns the windows that were seen, by the estimate of their IoU, which is the score."""
        seen = _seen(outputs.windows)
        return ranked_windows(outputs.windows, outputs.iou, seen, batch, self.whole_units)


@struct.dataclass
class Context:
    """All that stays the same during an episode."""

    video: jax.Array  # [B,T,D]
    units: jax.Array  # [B] int32, number of real units
    gate: jax.Array  # [B,F]
    global_state: jax.Array  # [B,F]


class Agent(nn.Module):
    """One step of the episode: look at the window, then move it (official code: HRL)."""

    features: int
    critic_features: tuple[int, int]
    unit_weights: bool
    slip_in_first_window: bool
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, carry, t: jax.Array, noise: jax.Array, context: Context):
        """(window [B,2], hidden [B,F]), step [], noise [B,2,5] -> the next ones, and `Outputs` of the step."""
        window, hidden = carry
        state = self._observe(window, t, context)
        iou = self._iou_logit(state)
        hidden = GRUCell(self.features, self.dtype, name="gru")(hidden, state)
        root_logits, root_value = policy_and_value(len(BRANCHES), hidden, "root_policy", "root_value")
        leaf_logits, leaf_values = self._leaves(hidden)

        branch = (root_logits + noise[:, 0]).argmax(-1)
        picked_logits, picked_value = pick(leaf_logits, branch), pick(leaf_values, branch)
        move = (picked_logits + noise[:, 1, :MOVES]).argmax(-1)

        reachable = next_windows(window, context.units)
        moved = pick(pick(reachable, branch), move)
        seen = {
            "windows": window,
            "branches": jnp.take_along_axis(reachable, leaf_logits.argmax(-1)[..., None, None], axis=2)[
                :, :, 0
            ],
            "moved": moved,
            "iou": iou,
            "root": decide(root_logits, root_value, branch),
            "leaf": decide(picked_logits, picked_value, move),
        }
        return (moved, hidden), seen

    def _observe(self, window, t, context: Context) -> jax.Array:
        """Returns the state x [B,F] of windows [B,2] at step t []."""
        indices = ten_units(window)
        if self.slip_in_first_window:
            indices = jnp.where(t == 0, indices.at[:, 8].set(indices[:, 0]), indices)
        local = _join(gather_units(context.video, indices))
        location = window / jnp.maximum(context.units - 1, 1)[:, None]
        local = relu_of_unit(self._linear("local")(local))
        location = relu_of_unit(self._linear("location")(location.astype(self.dtype)))
        gated = [x * context.gate for x in (local, context.global_state, location)]
        return nn.relu(agent_linear(self.features, True, self.dtype, "state")(jnp.concatenate(gated, axis=-1)))

    def _iou_logit(self, state) -> jax.Array:
        """Returns the logit [B] of the window's IoU, of x [B,F]."""
        for i, features in enumerate(self.critic_features):
            state = nn.relu(agent_linear(features, self.unit_weights, self.dtype, f"iou_{i}")(state))
        return agent_linear(1, self.unit_weights, jnp.float32, "iou")(state.astype(jnp.float32))[:, 0]

    def _leaves(self, hidden) -> tuple[jax.Array, jax.Array]:
        """Returns logits [B,5,4], `MASKED` at moves that there are not, and values [B,5]."""
        logits, values = zip(
            *(
                policy_and_value(moves, hidden, f"leaf_{name}_policy", f"leaf_{name}_value")
                for name, moves in BRANCHES.items()
            )
        )
        padded = [jnp.pad(x, ((0, 0), (0, MOVES - x.shape[1])), constant_values=MASKED) for x in logits]
        return jnp.stack(padded, axis=1), jnp.stack(values, axis=1)

    def _linear(self, name: str) -> nn.Dense:
        return agent_linear(self.features, self.unit_weights, self.dtype, name)


# The environment: windows [...,2] of integers, first and last unit.


def next_windows(window: jax.Array, units: jax.Array) -> jax.Array:
    """Returns the window after each move of each branch: [B,2] and [B] -> [B,5,4,2], cut to the video.

    Official code: determine_scale_range, determine_left_move_range and its three sisters.

    A window that is not valid stays; so does any where a branch has no such move.
    """
    start, end = window[:, 0, None], window[:, 1, None]
    half = (end - start) * np.array([_HALVES]) // 1000
    middle = (start + end) // 2
    moves = [jnp.stack([middle - half, middle + half], axis=-1)]
    step = units[:, None, None] // 10
    shifts = np.array([_SHIFTS])
    moves += [window[:, None] + distance * shifts for distance in (-step, step, -1, 1)]
    stay = window[:, None]
    moves = [jnp.concatenate([x] + [stay] * (MOVES - x.shape[1]), axis=1) for x in moves]
    after = jnp.stack(moves, axis=1)
    last = units[:, None, None] - 1
    cut = jnp.stack([jnp.maximum(after[..., 0], 0), jnp.minimum(after[..., 1], last)], axis=-1)
    return jnp.where(valid(window)[:, None, None, None], cut, window[:, None, None])


def pick(x: jax.Array, index: jax.Array) -> jax.Array:
    """Takes x[b, index[b]] of x [B,...] and index [B] -> [B,...], one axis less."""
    return jax.vmap(lambda row, i: row[i])(x, index)


def _seen(windows: jax.Array) -> jax.Array:
    """Returns [B,Y] bool, the steps of windows [B,Y,2] that are played; the first one always is."""
    return valid(windows) | (jnp.arange(windows.shape[1]) == 0)[None]


# The observation: ten units stand for a run of units of any length. Official code: choose_ten_frame.


# n -> which units of a run of n, for n below ten; from there on it is floor((i + 1) n / 11).
_FEW = np.array(
    [
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 1, 1, 1, 1, 1],
        [0, 0, 0, 1, 1, 1, 1, 2, 2, 2],
        [0, 0, 1, 1, 1, 2, 2, 2, 3, 3],
        [0, 0, 1, 1, 2, 2, 3, 3, 4, 4],
        [0, 1, 1, 2, 2, 3, 3, 4, 4, 5],
        [0, 1, 2, 2, 3, 3, 4, 4, 5, 6],
        [0, 1, 2, 3, 4, 4, 5, 5, 6, 7],
        [0, 1, 2, 3, 4, 4, 5, 6, 7, 8],
    ]
)


def ten_units(window: jax.Array) -> jax.Array:
    """Returns the ten units [B,10] that stand for those of a window [B,2], both ends included."""
    count = jnp.maximum(window[:, 1] - window[:, 0] + 1, 1)[:, None]
    few = jnp.asarray(_FEW)[jnp.minimum(count[:, 0], len(_FEW)) - 1]
    many = (np.arange(1, 11)[None] * count) // 11
    return window[:, :1] + jnp.where(count > len(_FEW), many, few)


def gather_units(video: jax.Array, indices: jax.Array) -> jax.Array:
    """Returns rows [B,10,D] of video [B,T,D]; an index outside of the video reads its first or last row."""
    return jnp.take_along_axis(video, indices[..., None], axis=1, mode="clip")


# Rewards. Official code: calculate_RL_IoU_batch, calculate_leaf_reward_batch, calculate_root_reward_batch.


def leaf_reward(before: jax.Array, after: jax.Array) -> jax.Array:
    """Returns the reward of a leaf, elementwise, from signed IoUs before and after: did it improve?"""
    better = 1.0 + jnp.where(after > 0.5, after, 0.0)
    worse = jnp.where((after <= before) & (after >= 0), -0.1, -1.0)
    return jnp.where((after > before) & (before >= 0), better, worse)


def root_reward(before: jax.Array, after: jax.Array, reachable: jax.Array) -> jax.Array:
    """Returns the reward [B,Y] of the root: was its branch the best, and did it improve?

    From the signed IoUs [B,Y] before and after, and [B,Y,5] after each branch.
    """
    best = reachable.max(-1)
    return jnp.where(after == best, 1.0, after - best) + (after - before)


def _join(units: jax.Array) -> jax.Array:
    """[B,10,D] -> [B,10D]."""
    return units.reshape(units.shape[0], -1)
