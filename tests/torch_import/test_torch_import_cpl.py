"""Official CPL checkpoints, against a PyTorch twin with random weights: outputs, losses and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from completion_batch import VOCABULARY, D, L, W, hidden_words, ragged_batch

from vmr_jax.models import cpl, create
from vmr_jax.torch_import import load, load_model

torch = pytest.importorskip("torch")
from references.cpl import Twin  # noqa: E402

FIELDS = dict(features=8, hidden=16, heads=2, layers=1, proposals=3, rows=4, gamma=0.5, self_overlap=0.146)
OF_OURS = dict(dropout=0.0, official_padding=True, rank_weight=1.0, diversity_weight=5.0, ramp_updates=30.0)


@pytest.fixture(scope="module")
def twin():
    torch.manual_seed(0)
    return Twin(D, W, VOCABULARY, **FIELDS)


def test_outputs_losses_and_gradients_are_the_twins(twin, monkeypatch):
    batch, hidden = ragged_batch(), hidden_words()
    expected = twin(batch, hidden, done=12 / 30)
    given = {name: FIELDS[name] for name in ("heads", "rows", "gamma", "self_overlap")}
    state = {"model_parameters": twin.state_dict()}
    _, model, variables = load_model("cpl", state, **given, **OF_OURS)
    assert model == create("cpl", **FIELDS, **OF_OURS, vocab_size=VOCABULARY + 1)  # with all sizes
    assert variables["counters"] == {"updates": 0}
    monkeypatch.setattr(cpl, "hidden_words", lambda *args, **kwargs: jnp.asarray(hidden))

    @jax.jit
    def step(params):
        def objective(params):
            variables = {"params": params, "counters": {"updates": jnp.int32(11)}}
            outputs, changed = model.apply(
                variables, batch, train=True, mutable=["counters"], rngs={"dropout": jax.random.key(0)}
            )
            terms = {k: x.value() for k, x in model.loss(outputs, batch, epoch=jnp.int32(0)).items()}
            return sum(terms.values()), (outputs, terms, changed)

        return jax.value_and_grad(objective, has_aux=True)(params)

    (total, (outputs, terms, changed)), found = step(variables["params"])
    assert changed["counters"]["updates"] == 12
    completion, ranking, diversity = twin.losses(expected, batch)
    np.testing.assert_allclose(terms["positive"] + terms["whole"], completion.item(), rtol=1e-5)
    above = sum(terms[name] for name in ("above_whole", "above_left", "above_right"))
    np.testing.assert_allclose(above, ranking.item(), rtol=1e-4)
    np.testing.assert_allclose(terms["diversity"], 5 * diversity.item(), rtol=1e-5)
    objective = completion + ranking + 5 * diversity
    np.testing.assert_allclose(total, objective.item(), rtol=1e-5)
    objective.backward()
    zeros = {name: torch.zeros_like(x) for name, x in twin.state_dict().items()}
    gradients = {name: x.grad for name, x in twin.named_parameters() if x.grad is not None}
    theirs = load("cpl", zeros | gradients)["params"]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), found, theirs)

    for name in ("center", "width", "gaussians"):
        np.testing.assert_allclose(getattr(outputs, name), expected[name].detach(), atol=1e-5)
    at = expected["mask"].numpy()
    # Without the unknown word, which is no official class, and the last position.
    ours = np.delete(outputs.word_logits, 1, axis=-1)[:, :, :L].swapaxes(1, 2)[at]
    logits = expected["word_logits"].detach().numpy().swapaxes(1, 2)[at]
    np.testing.assert_allclose(ours, logits, atol=1e-5)


def test_every_parameter_is_set(twin):
    model = create("cpl", **FIELDS, vocab_size=VOCABULARY + 1)
    shapes = jax.eval_shape(lambda b: model.init(jax.random.key(0), b, train=False), ragged_batch())
    loaded = load("cpl", twin.state_dict())
    assert jax.tree.map(np.shape, loaded["params"]) == jax.tree.map(lambda x: x.shape, shapes["params"])
