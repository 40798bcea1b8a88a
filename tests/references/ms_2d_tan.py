"""MS-2D-TAN in PyTorch (Zhang et al., TPAMI 2021), with the official names, and its padding."""

import torch
from torch import nn
from torch.nn import functional as F

from references import Named
from vmr_jax.torch_import import load


class Twin(nn.Module):
    """MS-2D-TAN.

    Args:
      inputs: D.
      words: W.
      features: F; every other field is as in `vmr_jax.models.ms_2d_tan.Model`.
    """

    def __init__(
        self, inputs, words, *, num_clips, scale_layers, features, map_kernel, map_layers, lstm_layers
    ):
        super().__init__()
        self.num_clips, self.lengths = num_clips, scale_layers[0]
        self.clip_module = Named(vis_conv=nn.Conv1d(inputs, features, 1))

        def longer(scale, layer):
            size, stride = (2, 1) if layer else (3, 2) if scale else (1, 1)
            convolution = nn.Conv1d(features, features, size, stride)
            return nn.Sequential(convolution, nn.BatchNorm1d(features), nn.Tanh())

        scales = [
            nn.ModuleList(longer(scale, i) for i in range(layers)) for scale, layers in enumerate(scale_layers)
        ]
        self.prop_module = Named(layers=nn.ModuleList(scales))
        lstm = nn.LSTM(words, features // 2, lstm_layers, bidirectional=True, batch_first=True)
        self.fusion_module = Named(
            textual_encoder=lstm,
            tex_linear=nn.Linear(features, features),
            vis_conv=nn.Conv2d(features, features, 1),
        )

        def block():
            return nn.ModuleList(
                nn.Conv2d(features, out, map_kernel, padding=map_kernel // 2) for out in (features, 1)
            )

        self.map_modules = nn.ModuleList(
            Named(blocks=nn.ModuleList(block() for _ in range(map_layers))) for _ in scale_layers
        )
        self.pred_modules = nn.ModuleList(Named(predictor=nn.Conv2d(features, 1, 1)) for _ in scale_layers)

    def forward(self, batch):
        """Logits of every scale, each [B,G / 2^s,A], zero at no candidate."""
        video, rows = torch.as_tensor(batch.video), torch.as_tensor(batch.video_mask)
        window = video.shape[1] // self.num_clips
        x = self.clip_module.vis_conv(video.transpose(1, 2)).relu()
        x = F.avg_pool1d(x, window)
        count = rows.sum(1) // window
        x = x * (torch.arange(self.num_clips) < count[:, None])[:, None]

        words, seen = torch.as_tensor(batch.query_vectors), torch.as_tensor(batch.query_mask)[..., None]
        states = self.fusion_module.textual_encoder(words * seen)[0] * seen
        query = self.fusion_module.tex_linear(states.sum(1) / seen.sum(1))[:, :, None, None]

        logits, cells, length = [], None, 0
        for scale, layers in enumerate(self.prop_module.layers):
            side, found = self.num_clips // 2**scale, []
            for layer in layers:
                length += 2**scale
                x = layer(x)
                ends = torch.arange(x.shape[2]) * 2**scale + length
                x = x * (ends <= count[:, None])[:, None]
                found.append(F.pad(x, (0, side - x.shape[2])))
            shorter = [] if cells is None else list(cells[:, :, : 2 * side : 2, 1::2].unbind(-1))
            cells = torch.stack(shorter + found, -1)
            starts = torch.arange(side)[:, None]
            mask = (starts + 1 + torch.arange(self.lengths)) * 2**scale <= count[:, None, None]
            y = F.normalize(query * self.fusion_module.vis_conv(cells)) * mask[:, None]
            for convolution, gate in self.map_modules[scale].blocks:
                y = convolution(y).relu() * gate(y).sigmoid()
            logits.append(self.pred_modules[scale].predictor(y)[:, 0] * mask)
        return logits


def build(config):
    """The twin of a config."""
    names = ("num_clips", "scale_layers", "features", "map_kernel", "map_layers", "lstm_layers")
    sizes = config.dataset.feature_dim, config.text.dim
    return Twin(*sizes, **{name: config.model[name] for name in names})


def variables(twin):
    """Its weights as ours."""
    return load("ms_2d_tan", twin.state_dict())
