"""RWM in PyTorch, with the names of the re-implementation WuJie1010/Temporally-language-grounding."""

import numpy as np
import torch
from torch import nn

from vmr_jax.input.spec import batch_spec
from vmr_jax.torch_import import load


def move(start, end, units, action):
    """The next window in plain Python, and whether the episode is over."""
    step = units // 10
    if action in (0, 2):
        start += step
    if action in (1, 3):
        start -= step
    if action in (0, 4):
        end += step
    if action in (1, 5):
        end -= step
    start, end = max(start, 0), min(end, units)
    return (start, end), action == 6 or end <= start


class Twin(nn.Module):
    """The greedy agent, one video at a time; evaluation only.

    Args:
      inputs: D.
      sentence: width of the vector of the sentence.
      features: F; every other field is as in `vmr_jax.models.rwm.Model`.
    """

    def __init__(
        self, inputs, sentence, *, features, video_features, query_features, location_features, horizon
    ):
        super().__init__()
        self.horizon = horizon
        self.gobal_fc, self.local_fc = nn.Linear(inputs, video_features), nn.Linear(inputs, video_features)
        self.sentence_fc, self.location_fc = (
            nn.Linear(sentence, query_features),
            nn.Linear(2, location_features),
        )
        self.state_fc = nn.Linear(2 * video_features + query_features + location_features, features)
        self.gru = nn.GRUCell(features, features)
        self.critic_linear, self.actor_linear = nn.Linear(features, 1), nn.Linear(features, 7)
        self.tiou_resfc, self.location_resfc = nn.Linear(features, 1), nn.Linear(features, 2)

    def forward(self, batch):
        """Lists of B: 'windows' and 'moment' [Y,2]; 'iou', 'value', 'action' [Y]; and 'answer' [2]."""
        found = {name: [] for name in ("windows", "iou", "moment", "value", "action", "answer")}
        for video, mask, sentence in zip(batch.video, batch.video_mask, batch.sentence, strict=True):
            visited, answer = self._episode(torch.as_tensor(video[mask]), torch.as_tensor(sentence))
            for name, values in zip(found, zip(*visited), strict=False):
                found[name].append(np.array(values))
            found["answer"].append(answer)
        return found

    def _episode(self, video, query):
        """The steps in a video [N,D], and the window that the last one leads to."""

        def normed(layer, x):
            return nn.functional.normalize(layer(x[None])).relu()

        units, visited, over = len(video), [], False
        window, hidden = (units // 4 - 1, units - units // 4 - 1), torch.zeros(1, self.gru.hidden_size)
        whole, gate = normed(self.gobal_fc, video.mean(0)), normed(self.sentence_fc, query)
        while not over and len(visited) < self.horizon:
            local = normed(self.local_fc, video[window[0] : window[1] + 1].mean(0))
            location = normed(self.location_fc, torch.tensor(window) / (units - 1))
            state = self.state_fc(torch.cat([whole, local, gate, location], 1)).relu()
            hidden = self.gru(state, hidden)
            action = self.actor_linear(hidden).argmax().item()
            numbers = self.tiou_resfc(state).item(), self.location_resfc(state)[0].numpy()
            visited.append((window, *numbers, self.critic_linear(hidden).item(), action))
            window, over = move(*window, units, action)
        return visited, window


def build(config):
    """The twin of a config that is given a vector of the sentence."""
    names = ("features", "video_features", "query_features", "location_features", "horizon")
    spec = batch_spec(config, 1, ("sentence",))
    sizes = spec.video.shape[-1], spec.sentence.shape[-1]
    return Twin(*sizes, **{name: config.model[name] for name in names})


def variables(twin):
    """Its weights as ours."""
    return load("rwm", twin.state_dict())
