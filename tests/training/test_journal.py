"""The news of a run: lines of its step, in the log, in metrics.jsonl and as events."""

import json
import sys
from types import SimpleNamespace

import pytest

from vmr_jax.training.journal import Journal

ROWS = [{"step": 1, "train/loss": 3.0}, {"step": 2, "train/loss": 2.0}, {"step": 2, "val/mIoU": 7.0}]


class Events:
    """In place of tensorboardX.SummaryWriter."""

    made = []

    def __init__(self, logdir, purge_step):
        self.logdir, self.purge_step, self.scalars, self.closed = logdir, purge_step, [], False
        self.made.append(self)

    def add_scalar(self, name, value, step):
        self.scalars.append((name, value, step))

    def flush(self):
        pass

    def close(self):
        self.closed = True


def journal(workdir, first=0, **options):
    return Journal(workdir, first, 6, steps_per_epoch=2, log_every=2, batch_size=8, **options)


def test_events_are_the_values_of_the_log(tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "tensorboardX", SimpleNamespace(SummaryWriter=Events))
    caplog.set_level("INFO", logger="vmr_jax")
    with journal(tmp_path, first=2, tensorboard=True) as news:
        news.scalars(3, {"train/loss": 1.5})  # no step to be logged
        news.scalars(4, {"train/loss": 1.25})
        news.evaluation(4, "val", {"mIoU": 12.0})
    (events,) = Events.made
    assert events.scalars == [("train/loss", 1.25, 4), ("val/mIoU", 12.0, 4)] and events.closed
    assert (events.logdir, events.purge_step) == (str(tmp_path / "tensorboard"), 3)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert rows == [{"step": 4, "epoch": 2.0, "train/loss": 1.25}, {"step": 4, "epoch": 2.0, "val/mIoU": 12.0}]
    assert "step 4 of 6: loss 1.2500" in caplog.text and "step 3 of 6" not in caplog.text


@pytest.mark.parametrize(
    ("first", "evaluated", "kept"), [(2, True, 3), (2, False, 2), (1, True, 1), (0, True, 0)]
)
def test_what_the_step_resumed_from_has_not_done_is_removed(tmp_path, first, evaluated, kept):
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    with journal(tmp_path, first=first, evaluated=evaluated):
        pass
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert rows == ROWS[:kept]
