"""A training that begins with the weights of another run."""

import json
import logging
import shutil

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from tiny import tiny_config

from vmr_jax.errors import UserError
from vmr_jax.files import write_json
from vmr_jax.run import Run
from vmr_jax.training.experiment import VOCABULARY, Experiment
from vmr_jax.training.fit import fit
from vmr_jax.training.init_from import check_init_from, paths_of_words, with_weights_of_run

pytestmark = pytest.mark.filterwarnings("ignore:unclosed.*:ResourceWarning")

SHORT = {
    "name": "ctrl",
    "evaluate_every": "2 steps",
    "evaluation__splits": ("val",),
    "evaluation__sanity": (),
}


@pytest.fixture(scope="module")
def trained(data_dir, tmp_path_factory):
    """Folder of a run of two steps."""
    workdir = tmp_path_factory.mktemp("first")
    fit(tiny_config(data_dir, train_for="2 steps", **SHORT), workdir)
    return workdir


def begun_with(trained, data_dir, vocabulary=None, **settings):
    """(initial variables, those with the run's in their place, those of the run), by path."""
    config = tiny_config(data_dir, **{**SHORT, "init_from": str(trained), **settings})
    experiment = Experiment(config, vocabulary=vocabulary)
    initial = experiment.initial_variables()
    found = with_weights_of_run(config, initial, experiment.vocabulary, experiment.parallel)
    return [
        flatten_dict(jax.tree.map(np.asarray, x), sep="/")
        for x in (initial, found, Run.load(trained).variables)
    ]


def test_every_array_of_the_same_architecture_is_that_of_the_run(trained, data_dir):
    initial, found, theirs = begun_with(trained, data_dir, seed=5)
    assert found.keys() == initial.keys() == theirs.keys()
    for path, array in found.items():
        np.testing.assert_array_equal(array, theirs[path])
    assert any((initial[path] != theirs[path]).any() for path in initial)


def test_a_training_begins_there(trained, data_dir, tmp_path):
    # At a learning rate of 0 the best checkpoint is what the training began with.
    config = tiny_config(
        data_dir, train_for="2 steps", init_from=str(trained), seed=5, optimizer__learning_rate=0.0, **SHORT
    )
    fit(config, tmp_path)
    jax.tree.map(
        np.testing.assert_array_equal,
        Run.load(tmp_path).variables["params"],
        Run.load(trained).variables["params"],
    )
    stored = json.loads((tmp_path / "config.json").read_text())
    assert stored["init_from"] == str(trained)


def test_a_run_that_has_begun_needs_what_it_began_with_no_more(trained, data_dir, tmp_path):
    source, workdir = tmp_path / "source", tmp_path / "run"
    shutil.copytree(trained, source)

    def config(steps):
        return tiny_config(data_dir, train_for=f"{steps} steps", init_from=str(source), **SHORT)

    fit(config(2), workdir)
    shutil.rmtree(source)
    assert fit(config(4), workdir)["step"] == 4
    with pytest.raises(UserError, match="config.init_from is .*/source, which is no folder"):
        fit(config(2), tmp_path / "other")


def test_arrays_of_another_shape_begin_anew_and_are_named(trained, data_dir, caplog):
    with caplog.at_level(logging.INFO, "vmr_jax"):
        initial, found, theirs = begun_with(trained, data_dir, model__hidden=12)
    other = {path for path in initial if initial[path].shape != theirs[path].shape}
    assert other and other != initial.keys()
    for path, array in found.items():
        np.testing.assert_array_equal(array, (initial if path in other else theirs)[path])
    (said,) = (r.getMessage() for r in caplog.records if "Beginning with" in r.getMessage())
    assert f"{len(initial) - len(other)} of {len(initial)} arrays of step 2" in said
    assert min(other) in said


@pytest.mark.parametrize("sizes,few", [({}, False), ({"model__hidden": 12, "model__features": 12}, True)])
def test_a_run_of_which_few_arrays_fit_is_warned_of(trained, data_dir, caplog, sizes, few):
    config = tiny_config(data_dir, init_from=str(trained), name="ctrl", **sizes)
    check_init_from(config)
    experiment = Experiment(config)
    ours = flatten_dict(experiment.initial_variables(), sep="/")
    theirs = flatten_dict(Run.load(trained).variables, sep="/")
    same = sum(ours[path].shape == theirs[path].shape for path in ours)
    assert (2 * same < len(ours)) == few
    said = [f"Only {same} of the {len(ours)} arrays of this ctrl fit"] if few else []
    assert [r.getMessage()[: len(said[0])] for r in caplog.records if "arrays" in r.getMessage()] == said


def test_vectors_of_other_words_are_not_taken(data_dir, tmp_path):
    learnt = {"text__trainable": True, "model__text": "lstm"}
    fit(tiny_config(data_dir, train_for="2 steps", **SHORT, **learnt), tmp_path)
    words = json.loads((tmp_path / VOCABULARY).read_text())
    config = tiny_config(data_dir, **SHORT, **learnt)
    (path,) = paths_of_words(config, len(words))
    for vocabulary, same in ((words, True), (words[::-1], False)):
        initial, found, theirs = begun_with(tmp_path, data_dir, vocabulary, seed=5, **learnt)
        assert (initial[path] != theirs[path]).any()
        np.testing.assert_array_equal(found[path], (theirs if same else initial)[path])
        others = found.keys() - {path}
        assert all((found[x] == theirs[x]).all() for x in others)


def test_what_cannot_be_begun_with(trained, data_dir, tmp_path):
    with pytest.raises(UserError, match="config.init_from is .*/nowhere, which is no folder"):
        check_init_from(tiny_config(data_dir, init_from=str(tmp_path / "nowhere")))
    with pytest.raises(UserError, match="config.init_from is .*, which holds no config.json"):
        check_init_from(tiny_config(data_dir, init_from=str(tmp_path)))
    write_json(tmp_path / "config.json", json.loads((trained / "config.json").read_text()))
    with pytest.raises(UserError, match="has no best checkpoint yet"):
        check_init_from(tiny_config(data_dir, init_from=str(tmp_path)))
    nothing_fits = "No parameter of the run in .*, a ctrl, has the name and the shape"
    with pytest.raises(UserError, match=nothing_fits):  # before data are read
        check_init_from(tiny_config(data_dir, init_from=str(trained), name="mcn"))
    with pytest.raises(UserError, match=nothing_fits):
        begun_with(trained, data_dir, **{"name": "mcn"})
