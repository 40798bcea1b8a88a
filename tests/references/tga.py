"""TGA in PyTorch (Mithun et al., CVPR 2019), with the official names; both encoders are one module."""

import torch
from torch import nn

from vmr_jax.torch_import import load


class Twin(nn.Module):
    """TGA.

    Args:
      inputs: D.
      width: W, of the words.
      features: E; every other field is as in `vmr_jax.models.tga.Model`.
      words: number of rows of the table of words, the four special ones included.
    """

    def __init__(self, inputs, width, *, features, window_rows, margin, words=5):
        super().__init__()
        self.window_rows, self.margin = window_rows, margin
        video = nn.ModuleDict({"ws1": nn.Linear(inputs, features), "fc": nn.Linear(features, features)})
        text = nn.ModuleDict(
            {"embed": nn.Embedding(words, width), "rnn": nn.GRU(width, features, batch_first=True)}
        )
        self.parts = nn.ModuleList([video, text])

    def checkpoint(self):
        """As the official program saves it."""
        return {"model": [part.state_dict() for part in self.parts], "opt": None}

    def forward(self, batch):
        """Outputs by name; each row is computed by itself, without padding."""
        rows = [self._row(batch, b) for b in range(len(batch.duration))]
        return {name: [row[name] for row in rows] for name in rows[0]}

    def _row(self, batch, b):
        (video, text), table = self.parts, self.parts[1]["embed"].weight
        count, words = int(batch.video_mask[b].sum()), int(batch.query_mask[b].sum())
        units = torch.as_tensor(batch.video[b, :count])
        means = []
        for rows in self.window_rows:
            parts = units.split(rows)
            means += [part.sum(0) / rows for part in parts]
        z = video["ws1"](torch.stack(means))
        vectors = torch.as_tensor(batch.query_vectors[b, :words])
        vectors = torch.where((vectors != 0).any(-1, keepdim=True), vectors, table[3])
        _, state = text["rnn"](torch.cat([table[1:2], vectors, table[2:3]])[None])
        query = nn.functional.normalize(state[0, 0], dim=0)
        attention = (z @ query).softmax(0).detach()
        return {
            "attention": attention,
            "video": nn.functional.normalize(video["fc"](attention @ z), dim=0),
            "query": query,
        }

    def loss(self, outputs, batch):
        """The official sum, over the number of sentences."""
        del batch
        videos, queries = (torch.stack(outputs[name]) for name in ("video", "query"))
        scores = videos @ queries.T
        own, others = scores.diag(), 1 - torch.eye(len(scores))
        return {
            "sentences": ((self.margin + scores - own[:, None]).relu() * others).sum() / len(scores),
            "videos": ((self.margin + scores - own[None]).relu() * others).sum() / len(scores),
        }


def build(config):
    """The twin of a config."""
    model = config.model
    return Twin(
        config.dataset.feature_dim,
        config.text.dim,
        features=model.features,
        window_rows=model.window_rows,
        margin=model.margin,
    )


def variables(twin):
    """Its weights as ours."""
    return load("tga", twin.checkpoint())
