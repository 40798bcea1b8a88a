"""Official CMIN checkpoints, against a PyTorch twin written from the equations, with random weights."""

import jax
import numpy as np
import pytest
from batches import random_batch

from vmr_jax.errors import UserError
from vmr_jax.models import create
from vmr_jax.torch_import import load

torch = pytest.importorskip("torch")
nn = torch.nn

B, T, L, D, W, F, HEADS, RELATIONS = 2, 9, 6, 10, 8, 12, 2, 5
WIDTHS = (3, 4)
BAND = 2


class Named(nn.Module):
    """A folder of modules and parameters."""

    def __init__(self, **parts):
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)


def weights(*shape):
    return nn.Parameter(torch.randn(*shape) / shape[-1] ** 0.5)


def gru(inputs):
    return Named(gru=nn.GRU(inputs, F // 2, batch_first=True, bidirectional=True))


def attention():
    return Named(in_proj_weight=weights(3 * D, D), in_proj_bias=weights(3 * D), out_proj=nn.Linear(D, D))


def graph():
    """Weights, gates and the biases of each relation: one of the word itself, the others in two directions."""
    parts = {}
    for kind in ("dir", "gate"):
        linear = nn.ModuleList([nn.Linear(W, W, bias=False) for _ in range(3)])
        parts[f"fc_{kind}_weight"] = linear
        for i, relations in enumerate((1, RELATIONS - 1, RELATIONS - 1)):
            parts[f"fc_{kind}_bias{i + 1}"] = nn.ParameterList([weights(W) for _ in range(relations)])
    return Named(**parts)


class Twin(nn.Module):
    """CMIN in PyTorch, with the official names; evaluation only, no padded clips."""

    def __init__(self):
        super().__init__()
        self.video_encoder = Named(attn_layers=nn.ModuleList([attention() for _ in range(2)]), rnn=gru(D))
        self.sentence_encoder = Named(gcn_layers=nn.ModuleList([graph() for _ in range(2)]), rnn=gru(W))
        self.v2s = Named(ws1=nn.Linear(F, F), ws2=nn.Linear(F, F, bias=False), wst=nn.Linear(F, 1, bias=False))
        self.cross_gate = Named(fc_gate1=nn.Linear(F, F, bias=False), fc_gate2=nn.Linear(F, F, bias=False))
        self.rnn = gru(2 * F)
        self.fc_score = nn.Conv1d(F, len(WIDTHS), 1)
        self.fc_reg = nn.Conv1d(F, 2 * len(WIDTHS), 1)

    def forward(self, batch):
        video = torch.tensor(batch.video)
        for layer in self.video_encoder.attn_layers:
            video = video + self._attend(layer, video)
        video = self.video_encoder.rnn.gru(video)[0]

        words = torch.tensor(batch.query_vectors)
        for layer in self.sentence_encoder.gcn_layers:
            words = words + self._convolve(layer, words, torch.tensor(batch.dependencies))
        real = torch.tensor(batch.query_mask)
        packed = nn.utils.rnn.pack_padded_sequence(words, real.sum(1), batch_first=True, enforce_sorted=False)
        words = self.sentence_encoder.rnn.gru(packed)[0]
        words = nn.utils.rnn.pad_packed_sequence(words, batch_first=True, total_length=L)[0]

        scores = self.v2s.wst((self.v2s.ws1(video)[:, :, None] + self.v2s.ws2(words)[:, None]).tanh())[..., 0]
        attended = scores.masked_fill(~real[:, None], -1e30).softmax(2) @ words
        gated = torch.cat(
            [
                self.cross_gate.fc_gate2(attended).sigmoid() * video,
                self.cross_gate.fc_gate1(video).sigmoid() * attended,
            ],
            dim=-1,
        )
        fused = self.rnn.gru(gated)[0].mT
        return self.fc_score(fused).mT.reshape(B, -1), self.fc_reg(fused).mT.reshape(B, -1, 2)

    @staticmethod
    def _attend(layer, x):
        projected = x @ layer.in_proj_weight.T + layer.in_proj_bias
        q, k, v = (part.unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in projected.chunk(3, -1))
        place = torch.arange(T)
        far = (place[:, None] - place[None]).abs() > BAND
        logits = q * (D // HEADS) ** -0.5 @ k.mT - 1e10 * far
        return layer.out_proj((logits.softmax(-1) @ v).transpose(1, 2).flatten(2))

    @staticmethod
    def _convolve(layer, words, adjacent):
        total = 0
        kinds = ((adjacent, 1), (adjacent, 2), (adjacent.mT, 2))  # from dependents, then from heads
        for i, (graph, first) in enumerate(kinds):
            y = layer.fc_dir_weight[i](words)
            g = layer.fc_gate_weight[i](y)
            biases = getattr(layer, f"fc_dir_bias{i + 1}"), getattr(layer, f"fc_gate_bias{i + 1}")
            for r, (bias, gate_bias) in enumerate(zip(*biases, strict=True)):
                total = total + (graph == first + r).float() @ ((y + bias) * (g + gate_bias).sigmoid())
        return total.relu()


@pytest.fixture(scope="module")
def twin():
    torch.manual_seed(0)
    return Twin()


@pytest.fixture(scope="module")
def model():
    return create(
        "cmin", widths=WIDTHS, features=F, heads=HEADS, band=BAND, relations=RELATIONS, dropout=0.5
    )  # fmt: skip


@pytest.fixture(scope="module")
def batch():
    """No padded clips; queries of different lengths, and every relation in both directions."""
    batch = random_batch(B, T, L, D, W, fill=0)
    rng = np.random.default_rng(0)
    relations = rng.integers(0, RELATIONS + 1, (B, L, L))
    relations = np.where(np.eye(L, dtype=bool), 1, np.where(relations == 1, 0, relations))
    real = batch.query_mask[:, :, None] & batch.query_mask[:, None, :]
    return batch.replace(
        video=rng.normal(size=(B, T, D)).astype(np.float32),
        video_mask=np.ones((B, T), bool),
        dependencies=(relations * real).astype(np.int32),
    )


def test_every_output_is_the_twins(twin, model, batch):
    assert len(set(batch.query_mask.sum(1))) > 1 and set(np.unique(batch.dependencies)) == set(range(6))
    with torch.no_grad():
        logits, offsets = twin(batch)
    variables = load("cmin", {"model": {f"module.{key}": x for key, x in twin.state_dict().items()}})
    outputs = jax.jit(lambda v, b: model.apply(v, b, train=False))(variables, batch)
    np.testing.assert_allclose(outputs.logits, logits.numpy(), atol=1e-4, rtol=0)
    np.testing.assert_allclose(outputs.offsets, offsets.numpy(), atol=1e-4, rtol=0)
    assert np.abs(logits.numpy()).max() > 0.1


def test_every_parameter_is_set(twin, model, batch):
    shapes = jax.eval_shape(lambda b: model.init(jax.random.key(0), b, train=False), batch)
    assert jax.tree.map(np.shape, load("cmin", twin.state_dict())) == jax.tree.map(lambda x: x.shape, shapes)


def test_wrong_and_missing_tensors_are_named(twin):
    state = dict(twin.state_dict())
    state["v2s.ws2.weight"] = state["v2s.ws2.weight"][1:]
    del state["sentence_encoder.gcn_layers.1.fc_gate_bias2.0"]
    with pytest.raises(
        UserError, match=r"1 missing: sentence_encoder.gcn_layers.1.fc_gate_bias2.0; 1 of another"
    ):
        load("cmin", state)
