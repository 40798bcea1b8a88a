"""CPL in PyTorch (Zheng et al., CVPR 2022), with the official names; no padded clips."""

import numpy as np
import torch
from torch import nn

from references.scn import Completion, completion_loss
from vmr_jax.torch_import import load


class Twin(Completion):
    """CPL without dropout.

    Args:
      inputs: D.
      words: W.
      vocabulary: number of words that can be predicted.
      proposals: K; this and the next three are as in `vmr_jax.models.cpl.Model`.
      rows: R.
      gamma: exponent of the share of the training that is done.
      self_overlap: lambda.
      sizes: features, hidden, heads and layers.
    """

    def __init__(self, inputs, words, vocabulary, *, proposals, rows, gamma, self_overlap, **sizes):
        super().__init__(inputs, words, vocabulary, "fc_comp", **sizes)
        self.proposals, self.rows, self.gamma, self.self_overlap = proposals, rows, gamma, self_overlap
        self.pred_vec = nn.Parameter(torch.randn(inputs))
        self.fc_gauss = nn.Linear(self.word_fc.out_features, 2 * proposals)

    def forward(self, batch, hidden=None, done=1.0):
        """'center' and 'width' [B,K]; 'gaussians' [B,K,R]; 'word_logits' [B,3K+1,L,X], from the proposals, from
        their negatives at the left and at the right, and from the whole video; the 'mask' [B,L] of those that
        the official loss counts. `hidden` [B,L]: words that are hidden. `done`: share of the training.
        """
        video = torch.as_tensor(batch.video)
        clips = self.frame_fc(torch.cat([video, self.pred_vec.expand(len(video), 1, -1)], 1))
        clip_mask = torch.ones(clips.shape[:2], dtype=torch.bool)
        clip_mask[:, -1] = False
        hidden = np.zeros(batch.query_mask.shape, bool) if hidden is None else hidden
        sentence, sentence_mask, words, mask = self.read_words(batch, hidden)
        memory = self.trans.decoder2(sentence, sentence_mask)
        states = self.trans.decoder1(clips, clip_mask, memory, sentence_mask)
        center, width = self.fc_gauss(states[:, -1]).sigmoid().unflatten(1, (-1, 2)).unbind(-1)
        frames = clips[:, torch.linspace(0, clips.shape[1] - 2, self.rows).long()]
        gaussians = self._gaussians(center, width / 9, 0.01 / 9)
        left = (center - width / 2).clamp(min=0) * done**self.gamma / 2
        right = (1 - center - width / 2).clamp(min=0) * done**self.gamma / 2
        negatives = [self._gaussians(left, left / 4.5, 0.01 / 4.5)]
        negatives += [self._gaussians(1 - right, right / 4.5, 0.01 / 4.5)]
        weights = torch.cat([gaussians, *negatives], 1).unbind(1)
        logits = [self.complete(frames, words, mask, w) for w in (*weights, None)]
        return {
            "center": center,
            "width": width,
            "gaussians": gaussians,
            "word_logits": torch.stack(logits, 1),
            "mask": mask,
        }

    def _gaussians(self, center, deviation, least):
        u = torch.linspace(0, 1, self.rows)
        distance = (u - center[..., None]) / deviation[..., None].clamp(min=least)
        weights = (-(distance**2) / 2).exp()
        return weights / weights.amax(-1, keepdim=True)

    def losses(self, outputs, batch):
        """The three losses, without their weights: completion, ranking, diversity."""
        logits, count = outputs["word_logits"], self.proposals
        nll = torch.stack([completion_loss(x, batch, outputs["mask"]) for x in logits.unbind(1)], 1)
        positive, best = nll[:, :count].min(1)
        left, right = (nll.gather(1, best[:, None] + i * count)[:, 0] for i in (1, 2))
        whole = nll[:, -1]
        margins = ((whole, 0.1), (left, 0.15), (right, 0.15))
        ranking = sum((positive - other + margin).relu() for other, margin in margins)
        shares = outputs["gaussians"] / outputs["gaussians"].sum(-1, keepdim=True)
        overlap = shares @ shares.mT - self.self_overlap * torch.eye(count)
        return (positive + whole).mean() / 2, ranking.mean(), (overlap**2).sum((1, 2)).mean()


def build(config):
    """The twin of a config, for a vocabulary of 20 words."""
    names = ("features", "hidden", "heads", "layers", "proposals", "rows", "gamma", "self_overlap")
    fields = {name: config.model[name] for name in names}
    return Twin(config.dataset.feature_dim, config.text.dim, 20, **fields)


def variables(twin):
    """Its weights as ours; official checkpoints do not count updates."""
    return {**load("cpl", twin.state_dict()), "counters": {"updates": np.int32(0)}}
