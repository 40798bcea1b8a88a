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
from vmr_jax.models import ctrl
from vmr_jax.parallel import Parallel
from vmr_jax.run import Run
from vmr_jax.training.checkpoint import digest_of_arrays
from vmr_jax.training.experiment import VOCABULARY, Experiment
from vmr_jax.training.fit import fit
from vmr_jax.training.init_from import (
    check_init_from,
    check_same_beginning,
    paths_of_words,
    with_weights_of_run,
)
from vmr_jax.training.preflight import check_config

pytestmark = pytest.mark.filterwarnings("ignore:unclosed.*:ResourceWarning")

SHORT = {
    "name": "ctrl",
    "evaluate_every": "2 steps",
    "evaluation__splits": ("val",),
    "evaluation__sanity": (),
}


PARALLEL = Parallel("pmap", 1)


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
    found, began = with_weights_of_run(config, initial, experiment.vocabulary, experiment.parallel)
    assert began["init_from"]["step"] == 2
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
    check_init_from(config, PARALLEL)
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
    (path,) = paths_of_words(config, len(words), PARALLEL)
    for vocabulary, same in ((words, True), (words[::-1], False)):
        initial, found, theirs = begun_with(tmp_path, data_dir, vocabulary, seed=5, **learnt)
        assert (initial[path] != theirs[path]).any()
        np.testing.assert_array_equal(found[path], (theirs if same else initial)[path])
        others = found.keys() - {path}
        assert all((found[x] == theirs[x]).all() for x in others)


def test_what_cannot_be_begun_with(trained, data_dir, tmp_path):
    def refused(folder, said, **settings):
        with pytest.raises(UserError, match=said):
            check_init_from(tiny_config(data_dir, init_from=str(folder), **settings), PARALLEL)

    refused(tmp_path / "nowhere", "config.init_from is .*/nowhere, which is no folder")
    refused(tmp_path, "config.init_from is .*, which holds no config.json")
    write_json(tmp_path / "config.json", json.loads((trained / "config.json").read_text()))
    refused(tmp_path, "has no best checkpoint yet: .*/best is missing or empty")
    nothing_fits = "No parameter of the run in .*, a ctrl, has the name and the shape"
    refused(trained, nothing_fits, name="mcn")  # before data are read
    with pytest.raises(UserError, match=nothing_fits):
        begun_with(trained, data_dir, **{"name": "mcn"})


def emptied(folder):
    """Removes all that is in the folder of the best checkpoints."""
    shutil.rmtree(folder / "best")
    (folder / "best").mkdir()


def half_saved(folder):
    """As a save that was killed leaves it: the temporary folder alone."""
    (folder / "best" / "2").rename(folder / "best" / "2.orbax-checkpoint-tmp")


def without_contents(folder):
    """As a copy without the files leaves it."""
    shutil.rmtree(folder / "best" / "2")
    (folder / "best" / "2").mkdir()


def without_words(folder):
    """Removes the training words."""
    (folder / VOCABULARY).unlink()


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (emptied, "The run in .*/source .config.init_from. has no best checkpoint yet: .*/best is missing or"),
        (half_saved, "The run in .*/source .config.init_from. has no best checkpoint yet"),
        (without_contents, "The checkpoint .*/source/best/2 is damaged .*Restore it from a copy of the run"),
        (without_words, "vocabulary.json, the words of the run, cannot be read"),
    ],
)
def test_a_run_without_weights_is_refused_before_data_are_prepared(trained, tmp_path, damage, said):
    shutil.copytree(trained, tmp_path / "source")
    damage(tmp_path / "source")
    config = tiny_config(tmp_path / "data", init_from=str(tmp_path / "source"), **SHORT)
    with pytest.raises(UserError, match=said) as refused:
        fit(config, tmp_path / "run")
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "data").exists() and not (tmp_path / "run").exists()


def test_two_folders_of_one_name_are_told_apart(trained, data_dir, tmp_path):
    """By the weights: of a, of b, which another seed has drawn, and of c, which is a moved."""
    shutil.copytree(trained, tmp_path / "a" / "source")
    fit(tiny_config(data_dir, train_for="2 steps", seed=7, **SHORT), tmp_path / "b" / "source")

    def begun(folder, workdir, steps=2):
        source = str(tmp_path / folder / "source")
        return fit(tiny_config(data_dir, train_for=f"{steps} steps", init_from=source, **SHORT), workdir)

    for folder in "ab":
        digest = digest_of_arrays(Run.load(tmp_path / folder / "source").variables)
        told = begun(folder, tmp_path / f"of_{folder}")["protocol"]["init_from"]
        assert told == f"source, step 2, weights {digest}"
    a, b = (json.loads((tmp_path / f"of_{x}" / "results.json").read_text())["protocol"] for x in "ab")
    assert a["init_from"] != b["init_from"]
    with pytest.raises(UserError, match=r"began with the weights of step 2 of .*/a/source, and .*/b/source"):
        begun("b", tmp_path / "of_a", steps=4)
    (tmp_path / "c").mkdir()
    (tmp_path / "a" / "source").rename(tmp_path / "c" / "source")
    results = begun("c", tmp_path / "of_a", steps=4)
    assert results["step"] == 4 and results["protocol"]["init_from"] == a["init_from"]


ODD = ("~no_such_user_here/source", f"/{'x' * 300}/source", "loop/source")


@pytest.mark.parametrize("odd", ODD)
def test_a_path_that_cannot_be_followed_is_no_folder(data_dir, tmp_path, monkeypatch, odd):
    loop_in(tmp_path, monkeypatch)
    with pytest.raises(UserError, match="config.init_from is .*/source, which is no folder"):
        check_init_from(tiny_config(data_dir, init_from=odd), PARALLEL)


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("before", [True, False])
def test_a_run_goes_on_where_no_folder_is_found(trained, data_dir, tmp_path, monkeypatch, odd, before):
    """Such as one of a user whom another machine does not know, named before or now."""
    loop_in(tmp_path, monkeypatch)
    source, began = tmp_path / "a" / "source", {"init_from": {"step": 2, "weights": "of another run"}}
    shutil.copytree(trained, source)
    (tmp_path / "run").mkdir()
    paths = (odd, "nowhere/source") if before else ("nowhere/source", odd)
    stored = {**json.loads((trained / "config.json").read_text()), "init_from": paths[0]}
    write_json(tmp_path / "run" / "config.json", stored)
    check_same_beginning(tiny_config(data_dir, init_from=paths[1]), tmp_path / "run", began)
    with pytest.raises(UserError, match=r"whose best checkpoint .step 2. has others"):
        check_same_beginning(tiny_config(data_dir, init_from=str(source)), tmp_path / "run", began)


def loop_in(folder, monkeypatch):
    """Goes to the folder, in which `loop/source` is a link to itself."""
    monkeypatch.chdir(folder)
    (folder / "loop").mkdir()
    (folder / "loop" / "source").symlink_to(folder / "loop" / "source")


def test_the_run_that_it_began_with_may_train_on(data_dir, tmp_path):
    source, workdir = tmp_path / "source", tmp_path / "run"

    def trained_for(steps, folder, **settings):
        last_is_best = {**SHORT, "evaluation__select_split": "", "train_for": f"{steps} steps"}
        return fit(tiny_config(data_dir, **last_is_best, **settings), folder)

    trained_for(2, source)
    before = trained_for(2, workdir, init_from=str(source))["protocol"]["init_from"]
    trained_for(4, source)
    after = trained_for(4, workdir, init_from=str(source))["protocol"]["init_from"]
    assert after == before and "step 2" in before
    other = trained_for(2, tmp_path / "other", init_from=str(source))["protocol"]["init_from"]
    assert "step 4" in other


def test_a_model_is_traced_once_for_the_shapes_of_both_runs(trained, data_dir, monkeypatch):
    traced = []
    called = ctrl.Model.__call__

    def counted(self, batch, *, train):
        traced.append(batch.video.shape[0])
        return called(self, batch, train=train)

    monkeypatch.setattr(ctrl.Model, "__call__", counted)
    config = tiny_config(data_dir, init_from=str(trained), model__features=20, **SHORT)
    with config.unlocked():
        config.num_devices = 4
        config.batch_size = 8
    check_config(config)
    # Ours, and that of the run, whose size is another; on four devices the smallest batch has four rows.
    assert traced == [4, 4]
