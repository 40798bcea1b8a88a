"""ACRM in PyTorch (Tang et al., TMM 2021), with the official names."""

import torch
from torch import nn

from references import Named
from references.tmlga import packed, softmax
from vmr_jax.torch_import import load


class Twin(nn.Module):
    """ACRM without dropout, its labels rounded as on ActivityNet Captions.

    Args:
      inputs: D.
      words: W.
      features: F; every other field is as in `vmr_jax.models.acrm.Model`.
    """

    def __init__(self, inputs, words, *, features, recurrent_features, head_features, query_bias, fusion):
        super().__init__()
        both, self.fusion = 2 * recurrent_features, fusion

        def lstm(width, bias=True):
            return nn.LSTM(width, recurrent_features, bias=bias, batch_first=True, bidirectional=True)

        def tanh(width, to):
            return Named(mlp=nn.Sequential(nn.Linear(width, to), nn.Tanh()))

        self.model_df = Named(
            tail_df=Named(lstm=lstm(words, query_bias)),
            pooling_layer=Named(
                projection_S=nn.Linear(both, both),
                projection_V=nn.Linear(features, both),
                projection_w=nn.Linear(both, 1),
            ),
            head_df=tanh(both, features),
        )
        self.model_video_GRU = Named(tail_df=Named(lstm=lstm(inputs)), head_df=tanh(both, features))
        self.multimodal_fc1, self.multimodal_fc2 = nn.Linear(1024, 1), nn.Linear(512, 1)
        self.rnn_localization = lstm(features, False)
        self.starting, self.ending, self.intering = (
            nn.Sequential(nn.Linear(both, head_features), nn.Tanh(), nn.Linear(head_features, 1))
            for _ in range(3)
        )

    def forward(self, batch):
        """'start', 'end' and 'inside' [B,T]: probabilities."""
        video, mask = torch.as_tensor(batch.video), torch.as_tensor(batch.video_mask)
        spoken = torch.as_tensor(batch.query_mask)
        clips = packed(self.model_video_GRU.tail_df.lstm, video, mask.sum(1))
        clips = self.model_video_GRU.head_df.mlp(clips)
        words = packed(self.model_df.tail_df.lstm, torch.as_tensor(batch.query_vectors), spoken.sum(1))
        layer = self.model_df.pooling_layer
        hidden = (layer.projection_S(words)[:, None] + layer.projection_V(clips)[:, :, None]).tanh()
        weights = softmax(layer.projection_w(hidden)[..., 0], spoken[:, None])
        attended = self.model_df.head_df.mlp(weights @ words)
        fused = clips * attended if self.fusion == "product" else (clips - attended).abs()
        states = packed(self.rnn_localization, fused, mask.sum(1))
        heads = {"start": self.starting, "end": self.ending, "inside": self.intering}
        return {name: softmax(head(states)[..., 0], mask) for name, head in heads.items()}

    def loss(self, outputs, batch):
        """The three terms of the objective, each a mean over the batch."""
        terms = {"start": [], "end": [], "inside": []}
        for b, count in enumerate(torch.as_tensor(batch.video_mask).sum(1).tolist()):
            start, end = (x / batch.duration[b] * count for x in torch.as_tensor(batch.span[b]))
            first, last = int(start), min(int(end.ceil()), count - 1)
            terms["start"].append(-outputs["start"][b, first].log())
            terms["end"].append(-outputs["end"][b, last].log())
            inside = outputs["inside"][b, first : last + 1].log().sum()
            terms["inside"].append(-inside / max(last - first, 1))
        return {name: torch.stack(values).mean() for name, values in terms.items()}


def build(config):
    """The twin of a config."""
    names = ("features", "recurrent_features", "head_features", "query_bias", "fusion")
    sizes = config.dataset.feature_dim, config.text.dim
    return Twin(*sizes, **{name: config.model[name] for name in names})


def variables(twin):
    """Its weights as ours."""
    return load("acrm", twin.state_dict())
