"""Official SCN checkpoints, against a PyTorch twin written from the paper, with random weights."""

import jax
import numpy as np
import pytest
from completion_batch import VOCABULARY as V
from completion_batch import B, D, L, W, hidden_words, ragged_batch

from vmr_jax.errors import UserError
from vmr_jax.layers.completion import completion_loss
from vmr_jax.models import create
from vmr_jax.models.scn import Model, proposals
from vmr_jax.torch_import import load, load_model

torch = pytest.importorskip("torch")
from references.scn import Twin  # noqa: E402

F, HEADS, LAYERS, K, R = 8, 2, 2, 3, 16
WIDTHS = (0.25, 0.5, 1.0)


@pytest.fixture(scope="module")
def pair():
    torch.manual_seed(0)
    model = create(
        "scn", features=F, hidden=2 * F, heads=HEADS, layers=LAYERS, widths=WIDTHS, dropout=0.0, rows=R,
        random_start=0.0, vocab_size=V + 1,
    )  # fmt: skip
    twin = Twin(
        D, W, V, features=F, hidden=2 * F, heads=HEADS, layers=LAYERS, widths=WIDTHS, candidates=K, rows=R
    )
    return twin, model


def test_every_output_is_the_twins(pair, monkeypatch):
    twin, created = pair
    batch, hidden = ragged_batch(), hidden_words()
    with torch.no_grad():
        expected = twin(batch, hidden)
    state = {"model_parameters": {f"module.{key}": x for key, x in twin.state_dict().items()}}
    given = dict(widths=WIDTHS, heads=HEADS, dropout=0.0, random_start=0.0)
    _, model, variables = load_model("scn", state, **given)
    assert model == created  # with all sizes
    # Official checkpoints do not count updates.
    assert variables["counters"] == {"updates": 0} and variables["counters"]["updates"].dtype == np.int32
    monkeypatch.setattr(Model, "_hidden", lambda self, batch, train: jax.numpy.asarray(hidden))
    outputs, _ = jax.jit(
        lambda v, b: model.apply(v, b, train=True, mutable=["counters"], rngs={"dropout": jax.random.key(0)})
    )(variables, batch)
    real = np.asarray(proposals(batch.video_mask, WIDTHS)[1])
    np.testing.assert_allclose(
        outputs.scores[real], expected["scores"].flatten(1).numpy()[real], atol=1e-4, rtol=0
    )
    assert len(expected["spans"][0]) == len(set(expected["spans"][0])) == K
    ours = np.delete(np.asarray(outputs.word_logits), 1, axis=-1)[
        :, :, :L
    ]  # without the unknown word and the end
    at = expected["mask"][:, None].expand(-1, K, -1).numpy()
    np.testing.assert_allclose(ours[at], expected["word_logits"].numpy()[at], atol=1e-4, rtol=0)


def test_loss_of_the_twins_logits_is_pytorchs(pair):
    batch = ragged_batch()
    logits = np.random.default_rng(1).normal(size=(B, K, L + 1, V + 1)).astype(np.float32)
    # Officially all sentences but the longest of the batch predict the end, id 0.
    for predict_end, rows in ((False, [0]), (True, [1, 2])):
        found = completion_loss(logits, batch.query, batch.query_mask, 0.1, predict_end)
        for b in rows:
            n = batch.query_mask[b].sum() + predict_end
            # The official classes have no unknown word, our id 1, so that the words are numbered from 1 on.
            words = np.maximum(np.append(batch.query[b], 0)[:n] - 1, 0)
            targets = torch.tensor(words).long().expand(K, n)
            classes = np.delete(logits[b, :, :n], 1, axis=-1)
            expected = torch.nn.functional.cross_entropy(
                torch.tensor(classes).mT, targets, label_smoothing=0.1, reduction="none"
            ).mean(1)
            np.testing.assert_allclose(found[b], expected.numpy(), atol=1e-5)


def test_every_parameter_is_set(pair):
    twin, model = pair
    shapes = jax.eval_shape(lambda b: model.init(jax.random.key(0), b, train=False), ragged_batch())
    loaded = load("scn", twin.state_dict())
    assert jax.tree.map(np.shape, loaded["params"]) == jax.tree.map(lambda x: x.shape, shapes["params"])


def test_a_setting_that_shapes_do_not_tell_is_asked_for(pair):
    # Eight widths are the default, and the checkpoint scores three.
    with pytest.raises(
        UserError, match=r"params/scores/bias is \(3,\) in it and \(8,\) in.* tell heads, widths"
    ):
        load_model("scn", pair[0].state_dict(), heads=HEADS)


def test_left_over_and_missing_tensors_are_named(pair):
    state = dict(pair[0].state_dict())
    state["trans.extra"] = state.pop("mask_vec")
    with pytest.raises(UserError, match=r"1 left over: trans.extra; 1 missing: mask_vec"):
        load("scn", state)
