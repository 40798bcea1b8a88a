"""QD-DETR in PyTorch (Moon et al., CVPR 2023), with the official names.

Words are hidden from clips by their own padding alone, as in the official code where all videos are as long.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F

from references import Named, moment_detr
from vmr_jax.torch_import import load


def perceptron(*widths):
    layers = [nn.Linear(inputs, outputs) for inputs, outputs in zip(widths, widths[1:], strict=False)]
    return Named(layers=nn.ModuleList(layers))


def through(part, x):
    for i, layer in enumerate(part.layers):
        x = layer(x.relu() if i else x)
    return x


def logit(x):
    return torch.log(x.clamp(min=1e-3) / (1 - x).clamp(min=1e-3))


class Layer(moment_detr.Layer):
    """Of one of the encoders."""

    def __init__(self, features, heads, hidden, dropout):
        super().__init__(False, features, heads, hidden, dropout)
        self.activation = nn.PReLU()

    def feed(self, x):
        return self.drop(self.linear2(self.drop(self.activation(self.linear1(x)))))

    def encode(self, x, place, padding):
        x = self.norm1(x + self.attend(self.self_attn, x + place, x + place, x, padding))
        return self.norm2(x + self.feed(x))

    def read(self, x, place, words, padding):
        x = x + self.attend(self.self_attn, x + place, words, words, padding)
        return self.norm2(x + self.feed(self.norm1(x)))


class Decoder(nn.Module):
    """A layer of the decoder."""

    def __init__(self, first, features, heads, hidden):
        super().__init__()
        self.heads = heads
        for kind in ("sa", "ca"):
            for part in ("qcontent", "qpos", "kcontent", "kpos", "v"):
                if first or (kind, part) != ("ca", "qpos"):
                    self.add_module(f"{kind}_{part}_proj", nn.Linear(features, features))
        self.ca_qpos_sine_proj = nn.Linear(features, features)
        self.self_attn, self.cross_attn = (Named(out_proj=nn.Linear(features, features)) for _ in range(2))
        self.linear1, self.linear2 = nn.Linear(features, hidden), nn.Linear(hidden, features)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(features) for _ in range(3))
        self.activation, self.first = nn.PReLU(), first

    def split(self, x):
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def forward(self, x, place, sines, memory, memory_place, padding):
        q = self.split(self.sa_qcontent_proj(x) + self.sa_qpos_proj(place))
        k = self.split(self.sa_kcontent_proj(x) + self.sa_kpos_proj(place))
        y = F.scaled_dot_product_attention(q, k, self.split(self.sa_v_proj(x)))
        x = self.norm1(x + self.self_attn.out_proj(y.transpose(1, 2).flatten(2)))
        q, k = self.ca_qcontent_proj(x), self.ca_kcontent_proj(memory)
        k_place = self.ca_kpos_proj(memory_place)
        if self.first:
            q, k = q + self.ca_qpos_proj(place), k + k_place
        q = torch.cat([self.split(q), self.split(self.ca_qpos_sine_proj(sines))], -1)
        k, v = torch.cat([self.split(k), self.split(k_place)], -1), self.split(self.ca_v_proj(memory))
        y = F.scaled_dot_product_attention(q, k, v, ~padding[:, None, None])
        x = self.norm2(x + self.cross_attn.out_proj(y.transpose(1, 2).flatten(2)))
        return self.norm3(x + self.linear2(self.activation(self.linear1(x))))


class Twin(moment_detr.Twin):
    """QD-DETR without dropout in its layers; every field is as in `vmr_jax.models.qd_detr.Model`."""

    def __init__(self, inputs, words, *, encoder_layers, decoder_layers, **fields):
        super().__init__(inputs, words, encoder_layers=0, decoder_layers=0, **fields)
        features, heads, hidden = (fields[name] for name in ("features", "heads", "hidden"))

        def encoder():
            return nn.ModuleList([Layer(features, heads, hidden, 0.0) for _ in range(encoder_layers)])

        layers = [Decoder(i == 0, features, heads, hidden) for i in range(decoder_layers)]
        decoder = Named(
            layers=nn.ModuleList(layers),
            norm=nn.LayerNorm(features),
            query_scale=perceptron(features, features, features),
            ref_point_head=perceptron(features, features, features),
            ref_anchor_head=perceptron(features, features, 1),
            bbox_embed=perceptron(features, features, features, 2),
        )
        self.transformer = Named(
            t2v_encoder=Named(layers=encoder()), encoder=Named(layers=encoder()), decoder=decoder
        )
        self.query_embed = nn.Embedding(fields["num_queries"], 2)
        self.global_rep_token = nn.Parameter(torch.randn(features))
        self.global_rep_pos = nn.Parameter(torch.randn(features))
        del self.saliency_proj
        self.saliency_proj1, self.saliency_proj2 = nn.Linear(features, features), nn.Linear(features, features)

    def forward(self, batch):
        """'logits' and 'spans' [B,I,Q,2], 'saliency' and 'other_saliency' [B,T], of the next row's words."""
        video, words = torch.as_tensor(batch.video), torch.as_tensor(batch.query_vectors)
        mask, seen = torch.as_tensor(batch.video_mask), torch.as_tensor(batch.query_mask)
        words = words / words.norm(dim=-1, keepdim=True).clamp_min(1e-9)
        clips = self._first(self.input_vid_proj, torch.cat([video, self._ends(mask)], -1))
        words, place = self._first(self.input_txt_proj, words), self._places(mask)
        memory, saliency = self._read(clips, words, mask, seen, place)
        _, other = self._read(clips, words.roll(-1, 0), mask, seen.roll(-1, 0), place)
        decoded, anchors = self._decode(memory, place, ~mask)
        return {
            "logits": self.class_embed(decoded),
            "spans": (through(self.span_embed, decoded) + logit(anchors)).sigmoid(),
            "saliency": saliency,
            "other_saliency": other,
        }

    def _read(self, clips, words, mask, seen, place):
        for layer in self.transformer.t2v_encoder.layers:
            clips = layer.read(clips, place, words, ~seen)
        one = (len(clips), 1, -1)
        x = torch.cat([self.global_rep_token.expand(one), clips], 1)
        place = torch.cat([self.global_rep_pos.expand(one), place], 1)
        padding = torch.cat([torch.zeros(len(x), 1, dtype=bool), ~mask], 1)
        for layer in self.transformer.encoder.layers:
            x = layer.encode(x, place, padding)
        token, memory = self.saliency_proj2(x[:, :1]), x[:, 1:]
        return memory, (self.saliency_proj1(memory) * token).sum(-1) / math.sqrt(self.features)

    def _decode(self, memory, memory_place, padding):
        decoder = self.transformer.decoder
        anchor = self.query_embed.weight.sigmoid().expand(len(memory), -1, -1)
        x, decoded, anchors = memory.new_zeros(*anchor.shape[:2], self.features), [], [anchor]
        for i, layer in enumerate(decoder.layers):
            sines = torch.cat([self._sines(anchor[..., 0]), self._sines(anchor[..., 1])], -1)
            place = through(decoder.ref_point_head, sines)
            sines = sines * through(decoder.query_scale, x) if i else sines
            sines = sines * through(decoder.ref_anchor_head, x).sigmoid() / anchor[..., 1:]
            x = layer(x, place, sines, memory, memory_place, padding)
            decoded.append(decoder.norm(x))
            anchors.append((through(decoder.bbox_embed, x) + logit(anchor)).sigmoid())
            anchor = anchors[-1].detach()
        return torch.stack(decoded, 1), torch.stack(anchors[:-1], 1)

    def _sines(self, share):
        half = self.features // 2
        angle = 2 * math.pi * share[..., None] / 10000 ** (torch.arange(0, half, 2) / half)
        return torch.stack([angle.sin(), angle.cos()], -1).flatten(2)

    def loss(self, outputs, batch, draws=None):
        """The terms of Moment-DETR's twin, 'rank' and 'negative', with the relevant clips as level 1 of 12."""
        mask = torch.as_tensor(batch.video_mask)
        scores = [outputs[name].masked_fill(~mask, -1e3) / 0.5 for name in ("saliency", "other_saliency")]
        share = torch.cat(scores, 1).log_softmax(1)[:, : mask.shape[1]]
        relevant = moment_detr.relevant_clips(batch)
        mean = (relevant * share).sum(1) / relevant.sum(1).clamp(min=1)
        raised = -torch.log(1 - outputs["other_saliency"].sigmoid())
        return {
            **super().loss(outputs, batch, draws),
            "rank": -self.saliency_weight * mean.mean() / 12,
            "negative": self.saliency_weight * (mask * raised).sum(1).mean(),
        }


def build(config):
    """The twin of a config that learns one moment a query and has no annotated saliency."""
    return moment_detr.build(config, Twin)


def variables(twin):
    """Its weights as ours."""
    return load("qd_detr", twin.state_dict())
