"""Official WSSL checkpoints, against a PyTorch reference, with random weights."""

import jax
import numpy as np
import pytest
from batches import random_batch

from vmr_jax.models import create, wssl
from vmr_jax.torch_import import load_model

torch = pytest.importorskip("torch")
from references.wssl import Twin  # noqa: E402

READ = dict(features=4, layers=2, embedding=4, vocab_size=12)
GIVEN = dict(dropout=0.0, turn_steps=1, turns=2, caption_words=2, beams=2)


def test_outputs_losses_and_gradients_are_the_references(monkeypatch):
    """In the second turn, which is that of captions."""
    monkeypatch.setattr(wssl, "NOISE", 0.0)
    torch.manual_seed(0)
    twin = Twin(6, 13, features=4, layers=2, scale=0.3, slope=0.1, change_weight=0.01)
    batch = random_batch(size=4, words=5, fill=0)
    batch.query[:, 1] = 1  # a word that the vocabulary lacks
    read, model, variables = load_model("wssl", twin.checkpoint(), **GIVEN)
    assert {name: read[name] for name in READ} == READ and model == create("wssl", **READ, **GIVEN)

    theirs = twin(batch)
    terms = twin.loss(theirs, batch)
    sum(terms.values()).backward()

    def run(params):
        state = {**variables, "params": params, "counters": {"updates": np.int32(1)}}
        noise = {"dropout": jax.random.key(0)}
        outputs, new = model.apply(state, batch, train=True, mutable=["batch_stats", "counters"], rngs=noise)
        found = {name: term.value() for name, term in model.loss(outputs, batch, epoch=0).items()}
        return sum(found.values()), (outputs, found, new)

    (_, (outputs, found, new)), gradients = jax.jit(jax.value_and_grad(run, has_aux=True))(variables["params"])
    assert int(outputs.turn) == wssl.CAPTIONS and int(new["counters"]["updates"]) == 2
    for name, value in theirs.items():
        np.testing.assert_allclose(getattr(outputs, name), value.detach().numpy(), atol=1e-5, rtol=0)
    for name, term in terms.items():
        np.testing.assert_allclose(found[name], term.item(), rtol=1e-5)
    assert found["anchor"] == 0
    moved = load_model("wssl", twin.checkpoint(), **GIVEN).variables["batch_stats"]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), new["batch_stats"], moved)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.copy_(torch.zeros_like(parameter) if parameter.grad is None else parameter.grad)
    expected = load_model("wssl", twin.checkpoint(), **GIVEN).variables["params"]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5, rtol=0), gradients, expected)
