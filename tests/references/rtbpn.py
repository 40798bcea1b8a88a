"""RTBPN in PyTorch (Zhang et al., ACM MM 2020), with the official names."""

import torch
from torch import nn

from references import MaxMap, Named, kernel_weights
from vmr_jax.torch_import import load


def unit(x, dim):
    """Of unit length along an axis."""
    return nn.functional.normalize(x, dim=dim)


def stretch(x):
    """From the least, nearly 0, to the largest, 1."""
    least, most = x.amin(-1, keepdim=True), x.amax(-1, keepdim=True)
    return (x - least + 1e-10) / (most - least + 1e-10)


def gru(inputs, features):
    """A bidirectional one under the name that the official wrapper gives it."""
    return Named(gru=nn.GRU(inputs, features // 2, batch_first=True, bidirectional=True))


class Twin(nn.Module):
    """RTBPN, without dropout.

    Args:
      inputs: D.
      width: W, of the words.
      candidates: [M,2], the first and the last clip of each, the same for training and test.
      features: F; every other field is as in `vmr_jax.models.rtbpn.Model`.
    """

    def __init__(
        self, inputs, width, candidates, *, features, clusters, map_kernel, num_clips, scale_layers, **weights
    ):
        super().__init__()
        f, self.candidates, self.weights = features, torch.as_tensor(candidates), weights
        self.map = MaxMap(num_clips, scale_layers)
        mask = self.map.mask.clone()
        mask[tuple(self.candidates.T)] = 1
        self.cell_weights, self.num_clips = kernel_weights(mask, map_kernel, 1)[0], num_clips
        self.video_encoder = Named(vis_conv=nn.Conv1d(inputs, f, 1))
        self.query_encoder = Named(txt_gru=gru(width, f))
        self.fusion = Named(
            fuse_attn=Named(
                ws1=nn.Linear(f, f), ws2=nn.Linear(f, f, bias=False), wst=nn.Linear(f, 1, bias=False)
            ),
            fuse_gate=Named(fc_gate1=nn.Linear(f, f, bias=False), fc_gate2=nn.Linear(f, f, bias=False)),
            fuse_gru=gru(2 * f, f),
        )
        self.scorer = Named(
            convs=nn.ModuleList([nn.Conv2d(f, f, map_kernel, padding=map_kernel // 2)]),
            pred_layer=nn.Conv2d(f, 1, 1),
        )
        self.back = nn.Parameter(torch.zeros(1, 1, f), requires_grad=False)
        centres = (nn.Parameter(torch.randn(*shape, clusters) * f**-0.5) for shape in ((f,), (1, f)))
        self.filter = Named(
            word_vlad=Named(
                **dict(zip(("clusters", "clusters2"), centres)), batch_norm=nn.BatchNorm1d(clusters)
            ),
            word_fc=nn.Linear(clusters * f, f),
            fc_gate1=nn.Linear(f, f),
            fc_gate2=nn.Linear(f, 1),
        )

    def checkpoint(self):
        """As the official program saves it."""
        return {"model_parameters": {f"module.{k}": v for k, v in self.state_dict().items()}, "num_updates": 1}

    def forward(self, batch):
        """'scores' [B,3,M] and 'weight' [B,G], of rows that are all real."""
        video = self.video_encoder.vis_conv(torch.as_tensor(batch.video).mT)
        video = nn.functional.avg_pool1d(video, video.shape[-1] // self.num_clips).mT
        real = torch.as_tensor(batch.query_mask)
        vectors = torch.as_tensor(batch.query_vectors)
        packed = nn.utils.rnn.pack_padded_sequence(vectors, real.sum(1), batch_first=True, enforce_sorted=False)
        words = self.query_encoder.txt_gru.gru(packed)[0]
        words = nn.utils.rnn.pad_packed_sequence(words, batch_first=True)[0]
        real = real[:, : words.shape[1]]  # to the longest sentence, as the official batches reach

        other = video.flip(0)
        weight, other_weight = self._gates(video, words, real), self._gates(other, words, real)
        streams = (video * weight, video * (1 - weight), other * other_weight)
        scores = [self._scores(self._fuse(stream, words, real)) for stream in streams]
        return {"scores": torch.stack(scores, 1), "weight": weight[..., 0]}

    def _gates(self, video, words, real):
        vlad, words = self.filter.word_vlad, words.detach()
        logits = vlad.batch_norm((words @ vlad.clusters).flatten(0, 1)).view(*real.shape, -1)
        share = logits.softmax(-1) * real[..., None]
        total = words.mT @ share - share.sum(1, keepdim=True) * vlad.clusters2
        description = self.filter.word_fc(unit(unit(total, 1).flatten(1), 1))[:, None]
        hidden = self.filter.fc_gate1(video.detach() * description).tanh()
        return stretch(self.filter.fc_gate2(hidden)[..., 0].sigmoid())[..., None]

    def _fuse(self, video, words, real):
        attn, gate = self.fusion.fuse_attn, self.fusion.fuse_gate
        logits = attn.wst((attn.ws1(video)[:, :, None] + attn.ws2(words)[:, None]).tanh())[..., 0]
        attended = logits.masked_fill(~real[:, None], -torch.inf).softmax(-1) @ words
        gated = gate.fc_gate2(attended).sigmoid() * video, gate.fc_gate1(video).sigmoid() * attended
        return self.fusion.fuse_gru.gru(torch.cat(gated, -1))[0]

    def _scores(self, fused):
        cells = self.scorer.convs[0](self.map(fused.mT)).relu() * self.cell_weights
        return self.scorer.pred_layer(cells)[:, 0, *self.candidates.T]

    def loss(self, outputs, batch):
        """The terms of the official loss."""
        del batch
        weights, weight = self.weights, outputs["weight"]
        probability = outputs["scores"].sigmoid()
        chosen = self._nearest(probability)
        own, suppressed, other = chosen.mean(-1).unbind(1)
        peak = -chosen[:, 0].log_softmax(-1).amax(-1)
        entropy = -(weight.softmax(-1) * weight.log_softmax(-1)).mean()
        return {
            "alignment": -(own + 1e-10).log().mean(),
            "negative_alignment": -(1 - other + 1e-10).log().mean(),
            "suppression": weights["suppressed_weight"] * (suppressed - own + weights["margin"]).relu().mean(),
            "score_regularization": weights["score_weight"] * (stretch(probability[:, 0]).mean() + peak.mean()),
            "filter_regularization": weights["filter_weight"] * (weight.mean() + entropy),
        }

    def _nearest(self, probability):
        """The scores [B,P,K] of the candidates that overlap most with the best."""
        order = torch.argsort(probability, dim=-1, descending=True, stable=True)
        spans = self.candidates[order] + torch.tensor([0, 1])
        (first, end), (best_first, best_end) = spans.unbind(-1), spans[..., :1, :].unbind(-1)
        shared = torch.minimum(end, best_end) - torch.maximum(first, best_first)
        hull = torch.maximum(end, best_end) - torch.minimum(first, best_first)
        overlap = ((shared + 1e-10) / (hull + 1e-10)).clamp(min=0)
        nearest = torch.argsort(overlap, dim=-1, descending=True, stable=True)[..., : self.weights["nearest"]]
        return probability.gather(-1, order.gather(-1, nearest))


def build(config):
    """The twin of a config whose candidates of training are those of the test."""
    from vmr_jax.training.experiment import make_model

    names = ("features", "clusters", "map_kernel", "num_clips", "scale_layers", "nearest", "margin")
    names += ("suppressed_weight", "score_weight", "filter_weight")
    sizes = config.dataset.feature_dim, config.text.dim, make_model(config).candidates(train=True)
    return Twin(*sizes, **{name: config.model[name] for name in names})


def variables(twin):
    """Its weights as ours."""
    return load("rtbpn", twin.checkpoint())
