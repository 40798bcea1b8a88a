"""Official RTBPN checkpoints, against a PyTorch reference, with random weights."""

import jax
import numpy as np
import pytest
from batches import random_batch

from vmr_jax.models import create
from vmr_jax.torch_import import load_model

torch = pytest.importorskip("torch")
from references.rtbpn import Twin  # noqa: E402

READ = dict(features=4, clusters=2, map_kernel=3)
GIVEN = dict(
    num_clips=4, scale_layers=(2,), lengths=(1, 2, 3, 4), nearest=3, dropout=0.0, official_padding=True
)


def test_outputs_losses_and_gradients_are_the_references():
    torch.manual_seed(0)
    model = create("rtbpn", **READ, **GIVEN)
    sizes = dict(num_clips=4, scale_layers=(2,), nearest=3)
    weights = dict(margin=0.2, suppressed_weight=0.1, score_weight=0.1, filter_weight=0.01)
    twin = Twin(6, 5, model.candidates(train=True), **READ, **sizes, **weights)
    batch = random_batch(size=4, fill=0)
    batch = batch.replace(video_mask=np.ones_like(batch.video_mask))  # every official video has all rows
    read, imported, variables = load_model("rtbpn", twin.checkpoint(), **GIVEN)
    assert {name: read[name] for name in READ} == READ and imported == model

    theirs = twin(batch)
    terms = twin.loss(theirs, batch)
    sum(terms.values()).backward()

    def run(params):
        outputs, state = model.apply(
            {**variables, "params": params}, batch, train=True, mutable=["batch_stats"]
        )
        found = {name: term.value() for name, term in model.loss(outputs, batch, epoch=0).items()}
        return sum(found.values()), (outputs, found, state)

    (_, (outputs, found, state)), gradients = jax.jit(jax.value_and_grad(run, has_aux=True))(
        variables["params"]
    )
    for name, value in theirs.items():
        np.testing.assert_allclose(getattr(outputs, name), value.detach().numpy(), atol=1e-5, rtol=0)
    assert found.keys() == terms.keys()
    for name, term in terms.items():
        np.testing.assert_allclose(found[name], term.item(), rtol=1e-5)
    moved = load_model("rtbpn", twin.checkpoint(), **GIVEN).variables["batch_stats"]
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), state["batch_stats"], moved
    )
    with torch.no_grad():
        for parameter in twin.parameters():
            if parameter.grad is not None:
                parameter.copy_(parameter.grad)
    expected = load_model("rtbpn", twin.checkpoint(), **GIVEN).variables["params"]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5, rtol=0), gradients, expected)
