"""ExCL in PyTorch (Ghosh et al., NAACL 2019) with tied predictors, under the names of its re-implementation."""

import torch
from torch import nn
from torch.nn import functional as F

from references import Named
from vmr_jax.input.spec import batch_spec
from vmr_jax.torch_import import load


class Twin(nn.Module):
    """ExCL.

    Args:
      inputs: official name of a stream, 'video' or 'sub' -> its width.
      words: W.
      recurrent_features: units in each direction; every other field is as in `vmr_jax.models.excl.Model`.
    """

    def __init__(self, inputs, words, *, recurrent_features, hidden, unit_words=False, late_end=False):
        super().__init__()
        self.streams, self.unit_words, self.late_end = list(inputs), unit_words, late_end
        both = 2 * recurrent_features

        def encoder(width):
            return Named(rnn=nn.LSTM(width, recurrent_features, batch_first=True, bidirectional=True))

        self.query_encoder = encoder(words)
        for name, width in inputs.items():
            setattr(self, f"{name}_encoder", encoder(width))
            setattr(self, f"{name}_encoder2", encoder(2 * both))
            for end in ("st", "ed"):
                layers = nn.Linear(3 * both, hidden), nn.Tanh(), nn.Linear(hidden, 1)
                setattr(self, f"{name}_{end}_predictor", nn.Sequential(*layers))

    def forward(self, batch):
        """'start' and 'end' [B,T], logits where a clip is real."""
        words, lengths = torch.as_tensor(batch.query_vectors), torch.as_tensor(batch.query_mask).sum(1)
        count = torch.as_tensor(batch.video_mask).sum(1)
        words = F.normalize(words, dim=-1) if self.unit_words else words
        _, (last, _) = self.query_encoder.rnn(packed(words, lengths))
        sentence = torch.cat([last[0], last[1]], -1)[:, None].expand(-1, batch.video.shape[1], -1)
        said = F.normalize(
            torch.as_tensor(batch.subtitles) * torch.as_tensor(batch.subtitle_mask)[..., None], dim=-1
        )
        rows, found = {"video": torch.as_tensor(batch.video), "sub": said}, {"start": 0.0, "end": 0.0}
        for name in self.streams:
            clips = states(getattr(self, f"{name}_encoder").rnn, rows[name], count)
            pairs = torch.cat([clips, sentence], -1)
            seen = torch.cat([states(getattr(self, f"{name}_encoder2").rnn, pairs, count), pairs], -1)
            for end, place in (("st", "start"), ("ed", "end")):
                logits = getattr(self, f"{name}_{end}_predictor")(seen)[..., 0]
                found[place] = found[place] + logits / len(self.streams)
        return found

    def loss(self, outputs, batch):
        """Cross-entropy of both clips."""
        count = torch.as_tensor(batch.video_mask).sum(1)
        clips = torch.as_tensor(batch.span) / (torch.as_tensor(batch.duration) / count)[:, None]
        start = torch.minimum(clips[:, 0].floor().long(), count - 1)
        end = torch.minimum(clips[:, 1].ceil().long() - int(not self.late_end), count - 1)
        outside = ~torch.as_tensor(batch.video_mask)
        labels = {"start": start, "end": torch.maximum(start, end)}
        return {
            name: F.cross_entropy(outputs[name].masked_fill(outside, -1e10), x) for name, x in labels.items()
        }


def packed(x, lengths):
    return nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)


def states(rnn, x, lengths):
    """States of right-padded sequences, zero at padding."""
    rows = rnn(packed(x, lengths))[0]
    return nn.utils.rnn.pad_packed_sequence(rows, batch_first=True, total_length=x.shape[1])[0]


def build(config):
    """The twin of a config."""
    names = ("recurrent_features", "hidden", "unit_words", "late_end")
    spec = batch_spec(config, 1, ("subtitles",))
    widths = {"video": spec.video.shape[-1], "sub": spec.subtitles.shape[-1]}
    read = {"both": ("video", "sub"), "video": ("video",), "subtitles": ("sub",)}[config.model.streams]
    streams = {name: widths[name] for name in read}
    return Twin(streams, spec.query_vectors.shape[-1], **{n: config.model[n] for n in names})


def variables(twin):
    """Its weights as ours."""
    return load("excl", twin.state_dict())
