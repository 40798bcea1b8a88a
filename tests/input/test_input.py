"""The input pipeline: order, exactness with and without the cache, shapes, and errors."""

import dataclasses
import io
import json
import sys

import jax
import numpy as np
import pytest
from charades_folder import charades_config, vary
from tiny import tiny_config

from vmr_jax.errors import UserError
from vmr_jax.input import dataset as input_lib
from vmr_jax.input import queries as query_input
from vmr_jax.input.features import fit_rows, normalize_rows
from vmr_jax.input.loader import Loader, show_rows
from vmr_jax.input.schema import Query
from vmr_jax.input.spec import batch_spec, check_fields
from vmr_jax.input.words import open_word_vectors
from vmr_jax.text.tokenize import tokenize
from vmr_jax.training.experiment import Experiment


@pytest.fixture(scope="module")
def experiment(data_dir):
    return Experiment(tiny_config(data_dir))


def test_every_example_once_an_epoch_and_order_is_a_function_of_seed_and_epoch(experiment):
    loader = experiment.loader("train")
    steps = loader.steps_per_epoch(16)
    epochs = [
        np.concatenate([loader.training_rows(seed, epoch * steps + s, 16) for s in range(steps)])
        for seed, epoch in ((0, 0), (0, 1), (1, 0), (0, 0))
    ]
    for rows in epochs:
        np.testing.assert_array_equal(np.sort(rows[rows >= 0]), np.arange(len(loader)))
    assert not np.array_equal(epochs[0], epochs[1]) and not np.array_equal(epochs[0], epochs[2])
    np.testing.assert_array_equal(epochs[0], epochs[3])


def test_stream_resumes_anywhere_with_the_same_batches(experiment):
    loader = experiment.loader("train")
    whole = list(loader.training_batches(0, 0, 6, 16))
    rest = list(loader.training_batches(0, 4, 6, 16))
    assert len(whole) == 6 and len(rest) == 2
    jax.tree.map(np.testing.assert_array_equal, whole[4:], rest)


def test_evaluation_serves_every_query_once_whatever_the_batch_size(experiment):
    loader = experiment.loader("val")
    for size in (16, 64):
        batches = list(loader.evaluation_batches(size))
        indices = np.concatenate([b.example_index[b.example_mask] for b in batches])
        np.testing.assert_array_equal(indices, np.arange(len(loader)))
        assert all(b.example_mask.shape == (size,) for b in batches)


def test_batch_has_the_shapes_of_the_spec(experiment):
    batch = experiment.loader("train").batch(np.arange(16))
    spec = batch_spec(experiment.config, 16, experiment.model.requires())
    assert jax.tree.map(lambda x: (x.shape, x.dtype), batch) == jax.tree.map(lambda x: (x.shape, x.dtype), spec)


ALL_FIELDS = (
    "tree", "constituents", "flow", "audio", "objects", "persons", "grid", "subtitles",
    "translated_subtitles", "captions", "object_scores", "activity_scores",
    "sentence", "translation", "static_words", "dynamic_words", "context",
)  # fmt: skip


def test_every_optional_field_of_storyboard(experiment):
    loader = Loader(
        experiment.config,
        experiment.dataset,
        experiment.dataset.split("val"),
        experiment.vocabulary,
        experiment.vectors,
        ALL_FIELDS,
    )
    batch = loader.batch(np.array([0, 1, 2, 3, 4, 5, -1, -1]))
    batch.check()
    spec = batch_spec(experiment.config, 8, ALL_FIELDS)
    assert jax.tree.map(lambda x: x.shape, batch) == jax.tree.map(lambda x: x.shape, spec)
    # Static and dynamic words share out the query; every tree node has words.
    np.testing.assert_array_equal(batch.static_words ^ batch.dynamic_words, batch.query_mask)
    assert batch.static_words.any(1).all() and batch.dynamic_words.any(1).all()
    assert batch.tree.verb_mask.any(1).all()
    # The root has all words, each word a leaf, and children come before their parents.
    tree = batch.constituents
    np.testing.assert_array_equal(tree.words[np.arange(8), tree.root], batch.query_mask)
    leaves = np.where(tree.leaves[..., None], tree.words, False)
    np.testing.assert_array_equal(leaves.sum(1), batch.query_mask)
    place = np.arange(tree.mask.shape[1])
    np.testing.assert_array_equal((tree.parents > place).sum(1), tree.mask.sum(1) - 1)


def test_tree_follows_the_tokeniser():
    # Characters: "a man" 0-5, "opens" 6-11, "the door." 12-21.
    text = "a man opens the door."
    query = Query("q", text, (0, 1), verbs=[(6, 11)], nouns=[(0, 5), (16, 20)], edges=[(0, 0), (0, 1)])
    tree = query_input._tree(query, tokenize(text, "words"), 8, 4, 6)
    np.testing.assert_array_equal(np.flatnonzero(tree.verb_words[0]), [2])
    np.testing.assert_array_equal(np.flatnonzero(tree.noun_words[0]), [0, 1])
    np.testing.assert_array_equal(np.flatnonzero(tree.noun_words[1]), [4])
    np.testing.assert_array_equal(np.argwhere(tree.edges), [[0, 0], [0, 1]])
    # Cut at four words, the door and its edge are gone.
    cut = query_input._tree(query, tokenize(text, "words")[:4], 4, 4, 6)
    np.testing.assert_array_equal(np.argwhere(cut.edges), [[0, 0]])


def test_unknown_names_give_the_nearest(data_dir, experiment):
    with pytest.raises(UserError, match=r'no dataset "storybord"\. Did you mean "storyboard"\?'):
        input_lib.dataset_module("storybord")
    with pytest.raises(UserError, match=r'no split "tests"\. Did you mean "test"\?'):
        experiment.dataset.split("tests")


def test_word_vectors_of_another_width_are_refused(data_dir, experiment):
    config = tiny_config(data_dir, text__dim=300)
    with pytest.raises(UserError, match=r"have 50 dimensions; config.text.dim says 300\. Set it to 50"):
        open_word_vectors(config, [])


def test_missing_modality_is_named_before_training(data_dir):
    config = tiny_config(data_dir)
    with pytest.raises(UserError, match='fvmr needs "depth", which the dataset storyboard does not have'):
        check_fields(config, ("depth",))


def test_an_error_inside_the_pipeline_is_raised_as_it_was(experiment):
    loader = experiment.loader("val")
    broken = dataclasses.replace(loader.split.queries[3], text="x")

    class Broken(Loader):
        def _example(self, row):
            if row == 3:
                raise UserError(f"query {broken.text} is broken")
            return super()._example(row)

    copy = Broken(
        experiment.config, experiment.dataset, loader.split, experiment.vocabulary, experiment.vectors
    )
    copy.fields = ()
    with pytest.raises(UserError, match="query x is broken"):
        list(copy._stream(0, 3, lambda step: np.arange(step * 2, step * 2 + 2)))


def test_only_the_word_vectors_of_the_sentences_are_held(charades, tmp_path):
    config = charades_config(charades, tmp_path)
    assert not Experiment(config).vectors.known("rug")  # no annotated sentence has it
    asked = Experiment(config, sentences=["Where is the rug?"]).vectors
    assert asked.known("rug") and asked.known("opens")


def test_no_word_vectors_where_they_are_learned(charades, tmp_path):
    config = charades_config(charades, tmp_path)
    with config.unlocked():
        config.text.vectors = "none"
    batch = Experiment(config).loader("train").batch(np.arange(1))
    assert batch.query_vectors.shape[-1] == 5 and not batch.query_vectors.any() and batch.query_mask.any()


def test_missing_features_are_listed(charades, tmp_path):
    (charades / "clip" / "BBBBB.npz").unlink()
    with pytest.raises(UserError, match=r"1 of 4 videos have no features in .*clip: BBBBB\. Check"):
        Experiment(charades_config(charades, tmp_path))


def test_missing_features_can_be_dropped_and_are_counted(charades, tmp_path, caplog):
    (charades / "clip" / "BBBBB.npz").unlink()
    experiment = Experiment(charades_config(charades, tmp_path, on_missing="drop"))
    assert [v.id for v in experiment.dataset.split("train").videos] == ["AAAAA"]
    assert "train: 1 of 2 videos (1 of 2 queries) dropped" in caplog.text


def test_ids_in_another_case_are_named(charades, tmp_path):
    for path in list((charades / "clip").iterdir()):
        path.rename(path.with_stem(path.stem.lower()))
    message = r'4 of 4 videos have no features in .*: AAAAA, .*DDDDD\. Did you mean "aaaaa"\? Check'
    for on_missing in ("error", "drop"):  # there is nothing to go on with
        with pytest.raises(UserError, match=message):
            Experiment(charades_config(charades, tmp_path, on_missing=on_missing))


def test_wrong_feature_dimension(charades, tmp_path):
    with pytest.raises(UserError, match=r"config.dataset.feature_dim") as error:
        Experiment(charades_config(charades, tmp_path, feature_dim=4))
    assert "3" in str(error.value) and "4" in str(error.value)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_non_finite_features_name_video_and_row(charades, tmp_path, bad):
    rows = np.ones((10, 3), np.float32)
    rows[7, 1] = bad
    np.savez(charades / "clip" / "CCCCC.npz", features=rows)
    with pytest.raises(UserError, match="CCCCC") as error:
        Experiment(charades_config(charades, tmp_path))
    assert "7" in str(error.value)


def test_zero_clips(charades, tmp_path):
    np.savez(charades / "clip" / "DDDDD.npz", features=np.ones((0, 3), np.float32))
    with pytest.raises(UserError, match="DDDDD"):
        Experiment(charades_config(charades, tmp_path))


@pytest.mark.parametrize(
    "row,words",
    [
        ("AAAAA 0.0 5.0##", "empty"),
        ("AAAAA 0.0 5.0 a person opens", "charades_sta_train.txt"),
        ("ZZZZZ 0.0 5.0##a person opens", "ZZZZZ"),
    ],
)
def test_bad_annotation_rows_name_file_and_line(charades, tmp_path, row, words):
    path = charades / "charades_sta_train.txt"
    path.write_text(path.read_text() + row + "\n")
    with pytest.raises(UserError, match=words) as error:
        Experiment(charades_config(charades, tmp_path))
    assert "charades_sta_train.txt" in str(error.value) and "3" in str(error.value)


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("resample", ["average", "pad"])
def test_batches_of_the_cache_are_bit_equal_to_those_of_native_rows(charades, tmp_path, resample, normalize):
    rows = vary(charades)
    config = charades_config(
        charades, tmp_path, feature_dim=37, num_clips=8, resample=resample, normalize=normalize
    )
    experiment = Experiment(config)
    masks = {"AAAAA": 1, "BBBBB": 7, "CCCCC": 8, "DDDDD": 8} if resample == "pad" else dict.fromkeys(rows, 8)
    for name in ("train", "test"):
        loader = experiment.loader(name)
        for batch in (loader.batch(np.arange(2)), next(loader.evaluation_batches(2))):
            for i, video in enumerate(loader.split.videos):
                native = normalize_rows(rows[video.id]) if normalize else rows[video.id]
                clips, mask = fit_rows(native, 8, resample)
                assert batch.video[i].tobytes() == clips.tobytes()
                np.testing.assert_array_equal(batch.video_mask[i], mask)
                assert mask.sum() == masks[video.id]


def test_batches_of_two_sources(charades, tmp_path):
    clip, flow = vary(charades), vary(charades, dim=5, folder="flow", more=2)
    config = charades_config(charades, tmp_path, features="clip,flow", feature_dim=42, num_clips=8)
    loader = Experiment(config).loader("test")
    batch = loader.batch(np.array([1]))
    # Two rows of flow are cut; each source is divided by |x| + 1e-5.
    parts = [clip["DDDDD"], flow["DDDDD"][:21]]
    expected = np.concatenate([x / (np.linalg.norm(x, axis=1, keepdims=True) + 1e-5) for x in parts], 1)
    np.testing.assert_allclose(batch.video[0], fit_rows(expected, 8, "average")[0], rtol=1e-5, atol=1e-7)
    (charades / "flow" / "BBBBB.npz").unlink()
    with pytest.raises(UserError, match=r"1 of 4 videos have no features in .*clip and .*flow: BBBBB\."):
        Experiment(config)


def test_native_rows_can_be_read_beside_the_cache(charades, tmp_path):
    rows = vary(charades)
    dataset = Experiment(charades_config(charades, tmp_path, feature_dim=37, num_clips=8)).dataset
    for video in dataset.split("test").videos:
        np.testing.assert_array_equal(dataset.features(video), normalize_rows(rows[video.id]))
        assert len(dataset.clips(video)) == 8


@pytest.mark.parametrize("resample", ["average", "pad"])
def test_sanity_checks_change_native_rows_not_the_cached_ones(charades, tmp_path, resample):
    rows = vary(charades)
    config = charades_config(charades, tmp_path, feature_dim=37, num_clips=8, resample=resample)
    experiment = Experiment(config)
    for loader in (experiment.loader("train"), experiment.loader("test")):
        real, blind, shuffled = (
            loader.showing(shown).batch(np.arange(2)) for shown in ("real", "blind", "shuffled")
        )
        assert not blind.video.any()
        np.testing.assert_array_equal(blind.video_mask, real.video_mask)
        for i, video in enumerate(loader.split.videos):
            native = show_rows(normalize_rows(rows[video.id]), "shuffled", config.seed, video.id)
            assert shuffled.video[i].tobytes() == fit_rows(native, 8, resample)[0].tobytes()
            assert np.array_equal(shuffled.video[i], real.video[i]) == (video.id == "AAAAA")


def test_other_clips_are_other_caches(charades, tmp_path):
    vary(charades)
    for num_clips, normalize in ((8, True), (4, True), (8, False), (8, True)):
        fields = {"feature_dim": 37, "num_clips": num_clips, "normalize": normalize}
        batch = Experiment(charades_config(charades, tmp_path, **fields)).loader("test").batch(np.array([0]))
        assert batch.video.shape == (1, num_clips, 37)
        assert np.allclose(np.linalg.norm(batch.video[0, 0]), 1.0, atol=1e-5) == (normalize and num_clips == 8)


def test_an_unknown_way_to_resample(data_dir):
    with pytest.raises(UserError, match=r'config\.input\.resample is "avrage"\. Did you mean "average"\?'):
        Experiment(tiny_config(data_dir, input__resample="avrage"))


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("terminal", [True, False])
def test_building_shows_a_bar_on_a_terminal_once(charades, tmp_path, monkeypatch, terminal):
    shown = []
    for _ in range(2):
        out = Terminal() if terminal else io.StringIO()
        monkeypatch.setattr(sys, "stdout", out)
        monkeypatch.setenv("TERM", "xterm")
        Experiment(charades_config(charades, tmp_path))
        shown.append("features 1/4 videos" in out.getvalue())
    monkeypatch.undo()
    assert shown == [terminal, False]


def test_split_file_and_loader_read_the_users_features(charades, tmp_path):
    (charades / "mine.json").write_text(
        json.dumps({"train": ["CCCCC", "AAAAA"], "val": ["BBBBB"], "test": ["DDDDD"]})
    )
    config = charades_config(charades, tmp_path, split_file="mine.json")
    experiment = Experiment(config)
    assert sorted(v.id for v in experiment.dataset.split("train").videos) == ["AAAAA", "CCCCC"]
    batch = experiment.loader("test").batch(np.array([0]))
    # Rows of 4s, L2-normalised: 4 / sqrt(3 * 16).
    np.testing.assert_allclose(batch.video, 1 / np.sqrt(3), rtol=1e-6)
    np.testing.assert_allclose(batch.duration, [10.0])
    np.testing.assert_array_equal(batch.query_mask.sum(1), [2])
    np.testing.assert_array_equal(batch.query_vectors[0, 0], [0, 1, 0, 0, 0])  # "person"


def test_training_batches_of_whole_videos(data_dir):
    # Three rows a video: each batch of twelve rows shows four videos, every query of the epoch once.
    experiment = Experiment(tiny_config(data_dir, input__queries_per_video=3, batch_size=24))
    loader = experiment.loader("train")
    owner = loader.split.owner
    steps = loader.steps_per_epoch(24)
    epochs = [[loader.training_rows(0, e * steps + s, 24) for s in range(steps)] for e in (0, 1, 0)]
    for epoch in epochs:
        rows = np.concatenate(epoch)
        np.testing.assert_array_equal(np.sort(rows[rows >= 0]), np.arange(len(loader)))
        shown = np.where(rows >= 0, rows, -1 - rows)
        groups = owner[shown].reshape(-1, 3)
        full = rows.reshape(-1, 3)[:, 0] >= 0  # the last batch is filled up with groups that stand for nothing
        assert (groups[full] == groups[full][:, :1]).all()
        # As few groups as the queries of each video allow: ceil(queries / 3).
        assert full.sum() == sum(-(-n // 3) for n in np.bincount(owner))
    assert not np.array_equal(epochs[0], epochs[1])
    np.testing.assert_array_equal(epochs[0], epochs[2])
    batch = loader.batch(epochs[0][0])
    np.testing.assert_array_equal(batch.video[::3], batch.video[2::3])
    assert (batch.example_index[~batch.example_mask] == -1).all()


def test_a_batch_of_a_broken_number_of_videos(data_dir):
    with pytest.raises(UserError, match=r"config.batch_size is 16 rows.* Use a multiple of 3"):
        Experiment(tiny_config(data_dir, input__queries_per_video=3))
