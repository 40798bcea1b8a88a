"""The program that times training steps beside PyTorch: rows, what it skips, and rivals that are not there."""

import contextlib
import csv
import importlib
import sys
import time

import numpy as np
import pytest
from absl import flags

from vmr_jax.errors import UserError
from vmr_jax.input.spec import batch_spec


@pytest.fixture
def training(program, monkeypatch):
    """The program, with flags of its own and nothing that takes time; `training.set(...)` gives flags."""
    module = program("training")

    def set_flags(*given):
        holder = flags.FlagValues()
        module.define_flags(holder)
        holder(["training.py", *given])
        monkeypatch.setattr(module, "FLAGS", holder)

    monkeypatch.setattr(module, "matrix_rate", lambda dtype: 1e9)
    monkeypatch.setattr(module, "set", set_flags, raising=False)
    monkeypatch.setattr(sys, "argv", ["benchmarks/training.py"])
    return module


def measured(module, **changed):
    """Ours takes 10, 20 and 30 ms, 4 examples and 1e7 operations each."""
    fields = dict(batch_size=4, first=2.5, ours=[0.01, 0.02, 0.03], theirs={}, flops=1e7, torch_first=np.nan)
    return module.Measured(**{**fields, "notes": [], **changed})


def test_a_row_has_medians_and_the_median_of_the_ratios(training):
    theirs = {"eager": [0.03, 0.03, 0.03], "compiled": [0.02, 0.03, 0.06]}
    line = training.row(measured(training, theirs=theirs, torch_first=31.0, notes=["a", "b"]), peak=1e9)
    # The median step takes 20 ms: 4 / 0.02 examples and 1e7 / 0.02 operations a second, half of the peak.
    expected = {"step_ms": "20.0", "examples_per_second": "200.0", "gflop": "0.0", "percent_of_peak": "50"}
    # Eager takes 3, 1.5 and 1 times as long, compiled 2, 1.5 and 2 times.
    expected |= {"eager_ms": "30.0", "times_eager": "1.50", "compiled_ms": "30.0", "times_compiled": "2.00"}
    # Percentiles interpolate: a tenth of the way from 10 to 30 ms is 12.
    expected |= {"p10_ms": "12.0", "p90_ms": "28.0", "compile_s": "2.5", "torch_compile_s": "31.0"}
    assert line.items() >= {**expected, "batch": "4", "note": "a; b"}.items()
    assert not {"times_eager", "torch_compile_s"} & training.row(measured(training), peak=1e9).keys()


def test_what_stands_there_of_the_same_commit_is_not_measured_again(training, monkeypatch, tmp_path):
    asked, commits = [], iter(["a", "a", "b"])
    monkeypatch.setattr(training, "measure", lambda *key: asked.append(key) or measured(training))
    monkeypatch.setattr(training, "command_and_commit", lambda given: {"command": "c", "commit": next(commits)})
    for models in ("vslnet", "vslnet,excl", "vslnet"):
        training.set(f"--models={models}", f"--csv={tmp_path / 'rows.csv'}")
        training.main([])
    first = [("vslnet", "storyboard", 0, "float32"), ("vslnet", "charades_sta,i3d", 16, "float32")]
    assert asked == [*first, ("excl", "storyboard", 0, "float32"), *first]
    with (tmp_path / "rows.csv").open(encoding="utf-8", newline="") as file:
        rows = [*csv.DictReader(file)]
    assert [(row["model"], row["commit"]) for row in rows] == [
        ("vslnet", "a"), ("vslnet", "a"), ("excl", "a"), ("vslnet", "b"), ("vslnet", "b"),
    ]  # fmt: skip
    training.set("--rivals=eagre")
    with pytest.raises(UserError, match='Did you mean "eager"'):
        training.main([])


def test_what_matters_most_comes_first(training):
    """The storyboard, then the published settings, then the other architectures."""
    training.set()
    found = training.settings(["two_d_tan", "vslnet", "acrm"])
    assert found == [
        ("two_d_tan", "storyboard", 0), ("vslnet", "storyboard", 0), ("two_d_tan", "charades_sta,vgg", 2),
        ("vslnet", "charades_sta,i3d", 16), ("acrm", "storyboard", 0),
    ]  # fmt: skip


def test_a_rival_that_fails_is_named_and_the_other_is_timed(training, monkeypatch):
    ended = []

    class Step:
        """Of PyTorch, here and in another process."""

        twin = None

        def __init__(self, name, config, batch, compiled=False, threads=1):
            self.compiled = compiled

        def __enter__(self):
            return self

        def __exit__(self, *_):
            ended.append("compiled" if self.compiled else "eager")

        def __call__(self):
            if self.compiled:
                raise training.RivalFailed("RuntimeError: no compiler")

    class Module:
        variables = staticmethod(lambda twin: "weights")

    training.set("--rivals=eager,compiled")
    monkeypatch.setattr(training, "TorchStep", Step)
    monkeypatch.setattr(training, "RivalStep", Step)
    monkeypatch.setattr(training, "torch_twin", lambda name: (None, Module))
    monkeypatch.setattr(training, "check_first_step", lambda *given: False)
    with contextlib.ExitStack() as stack:
        rivals, notes, variables, drops = training.start_rivals("excl", None, None, stack)
        assert ([*rivals], notes) == (["eager"], ["compiled: RuntimeError: no compiler"])
        assert (variables, drops) == ("weights", False)
        assert ended == ["compiled"]
    assert ended == ["compiled", "eager"]

    def another(*given):
        raise AssertionError("Not equal to tolerance")

    monkeypatch.setattr(training, "check_first_step", another)
    found = training.start_rivals("excl", None, None, stack)
    assert found == ({}, ["eager: the loss of the first step is another"], None, True)


def test_a_rival_has_a_time_in_which_to_start(training):
    with pytest.raises(TimeoutError, match="not ready after 0 s"), training.seconds_left(0.01):
        time.sleep(5)
    with training.seconds_left(0.01):
        pass
    time.sleep(0.02)  # nothing is left that ends


@pytest.mark.parametrize("name, drops", [("acrm", False), ("vslnet", True)])
def test_whether_a_twin_drops_what_the_config_says(program, name, drops):
    """ACRM's does not, where its config says 0.5; VSLNet's does."""
    pytest.importorskip("torch")
    steps = program("training_steps")
    assert {"acrm", "vslnet", "drn", "lgi"} <= {*steps.trainable()} and "avmr" not in steps.trainable()
    config = importlib.import_module(f"vmr_jax.configs.{name}").get_config("storyboard")
    config.batch_size, config.model.features = 2, 16
    spec = batch_spec(config, 2, steps.make_model(config).requires())
    batch = steps.random_batch(spec)
    step = steps.TorchStep(name, config, batch)
    variables = steps.torch_twin(name)[1].variables(step.twin)
    assert steps.check_first_step(step, name, config, batch, variables) is drops
    still = steps.without_dropout(config)
    assert still.model.dropout == 0 < config.model.dropout
    assert steps.check_first_step(step, name, still, batch, variables)  # it is asked to drop nothing


def test_a_computation_has_a_thread_at_least(training):
    training.set("--threads=1")
    with pytest.raises(flags.IllegalFlagValueError, match="--threads=0"):
        training.set("--threads=0")
