"""`--mode=ingest` and `--mode=search --library`: what they print, and what they refuse."""

import colours_model
import filmed
import pytest
from absl.testing import flagsaver
from colours_model import coloured, run_of

from vmr_jax import library
from vmr_jax.errors import UserError
from vmr_jax.modes import ingest, search
from vmr_jax.modes.launch import main, parse
from vmr_jax.video import ingest as video_ingest


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(video_ingest, "_SETTLED", 0.0)
    (tmp_path / "films").mkdir()
    filmed.film(tmp_path / "films" / "a.mp4", 4.0, show=coloured(("grey", 2), ("red", 4)))
    (tmp_path / "films" / "empty.mp4").touch()
    return tmp_path / "films"


def ingested(folder, lib, **flags):
    given = {"encoder": None, "encoder_dir": None, "watch": False, "beam": None, **flags}
    ingest.ingest(str(folder), str(lib), **given)


def test_a_folder_is_ingested_and_what_cannot_be_read_is_named(folder, tmp_path, capsys):
    ingested(folder, tmp_path / "lib")
    told = capsys.readouterr().out
    assert "1 file is not in the library" in told and "it is empty" in told
    assert "1 added, 1 unreadable. Library(" in told and "1 videos, 0.0 h, pixels)" in told
    ingested(folder / "a.mp4", tmp_path / "lib")
    assert capsys.readouterr().out.startswith("1 unchanged. ")


def test_a_folder_is_watched(folder, tmp_path, capsys, monkeypatch):
    """The first look tells of all, the second of nothing, the third of a film that has come."""
    looks = []

    def sleep(seconds):
        looks.append(capsys.readouterr().out)
        if len(looks) == 2:
            filmed.film(folder / "b.mkv", 2.0)
        if len(looks) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(ingest.time, "sleep", sleep)
    with pytest.raises(KeyboardInterrupt):
        ingested(folder, tmp_path / "lib", watch=True)
    assert looks[0].count("is not in the library") == 1 and looks[1] == ""
    assert looks[2].startswith("1 unchanged, 1 added, 1 unreadable. ")
    with pytest.raises(UserError, match="only a folder can be watched"):
        ingested(folder / "a.mp4", tmp_path / "lib", watch=True)


def test_a_library_is_searched(folder, tmp_path, capsys, monkeypatch):
    """Of four seconds in 32 clips a moment is a quarter of a second; red begins at 2."""
    ingested(folder, tmp_path / "lib")
    monkeypatch.setattr(library.Run, "load", lambda place, **given: run_of(colours_model.Dual(), tmp_path))
    search.search_library(str(tmp_path / "lib"), "run", "something red", None, 2, None, None)
    told = capsys.readouterr().out
    assert '"something red" in Library(' in told and "lead" in told
    (first,) = (line for line in told.splitlines() if line.startswith("│    1 │ a"))
    assert 2 <= float(first.split("│")[3]) < 4


@pytest.mark.parametrize(
    "flags,message",
    [
        (["--mode=ingest", "--videos=x"], "--mode=ingest needs --videos=FOLDER and --library=DIR"),
        (["--mode=search", "--library=x", "--workdir=y"], "--mode=search does not read --workdir"),
        (["--mode=search", "--library=x"], 'needs --query="a sentence"'),
        (["--mode=train", "--library=x"], "which is of --mode=ingest and --mode=search --library=DIR"),
    ],
)
def test_flags_that_are_missing_or_not_read(flags, message):
    with flagsaver.flagsaver(), pytest.raises(UserError, match=message):
        main(parse(["vmr_jax", *flags]))
