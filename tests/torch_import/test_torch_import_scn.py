"""Official SCN checkpoints, against a PyTorch twin written from the paper, with random weights."""

import jax
import numpy as np
import pytest

from vmr_jax.errors import UserError
from vmr_jax.models import create
from vmr_jax.models.scn import Model, completion_loss, proposals
from vmr_jax.torch_import import load
from vmr_jax.types import Batch

torch = pytest.importorskip("torch")
nn = torch.nn

B, T, L, D, W, F, HEADS, LAYERS, V, K, R = 3, 16, 6, 5, 4, 8, 2, 2, 9, 3, 16
WIDTHS = (0.25, 0.5, 1.0)


class Attention(nn.Module):
    """Multi-head attention with query, key and value in one matrix; a mask is True where there is a key."""

    def __init__(self):
        super().__init__()
        self.in_proj_weight = nn.Parameter(torch.randn(3 * F, F) / 2)
        self.in_proj_bias = nn.Parameter(torch.randn(3 * F) / 2)
        self.out_proj = nn.Linear(F, F)

    def forward(self, x, keys, mask):
        def heads(y, i):
            rows = slice(i * F, (i + 1) * F)
            y = nn.functional.linear(y, self.in_proj_weight[rows], self.in_proj_bias[rows])
            return y.unflatten(-1, (HEADS, F // HEADS)).transpose(1, 2)

        found = nn.functional.scaled_dot_product_attention(
            heads(x, 0), heads(keys, 1), heads(keys, 2), attn_mask=mask
        )
        return self.out_proj(found.transpose(1, 2).flatten(2))


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.self_attn, self.encoder_attn = Attention(), Attention()
        self.self_attn_layer_norm, self.encoder_attn_layer_norm = nn.LayerNorm(F), nn.LayerNorm(F)
        self.fc1, self.fc2, self.final_layer_norm = nn.Linear(F, 2 * F), nn.Linear(2 * F, F), nn.LayerNorm(F)

    def forward(self, x, mask, memory, memory_mask):
        causal = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).tril()
        x = self.self_attn_layer_norm(x + self.self_attn(x, x, causal & mask[:, None, None]))
        if memory is not None:
            y = self.encoder_attn(x, memory, memory_mask[:, None, None])
            x = self.encoder_attn_layer_norm(x + y)
        return self.final_layer_norm(x + self.fc2(self.fc1(x).relu()))


class Decoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.decoder_layers = nn.ModuleList([Layer() for _ in range(LAYERS)])

    def forward(self, x, mask, memory=None, memory_mask=None):
        for layer in self.decoder_layers:
            x = layer(x, mask, memory, memory_mask)
        return x


class Twin(nn.Module):
    """SCN in PyTorch, with the official names; without dropout and hidden words."""

    def __init__(self):
        super().__init__()
        self.mask_vec, self.start_vec = (nn.Parameter(torch.randn(W)) for _ in range(2))
        self.frame_fc, self.word_fc = nn.Linear(D, F), nn.Linear(W, F)
        self.fc_props, self.fc_comp = nn.Linear(F, len(WIDTHS)), nn.Linear(F, V)
        self.trans = nn.Module()
        self.trans.decoder1, self.trans.decoder2 = Decoder(), Decoder()

    def forward(self, batch, hidden):
        """Scores [B,T,P]; word logits [B,K,L,V], words [B,L] and mask [B,L] of the official loss; the spans."""
        video, vectors = torch.tensor(batch.video), torch.tensor(batch.query_vectors)
        lengths = torch.tensor(batch.query_mask.sum(1))
        clips, clip_mask = self.frame_fc(video), torch.ones(B, T, dtype=torch.bool)
        words = self.word_fc(torch.cat([self.start_vec.expand(B, 1, W), vectors], 1))
        mask = torch.arange(L + 1) < lengths[:, None] + 1
        rate = 10000 ** (-torch.arange(F // 2) / (F // 2 - 1))
        angle = torch.arange(L + 1)[:, None] * rate
        positions = torch.cat([angle.sin(), angle.cos()], 1)
        positions[0] = 0
        memory = self.trans.decoder2(words + positions, mask)
        scores = self.fc_props(self.trans.decoder1(clips, clip_mask, memory, mask)).sigmoid()
        spans = [self._chosen(row) for row in scores.detach()]

        is_hidden = nn.functional.pad(torch.tensor(hidden), (1, 0))[..., None]
        words = torch.where(is_hidden, self.word_fc(self.mask_vec), words) + positions
        words, mask = words[:, :-1], mask[:, :-1]
        logits = []
        for k in range(K):
            places = [
                s + int(x) for b in range(B) for s, e in [spans[b][k]] for x in np.linspace(0, e - s - 1, R)
            ]
            frames = torch.stack([clips[b, places[b * R : (b + 1) * R]] for b in range(B)])
            frame_mask = torch.ones(B, R, dtype=torch.bool)
            memory = self.trans.decoder1(frames, frame_mask)
            logits.append(self.fc_comp(self.trans.decoder2(words, mask, memory, frame_mask)))
        return scores, torch.stack(logits, 1), mask, spans

    @staticmethod
    def _chosen(scores):
        """K spans of scores [T,P]: the best, the best of those apart from it if there are three, and so on."""
        found = [
            (float(scores[t, p]), (t + 1 - int(w * T), t + 1))
            for t in range(T)
            for p, w in enumerate(WIDTHS)
            if t + 1 - int(w * T) >= 0
        ]
        left, chosen = [span for _, span in sorted(found, reverse=True)], []
        for _ in range(K):
            chosen.append(left[0])
            apart = [span for span in left if _iou(span, left[0]) < 0.65]
            left = apart if len(apart) > 2 else left
        return chosen


def _iou(a, b):
    shared = min(a[1], b[1]) - max(a[0], b[0]) + 1
    return max(shared, 0) / (max(a[1], b[1]) - min(a[0], b[0]) + 1)


def ragged_batch():
    """Every video has T clips, as officially; the first sentence has all L words."""
    rng = np.random.default_rng(0)
    query_mask = np.arange(L) < np.array([L, L - 1, 3])[:, None]
    return Batch(
        video=rng.normal(size=(B, T, D)).astype(np.float32),
        video_mask=np.ones((B, T), bool),
        duration=np.full(B, 30, np.float32),
        query=(rng.integers(2, V + 1, (B, L)) * query_mask).astype(np.int32),
        query_vectors=(rng.normal(size=(B, L, W)) * query_mask[..., None]).astype(np.float32),
        query_mask=query_mask,
        span=np.full((B, 2), np.nan, np.float32),
        example_mask=np.ones(B, bool),
        example_index=np.arange(B, dtype=np.int32),
        video_index=np.arange(B, dtype=np.int32),
        content_words=query_mask,
    )


@pytest.fixture(scope="module")
def pair():
    torch.manual_seed(0)
    model = create(
        "scn", features=F, hidden=2 * F, heads=HEADS, layers=LAYERS, widths=WIDTHS, dropout=0.0, rows=R,
        random_start=0.0, vocab_size=V + 1,
    )  # fmt: skip
    return Twin(), model


def test_every_output_is_the_twins(pair, monkeypatch):
    twin, model = pair
    batch, hidden = ragged_batch(), np.zeros((B, L), bool)
    hidden[:, 1] = hidden[0, 4] = True
    monkeypatch.setattr(Model, "_hidden", lambda self, batch, train: jax.numpy.asarray(hidden))
    with torch.no_grad():
        scores, logits, mask, spans = twin(batch, hidden)
    variables = load("scn", {f"module.{key}": x for key, x in twin.state_dict().items()})
    variables["counters"] = {"updates": np.int32(0)}
    outputs, _ = jax.jit(
        lambda v, b: model.apply(v, b, train=True, mutable=["counters"], rngs={"dropout": jax.random.key(0)})
    )(variables, batch)
    real = np.asarray(proposals(batch.video_mask, WIDTHS)[1])
    np.testing.assert_allclose(outputs.scores[real], scores.flatten(1).numpy()[real], atol=1e-4, rtol=0)
    assert len(spans[0]) == len(set(spans[0])) == K
    ours = np.delete(np.asarray(outputs.word_logits), 1, axis=-1)[
        :, :, :L
    ]  # without the unknown word and the end
    at = mask[:, None].expand(-1, K, -1).numpy()
    np.testing.assert_allclose(ours[at], logits.numpy()[at], atol=1e-4, rtol=0)


def test_loss_of_the_twins_logits_is_pytorchs(pair):
    batch = ragged_batch()
    logits = np.random.default_rng(1).normal(size=(B, K, L + 1, V + 1)).astype(np.float32)
    # Officially all sentences but the longest of the batch predict the end, id 0.
    for predict_end, rows in ((False, [0]), (True, [1, 2])):
        found = completion_loss(logits, batch.query, batch.query_mask, 0.1, predict_end)
        for b in rows:
            n = batch.query_mask[b].sum() + predict_end
            targets = torch.tensor(np.append(batch.query[b], 0)[:n]).long().expand(K, n)
            expected = nn.functional.cross_entropy(
                torch.tensor(logits[b, :, :n]).mT, targets, label_smoothing=0.1, reduction="none"
            ).mean(1)
            np.testing.assert_allclose(found[b], expected.numpy(), atol=1e-5)


def test_every_parameter_is_set(pair):
    twin, model = pair
    shapes = jax.eval_shape(lambda b: model.init(jax.random.key(0), b, train=False), ragged_batch())
    loaded = load("scn", twin.state_dict())
    assert jax.tree.map(np.shape, loaded["params"]) == jax.tree.map(lambda x: x.shape, shapes["params"])


def test_left_over_and_missing_tensors_are_named(pair):
    state = dict(pair[0].state_dict())
    state["trans.extra"] = state.pop("mask_vec")
    with pytest.raises(UserError, match=r"1 left over: trans.extra; 1 missing: mask_vec"):
        load("scn", state)
