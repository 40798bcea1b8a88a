"""A library follows its files, by content, and finds moments in them."""

from pathlib import Path

import filmed
import pytest

import vmr_jax as vmr
from vmr_jax.video import ingest


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(ingest, "_SETTLED", 0.0)  # the tests' files are whole
    (tmp_path / "films").mkdir()
    return tmp_path / "films"


def whats(report):
    return {Path(outcome.file).name: outcome.what for outcome in report}


def test_only_what_changed_is_encoded(tmp_path, folder):
    filmed.film(folder / "a.mp4", 2.0)
    filmed.film(folder / "b.mkv", 3.0)
    lib = vmr.Library(tmp_path / "lib")
    assert whats(lib.update(folder)) == {"a.mp4": "added", "b.mkv": "added"}
    assert {video.id: round(video.duration) for video in lib.videos} == {"a": 2, "b": 3}
    assert whats(lib.update(folder)) == {"a.mp4": "unchanged", "b.mkv": "unchanged"}
    (folder / "a.mp4").rename(folder / "c.mp4")
    assert whats(lib.update(folder)) == {"c.mp4": "moved", "b.mkv": "unchanged"}
    filmed.film(folder / "b.mkv", 4.0)
    assert whats(lib.update(folder)) == {"c.mp4": "unchanged", "b.mkv": "changed"}
    (folder / "c.mp4").unlink()
    assert whats(lib.update(folder)) == {"c.mp4": "removed", "b.mkv": "unchanged"}
    assert [video.id for video in vmr.Library(tmp_path / "lib").videos] == ["b"]
    assert len(list((tmp_path / "lib" / "features").iterdir())) == 1
