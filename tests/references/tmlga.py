"""TMLGA in PyTorch (Rodriguez-Opazo et al., WACV 2020), with the official names."""

import torch
from torch import nn

from references import Named
from vmr_jax.torch_import import load


class Twin(nn.Module):
    """TMLGA.

    Args:
      inputs: D.
      words: W.
      features: F; every other field is as in `vmr_jax.models.tmlga.Model`.
    """

    def __init__(
        self, inputs, words, *, features, recurrent_features, recurrent_layers, use_bias, dropout=0.0,
        attention_weight=1.0,
    ):  # fmt: skip
        super().__init__()
        both, self.attention_weight = 2 * recurrent_features, attention_weight
        kind = dict(bias=use_bias, batch_first=True, bidirectional=True)
        self.model_df = Named(
            tail_df=Named(lstm=nn.GRU(words, recurrent_features, **kind)),
            head_df=Named(mlp=nn.Sequential(nn.Linear(both, features), nn.Tanh())),
        )
        self.reduction = nn.Linear(inputs, features)
        self.multimodal_fc1, self.multimodal_fc2 = nn.Linear(1024, 1), nn.Linear(512, 1)
        self.rnn_localization = nn.GRU(
            features,
            recurrent_features,
            recurrent_layers,
            dropout=dropout if recurrent_layers > 1 else 0.0,
            **kind,
        )
        self.starting, self.ending = nn.Linear(both, 1), nn.Linear(both, 1)

    def forward(self, batch):
        """'start' and 'end' [B,T], logits where a clip is real; 'attention' [B,T]."""
        video, mask = torch.as_tensor(batch.video), torch.as_tensor(batch.video_mask)
        lengths = torch.as_tensor(batch.query_mask).sum(1)
        states = packed(self.model_df.tail_df.lstm, torch.as_tensor(batch.query_vectors), lengths)
        query = self.model_df.head_df.mlp(states.sum(1) / lengths[:, None])
        clips = self.reduction(video)
        attention = softmax((clips * query[:, None]).sum(-1) / lengths[:, None] ** 0.5, mask)
        states = packed(self.rnn_localization, attention[..., None] * clips, mask.sum(1))
        return {
            "start": self.starting(states)[..., 0],
            "end": self.ending(states)[..., 0],
            "attention": attention,
        }

    def loss(self, outputs, batch):
        """The three terms of the objective, each a mean over the batch."""
        terms = {"start": [], "end": [], "attention": []}
        for b, count in enumerate(torch.as_tensor(batch.video_mask).sum(1).tolist()):
            ends = [int(x / batch.duration[b] * count) for x in batch.span[b]]
            first, last = (min(x, count - 1) for x in ends)
            for name, clip in (("start", first), ("end", last)):
                label = torch.full((count,), 1e-10)
                label[max(clip - 1, 0) : clip + 2] = (0.5 - (count - 3) * 1e-10) / 2
                label[clip] = 0.5
                p = outputs[name][b, :count].softmax(0) + 1e-13
                terms[name].append((label * (label / p).log()).sum())
            outside = torch.ones(count)
            outside[first:last] = 0
            terms["attention"].append(-(outside * (1 - outputs["attention"][b, :count] + 1e-12).log()).sum())
        weights = {"start": 1.0, "end": 1.0, "attention": self.attention_weight}
        return {name: weights[name] * torch.stack(values).mean() for name, values in terms.items()}


def packed(rnn, x, lengths):
    """States of right-padded sequences, zero at padding."""
    rows = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
    return nn.utils.rnn.pad_packed_sequence(rnn(rows)[0], batch_first=True, total_length=x.shape[1])[0]


def softmax(x, mask):
    """Padded places count as zeros first and are taken out again."""
    weights = (x * mask).softmax(-1) * mask
    return weights / (weights.sum(-1, keepdim=True) + 1e-13) + 1e-13


def build(config):
    """The twin of a config."""
    names = ("features", "recurrent_features", "recurrent_layers", "use_bias", "dropout", "attention_weight")
    sizes = config.dataset.feature_dim, config.text.dim
    return Twin(*sizes, **{name: config.model[name] for name in names})


def variables(twin):
    """Its weights as ours."""
    return load("tmlga", twin.state_dict())
