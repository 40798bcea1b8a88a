"""Operations of convolutions over maps that are done and that are needed, on a map small enough to count."""

import importlib

import numpy as np
import pytest

from vmr_jax.input.spec import batch_spec
from vmr_jax.training.experiment import make_model

TRIANGLE = np.array([[True, True], [False, True]])
SIZES = {"shape": (2, 2, 2, 3), "kernel": (3, 3), "features": 5, "padding": "SAME"}


@pytest.fixture(scope="module")
def dead_work(program):
    """The program."""
    return program("dead_work")


def test_operations_of_three_cells(dead_work):
    told = dead_work.Convolution(**SIZES, source=TRIANGLE, target=TRIANGLE)
    # Two maps; a cell has 9 products of 3 by 5 numbers, two operations each: 270. Three cells of the result
    # count twice, and three of the source once: 9.
    assert dead_work.needed(told) == 2 * 270 * 9
    # One band of two rows; three columns come out, one more than go in.
    assert dead_work.cells(told) == (3, 3, 6)
    # Each of its cells reads three rows, of which XLA does not know that one is zero; the first two of a row
    # read two columns, the third one: 3 * (2 + 2 + 1) products a row. The gradients have as many; what else is
    # done are a few numbers.
    assert dead_work.done(told) == pytest.approx(3 * (2 * 2 * 15 * 2 * 3 * 5), rel=0.005)


def test_a_convolution_that_is_not_told_what_matters(dead_work):
    whole = dead_work.Convolution(**SIZES)
    assert dead_work.cells(whole) == (4, 4, 4)
    assert dead_work.needed(whole) == 2 * 270 * 12
    # A corner reads two rows and two columns: 4 of the 9 products.
    assert dead_work.done(whole) == 3 * (2 * 4 * 4 * 2 * 3 * 5)
    # Without padding, 5 x 5 cells make 3 x 3.
    valid = dead_work.Convolution(**{**SIZES, "shape": (1, 5, 5, 1), "padding": "VALID"})
    assert dead_work.cells(valid) == (25, 9, 9)


def test_convolutions_are_found_in_a_step(dead_work):
    config = importlib.import_module("vmr_jax.configs.two_d_tan").get_config("storyboard")
    config.batch_size, config.model.features = 2, 8
    model = make_model(config)
    found = dead_work.traced(model, batch_spec(config, 2, model.requires()))
    # Four layers of 3 x 3 over a map of 16 clips, whose margin grows by a cell a layer and shrinks again; 136
    # of its cells are candidates.
    assert [(c.shape, c.kernel, c.features) for c in found] == [
        ((2, side, side, 8), (3, 3), 8) for side in (16, 18, 20, 18)
    ]
    assert int(found[0].source.sum()) == int(found[-1].target.sum()) == 136


def test_what_is_said(dead_work, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(dead_work, "traced", lambda model, batch: [dead_work.Convolution(**SIZES)])
    assert dead_work.measure("two_d_tan", "storyboard", 2)["times"] == "0.44"  # 4 of 9 products
    monkeypatch.setattr(dead_work, "traced", lambda model, batch: [])
    row = {"model": "two_d_tan", "setting": "storyboard", **dead_work.measure("two_d_tan", "storyboard", 2)}
    assert dead_work.said(row).endswith("no convolution over a map")
