"""Official XML checkpoints, against a PyTorch twin written from the paper, with random weights."""

import math

import jax
import numpy as np
import pytest

from vmr_jax.errors import UserError
from vmr_jax.models import create
from vmr_jax.torch_import import load
from vmr_jax.types import Batch

torch = pytest.importorskip("torch")
nn = torch.nn

B, T, L, D, W, S, F, HEADS = 3, 9, 6, 7, 5, 4, 16, 4
SETTINGS = {
    "both": dict(streams="both"),
    "no_cross_att": dict(streams="both", cross_attention=False),
    "video": dict(streams="video"),
}


class Folder(nn.Module):
    """Modules under names."""

    def __init__(self, /, **parts):
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)


def projection(inputs):
    net = nn.Sequential(nn.Dropout(0.1), nn.Linear(inputs, F), nn.ReLU())
    return Folder(LayerNorm=nn.LayerNorm(inputs), net=net)


def positions(count):
    return Folder(position_embeddings=nn.Embedding(count, F), LayerNorm=nn.LayerNorm(F))


def heads():
    return Folder(query=nn.Linear(F, F), key=nn.Linear(F, F), value=nn.Linear(F, F))


def block():
    return Folder(self=heads(), output=Folder(dense=nn.Linear(F, F), LayerNorm=nn.LayerNorm(F)))


def attend(part, x, y, mask):
    """[B,T,F] to [B,S,F] under a mask [B,1 or T,S]; what it hides is 10,000 lower, as in the official code."""

    def split(z):
        return z.view(*z.shape[:2], HEADS, F // HEADS).transpose(1, 2)

    q, k, v = split(part.query(x)), split(part.key(y)), split(part.value(y))
    logits = q @ k.transpose(2, 3) / math.sqrt(F // HEADS) + (1 - mask[:, None].float()) * -10000.0
    return (logits.softmax(-1) @ v).transpose(1, 2).reshape(x.shape)


def self_attend(part, x, mask):
    y = part.output.dense(attend(part.self, x, x, mask[:, None]))
    return part.output.LayerNorm(x + y)


class Twin(nn.Module):
    """XML in PyTorch, with the official names; evaluation only."""

    def __init__(self, streams="both", cross_attention=True):
        super().__init__()
        widths = {"video": D, "sub": S} if streams == "both" else {"video": D}
        self.streams, self.cross = list(widths), cross_attention and len(widths) == 2
        self.query_pos_embed, self.ctx_pos_embed = positions(8), positions(12)
        self.query_input_proj, self.query_encoder = projection(W), block()
        for name, width in widths.items():
            parts = {"input_proj": projection(width), "encoder1": block(), "encoder2": block()}
            if self.cross:
                parts |= {"cross_att": heads(), "cross_layernorm": nn.LayerNorm(F)}
            else:
                parts["encoder3"] = block()
            for part, module in {**parts, "query_linear": nn.Linear(F, F)}.items():
                setattr(self, f"{name}_{part}", module)
        self.modular_vector_mapping = nn.Linear(F, len(widths), bias=False)
        self.predictor = "merged" if len(widths) == 2 else "video"
        for end in ("st", "ed"):
            conv = nn.Conv1d(1, 1, 5, padding=2, bias=False)
            setattr(self, f"{self.predictor}_{end}_predictor", conv)
        for p in self.parameters():  # PyTorch starts some biases at zero and all scales at one
            nn.init.normal_(p, mean=1.0 if p.dim() == 1 else 0.0, std=0.3)

    def part(self, name, part):
        return getattr(self, f"{name}_{part}")

    def first(self, x, mask, proj, place, encoder):
        x = proj.net(proj.LayerNorm(x))
        x = place.LayerNorm(x + place.position_embeddings.weight[None, : x.shape[1]])
        return self_attend(encoder, x, mask)

    def forward(self, batch):
        mask, words_mask = torch.tensor(batch.video_mask), torch.tensor(batch.query_mask)

        def unit(x):
            x = torch.tensor(x)
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
        rows = {"video": torch.tensor(batch.video), "sub": unit(batch.subtitles)}
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
            return self_attend(
                self.part(name, "encoder3"), self_attend(self.part(name, "encoder2"), x, mask), mask
            )
        other = layer1["sub" if name == "video" else "video"]
        y = attend(self.part(name, "cross_att"), x, other, mask[:, :, None] & mask[:, None, :])
        return self_attend(self.part(name, "encoder2"), self.part(name, "cross_layernorm")(x + y), mask)


def ragged_batch():
    rng = np.random.default_rng(0)
    video_mask = np.arange(T) < np.array([[T], [T - 2], [4]])
    query_mask = np.arange(L) < np.array([[L], [2], [L - 1]])

    def rows(mask, width):
        return (rng.normal(size=(*mask.shape, width)) * mask[..., None]).astype(np.float32)

    said = video_mask & (rng.random(video_mask.shape) < 0.6)  # where nothing is said, the official row is zero
    return Batch(
        video=rows(video_mask, D),
        video_mask=video_mask,
        duration=np.float32([30, 40, 50]),
        query=np.full((B, L), 2, np.int32),
        query_vectors=rows(query_mask, W),
        query_mask=query_mask,
        span=np.tile(np.float32([3, 9]), (B, 1)),
        example_mask=np.ones(B, bool),
        example_index=np.arange(B, dtype=np.int32),
        video_index=np.arange(B, dtype=np.int32),
        subtitles=rows(said, S),
        subtitle_mask=said,
    )


def created(**fields):
    return create("xml", features=F, heads=HEADS, max_clips=12, max_words=8, video_scale=1.0, **fields)


def official(twin, **extra):
    return {"model": {f"module.{key}": x for key, x in twin.state_dict().items()}, **extra}


@pytest.fixture(scope="module", params=SETTINGS)
def trio(request):
    """The twin, what it finds, and our model."""
    torch.manual_seed(0)
    twin = Twin(**SETTINGS[request.param]).eval()
    with torch.no_grad():
        expected = {name: x.numpy() for name, x in twin(ragged_batch()).items()}
    return twin, expected, created(**SETTINGS[request.param])


def test_every_output_is_the_twins(trio):
    twin, expected, model = trio
    batch, variables = ragged_batch(), load("xml", official(twin, epoch=60))
    run = jax.jit(lambda m, v, b: m.apply(v, b, train=False), static_argnums=0)
    outputs = run(model, variables, batch)
    np.testing.assert_allclose(outputs.queries, expected["queries"], atol=1e-4, rtol=0)
    real = batch.video_mask
    # By default only the video without padding has the official logits throughout: those of the last two clips
    # of the others depend on the padding there.
    changes = real & ~np.roll(real, -2, axis=1) & ~real.all(1)[:, None]
    for name in ("start", "end"):
        found = getattr(outputs, name)
        np.testing.assert_allclose(found[real & ~changes], expected[name][real & ~changes], atol=1e-4, rtol=0)
        assert np.abs(found - expected[name])[changes].max() > 1e-2
    outputs = run(model.clone(official_padding=True), variables, batch)
    for name in ("start", "end"):
        np.testing.assert_allclose(
            getattr(outputs, name)[real], expected[name][real], atol=2e-4, rtol=0, err_msg=name
        )


def test_the_scores_of_videos_are_the_twins(trio):
    twin, expected, model = trio
    batch, variables = ragged_batch(), load("xml", official(twin))

    def fit(v, b):
        videos = model.apply(v, b, method="encode_videos")
        return model.apply(v, b, videos, method="score_videos")

    np.testing.assert_allclose(jax.jit(fit)(variables, batch), expected["fit"], atol=1e-4, rtol=0)


def test_every_parameter_is_set(trio):
    twin, _, model = trio
    shapes = jax.eval_shape(lambda b: model.init(jax.random.key(0), b, train=False), ragged_batch())
    loaded = load("xml", twin.state_dict())
    assert jax.tree.map(np.shape, loaded) == jax.tree.map(lambda x: x.shape, shapes)


def test_a_wrong_shape_is_named():
    state = dict(Twin().state_dict())
    key = "sub_cross_att.value.weight"
    state[key] = state[key][:-1]
    with pytest.raises(UserError, match=rf"1 of another shape: {key} is \(15, 16\), expected \(16, 16\)"):
        load("xml", state)
