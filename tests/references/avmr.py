"""AVMR in PyTorch, with the official names; the discriminator as its authors meant it (see the card)."""

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from vmr_jax.input.spec import batch_spec
from vmr_jax.torch_import import load


class Actor(nn.Module):
    """Widths of all layers, the state's and the number of actions included."""

    def __init__(self, *widths):
        super().__init__()
        for i, (into, out) in enumerate(zip(widths, widths[1:]), 1):
            setattr(self, f"FC{i}", nn.Linear(into, out))
        self.count = len(widths) - 1

    def forward(self, x):
        """[...,D] -> [...,Z]."""
        for i in range(1, self.count):
            x = getattr(self, f"FC{i}")(x).relu()
        return getattr(self, f"FC{self.count}")(x).tanh()


class Critic(nn.Module):
    """The action joins behind the first hidden layer."""

    def __init__(self, inputs, actions, first, *later):
        super().__init__()
        self.FC1 = nn.Linear(inputs, first)
        widths = (first + actions, *later, 1)
        for i, (into, out) in enumerate(zip(widths, widths[1:]), 2):
            setattr(self, f"FC{i}", nn.Linear(into, out))
        self.count = len(widths)

    def forward(self, x, action):
        """States [...,D] and vectors [...,Z] -> [...]."""
        x = torch.cat([self.FC1(x).relu(), action], -1)
        for i in range(2, self.count):
            x = getattr(self, f"FC{i}")(x).relu()
        return getattr(self, f"FC{self.count}")(x)[..., 0]


class Disciminator(nn.Module):
    """Scores one segment; the official spelling."""

    def __init__(self, inputs, sentence, features, hidden, frames):
        super().__init__()
        self.pack = frames
        self.v2s_lt, self.s2s_lt = nn.Linear(inputs, features), nn.Linear(sentence, features)
        self.lstm, self.l_lt = nn.LSTM(frames, frames), nn.Linear(frames, 1)
        self.fc1, self.fc2 = nn.Conv2d(4 * features, hidden[0], 1), nn.Conv2d(*hidden, 1)
        self.fc3 = nn.Conv2d(hidden[1], 1, 1)

    def forward(self, clips, query):
        """Clips [n,D] and a sentence [E] -> the score []."""
        numbers = F.pad(clips.T, (0, max(self.pack - len(clips), 0)))[:, : self.pack]
        pooled = self.l_lt(self.lstm(numbers[None])[0][0])[:, 0]
        v, s = (F.normalize(x, dim=-1) for x in (self.v2s_lt(pooled), self.s2s_lt(query)))
        x = torch.cat([v * s, v + s, v, s])[None, :, None, None]
        return self.fc3(self.fc2(self.fc1(x).relu()).relu()).sigmoid().squeeze()


def moved(segment, action):
    """The segment that an action leads to; the same where it cannot be taken."""
    (start, end), step = segment, np.float32(0.05)
    start = start - step if action in (0, 2) else start + step if action in (1, 3) else start
    end = end - step if action in (0, 4) else end + step if action in (1, 5) else end
    return (start, end) if 0 <= start < end <= 1 else segment


class Twin(nn.Module):
    """The greedy agent, one video at a time, and the scores of what it visits; evaluation only.

    Args:
      inputs: D.
      sentence: width of the vector of the sentence.
      horizon: Y; every other field is as in `vmr_jax.models.avmr.Model`.
    """

    def __init__(
        self, inputs, sentence, *, actor_hidden, critic_hidden, features, hidden, frames, horizon, look_every=0
    ):
        super().__init__()
        state = sentence + 2 * inputs + 2
        self.horizon, self.look_every = horizon, look_every
        self.actors = nn.ModuleList([Actor(state, *actor_hidden, 6)])
        self.actors_target = nn.ModuleList([Actor(state, *actor_hidden, 6)])
        self.critics = nn.ModuleList([Critic(state, 6, *critic_hidden)])
        self.critics_target = nn.ModuleList([Critic(state, 6, *critic_hidden)])
        self.distor = Disciminator(inputs, sentence, features, hidden, frames)

    def forward(self, batch):
        """'after' [B,Y,2], 'score' and 'taken' [B,Y], the values of the actions."""
        found = [
            self._episode(torch.as_tensor(video[mask]), torch.as_tensor(sentence))
            for video, mask, sentence in zip(batch.video, batch.video_mask, batch.sentence, strict=True)
        ]
        return {name: np.array(values) for name, values in zip(("after", "score", "taken"), zip(*found))}

    def _episode(self, video, query):
        def inside(segment):
            first, last = (int(len(video) * x) for x in segment)
            return video[first : max(last, first + 1)]

        segment = (np.float32(0.25), np.float32(0.75))
        local, seen = inside(segment).mean(0), ([], [], [])
        for t in range(self.horizon):
            state = torch.cat([query, local, video.mean(0), torch.tensor(segment)])
            vector = self.actors[0](state)
            segment = moved(segment, vector.argmax().item())
            if self.look_every and (t + 1) % self.look_every == 0:
                local = inside(segment).mean(0)
            numbers = self.distor(inside(segment), query), self.critics[0](state, vector)
            for values, x in zip(seen, (segment, *(number.item() for number in numbers))):
                values.append(x)
        return seen


def build(config):
    """The twin of a config that is given a vector of the sentence; its discriminator reads an LSTM."""
    names = ("actor_hidden", "critic_hidden", "features", "hidden", "frames", "horizon", "look_every")
    spec = batch_spec(config, 1, ("sentence",))
    sizes = spec.video.shape[-1], spec.sentence.shape[-1]
    config.model.pooling = "lstm"
    return Twin(*sizes, **{name: config.model[name] for name in names})


def variables(twin):
    """Its weights as ours; it does not count updates."""
    return {**load("avmr", twin.state_dict()), "schedule": {"step": np.int32(0)}}
