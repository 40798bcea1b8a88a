"""CMIN in PyTorch (Zhang et al., SIGIR 2019), from its equations, with the official names; no padded clips."""

import torch
from torch import nn

from references import Named
from vmr_jax.torch_import import load


def weights(*shape):
    return nn.Parameter(torch.randn(*shape) / shape[-1] ** 0.5)


def gru(inputs, features):
    return Named(gru=nn.GRU(inputs, features // 2, batch_first=True, bidirectional=True))


def attention(width):
    return Named(
        in_proj_weight=weights(3 * width, width),
        in_proj_bias=weights(3 * width),
        out_proj=nn.Linear(width, width),
    )


def attend(layer, x, heads, band):
    """Self-attention of [B,T,D] by an `attention`, over `band` steps to either side."""
    projected = x @ layer.in_proj_weight.T + layer.in_proj_bias
    q, k, v = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in projected.chunk(3, -1))
    place = torch.arange(x.shape[1])
    far = (place[:, None] - place[None]).abs() > band
    logits = q * (x.shape[2] // heads) ** -0.5 @ k.mT - 1e10 * far
    return layer.out_proj((logits.softmax(-1) @ v).transpose(1, 2).flatten(2))


def graph(width, relations):
    """Weights, gates and the biases of each relation: one of the word itself, the others in two directions."""
    parts = {}
    for kind in ("dir", "gate"):
        linear = nn.ModuleList([nn.Linear(width, width, bias=False) for _ in range(3)])
        parts[f"fc_{kind}_weight"] = linear
        for i, count in enumerate((1, relations - 1, relations - 1)):
            parts[f"fc_{kind}_bias{i + 1}"] = nn.ParameterList([weights(width) for _ in range(count)])
    return Named(**parts)


class Twin(nn.Module):
    """CMIN; evaluation only.

    Args:
      inputs: D.
      words: W.
      features: F; every other field is as in `vmr_jax.models.cmin.Model`.
    """

    def __init__(
        self, inputs, words, *, features, heads, widths, band, relations, attention_layers=2, graph_layers=2
    ):  # fmt: skip
        super().__init__()
        f, self.heads, self.band = features, heads, band
        self.video_encoder = Named(
            attn_layers=nn.ModuleList([attention(inputs) for _ in range(attention_layers)]), rnn=gru(inputs, f)
        )
        self.sentence_encoder = Named(
            gcn_layers=nn.ModuleList([graph(words, relations) for _ in range(graph_layers)]), rnn=gru(words, f)
        )
        self.v2s = Named(ws1=nn.Linear(f, f), ws2=nn.Linear(f, f, bias=False), wst=nn.Linear(f, 1, bias=False))
        self.cross_gate = Named(fc_gate1=nn.Linear(f, f, bias=False), fc_gate2=nn.Linear(f, f, bias=False))
        self.rnn = gru(2 * f, f)
        self.fc_score = nn.Conv1d(f, len(widths), 1)
        self.fc_reg = nn.Conv1d(f, 2 * len(widths), 1)

    def forward(self, batch):
        """'logits' [B,M] and 'offsets' [B,M,2] of the anchors."""
        video = torch.as_tensor(batch.video)
        for layer in self.video_encoder.attn_layers:
            video = video + attend(layer, video, self.heads, self.band)
        video = self.video_encoder.rnn.gru(video)[0]

        words = torch.as_tensor(batch.query_vectors)
        for layer in self.sentence_encoder.gcn_layers:
            words = words + self._convolve(layer, words, torch.as_tensor(batch.dependencies))
        real = torch.as_tensor(batch.query_mask)
        packed = nn.utils.rnn.pack_padded_sequence(words, real.sum(1), batch_first=True, enforce_sorted=False)
        words = self.sentence_encoder.rnn.gru(packed)[0]
        words = nn.utils.rnn.pad_packed_sequence(words, batch_first=True, total_length=real.shape[1])[0]

        scores = self.v2s.wst((self.v2s.ws1(video)[:, :, None] + self.v2s.ws2(words)[:, None]).tanh())[..., 0]
        attended = scores.masked_fill(~real[:, None], -1e30).softmax(2) @ words
        gated = torch.cat(
            [
                self.cross_gate.fc_gate2(attended).sigmoid() * video,
                self.cross_gate.fc_gate1(video).sigmoid() * attended,
            ],
            dim=-1,
        )
        fused = self.rnn.gru(gated)[0].mT
        return {
            "logits": self.fc_score(fused).mT.flatten(1),
            "offsets": self.fc_reg(fused).mT.reshape(len(video), -1, 2),
        }

    @staticmethod
    def _convolve(layer, words, adjacent):
        total = 0
        kinds = ((adjacent, 1), (adjacent, 2), (adjacent.mT, 2))  # from dependents, then from heads
        for i, (graph, first) in enumerate(kinds):
            y = layer.fc_dir_weight[i](words)
            g = layer.fc_gate_weight[i](y)
            biases = getattr(layer, f"fc_dir_bias{i + 1}"), getattr(layer, f"fc_gate_bias{i + 1}")
            for r, (bias, gate_bias) in enumerate(zip(*biases, strict=True)):
                total = total + (graph == first + r).float() @ ((y + bias) * (g + gate_bias).sigmoid())
        return total.relu()


def build(config):
    """The twin of a config."""
    names = ("features", "heads", "widths", "band", "relations")
    sizes = config.dataset.feature_dim, config.text.dim
    return Twin(*sizes, **{name: config.model[name] for name in names})


def variables(twin):
    """Its weights as ours."""
    return load("cmin", twin.state_dict())
