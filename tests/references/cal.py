"""CAL and CALChamfer in PyTorch (Escorcia et al., 2019), with the official names."""

import torch
from torch import nn

from vmr_jax.input.spec import batch_spec
from vmr_jax.torch_import import load


class Twin(nn.Module):
    """CAL with endpoints of the moment and global context; evaluation only.

    Args:
      video: D of the clips.
      words: W.
      hidden, features, lstm_features, distance: as in `vmr_jax.models.cal.Model`.
    """

    def __init__(self, video, words, *, hidden, features, lstm_features, distance="mean"):
        super().__init__()
        self.visual_encoder = nn.Sequential(
            nn.Linear(2 * video + 2, hidden), nn.ReLU(), nn.Linear(hidden, features), nn.Dropout(0.3)
        )
        self.sentence_encoder = nn.LSTM(words, lstm_features, batch_first=True)
        self.output = "state_encoder" if distance == "chamfer" else "lang_encoder"
        setattr(self, self.output, nn.Linear(lstm_features, features))
        for p in self.parameters():
            nn.init.normal_(p, std=0.3)

    def sentences(self, batch):
        """Vectors [B,E] of the sentences, or a list of [L,E] of their words."""
        output, found = getattr(self, self.output), []
        for words, mask in zip(torch.as_tensor(batch.query_vectors), batch.query_mask, strict=True):
            states = output(self.sentence_encoder(words[None, : int(mask.sum())])[0][0])
            found.append(states if self.output == "state_encoder" else states[-1])
        return found

    def distance(self, video, mask, duration, seconds, segment, sentence):
        """Of one segment (start and end in seconds) of a video [T,D] and a sentence, clip by clip."""
        clips = video[: int(mask.sum())]
        context = clips.mean(0)
        first, last = int(segment[0] // seconds), int((segment[1] - 1e-6) // seconds)
        inside = clips[first : last + 1]
        rows = torch.cat(
            [
                inside / (inside.norm(dim=-1, keepdim=True) + 1e-6),
                (context / (context.norm() + 1e-5)).expand_as(inside),
                (torch.as_tensor(segment) / duration).expand(len(inside), 2).to(inside),
            ],
            dim=-1,
        )
        pairs = torch.cdist(self.visual_encoder(rows), sentence.reshape(-1, sentence.shape[-1])) ** 2
        if self.output == "lang_encoder":
            return pairs.mean()
        return pairs.min(1).values.mean() + pairs.min(0).values.mean()


def build(config):
    """The twin of a config."""
    spec = batch_spec(config, 1)
    names = ("hidden", "features", "lstm_features", "distance")
    sizes = spec.video.shape[-1], spec.query_vectors.shape[-1]
    return Twin(*sizes, **{name: config.model[name] for name in names})


def variables(twin):
    """Its weights as ours."""
    return load("cal", twin.state_dict())
