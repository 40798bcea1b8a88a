"""TSP-PRL in PyTorch (Wu et al., AAAI 2020), with the official names."""

import numpy as np
import torch
from torch import nn

from vmr_jax.input.spec import batch_spec
from vmr_jax.torch_import import load

LEAVES = {"scale": 4, "left_move": 3, "right_move": 3, "left_offset": 3, "right_offset": 3}
FEW = (
    "0000000000 0000011111 0001111222 0011122233 0011223344 0112233445 0122334456 0123445567 0123445678"
).split()


def ten(start, end):
    """The ten units of a run."""
    n = end - start + 1
    return [start + (int(FEW[n - 1][i]) if n < 10 else (i + 1) * n // 11) for i in range(10)]


def move(start, end, units, branch, leaf):
    """The next window in plain Python, with the decimals of the official code; None where it is not valid."""
    if branch == "scale":
        middle, half = (start + end) // 2, int((0.6, 0.75, 0.417, 0.333)[leaf] * (end - start))
        start, end = middle - half, middle + half
    else:
        distance = (units // 10 if branch.endswith("move") else 1) * (-1 if branch.startswith("left") else 1)
        start, end = start + distance * (leaf != 2), end + distance * (leaf != 1)
    if end < 0 or start > units:
        return None
    start, end = max(start, 0), min(end, units - 1)
    return (start, end) if end > start else None


class Twin(nn.Module):
    """The greedy agent, one video at a time; evaluation only.

    Args:
      inputs: D.
      sentence: width of the vector of the sentence.
      features: F; every other field is as in `vmr_jax.models.tsp_prl.Model`.
    """

    def __init__(self, inputs, sentence, *, features, critic_features, horizon, slip_in_first_window=False):
        super().__init__()
        f, (wide, narrow) = features, critic_features
        self.horizon, self.slip = horizon, slip_in_first_window
        self.gobal_fc, self.local_fc = nn.Linear(10 * inputs, f), nn.Linear(10 * inputs, f)
        self.sentence_fc, self.location_fc = nn.Linear(sentence, f), nn.Linear(2, f)
        self.state_fc, self.gru = nn.Linear(3 * f, f), nn.GRUCell(f, f)
        for name, actions in {"global": 5, **LEAVES}.items():
            setattr(self, f"{name}_policy", nn.Linear(f, actions))
            setattr(self, f"{name}_value", nn.Linear(f, 1))
        self.iou_fc1, self.iou_fc2, self.iou_fc3 = (
            nn.Linear(f, wide),
            nn.Linear(wide, narrow),
            nn.Linear(narrow, 1),
        )

    def forward(self, batch):
        """Lists of B: 'windows' [Y,2]; 'iou', 'root_value', 'leaf_value', the actions 'root' and 'leaf' [Y]."""
        names = ("windows", "iou", "root_value", "leaf_value", "root", "leaf")
        found = {name: [] for name in names}
        for video, mask, sentence in zip(batch.video, batch.video_mask, batch.sentence, strict=True):
            visited = self._episode(torch.as_tensor(video[mask]), torch.as_tensor(sentence))
            for name, values in zip(names, zip(*visited), strict=True):
                found[name].append(np.array(values))
        return found

    def _episode(self, video, query):
        """The steps in a video [N,D]."""

        def normed(layer, x):
            return nn.functional.normalize(layer(x[None])).relu()

        units, visited = len(video), []
        window, hidden = (units // 4 - 1, units - units // 4 - 1), torch.zeros(1, self.gru.hidden_size)
        gate = self.sentence_fc(query[None]).sigmoid()
        whole = normed(self.gobal_fc, video[ten(0, units - 1)].flatten())
        while window and len(visited) < self.horizon:
            indices = ten(*window)
            if self.slip and not visited:
                indices[8] = indices[0]
            local = normed(self.local_fc, video[indices].flatten())
            location = normed(self.location_fc, torch.tensor(window) / (units - 1))
            state = self.state_fc(torch.cat([local * gate, whole * gate, location * gate], 1)).relu()
            iou = self.iou_fc3(self.iou_fc2(self.iou_fc1(state).relu()).relu())
            hidden = self.gru(state, hidden)
            root = self.global_policy(hidden).argmax().item()
            branch = list(LEAVES)[root]
            leaf = getattr(self, f"{branch}_policy")(hidden).argmax().item()
            values = (self.global_value(hidden), getattr(self, f"{branch}_value")(hidden))
            visited.append((window, iou.item(), *(v.item() for v in values), root, leaf))
            window = move(*window, units, branch, leaf)
        return visited


def build(config):
    """The twin of a config that is given a vector of the sentence."""
    names = ("features", "critic_features", "horizon", "slip_in_first_window")
    spec = batch_spec(config, 1, ("sentence",))
    sizes = spec.video.shape[-1], spec.sentence.shape[-1]
    return Twin(*sizes, **{name: config.model[name] for name in names})


def variables(twin):
    """Its weights as ours; official checkpoints do not count updates."""
    return {**load("tsp_prl", twin.state_dict()), "schedule": {"step": np.int32(0)}}
