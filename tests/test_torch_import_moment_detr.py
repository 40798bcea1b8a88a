"""Official Moment-DETR checkpoints, against a PyTorch twin written from the paper, with random weights."""

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

B, T, L, D, W, F, HEADS, HIDDEN, QUERIES = 3, 9, 6, 7, 5, 16, 4, 24, 4


class Projection(nn.Module):
    """One of the two layers that clips or words first go through."""

    def __init__(self, inputs):
        super().__init__()
        self.LayerNorm = nn.LayerNorm(inputs)
        self.net = nn.Sequential(nn.Dropout(0.5), nn.Linear(inputs, F))

    def forward(self, x):
        return self.net(self.LayerNorm(x))


class Layer(nn.Module):
    def __init__(self, decoder):
        super().__init__()
        self.self_attn = nn.MultiheadAttention(F, HEADS, batch_first=True)
        if decoder:
            self.multihead_attn = nn.MultiheadAttention(F, HEADS, batch_first=True)
            self.norm3 = nn.LayerNorm(F)
        self.linear1, self.linear2 = nn.Linear(F, HIDDEN), nn.Linear(HIDDEN, F)
        self.norm1, self.norm2 = nn.LayerNorm(F), nn.LayerNorm(F)

    def feed(self, x):
        return x + self.linear2(self.linear1(x).relu())

    def encode(self, x, place, padding):
        x = self.norm1(x + self.self_attn(x + place, x + place, x, key_padding_mask=padding)[0])
        return self.norm2(self.feed(x))

    def decode(self, x, query, memory, place, padding):
        x = self.norm1(x + self.self_attn(x + query, x + query, x)[0])
        attended = self.multihead_attn(x + query, memory + place, memory, key_padding_mask=padding)[0]
        return self.norm3(self.feed(self.norm2(x + attended)))


class Folder(nn.Module):
    """Modules under names."""

    def __init__(self, **parts):
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)


class Twin(nn.Module):
    """Moment-DETR in PyTorch, with the official names; evaluation only."""

    def __init__(self):
        super().__init__()
        self.input_vid_proj = nn.Sequential(Projection(D + 2), Projection(F))
        self.input_txt_proj = nn.Sequential(Projection(W), Projection(F))
        encoder = Folder(layers=nn.ModuleList([Layer(False) for _ in range(2)]))
        decoder = Folder(layers=nn.ModuleList([Layer(True) for _ in range(3)]), norm=nn.LayerNorm(F))
        self.transformer = Folder(encoder=encoder, decoder=decoder)
        self.query_embed = nn.Embedding(QUERIES, F)
        self.class_embed = nn.Linear(F, 2)
        self.span_embed = Folder(layers=nn.ModuleList([nn.Linear(F, F), nn.Linear(F, F), nn.Linear(F, 2)]))
        self.saliency_proj = nn.Linear(F, 1)
        self.txt_position_embed = Folder(position_embeddings=nn.Embedding(32, F), LayerNorm=nn.LayerNorm(F))
        for p in self.parameters():  # PyTorch starts some biases at zero and all scales at one
            if p.dim() == 1:
                p.data += 0.3 * torch.randn_like(p)

    def forward(self, batch):
        video, words = torch.tensor(batch.video), torch.tensor(batch.query_vectors)
        mask = torch.tensor(batch.video_mask)
        padding = ~torch.cat([mask, torch.tensor(batch.query_mask)], 1)
        words = words / words.norm(dim=-1, keepdim=True).clamp_min(1e-9)
        video = torch.cat([video, self._ends(mask)], -1)
        x = torch.cat([self._first(self.input_vid_proj, video), self._first(self.input_txt_proj, words)], 1)
        place = torch.cat([self._places(mask), torch.zeros(*words.shape[:2], F)], 1)
        for layer in self.transformer.encoder.layers:
            x = layer.encode(x, place, padding)
        query = self.query_embed.weight.expand(len(x), -1, -1)
        y, found = torch.zeros_like(query), {"logits": [], "spans": []}
        for layer in self.transformer.decoder.layers:
            y = layer.decode(y, query, x, place, padding)
            z = self.transformer.decoder.norm(y)
            found["logits"].append(self.class_embed(z))
            first, second, third = self.span_embed.layers
            found["spans"].append(third(second(first(z).relu()).relu()).sigmoid())
        found = {name: torch.stack(layers, 1) for name, layers in found.items()}
        return {**found, "saliency": self.saliency_proj(x[:, : video.shape[1]])[..., 0]}

    @staticmethod
    def _first(layers, x):
        return layers[1](layers[0](x).relu())

    @staticmethod
    def _ends(mask):
        count = mask.sum(1)[:, None]
        begin = torch.arange(mask.shape[1])[None] / count
        return torch.stack([begin, begin + 1 / count], -1)

    @staticmethod
    def _places(mask):
        place = mask.cumsum(1) / (mask.sum(1, keepdim=True) + 1e-6) * 2 * math.pi
        columns = [
            (torch.sin if k % 2 == 0 else torch.cos)(place / 10000 ** (2 * (k // 2) / F)) for k in range(F)
        ]
        return torch.stack(columns, -1)


def ragged_batch():
    """The official code masks padding too, so the twin is compared where there is some."""
    rng = np.random.default_rng(0)
    video_mask = np.arange(T) < np.array([[T], [T - 2], [4]])
    query_mask = np.arange(L) < np.array([[L], [2], [L - 1]])
    return Batch(
        video=rng.normal(size=(B, T, D)).astype(np.float32),
        video_mask=video_mask,
        duration=np.float32([30, 40, 50]),
        query=np.full((B, L), 2, np.int32),
        query_vectors=rng.normal(size=(B, L, W)).astype(np.float32),
        query_mask=query_mask,
        span=np.tile(np.float32([3, 9]), (B, 1)),
        example_mask=np.ones(B, bool),
        example_index=np.arange(B, dtype=np.int32),
        video_index=np.arange(B, dtype=np.int32),
    )


@pytest.fixture(scope="module")
def pair():
    torch.manual_seed(0)
    model = create(
        "moment_detr", features=F, heads=HEADS, hidden=HIDDEN, decoder_layers=3, num_queries=QUERIES,
        all_windows=False, annotated_saliency=False,
    )  # fmt: skip
    return Twin().eval(), model


def test_every_output_is_the_twins(pair):
    twin, model = pair
    batch = ragged_batch()
    with torch.no_grad():
        expected = {name: x.numpy() for name, x in twin(batch).items()}
    variables = load("moment_detr", {"model": {f"module.{key}": x for key, x in twin.state_dict().items()}})
    outputs = jax.jit(lambda v, b: model.apply(v, b, train=False))(variables, batch)
    for name in ("logits", "spans"):
        np.testing.assert_allclose(getattr(outputs, name), expected[name], atol=1e-4, rtol=0)
    real = batch.video_mask
    np.testing.assert_allclose(outputs.saliency[real], expected["saliency"][real], atol=1e-4, rtol=0)


def test_every_parameter_is_set(pair):
    twin, model = pair
    shapes = jax.eval_shape(lambda b: model.init(jax.random.key(0), b, train=False), ragged_batch())
    loaded = load("moment_detr", twin.state_dict())
    assert jax.tree.map(np.shape, loaded) == jax.tree.map(lambda x: x.shape, shapes)


def test_a_wrong_shape_is_named(pair):
    state = dict(pair[0].state_dict())
    key = "transformer.decoder.layers.1.multihead_attn.in_proj_weight"
    state[key] = state[key][:-1]
    with pytest.raises(UserError, match=rf"1 of another shape: {key} is \(47, 16\), expected \(48, 16\)"):
        load("moment_detr", state)
