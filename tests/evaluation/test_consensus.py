"""DiDeMo's and TEMPO's consensus as a protocol: segments of models, types, refusals, MCN chosen by Rank@1."""

import importlib
import json

import h5py
import numpy as np
import pytest
from counted import OPTIONS, Sum
from ml_collections import ConfigDict

from vmr_jax import models
from vmr_jax.configs import mcn
from vmr_jax.errors import UserError
from vmr_jax.evaluation import metrics
from vmr_jax.evaluation.evaluator import Evaluator
from vmr_jax.evaluation.prediction_files import Prediction, PredictionFile
from vmr_jax.evaluation.protocols import Consensus, check_selection, make_protocol
from vmr_jax.evaluation.significance import bootstrap_interval
from vmr_jax.evaluation.trivial import trivial_rows
from vmr_jax.input.dataset import Split, Video
from vmr_jax.input.schema import Query
from vmr_jax.modes.train import train
from vmr_jax.training.experiment import Experiment

RANKS = {"keep": 21, "nms_threshold": 1.0, "top_n": (1, 5)}


def protocol_with(**fields):
    return Consensus(ConfigDict({**OPTIONS.to_dict(), **RANKS, **fields}))


def split_of(*windows, tags=None, name="test"):
    """Queries q0, q1, ... of a video of 30 s each, with the moments of their annotators."""
    tags = tags or [()] * len(windows)
    queries = [
        Query(f"q{i}", "a dog runs", moments[0], windows=moments, tags=of_query)
        for i, (moments, of_query) in enumerate(zip(windows, tags))
    ]
    videos = [Video(f"v{i}", 30.0, {}) for i in range(len(windows))]
    return Split(name, videos, queries, np.arange(len(windows)))


# --- segments of a model's moments ----------------------------------------------------------------


def test_moments_become_the_nearest_segments_each_at_its_best_place():
    # [4,11] is nearest to [5,10] (IoU 5/7; [0,10] and [5,15] have 6/11), [0,9] to [0,10], [6,10] to [5,10].
    protocol, split = protocol_with(), split_of([(5, 10)] * 4)
    spans = np.asarray([[[4.0, 11.0], [0.0, 9.0], [6.0, 10.0], [0.0, 0.0]]])
    scores = np.asarray([[0.9, 0.8, 0.7, -np.inf]])
    found = protocol.finish(split, protocol.ranked(spans, scores))
    assert found.spans.shape == (1, 21, 2) and len(np.unique(found.spans[0], axis=0)) == 21
    assert found.spans[0, :3].tolist() == [[5, 10], [0, 10], [0, 5]]  # then the others in the order of time
    assert found.scores[0, :3].tolist() == [0.9, 0.8, 0.7] and (found.scores[0, 3:] == 0.7).all()
    assert found.metrics() == {"Rank@1": 100, "Rank@5": 100, "mIoU": 100}
    assert list(found.metrics()) == protocol.metric_names()


def test_all_segments_of_a_model_stay_as_they_are():
    segments = np.asarray([[5.0 * i, 5.0 * j + 5] for i in range(6) for j in range(i, 6)], np.float32)
    order = np.random.default_rng(0).permutation(21)
    protocol, split = protocol_with(), split_of([(5, 10)] * 4)
    scores = np.linspace(1, 0, 21)[None]
    found = protocol.finish(split, protocol.ranked(segments[order][None], scores))
    np.testing.assert_array_equal(found.spans[0], segments[order])
    np.testing.assert_array_equal(found.scores, scores)


def test_a_model_without_a_moment_has_them_in_the_order_of_time():
    protocol, split = protocol_with(), split_of([(0, 5)] * 4)
    found = protocol.finish(split, protocol.ranked(np.zeros((1, 2, 2)), np.full((1, 2), -np.inf)))
    assert found.spans[0, :2].tolist() == [[0, 5], [0, 10]] and (found.scores == 0).all()


# --- types ----------------------------------------------------------------------------------------


def test_every_type_counts_alike_in_what_is_selected_and_in_its_interval():
    # Two queries of the type 'then' are right, two of 'before' wrong, one more 'before' right: types 1 and 1/3.
    split = split_of(*[[(0, 5)] * 3] * 5, tags=[("then",)] * 2 + [("before",)] * 3)
    first = np.asarray([[0, 5], [0, 5], [0, 30], [0, 30], [0, 5]], float)[:, None]
    protocol = protocol_with(top_n=(1,))
    found = protocol.finish(split, protocol.ranked(first, np.ones((5, 1))))
    assert found.metrics()["Rank@1"] == pytest.approx(100 * (1 + 1 / 3) / 2)
    groups = protocol.groups(split, found)
    assert groups["mean over types"]["Rank@1"] == pytest.approx(found.metrics()["Rank@1"])
    assert (groups["then"]["Rank@1"], groups["before"]["Rank@1"]) == pytest.approx((100, 100 / 3))
    # The interval is of the same mean: of values that are all 1/2 it is a point, of these it holds the mean.
    half = bootstrap_interval(np.full((5, 1), 0.5), split.owner, 0, found.weights)
    np.testing.assert_allclose(half[:, 0], [0.5, 0.5])
    low, high = bootstrap_interval(found.values["Rank@1"][:, None], split.owner, 0, found.weights)[:, 0]
    assert low < 2 / 3 < high


def test_equal_weights_change_no_interval():
    values, owner = np.random.default_rng(0).random((9, 2)), np.repeat([0, 1, 2], 3)
    weighted = bootstrap_interval(values, owner, 0, np.full(9, 0.25))
    np.testing.assert_allclose(weighted, bootstrap_interval(values, owner, 0), rtol=1e-12)


# --- refused early --------------------------------------------------------------------------------


@pytest.mark.parametrize("fields", [{"keep": 5}, {"nms_threshold": 0.5}, {"nms_margin": 0.05}])
def test_options_that_leave_out_segments(fields):
    with pytest.raises(UserError, match="ranks all 21 segments, and config.evaluation has keep="):
        protocol_with(**fields).prepare(Sum(), split_of([(0, 5)] * 4))


@pytest.mark.parametrize("dataset", ["didemo", "tempo"])
def test_every_config_of_the_dataset_can_be_counted_and_selected(dataset):
    counted = []
    for name in models.architectures():
        module = importlib.import_module(f"vmr_jax.configs.{name}")
        if dataset in module.DATASETS:
            options = module.get_config(dataset).evaluation
            protocol = make_protocol(options)
            protocol.prepare(Sum(), split_of([(0, 5)] * 4))
            check_selection(options, protocol)
            counted.append((name, protocol.name, options.select_by))
    assert len(counted) >= 14 and {row[1:] for row in counted} == {("consensus", "Rank@1")}


def test_splits_that_it_cannot_count():
    protocol_with().prepare(Sum(), split_of([(0, 5)] * 4))
    with pytest.raises(UserError, match="annotations of test: query q0 has the moment 0 to 7 s"):
        protocol_with().prepare(Sum(), split_of([(0, 7)] * 4))
    with pytest.raises(UserError, match="1 of 2 queries of test have no type, such as q1"):
        protocol_with().prepare(Sum(), split_of([(0, 5)] * 3, [(0, 5)] * 3, tags=[("then",), ()]))


def test_selection_is_by_its_own_metrics():
    protocol = protocol_with()
    check_selection(ConfigDict({"select_by": "Rank@5"}), protocol)
    with pytest.raises(
        UserError, match='consensus config.evaluation.select_by is "R@1". Did you mean "Rank@1"'
    ):
        check_selection(ConfigDict({"select_by": "R@1"}), protocol)


def test_the_prior_is_of_the_segments():
    train = split_of(*[[(25, 30)] * 4] * 3, [(0, 5)] * 4)
    split = split_of([(25, 30)] * 4, [(0, 5)] * 4)
    rows = trivial_rows(protocol_with(), train, split, 0)
    # Ranked by the training moments they hit: [25,30] of three, then those with IoU 1/2, then [0,5] of one.
    assert rows["best span of the training prior"]["Rank@1"] == 50
    assert rows["whole video"]["mIoU"] == pytest.approx(100 / 6)


# --- a run ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def didemo(tmp_path_factory, data_dir):
    """MCN's config on a DiDeMo folder of a few videos with random features."""
    folder, rng = tmp_path_factory.mktemp("didemo"), np.random.default_rng(0)
    with h5py.File(folder / "average_fc7.h5", "w") as features:
        for split, count in (("train", 8), ("val", 6), ("test", 6)):
            rows = []
            for i in range(count):
                video = f"{split}{i}.mov"
                features[video] = rng.random((6, 12), np.float32)
                first = rng.integers(0, 5, 4)
                rows.append(
                    {
                        "annotation_id": f"{split}{i}", "description": f"a dog runs {i}", "video": video,
                        "times": [[int(f), int(rng.integers(f, 6))] for f in first], "num_segments": 6,
                    }
                )  # fmt: skip
            (folder / f"{split}_data.json").write_text(json.dumps(rows))
    config = mcn.get_config("didemo,vgg")
    config.dataset.manual_dir, config.dataset.data_dir = str(folder), str(data_dir)
    config.dataset.feature_dim = 12
    config.text.vectors, config.text.dim = "none", 5
    config.model.update(hidden=8, features=6, lstm_features=8)
    config.batch_size = config.evaluation.batch_size = 8
    config.optimizer.decay_at = ()
    config.train_for, config.evaluate_every = "4 steps", "2 steps"
    config.evaluation.splits = ("val", "test")
    return config.lock()


def test_mcn_is_selected_by_rank_1(didemo, tmp_path):
    assert (didemo.evaluation.protocol, didemo.evaluation.select_by) == ("consensus", "Rank@1")
    train(didemo, tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    selected = [line["val/Rank@1"] for line in lines if "val/Rank@1" in line]
    assert len(selected) == 2
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["best_step"] == (2 if selected[0] >= selected[1] else 4)
    rows = results["splits"]["val"]["rows"]
    assert rows[0]["metrics"]["Rank@1"] == max(selected) and set(rows[0]["metrics"]) == {
        "Rank@1",
        "Rank@5",
        "mIoU",
    }
    assert [row["kind"] for row in rows] == ["run", "sanity", "sanity", "trivial", "trivial", "trivial"]
    assert all(set(row["metrics"]) == set(rows[0]["metrics"]) for row in rows)


def test_the_ranks_of_a_model_are_those_of_the_official_evaluation(didemo):
    """Each annotator's segment is looked up in the ranked list, as LocalizingMoments does."""
    experiment = Experiment(didemo)
    loader = experiment.loader("test")
    evaluator = Evaluator(didemo, experiment.model, experiment.parallel)
    found = evaluator.run(experiment.parallel.replicate(experiment.initial_variables()), loader)
    expected = []
    for query, spans in zip(loader.split.queries, found.spans):
        ranked = [tuple(span) for span in spans.tolist()]
        ranks = sorted(ranked.index(tuple(window)) + 1 for window in query.windows)
        expected.append(np.mean(ranks[:3]) <= 5)
    np.testing.assert_array_equal(found.values["Rank@5"], expected)


def test_files_of_a_program_that_ranks_fewer_are_refused_without_types():
    protocol, split = protocol_with(), split_of([(5, 10)] * 4)
    rows = [Prediction("q0", np.asarray([[0.0, 5.0, 1.0]]))]
    with pytest.raises(UserError, match="is not ranked"):
        protocol.read(split, PredictionFile("FILE", {"SVMR": rows}))
    typed = split_of([(5, 10)] * 3, tags=[("then",)])
    assert protocol.read(typed, PredictionFile("FILE", {"SVMR": rows})).metrics()["Rank@5"] == 0
    assert metrics.SEGMENTS == 21
