"""Official MMN checkpoints, against a PyTorch twin written from the paper, with random weights.

The twin also computes the losses of a batch of videos, sentence by sentence.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vmr_jax.errors import UserError
from vmr_jax.models import create
from vmr_jax.torch_import import load, load_model
from vmr_jax.types import Batch

torch = pytest.importorskip("torch")
F = torch.nn.functional
from references.mmn import DistilBertTwin, Twin  # noqa: E402

VIDEOS, SENTENCES, T, D, S = 3, 2, 16, 7, 6
N, K, LAYERS, HIDDEN, SPACE = 8, 3, 3, 10, 6
WIDTH, HEADS, FEED, WORDS, PLACES = 12, 3, 20, 30, 9
MARGIN, TAU, POSITIVES = 0.3, 0.1, 2


def losses_by_definition(out, overlap, spans):
    """The terms, sentence by sentence: overlaps [B,M] of the cells with the described moments [B,2]."""
    p = (10 * out["iou"]).sigmoid()
    y = ((overlap - 0.5) / 0.5).clamp(0, 1)
    cells = out["moments"]  # [videos, C, cells]
    moment, sentence = [], []
    for b, owner in enumerate(out["owner"]):
        iou, cosines = overlap[b], out["sentences"][b] @ cells[owner]
        for cell in iou.topk(POSITIVES)[1]:
            positive = ((cosines[cell] - MARGIN) / TAU).exp()
            total = positive
            for other, video in enumerate(out["owner"]):
                apart = video != owner or _iou(spans[b], spans[other]) < 0.5
                if other != b and apart:
                    total = total + (out["sentences"][other] @ cells[owner, :, cell] / TAU).exp()
            moment.append((total / positive).log())
            total = positive + (torch.where(iou < 0.5, cosines, 0) / TAU).exp().sum() + 1e-6
            for video in range(len(cells)):
                if video != owner:
                    total = total + (out["sentences"][b] @ cells[video] / TAU).exp().sum()
            sentence.append((total / positive).log())
    terms = {"moment": 0.05 * torch.stack(moment).mean(), "sentence": 0.05 * torch.stack(sentence).mean()}
    return {"iou": F.binary_cross_entropy(p, y), **terms}


def _iou(a, b):
    inside = max(0.0, min(a[1], b[1]) - max(a[0], b[0]))
    return inside / (a[1] - a[0] + b[1] - b[0] - inside)


def make_batch():
    """Three videos with two sentences each; of the first video both describe nearly the same moment."""
    rng = np.random.default_rng(0)
    rows = VIDEOS * SENTENCES
    real = np.arange(S) < rng.integers(3, S + 1, rows)[:, None]
    owner = np.repeat(np.arange(VIDEOS), SENTENCES)
    words = np.zeros((rows, 2), np.int32)
    return Batch(
        video=rng.normal(size=(VIDEOS, T, D)).astype(np.float32)[owner],
        video_mask=np.ones((rows, T), bool),
        duration=np.full(rows, 32, np.float32),
        query=words,
        query_vectors=np.zeros((rows, 2, 1), np.float32),
        query_mask=words == 0,
        span=np.float32([[3, 12], [4, 13], [0, 9], [16, 30], [5, 8], [20, 31]]),
        example_mask=np.ones(rows, bool),
        example_index=np.arange(rows, dtype=np.int32),
        video_index=owner.astype(np.int32),
        subwords=(rng.integers(1, WORDS, (rows, S)) * real).astype(np.int32),
        subword_mask=real,
        subword_static=real,
        subword_dynamic=real,
    )


@pytest.fixture(scope="module")
def twin():
    torch.manual_seed(0)
    encoder = DistilBertTwin(WIDTH, HEADS, FEED, WORDS, PLACES, layers=2)
    twin = Twin(
        D, encoder, WIDTH, T, features=HIDDEN, space=SPACE, num_clips=N, scale_layers=(N,), map_kernel=K,
        map_layers=LAYERS, queries_per_video=SENTENCES, positives=POSITIVES, margin=MARGIN, temperature=TAU,
    )  # fmt: skip
    for norm in twin.proposal_conv.bn:
        torch.nn.init.normal_(norm.bias)
        torch.nn.init.normal_(norm.running_mean, std=0.3)
        torch.nn.init.uniform_(norm.running_var, 0.2, 2)
    return twin


def make_model(queries_per_video=1):
    return create(
        "mmn", num_clips=N, scale_layers=(N,), features=HIDDEN, space=SPACE, map_kernel=K, map_layers=LAYERS,
        text_features=WIDTH, text_layers=2, text_heads=HEADS, text_hidden=FEED, text_vocab=WORDS,
        text_positions=PLACES, text_dropout=0.0, positives=POSITIVES, margin=MARGIN, temperature=TAU,
        queries_per_video=queries_per_video,
    )  # fmt: skip


def test_scores_are_the_twins(twin):
    batch = make_batch()
    with torch.no_grad():
        expected = twin.eval()(batch)
    state = {"model": {f"module.{key}": x for key, x in twin.state_dict().items()}, "epoch": 3}
    given = dict(num_clips=N, scale_layers=(N,), text_heads=HEADS)
    sizes, model, variables = load_model("mmn", state, **given)
    assert sizes == {
        **given, "features": HIDDEN, "space": SPACE, "map_kernel": K, "map_layers": LAYERS,
        "text": "distilbert", "text_features": WIDTH, "text_layers": 2, "text_hidden": FEED,
        "text_vocab": WORDS, "text_positions": PLACES,
    }  # fmt: skip
    outputs = jax.jit(lambda v, b: model.apply(v, b, train=False))(variables, batch)
    iou, contrast = (expected[name].numpy() for name in ("iou", "contrast"))
    np.testing.assert_allclose(outputs.iou_logits, 10 * iou, atol=1e-4, rtol=0)
    np.testing.assert_allclose(outputs.contrast, contrast, atol=1e-4, rtol=0)
    # The official score, cell by cell; here in order of score.
    score = (0.5 * contrast + 0.5) ** 0.5 / (1 + np.exp(-10 * iou))
    moments = model.predict(outputs, batch)
    np.testing.assert_allclose(moments.scores, -np.sort(-score, axis=1), atol=1e-5)
    first, last = np.nonzero(twin.mask.numpy())
    best = score.argmax(1)
    np.testing.assert_allclose(moments.spans[:, 0], np.stack([first[best], last[best] + 1], 1) * 4, rtol=1e-6)


def test_training_is_the_twins(twin):
    """Losses, gradients and running statistics of a batch of videos, as of the official code on one GPU."""
    batch = make_batch()
    variables = load("mmn", twin.state_dict())
    edges = np.arange(N) * 4.0
    overlap = [
        [[_iou(span, (start, end + 4)) if start <= end else 0.0 for end in edges] for start in edges]
        for span in batch.span.tolist()
    ]
    stages = twin.train()(batch)
    terms = losses_by_definition(stages, torch.tensor(overlap).float()[:, twin.mask], batch.span.tolist())
    for name, term in twin.loss(stages, batch).items():  # all pairs at once
        torch.testing.assert_close(term, terms[name], rtol=1e-5, atol=0)
    sum(terms.values()).backward()
    statistics = load("mmn", twin.state_dict())["batch_stats"]  # after the step

    def objective(params, model):
        outputs, changed = model.apply(
            {**variables, "params": params}, batch, train=True, mutable=["batch_stats"]
        )
        found = {k: t.value() for k, t in model.loss(outputs, batch, epoch=jnp.int32(6)).items()}
        return sum(found.values()), (found, changed["batch_stats"])

    model = make_model(SENTENCES)
    gradient, (found, changed) = jax.jit(lambda p: jax.grad(objective, has_aux=True)(p, model))(
        variables["params"]
    )
    for name, term in terms.items():
        np.testing.assert_allclose(found[name], term.item(), rtol=1e-4, err_msg=name)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), changed, statistics)
    # The gradients, under the official names, go through the same map as the parameters.
    gradients = {key: x.grad for key, x in twin.named_parameters()}
    gradients |= {key: torch.zeros_like(x) for key, x in twin.named_buffers()}
    expected = load("mmn", gradients)["params"]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4, rtol=1e-3), gradient, expected)


def test_every_parameter_is_set(twin):
    model, batch = make_model(), make_batch()
    expected = jax.eval_shape(lambda key: model.init(key, batch, train=False), jax.random.key(0))
    loaded = load("mmn", twin.state_dict())
    assert jax.tree.map(np.shape, loaded) == jax.tree.map(lambda x: x.shape, expected)


def test_a_wrong_shape_is_named(twin):
    state = dict(twin.state_dict())
    state["text_encoder.fc_out2.weight"] = np.zeros((SPACE + 1, WIDTH), np.float32)
    with pytest.raises(UserError, match=r"text_encoder.fc_out2.weight is \(7, 12\), expected \(6, 12\)"):
        load("mmn", state)
