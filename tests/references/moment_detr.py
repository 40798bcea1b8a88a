"""Moment-DETR in PyTorch (Lei, Berg and Bansal, NeurIPS 2021), with the official names."""

import math

import torch
from scipy.optimize import linear_sum_assignment
from torch import nn
from torch.nn import functional as F

from references import Named
from vmr_jax.torch_import import load


class Projection(nn.Module):
    """One of the two layers that clips or words first go through."""

    def __init__(self, inputs, features, dropout):
        super().__init__()
        self.LayerNorm = nn.LayerNorm(inputs)
        self.net = nn.Sequential(nn.Dropout(dropout), nn.Linear(inputs, features))

    def forward(self, x):
        return self.net(self.LayerNorm(x))


class Layer(nn.Module):
    """Of the encoder, or of the decoder, which attends to the memory too."""

    def __init__(self, decoder, features, heads, hidden, dropout):
        super().__init__()
        self.drop = nn.Dropout(dropout)
        self.self_attn = nn.MultiheadAttention(features, heads, dropout, batch_first=True)
        if decoder:
            self.multihead_attn = nn.MultiheadAttention(features, heads, dropout, batch_first=True)
            self.norm3 = nn.LayerNorm(features)
        self.linear1, self.linear2 = nn.Linear(features, hidden), nn.Linear(hidden, features)
        self.norm1, self.norm2 = nn.LayerNorm(features), nn.LayerNorm(features)

    def attend(self, attention, queries, keys, values, padding=None):
        return self.drop(attention(queries, keys, values, key_padding_mask=padding, need_weights=False)[0])

    def feed(self, x):
        return x + self.drop(self.linear2(self.drop(self.linear1(x).relu())))

    def encode(self, x, place, padding):
        x = self.norm1(x + self.attend(self.self_attn, x + place, x + place, x, padding))
        return self.norm2(self.feed(x))

    def decode(self, x, query, memory, place, padding):
        x = self.norm1(x + self.attend(self.self_attn, x + query, x + query, x))
        attended = self.attend(self.multihead_attn, x + query, memory + place, memory, padding)
        return self.norm3(self.feed(self.norm2(x + attended)))


class Twin(nn.Module):
    """Moment-DETR.

    Args:
      inputs: D.
      words: W.
      features: F; every other field is as in `vmr_jax.models.moment_detr.Model`.
    """

    def __init__(
        self, inputs, words, *, features, heads, hidden, encoder_layers, decoder_layers, num_queries,
        dropout=0.0, input_dropout=0.0, span_weight=10.0, giou_weight=1.0, label_weight=4.0, none_weight=0.1,
        saliency_weight=1.0, saliency_margin=0.2,
    ):  # fmt: skip
        super().__init__()
        self.span_weight, self.giou_weight, self.label_weight = span_weight, giou_weight, label_weight
        self.none_weight, self.saliency_weight = none_weight, saliency_weight
        self.saliency_margin, self.features = saliency_margin, features

        def projections(inputs):
            layers = [Projection(width, features, input_dropout) for width in (inputs, features)]
            return nn.Sequential(*layers)

        def layers(count, decoder):
            return nn.ModuleList([Layer(decoder, features, heads, hidden, dropout) for _ in range(count)])

        self.input_vid_proj, self.input_txt_proj = projections(inputs + 2), projections(words)
        encoder = Named(layers=layers(encoder_layers, False))
        decoder = Named(layers=layers(decoder_layers, True), norm=nn.LayerNorm(features))
        self.transformer = Named(encoder=encoder, decoder=decoder)
        self.query_embed = nn.Embedding(num_queries, features)
        self.class_embed = nn.Linear(features, 2)
        widths = (features, features, 2)
        self.span_embed = Named(layers=nn.ModuleList([nn.Linear(features, width) for width in widths]))
        self.saliency_proj = nn.Linear(features, 1)
        # Of the official checkpoints; their default setting does not use it.
        self.txt_position_embed = Named(
            position_embeddings=nn.Embedding(32, features), LayerNorm=nn.LayerNorm(features)
        ).requires_grad_(False)

    def forward(self, batch):
        """'logits' and 'spans' [B,I,Q,2], 'saliency' [B,T]."""
        video, words = torch.as_tensor(batch.video), torch.as_tensor(batch.query_vectors)
        mask = torch.as_tensor(batch.video_mask)
        padding = ~torch.cat([mask, torch.as_tensor(batch.query_mask)], 1)
        words = words / words.norm(dim=-1, keepdim=True).clamp_min(1e-9)
        video = torch.cat([video, self._ends(mask)], -1)
        x = torch.cat([self._first(self.input_vid_proj, video), self._first(self.input_txt_proj, words)], 1)
        place = torch.cat([self._places(mask), torch.zeros(*words.shape[:2], self.features)], 1)
        for layer in self.transformer.encoder.layers:
            x = layer.encode(x, place, padding)
        query = self.query_embed.weight.expand(len(x), -1, -1)
        y, decoded = torch.zeros_like(query), []
        for layer in self.transformer.decoder.layers:
            y = layer.decode(y, query, x, place, padding)
            decoded.append(self.transformer.decoder.norm(y))
        decoded = torch.stack(decoded, 1)
        first, second, third = self.span_embed.layers
        return {
            "logits": self.class_embed(decoded),
            "spans": third(second(first(decoded).relu()).relu()).sigmoid(),
            "saliency": self.saliency_proj(x[:, : video.shape[1]])[..., 0],
        }

    @staticmethod
    def _first(layers, x):
        return layers[1](layers[0](x).relu())

    @staticmethod
    def _ends(mask):
        count = mask.sum(1)[:, None]
        begin = torch.arange(mask.shape[1])[None] / count
        return torch.stack([begin, begin + 1 / count], -1)

    def _places(self, mask):
        place = mask.cumsum(1) / (mask.sum(1, keepdim=True) + 1e-6) * 2 * math.pi
        angle = place[..., None] / 10000 ** (torch.arange(0, self.features, 2) / self.features)
        return torch.stack([angle.sin(), angle.cos()], -1).flatten(2)

    def loss(self, outputs, batch, draws=None):
        """'span', 'giou', 'label' and 'saliency', of one annotated moment a query and no padding.

        `draws` [B,T] choose the clips whose saliency is compared; None: random ones.
        """
        duration, span = torch.as_tensor(batch.duration), torch.as_tensor(batch.span)
        truth = span / duration[:, None]
        query = self._match(outputs, truth)  # [B,I]
        chosen = outputs["spans"].gather(2, query[..., None, None].expand(-1, -1, 1, 2))[:, :, 0]
        distance = (chosen - _centre_width(truth)[:, None]).abs()
        giou = generalized_iou(_bounds(chosen), truth[:, None])
        target = (torch.arange(outputs["logits"].shape[2]) != query[..., None]).long()  # 0: is a moment
        weight = torch.where(target == 0, 1.0, self.none_weight)
        errors = weight * F.cross_entropy(
            outputs["logits"].flatten(0, 2), target.flatten(), reduction="none"
        ).view(target.shape)
        layers = query.shape[1]
        return {
            "span": layers * self.span_weight * distance.mean(),
            "giou": layers * self.giou_weight * (1 - giou).mean(),
            "label": layers * self.label_weight * errors.mean(),
            "saliency": self._saliency(outputs["saliency"], relevant_clips(batch), draws),
        }

    @torch.no_grad()
    def _match(self, outputs, truth):
        """The predicted moment [B,I] that costs least for the annotated one, by the Hungarian algorithm."""
        spans, truth = outputs["spans"], truth[:, None, None]
        distance = (spans - _centre_width(truth)).abs().sum(-1)
        cost = (
            self.span_weight * distance
            - self.giou_weight * generalized_iou(_bounds(spans), truth)
            - self.label_weight * outputs["logits"].softmax(-1)[..., 0]
        )
        found = [[linear_sum_assignment(c[:, None])[0][0] for c in layers] for layers in cost.numpy(force=True)]
        return torch.tensor(found)

    def _saliency(self, saliency, relevant, draws):
        """Hinge loss of two pairs of a relevant and another clip, added up."""
        draws = torch.rand_like(saliency) if draws is None else draws
        high, low = (self._two(candidates, draws) for candidates in (relevant, ~relevant))
        real = relevant.any(1) & ~relevant.all(1)
        behind = self.saliency_margin + saliency.gather(1, low) - saliency.gather(1, high)
        return 2 * self.saliency_weight * behind.relu()[real].mean()

    @staticmethod
    def _two(candidates, draws):
        """Two candidates [B,2] of the highest draws; the first again where there is no other."""
        values, clips = torch.where(candidates, draws, -1).topk(2)
        return torch.where(values >= 0, clips, clips[:, :1])


def relevant_clips(batch):
    """Clips [B,T] whose middle is in the annotated moment, or that hold its middle; there is no padding."""
    duration, span = torch.as_tensor(batch.duration), torch.as_tensor(batch.span)
    clips = batch.video.shape[1]
    seconds = duration[:, None] / clips
    middle = (torch.arange(clips) + 0.5) * seconds
    offset = span.mean(1, keepdim=True) - middle
    relevant = (span[:, :1] <= middle) & (middle < span[:, 1:])
    return relevant | ((-seconds / 2 < offset) & (offset <= seconds / 2))


def _bounds(spans):
    centre, half = spans[..., 0], spans[..., 1] / 2
    return torch.stack([centre - half, centre + half], -1)


def _centre_width(spans):
    return torch.stack([spans.mean(-1), spans[..., 1] - spans[..., 0]], -1)


def generalized_iou(a, b):
    """Of spans [...,2] (start, end)."""
    shared = (torch.minimum(a[..., 1], b[..., 1]) - torch.maximum(a[..., 0], b[..., 0])).clamp(min=0)
    union = (a[..., 1] - a[..., 0]) + (b[..., 1] - b[..., 0]) - shared
    hull = torch.maximum(a[..., 1], b[..., 1]) - torch.minimum(a[..., 0], b[..., 0])
    return shared / union - (hull - union) / hull


def build(config, twin=Twin):
    """The twin of a config that learns one moment a query and has no annotated saliency."""
    names = (
        "features", "heads", "hidden", "encoder_layers", "decoder_layers", "num_queries", "dropout",
        "input_dropout", "span_weight", "giou_weight", "label_weight", "none_weight", "saliency_weight",
        "saliency_margin",
    )  # fmt: skip
    return twin(config.dataset.feature_dim, config.text.dim, **{name: config.model[name] for name in names})


def variables(twin):
    """Its weights as ours."""
    return load("moment_detr", twin.state_dict())
