"""DCM in PyTorch (Yang et al., SIGIR 2021), with the official names."""

import math

import torch
from torch import nn

from references import MaxMap, Named, overlap_map, tensors
from vmr_jax.torch_import import load


class Twin(nn.Module):
    """DCM without dropout; every row of a batch is real, and has a negative.

    Args:
      inputs: D.
      words: W.
      features: F.
      clips: T; every other field is as in `vmr_jax.models.dcm.Model`.
    """

    def __init__(
        self, inputs, words, features, clips, *, num_clips, scale_layers, map_kernel, map_layers, lstm_layers=3,
        intervention=True, heads=4, own_weight=1.0, iou_low=0.5, iou_high=1.0, negative_weight=1.0,
        location_weight=1.0, independence_weight=1e-3, norm_weight=1e-5,
    ):  # fmt: skip
        super().__init__()
        f, self.heads, self.own_weight, self.intervention = features, heads, own_weight, intervention
        self.weights = negative_weight, location_weight, independence_weight, norm_weight
        self.pooled, self.window, self.iou_range = (
            MaxMap(num_clips, scale_layers),
            clips // num_clips,
            (iou_low, iou_high),
        )
        self.mask = self.pooled.mask
        self.featpool = Named(conv=nn.Conv1d(inputs, f, 1))
        self.query = Named(lstm=nn.LSTM(words, f, lstm_layers, batch_first=True))
        convolutions = {name: nn.Conv2d(f, f, 1) for name in ("conv", "conv_pos", "conv_res")}
        for layer in range(map_layers):
            convolutions[f"conv2d_{layer + 1}"] = nn.Conv2d(f, f, map_kernel, padding=map_kernel // 2)
        self.map_layers = map_layers
        causal = {}
        if intervention:
            keys = {name: nn.Linear(f, f, bias=False) for name in ("fc_key", "fc_qry")}
            attention = Named(fc_value=nn.Linear(f, f), **keys)
            causal = dict(BD_Adjust_Att=attention, Q=nn.Linear(f, f), M=nn.Conv2d(f, f, 1))
        weight = nn.Parameter((torch.rand(1, f) * 2 - 1) / f**0.5)
        self.TCN = Named(fc=nn.Linear(f, f), pred_weight=weight, **convolutions, **causal)

    def forward(self, batch, negatives=None):
        """'logits', 'content' and 'location'; with rows `negatives` [B] 'negative_logits' on their videos."""
        batch = tensors(batch)
        clips = nn.functional.avg_pool1d(self.featpool.conv(batch.video.mT).relu(), self.window)
        states = self.query.lstm(batch.query_vectors)[0]
        query = states[torch.arange(len(states)), batch.query_mask.sum(1) - 1]
        outputs = dict(zip(("logits", "content", "location"), self._score(clips, query)))
        if negatives is not None:
            outputs["negative_logits"] = self._score(clips[torch.as_tensor(negatives)], query)[0]
        return outputs

    def _score(self, clips, query):
        parts, mask = self.TCN, self.mask
        cells = self.pooled(clips)
        content, location = parts.conv(cells) * mask, parts.conv_pos(cells).tanh() * mask
        if self.intervention:
            adjusted = self._adjust(parts.Q(query.relu())[:, :, None, None] + parts.M(content.relu()), location)
        else:
            adjusted = location
        fused = nn.functional.normalize(parts.fc(query)[:, :, None, None] * (content + adjusted)) * mask
        context = fused
        for layer in range(self.map_layers):
            context = getattr(parts, f"conv2d_{layer + 1}")(context).relu() * mask
        context = context + parts.conv_res(fused).relu() * mask
        logits = (context * parts.pred_weight[:, :, None, None]).sum(1)
        inside = mask.bool()
        return logits, content[:, :, inside].mT, location[:, :, inside].mT

    def _adjust(self, probe, location):
        attention, inside = self.TCN.BD_Adjust_Att, self.mask.bool()
        places = location[:, :, inside].mT

        def split(x):
            return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

        value = attention.fc_value(places).relu()
        query, key = split(attention.fc_qry(probe[:, :, inside].mT)), split(attention.fc_key(places))
        weights = (query @ key.mT / key.shape[-1] ** 0.5).softmax(-1)
        attended = (weights @ split(value)).transpose(1, 2).flatten(2)
        adjusted = torch.zeros_like(probe)
        adjusted[:, :, inside] = (attended + self.own_weight * value).relu().mT
        return adjusted

    def loss(self, outputs, batch):
        """The five weighted terms, each a mean over all rows."""
        batch, inside, (low, high) = tensors(batch), self.mask.bool(), self.iou_range
        negative, place, independence, norm = self.weights
        target = ((overlap_map(len(inside), batch.span, batch.duration) - low) / (high - low)).clamp(0, 1)
        entropy = nn.functional.binary_cross_entropy_with_logits
        logits, wrong = (outputs[name][:, inside] for name in ("logits", "negative_logits"))
        content, location = (outputs[name].flatten(0, 1) for name in ("content", "location"))
        code = location_code(len(inside), location.shape[1])[inside].repeat(len(logits), 1)
        return {
            "iou": entropy(logits, target[:, inside]),
            "negative": negative * entropy(wrong, torch.zeros_like(wrong)),
            "location": place * nn.functional.pairwise_distance(location, code).mean(),
            "independence": independence * distance_correlation(content, location),
            "norm": norm * (content.norm() + location.norm()),
        }


def location_code(num_clips, features):
    """[N,N,F]: F / 2 sines and cosines of the row, then of the column."""
    place = torch.arange(1, num_clips + 1) / (num_clips + 1e-6) * 2 * math.pi
    rate = 10_000 ** (torch.arange(0, features // 2, 2) / (features // 2))
    one = torch.stack([(place[:, None] / rate).sin(), (place[:, None] / rate).cos()], -1).flatten(1)
    across = one[:, None].expand(-1, num_clips, -1)
    return torch.cat([across, across.transpose(0, 1)], -1)


def distance_correlation(x, y):
    """Of rows [n,F]: the root of the distance covariance, divided by the roots of the distance deviations."""

    def centred(z):
        d = ((z[:, None] - z[None]).square().sum(-1) + 1e-9).sqrt()
        return d - d.mean(0, keepdim=True) - d.mean(1, keepdim=True) + d.mean()

    a, b = centred(x), centred(y)
    return (a * b).mean().sqrt() / ((a * a).mean().sqrt() * (b * b).mean().sqrt() + 1e-9).sqrt()


def build(config):
    """The twin of a config."""
    names = (
        "num_clips", "scale_layers", "map_kernel", "map_layers", "lstm_layers", "intervention", "heads",
        "own_weight", "iou_low", "iou_high", "negative_weight", "location_weight", "independence_weight",
        "norm_weight",
    )  # fmt: skip
    sizes = config.dataset.feature_dim, config.text.dim, config.model.features, config.input.num_clips
    return Twin(*sizes, **{name: config.model[name] for name in names})


def variables(twin):
    """Its weights as ours."""
    return load("dcm", twin.state_dict())
