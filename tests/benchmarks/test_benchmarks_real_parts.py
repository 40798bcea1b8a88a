"""The runs on the real features by parts of the test split, and beside what a query costs."""

import json

import numpy as np
import pytest


@pytest.fixture(scope="module")
def subsets(program):
    """The program of the parts."""
    return program("real_subsets")


def test_a_pair_is_found_with_and_without_its_full_stop(subsets, tmp_path):
    file = tmp_path / "part.json"
    file.write_text(json.dumps({"A": {"sentences": ["Person sits.", "a dog runs"]}}), encoding="utf-8")
    pairs = [subsets.pair("A", "person sits"), subsets.pair("B", "person sits."), subsets.pair("A", "a dog")]
    assert list(subsets.of_file(file, pairs)) == [True, False, False]


def test_a_moment_is_in_the_third_of_its_middle(subsets):
    thirds = subsets.of_thirds(np.asarray([0.0, 0.3, 1 / 3, 0.7, 1.0]))  # the last one ends with its video
    assert {name: list(found) for name, found in thirds.items()} == {
        "first": [True, True, False, False, False],
        "middle": [False, False, True, False, False],
        "last": [False, False, False, True, True],
    }


def test_shares_are_of_the_first_moment_of_each_query_of_the_part(subsets):
    rows = [
        {"vid": "A", "query": "one.", "iou": 0.333333},
        {"vid": "A", "query": "two", "iou": 0.7},
        {"vid": "B", "query": "one", "iou": 1.0},
    ]
    pairs = [subsets.pair("B", "one"), subsets.pair("A", "one"), subsets.pair("A", "two")]
    ious = subsets.of_predictions(rows, pairs)
    assert list(ious) == [1.0, 0.333333, 0.7]  # in the order of the pairs
    members = {"all": np.asarray([True, True, True]), "A": np.asarray([False, True, True])}
    assert subsets.shares(ious, members) == {
        # An IoU of 0.7 is enough for 0.7: two of three, and one of two.
        "all_r1_iou05": "66.67", "all_r1_iou07": "66.67", "A_r1_iou05": "50.00", "A_r1_iou07": "50.00",
    }  # fmt: skip


def test_the_picture_shows_the_mean_over_seeds_of_one_budget(program):
    rows = [
        {"row": "fvmr", "split": "test", "budget": "3", "r1_iou05": "38.0"},
        {"row": "fvmr", "split": "test", "budget": "3", "r1_iou05": "40.0"},
        {"row": "fvmr", "split": "test", "budget": "10", "r1_iou05": "50.0"},
        {"row": "fvmr", "split": "val", "budget": "3", "r1_iou05": "60.0"},
        {"row": "random span", "split": "test", "budget": "", "r1_iou05": "11.25"},
    ]
    assert program("real_cost").of_budget(rows, 3.0) == {"fvmr": 39.0}
