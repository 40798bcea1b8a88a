"""STRONG in PyTorch, with the official names; its box moves, as its authors meant it (see the card)."""

import numpy as np
import torch
from torch import nn

from references import Named
from references.avmr import Actor, Critic, moved
from vmr_jax.input.spec import batch_spec
from vmr_jax.torch_import import load

# Which of x, y, w and h an action changes, and where to.
BOX = ({0: 1}, {0: -1}, {1: 1}, {1: -1}, {2: 1, 3: 1}, {2: -1, 3: -1}, {3: 1}, {2: 1})


def next_box(box, action, step):
    """The box (x, y, w, h) that an action leads to; the same where it cannot be taken."""
    step = np.float32(step)
    x, y, w, h = new = [side + step * BOX[action].get(i, 0) for i, side in enumerate(box)]
    return new if 0 <= x <= 1 and 0 <= y <= 1 and w >= 0 and h >= 0 and x + w <= 1 and y + h <= 1 else box


def means_along(cells, start, length, parts):
    """Means of cells [I,...] over equal parts of an interval: differences of their integral, [parts,...]."""
    integral = np.concatenate([np.zeros_like(cells[:1]), np.cumsum(cells, axis=0)]) / len(cells)
    edges = start + length * np.arange(parts + 1) / parts
    below = np.minimum((edges * len(cells)).astype(int), len(cells) - 1)
    rest = (edges - below / len(cells)).reshape(-1, *[1] * (cells.ndim - 1))
    at_edges = integral[below] + rest * cells[below]
    return np.diff(at_edges, axis=0) / (length / parts)


def pooled(cells, box):
    """Means of cells [I,I,D] in 1, 4 and 16 parts of a box, as the official pyramid orders them: [21 D]."""
    x, y, w, h = (float(side) for side in box)
    found = []
    for parts in (1, 2, 4):
        rows = means_along(cells.numpy().astype(float), y, h, parts)
        found.append(means_along(rows.swapaxes(0, 1), x, w, parts).transpose(2, 1, 0).ravel())
    return torch.tensor(np.concatenate(found), dtype=torch.float32)


def networks(state, actions, actor_hidden, critic_hidden):
    """The networks of an agent, under the names of the official class."""
    kinds = {"actors": lambda: Actor(state, *actor_hidden, actions)}
    kinds["critics"] = lambda: Critic(state, actions, *critic_hidden)
    parts = {f"{name}{end}": nn.ModuleList([make()]) for name, make in kinds.items() for end in ("", "_target")}
    return Named(**parts)


class Twin(nn.Module):
    """The greedy agents, one video at a time; evaluation only.

    Args:
      inputs: D of a clip, cells: D of a cell of a frame.
      sentence: width of the vector of the sentence.
      horizon: Y; every other field is as in `vmr_jax.models.strong.Model`.
    """

    def __init__(
        self, inputs, cells, sentence, *, actor_hidden, critic_hidden, crop_hidden, crop_features, **episode
    ):
        super().__init__()
        self.episode = episode
        state = sentence + inputs + crop_features
        self.maddpg = networks(state + 2, 6, actor_hidden, critic_hidden)
        self.ddpg_image = networks(state, 8, actor_hidden, critic_hidden)
        self.spp = Named(
            fc=nn.Sequential(nn.Linear(21 * cells, crop_hidden)), score=nn.Linear(crop_hidden, crop_features)
        )

    def forward(self, batch):
        """'after' [B,Y,2], 'boxes' [B,Y,4] and 'taken' [B,Y], the values of the actions."""
        found = [
            self._episode(*(torch.as_tensor(x) for x in (video[mask], grid[mask], sentence)))
            for video, grid, mask, sentence in zip(
                batch.video, batch.grid, batch.video_mask, batch.sentence, strict=True
            )
        ]
        return {name: np.array(values) for name, values in zip(("after", "boxes", "taken"), zip(*found))}

    def _episode(self, video, grid, query):
        def inside(rows, segment):
            first, last = (int(len(rows) * x) for x in segment)
            return rows[first : max(last, first + 1)].mean(0)

        def crop_of(segment, box):
            return self.spp.score(self.spp.fc(pooled(inside(grid, segment), box)).relu())

        segment, box = (np.float32(0.25), np.float32(0.75)), [np.float32(x) for x in (0.1, 0.1, 0.8, 0.8)]
        crop, seen, episode = crop_of(segment, box), ([], [], []), self.episode
        for t in range(episode["horizon"]):
            state = torch.cat([query, crop, video.mean(0), torch.tensor(segment)])
            vector = self.maddpg.actors[0](state)
            taken = self.maddpg.critics[0](state, vector).item()
            segment = moved(segment, vector.argmax().item())
            if (t + 1) % episode["look_every"] == 0:
                for _ in range(episode["looks"]):
                    state = torch.cat([crop_of(segment, box), query, inside(video, segment)])
                    action = self.ddpg_image.actors[0](state).argmax().item()
                    box = next_box(box, action, episode["box_step"])
                    crop = crop_of(segment, box)
            for values, x in zip(seen, (segment, box, taken)):
                values.append(x)
        return seen


def build(config):
    """The twin of a config with a vector of the sentence and cells of the frames."""
    names = ("actor_hidden", "critic_hidden", "crop_hidden", "crop_features")
    episode = ("horizon", "look_every", "looks", "box_step")
    spec = batch_spec(config, 1, ("sentence", "grid"))
    sizes = spec.video.shape[-1], spec.grid.shape[-1], spec.sentence.shape[-1]
    return Twin(*sizes, **{name: config.model[name] for name in (*names, *episode)})


def variables(twin):
    """Its weights as ours; it does not count updates."""
    return {**load("strong", twin.state_dict()), "schedule": {"step": np.int32(0)}}
