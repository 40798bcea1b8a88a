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

    def forward(self, x, keys, mask, weights=None):
        def heads(y, i):
            width = y.shape[-1]
            rows = slice(i * width, (i + 1) * width)
            y = nn.functional.linear(y, self.in_proj_weight[rows], self.in_proj_bias[rows])
            return y.unflatten(-1, (self.heads, -1)).transpose(1, 2)

        logits = heads(x, 0) @ heads(keys, 1).mT / (x.shape[-1] / self.heads) ** 0.5
        shares = logits.masked_fill(~mask, -1e30).softmax(-1)
        if weights is not None:
            shares = shares * (weights[:, None, None] + 1e-10)
            shares = shares / shares.sum(-1, keepdim=True)
        return self.out_proj((shares @ heads(keys, 2)).transpose(1, 2).flatten(2))


class Layer(nn.Module):
    def __init__(self, features, hidden, heads):
        super().__init__()
        self.self_attn, self.encoder_attn = (Attention(features, heads) for _ in range(2))
        self.self_attn_layer_norm, self.encoder_attn_layer_norm = (nn.LayerNorm(features) for _ in range(2))
        self.fc1, self.fc2 = nn.Linear(features, hidden), nn.Linear(hidden, features)
        self.final_layer_norm = nn.LayerNorm(features)

    def forward(self, x, mask, memory, memory_mask, weights, memory_weights):
        causal = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).tril()
        x = self.self_attn_layer_norm(x + self.self_attn(x, x, causal & mask[:, None, None], weights))
        if memory is not None:
            y = self.encoder_attn(x, memory, memory_mask[:, None, None], memory_weights)
            x = self.encoder_attn_layer_norm(x + y)
        return self.final_layer_norm(x + self.fc2(self.fc1(x).relu()))


class Decoder(nn.Module):
    def __init__(self, features, hidden, heads, layers):
        super().__init__()
        self.decoder_layers = nn.ModuleList([Layer(features, hidden, heads) for _ in range(layers)])

    def forward(self, x, mask, memory=None, memory_mask=None, weights=None, memory_weights=None):
        for layer in self.decoder_layers:
            x = layer(x, mask, memory, memory_mask, weights, memory_weights)
        return x


class Completion(nn.Module):
    """The network that SCN, CNM and CPL share: two decoders, what they read, and the logits of words.

    Args:
      inputs: D.
      words: W.
      vocabulary: number of words that can be predicted.
      completion: official name of the layer of their logits.
      features: F; hidden, heads and layers are as in `vmr_jax.models.scn.Model`.
    """

    def __init__(self, inputs, words, vocabulary, completion, *, features, hidden, heads, layers):
        super().__init__()
        self.completion = completion
        self.mask_vec, self.start_vec = (nn.Parameter(torch.randn(words)) for _ in range(2))
        self.frame_fc, self.word_fc = nn.Linear(inputs, features), nn.Linear(words, features)
        setattr(self, completion, nn.Linear(features, vocabulary))
        self.trans = nn.Module()
        self.trans.decoder1, self.trans.decoder2 = (Decoder(features, hidden, heads, layers) for _ in range(2))

    def read_words(self, batch, hidden):
        """The sentence [B,L+1,F], the one to complete [B,L,F] with the mask vector where `hidden` [B,L], and
        the masks of both; of the second the official loss counts the positions.
        """
        vectors = torch.as_tensor(batch.query_vectors)
        rows, length, width = vectors.shape
        features = self.word_fc.out_features
        lengths = torch.as_tensor(batch.query_mask).sum(1)
        words = self.word_fc(torch.cat([self.start_vec.expand(rows, 1, width), vectors], 1))
        mask = torch.arange(length + 1) < lengths[:, None] + 1
        rate = 10000 ** (-torch.arange(features // 2) / (features // 2 - 1))
        angle = torch.arange(length + 1)[:, None] * rate
        positions = torch.cat([angle.sin(), angle.cos()], 1)
        positions[0] = 0
        is_hidden = nn.functional.pad(torch.as_tensor(hidden), (1, 0))[..., None]
        to_complete = torch.where(is_hidden, self.word_fc(self.mask_vec), words) + positions
        return words + positions, mask, to_complete[:, :-1], mask[:, :-1]

    def complete(self, frames, words, mask, weights=None):
        """Logits [B,L,X] of words [B,L,F] from frames [B,R,F] with weights [B,R]."""
        frame_mask = torch.ones(frames.shape[:2], dtype=torch.bool)
        memory = self.trans.decoder1(frames, frame_mask, weights=weights)
        states = self.trans.decoder2(words, mask, memory, frame_mask, memory_weights=weights)
        return getattr(self, self.completion)(states)


def completion_loss(logits, batch, mask):
    """The official loss [B] of logits [B,L,X]: label smoothing of 0.1, mean over the positions of `mask`.

    The official classes have no unknown word, our id 1, so that the words are numbered from 1 on.
    """
    words = (torch.as_tensor(batch.query).long() - 1).clamp(min=0)
    nll = nn.functional.cross_entropy(logits.mT, words, label_smoothing=0.1, reduction="none")
    return (nll * mask).sum(1) / mask.sum(1)


class Twin(Completion):
    """SCN without dropout; evaluation only.

    Args:
      inputs: D.
      words: W.
      vocabulary: number of words that can be predicted.
      widths: widths of the proposals; this and the others are as in `vmr_jax.models.scn.Model`.
      candidates: K, number of proposals whose sentences are completed in training.
      rows: R.
      sizes: features, hidden, heads and layers.
    """

    def __init__(self, inputs, words, vocabulary, *, widths, candidates, rows, **sizes):
        super().__init__(inputs, words, vocabulary, "fc_comp", **sizes)
        self.widths, self.candidates, self.rows = widths, candidates, rows
        self.fc_props = nn.Linear(self.word_fc.out_features, len(widths))

    def forward(self, batch, hidden=None):
        """Scores, completed sentences and their proposals.

        Args:
          batch: without padded clips.
          hidden: [B,L] bool, words that are hidden from the completion; none by default.

        Returns:
          'scores' [B,T,P]; 'word_logits' [B,K,L,X] and the 'mask' [B,L] of those that the official loss counts;
          'spans' [B][K], first row and the one after the last of each proposal.
        """
        clips = self.frame_fc(torch.as_tensor(batch.video))
        clip_mask = torch.ones(clips.shape[:2], dtype=torch.bool)
        hidden = np.zeros(batch.query_mask.shape, bool) if hidden is None else hidden
        sentence, sentence_mask, words, mask = self.read_words(batch, hidden)
        memory = self.trans.decoder2(sentence, sentence_mask)
        scores = self.fc_props(self.trans.decoder1(clips, clip_mask, memory, sentence_mask)).sigmoid()
        spans = [self._chosen(row) for row in scores.detach()]
        logits = []
        for k in range(self.candidates):
            frames = torch.stack([self._frames(clips[b], *spans[b][k]) for b in range(len(clips))])
            logits.append(self.complete(frames, words, mask))
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
