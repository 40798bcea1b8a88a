"""The video files of a folder: found by id, and never outside of it."""

from pathlib import Path

import pytest
from serving import video_folder

from vmr_jax.errors import UserError
from vmr_jax.retrieval.video_folder import VideoFolder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return video_folder(tmp_path_factory.mktemp("files"))


def test_files_by_id(folder):
    files = VideoFolder(folder)
    assert len(files) == 3  # a, b and the link within the folder
    assert files.find("a") == files.find("a.mp4") == files.find("a.mov") == folder / "a.mp4"
    assert files.find("within") == folder / "within.mp4"
    for name in (
        "out",
        "out.mp4",
        "notes",
        "notes.txt",
        "../secret",
        "../secret.mp4",
        str(folder / "a"),
        "",
        ".",
        "\0",
    ):
        assert files.find(name) is None


def test_the_full_name_counts_before_the_stem(tmp_path):
    for name in ("x.avi", "x.mp4", "x.mp4.webm", "y.MKV", "v_1.5.webm"):
        (tmp_path / name).write_bytes(b"")
    files = VideoFolder(tmp_path)
    assert files.find("x.avi").name == "x.avi"
    assert files.find("x").name == files.find("x.mov").name == "x.mp4"  # which browsers play
    assert files.find("x.mp4").name == "x.mp4"
    assert files.find("y").name == "y.MKV" and files.find("v_1.5").name == "v_1.5.webm"


def test_a_file_that_becomes_a_link_is_no_longer_served(tmp_path):
    (tmp_path / "videos").mkdir()
    (tmp_path / "secret").write_bytes(b"SECRET")
    file = tmp_path / "videos" / "a.mp4"
    file.write_bytes(b"of a")
    files = VideoFolder(tmp_path / "videos")
    assert files.find("a") == file
    file.unlink()
    assert files.find("a") is None
    file.symlink_to(tmp_path / "secret")
    assert files.find("a") is None


def test_a_folder_that_is_none():
    with pytest.raises(UserError, match="--videos=/nowhere is no folder"):
        VideoFolder(Path("/nowhere"))
    assert VideoFolder(None).find("a") is None


def test_a_home_folder_that_is_not_known():
    with pytest.raises(UserError, match="begins with ~no_such_user, a home folder"):
        VideoFolder(Path("~no_such_user/films"))
