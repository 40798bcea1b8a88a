"""Intervals and tests over videos, against loops, enumeration and known answers."""

import itertools
import time

import numpy as np
import pytest

from vmr_jax.evaluation import significance
from vmr_jax.evaluation.significance import bootstrap_interval, draws, holm, interval, sign_flip_test


def clustered(rng, videos, mean=0.4, most=8):
    """Hits [Q,1] and owners [Q]: each video has 1 to `most` queries and a difficulty of its own."""
    owner = np.repeat(np.arange(videos), rng.integers(1, most + 1, videos))
    difficulty = rng.choice([mean - 0.3, mean + 0.3], videos)
    return (rng.random(len(owner)) < difficulty[owner]).astype(float)[:, None], owner


def test_interval_equals_a_loop_over_the_same_draws():
    rng = np.random.default_rng(0)
    values, owner = rng.random((11, 2)), np.asarray([0, 0, 0, 1, 2, 2, 3, 3, 3, 3, 4])
    means = []
    for draw in draws(5, seed=3):
        rows = [row for video in draw for row in range(11) if owner[row] == video]
        means.append([sum(values[row, m] for row in rows) / len(rows) for m in range(2)])
    expected = [[sorted(column)[24], sorted(column)[25], sorted(column)[974], sorted(column)[975]]
                for column in zip(*means)]  # fmt: skip
    found = bootstrap_interval(values, owner, seed=3)
    # The 2.5% point of 1000 numbers lies at place 0.025 * 999 = 24.975, the 97.5% point at 974.025.
    for m, (a, b, c, d) in enumerate(expected):
        assert found[:, m] == pytest.approx([a + 0.975 * (b - a), c + 0.025 * (d - c)], abs=1e-12)


def test_labels_and_order_of_videos_do_not_matter_but_the_seed_does():
    values, owner = clustered(np.random.default_rng(1), 30)
    first = bootstrap_interval(values, owner, seed=0)
    names = np.asarray([f"video {i:03d}" for i in range(30)])
    order = np.random.default_rng(2).permutation(len(owner))
    np.testing.assert_allclose(
        first, bootstrap_interval(values[order], names[owner][order], seed=0), atol=1e-12
    )
    assert not np.array_equal(first, bootstrap_interval(values, owner, seed=1))


def test_interval_covers_the_true_mean_as_often_as_it_says():
    # The true mean is 0.4. Of 200 data sets of 80 videos, 95% of the intervals should cover it; the binomial
    # standard deviation is sqrt(200 * 0.95 * 0.05) = 3.1, and percentile intervals of 80 clusters cover a
    # little less. The bounds are four deviations around 187.
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        values, owner = clustered(rng, 80)
        low, high = bootstrap_interval(values, owner, seed=0)[:, 0]
        covered += low <= 0.4 <= high
    assert 175 <= covered <= 199


def test_interval_is_of_videos_not_of_queries():
    # 100 videos of 10 equal queries hold 100 independent answers: half of them hits, the standard deviation of
    # the mean is sqrt(0.25 / 100) = 0.05, so the interval is about 2 * 1.96 * 0.05 = 0.196 wide. Queries taken
    # as independent would give 0.062.
    values, owner = np.repeat([0.0, 1.0], 500)[:, None], np.repeat(np.arange(100), 10)
    low, high = bootstrap_interval(values, owner, seed=0)[:, 0]
    assert high - low == pytest.approx(0.196, rel=0.1)


def test_one_video_and_equal_values_have_no_width():
    assert bootstrap_interval(np.asarray([[0.0], [1.0]]), np.asarray([7, 7]), 0).tolist() == [[0.5], [0.5]]
    assert bootstrap_interval(np.ones((4, 1)), np.arange(4), 0).tolist() == [[1.0], [1.0]]


def test_seventeen_thousand_queries_take_seconds_at_most():
    # 17,031 queries of 4,885 videos, as ActivityNet val_2. A plain loop over queries takes minutes; the bound
    # leaves room for a busy machine.
    rng = np.random.default_rng(0)
    values, owner = rng.random((17_031, 7)), np.sort(rng.integers(4885, size=17_031))
    start = time.perf_counter()
    bootstrap_interval(values, owner, 0)
    assert time.perf_counter() - start < 5


def test_sign_flips_by_hand():
    # Three videos with the sums 2, 1, 1: of the eight sign patterns only +++ and --- reach |4|. p = 2 / 8.
    # Sums 2, -1, 0: the sign of the zero does not matter, and |1| is reached by all patterns (1, 3). p = 1.
    differences = np.asarray([[1.0, 1.0], [1.0, 1.0], [1.0, -1.0], [1.0, 0.0]])
    assert sign_flip_test(differences, np.asarray([0, 0, 1, 2]), 0).tolist() == [0.25, 1.0]


def test_systems_that_never_differ():
    assert sign_flip_test(np.zeros((5, 2)), np.arange(5), 0).tolist() == [1.0, 1.0]


def test_drawn_flips_agree_with_all_of_them(monkeypatch):
    rng = np.random.default_rng(5)
    differences, owner = rng.integers(-1, 2, (40, 1)) + 0.15, np.repeat(np.arange(10), 4)
    sums = [differences[owner == v].sum() for v in range(10)]
    totals = [sum(s * x for s, x in zip(signs, sums)) for signs in itertools.product((1, -1), repeat=10)]
    expected = np.mean([abs(t) >= abs(sum(sums)) - 1e-9 for t in totals])
    assert 0.05 < expected < 0.95
    assert sign_flip_test(differences, owner, 0)[0] == expected
    monkeypatch.setattr(significance, "_EXACT", 0)
    # 10,000 draws: the standard deviation is at most 0.005.
    assert sign_flip_test(differences, owner, 0)[0] == pytest.approx(expected, abs=0.02)


def test_drawn_p_is_never_zero():
    assert sign_flip_test(np.ones((40, 1)), np.arange(40), 0).tolist() == [1 / 10_001]


def test_p_is_uniform_where_systems_are_alike():
    # Under the null a p-value below 0.1 has a chance of at most 0.1: 150 tests, mean 15, deviation 3.7.
    rng = np.random.default_rng(0)
    small = sum(
        sign_flip_test(rng.normal(size=(24, 1)) + np.repeat(rng.normal(size=12), 2)[:, None],
                       np.repeat(np.arange(12), 2), 0)[0] <= 0.1
        for _ in range(150)
    )  # fmt: skip
    assert 3 <= small <= 28


def test_holm_by_hand():
    # Sorted .01 .03 .04 times 3, 2, 1: .03 .06 .04; never smaller than the one before: .03 .06 .06.
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5]) == pytest.approx([0.5])
    assert holm([0.6, 0.7]) == pytest.approx([1.0, 1.0])


def test_where_nothing_was_found_the_interval_says_how_much_may_be():
    owner = np.repeat(np.arange(9), 2)  # 18 queries of nine videos
    values = np.stack([np.zeros(18), np.ones(18), np.arange(18) % 2], axis=1)
    found = interval(values, owner, 0)
    # No hit in 9 draws has the probability (1 - p)^9, which is 0.025 at p = 0.3363 (Clopper, Pearson).
    np.testing.assert_allclose(found[:, 0], [0, 0.3363], atol=5e-5)
    np.testing.assert_allclose(found[:, 1], [0.6637, 1], atol=5e-5)
    np.testing.assert_array_equal(found[:, 2], bootstrap_interval(values, owner, 0)[:, 2])
    same = interval(np.zeros((18, 1)), owner, 0, bounds=(-1.0, 1.0))  # two systems of one answer
    np.testing.assert_allclose(same[:, 0], [-0.3363, 0.3363], atol=5e-5)
    # Weights 1 and 2 of half the queries each: (9 + 18)^2 / (9 + 36) = 16.2 queries, more than videos.
    weighted = interval(values, owner, 0, 1.0 + np.arange(18) % 2)
    np.testing.assert_allclose(weighted[:, 0], found[:, 0])
    few = interval(np.zeros((3, 1)), np.arange(3), 0, np.asarray([4.0, 1.0, 1.0]))
    np.testing.assert_allclose(few[:, 0], [0, 1 - 0.025**0.5])  # 6^2 / 18 = 2 queries
