"""Every architecture on the same real features: the configs, the cost of a step, the lines of the results."""

import csv

import pytest
from absl import flags

from vmr_jax.errors import UserError
from vmr_jax.input.spec import batch_spec
from vmr_jax.models import architectures
from vmr_jax.training.experiment import make_model
from vmr_jax.training.ignored import check_nothing_is_ignored
from vmr_jax.types import fields_from


@pytest.fixture(scope="module")
def real(program):
    """The program; its flags are the program's alone."""
    return program("real")


# One learns nothing, and the other has no config for Charades-STA, which lacks its second language.
@pytest.mark.parametrize("name", [name for name in architectures() if name not in ("zero_shot", "mxml")])
def test_every_architecture_has_a_config_of_the_real_features(real, name):
    config = real.get_config(name)
    assert config.dataset.feature_dim == 512 and config.text.dim == 300
    assert config.evaluation.protocol == "moment_retrieval" and not config.evaluation.strict
    assert config.evaluation.select_by == "mIoU" and config.optimizer.schedule == "cosine"
    # Neither sentence vectors nor a second stream come with these files.
    assert config.model.get("text") not in ("sentence", "distilbert", "clip")
    lacking = set(make_model(config).requires()) & {"sentence", *fields_from("stream")}
    assert (name in real.learners()) == (not lacking)
    if not lacking:
        check_nothing_is_ignored(config, make_model(config))
        batch_spec(config, 1, make_model(config).requires())  # an error for any other field that is absent


def test_the_cost_of_a_step_is_the_slope_between_logged_ones(real):
    # Step 10 is first seen after 30 CPU seconds, step 50 after 50: 20 seconds for 40 steps. The run ends at 57.
    seen = [(0, 1.0), (0, 29.0), (10, 30.0), (10, 33.0), (30, 41.0), (50, 50.0), (50, 56.0)]
    assert real.costs(seen, 57.0) == (0.5, 30.0, 7.0)
    with pytest.raises(UserError, match="fewer than two"):
        real.costs([(0, 1.0), (60, 9.0)], 10.0)


def test_lines_are_appended_and_found_again(real, tmp_path, monkeypatch):
    path = tmp_path / "results.csv"
    holder = flags.FlagValues()
    flags.DEFINE_string("results", str(path), "", flag_values=holder)
    flags.DEFINE_float("minutes", 10.0, "", flag_values=holder)
    holder(["program"])
    monkeypatch.setattr(real, "FLAGS", holder)
    real.append({"row": "fvmr", "split": "val", "budget": "10", "seed": 0, "miou": "33.10"})
    real.append({"row": "fvmr", "split": "val", "budget": "3", "seed": 0, "miou": "31.00"})  # another budget
    real.append({"row": "fvmr", "split": "test", "budget": "10", "seed": 1, "miou": "35.00"})
    real.append({"row": "random span", "split": "test", "miou": "18.62"})  # has no budget, so it is in each
    assert [row["miou"] for row in real.rows("fvmr", "val")] == ["33.10"]
    assert not real.rows("fvmr", "test", 0) and real.rows("fvmr", "test", 1)
    assert real.rows("random span", "test")
    with path.open(encoding="utf-8", newline="") as file:
        assert tuple(next(csv.reader(file))) == real.COLUMNS


def test_a_line_on_test_is_of_the_learning_rate_that_validation_prefers(real, tmp_path, monkeypatch):
    holder = flags.FlagValues()
    flags.DEFINE_string("results", str(tmp_path / "results.csv"), "", flag_values=holder)
    flags.DEFINE_string("folder", str(tmp_path), "", flag_values=holder)
    flags.DEFINE_float("minutes", 3.0, "", flag_values=holder)
    holder(["program"])
    monkeypatch.setattr(real, "FLAGS", holder)
    read = []
    monkeypatch.setattr(real, "launch", read.append)
    monkeypatch.setattr(real, "results", lambda run, split: [])
    monkeypatch.setattr(
        real, "write", lambda run, split, minutes: real.append(line(split, run.rate, "", run.seed))
    )

    def line(split, rate, miou, seed=0, model="fvmr"):
        columns = {"split": split, "budget": "3", "seed": seed, "cpu_minutes": "2.0"}
        return {"row": model, "learning_rate": f"{rate:.2e}", "miou": miou, "steps": "100", **columns}

    def rates():
        return [(row["seed"], row["learning_rate"]) for row in real.rows("fvmr", "test")]

    real.append(line("val", 1e-3, "31.00"))
    real.evaluate(real.best("fvmr"))
    real.evaluate(real.best("fvmr"))  # once is enough
    assert len(read) == 1 and rates() == [("0", "1.00e-03")]
    real.append(line("test", 1e-3, "30.00", seed=1))
    real.append(line("test", 1e-3, "30.00", model="drn"))
    real.append(line("val", 3e-3, "33.00"))  # tried later, and better: the seeds of the other rate go too
    real.evaluate(real.best("fvmr"))
    assert len(read) == 2 and rates() == [("0", "3.00e-03")]
    assert len(real.rows("fvmr", "val")) == 2 and real.rows("drn", "test")


def test_a_run_uses_the_video_where_both_passes_without_it_are_worse(real):
    def row(name, low):
        metrics = {"R@1,IoU=0.5": 30.0, "R@1,IoU=0.7": 15.0}
        return {"name": name, "metrics": metrics, "lost": {"R@1,IoU=0.5": [low, low + 4.0]}}

    for lows, answer in (((0.1, 2.0), "yes"), ((-0.1, 2.0), "no"), ((1.0, 0.0), "no")):
        found = [row(name, low) for name, low in zip(real.SANITY.values(), lows, strict=True)]
        assert real.sanity(found) == {
            "blind_r1_iou05": "30.00", "blind_r1_iou07": "15.00",
            "shuffled_r1_iou05": "30.00", "shuffled_r1_iou07": "15.00", "uses_video": answer,
        }  # fmt: skip


def started(real, monkeypatch, tmp_path, *arguments):
    """Runs the program with these flags, its files under `tmp_path`."""
    holder = flags.FlagValues()
    real.define_flags(holder)
    places = ["--data=DIR", "--vectors=FILE", f"--folder={tmp_path}", f"--results={tmp_path / 'lines.csv'}"]
    holder(["program", *places, *arguments])
    monkeypatch.setattr(real, "FLAGS", holder)
    monkeypatch.setattr(real.os, "nice", lambda _: 0)
    monkeypatch.chdir(tmp_path)
    real.main([])


def test_an_architecture_that_reads_what_the_files_lack_is_refused(real, monkeypatch, tmp_path):
    with pytest.raises(UserError, match="dori reads what these files lack"):
        started(real, monkeypatch, tmp_path, "--models=fvmr,dori")


def test_a_run_that_fails_is_quoted(real, monkeypatch, tmp_path):
    script = tmp_path / "launch.py"
    script.write_text("import sys; print('error: no vectors.'); print(); sys.exit(2)", encoding="utf-8")
    holder = flags.FlagValues()
    flags.DEFINE_string("folder", str(tmp_path), "", flag_values=holder)
    holder(["program"])
    monkeypatch.setattr(real, "FLAGS", holder)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="launch.py --seed=1 ended with status 2. .* error: no vectors. All"):
        real.launch(["--seed=1"])


def test_lines_that_stand_there_are_told(real, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(real, "choose", lambda model: None)
    monkeypatch.setattr(real, "best", lambda model: None)
    monkeypatch.setattr(real, "evaluate", lambda run: None)
    started(real, monkeypatch, tmp_path, "--models=tga", "--repeat=0")
    assert "tga: its lines stand in" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        ("--rates=1,1", '--rates has "1,1"; expected are numbers that differ'),
        # A line has three digits of a rate: 1.0001 times 1e-3 stands there as 1.00e-03, which is that of 1.
        ("--rates=1,1.0001", '--rates has "1,1.0001"; expected are numbers that differ'),
        ("--rates=", '--rates has ""; expected are numbers'),
        ("--minutes=nan", '--minutes has "nan"; expected are numbers above 0'),
        ("--minutes=0", '--minutes has "0.0"; expected are numbers above 0'),
    ],
)
def test_rates_and_minutes_that_no_line_could_have_are_refused(real, monkeypatch, tmp_path, flag, said):
    monkeypatch.setattr(real, "launch", lambda *_: pytest.fail("a run was started"))
    with pytest.raises(UserError, match=said):
        started(real, monkeypatch, tmp_path, "--models=fvmr", flag)


def test_paths_are_seen_from_where_the_user_stands(real, monkeypatch, tmp_path):
    monkeypatch.setattr(real, "choose", lambda model: None)
    monkeypatch.setattr(real, "best", lambda model: None)
    monkeypatch.setattr(real, "evaluate", lambda run: None)
    places = ["--data=a/data", "--vectors=../glove.txt", "--folder=runs", "--results=lines.csv"]
    started(real, monkeypatch, tmp_path, "--models=tga", "--repeat=0", *places)
    seen = [real.FLAGS[name].value for name in ("data", "vectors", "folder", "results")]
    assert seen == [str(tmp_path / place.partition("=")[2]) for place in places]
    assert real.Path.cwd() == real.ROOT


# Takes 0.3 CPU seconds, and fails where its run has not begun before.
BUSY = """
import pathlib, sys, time
workdir = next(pathlib.Path(a.partition("=")[2]) for a in sys.argv if a.startswith("--workdir="))
while time.process_time() < 0.3: pass
begun = workdir.exists()
workdir.mkdir(exist_ok=True)
sys.exit(not begun)
"""


def test_the_minutes_of_a_run_are_those_of_all_its_starts(real, monkeypatch, tmp_path):
    (tmp_path / "launch.py").write_text(BUSY, encoding="utf-8")
    holder = flags.FlagValues()
    real.define_flags(holder)
    holder(["program", "--data=DIR", "--vectors=FILE", f"--folder={tmp_path}"])
    monkeypatch.setattr(real, "FLAGS", holder)
    monkeypatch.chdir(tmp_path)
    run = real.Run("fvmr", 0, 1e-3, 600)
    with pytest.raises(UserError, match="ended with status 1"):  # after 0.3 CPU seconds at least
        real.train(run)
    alone = real.launch([f"--workdir={run.workdir}"])
    assert 0.3 <= alone < 0.6  # else two starts could not be told from one
    assert 60 * real.train(run) >= 0.6
    run.workdir.rmdir()  # whoever deletes a run begins anew
    with pytest.raises(UserError, match="ended with status 1"):
        real.train(run)
    assert 0.6 <= 60 * real.train(run) < 1.2  # of two starts, and not of four


def test_the_seconds_of_a_start_are_counted_once_however_it_ends(real, monkeypatch, tmp_path):
    holder = flags.FlagValues()
    real.define_flags(holder)
    holder(["program", "--data=DIR", "--vectors=FILE", f"--folder={tmp_path}"])
    monkeypatch.setattr(real, "FLAGS", holder)
    monkeypatch.chdir(tmp_path)
    # What had ended before a start had taken 10 and 20 CPU seconds, and with it 13 and 25: 3, and then 5.
    readings = iter((10.0, 13.0, 20.0, 25.0))
    monkeypatch.setattr(real, "children_seconds", lambda: next(readings))
    run = real.Run("fvmr", 0, 1e-3, 600)
    script = tmp_path / "launch.py"
    script.write_text(f"import os, sys; os.mkdir({str(run.workdir)!r}); sys.exit(1)", encoding="utf-8")
    with pytest.raises(UserError, match="ended with status 1"):
        real.train(run)
    script.write_text("", encoding="utf-8")
    assert real.train(run) == (3 + 5) / 60
    assert not list(readings)


def test_a_run_that_has_begun_goes_on_with_its_steps(real, monkeypatch, tmp_path):
    """A second measurement of a step would find others, and with them another folder."""
    found, trained = iter((700, 600, 200)), []
    monkeypatch.setattr(real, "affordable_steps", lambda model: next(found))
    monkeypatch.setattr(real, "evaluate", lambda run: None)
    monkeypatch.setattr(real, "best", lambda model: None)

    def stopped(run):
        trained.append(run.steps)
        raise KeyboardInterrupt

    monkeypatch.setattr(real, "train", stopped)
    for flag in ("--minutes=3", "--minutes=3", "--minutes=1", "--minutes=3"):
        with pytest.raises(KeyboardInterrupt):
            started(real, monkeypatch, tmp_path, "--models=fvmr", flag)
    assert trained == [700, 700, 600, 700]
    with pytest.raises(KeyboardInterrupt):
        started(real, monkeypatch, tmp_path, "--models=tga", "--minutes=3")
    assert trained[-1] == 200  # another architecture has its own
