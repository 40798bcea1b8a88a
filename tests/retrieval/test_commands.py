"""--mode=index and --mode=search of a tiny run, as a user gives them."""

import json

import jax
import numpy as np
import pytest
from tiny import tiny_config

from vmr_jax.errors import UserError
from vmr_jax.experiment import Experiment
from vmr_jax.models.base import DualEncoder
from vmr_jax.predict import asked_example
from vmr_jax.retrieval import commands
from vmr_jax.train import train


@pytest.fixture(scope="module")
def run(data_dir, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    config = tiny_config(data_dir, train_for="2 steps", evaluate_every="2 steps", evaluation__splits=("val",))
    train(config, workdir)
    commands.index(config, workdir)
    return config, workdir


def test_the_index_holds_every_video_once(run):
    config, workdir = run
    opened = commands.open_index(config, workdir)
    dataset = Experiment(config).dataset
    ids = {video.id for name in dataset.split_names for video in dataset.split(name).videos}
    assert sorted(opened.store.videos) == sorted(ids)
    assert len(opened) % len(ids) == 0


def test_a_moment_scores_its_dot_product_with_the_query(run):
    config, workdir = run
    sentence = "a man opens the door"
    (found,) = commands.open_index(config, workdir, [sentence]).search([sentence], k=3)
    assert [moment.score for moment in found] == sorted((moment.score for moment in found), reverse=True)
    experiment = Experiment(config, workdir, sentences=[sentence])
    variables, _ = experiment.best_variables(workdir)
    model = experiment.model
    assert isinstance(model, DualEncoder)
    for moment in found:
        split, video = next(
            (name, video)
            for name in experiment.dataset.split_names
            for video in experiment.dataset.split(name).videos
            if video.id == moment.video
        )
        batch = asked_example(experiment, experiment.loader(split), sentence, video)
        batch = jax.tree.map(lambda x: np.asarray(x)[None], batch)
        variables = jax.tree.map(np.asarray, variables)
        vectors, spans, _ = model.apply(variables, batch, method="encode_moments")
        scores = vectors[0] @ model.apply(variables, batch, method="encode_query")[0]
        at = int(np.argmin(np.abs(np.asarray(spans[0]) - [moment.start, moment.end]).sum(1)))
        np.testing.assert_allclose(spans[0, at], [moment.start, moment.end], atol=1e-4)
        assert float(scores[at]) == pytest.approx(moment.score, abs=1e-4)


def test_search_prints_a_table(run, capsys):
    config, workdir = run
    commands.search(config, workdir, "a man opens the door", None, 4)
    printed = capsys.readouterr().out
    assert "a man opens the door" in printed and "start (s)" in printed and printed.count("\n") >= 8


@pytest.mark.parametrize(
    "query,video,top,message",
    [
        (None, None, 5, '--mode=search needs --query="a sentence"'),
        ("x" * 1001, None, 5, "at most 1000 are read"),
        ("a man", None, 0, "--top is 0"),
        ("a man", "nowhere", 5, 'has no video "nowhere"'),
    ],
)
def test_impossible_questions(run, query, video, top, message):
    with pytest.raises(UserError, match=message):
        commands.search(*run, query, video, top)


def test_an_index_of_another_checkpoint_is_refused(run):
    config, workdir = run
    path = workdir / "index" / "manifest.json"
    whole = path.read_text()
    manifest = json.loads(whole)
    manifest["source"]["step"] = 99
    path.write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=r"was built from .*'step': 99.* Build it again"):
        commands.open_index(config, workdir)
    path.write_text(whole)


def test_an_architecture_without_two_encoders_is_refused(data_dir, tmp_path):
    from vmr_jax.retrieval.index import encoded_videos

    experiment = Experiment(tiny_config(data_dir))
    with pytest.raises(UserError, match="scores a moment together with the query"):
        next(encoded_videos(object(), {}, [], experiment.parallel))
