"""Official TSP-PRL checkpoints, against a PyTorch twin written from the paper, with random weights."""

import jax
import numpy as np
import pytest

from vmr_jax.errors import UserError
from vmr_jax.models import create
from vmr_jax.torch_import import load
from vmr_jax.types import Batch

torch = pytest.importorskip("torch")
nn = torch.nn

B, T, D, Q, F, H = 6, 43, 5, 7, 16, 20
SEED = 112
LEAVES = {"scale": 4, "left_move": 3, "right_move": 3, "left_offset": 3, "right_offset": 3}
FEW = (
    "0000000000 0000011111 0001111222 0011122233 0011223344 0112233445 0122334456 0123445567 0123445678"
).split()


def ten(start, end):
    """The ten units of a run."""
    n = end - start + 1
    return [start + (int(FEW[n - 1][i]) if n < 10 else (i + 1) * n // 11) for i in range(10)]


def move(start, end, units, branch, leaf):
    """The next window in plain Python, with the decimals of the official code; None where it is not valid."""
    if branch == "scale":
        middle, half = (start + end) // 2, int((0.6, 0.75, 0.417, 0.333)[leaf] * (end - start))
        start, end = middle - half, middle + half
    else:
        distance = (units // 10 if branch.endswith("move") else 1) * (-1 if branch.startswith("left") else 1)
        start, end = start + distance * (leaf != 2), end + distance * (leaf != 1)
    if end < 0 or start > units:
        return None
    start, end = max(start, 0), min(end, units - 1)
    return (start, end) if end > start else None


class Twin(nn.Module):
    """The greedy agent in PyTorch, one video at a time, with the official names."""

    def __init__(self):
        super().__init__()
        self.gobal_fc, self.local_fc = nn.Linear(10 * D, F), nn.Linear(10 * D, F)
        self.sentence_fc, self.location_fc = nn.Linear(Q, F), nn.Linear(2, F)
        self.state_fc, self.gru = nn.Linear(3 * F, F), nn.GRUCell(F, F)
        for name, actions in {"global": 5, **LEAVES}.items():
            setattr(self, f"{name}_policy", nn.Linear(F, actions))
            setattr(self, f"{name}_value", nn.Linear(F, 1))
        self.iou_fc1, self.iou_fc2, self.iou_fc3 = nn.Linear(F, 12), nn.Linear(12, 6), nn.Linear(6, 1)

    def forward(self, video, query, slip):
        """Of a video [N,D] and query [Q], for every step: window, IoU, both values, root and leaf action."""

        def normed(layer, x):
            return nn.functional.normalize(layer(x[None])).relu()

        units, visited = len(video), []
        window, hidden = (units // 4 - 1, units - units // 4 - 1), torch.zeros(1, F)
        gate = self.sentence_fc(query[None]).sigmoid()
        whole = normed(self.gobal_fc, video[ten(0, units - 1)].flatten())
        while window and len(visited) < H:
            indices = ten(*window)
            if slip and not visited:
                indices[8] = indices[0]
            local = normed(self.local_fc, video[indices].flatten())
            location = normed(self.location_fc, torch.tensor(window) / (units - 1))
            state = self.state_fc(torch.cat([local * gate, whole * gate, location * gate], 1)).relu()
            iou = self.iou_fc3(self.iou_fc2(self.iou_fc1(state).relu()).relu())
            hidden = self.gru(state, hidden)
            root = self.global_policy(hidden).argmax().item()
            branch = list(LEAVES)[root]
            leaf = getattr(self, f"{branch}_policy")(hidden).argmax().item()
            values = (self.global_value(hidden), getattr(self, f"{branch}_value")(hidden))
            visited.append((window, iou.item(), *(v.item() for v in values), root, leaf))
            window = move(*window, units, branch, leaf)
        return visited


UNITS = np.array([43, 36, 25, 12, 9, 40])


def batch_of():
    rng = np.random.default_rng(0)
    mask = np.arange(T) < UNITS[:, None]
    return Batch(
        video=rng.normal(size=(B, T, D)).astype(np.float32) * mask[..., None],
        video_mask=mask,
        duration=UNITS.astype(np.float32),
        query=np.full((B, 3), 2, np.int32),
        query_vectors=np.zeros((B, 3, 4), np.float32),
        query_mask=np.ones((B, 3), bool),
        span=np.tile(np.float32([3, 9]), (B, 1)),
        example_mask=np.ones(B, bool),
        example_index=np.arange(B, dtype=np.int32),
        video_index=np.arange(B, dtype=np.int32),
        sentence=rng.normal(size=(B, Q)).astype(np.float32),
    )


@pytest.fixture(scope="module")
def twin():
    """With weights that are large enough for the agent to vary its actions."""
    torch.manual_seed(SEED)
    twin = Twin()
    for name, parameter in twin.named_parameters():
        if name.endswith(("fc.weight", "policy.weight", "weight_hh")):
            nn.init.normal_(parameter)
    return twin


@pytest.mark.parametrize("slip", [False, True])
def test_every_step_is_the_twins(twin, slip):
    batch = batch_of()
    model = create("tsp_prl", features=F, critic_features=(12, 6), slip_in_first_window=slip)
    variables = load("tsp_prl", {"net": {f"module.{key}": x for key, x in twin.state_dict().items()}})
    variables["schedule"] = {"step": np.int32(0)}  # official checkpoints do not count updates
    outputs, ranked = jax.jit(lambda v, b: _predicted(model, v, b))(variables, batch)
    lengths = []
    for b, units in enumerate(UNITS):
        with torch.no_grad():
            visited = twin(torch.tensor(batch.video[b, :units]), torch.tensor(batch.sentence[b]), slip)
        windows, *numbers, root, leaf = (np.array(x) for x in zip(*visited))
        n = len(visited)
        lengths.append(n)
        np.testing.assert_array_equal(outputs.windows[b, :n], windows)
        np.testing.assert_array_equal(outputs.root.action[b, :n], root)
        np.testing.assert_array_equal(outputs.leaf.action[b, :n], leaf)
        for ours, theirs in zip((outputs.iou, outputs.root.value, outputs.leaf.value), numbers):
            np.testing.assert_allclose(ours[b, :n], theirs, atol=1e-4, rtol=0)
        # The answer, in seconds of one unit each.
        np.testing.assert_array_equal(ranked.spans[b, 0], windows[numbers[0].argmax()])
        assert np.isfinite(ranked.scores[b]).sum() == n
    assert min(lengths) < H


def _predicted(model, variables, batch):
    outputs = model.apply(variables, batch, train=False)
    return outputs, model.predict(outputs, batch)


def test_every_variable_is_set(twin):
    model = create("tsp_prl", features=F, critic_features=(12, 6))
    shapes = jax.eval_shape(lambda b: model.init(jax.random.key(0), b, train=False), batch_of())
    loaded = load("tsp_prl", {"state_dict": twin.state_dict()})
    assert jax.tree.map(lambda x: (np.shape(x), x.dtype), loaded["params"]) == jax.tree.map(
        lambda x: (x.shape, x.dtype), shapes["params"]
    )
    assert set(shapes) - set(loaded) == {"schedule"}


def test_a_wrong_shape_is_named(twin):
    state = dict(twin.state_dict())
    state["scale_policy.weight"] = state["scale_policy.weight"][:3]
    with pytest.raises(UserError, match=r"scale_policy.weight is \(3, 16\), expected \(4, 16\)"):
        load("tsp_prl", state)
