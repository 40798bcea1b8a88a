"""SCN in PyTorch (Lin et al., AAAI 2020), with the official names; no padded clips."""

import numpy as np
import torch
from torch import nn

from vmr_jax.torch_import import load


class Attention(nn.Module):
    """Multi-head attention with query, key and value in one matrix; a mask is True where there is a key."""

    def __init__(self, features, heads):
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.randn(3 * features, features) / 2)
        self.in_proj_bias = nn.Parameter(torch.randn(3 * features) / 2)
        self.out_proj = nn.Linear(features, features)

    def forward(self, x, keys, mask):
        def heads(y, i):
            width = y.shape[-1]
            rows = slice(i * width, (i + 1) * width)
            y = nn.functional.linear(y, self.in_proj_weight[rows], self.in_proj_bias[rows])
            return y.unflatten(-1, (self.heads, -1)).transpose(1, 2)

        found = nn.functional.scaled_dot_product_attention(
            heads(x, 0), heads(keys, 1), heads(keys, 2), attn_mask=mask
        )
        return self.out_proj(found.transpose(1, 2).flatten(2))


class Layer(nn.Module):
    def __init__(self, features, hidden, heads):
        super().__init__()
        self.self_attn, self.encoder_attn = (Attention(features, heads) for _ in range(2))
        self.self_attn_layer_norm, self.encoder_attn_layer_norm = (nn.LayerNorm(features) for _ in range(2))
        self.fc1, self.fc2 = nn.Linear(features, hidden), nn.Linear(hidden, features)
        self.final_layer_norm = nn.LayerNorm(features)

    def forward(self, x, mask, memory, memory_mask):
        causal = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).tril()
        x = self.self_attn_layer_norm(x + self.self_attn(x, x, causal & mask[:, None, None]))
        if memory is not None:
            y = self.encoder_attn(x, memory, memory_mask[:, None, None])
            x = self.encoder_attn_layer_norm(x + y)
        return self.final_layer_norm(x + self.fc2(self.fc1(x).relu()))


class Decoder(nn.Module):
    def __init__(self, features, hidden, heads, layers):
        super().__init__()
        self.decoder_layers = nn.ModuleList([Layer(features, hidden, heads) for _ in range(layers)])

    def forward(self, x, mask, memory=None, memory_mask=None):
        for layer in self.decoder_layers:
            x = layer(x, mask, memory, memory_mask)
        return x


class Twin(nn.Module):
    """SCN without dropout; evaluation only.

    Args:
      inputs: D.
      words: W.
      vocabulary: number of words that can be predicted.
      features: F; every other field is as in `vmr_jax.models.scn.Model`.
      candidates: K, number of proposals whose sentences are completed in training.
    """

    def __init__(self, inputs, words, vocabulary, *, features, hidden, heads, layers, widths, candidates, rows):
        super().__init__()
        self.widths, self.candidates, self.rows = widths, candidates, rows
        self.mask_vec, self.start_vec = (nn.Parameter(torch.randn(words)) for _ in range(2))
        self.frame_fc, self.word_fc = nn.Linear(inputs, features), nn.Linear(words, features)
        self.fc_props, self.fc_comp = nn.Linear(features, len(widths)), nn.Linear(features, vocabulary)
        self.trans = nn.Module()
        self.trans.decoder1, self.trans.decoder2 = (Decoder(features, hidden, heads, layers) for _ in range(2))

    def forward(self, batch, hidden=None):
        """Scores, completed sentences and their proposals.

        Args:
          batch: without padded clips.
          hidden: [B,L] bool, words that are hidden from the completion; none by default.

        Returns:
          'scores' [B,T,P]; 'word_logits' [B,K,L,X] and the 'mask' [B,L] of those that the official loss counts;
          'spans' [B][K], first row and the one after the last of each proposal.
        """
        video, vectors = torch.as_tensor(batch.video), torch.as_tensor(batch.query_vectors)
        rows, length, width = vectors.shape
        features = self.word_fc.out_features
        lengths = torch.as_tensor(batch.query_mask).sum(1)
        clips, clip_mask = self.frame_fc(video), torch.ones(video.shape[:2], dtype=torch.bool)
        words = self.word_fc(torch.cat([self.start_vec.expand(rows, 1, width), vectors], 1))
        mask = torch.arange(length + 1) < lengths[:, None] + 1
        rate = 10000 ** (-torch.arange(features // 2) / (features // 2 - 1))
        angle = torch.arange(length + 1)[:, None] * rate
        positions = torch.cat([angle.sin(), angle.cos()], 1)
        positions[0] = 0
        memory = self.trans.decoder2(words + positions, mask)
        scores = self.fc_props(self.trans.decoder1(clips, clip_mask, memory, mask)).sigmoid()
        spans = [self._chosen(row) for row in scores.detach()]

        hidden = torch.zeros(rows, length, dtype=torch.bool) if hidden is None else torch.as_tensor(hidden)
        is_hidden = nn.functional.pad(hidden, (1, 0))[..., None]
        words = torch.where(is_hidden, self.word_fc(self.mask_vec), words) + positions
        words, mask = words[:, :-1], mask[:, :-1]
        logits = []
        for k in range(self.candidates):
            frames = torch.stack([self._frames(clips[b], *spans[b][k]) for b in range(rows)])
            frame_mask = torch.ones(frames.shape[:2], dtype=torch.bool)
            memory = self.trans.decoder1(frames, frame_mask)
            logits.append(self.fc_comp(self.trans.decoder2(words, mask, memory, frame_mask)))
        return {"scores": scores, "word_logits": torch.stack(logits, 1), "mask": mask, "spans": spans}

    def _frames(self, clips, start, end):
        return clips[[start + int(x) for x in np.linspace(0, end - start - 1, self.rows)]]

    def _chosen(self, scores):
        """K spans of scores [T,P]: the best, the best of those apart from it if there are three, and so on."""
        clips = len(scores)
        found = [
            (float(scores[t, p]), (t + 1 - int(w * clips), t + 1))
            for t in range(clips)
            for p, w in enumerate(self.widths)
            if t + 1 - int(w * clips) >= 0
        ]
        left, chosen = [span for _, span in sorted(found, reverse=True)], []
        for _ in range(self.candidates):
            chosen.append(left[0])
            apart = [span for span in left if _iou(span, left[0]) < 0.65]
            left = apart if len(apart) > 2 else left
        return chosen


def _iou(a, b):
    shared = min(a[1], b[1]) - max(a[0], b[0]) + 1
    return max(shared, 0) / (max(a[1], b[1]) - min(a[0], b[0]) + 1)


def build(config):
    """The twin of a config, for a vocabulary of 20 words."""
    names = ("features", "hidden", "heads", "layers", "widths", "rows")
    sizes = config.dataset.feature_dim, config.text.dim
    fields = {name: config.model[name] for name in names}
    return Twin(*sizes, 20, candidates=len(config.model.rewards), **fields)


def variables(twin):
    """Its weights as ours; official checkpoints do not count updates."""
    return {**load("scn", twin.state_dict()), "counters": {"updates": np.int32(0)}}
