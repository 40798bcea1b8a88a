"""An official checkpoint becomes a model: what is read off it, and what is refused.

That outputs are those of the official networks is tested in the file of each architecture.
"""

import doctest

import cases
import jax
import numpy as np
import pytest
from batches import random_batch

from vmr_jax import torch_import
from vmr_jax.errors import UserError
from vmr_jax.models import create, model_fields
from vmr_jax.models.base import first_difference
from vmr_jax.torch_import import hyper_parameters, load, load_model

torch = pytest.importorskip("torch")
from references import moment_detr, two_d_tan, vslnet  # noqa: E402

D, W = 10, 8


def checkpoint(name, **fields):
    """A random checkpoint of a twin, of no default size; `fields` are those of 'two_d_tan'."""
    torch.manual_seed(0)
    if name == "two_d_tan":
        sizes = dict(num_clips=16, scale_layers=(16,), map_kernel=3, map_layers=2, lstm_layers=1)
        twin = two_d_tan.Twin(D, W, 12, 32, **{**sizes, **fields})
    elif name == "vslnet":
        twin = vslnet.Twin(
            D, W, features=16, heads=8, predictor="transformer", max_positions=9, char_features=5, num_chars=12,
            conv_layers=1, conv_kernel=3,
        )  # fmt: skip
    else:
        twin = moment_detr.Twin(
            D, W, features=16, heads=8, hidden=24, encoder_layers=1, decoder_layers=3, num_queries=4
        )
    return {key: x.numpy() for key, x in twin.state_dict().items()}


@pytest.mark.parametrize(
    "name, expected",
    [
        ("two_d_tan", dict(features=12, map_kernel=3, map_layers=2, lstm_layers=1, proposal="pool")),
        (
            "vslnet",
            dict(
                features=16, conv_layers=1, conv_kernel=3, max_positions=9, predictor="transformer",
                highlight=True, char_features=5, num_chars=12,
            ),
        ),
        (
            "moment_detr",
            dict(features=16, hidden=24, encoder_layers=1, decoder_layers=3, num_queries=4),
        ),
    ],
)  # fmt: skip
def test_sizes_are_read_and_no_other_field(name, expected):
    state = checkpoint(name)
    assert hyper_parameters(name, state) == expected
    numbers = {field: x for field, x in expected.items() if type(x) is int}
    assert not numbers.items() & model_fields(type(create(name))).items()  # none has its default
    sizes, model, variables = load_model(name, state)
    assert sizes == expected and model == create(name, **expected)
    assert first_difference(load(name, state), variables) is None  # there is nothing to count


def test_of_stacked_convolutions_the_map_is_read_too():
    state = checkpoint("two_d_tan", proposal="conv", num_clips=24, scale_layers=(8, 8))
    # Moments of 1 to 8 clips, then of 10, 12 to 24.
    assert (
        load_model("two_d_tan", state).hyper_parameters.items()
        >= {
            "proposal": "conv",
            "scale_layers": (8, 8),
            "num_clips": 24,
        }.items()
    )
    # Longer videos have the same tensors, and longer moments too few.
    assert load_model("two_d_tan", state, num_clips=32).model.num_clips == 32
    with pytest.raises(UserError, match="num_clips=16 contradicts the checkpoint, .* say num_clips=24"):
        load_model("two_d_tan", state, num_clips=16)
    assert load_model("two_d_tan", state, scale_layers=[8, 8]).model.scale_layers == (8, 8)


def test_what_contradicts_the_shapes_is_refused():
    state = checkpoint("moment_detr")
    assert load_model("moment_detr", state, hidden=24, heads=4).model.heads == 4
    with pytest.raises(UserError, match="hidden=32 contradicts the checkpoint, .* say hidden=24. Leave hidden"):
        load_model("moment_detr", state, hidden=32)
    with pytest.raises(UserError, match='no hyper-parameter "head".* Did you mean "heads"'):
        load_model("moment_detr", state, head=4)
    with pytest.raises(
        UserError, match=r"params/word_vectors/offset is absent in it and \(9, 8\) in the model"
    ):
        load_model("moment_detr", state, vocab_size=9)
    with pytest.raises(UserError, match="keeps its word vectors fixed.*leave vocab_size out"):
        load_model("moment_detr", state, vocab_size=9)


def test_numbers_that_are_not_finite_are_counted():
    state = checkpoint("two_d_tan")
    state["pred_layer.bias"][0] = np.inf
    state["frame_layer.vis_conv.weight"][:2, 0] = np.nan
    message = "2 of the 120 in frame_layer.vis_conv.weight, 1 of the 1 in pred_layer.bias"
    for read in (load, load_model):
        with pytest.raises(UserError, match=f"two_d_tan holds numbers that are not finite .*: {message}"):
            read("two_d_tan", state)


def test_an_architecture_without_official_checkpoints_is_told_from_a_wrong_name():
    state = checkpoint("two_d_tan")
    with pytest.raises(
        UserError, match="no official checkpoints of fvmr to import.*Those of .*cmin, .*lgi, .* can"
    ):
        load("fvmr", state)
    with pytest.raises(UserError, match='architecture "two_dtan". Did you mean "two_d_tan"'):
        load("two_dtan", state)


@pytest.mark.parametrize("name,path", [("scn", ("counters", "updates")), ("tsp_prl", ("schedule", "step"))])
def test_updates_that_no_checkpoint_counts_are_those_of_the_model(name, path):
    """What `load` adds at zero is what the model's initialisation has beside parameters."""
    file = torch_import._file_of(name)
    batch = random_batch()
    model = create(name, **cases.ALL[name].SMALL)
    wanted = jax.eval_shape(lambda b: model.init(jax.random.key(0), b, train=False), batch)
    assert file.COUNTERS == ("/".join(path),)
    assert set(wanted) == {"params", path[0]} and set(wanted[path[0]]) == {path[1]}
    assert wanted[path[0]][path[1]].dtype == np.int32 and wanted[path[0]][path[1]].shape == ()


@pytest.mark.parametrize("of", ["two_d_tan", "vslnet", "moment_detr"])
def test_a_checkpoint_of_another_architecture_is_recognised(of):
    state = checkpoint(of)
    for name in set(torch_import.architectures()) - {of}:
        for read in (load, load_model, hyper_parameters):
            with pytest.raises(UserError, match=f"is not one of {name}: its tensors look like those of {of}"):
                read(name, {"state_dict": state})
    # What fits no architecture is not guessed at.
    with pytest.raises(UserError, match="no tensor"):
        load_model(of, {"encoder.weight": np.zeros((3, 4))})


def test_the_example_of_the_docstring():
    examples = doctest.DocTestFinder().find(load_model, globs=dict(vars(torch_import)))
    assert sum(len(test.examples) for test in examples) == 9
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    for test in examples:
        assert runner.run(test).failed == 0
