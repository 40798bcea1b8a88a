"""STRONG: one agent moves a segment over the video, another one a box over its frames, to see what is asked.

Tensors (names of the official code at the right):

  batch.video   [B,T,D]      clips (official code: frames), with their mask
  batch.grid    [B,T,I,I,D]  cells of the frames, of the spatial agent alone
  sentence      [B,E]        q: the vector of the sentence                          w_vec
  segment       [B,2]        start and end in parts of the video, at first the      location
                             middle half
  box           [B,4]        x, y, width and height in parts of a frame, at first   x, y, w, h
                             its middle
  crop          [B,F]        the cells of the segment in the box                    image_feature
  state         [B,F]        of the temporal agent: q, crop when it last looked,    state
                             mean clip of the video, and the segment
  vector        [B,Z]        an actor's numbers, with noise; the largest one is     action
                             the action

Actions of the temporal agent are those of AVMR. The spatial agent moves the box to the right (0) or to the
left (1), down (2) or up (3), makes it larger (4) or smaller (5), taller (6) or wider (7). A move that leaves
the video or the frame is not made.

Every `look_every` steps of the temporal agent the spatial agent moves the box `looks` times, seeing crop, q and
mean clip of the segment; the temporal agent's critic judges each new crop: is the state worth more with it?
Both agents are trained by DDPG (`vmr_jax.layers.ddpg`), the spatial one without a value of what follows.

Letters beyond the usual: Z actions of a policy.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from vmr_jax.errors import UserError
from vmr_jax.layers.ddpg import (
    FIRST,
    MOVES,
    DeterministicAgent,
    Networks,
    Values,
    act,
    ddpg_terms,
    episode_noise,
    explored,
    improvement,
    linear_layers,
    linear_of,
    mean_inside,
    next_segment,
    rows_inside,
    value,
    values_of,
)
from vmr_jax.layers.recurrent import mean_state
from vmr_jax.layers.sentence import SENTENCE_VECTORS, SentenceVector, read_fields
from vmr_jax.models.base import GroundingModel
from vmr_jax.models.card import Card
from vmr_jax.moments import rank
from vmr_jax.types import Batch, Mean, Moments

CARD = Card(
    title="STRONG: Spatio-Temporal Reinforcement Learning for Cross-Modal Video Moment Localization",
    authors=("Cao", "Zeng", "Liu", "He", "Wang", "Qin"),
    venue="ACM MM",
    year=2020,
    family="reinforcement learning",
    kind="iterative, deterministic policies over segment and frame",
    supervision="full",
    features="ResNet, VGG; skip-thoughts",
    official_code="yawenzeng/STRONG@1690c94aa7ec (PyTorch)",
    ours=(
        "The paper's text was not at hand: everything is as in the official code, which does not run as "
        "published, and no reproduction is claimed.",
        "The official data are windows of 64 to 512 frames cut around the moments; here a video is whole, and "
        "the published numbers are not comparable.",
        "The spatial agent moves its box, which begins as (.1, .1, .8, .8) from the upper left corner. In the "
        "official code no action of it is ever carried out, and the box, (.5, .5, .8, .8) from its middle, "
        "could not move (`centred`).",
        "A crop is the mean grid of the segment's clips, pooled in the box as in spatial pyramids and "
        "projected by layers that learn with the temporal critic. The official code encodes each frame by a "
        "network of random weights, new for every frame, and crops what the annotated segment holds, at test "
        "too.",
        "An update learns from the transitions of the batch's own episodes, without a replay memory (see "
        "AVMR), and critics and actors learn at once.",
        "Of equal rank behind the answer, the last segment, are the earlier ones, the later the higher; the "
        "official code has one prediction.",
        "An IoU is none where segments are apart (`absolute_iou` is the official one), and one that rises by "
        "less than 1e-6 has not risen.",
        "At test the agents are greedy (`noise_at_test` explores, as the official code does).",
        "Without grids (`spatial=False`) the crop is the mean clip of the segment.",
        "The vectors 'mean' and 'lstm' of the query (`text`) are not in the paper.",
    ),
    verified=(
        "Against the official code at this commit, running, repaired (commas, a missing argument, copies of "
        "states in its memory) and with small random weights: 3,000 moves of segments and 4,000 of boxes are "
        "the same, of episodes of 20 steps states and actions, and rewards but for one tie as below; loss "
        "terms agree to 3e-7, gradients of both agents to 8e-7. The update of its spatial agent fails, as no "
        "transition of it has a next state; it was given states of no weight. Of 3,000 random moves on its "
        "grid 1% get another reward there, where the IoU is equal but for its float32.",
        "Episodes of 6 steps with two looks at every second one equal a PyTorch twin.",
        "Every move, crop, reward and loss equals a computation by hand.",
    ),
)

# Steps by which each action changes x, y, width and height.
BOX_MOVES = np.array(
    [
        [1, 0, 0, 0],
        [-1, 0, 0, 0],
        [0, 1, 0, 0],
        [0, -1, 0, 0],
        [0, 0, 1, 1],
        [0, 0, -1, -1],
        [0, 0, 0, 1],
        [0, 0, 1, 0],
    ]
)
POOLS = (1, 2, 4)  # cells along each side of the levels of the pyramid (official code: out_pool_size)


@struct.dataclass
class Looks:
    """The spatial agent's moves; K are those of all Y steps, `looks` of each."""

    values: Values  # [B,K]
    rewards: jax.Array  # [B,K]
    made: jax.Array  # [B,K] bool, whether it looked


@struct.dataclass
class Outputs:
    """The episode, Y steps."""

    before: jax.Array  # [B,Y,2] segments
    after: jax.Array  # [B,Y,2]
    can: jax.Array  # [B,Y] bool, the move could be made
    values: Values  # [B,Y]
    boxes: jax.Array  # [B,Y,4] behind each step
    looks: Looks | None  # None without a spatial agent


class Model(GroundingModel):
    """STRONG, with the settings of the official code; our choices are in `CARD.ours`.

    Attributes:
      spatial: whether there is a spatial agent, which reads `batch.grid`.
      actor_hidden: widths of the actors' hidden layers.
      critic_hidden: widths of the critics' hidden layers.
      crop_hidden: width of the hidden layer over a pooled crop.
      crop_features: width of a crop.
      horizon: Y, number of steps of an episode (official code: max_steps).
      step: part of the video that an action moves an end (official code: quick).
      box_step: part of the frame that an action moves a side (official code: quick of IMGDDPG).
      look_every: number of steps after which the temporal agent sees where it is (official code: CHANGE).
      looks: number of moves of the box at such a time (official code: CHANGE_epoch).
      pretrain_epochs: number of epochs in which the temporal agent learns alone.
      centred: whether x and y of a box are its middle and it begins where no move can be made.
      discount: weight of what the next state is worth (official code: GAMMA).
      reward_scale: factor of the rewards in the critics' targets (official code: scale_reward).
      step_penalty: part of the temporal reward that is lost with every further step.
      target_rate: share of the way that the target networks go at a time (official code: tau).
      target_every: number of updates between two such times.
      noise: deviation of the noise on the actors' numbers at first (official code: var).
      noise_decay: factor of the noise with every step of an episode.
      noise_least: deviation of the noise below which it does not fall.
      noise_at_test: whether the agents explore at test too, with the deviation `noise`.
      absolute_iou: whether segments that are apart overlap by the gap between them.
      text: vector of the query: 'sentence' is `batch.sentence` (the skip-thought vector), 'mean' that of the
        word vectors, 'lstm' the last state of an LSTM over them.
      lstm_features: width of the LSTM over the words.
      vocab_size: number of words whose vectors are fine-tuned; 0 keeps the word vectors of the batch fixed.
      dtype: number format of the layers; parameters, values and losses are float32.
    """

    spatial: bool = True
    actor_hidden: tuple[int, ...] = (500, 128)
    critic_hidden: tuple[int, ...] = (1024, 512, 300)
    crop_hidden: int = 4096
    crop_features: int = 2048
    horizon: int = 20
    step: float = 0.05
    box_step: float = 0.01
    look_every: int = 5
    looks: int = 2
    pretrain_epochs: int = 2
    centred: bool = False
    discount: float = 0.3
    reward_scale: float = 0.01
    step_penalty: float = 0.01
    target_rate: float = 0.01
    target_every: int = 100
    noise: float = 1.0
    noise_decay: float = 0.999998
    noise_least: float = 0.05
    noise_at_test: bool = False
    absolute_iou: bool = False
    text: str = "sentence"
    lstm_features: int = 1024
    vocab_size: int = 0
    dtype: jnp.dtype = jnp.float32

    choices = {"text": SENTENCE_VECTORS}
    positive = ("look_every", "looks")

    def requires(self) -> tuple[str, ...]:
        """Names the cells of the frames and the vector of the sentence, where settings say so."""
        return (*(("grid",) if self.spatial else ()), *read_fields(self.text))

    @nn.compact
    def __call__(self, batch: Batch, *, train: bool) -> Outputs:
        """Plays an episode with every pair; UserError where the batch lacks the vector of the sentence."""
        batch.check()
        sentence = SentenceVector(self.text, self.lstm_features, self.vocab_size, jnp.float32, name="sentence")
        query = sentence(batch)
        updates = self.variable("schedule", "step", lambda: jnp.int32(0))
        width = batch.video.shape[2]
        crop = self.crop_features if self.spatial else width
        temporal = self._agent("temporal", query.shape[1] + crop + width + 2, len(MOVES))(updates.value, train)
        spatial, crops = None, None
        if self.spatial:
            if batch.grid is None:
                raise UserError(
                    "The spatial agent of STRONG reads the cells of the frames, and this batch has none "
                    "(grid). Give config.dataset.streams.grid, or set config.model.spatial=False."
                )
            inputs = sum(p * p for p in POOLS) * batch.grid.shape[-1]
            crops = self.param("crops", linear_layers, [(inputs, self.crop_hidden), (self.crop_hidden, crop)])
            agent = self._agent("spatial", crop + query.shape[1] + width, len(BOX_MOVES))
            spatial = agent(updates.value, train)
        player = Player(
            model=self,
            temporal=temporal,
            spatial=spatial,
            crops=crops,
            batch=batch,
            query=query,
            whole=mean_state(batch.video.astype(jnp.float32), batch.video_mask),
        )
        # Of the segment, then of each look.
        shape = (self.horizon, 1 + self.looks, len(BOX_MOVES))
        noise = episode_noise(self, batch.example_index, shape, updates.value, train)
        if train and not self.is_initializing():
            updates.value = updates.value + 1
        return player.play(noise)

    def _agent(self, name: str, inputs: int, actions: int) -> DeterministicAgent:
        return DeterministicAgent(
            inputs=inputs,
            actions=actions,
            actor_hidden=self.actor_hidden,
            critic_hidden=self.critic_hidden,
            target_rate=self.target_rate,
            target_every=self.target_every,
            name=name,
        )

    def loss(self, outputs: Outputs, batch: Batch, *, epoch: jax.Array) -> dict[str, Mean]:
        """Returns 'critic' and 'actor' of the temporal agent, and the same of the spatial one.

        Official code: train, calculate_reward.
        """
        shape = outputs.can.shape
        # The last transition is not learned.
        real = batch.example_mask[:, None] & (jnp.arange(shape[1]) < shape[1] - 1)[None]
        rises = improvement(
            outputs.before, outputs.after, batch.span / batch.duration[:, None], self.absolute_iou
        )
        late = self.step_penalty * jnp.arange(shape[1])[None]
        rewards = jnp.where(outputs.can, rises.astype(jnp.float32) - late, -1.0)
        critic, actor = ddpg_terms(
            outputs.values, rewards, real, discount=self.discount, reward_scale=self.reward_scale
        )
        terms = {"critic": critic, "actor": actor}
        if outputs.looks is not None:
            looks = outputs.looks
            made = looks.made & batch.example_mask[:, None] & (epoch >= self.pretrain_epochs)
            terms["spatial_critic"], terms["spatial_actor"] = ddpg_terms(
                looks.values, looks.rewards, made, discount=0.0, reward_scale=self.reward_scale
            )
        return terms

    def predict(self, outputs: Outputs, batch: Batch) -> Moments:
        """Returns the segments, the last one first. Official code: test."""
        spans = outputs.after * batch.duration[:, None, None]
        late = jnp.arange(1, self.horizon + 1, dtype=jnp.float32) / self.horizon
        scores = jnp.broadcast_to(late[None], outputs.can.shape)
        return rank(spans, scores, jnp.ones_like(outputs.can), self.horizon)


@struct.dataclass
class Player:
    """All that stays the same during an episode, and its steps."""

    model: Model = struct.field(pytree_node=False)
    temporal: Networks
    spatial: Networks | None
    crops: dict | None  # layers over a pooled crop
    batch: Batch
    query: jax.Array  # [B,E]
    whole: jax.Array  # [B,D]

    def play(self, noise: jax.Array) -> Outputs:
        """The episode under noise [B,Y,1 + looks,8]."""
        model, size = self.model, self.query.shape[0]
        segment = jnp.tile(jnp.array([FIRST], jnp.float32), (size, 1))
        corner = 0.5 if model.centred else 0.1
        box = jnp.tile(jnp.array([[corner, corner, 0.8, 0.8]], jnp.float32), (size, 1))
        start = segment, box, self._crop(segment, box)
        inputs = noise.swapaxes(0, 1), jnp.arange(model.horizon)
        (segment, box, crop), seen = jax.lax.scan(self._step, start, inputs)
        seen = jax.tree.map(lambda x: x.swapaxes(0, 1), seen)
        states = seen["state"]
        last = self._state(segment, crop)[:, None]
        following = jnp.concatenate([states[:, 1:], last], axis=1)
        values = values_of(self.temporal, states, seen["vector"], following, model.dtype)
        return Outputs(
            before=seen["before"],
            after=seen["after"],
            can=seen["can"],
            values=values,
            boxes=seen["box"],
            looks=self._looks(self.spatial, seen["looks"]) if self.spatial is not None else None,
        )

    def _step(self, carry, inputs):
        """(segment, box, crop), (noise [B,1 + looks,8], t) -> the next ones, and what is kept of the step."""
        model, (segment, box, crop), (noise, t) = self.model, carry, inputs
        state = self._state(segment, crop)
        vector = self._explored(self.temporal, state, noise[:, 0, : len(MOVES)])
        after, can = next_segment(segment, vector, model.step)
        look = (t + 1) % model.look_every == 0
        seen = {"before": segment, "after": after, "can": can, "state": state, "vector": vector, "looks": ()}
        if not model.spatial:
            crop = jnp.where(look, self._crop(after, box), crop)
        for i in range(model.looks if model.spatial else 0):
            moved, new, kept = self._look(after, box, crop, vector, noise[:, 1 + i])
            box, crop = jnp.where(look, moved, box), jnp.where(look, new, crop)
            vector = jnp.where(look, kept.pop("vector"), vector)
            seen["looks"] += ({**kept, "made": jnp.broadcast_to(look, can.shape)},)
        return (after, box, crop), {**seen, "box": box}

    def _look(self, segment, box, crop, vector, noise):
        """The spatial agent moves the box [B,4]: the new one, its crop, and what is learned from it.

        Official code: state_update_img, calculate_reward_img.
        """
        dtype = self.model.dtype
        local = self._clips(segment)
        state = jax.lax.stop_gradient(jnp.concatenate([self._crop(segment, box), self.query, local], axis=-1))
        own = self._explored(self.spatial, state, noise)
        box = next_box(box, own, self.model.box_step)
        new = self._crop(segment, box)
        before, after = self._state(segment, crop), self._state(segment, new)
        following = self._explored(self.temporal, after, 0.0)
        critic = jax.lax.stop_gradient(self.temporal.critic)
        gain = value(critic, after, following, dtype) - value(critic, before, vector, dtype)
        kept = {
            "state": state,
            "own": own,
            "reward": jax.lax.stop_gradient(jnp.sign(gain)),
            "vector": following,
        }
        return box, new, kept

    def _looks(self, networks: Networks, looks) -> Looks:
        """The looks of all steps, one behind the other; each of `looks` is a tree of [B,Y,...]."""
        joined = {name: jnp.concatenate([look[name] for look in looks], axis=1) for name in looks[0]}
        state = joined["state"]
        values = values_of(networks, state, joined["own"], state, self.model.dtype)
        return Looks(values=values, rewards=joined["reward"], made=joined["made"])

    def _explored(self, networks: Networks, state, noise) -> jax.Array:
        vector = explored(act(networks.actor, state, self.model.dtype), noise, 1.0)
        return jax.lax.stop_gradient(vector)

    def _state(self, segment, crop) -> jax.Array:
        return jnp.concatenate([self.query, crop, self.whole, segment], axis=-1)

    def _clips(self, segment) -> jax.Array:
        """Returns the mean clip [B,D] of segments [B,2]."""
        return mean_inside(self.batch.video, rows_inside(segment[:, None], self.batch.video_mask))[:, 0]

    def _crop(self, segment, box) -> jax.Array:
        """Returns the crops [B,F] of boxes [B,4] in the frames of segments [B,2]."""
        grid = self.batch.grid
        if self.crops is None or grid is None:
            return self._clips(segment)
        inside = rows_inside(segment[:, None], self.batch.video_mask)
        cells = mean_inside(grid.reshape(*grid.shape[:2], -1), inside)[:, 0].reshape(-1, *grid.shape[2:])
        pooled = pyramid(cells, corners(box, self.model.centred))
        hidden = nn.relu(linear_of(self.crops["layer_0"], pooled, self.model.dtype))
        return linear_of(self.crops["layer_1"], hidden, self.model.dtype)


# The environment of the spatial agent.


def next_box(box: jax.Array, vector: jax.Array, step: float) -> jax.Array:
    """Returns the boxes [B,4] that vectors [B,8] move boxes [B,4] to; the same where they cannot.

    Official code: img_update.
    """
    moved = box + step * jnp.asarray(BOX_MOVES, jnp.float32)[vector.argmax(-1)]
    place, size = moved[:, :2], moved[:, 2:]
    can = ((place >= 0) & (place <= 1) & (size >= 0) & (place + size <= 1)).all(-1)
    return jnp.where(can[:, None], moved, box)


def corners(box: jax.Array, centred: bool) -> jax.Array:
    """Returns the boxes [B,4] by their upper left corner, from those by it or by their middle."""
    return jnp.concatenate([box[:, :2] - box[:, 2:] / 2, box[:, 2:]], axis=1) if centred else box


def pyramid(cells: jax.Array, box: jax.Array) -> jax.Array:
    """Returns [B,F]: means of cells [B,I,I,D] over the parts of boxes [B,4], of one, four and sixteen parts.

    A cell counts by the share of it that lies in a part. Official code: SppNet.
    """
    pooled = []
    for parts in POOLS:
        across, down = (_shares(box[:, axis], box[:, 2 + axis], parts, cells.shape[1]) for axis in (0, 1))
        means = jnp.einsum("bpi,bqj,bijd->bdpq", down, across, cells.astype(jnp.float32))
        pooled.append(means.reshape(means.shape[0], -1))
    return jnp.concatenate(pooled, axis=-1)


def _shares(start: jax.Array, length: jax.Array, parts: int, cells: int) -> jax.Array:
    """How each part of intervals from `start` [B] on is made of cells: [B,parts,cells], rows add up to 1."""
    edge = jnp.arange(parts + 1, dtype=jnp.float32)[None] / parts
    edge = start[:, None] + edge * length[:, None]
    cell = jnp.arange(cells, dtype=jnp.float32)[None, None] / cells
    upper = jnp.minimum(edge[:, 1:, None], cell + 1 / cells)
    shared = jnp.maximum(upper - jnp.maximum(edge[:, :-1, None], cell), 0.0)
    return shared / jnp.maximum(shared.sum(-1, keepdims=True), 1e-6)
