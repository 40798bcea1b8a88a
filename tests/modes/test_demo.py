"""`--mode=demo`, tiny: from rendered films to the moment of a sentence, and to the page."""

import pytest

import vmr_jax as vmr
from vmr_jax.configs.fvmr import get_config
from vmr_jax.data import films
from vmr_jax.errors import UserError
from vmr_jax.input.dataset import Dataset
from vmr_jax.modes.demo import LIBRARY, demo
from vmr_jax.modes.train import train


@pytest.fixture(scope="module")
def films_dir(tmp_path_factory):
    """Where the films are, which are rendered once."""
    return tmp_path_factory.mktemp("films")


def config_of(data_dir, **settings):
    """FVMR on a few films; `settings` are fields of the config."""
    config = get_config("films")
    config.dataset.data_dir = str(data_dir)
    config.dataset.train_videos, config.dataset.test_videos = 4, 1
    config.model.features = config.model.common = 32
    config.num_devices = 1  # eight simulated ones would take four times the time for a batch
    config.evaluation.sanity = ()
    config.update(settings)
    return config.lock()


def test_another_dataset_is_refused(tmp_path):
    with pytest.raises(UserError, match="--mode=demo shows rendered films, and this config is of storyboard"):
        demo(get_config().lock(), tmp_path, port=0, page=False)


@pytest.mark.slow
def test_each_step_is_told_and_leaves_what_it_says(films_dir, tmp_path, capsys):
    config = config_of(films_dir, train_for="2 steps", evaluate_every="2 steps", patience=0)
    demo(config, tmp_path / "run", port=0, page=False)
    told = capsys.readouterr().out
    assert [f"[{k}/4" in told for k in range(1, 6)] == [True, True, True, True, False]
    assert "1 added" in told
    sentences = [query.text for query in Dataset(config.dataset, config.input).split("test").queries]
    assert f"Of the {len(sentences)} sentences that were written about these films" in told
    assert any(f'"{sentence}" is the first ' in told for sentence in sentences)
    hits = [line for line in told.splitlines() if " s of test_0000, " in line]
    assert len(hits) == 5
    assert all(line.endswith((": its moment", ": another moment")) for line in hits)
    assert (tmp_path / "run" / "report.html").exists()
    demo(config, tmp_path / "run", port=0, page=False)
    again = capsys.readouterr().out
    assert "It is trained" in again and "1 unchanged" in again and "  1. " in again
    library = vmr.Library(tmp_path / "run" / LIBRARY)
    assert [video.file for video in library.videos] == films.files(config.dataset, "test")


@pytest.mark.slow
def test_a_sentence_finds_the_second_of_its_event_in_the_files(films_dir, tmp_path):
    """Films with known events are rendered, learnt, taken into a library as files, and searched.

    Four films are learnt by heart; their sentences, most of which fit one event of all four, are asked again.
    """
    config = config_of(films_dir, train_for="400 steps", evaluate_every="400 steps")
    train(config, tmp_path / "run")
    library = vmr.Library(tmp_path / "library", run=tmp_path / "run")
    library.add(films.files(config.dataset, "train"))
    split = Dataset(config.dataset, config.input).split("train")
    right = []
    for query, owner in zip(split.queries, split.owner):
        hit = library.search(query.text, k=1, video=split.videos[owner].id)[0]
        (start, end), length = query.span, hit.end - hit.start
        shared = min(end, hit.end) - max(start, hit.start)
        right.append(shared >= 0.5 * (end - start + length - shared))
    assert len(right) >= 20
    assert sum(right) >= 0.8 * len(right)
