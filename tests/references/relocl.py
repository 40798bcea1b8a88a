"""ReLoCLNet in PyTorch (Zhang et al., SIGIR 2021), with the official names."""

import math

import torch
from torch import nn

from references.xml import attend, block, positions, projection, projections, self_attend
from vmr_jax.input.spec import batch_spec
from vmr_jax.torch_import import load

STREAMS = ("video", "sub")


def unit(x):
    x = torch.as_tensor(x)
    return x / (x.norm(dim=-1, keepdim=True) + 1e-5)


class Twin(nn.Module):
    """ReLoCLNet, with both streams and their endpoints.

    Args:
      video: D of the clips.
      subtitles: width of the subtitles' vectors.
      words: W.
      features: F; every other field is as in `vmr_jax.models.relocl.Model`.
    """

    def __init__(self, video, subtitles, words, *, features, heads, max_clips, max_words, conv_kernel=5):
        super().__init__()
        self.heads = heads
        self.query_pos_embed = positions(max_words, features)
        self.ctx_pos_embed = positions(max_clips, features)
        self.query_input_proj = projection(words, features)
        self.query_encoder, self.query_encoder1 = block(features), block(features)
        for name, width in zip(STREAMS, (video, subtitles)):
            parts = {
                "input_proj": projection(width + 2, features),
                **{f"encoder{i}": block(features) for i in (1, 2, 3)},
                "cross_att": projections(features),
                "cross_layernorm": nn.LayerNorm(features),
                "query_linear": nn.Linear(features, features),
            }
            for part, module in parts.items():
                setattr(self, f"{name}_{part}", module)
        self.modular_vector_mapping = nn.Linear(features, len(STREAMS), bias=False)
        for end in ("st", "ed"):
            conv = nn.Conv1d(1, 1, conv_kernel, padding=conv_kernel // 2, bias=False)
            setattr(self, f"merged_{end}_predictor", conv)
        for p in self.parameters():  # PyTorch starts some biases at zero and all scales at one
            nn.init.normal_(p, mean=1.0 if p.dim() == 1 else 0.0, std=0.3)

    def part(self, name, part):
        return getattr(self, f"{name}_{part}")

    def first(self, x, mask, proj, place, encoder):
        x = proj.net(proj.LayerNorm(x))
        x = place.LayerNorm(x + place.position_embeddings.weight[None, : x.shape[1]])
        return self_attend(encoder, self.heads, x, mask)

    def streams(self, batch, mask):
        """The layer of the contrast and the last one, of each stream [B,T,F]."""
        count, place = mask.sum(1)[:, None], torch.arange(mask.shape[1])[None]
        ends = torch.stack([place / count, (place + 1) / count], -1) * mask[..., None]
        rows = {"video": torch.as_tensor(batch.video), "sub": unit(batch.subtitles)}
        x = {
            name: self.first(
                torch.cat([rows[name], ends], -1),
                mask,
                self.part(name, "input_proj"),
                self.ctx_pos_embed,
                self.part(name, "encoder1"),
            )
            for name in STREAMS
        }
        both = mask[:, :, None] & mask[:, None, :]
        middle, last = {}, {}
        for name, other in zip(STREAMS, reversed(STREAMS)):
            y = attend(self.part(name, "cross_att"), self.heads, x[name], x[other], both)
            y = self.part(name, "cross_layernorm")(x[name] + y)
            middle[name] = self_attend(self.part(name, "encoder2"), self.heads, y, mask)
            last[name] = self_attend(self.part(name, "encoder3"), self.heads, middle[name], mask)
        return middle, last

    def forward(self, batch):
        """'queries' [B,S,F] of S streams, 'fit' [B,C] of queries and videos, logits 'start' and 'end' [B,T].

        'raw' [B,C] is the fit of the middle layer by dot products, 'clips' [B,S,T] those of the own video.
        """
        mask, words_mask = torch.as_tensor(batch.video_mask), torch.as_tensor(batch.query_mask)
        words = self.first(
            unit(batch.query_vectors),
            words_mask,
            self.query_input_proj,
            self.query_pos_embed,
            self.query_encoder,
        )
        words = self_attend(self.query_encoder1, self.heads, words, words_mask)
        weights = self.modular_vector_mapping(words).masked_fill(~words_mask[..., None], -1e10).softmax(1)
        queries = dict(zip(STREAMS, torch.einsum("blz,blf->zbf", weights, words)))
        middle, last = self.streams(batch, mask)

        def best(fit):  # of clips: [B,C,T] -> [B,C]
            return fit.masked_fill(~mask[None], -1e10).amax(-1)

        cosine = [
            torch.einsum("bf,ctf->bct", *(nn.functional.normalize(x, dim=-1) for x in (queries[n], last[n])))
            for n in STREAMS
        ]
        dots = [torch.einsum("bf,ctf->bct", queries[n], middle[n]) for n in STREAMS]
        similarity = [(self.part(n, "query_linear")(queries[n])[:, None] * last[n]).sum(-1) for n in STREAMS]
        similarity = (sum(similarity) / 2)[:, None]
        return {
            "queries": torch.stack([queries[n] for n in STREAMS], 1),
            "fit": sum(map(best, cosine)) / 2,
            "raw": sum(map(best, dots)) / 2,
            "clips": torch.stack([dot[range(len(mask)), range(len(mask))] for dot in dots], 1),
            "start": self.merged_st_predictor(similarity)[:, 0],
            "end": self.merged_ed_predictor(similarity)[:, 0],
        }

    def contrast(self, outputs, batch, first, last):
        """FrameCL and VideoCL, without weights; `first` and `last` [B] are the clips of the moment."""
        mask = torch.as_tensor(batch.video_mask)
        place = torch.arange(mask.shape[1])[None]
        inside = ((place >= first[:, None]) & (place <= last[:, None]))[:, None].float()
        outside = mask[:, None].float() - inside
        softplus = nn.functional.softplus
        moment = ((math.log(2) - softplus(-outputs["clips"])) * inside).sum(-1) / inside.sum(-1)
        others = ((softplus(outputs["clips"]) - math.log(2)) * outside).sum(-1) / outside.sum(-1).clamp(min=1)
        pairs = torch.cat([outputs["raw"], outputs["raw"].T], 1).logsumexp(1) - outputs["raw"].diagonal()
        return (others - moment).mean(), pairs.mean()


def build(config):
    """The twin of a config."""
    spec = batch_spec(config, 1, ("subtitles",))
    sizes = (x.shape[-1] for x in (spec.video, spec.subtitles, spec.query_vectors))
    return Twin(
        *sizes, **{name: config.model[name] for name in ("features", "heads", "max_clips", "max_words")}
    )


def variables(twin):
    """Its weights as ours."""
    return load("relocl", twin.state_dict())
