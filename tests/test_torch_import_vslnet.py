"""Official VSLNet checkpoints, against a PyTorch twin written from the paper, with random weights."""

import jax
import numpy as np
import pytest

from vmr_jax.errors import UserError
from vmr_jax.models import create
from vmr_jax.torch_import import load
from vmr_jax.types import Batch

torch = pytest.importorskip("torch")
nn = torch.nn

B, T, L, C, D, W, F, HEADS, CHARS, CHAR = 2, 9, 5, 6, 7, 8, 16, 4, 12, 5


class Conv1D(nn.Module):
    """A linear layer under the official name."""

    def __init__(self, inputs, features):
        super().__init__()
        self.conv1d = nn.Conv1d(inputs, features, 1)

    def forward(self, x):
        return self.conv1d(x.mT).mT


class Named(nn.Module):
    """A folder of modules and parameters."""

    def __init__(self, **parts):
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.pos_embedding = Named(position_embeddings=nn.Embedding(12, F))
        convs = [
            nn.Sequential(nn.Conv1d(F, F, 7, padding=3, groups=F, bias=False), nn.Conv1d(F, F, 1))
            for _ in range(4)
        ]
        self.conv_block = Named(
            depthwise_separable_conv=nn.ModuleList(convs),
            layer_norms=nn.ModuleList([nn.LayerNorm(F, 1e-6) for _ in convs]),
        )
        parts = {name: Conv1D(F, F) for name in ("query", "key", "value", "out_layer")}
        self.attention_block = Named(
            **parts, layer_norm1=nn.LayerNorm(F, 1e-6), layer_norm2=nn.LayerNorm(F, 1e-6)
        )

    def forward(self, x):
        x = x + self.pos_embedding.position_embeddings.weight[: x.shape[1]]
        for conv, norm in zip(
            self.conv_block.depthwise_separable_conv, self.conv_block.layer_norms, strict=True
        ):
            x = x + conv(norm(x).mT).relu().mT
        block = self.attention_block
        y = block.layer_norm1(x)
        q, k, v = (
            part(y).unflatten(-1, (HEADS, F // HEADS)).transpose(1, 2)
            for part in (block.query, block.key, block.value)
        )
        x = x + nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return x + block.out_layer(block.layer_norm2(x))


class Twin(nn.Module):
    """VSLNet in PyTorch, with the official names; evaluation only, no padding."""

    def __init__(self, predictor):
        super().__init__()
        convs = [nn.Sequential(nn.Conv2d(CHAR, 10 * k, (1, k)), nn.ReLU()) for k in (1, 2, 3, 4)]
        self.embedding_net = Named(
            word_emb=Named(
                pad_vec=nn.Parameter(torch.zeros(1, W)),
                unk_vec=nn.Parameter(torch.randn(1, W)),
                glove_vec=nn.Parameter(torch.randn(20, W)),
            ),
            char_emb=Named(char_emb=nn.Embedding(CHARS, CHAR), char_convs=nn.ModuleList(convs)),
            linear=Conv1D(W + 100, F),
        )
        self.video_affine = Named(linear=Conv1D(D, F))
        self.feature_encoder = Encoder()
        self.cq_attention = Named(
            w4C=nn.Parameter(torch.randn(F, 1)),
            w4Q=nn.Parameter(torch.randn(F, 1)),
            w4mlu=nn.Parameter(torch.randn(1, 1, F)),
            cqa_linear=Conv1D(4 * F, F),
        )
        self.cq_concat = Named(
            weighted_pool=Named(weight=nn.Parameter(torch.randn(F, 1))), conv1d=Conv1D(2 * F, F)
        )
        self.highlight_layer = Named(conv1d=Conv1D(F, 1))
        blocks = {
            f"{end}_block": nn.Sequential(Conv1D(2 * F, F), nn.ReLU(), Conv1D(F, 1)) for end in ("start", "end")
        }
        if predictor == "rnn":
            for end in ("start", "end"):
                blocks[f"{end}_encoder"] = Named(lstm=nn.LSTM(F, F, batch_first=True))
        else:
            blocks["encoder"] = Encoder()
            for end in ("start", "end"):
                blocks[f"{end}_layer_norm"] = nn.LayerNorm(F, 1e-6)
        self.predictor, self.kind = Named(**blocks), predictor

    def forward(self, batch):
        net = self.embedding_net
        words = torch.tensor(batch.query_vectors)
        words = torch.where((words == 0).all(-1, keepdim=True), net.word_emb.unk_vec, words)
        chars = net.char_emb.char_emb.weight[torch.tensor(batch.query_chars)].permute(0, 3, 1, 2)
        chars = torch.cat([conv(chars).amax(3) for conv in net.char_emb.char_convs], 1).mT
        query = self.feature_encoder(net.linear(torch.cat([words, chars], -1)))
        video = self.feature_encoder(self.video_affine.linear(torch.tensor(batch.video)))
        fused = self._concat(self._attention(video, query), query)
        highlight = self.highlight_layer.conv1d(fused)
        fused = fused * highlight.sigmoid()
        start, end = self._states(fused)
        p = self.predictor
        logits = [
            block(torch.cat([state, fused], -1))[..., 0]
            for block, state in ((p.start_block, start), (p.end_block, end))
        ]
        return {"start": logits[0], "end": logits[1], "highlight": highlight[..., 0]}

    def _attention(self, video, query):
        cq = self.cq_attention
        similarity = video @ cq.w4C + (query @ cq.w4Q).mT + (video * cq.w4mlu) @ query.mT
        rows, columns = similarity.softmax(2), similarity.softmax(1)
        attended, back = rows @ query, rows @ columns.mT @ video
        return cq.cqa_linear(torch.cat([video, attended, video * attended, video * back], -1))

    def _concat(self, clips, query):
        alpha = (query @ self.cq_concat.weighted_pool.weight).softmax(1)
        pooled = (alpha * query).sum(1, keepdim=True).expand(-1, clips.shape[1], -1)
        return self.cq_concat.conv1d(torch.cat([clips, pooled], -1))

    def _states(self, fused):
        p = self.predictor
        if self.kind == "rnn":
            start = p.start_encoder.lstm(fused)[0]
            return start, p.end_encoder.lstm(start)[0]
        start = p.encoder(fused)
        return p.start_layer_norm(start), p.end_layer_norm(p.encoder(start))


def unpadded_batch():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(B, L, W)).astype(np.float32)
    vectors[0, 2] = 0  # an unknown word
    return Batch(
        video=rng.normal(size=(B, T, D)).astype(np.float32),
        video_mask=np.ones((B, T), bool),
        duration=np.full(B, 30, np.float32),
        query=np.full((B, L), 2, np.int32),
        query_vectors=vectors,
        query_mask=np.ones((B, L), bool),
        span=np.tile(np.float32([3, 9]), (B, 1)),
        example_mask=np.ones(B, bool),
        example_index=np.arange(B, dtype=np.int32),
        video_index=np.arange(B, dtype=np.int32),
        query_chars=rng.integers(1, CHARS, (B, L, C)).astype(np.int32),
    )


@pytest.fixture(scope="module", params=["rnn", "transformer"])
def pair(request):
    torch.manual_seed(0)
    twin = Twin(request.param)
    model = create(
        "vslnet", features=F, heads=HEADS, predictor=request.param, max_positions=12, char_features=CHAR,
        num_chars=CHARS,
    )  # fmt: skip
    return twin, model


def test_every_output_is_the_twins(pair):
    twin, model = pair
    batch = unpadded_batch()
    with torch.no_grad():
        expected = twin(batch)
    variables = load("vslnet", {f"module.{key}": x for key, x in twin.state_dict().items()})
    outputs = jax.jit(lambda v, b: model.apply(v, b, train=False))(variables, batch)
    for name, logits in expected.items():
        np.testing.assert_allclose(getattr(outputs, name), logits.numpy(), atol=1e-4, rtol=0)


def test_every_parameter_is_set(pair):
    twin, model = pair
    shapes = jax.eval_shape(lambda b: model.init(jax.random.key(0), b, train=False), unpadded_batch())
    loaded = load("vslnet", twin.state_dict())
    assert jax.tree.map(np.shape, loaded) == jax.tree.map(lambda x: x.shape, shapes)


def test_left_over_and_missing_tensors_are_named(pair):
    state = dict(pair[0].state_dict())
    state["predictor.extra"] = state.pop("cq_attention.w4C")
    with pytest.raises(UserError, match=r"1 left over: predictor.extra; 1 missing: cq_attention.w4C"):
        load("vslnet", state)
