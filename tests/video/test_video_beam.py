"""Ingestion over Apache Beam leaves what ingestion without it leaves."""

import dataclasses
from pathlib import Path

import filmed
import pytest

import vmr_jax as vmr
from vmr_jax.errors import UserError
from vmr_jax.video import beam, ingest
from vmr_jax.video.beam import EncodeOverBeam
from vmr_jax.video.manifest import read_manifest

WORKERS = "--runner=DirectRunner --direct_num_workers=2 --direct_running_mode=multi_threading"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(ingest, "_SETTLED", 0.0)
    (tmp_path / "films").mkdir()
    filmed.film(tmp_path / "films" / "a.mp4", 2.0)
    filmed.film(tmp_path / "films" / "b.mkv", 3.0)
    (tmp_path / "films" / "c.mp4").write_bytes(b"no video")
    return tmp_path / "films"


def kept(path):
    """All that a library is, without the instants at which its videos came."""
    manifest = read_manifest(path)
    entries = [dataclasses.replace(entry, added=0.0) for entry in manifest.videos.values()]
    features = {file.name: file.read_bytes() for file in (path / "features").iterdir()}
    return sorted(entries, key=lambda entry: entry.id), manifest.refused, features


def test_workers_leave_the_same_library(tmp_path, folder):
    here, there = vmr.Library(tmp_path / "here"), vmr.Library(tmp_path / "there")
    here.update(folder)
    report = there.update(folder, encode=EncodeOverBeam(there.path, there.encoder, None, WORKERS))
    assert [(Path(o.file).name, o.what) for o in report] == [
        ("a.mp4", "added"),
        ("b.mkv", "added"),
        ("c.mp4", "unreadable"),
    ]
    assert kept(tmp_path / "there") == kept(tmp_path / "here")
    assert not (tmp_path / "there" / "encoded").exists()


def test_what_workers_had_done_when_the_pipeline_died_is_not_done_again(tmp_path, folder, monkeypatch):
    lib = vmr.Library(tmp_path / "lib")
    over = EncodeOverBeam(lib.path, lib.encoder, None, WORKERS)
    with monkeypatch.context() as patch:

        def dies(work, files, *rest):
            work(files[0])
            raise KeyboardInterrupt

        patch.setattr(beam, "run_each", dies)
        with pytest.raises(KeyboardInterrupt):
            lib.update(folder, encode=over)
    assert vmr.Library(tmp_path / "lib").videos == []
    waiting = []

    def noted(work, files, *rest):
        for file in files:
            waiting.append(Path(file[0]).name)
            work(file)

    monkeypatch.setattr(beam, "run_each", noted)
    lib.update(folder, encode=over)
    assert waiting == ["b.mkv", "c.mp4"]
    assert {video.id for video in lib.videos} == {"a", "b"}


def test_options_that_are_none_are_refused(tmp_path, folder):
    lib = vmr.Library(tmp_path / "lib")
    with pytest.raises(UserError, match="--beam is 'DirectRunner', which are no options of Apache Beam"):
        lib.update(folder, encode=EncodeOverBeam(lib.path, lib.encoder, None, "DirectRunner"))
