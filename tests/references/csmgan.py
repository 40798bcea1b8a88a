"""CSMGAN in PyTorch (Liu et al., ACM MM 2020), with the official names; no padded clips."""

import torch
from torch import nn

from references import Named, tensors
from references.cmin import attend, attention, gru
from vmr_jax.torch_import import load


class Gates(nn.Module):
    """An update of states by messages."""

    def __init__(self, features):
        super().__init__()
        for name in ("reset_gate", "update_gate", "out_gate"):
            setattr(self, name, nn.Linear(2 * features, features))

    def forward(self, message, state):
        both = torch.cat([message, state], -1)
        update, reset = self.update_gate(both).sigmoid(), self.reset_gate(both).sigmoid()
        candidate = self.out_gate(torch.cat([message, state * reset], -1)).tanh()
        return state + update * (candidate - state)


class Twin(nn.Module):
    """CSMGAN without dropout.

    Args:
      inputs: D.
      words: W, even.
      features: F; every other field is as in `vmr_jax.models.csmgan.Model`.
    """

    def __init__(
        self, inputs, words, *, features, heads, widths, band, attention_layers=2, lstm_layers=2,
        projection=0, official_padding=False,
    ):  # fmt: skip
        super().__init__()
        f, self.heads, self.band, self.official_padding = features, heads, band, official_padding
        rows = projection or inputs
        layers = nn.ModuleList([attention(rows) for _ in range(attention_layers)])
        self.video_encoder = Named(attn_layers=layers, rnn=gru(rows, f))
        if projection:
            self.video_encoder.tran = nn.Linear(inputs, projection)
        self.sentence_encoder = Named(
            unigram_conv=nn.Conv1d(words, words, 1),
            bigram_conv=nn.Conv1d(words, words, 2, padding=1, dilation=2),
            trigram_conv=nn.Conv1d(words, words, 3, padding=2, dilation=2),
            bilstm=nn.LSTM(words, words // 2, lstm_layers, batch_first=True, bidirectional=True),
            concat=gru(3 * words, f),
        )
        self.atten = Named(q_proj=nn.Linear(f, f, bias=False))
        self.update_v, self.update_s, self.update_v_intra, self.update_s_intra = (Gates(f) for _ in range(4))
        self.v2s = Named(ws1=nn.Linear(f, f), ws2=nn.Linear(f, f, bias=False), wst=nn.Linear(f, 1, bias=False))
        self.rnn = gru(2 * f, f)
        self.fc_score = nn.Conv1d(f, len(widths), 1)
        self.fc_reg = nn.Conv1d(f, 2 * len(widths), 1)

    def forward(self, batch):
        """'logits' [B,M] and 'offsets' [B,M,2] of the anchors."""
        batch = tensors(batch)
        video = batch.video
        if hasattr(self.video_encoder, "tran"):
            video = self.video_encoder.tran(video)
        for layer in self.video_encoder.attn_layers:
            video = video + attend(layer, video, self.heads, self.band)
        video = self.video_encoder.rnn.gru(video)[0]

        real = batch.query_mask
        seen = torch.ones_like(real) if self.official_padding else real
        parts, spread = self.sentence_encoder, batch.query_vectors.mT
        phrases = torch.stack([getattr(parts, f"{n}_conv")(spread) for n in ("unigram", "bigram", "trigram")])
        phrases = phrases.amax(0).mT
        sentence = packed(parts.bilstm, phrases, seen)
        words = packed(parts.concat.gru, torch.cat([batch.query_vectors, phrases, sentence], -1), real)

        query = self.atten.q_proj(video)
        edges = (query @ words.mT).masked_fill(~seen[:, None], -1e30)
        to_video = (edges.softmax(1) * seen[:, None]) @ words
        to_words = edges.softmax(2).mT @ query
        video, words = self.update_v(to_video, video), self.update_s(to_words, words)
        video = self.update_v_intra(within(video, torch.ones(video.shape[:2], dtype=bool)), video)
        words = self.update_s_intra(within(words, seen), words)

        scores = self.v2s.wst((self.v2s.ws1(video)[:, :, None] + self.v2s.ws2(words)[:, None]).tanh())[..., 0]
        attended = scores.masked_fill(~real[:, None], -1e30).softmax(2) @ words
        fused = self.rnn.gru(torch.cat([video, attended], -1))[0].mT
        return {
            "logits": self.fc_score(fused).mT.flatten(1),
            "offsets": self.fc_reg(fused).mT.reshape(len(video), -1, 2),
        }


def packed(network, x, real):
    """The states of a recurrent network over the real steps, zero at the others."""
    x = nn.utils.rnn.pack_padded_sequence(x, real.sum(1), batch_first=True, enforce_sorted=False)
    return nn.utils.rnn.pad_packed_sequence(network(x)[0], batch_first=True, total_length=real.shape[1])[0]


def within(nodes, real):
    """Messages of the real nodes of one modality, each normalised over those that receive it."""
    place = torch.arange(nodes.shape[1])[:, None]
    angle = place / 10_000 ** (torch.arange(0, nodes.shape[2], 2) / nodes.shape[2])
    placed = nodes + torch.stack([angle.sin(), angle.cos()], -1).flatten(1)
    edges = (placed @ placed.mT).masked_fill(~real[:, :, None], -1e30)
    return (edges.softmax(1) * real[:, None]) @ nodes


def build(config):
    """The twin of a config."""
    names = (
        "features", "heads", "widths", "band", "attention_layers", "lstm_layers", "projection",
        "official_padding",
    )  # fmt: skip
    sizes = config.dataset.feature_dim, config.text.dim
    return Twin(*sizes, **{name: config.model[name] for name in names})


def variables(twin):
    """Its weights as ours."""
    return load("csmgan", twin.state_dict())
