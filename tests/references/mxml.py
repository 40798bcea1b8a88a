"""mXML in PyTorch (Lei et al., ACL 2021), with the official names: two XML with common encoders."""

import dataclasses

import torch
from torch import nn

from references import xml
from vmr_jax.input.spec import batch_spec
from vmr_jax.torch_import import load

TIED = ("query_pos_embed", "query_encoder", "ctx_pos_embed")
LANGUAGES = {"query": "xml_en", "translation": "xml_zh"}


class OfLanguage(xml.Twin):
    """One XML without attention between the streams; 'meaning' [B,N,F] beside what it finds."""

    def forward(self, batch):
        """Compared are the vectors of the queries, and the means of two encodings of the subtitles."""
        found, meaning = super().forward(batch), []
        if "sub" in self.streams:
            mask = torch.as_tensor(batch.video_mask)
            rows = torch.as_tensor(batch.subtitles)
            rows = rows / (rows.norm(dim=-1, keepdim=True) + 1e-5)
            first = self.first(rows, mask, self.sub_input_proj, self.ctx_pos_embed, self.sub_encoder1)
            for x in (first, self.second("sub", {"sub": first}, mask)):
                meaning.append((x * mask[..., None]).sum(1) / mask.sum(1, keepdim=True))
        return {**found, "meaning": torch.cat([found["queries"], *(x[:, None] for x in meaning)], 1)}


class Twin(nn.Module):
    """mXML; evaluation only.

    Args:
      video: D of the clips.
      subtitles: width of the subtitles' vectors in both languages.
      words: W of both languages.
      **fields: as in `vmr_jax.models.mxml.Model`.
    """

    def __init__(self, video, subtitles, words, **fields):
        super().__init__()
        for name in LANGUAGES.values():
            setattr(self, name, OfLanguage(video, subtitles, words, cross_attention=False, **fields))
        encoders = [f"{stream}_encoder{k}" for stream in self.xml_en.streams for k in (1, 2, 3)]
        for part in (*TIED, *encoders):
            setattr(self.xml_zh, part, getattr(self.xml_en, part))

    def forward(self, batch):
        """The outputs of each language, by the name of the field with its words."""
        said = dict(query_vectors=batch.translation, query_mask=batch.translation_mask)
        other = dataclasses.replace(batch, **said, subtitles=batch.translated_subtitles)
        return {"query": self.xml_en(batch), "translation": self.xml_zh(other)}

    def neighbours(self, found, place, margin):
        """The neighbourhood loss where the negative in each row is the one at `place`, best first."""
        total = 0.0
        unit = {name: nn.functional.normalize(x["meaning"], dim=-1) for name, x in found.items()}
        for n in range(unit["query"].shape[1]):
            scores = unit["translation"][:, n] @ unit["query"][:, n].T
            own = scores.diagonal()
            for matrix in (scores, scores.T):
                others = matrix.masked_fill(torch.eye(len(own), dtype=torch.bool), -9)
                others = others.sort(1, descending=True)[0]
                total = total + (margin + others[:, place] - own).clamp(min=0).mean()
        return total


def build(config):
    """The twin of a config."""
    names = ("features", "heads", "max_clips", "max_words", "streams")
    spec = batch_spec(config, 1, ("subtitles", "translation", "translated_subtitles"))
    sizes = (x.shape[-1] for x in (spec.video, spec.subtitles, spec.query_vectors))
    return Twin(*sizes, **{name: config.model[name] for name in names})


def variables(twin):
    """Its weights as ours."""
    return load("mxml", twin.state_dict())
