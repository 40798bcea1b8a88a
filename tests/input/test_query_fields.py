"""Fields of a batch that come of the sentence, and further streams."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from charades_folder import charades_config, vary
from tiny import tiny_config

from vmr_jax.errors import UserError
from vmr_jax.input import dataset as input_lib
from vmr_jax.input import queries as query_input
from vmr_jax.input.dataset import Dataset
from vmr_jax.input.examples import _saliency
from vmr_jax.input.features import fit_rows
from vmr_jax.input.loader import Loader
from vmr_jax.input.schema import Query
from vmr_jax.input.spec import batch_spec
from vmr_jax.input.words import open_word_vectors
from vmr_jax.text.vectors import WordVectors
from vmr_jax.training.experiment import Experiment


def test_fields_that_any_sentence_has(charades, tmp_path):
    experiment = Experiment(charades_config(charades, tmp_path))
    fields = ("content_words", "dependencies", "windows")
    loader = Loader(
        experiment.config, experiment.dataset, experiment.dataset.split("train"), [], experiment.vectors, fields
    )
    batch = loader.batch(np.arange(2))
    batch.check()
    words = [token.text for token in loader._tokens[0]]
    for i, word in enumerate(words):
        assert batch.content_words[0, i] == (word not in ("a", "the"))
    np.testing.assert_array_equal(np.diagonal(batch.dependencies[0]), batch.query_mask[0])
    assert (batch.dependencies[0] > 1).any()
    np.testing.assert_array_equal(batch.window_mask.sum(1), 1)
    np.testing.assert_array_equal(batch.windows[:, 0], batch.span)


def test_every_patch_of_a_row_is_normalised_and_no_cache_of_patches_is_written(charades, tmp_path):
    patches = vary(charades, dim=6, folder="patches")
    config = charades_config(charades, tmp_path, num_clips=8, normalize=True)
    with config.unlocked():
        config.dataset.streams = {"objects": ("patches", 3, 2)}
    dataset = Dataset(config.dataset, config.input)
    (video,) = (v for v in dataset.split("test").videos if v.id == "DDDDD")
    rows = np.asarray(patches["DDDDD"], np.float32).reshape(-1, 3, 2)
    rows /= np.linalg.norm(rows, axis=-1, keepdims=True)
    np.testing.assert_allclose(dataset.features(video, "objects"), rows, rtol=1e-6)
    np.testing.assert_allclose(
        fit_rows(dataset.clips(video, "objects"), 8, "average")[0], fit_rows(rows, 8, "average")[0], rtol=1e-5
    )
    caches = list(Path(config.dataset.data_dir).expanduser().rglob("*.clips"))
    assert len(caches) == 1  # of the frames
    with config.unlocked():
        config.dataset.streams = {"objects": ("patches", 3, 3)}
    with pytest.raises(UserError, match="has features of dimension 6; .* is 9"):
        Dataset(config.dataset, config.input)


def test_further_streams_of_the_users_files(charades, tmp_path):
    flow = vary(charades, dim=4, folder="flow")
    config = charades_config(charades, tmp_path, num_clips=8, normalize=False)
    with config.unlocked():
        config.dataset.streams = {"flow": ("flow", 4), "objects": ("flow", 2, 2)}
    dataset = Dataset(config.dataset, config.input)
    vectors = open_word_vectors(config, dataset.sentences())
    loader = Loader(config, dataset, dataset.split("test"), [], vectors, ("flow", "objects"))
    batch = loader.batch(np.array([1]))
    np.testing.assert_array_equal(batch.flow[0], fit_rows(flow["DDDDD"], 8, "average")[0])
    np.testing.assert_array_equal(batch.objects[0].reshape(8, 4), batch.flow[0])
    assert batch.object_mask.all()
    spec = batch_spec(config, 1, ("flow", "objects"))
    assert jax.tree.map(lambda x: x.shape, batch) == jax.tree.map(lambda x: x.shape, spec)
    # Shuffled, the streams keep together: the same rows of flow stand beside the same rows of objects.
    shuffled = loader.showing("shuffled").batch(np.array([1]))
    assert not np.array_equal(shuffled.flow, batch.flow)
    np.testing.assert_array_equal(shuffled.objects[0].reshape(8, 4), shuffled.flow[0])
    (charades / "flow" / "AAAAA.npz").unlink()
    with pytest.raises(UserError, match=r"1 of 4 videos have no features in .*flow: AAAAA"):
        Dataset(config.dataset, config.input)


def test_token_features_take_the_place_of_word_vectors(charades, tmp_path):
    config = charades_config(charades, tmp_path)
    qids = [q.qid for q in Experiment(config).dataset.split("train").queries]
    (charades / "tokens").mkdir()
    for i, qid in enumerate(qids):
        np.savez(
            charades / "tokens" / f"qid{qid}.npz", last_hidden_state=np.full((3 + i, 6), i + 1, np.float32)
        )
    with config.unlocked():
        config.text.features, config.text.feature_key = str(charades / "tokens"), "last_hidden_state"
        config.text.sentence_features, config.text.sentence_dim = str(charades / "tokens"), 6
        config.text.vectors, config.text.dim, config.text.max_words = "", 6, 4
    dataset = input_lib.Dataset(config.dataset, config.input)
    loader, other = (
        Loader(config, dataset, dataset.split(name), [], None, ("sentence",)) for name in ("train", "test")
    )
    batch = loader.batch(np.arange(2))
    np.testing.assert_array_equal(batch.query_mask.sum(1), [3, 4])
    np.testing.assert_array_equal(batch.query_vectors[1], 2.0)
    np.testing.assert_array_equal(batch.sentence, [[1.0] * 6, [2.0] * 6])
    with pytest.raises(UserError, match=r'has no features of the query "'):
        other.batch(np.arange(1))
    with pytest.raises(UserError, match=r"tree.*follow the words"):
        query_input.check_text(config, ("tree",))
    # The second language is in a file of its own, with as many tokens as it needs.
    with pytest.raises(UserError, match="translation_features to those of the other"):
        Loader(config, dataset, dataset.split("train"), [], None, ("translation",)).batch(np.arange(1))
    (charades / "translations").mkdir()
    for i, qid in enumerate(qids):
        np.savez(charades / "translations" / f"{qid}.npz", last_hidden_state=np.full((4 * i + 1, 6), 7.0))
    with config.unlocked():
        config.text.translation_features = str(charades / "translations")
    batch = Loader(config, dataset, dataset.split("train"), [], None, ("translation",)).batch(np.arange(2))
    np.testing.assert_array_equal(batch.translation_mask.sum(1), [1, 4])  # of 5 tokens, 4 are kept
    np.testing.assert_array_equal(batch.translation, 7.0 * batch.translation_mask[..., None].repeat(6, -1))
    np.testing.assert_array_equal(batch.query_mask.sum(1), [3, 4])


def test_a_sentence_that_is_asked_is_looked_up_in_both_languages(data_dir):
    experiment = Experiment(tiny_config(data_dir))
    read = query_input.QueryReader(experiment.config, [], experiment.vectors, ("translation",))
    for text in ("a man opens the door.", "zaaj gso alomh nim i."):
        query = query_input.asked_query(text, 9.0, "words")
        fields = read(query, read.tokens(query))
        np.testing.assert_array_equal(fields["query_vectors"], fields["translation"])
        assert np.flatnonzero(np.abs(fields["translation"]).sum(-1)).tolist() == [0, 1, 2, 3, 4]


def test_saliency_follows_the_clips():
    # Clips of 2 s with scores 0..3 in all; a video of 8 s seen as two rows has centres 2 s and 6 s.
    scores = np.array([[0, 0, -1], [1, 1, -1], [-1, -1, -1], [1, 1, 1]])
    found = _saliency(scores, np.array([True, True, False]), 8.0)
    np.testing.assert_array_equal(found, [2.0, 3.0, 0.0])
    assert not _saliency(None, np.ones(3, bool), 8.0).any()


def test_a_given_vocabulary(data_dir, tmp_path):
    path = tmp_path / "words.json"
    path.write_text(json.dumps({"<PAD>": 0, "<UNK>": 1, "door": 3, "opens": 2}))
    assert Experiment(tiny_config(data_dir, text__vocabulary=str(path))).vocabulary == ["opens", "door"]
    path.write_text('"door"')
    with pytest.raises(UserError, match=r"config.text.vocabulary\) holds no vocabulary"):
        Experiment(tiny_config(data_dir, text__vocabulary=str(path)))


def test_subwords_and_the_two_queries(charades, tmp_path):
    # "a person opens": the noun chunk is static, the verb dynamic; special tokens are in both.
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "person", "open", "##s", "the", "door"]
    (tmp_path / "vocab.txt").write_text("\n".join(pieces) + "\n")
    config = charades_config(charades, tmp_path)
    names = ("subwords", "subword_static", "subword_dynamic")
    with config.unlocked():
        config.text.encoder, config.text.max_subwords = "distilbert", 8
    with pytest.raises(UserError, match=r"Set config.text.encoder to 'distilbert' or 'clip'"):
        query_input.check_text(config, names)
    with config.unlocked():
        config.text.encoder_dir = str(tmp_path)
    read = query_input.QueryReader(config, [], WordVectors(["a"], np.zeros((1, 5), np.float32)), names)
    query = Query("q", "A person opens", (0.0, 1.0), static=[(0, 8)])
    found = read(query, read.tokens(query))
    assert found["subwords"].tolist() == [2, 5, 6, 7, 8, 3, 0, 0]
    assert found["subword_mask"].tolist() == [True] * 6 + [False] * 2
    assert found["subword_static"].tolist() == [True, True, True, False, False, True, False, False]
    assert found["subword_dynamic"].tolist() == [True, False, False, True, True, True, False, False]
    spec = batch_spec(config, 1, names)
    assert {name: value.shape for name, value in found.items()} == {
        n: getattr(spec, n).shape[1:] for n in found
    }
