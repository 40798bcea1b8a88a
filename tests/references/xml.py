"""XML in PyTorch (Lei et al., ECCV 2020), with the official names."""

import torch
from torch import nn

from references import Named
from vmr_jax.input.spec import batch_spec
from vmr_jax.torch_import import load


def projection(inputs, features):
    net = nn.Sequential(nn.Dropout(0.1), nn.Linear(inputs, features), nn.ReLU())
    return Named(LayerNorm=nn.LayerNorm(inputs), net=net)


def positions(count, features):
    return Named(position_embeddings=nn.Embedding(count, features), LayerNorm=nn.LayerNorm(features))


def projections(features):
    return Named(**{name: nn.Linear(features, features) for name in ("query", "key", "value")})


def block(features):
    output = Named(dense=nn.Linear(features, features), LayerNorm=nn.LayerNorm(features))
    return Named(self=projections(features), output=output)


def attend(part, heads, x, y, mask):
    """[B,T,F] to [B,S,F] under a mask [B,1 or T,S]; what it hides is 10,000 lower, as in the official code."""

    def split(z):
        return z.unflatten(-1, (heads, -1)).transpose(1, 2)

    q, k, v = split(part.query(x)), split(part.key(y)), split(part.value(y))
    logits = q @ k.transpose(2, 3) / (x.shape[-1] // heads) ** 0.5 + (1 - mask[:, None].float()) * -10000.0
    return (logits.softmax(-1) @ v).transpose(1, 2).reshape(x.shape)


def self_attend(part, heads, x, mask):
    y = part.output.dense(attend(part.self, heads, x, x, mask[:, None]))
    return part.output.LayerNorm(x + y)


class Twin(nn.Module):
    """XML; evaluation only.

    Args:
      video: D of the clips.
      subtitles: width of the subtitles' vectors.
      words: W.
      features: F; every other field is as in `vmr_jax.models.xml.Model`.
    """

    def __init__(
        self, video, subtitles, words, *, features, heads, max_clips, max_words, streams="both",
        cross_attention=True, conv_kernel=5,
    ):  # fmt: skip
        super().__init__()
        widths = {"video": video, "sub": subtitles}
        if streams != "both":
            widths = {name: width for name, width in widths.items() if streams.startswith(name)}
        self.heads = heads
        self.streams, self.cross = list(widths), cross_attention and len(widths) == 2
        self.query_pos_embed, self.ctx_pos_embed = (
            positions(max_words, features),
            positions(max_clips, features),
        )
        self.query_input_proj, self.query_encoder = projection(words, features), block(features)
        for name, width in widths.items():
            parts = {
                "input_proj": projection(width, features),
                "encoder1": block(features),
                "encoder2": block(features),
            }
            if self.cross:
                parts |= {"cross_att": projections(features), "cross_layernorm": nn.LayerNorm(features)}
            else:
                parts["encoder3"] = block(features)
            for part, module in {**parts, "query_linear": nn.Linear(features, features)}.items():
                setattr(self, f"{name}_{part}", module)
        self.modular_vector_mapping = nn.Linear(features, len(widths), bias=False)
        self.predictor = "merged" if len(widths) == 2 else self.streams[0]
        for end in ("st", "ed"):
            conv = nn.Conv1d(1, 1, conv_kernel, padding=conv_kernel // 2, bias=False)
            setattr(self, f"{self.predictor}_{end}_predictor", conv)
        for p in self.parameters():  # PyTorch starts some biases at zero and all scales at one
            nn.init.normal_(p, mean=1.0 if p.dim() == 1 else 0.0, std=0.3)

    def part(self, name, part):
        return getattr(self, f"{name}_{part}")

    def first(self, x, mask, proj, place, encoder):
        x = proj.net(proj.LayerNorm(x))
        x = place.LayerNorm(x + place.position_embeddings.weight[None, : x.shape[1]])
        return self_attend(encoder, self.heads, x, mask)

    def forward(self, batch):
        """'queries' [B,S,F] of S streams, 'fit' [B,C] of queries and videos, logits 'start' and 'end' [B,T]."""
        mask, words_mask = torch.as_tensor(batch.video_mask), torch.as_tensor(batch.query_mask)

        def unit(x):
            x = torch.as_tensor(x)
            return x / (x.norm(dim=-1, keepdim=True) + 1e-5)

        words = self.first(
            unit(batch.query_vectors),
            words_mask,
            self.query_input_proj,
            self.query_pos_embed,
            self.query_encoder,
        )
        weights = self.modular_vector_mapping(words).masked_fill(~words_mask[..., None], -1e10).softmax(1)
        queries = {name: (weights[..., i, None] * words).sum(1) for i, name in enumerate(self.streams)}
        rows = {"video": torch.as_tensor(batch.video)}
        if "sub" in self.streams:
            rows["sub"] = unit(batch.subtitles)
        layer1 = {
            name: self.first(
                rows[name], mask, self.part(name, "input_proj"), self.ctx_pos_embed, self.part(name, "encoder1")
            )
            for name in self.streams
        }
        layer2 = {name: self.second(name, layer1, mask) for name in self.streams}
        found = {"queries": torch.stack([queries[name] for name in self.streams], 1)}
        cosine = [
            torch.einsum("bf,ctf->bct", *(nn.functional.normalize(x, dim=-1) for x in (queries[n], layer1[n])))
            for n in self.streams
        ]
        fits = [c.masked_fill(~mask[None], -1e10).amax(-1) for c in cosine]
        similarity = [
            (self.part(n, "query_linear")(queries[n])[:, None] * layer2[n]).sum(-1) for n in self.streams
        ]
        found["fit"] = sum(fits) / len(fits)
        similarity = (sum(similarity) / len(similarity))[:, None]
        for ours, theirs in (("start", "st"), ("end", "ed")):
            found[ours] = self.part(self.predictor, f"{theirs}_predictor")(similarity)[:, 0]
        return found

    def second(self, name, layer1, mask):
        x = layer1[name]
        if not self.cross:
            x = self_attend(self.part(name, "encoder2"), self.heads, x, mask)
            return self_attend(self.part(name, "encoder3"), self.heads, x, mask)
        other = layer1["sub" if name == "video" else "video"]
        y = attend(self.part(name, "cross_att"), self.heads, x, other, mask[:, :, None] & mask[:, None, :])
        x = self.part(name, "cross_layernorm")(x + y)
        return self_attend(self.part(name, "encoder2"), self.heads, x, mask)


def build(config):
    """The twin of a config."""
    names = ("features", "heads", "max_clips", "max_words", "streams", "cross_attention")
    spec = batch_spec(config, 1, ("subtitles",))
    sizes = (x.shape[-1] for x in (spec.video, spec.subtitles, spec.query_vectors))
    return Twin(*sizes, **{name: config.model[name] for name in names})


def variables(twin):
    """Its weights as ours."""
    return load("xml", twin.state_dict())
