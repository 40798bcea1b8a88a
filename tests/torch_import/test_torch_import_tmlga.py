"""Official TMLGA checkpoints, against a PyTorch twin written from the paper, with random weights."""

import collections
import functools
import pickle
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from batches import random_batch

from vmr_jax.errors import UserError
from vmr_jax.models import create
from vmr_jax.text.vectors import load_word_vectors
from vmr_jax.torch_import import load, load_model, read_checkpoint
from vmr_jax.torch_import.tmlga import main

torch = pytest.importorskip("torch")
from references.tmlga import Twin  # noqa: E402

SIZES = dict(features=6, recurrent_features=3, recurrent_layers=2)


def make_twin(use_bias=False):
    torch.manual_seed(0)
    return Twin(6, 5, use_bias=use_bias, **SIZES)


@pytest.mark.parametrize("use_bias", [False, True])
def test_outputs_losses_and_gradients_are_the_twins(use_bias):
    twin, batch = make_twin(use_bias), random_batch(fill=0)
    _, model, variables = load_model("tmlga", twin.state_dict(), dropout=0.0)
    assert model == create("tmlga", dropout=0.0, use_bias=use_bias, **SIZES)  # with all sizes

    @jax.jit
    @functools.partial(jax.grad, has_aux=True)
    def train(params):
        outputs = model.apply({"params": params}, batch, train=True)
        losses = {k: x.value() for k, x in model.loss(outputs, batch, epoch=jnp.int32(0)).items()}
        return sum(losses.values()), (losses, outputs)

    def close(ours, theirs):
        np.testing.assert_allclose(ours, theirs, atol=1e-5, rtol=1e-4)

    gradients, (losses, outputs) = train(variables["params"])
    expected = twin(batch)
    for name, x in expected.items():
        close(getattr(outputs, name)[batch.video_mask], x.detach().numpy()[batch.video_mask])
    expected = twin.loss(expected, batch)
    sum(expected.values()).backward()
    close(np.array([losses[k] for k in expected]), [x.item() for x in expected.values()])
    for parameter in twin.parameters():
        parameter.data = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
    expected = load("tmlga", twin.state_dict())["params"]
    assert np.abs(expected["query_gru"]["layer_0"]["recurrent_kernel"]).max() > 1e-5
    jax.tree.map(close, gradients, expected)


def test_a_whole_model_is_read_as_the_program_saves_it(tmp_path):
    twin = make_twin()
    torch.save(twin, tmp_path / "model_epoch_49")
    read = load("tmlga", read_checkpoint(tmp_path / "model_epoch_49"))
    jax.tree.map(np.testing.assert_array_equal, read, load("tmlga", twin.state_dict()))


@pytest.fixture
def saved(tmp_path, monkeypatch):
    """The two files of the official preprocessing; the class of the second is the program's."""
    module = types.ModuleType("utils.vocab")
    for name in ("Vocab", "VocabItem"):
        kind = type(name, (), {"__module__": "utils.vocab"})
        setattr(module, name, kind)
    monkeypatch.setitem(sys.modules, "utils", types.ModuleType("utils"))
    monkeypatch.setitem(sys.modules, "utils.vocab", module)
    vocabulary, item = module.Vocab(), module.VocabItem()
    item.count = 3
    vocabulary.vocab_items, vocabulary.token2index = [item], {"<UNK>": 0, "door": 2, "person": 1}
    (tmp_path / "vocabulary.pickle").write_bytes(pickle.dumps(vocabulary))
    torch.save(torch.arange(12.0).reshape(3, 4), tmp_path / "embeddings.pth")
    return tmp_path


def test_word_vectors_become_a_file(saved, capsys):
    files = [str(saved / name) for name in ("embeddings.pth", "vocabulary.pickle", "words.npz")]
    main(files)
    assert "3 words and their vectors of 4 numbers" in capsys.readouterr().out
    vectors = load_word_vectors(saved / "words.npz")
    np.testing.assert_array_equal(vectors.lookup(["door", "person"]), [[8, 9, 10, 11], [4, 5, 6, 7]])


def test_files_that_do_not_belong_together_are_refused(saved):
    def fails(message, embeddings="embeddings.pth", vocabulary="vocabulary.pickle"):
        with pytest.raises(UserError, match=message):
            main([str(saved / embeddings), str(saved / vocabulary), str(saved / "words.npz")])
        assert not (saved / "words.npz").exists()

    torch.save(torch.zeros(4, 4), saved / "other.pth")
    fails("vectors of 4 words and .* has 3", embeddings="other.pth")
    torch.save({"w": torch.zeros(4)}, saved / "state.pth")
    fails("holds no table of word vectors", embeddings="state.pth")
    (saved / "counter.pickle").write_bytes(pickle.dumps(collections.Counter(a=1)))
    fails("is no vocabulary of TMLGA's official code", vocabulary="counter.pickle")
    fails("There is no vocabulary at", vocabulary="absent.pickle")
    with pytest.raises(UserError, match="Use: python -m"):
        main([])
