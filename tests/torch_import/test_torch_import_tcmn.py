"""Official TCMN checkpoints, against a PyTorch twin of the official code, with random weights; its parses."""

import functools
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from batches import random_batch

from vmr_jax.errors import UserError
from vmr_jax.input.parses import read_parses
from vmr_jax.models import create
from vmr_jax.torch_import import load, load_model
from vmr_jax.torch_import.tcmn import main

torch = pytest.importorskip("torch")
from references.tcmn import Twin, variables  # noqa: E402

SIZES = dict(tree_features=5, visual_features=6, attention_features=4, features=3)


def batch_and_twin(networks, **fields):
    """Videos of three to five chunks, one of which ends in zeros; sentences, of which two have a context."""
    batch = random_batch(4, clips=5, dim=6, fill=0)
    trees = random_batch(5, fill=0).constituents  # the last has no tree
    batch = batch.replace(constituents=jax.tree.map(lambda x: x[:4], trees), flow=batch.flow[..., :4])
    batch.video[0, 3:] = 0.0
    batch = batch.replace(context=batch.span[::-1] * np.float32([[1], [0], [0.5], [0]]))
    torch.manual_seed(0)
    twin = Twin(5, 6, 4, networks, num_clips=5, **fields, **SIZES)
    return batch, twin


@pytest.mark.parametrize(
    "networks, fields",
    [(("video_flow",), dict(official_padding=True, context_weight=0.5)), (("flow_video", "video_video"), {})],
)
def test_scores_losses_and_gradients_are_the_twins(networks, fields):
    batch, twin = batch_and_twin(networks, **fields)
    given = dict(networks=networks, num_clips=5, moments="span", **fields)
    saved = [network.state_dict() for network in twin]
    _, model, imported = load_model("tcmn", {"state_dict": saved} if len(saved) > 1 else saved[0], **given)
    assert model == create("tcmn", **SIZES, **given)

    @jax.jit
    @functools.partial(jax.grad, has_aux=True)
    def train(params):
        outputs = model.apply({"params": params}, batch, train=False)
        losses = {k: x.value() for k, x in model.loss(outputs, batch, epoch=jnp.int32(0)).items()}
        return sum(losses.values()), (losses, outputs)

    def close(ours, theirs):
        np.testing.assert_allclose(ours, theirs, atol=1e-6, rtol=1e-4)

    gradients, (losses, outputs) = train(imported["params"])
    expected = twin(batch)
    for name, scores in expected.items():
        close(outputs.scores[name], scores.detach().numpy())
    expected = twin.loss(expected, batch)
    sum(expected.values()).backward()
    close(np.array([losses[k] for k in expected]), [x.item() for x in expected.values()])
    for parameter in twin.parameters():
        parameter.data = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
    jax.tree.map(close, gradients, variables(twin)["params"])


def test_sizes_and_streams_are_read_off_the_checkpoint():
    twin = Twin(5, 4096, 1024, ("flow_video",), num_clips=2, **SIZES)
    state = twin[0].state_dict()
    fields, model, _ = load_model("tcmn", state, num_clips=2)
    assert fields["networks"] == model.networks == ("flow_video",)
    # The checkpoints of TEMPO-TL have other names of two layers.
    older = {
        key.replace("nonlinear_1.0", "prediction.0").replace("nonlinear_2", "prediction.2"): x
        for key, x in state.items()
    }
    jax.tree.map(np.testing.assert_array_equal, load("tcmn", older), load("tcmn", state))
    with pytest.raises(UserError, match="contradicts the checkpoint"):
        load_model("tcmn", state, networks=("video_video",))


def test_parses_of_the_official_program_become_a_file(tmp_path):
    tree = pytest.importorskip("nltk.tree").Tree.fromstring
    rows = [
        {"description": "He waves.", "parse_tree": tree("(S (NP (PRP He)) (VP (VBZ waves)) (. .))")},
        {"parse_tree": tree("(NP (NN nobody))"), "ref_parse_tree": tree("(NP (NN nobody))")},
    ]
    cache, path = tmp_path / "cache.pkl", tmp_path / "parses.txt"
    cache.write_bytes(pickle.dumps(rows))
    main([str(cache), str(path)])
    assert path.read_text() == "(S (NP (PRP He)) (VP (VBZ waves)) (. .))\n(NP (NN nobody))\n"
    assert list(read_parses(path)) == ["hewaves.", "nobody"]
    # A number in place of a tree, a word in place of a number, and an object that asks for gigabytes of places.
    for damaged in (pickle.dumps([{"parse_tree": np.float64(1)}]), b"Iinf\n.", b"]r\x00\x00\x00\x7f."):
        cache.write_bytes(damaged)
        with pytest.raises(UserError, match="is no cache of TCMN's official code"):
            main([str(cache), str(path)])
    with pytest.raises(UserError, match="There are no parses at"):
        main([str(tmp_path / "absent.pkl"), str(path)])
    with pytest.raises(UserError, match="Use: python -m"):
        main([])
