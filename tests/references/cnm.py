"""CNM in PyTorch (Zheng et al., AAAI 2022), with the official names; no padded clips."""

import numpy as np
import torch
from torch import nn

from references.scn import Completion, completion_loss
from vmr_jax.torch_import import load

GENERATOR = "fc_mask_gen"


class Twin(Completion):
    """CNM without dropout.

    Args:
      inputs: D.
      words: W.
      vocabulary: number of words that can be predicted.
      rows: R; this and the next two are as in `vmr_jax.models.cnm.Model`.
      sharpness: alpha.
      max_width: largest width.
      sizes: features, hidden, heads and layers.
    """

    def __init__(self, inputs, words, vocabulary, *, rows, sharpness, max_width, **sizes):
        super().__init__(inputs, words, vocabulary, "fc_rec", **sizes)
        self.rows, self.sharpness, self.max_width = rows, sharpness, max_width
        self.fc_mask_gen = nn.Linear(self.word_fc.out_features, 2)

    def forward(self, batch, hidden=None):
        """'center' and 'width' [B]; 'word_logits' [B,3,L,X] from the Gaussian, from all and from the rest, and
        the 'mask' [B,L] of those that the official loss counts. `hidden` [B,L]: words that are hidden.
        """
        clips = self.frame_fc(torch.as_tensor(batch.video))
        clip_mask = torch.ones(clips.shape[:2], dtype=torch.bool)
        hidden = np.zeros(batch.query_mask.shape, bool) if hidden is None else hidden
        sentence, sentence_mask, words, mask = self.read_words(batch, hidden)
        memory = self.trans.decoder2(sentence, sentence_mask)
        states = self.trans.decoder1(clips, clip_mask, memory, sentence_mask)
        center, width = self.fc_mask_gen(states[:, -1]).sigmoid().T
        width = width * self.max_width
        frames = clips[:, torch.linspace(0, clips.shape[1] - 1, self.rows).long()]
        u = torch.linspace(0, 1, self.rows)
        distance = (u - center[:, None]) / width[:, None].clamp(min=0.1)
        gaussian = (-self.sharpness * distance**2).exp()
        logits = [self.complete(frames, words, mask, w) for w in (gaussian, None, 1 - gaussian)]
        return {"center": center, "width": width, "word_logits": torch.stack(logits, 1), "mask": mask}

    def losses(self, outputs, batch):
        """The losses of the two steps: of the reconstructor, and of the generator."""
        first, second, third = (
            completion_loss(outputs["word_logits"][:, z], batch, outputs["mask"]) for z in range(3)
        )
        contrast = (first - second + 0.1).relu() + (first - third + 0.15).relu()
        return (first + second).mean(), contrast.mean()


def build(config):
    """The twin of a config, for a vocabulary of 20 words."""
    names = ("features", "hidden", "heads", "layers", "rows", "sharpness", "max_width")
    fields = {name: config.model[name] for name in names}
    return Twin(config.dataset.feature_dim, config.text.dim, 20, **fields)


def variables(twin):
    """Its weights as ours."""
    return load("cnm", twin.state_dict())
