"""The library from Python, as the README shows it; every example of a public docstring is run."""

import doctest
import importlib
import inspect
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import chex
import flax.linen as nn
import jax
import numpy as np
import pytest
import users_model

import vmr_jax as vmr
from vmr_jax.errors import UserError
from vmr_jax.torch_import import load_model
from vmr_jax.training.experiment import Experiment

ROOT = Path(__file__).resolve().parents[1]
SMALL = {"dataset.train_videos": 20, "evaluation.splits": ("val",), "evaluation.batch_size": 200}


@pytest.fixture(scope="module")
def data(data_dir):
    return vmr.Dataset("storyboard", data_dir=str(data_dir), settings=SMALL)


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    model = vmr.create("fvmr", num_clips=16, features=8, common=8, warmup_epochs=1)
    workdir = tmp_path_factory.mktemp("fit") / "run"
    return vmr.fit(model, data, train_for="4 steps", workdir=workdir, settings={"batch_size": 16})


def workdir_of(data, run, tmp_path_factory):
    """The folder that `run` was written to."""
    return next(tmp_path_factory.getbasetemp().glob("fit*/run"))


def test_fit_is_the_command_and_its_model_is_the_one_given(run, tmp_path_factory, data):
    config = json.loads((workdir_of(data, run, tmp_path_factory) / "config.json").read_text())
    assert config["model"]["common"] == 8 and config["train_for"] == "4 steps"
    assert config["optimizer"]["schedule"] == "cosine"  # of configs/fvmr.py for storyboard
    assert run.step == 4 and run.model.features == 8


def test_predict_gives_what_the_run_wrote(run, tmp_path_factory, data):
    """Native features of your own are resampled and normalised as the run's: the moments are the file's."""
    workdir = workdir_of(data, run, tmp_path_factory)
    lines = [json.loads(line) for line in (workdir / "predictions.jsonl").read_text().splitlines()]
    videos = {video.id: video for video in data.split("val").videos}
    first = [line for line in lines if line["vid"] == lines[0]["vid"]]
    record = videos[lines[0]["vid"]]
    video = run.encode_video(record.embedded["rgb"], duration=record.duration)
    found = run.predict(video, [line["query"] for line in first], k=5)
    for moments, line in zip(found, first):
        expected = line["pred_relevant_windows"]
        # The file has milliseconds, and scores with six digits.
        np.testing.assert_allclose([m[:2] for m in moments], [row[:2] for row in expected], atol=6e-4)
        np.testing.assert_allclose([m.score for m in moments], [row[2] for row in expected], atol=2e-5)


def test_one_sentence_and_many_get_the_same_answers(run):
    rng = np.random.default_rng(0)
    video = run.encode_video(rng.random((75, 64), np.float32), duration=31.0)
    sentences = ["a man opens the door", "a girl gives the phone to the man", "someone sits down"]
    together = run.predict(video, sentences, k=3)
    for sentence, moments in zip(sentences, together):
        (alone,) = run.predict(video, [sentence], k=3)
        np.testing.assert_allclose(np.asarray(alone), np.asarray(moments), atol=1e-5)
        assert len(moments) == 3 and all(0 <= m.start < m.end <= 31.0 for m in moments)
        assert [m.score for m in moments] == sorted((m.score for m in moments), reverse=True)


@chex.assert_max_traces(n=1)
def _counted(x):
    return x


def test_a_bucket_is_compiled_once(run, monkeypatch):
    traced = []
    predict = type(run.model).predict
    monkeypatch.setattr(type(run.model), "predict", lambda *a: traced.append(1) or predict(*a))
    opened = vmr.Run(run.config, run.model, jax.tree.map(np.asarray, run.variables), run.vocabulary)
    video = opened.encode_video(np.ones((9, 64), np.float32), duration=5.0)
    for count in (3, 4, 3):  # both of a batch of four rows
        opened.predict(video, ["a man opens the door"] * count, k=5)
        opened.predict(video, ["a man opens the door"] * count, k=8)  # five and eight moments: eight places
    assert len(traced) == 1
    opened.predict(video, ["a man opens the door"] * 5, k=5)
    assert len(traced) == 2


@pytest.mark.parametrize(
    "features,duration,message",
    [
        (np.ones((5, 63)), 3.0, "dimension 63; config.dataset.feature_dim is 64. Give features like those"),
        (np.ones((5, 64)), 0.0, "duration of talk is 0.0"),
        (np.full((5, 64), np.nan), 3.0, "holds NaN or infinity, first in row 0"),
        (np.ones(64), 3.0, r"shape \(64,\); expected is \[rows,64\]"),
        (np.ones((0, 64)), 3.0, "has no clips"),
        (np.ones((5, 64)), "3", "duration of talk is '3'"),
        (np.ones((5, 64)), True, "duration of talk is True"),
        (np.ones((5, 64), complex), 3.0, "features that are complex128; expected numbers"),
        (np.ones((5, 64), object), 3.0, "features that are object; expected numbers"),
    ],
)
def test_features_that_cannot_be_read(run, features, duration, message):
    with pytest.raises(UserError, match=message):
        run.encode_video(features, duration, id="talk")


def test_questions_that_cannot_be_asked(run):
    video = run.encode_video(np.ones((5, 64)), duration=3.0)
    for sentences, k, message in (
        ("a man", 5, "a list of sentences"),
        ([3], 5, "a list of sentences"),
        (["a man"], 0, "k is 0"),
        (["a man"], 2.5, "k is 2.5; it must be at least 1, a whole number"),
        (["a man"], True, "k is True"),
        (None, 5, "a list of sentences"),
        ({"a man"}, 5, "a list of sentences"),
        ((word for word in ["a man"]), 5, "a list of sentences"),
        ([" "], 5, "The query is empty"),
        (["?!"], 5, "has no word"),
        (["x" * 1001], 5, "at most 1000 are read"),
    ):
        with pytest.raises(UserError, match=message):
            run.predict(video, sentences, k=k)


def test_questions_about_several_videos_that_cannot_be_asked(run, tmp_path):
    """What `predict` refuses of a question, `predict_in` and an index refuse too."""
    video = run.encode_video(np.ones((5, 64)), duration=3.0)
    for videos, sentence, k, message in (
        ([video], "a man", 0, "k is 0"),
        ([video], "", 5, "The query is empty"),
        ([video], ["a man"], 5, "expected is a sentence, such as"),
        ([np.ones((5, 64))], "a man", 5, "a list of videos, each from encode_video"),
        (video, "a man", 5, "a list of videos"),
        ((v for v in [video]), "a man", 5, "a list of videos"),
    ):
        with pytest.raises(UserError, match=message):
            run.predict_in(videos, sentence, k)
    for videos in (None, video, "talk", [np.ones((5, 64))]):
        with pytest.raises(UserError, match="a list of videos"):
            run.index(videos, tmp_path / "index")
    for ask in (run.unknown_words, run.check_words):
        with pytest.raises(UserError, match="The query is None; expected is a sentence"):
            ask(None)
    with pytest.raises(UserError, match="There is no sentence"):
        run.batch(video, [])


def test_no_sentence_has_no_answer(run, tmp_path):
    video = run.encode_video(np.ones((5, 64)), duration=3.0, id="talk")
    assert run.encode_sentences([]).shape == (0, run.encode_sentences(["a man"]).shape[1])
    assert run.index([video], tmp_path / "index").search([]) == [] == run.predict(video, [])


def test_more_moments_than_there_are(run):
    """All that are left, however many are asked for; memory is that of those there are."""
    video = run.encode_video(np.ones((5, 64)), duration=3.0)
    (every,) = run.predict(video, ["a man opens the door"], k=10**4)
    for k in (np.int64(10**4), 2**62):
        assert run.predict(video, ["a man opens the door"], k=k) == [every]
        assert run.predict_in([video], "a man opens the door", k) == [every]


def test_batches_of_no_size(data):
    split = data.split("val")
    for asked, message in (
        ({"batch_size": 0}, "batch_size is 0; it must be at least 1"),
        ({"batch_size": "8"}, "batch_size is '8'"),
        ({"seed": 0, "epochs": 0}, "epochs is 0"),
        ({"seed": "zero"}, "seed is 'zero'; it must be a whole number, or None"),
    ):
        with pytest.raises(UserError, match=message):
            split.batches(**asked)


def test_evaluate_gives_the_numbers_of_the_run(run, data, tmp_path_factory):
    results = json.loads((workdir_of(data, run, tmp_path_factory) / "results.json").read_text())
    ours = results["splits"]["val"]["rows"][0]["metrics"]
    assert vmr.evaluate(run, data.split("val")) == pytest.approx(ours)


def test_batches_are_the_bytes_that_a_run_reads(data):
    model = vmr.create("fvmr", num_clips=16, features=8, common=8)
    config = data.config_for(model).lock()
    loader = Experiment(config).loader("train")
    expected = list(loader.training_batches(config.seed, 0, 3, config.batch_size))
    found = data.split("train").batches(config.batch_size, model=model, seed=config.seed)
    for theirs, ours in zip(expected, found):
        jax.tree.map(np.testing.assert_array_equal, ours, theirs)
        assert ours.tree is not None  # what the architecture requires


def test_a_dataset_names_what_is_wrong(data):
    for make, message in (
        (lambda: vmr.Dataset("storybord"), 'no dataset "storybord". Did you mean "storyboard"'),
        (lambda: vmr.Dataset("storyboard", train_vidoes=3), 'Did you mean "train_videos"'),
        (lambda: vmr.Dataset("storyboard", train_videos="x"), "train_videos is 'x'; it must be a whole number"),
        (lambda: data.split("tset"), 'no split "tset". Did you mean "test"'),
        (
            lambda: vmr.Dataset("tacos", version="tal"),
            'version is "tal". Did you mean "tall"[?] Known: 2d_tan,',
        ),
        (lambda: vmr.Dataset("tempo", version=3), 'config.dataset.version is "3"'),
    ):
        with pytest.raises(UserError, match=message):
            make()


def test_conventions_decide_on_more_than_a_field(tmp_path):
    data = vmr.Dataset("activitynet_captions", features="i3d", convention="vslnet", manual_dir=tmp_path)
    config = data.config_for("two_d_tan")
    assert (config.dataset.feature_dim, config.dataset.manual_dir) == (1024, str(tmp_path))
    assert (config.evaluation.select_split, config.evaluation.splits) == ("anet_val_2", ("anet_val_1",))


def test_the_wrong_thing_is_named(run, data, tmp_path):
    for call, message in (
        (lambda: vmr.evaluate(run, "test"), "Give evaluate a run and a split"),
        (lambda: vmr.fit("fvmr", "storyboard"), "Give fit a vmr_jax.Dataset, not 'storyboard'"),
        (lambda: vmr.Dataset("storyboard", features="vgg"), "storyboard has features of its own"),
        (lambda: run.encode_video(np.ones((5, 64)), 3.0, flw=1), 'This run reads no stream "flw"'),
        (lambda: run.encode_sentences("a man"), "a list of sentences"),
        (lambda: run.predict(np.ones((5, 64)), ["a man"]), "a video from encode_video"),
        (lambda: vmr.Batch.of(video=[]), "video is an empty list"),
        (lambda: vmr.Batch.of(video="x"), "video is nothing that an array of float32 holds: could not convert"),
        (
            lambda: vmr.Batch.of(video=(x for x in [np.ones((3, 4))])),
            "video is nothing that an array of float32",
        ),
        (lambda: vmr.Batch.of(video=3.0), r"video has the shape \(\); expected are the axes \[B,T,D\]"),
        (lambda: vmr.Batch.of(video=[None]), r"video has the shape \(1,\); expected are the axes \[B,T,D\]"),
        (lambda: vmr.Batch.of(video=np.ones((2, 3, 4)), duration=3.0), r"duration has the shape \(\); exp"),
        (lambda: vmr.Batch.of(video=np.ones((2, 3, 4)), tree=3), "tree is 3; expected is a vmr_jax.Tree"),
        (
            lambda: vmr.Batch.of(video=[np.ones((3, 4)), np.ones((3, 5))]),
            r"rows of video have 4, 5 numbers \(D\)",
        ),
        (lambda: load_model("two_d_tan", "model.pkl"), "read_checkpoint"),
    ):
        with pytest.raises(UserError, match=message):
            call()


def test_what_a_notebook_shows(run, data, tmp_path):
    """A line that says what it is; the counts are those of the data and of the variables."""
    count = sum(leaf.size for leaf in jax.tree.leaves(run.variables["params"]))
    assert repr(run) == f"Run(fvmr on storyboard, step 4, {count:,} parameters)"
    assert repr(vmr.Dataset("charades_sta", features="vgg")) == "Dataset(charades_sta, vgg)"  # nothing is read
    split = data.split("val")
    sizes = f"val {len(split):,} queries of {len(split.videos):,} videos"
    assert repr(split) == f"Split(storyboard, {sizes})"
    assert repr(data).startswith("Dataset(storyboard: train ") and f"; {sizes}; " in repr(data)
    video = run.encode_video(np.ones((5, 64)), duration=3.5, id="talk")
    assert repr(video) == "VideoFeatures('talk', 3.5 s: video (5, 64))"
    index = run.index([video], tmp_path / "index")
    assert repr(index) == (
        f"MomentIndex({len(index)} moments, 1 videos, {index.store.dim} numbers a moment, {index.store.where})"
    )
    lines = repr(vmr.Batch.of(video=np.ones((2, 3, 4)), query_vectors=np.ones((2, 5, 6)))).splitlines()
    assert lines[:2] == ["Batch", "  video            [B,T,D]    (2, 3, 4)          float32"]
    assert len(lines) == 11  # the ten fields that every batch has


# --- a model of a user's own ----------------------------------------------------------------------


def test_a_users_model_is_trained_evaluated_and_indexed(data, tmp_path):
    def centred(outputs, batch, *, epoch):
        return vmr.Mean.of(outputs.score.mean(1) ** 2, batch.example_mask, 0.1)

    run = vmr.fit(
        users_model.Mine(features=6),
        data,
        losses={"centred": centred},
        train_for="30 steps",
        workdir=tmp_path / "run",
        settings={"optimizer.learning_rate": 3e-3, "batch_size": 16},
    )
    assert run.config.model.name == "users_model:Mine" and run.config.model.features == 6
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "train/loss" in line]
    assert steps[-1]["train/cross_entropy"] < steps[0]["train/cross_entropy"]
    assert all("train/centred" in line for line in steps)
    assert vmr.evaluate(run, data.split("val"))["mIoU"] > 0
    again = vmr.load(tmp_path / "run")  # the class is found by its place
    record = data.split("val").videos[0]
    video = again.encode_video(record.embedded["rgb"], duration=record.duration, id=record.id)
    (moments,) = again.predict(video, ["a man opens the door"], k=4)
    index = again.index([video], tmp_path / "index")
    (found,) = index.search(["a man opens the door"], k=4)
    np.testing.assert_allclose([f[1:] for f in found], np.asarray(moments), atol=1e-4)


def test_a_users_model_that_learns_no_words_is_not_told_to(tmp_path):
    learnt = {"text.vectors": "none", "text.trainable": True, "text.dim": 16}
    data = vmr.Dataset("jsonl", manual_dir=tmp_path, feature_dim=16, settings=learnt)
    with pytest.raises(UserError, match="users_model:Mine has no parameters for its vocab_size"):
        vmr.fit(users_model.Mine(), data, train_for="1 steps", workdir=tmp_path / "run")

    class Learns(users_model.Mine):
        def setup(self):
            super().setup()
            self.words = nn.Embed(self.vocab_size, 16)

        def encode_query(self, batch):
            return self.text(self.words(batch.query).mean(1))

    users_model.Learns = Learns
    Learns.__module__, Learns.__qualname__ = "users_model", "Learns"
    with pytest.raises(UserError, match="train.jsonl missing"):  # it is asked for its data
        vmr.fit(Learns(), data, train_for="1 steps", workdir=tmp_path / "run")


def test_classes_that_cannot_be_found():
    for place, message in (
        ("nowhere.models:Mine", "names the module nowhere.models, which cannot be imported"),
        ("users_model:Min", 'Did you mean "Mine"'),
        ("users_model:Outputs", "is no architecture: expected is a class that inherits from"),
        ("fvmrr", 'no architecture "fvmrr". Did you mean "fvmr"'),
    ):
        with pytest.raises(UserError, match=message):
            vmr.create(place)
    assert type(vmr.create("users_model.Mine")) is users_model.Mine


CONFIG = """
import users_model
from vmr_jax.configs import common, datasets

def get_config(arg=None):
    config = common.base(users_model.Mine)
    datasets.storyboard(config)
    config.train_for = "3 steps"
    return config
"""


@pytest.mark.slow
def test_a_users_config_outside_the_repository(commands, data_dir, tmp_path):
    """The command with a config, a class and folders of the user's own, also those named data and configs."""
    shutil.copy(ROOT / "tests" / "users_model.py", tmp_path)
    (tmp_path / "mine.py").write_text(CONFIG)
    for name in ("data", "configs"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise ImportError('of the user')\n")
    settings = [f"--config.{k}={v}" for k, v in SMALL.items()] + [f"--config.dataset.data_dir={data_dir}"]
    done = commands.run(
        "--config=mine.py", "--workdir=run", "--config.model.features=5", *settings, folder=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "users_model:Mine" in done.stdout
    done = commands.run("--mode=evaluate", "--workdir=run", folder=tmp_path)
    assert done.returncode == 2 and "give --config.model.name=users_model:Mine" in done.stderr
    done = commands.run(
        "--mode=evaluate", "--workdir=run", "--config.model.name=users_model:Mine", folder=tmp_path
    )
    assert done.returncode == 0, done.stderr
    done = commands.run("--config=mine.py", "--config.model.fetures=5", *settings, folder=tmp_path)
    assert done.returncode == 2 and 'Did you mean "' in done.stderr and 'features"' in done.stderr


# --- without a dataset, without TensorFlow ---------------------------------------------------------

ASK = """
import sys
import numpy as np
import vmr_jax as vmr
assert "jax" not in sys.modules
run = vmr.load(sys.argv[1])
video = run.encode_video(np.ones((40, 64), np.float32), duration=31.0)
moments, = run.predict(video, ["a person opens the door"], k=5)
assert moments and moments[0].end <= 31.0
assert not [name for name in sys.modules if name.partition(".")[0] in ("tensorflow", "tensorflow_datasets")]
"""


def test_a_run_is_asked_without_tensorflow(run, data, tmp_path_factory, tmp_path):
    workdir = workdir_of(data, run, tmp_path_factory)
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    done = subprocess.run(
        [sys.executable, "-c", ASK, str(workdir)], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_installed_without_a_checkout(run, data, tmp_path_factory, tmp_path):
    """`pip install .` without -e, asked from a folder that contains data/ and configs/."""
    site = tmp_path / "site"
    source = tmp_path / "source"
    ignored = shutil.ignore_patterns(".*", "build", "*.egg-info", "tests", "runs")
    shutil.copytree(ROOT, source, ignore=ignored)
    build = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(site), str(source)]
    done = subprocess.run(build, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    tops = {path.name for path in site.iterdir() if path.is_dir() and "dist-info" not in path.name}
    assert tops == {"vmr_jax", "bin"}  # no global names data and configs, and a command
    assert (site / "bin" / "vmr_jax").is_file()
    folder = tmp_path / "mine"
    for name in ("data", "configs"):
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").write_text("raise ImportError('of the user')\n")
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": "", "PYTHONPATH": str(site)}
    workdir = workdir_of(data, run, tmp_path_factory)
    script = ASK + f"assert vmr.__file__.startswith({str(site)!r})\n"
    for command in (
        [sys.executable, "-c", script, str(workdir)],
        [sys.executable, str(site / "bin" / "vmr_jax"), "--mode=inspect", "--config=configs/ctrl.py"],
    ):
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def test_every_package_is_listed():
    import configparser

    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    listed = set(setup["options"]["packages"].split())
    found = {".".join(path.parent.relative_to(ROOT).parts) for path in ROOT.glob("vmr_jax/**/__init__.py")}
    found |= {"vmr_jax." + ".".join(p.parent.relative_to(ROOT).parts) for p in ROOT.glob("data/**/__init__.py")}
    assert listed == found | {"vmr_jax.configs"}


# --- examples of the docstrings --------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in vmr.__all__ if name != "__version__"])
def test_public_names_have_a_docstring(name):
    value = getattr(vmr, name)
    assert inspect.getdoc(value) and not inspect.getdoc(value).startswith("What ")


def test_every_public_name_has_an_example():
    without = [name for name in vmr.__all__ if name != "__version__" and not examples(getattr(vmr, name))]
    assert without == []


def examples(value):
    """Examples in the docstrings of a function or class and its methods."""
    found = doctest.DocTestFinder(recurse=True).find(value, value.__name__)
    return [example for test in found for example in test.examples]


def test_examples_of_the_docstrings(run, data, data_dir, tmp_path, tmp_path_factory, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "vmr_jax").symlink_to(data_dir)
    workdir = workdir_of(data, run, tmp_path_factory)
    names = {"run": run, "data": data, "tmp": tmp_path, "workdir": workdir, "vmr": vmr, "np": np}
    record = vmr.Batch.of(video=np.ones((2, 32, 64)), query_vectors=np.ones((2, 20, 50)))
    names["batch"] = record
    tried = 0
    for module in sorted({f"vmr_jax.{vmr._PUBLIC[name]}" for name in vmr._PUBLIC}):
        found = importlib.import_module(module)
        for test in doctest.DocTestFinder(exclude_empty=True).find(found, extraglobs=names):
            output = []
            result = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, out=output.append)
            assert not result.failed, "".join(output)
            tried += result.attempted
    assert tried >= 20
