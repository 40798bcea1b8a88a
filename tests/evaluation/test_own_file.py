"""A run's own predictions.jsonl gives the run's numbers to the last digit, by every protocol."""

import json
import subprocess
import sys

import numpy as np
import pytest
from made_up import CASES, collected_for, options_of, split_for

from vmr_jax.evaluation import prediction_files as files
from vmr_jax.evaluation.protocols import PROTOCOLS, make_protocol
from vmr_jax.evaluation.results import prediction_rows, split_of_rows


def test_every_protocol_has_a_case():
    assert {case.split(",")[0] for case in CASES} == set(PROTOCOLS)


@pytest.mark.parametrize("case", CASES)
def test_the_file_of_a_run_gives_its_numbers(case, tmp_path):
    rng = np.random.default_rng(0)
    protocol, split = make_protocol(options_of(case)), split_for(case, rng)
    run = protocol.finish(split, collected_for(case, protocol, split, rng))
    path = tmp_path / "predictions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in prediction_rows(split, run)))
    scored = protocol.read(split, files.read(path))
    assert list(scored.values) == list(run.values) == protocol.metric_names()
    for name, column in run.values.items():  # not the same for all queries, so that a difference would show
        np.testing.assert_array_equal(scored.values[name], column, err_msg=name)
        assert column.min() < column.max(), name
    assert scored.metrics() == run.metrics()
    np.testing.assert_equal(protocol.groups(split, scored), protocol.groups(split, run))


def test_the_lines_of_a_run_tell_its_annotated_saliency(tmp_path):
    """So that runs can be compared by their highlights, with nothing but predictions.jsonl."""
    rng = np.random.default_rng(0)
    protocol, split = make_protocol(options_of("highlights")), split_for("highlights", rng)
    run = protocol.finish(split, collected_for("highlights", protocol, split, rng))
    rows = prediction_rows(split, run)
    path = tmp_path / "predictions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    again = protocol.read(split_of_rows("test", rows), files.read(path))
    assert "saliency_scores" in rows[0]
    for name in ("HL-mAP,VeryGood", "HL-Hit@1,VeryGood"):
        np.testing.assert_array_equal(again.values[name], run.values[name])


def test_evaluation_knows_no_report_and_no_builder():
    code = (
        "import sys; import vmr_jax.evaluation.evaluator, vmr_jax.evaluation.results;"
        "print([m for m in sys.modules if m.startswith(('vmr_jax.reporting', 'vmr_jax.modes', 'vmr_jax.data.'))"
        " and m != 'vmr_jax.input.annotations'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "[]", done.stderr
