"""The command that measures an accelerator, on the CPU at tiny sizes; its parts with numbers made by hand."""

import csv
import sys
from pathlib import Path

import numpy as np
import pytest
from absl import flags

from vmr_jax.errors import UserError

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
COLUMNS = (
    "stage", "subject", "setting", "dtype", "quantity", "value", "unit", "p10", "p90", "of_copy", "of_matrix",
    "torch_eager", "torch_compiled", "times_eager", "times_compiled", "tolerance", "within", "note",
    "seconds", "command", "commit", "machine",
)  # fmt: skip


@pytest.fixture(scope="module")
def accelerator():
    """The program and the modules beside it; its flags are its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        import accelerator as program
    return program


def run(program, monkeypatch, output, *arguments):
    """What the CSV holds afterwards."""
    holder = flags.FlagValues()
    program.define_flags(holder)
    holder(["accelerator.py", "--size=tiny", "--seconds=0.01", f"--output={output}", *arguments])
    monkeypatch.setattr(program, "FLAGS", holder)
    program.main([])
    with output.open(encoding="utf-8", newline="") as file:
        return [*csv.DictReader(file)]


def test_every_stage_has_its_lines_and_a_second_start_goes_on(accelerator, monkeypatch, tmp_path, capsys):
    output = tmp_path / "lines.csv"
    stages = ("correctness", "training", "frames")
    rows = run(accelerator, monkeypatch, output, "--models=mcn", f"--stages={','.join(stages)},search")
    assert tuple(rows[0]) == COLUMNS
    # Copies and products in two dtypes; each dtype of the gradient, of training and of frames; for rows in
    # three dtypes the searches of 1 and 32 queries at once.
    counted = [(row["stage"], row["dtype"]) for row in rows if "recall" not in row["quantity"]]
    assert sorted(counted) == sorted(
        [("machine", "float32")] * 2 + [("machine", "bfloat16")]
        + [(stage, dtype) for stage in stages for dtype in ("float32", "bfloat16")]
        + [("search", dtype) for dtype in ("float32", "bfloat16", "int8")] * 2
    )  # fmt: skip
    assert not [row for row in rows if row["quantity"] == "failed"]
    assert all(float(row["value"]) > 0 for row in rows if row["stage"] != "correctness")
    exact, rounded = (row for row in rows if row["stage"] == "correctness")
    # On the CPU the accelerator is the CPU: nothing differs in float32, and bfloat16 by what it loses.
    assert float(exact["value"]) == 0 < float(rounded["value"]) < 0.5
    assert (exact["within"], rounded["within"]) == ("yes", "yes")
    assert "Correct: 2 of 2; beyond their tolerance: none." in capsys.readouterr().out

    monkeypatch.setattr(accelerator, "begin", None)  # nothing is measured again
    assert run(accelerator, monkeypatch, output, "--models=mcn", f"--stages={','.join(stages)}") == rows
    # Without time for one more architecture, what is there stays, and what is left is said.
    monkeypatch.setattr(accelerator.Clock, "left", lambda self, stage: 0.0)
    assert run(accelerator, monkeypatch, output, "--models=mcn,ctrl", "--stages=training") == rows
    assert "Not measured for lack of time: training (ctrl)." in capsys.readouterr().out


def test_an_item_that_fails_is_a_line_and_the_next_is_measured(accelerator, monkeypatch, tmp_path, capsys):
    def items(stage, *_):
        def fails(compiled):
            raise ValueError("too large\nfor this device")

        class Found:
            def __init__(self, name, lines):
                self.key = (stage, name, "", "float32")
                self.prepare = lambda: sys.modules["items"].Prepared([], lines)

        return [
            Found("a", fails),
            Found("b", lambda compiled: [{"quantity": "steps", "value": "2", "unit": "steps/s"}]),
        ]

    monkeypatch.setattr(accelerator, "items", items)
    rows = run(accelerator, monkeypatch, tmp_path / "lines.csv", "--stages=training")
    found = [(row["subject"], row["quantity"], row["note"]) for row in rows if row["stage"] == "training"]
    assert found == [("a", "failed", "ValueError: too large"), ("b", "steps", "")]
    assert "Failed: training a (float32). Delete their lines" in capsys.readouterr().out


def test_a_csv_of_another_machine_or_program_is_refused(accelerator, monkeypatch, tmp_path):
    output = tmp_path / "lines.csv"
    output.write_text(",".join(COLUMNS) + "\n" + "," * (len(COLUMNS) - 1) + "another\n", encoding="utf-8")
    with pytest.raises(UserError, match="another machine or with other versions \\(another\\)"):
        run(accelerator, monkeypatch, output, "--stages=machine")
    output.write_text("row,split\n", encoding="utf-8")
    with pytest.raises(UserError, match="has other columns"):
        run(accelerator, monkeypatch, output, "--stages=machine")
    with pytest.raises(UserError, match='Did you mean "training"'):
        run(accelerator, monkeypatch, tmp_path / "none.csv", "--stages=trainin")


def test_a_stage_has_what_those_before_it_left(accelerator, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(sys.modules["lines"].time, "monotonic", lambda: now[0])
    clock = accelerator.Clock(100, {"a": 1, "b": 3, "c": 1})  # they end after 20, 80 and 100 seconds
    now[0] = 5.0
    assert [clock.left(stage) for stage in "abc"] == [15, 75, 95]
    now[0] = 90.0
    assert [clock.left(stage) for stage in "abc"] == [-70, -10, 10]


def test_a_difference_is_that_of_the_loss_or_of_all_gradients(accelerator):
    find = sys.modules["differences"].largest_difference
    reference = (2.0, {"a": np.array([3.0, 0.0]), "b": np.array([-4.0])})  # a gradient of norm 5
    assert find(reference, (2.1, reference[1])) == (pytest.approx(0.05), "the loss")  # 0.1 of 2
    # 0.3 in one array and 0.4 in another are 0.5 of 5, most of it in the second.
    other = {"a": np.array([3.0, 0.3]), "b": np.array([-4.4])}
    assert find(reference, (2.1, other)) == (pytest.approx(0.1), "b")
    assert find(reference, (2.0, {**other, "a": np.array([3.0, np.nan])})) == (np.inf, "a")
    assert find(reference, reference) == (0.0, "the loss")


def test_rows_of_every_dtype_are_of_the_same_numbers(accelerator):
    search = sys.modules["device_search"]
    exact, nothing = search.make_rows(256, 16, "float32")
    np.testing.assert_allclose(np.linalg.norm(exact, axis=1), 1, rtol=1e-5)
    small, scales = search.make_rows(256, 16, "int8")
    assert nothing is None and small.dtype == np.int8
    # Rounding is half a step at most, and the largest number of a row is 127 steps.
    error = np.abs(np.asarray(small) * np.asarray(scales)[:, None] - np.asarray(exact))
    assert (error <= 0.501 * np.asarray(scales)[:, None]).all()
    assert (np.abs(np.asarray(small, int)).max(1) == 127).all()
    assert search.recall(np.array([[3, 1], [5, 7]]), np.array([[1, 3], [7, 9]])) == 0.75  # 2 of 2, 1 of 2


def test_a_step_of_pytorch_has_a_dtype(accelerator):
    """By autocast, with the loss in float32; and it trains."""
    pytest.importorskip("torch")
    steps, speed = sys.modules["training_steps"], sys.modules["device_speed"]
    size = sys.modules["items"].SIZES["tiny"]
    losses = []
    for dtype in ("float32", "bfloat16"):
        config = speed.make_config("vslnet", dtype, size)
        config.model.dropout = 0.0
        config.optimizer.learning_rate = 1e-4
        spec = speed.batch_spec(config, config.batch_size, speed.make_model(config).requires())
        step = steps.TorchStep("vslnet", config, steps.random_batch(spec), dtype=dtype)
        losses.append([step(), step()])
    (first, second), (rounded, _) = losses
    assert second < first and 0 < abs(rounded / first - 1) < 0.02
