"""Official CNM checkpoints, against a PyTorch twin with random weights: outputs, losses and gradients."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from completion_batch import VOCABULARY, B, D, L, W, hidden_words, ragged_batch

from vmr_jax.errors import UserError
from vmr_jax.models import cnm, create
from vmr_jax.torch_import import load, load_model

torch = pytest.importorskip("torch")
from references.cnm import GENERATOR, Twin  # noqa: E402

FIELDS = dict(features=8, hidden=16, heads=2, layers=1, rows=4, sharpness=5.5, max_width=0.45)
# `heads` and the three after `layers` are not in the shapes.
GIVEN = {name: FIELDS[name] for name in ("heads", "rows", "sharpness", "max_width")}


@pytest.fixture(scope="module")
def twin():
    torch.manual_seed(0)
    return Twin(D, W, VOCABULARY, **FIELDS)


def gradient_of(twin, loss, learns):
    """The gradient of a loss with respect to the parameters that it trains, as a tree of ours."""
    names = [name for name, _ in twin.named_parameters() if (GENERATOR in name) == learns]
    found = torch.autograd.grad(
        loss, [twin.get_parameter(n) for n in names], retain_graph=True, allow_unused=True
    )
    state = {name: torch.zeros_like(x) for name, x in twin.state_dict().items()}
    state |= {name: x for name, x in zip(names, found) if x is not None}
    return load("cnm", state)["params"]


def test_outputs_losses_and_gradients_are_the_twins(twin, monkeypatch):
    batch, hidden = ragged_batch(), hidden_words()
    expected = twin(batch, hidden)
    model, variables = load_model(
        "cnm", {"model_parameters": twin.state_dict()}, **GIVEN, dropout=0.0, official_padding=True
    )[1:]
    assert model == create(
        "cnm", **FIELDS, dropout=0.0, official_padding=True, vocab_size=VOCABULARY + 1
    )  # with all sizes
    monkeypatch.setattr(cnm, "hidden_words", lambda *args, **kwargs: jnp.asarray(hidden))

    def objective(params, weights):
        outputs = model.apply({"params": params}, batch, train=True, rngs={"dropout": jax.random.key(0)})
        terms = {k: x.value() for k, x in model.loss(outputs, batch, epoch=jnp.int32(0)).items()}
        losses = terms["positive"] + terms["hard"], terms["above_hard"] + terms["above_easy"]
        return weights @ jnp.stack(losses), (outputs, losses)

    step = jax.jit(jax.value_and_grad(objective, has_aux=True))
    for learns, theirs in enumerate(twin.losses(expected, batch)):
        (_, (outputs, losses)), found = step(variables["params"], jnp.eye(2)[learns])
        np.testing.assert_allclose(losses[learns], theirs.item(), rtol=1e-5)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5),
            found,
            gradient_of(twin, theirs, bool(learns)),
        )
    at = expected["mask"].numpy()
    logits = expected["word_logits"].detach().numpy().swapaxes(1, 2)[at]
    for name, count in (("reconstructed", 2), ("contrasted", 3)):
        # Without the unknown word, which is no official class, and the last position.
        ours = np.delete(getattr(outputs, name), 1, axis=-1)[:, :, :L].swapaxes(1, 2)[at]
        np.testing.assert_allclose(ours, logits[:, :count], atol=1e-5)
    np.testing.assert_allclose(outputs.center, expected["center"].detach(), atol=1e-6)
    np.testing.assert_allclose(outputs.width, expected["width"].detach(), atol=1e-6)


def test_official_padding_is_that_of_the_longest_real_sentence():
    model = create("cnm", vocab_size=VOCABULARY + 1, smoothing=0.0, official_padding=True)
    batch = ragged_batch().pad(L=2)
    # Probability 1/2 for every word and 1/4 for the end, of the sentences of 6, 5 and 3 words.
    logits = np.log(np.full((B, 3, L + 3, VOCABULARY + 1), 0.5, np.float32))
    logits[..., 0] = np.log(0.25)
    norm = np.log(0.25 + 0.5 * (VOCABULARY - 1))
    outputs = cnm.Outputs(jnp.zeros(B), jnp.zeros(B), jnp.asarray(logits[:, :2]), jnp.asarray(logits))

    def positive(batch):
        return model.loss(outputs, batch, epoch=jnp.int32(0))["positive"].value() - norm

    one, end = np.log(2), np.log(4)
    np.testing.assert_allclose(
        positive(batch), (one + (5 * one + end) / 6 + (3 * one + end) / 4) / 3, rtol=1e-5
    )
    # Now the longest is a row that only fills the batch.
    batch = dataclasses.replace(batch, example_mask=np.array([False, True, True]))
    np.testing.assert_allclose(positive(batch), (one + (3 * one + end) / 4) / 2, rtol=1e-5)


def test_every_parameter_is_set(twin):
    model = create("cnm", **FIELDS, vocab_size=VOCABULARY + 1)
    shapes = jax.eval_shape(lambda b: model.init(jax.random.key(0), b, train=False), ragged_batch())
    loaded = load("cnm", twin.state_dict())
    assert jax.tree.map(np.shape, loaded["params"]) == jax.tree.map(lambda x: x.shape, shapes["params"])


def test_another_networks_checkpoint_is_refused(twin):
    state = dict(twin.state_dict())
    state["fc_comp.weight"] = state.pop("fc_rec.weight")
    with pytest.raises(UserError, match=r'no tensor "fc_rec.weight"'):
        load("cnm", state)
