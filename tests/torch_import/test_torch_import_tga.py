"""Official TGA checkpoints, against a PyTorch reference, with random weights."""

import json

import jax
import numpy as np
import pytest
from batches import random_batch

from vmr_jax.models import create
from vmr_jax.torch_import import load_model, read_checkpoint
from vmr_jax.torch_import.tga import WORDS
from vmr_jax.torch_import.words import write_words

torch = pytest.importorskip("torch")
from references.tga import Twin  # noqa: E402

D, W, FIELDS = 6, 5, dict(features=8, window_rows=(4, 8), margin=0.5)


@pytest.fixture(scope="module")
def pair():
    """The reference, its batch, and both as ours."""
    torch.manual_seed(0)
    twin = Twin(D, W, **FIELDS)
    batch = random_batch(fill=0)
    batch.query_vectors[0, 1] = 0  # a word without a vector
    sizes, model, variables = load_model("tga", twin.checkpoint(), window_rows=(4, 8), margin=0.5)
    assert sizes["features"] == 8 and model == create("tga", layers=1, **FIELDS)
    return twin, batch, model, variables


def test_outputs_losses_and_gradients_are_the_references(pair):
    twin, batch, model, variables = pair
    theirs = twin(batch)
    terms = twin.loss(theirs, batch)
    sum(terms.values()).backward()

    @jax.jit
    def run(params):
        outputs = model.apply({"params": params}, batch, train=True)
        found = {name: term.value() for name, term in model.loss(outputs, batch, epoch=0).items()}
        return sum(found.values()), (outputs, found)

    (_, (outputs, found)), gradients = jax.value_and_grad(run, has_aux=True)(variables["params"])
    for name in ("video", "query"):
        np.testing.assert_allclose(
            getattr(outputs, name), torch.stack(theirs[name]).detach().numpy(), atol=1e-5, rtol=0
        )
    for b, attention in enumerate(theirs["attention"]):
        ours = np.asarray(outputs.attention[b])
        np.testing.assert_allclose(ours[ours > 0], attention.numpy(), atol=1e-6, rtol=0)
    for name, term in terms.items():
        np.testing.assert_allclose(found[name], term.item(), rtol=1e-5)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.copy_(parameter.grad)
    expected = load_model("tga", twin.checkpoint(), window_rows=(4, 8)).variables["params"]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5, rtol=0), gradients, expected)


def test_words_of_a_checkpoint_become_a_file(tmp_path, capsys):
    twin = Twin(D, W, words=6, **FIELDS)
    torch.save(twin.checkpoint(), tmp_path / "model.pth.tar")
    ids = {word: row for row, word in enumerate((*WORDS.special, "person", "opens"))}
    (tmp_path / "words.json").write_text(json.dumps({"wtoi": ids}))
    write_words(WORDS, [str(tmp_path / name) for name in ("model.pth.tar", "words.json", "words.npz")])
    assert "2 words and their vectors of 5 numbers" in capsys.readouterr().out
    found = np.load(tmp_path / "words.npz")
    table = twin.parts[1]["embed"].weight.detach().numpy()
    assert found["words"].tolist() == ["person", "opens"]
    np.testing.assert_array_equal(found["vectors"], table[4:])
    special = load_model("tga", read_checkpoint(tmp_path / "model.pth.tar")).variables["params"]["words"][
        "special"
    ]
    np.testing.assert_array_equal(special, table[1:4])
