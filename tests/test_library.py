"""A library follows its files, by content, and finds the second that a sentence describes."""

import errno
import os
import shutil
from pathlib import Path

import colours_model
import filmed
import numpy as np
import pytest
from colours_model import coloured, run_of

import vmr_jax as vmr
from vmr_jax.errors import UserError
from vmr_jax.files import open_lock, write_json
from vmr_jax.input.features import open_features
from vmr_jax.run import Run
from vmr_jax.training.identity import encoder_of
from vmr_jax.video import ingest
from vmr_jax.video.decode import probe, read_frames
from vmr_jax.video.manifest import MANIFEST, read_manifest


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(ingest, "_SETTLED", 0.0)  # the tests' files are whole
    (tmp_path / "films").mkdir()
    return tmp_path / "films"


def whats(report):
    return {Path(outcome.file).name: outcome.what for outcome in report}


# --- files ----------------------------------------------------------------------------------------


def test_only_what_changed_is_encoded(tmp_path, folder, monkeypatch):
    filmed.film(folder / "a.mp4", 2.0)
    filmed.film(folder / "b.mkv", 3.0)
    encoded = []
    encode = ingest.encode_file
    monkeypatch.setattr(
        ingest, "encode_file", lambda lib, found, *rest: encoded.append(found.file) or encode(lib, found, *rest)
    )
    lib = vmr.Library(tmp_path / "lib")
    assert whats(lib.update(folder)) == {"a.mp4": "added", "b.mkv": "added"}
    assert {video.id: round(video.duration) for video in lib.videos} == {"a": 2, "b": 3}
    assert whats(lib.update(folder)) == {"a.mp4": "unchanged", "b.mkv": "unchanged"}
    (folder / "a.mp4").rename(folder / "c.mp4")
    assert whats(lib.update(folder)) == {"c.mp4": "moved", "b.mkv": "unchanged"}
    (folder / "deep").mkdir()
    (folder / "c.mp4").rename(folder / "deep" / "c.mp4")
    assert whats(lib.update(folder)) == {"c.mp4": "moved", "b.mkv": "unchanged"}
    assert len(encoded) == 2
    filmed.film(folder / "b.mkv", 4.0)
    assert whats(lib.update(folder)) == {"c.mp4": "unchanged", "b.mkv": "changed"}
    assert [Path(file).name for file in encoded[2:]] == ["b.mkv"]
    (folder / "deep" / "c.mp4").unlink()
    assert whats(lib.update(folder)) == {"c.mp4": "removed", "b.mkv": "unchanged"}
    assert [video.id for video in vmr.Library(tmp_path / "lib").videos] == ["b"]
    assert len(list((tmp_path / "lib" / "features").iterdir())) == 1


def test_two_files_change_their_names(tmp_path, folder):
    filmed.film(folder / "a.mp4", 2.0)
    filmed.film(folder / "b.mp4", 3.0)
    lib = vmr.Library(tmp_path / "lib")
    lib.update(folder)
    (folder / "a.mp4").rename(folder / "x")
    (folder / "b.mp4").rename(folder / "a.mp4")
    (folder / "x").rename(folder / "b.mp4")
    assert whats(lib.update(folder)) == {"a.mp4": "moved", "b.mp4": "moved"}
    assert {video.id: round(video.duration) for video in lib.videos} == {"a": 3, "b": 2}


def test_the_same_film_twice_is_one_video_and_two_of_one_name_are_two(tmp_path, folder):
    filmed.film(folder / "a.mp4", 2.0)
    (folder / "copy.mp4").write_bytes((folder / "a.mp4").read_bytes())
    (folder / "other").mkdir()
    filmed.film(folder / "other" / "a.mkv", 3.0)
    lib = vmr.Library(tmp_path / "lib")
    assert whats(lib.update(folder)) == {"a.mp4": "added", "copy.mp4": "duplicate", "a.mkv": "added"}
    assert {video.id for video in lib.videos} == {"a", "a (2)"}
    (folder / "a.mp4").unlink()
    assert whats(lib.update(folder))["copy.mp4"] == "moved"


def test_a_film_that_is_overwritten_by_another_one_is_gone(tmp_path, folder):
    filmed.film(folder / "a.mp4", 2.0)
    filmed.film(folder / "b.mp4", 3.0)
    filmed.film(folder / "c.mp4", 4.0)
    lib = vmr.Library(tmp_path / "lib")
    lib.update(folder)
    (folder / "a.mp4").write_bytes((folder / "b.mp4").read_bytes())
    assert whats(lib.update(folder)) == {"a.mp4": "duplicate", "b.mp4": "unchanged", "c.mp4": "unchanged"}
    assert {video.id: round(video.duration) for video in lib.videos} == {"b": 3, "c": 4}
    new = filmed.film(tmp_path / "new.mp4", 5.0).read_bytes()
    (folder / "b.mp4").write_bytes(new)
    (folder / "c.mp4").write_bytes(new)
    assert whats(lib.update(folder)) == {"a.mp4": "moved", "b.mp4": "added", "c.mp4": "duplicate"}
    assert {video.id: round(video.duration) for video in lib.videos} == {"a": 3, "b": 5}


def test_files_are_added_and_removed_one_by_one(tmp_path, folder):
    files = [filmed.film(folder / name, 2.0 + i) for i, name in enumerate(("a.mp4", "b.mp4", "c.mp4"))]
    lib = vmr.Library(tmp_path / "lib")
    lib.add(files[0])
    lib.add([files[1], folder / "none.mp4"])
    assert [video.id for video in lib.videos] == ["a", "b"]
    assert whats(lib.remove("a")) == {"a.mp4": "removed"} and files[0].exists()
    with pytest.raises(UserError, match='has no video "a"'):
        lib.remove("a")
    files[1].unlink()
    assert whats(lib.update()) == {"b.mp4": "removed"}
    assert lib.add(folder / "none.mp4").of("unreadable")[0].reason == "there is no such file"


def broken(folder, elsewhere):
    """Seven files that are no whole films: empty, noise, sound alone, three that are cut short, encrypted."""
    (folder / "empty.mp4").touch()
    (folder / "noise.avi").write_bytes(np.random.default_rng(0).bytes(5000))
    filmed.film(folder / "sound.mp4", codec=None, sound=1.0)
    front = filmed.film(elsewhere / "front.mp4", 8.0, movflags="faststart").read_bytes()
    (folder / "front.mp4").write_bytes(front[: len(front) * 6 // 10])
    back = filmed.film(elsewhere / "back.mp4", 8.0).read_bytes()
    (folder / "back.mp4").write_bytes(back[: len(back) * 6 // 10])
    cut = filmed.film(elsewhere / "cut.mkv", 8.0).read_bytes()
    (folder / "cut.mkv").write_bytes(cut[: len(cut) * 6 // 10])
    key = {"encryption_key": "76a6c65c" * 4, "encryption_kid": "a7e61c37" * 4}
    filmed.film(folder / "locked.mp4", 2.0, encryption_scheme="cenc-aes-ctr", **key)


def test_what_cannot_be_read_is_named_once_and_the_others_go_on(tmp_path, folder, monkeypatch):
    filmed.film(folder / "whole.mp4", 3.0)
    broken(folder, tmp_path)
    playlist = f"#EXTM3U\n#EXTINF:3,\n{folder / 'whole.mp4'}\n#EXT-X-ENDLIST\n"
    (folder / "list.ts").write_text(playlist)
    lib = vmr.Library(tmp_path / "lib")
    reasons = {Path(o.file).name: o.reason for o in lib.update(folder).of("unreadable")}
    assert reasons.pop("empty.mp4") == "it is empty"
    assert reasons.pop("sound.mp4") == "it has no video stream"
    assert reasons.pop("locked.mp4") == "it is encrypted"
    assert "cut short: " in reasons.pop("cut.mkv") and "of 8.0 s are there" in reasons.pop("front.mp4")
    assert set(reasons) == {"noise.avi", "back.mp4", "list.ts"}
    assert set(reasons.values()) == {"it is broken, cut short, or no video"}
    assert [video.id for video in lib.videos] == ["whole"]
    monkeypatch.setattr(ingest, "content_hash", None)  # nothing is read a second time
    assert len(lib.update(folder).of("unreadable")) == 8
    monkeypatch.undo()
    (folder / "empty.mp4").write_bytes((folder / "whole.mp4").read_bytes() + bytes(8))
    assert whats(lib.update(folder))["empty.mp4"] == "added"


def test_a_pipe_is_no_film(tmp_path, folder):
    """It would be waited for, for ever; so would a link to a device."""
    os.mkfifo(folder / "pipe.mp4")
    (folder / "zero.mp4").symlink_to("/dev/zero")
    (folder / "none.mp4").symlink_to("/nowhere")
    reasons = {Path(o.file).name: o.reason for o in vmr.Library(tmp_path / "lib").update(folder)}
    irregular = "it is no regular file"
    assert reasons == {"pipe.mp4": irregular, "zero.mp4": irregular, "none.mp4": "there is no such file"}


def test_a_file_that_is_still_being_written_waits(tmp_path, folder, monkeypatch):
    film = filmed.film(folder / "a.ts", 2.0)
    whole = ingest.content_hash

    def while_it_grows(path):
        with path.open("ab") as file:
            file.write(bytes(188))
        return whole(path)

    monkeypatch.setattr(ingest, "content_hash", while_it_grows)
    lib = vmr.Library(tmp_path / "lib")
    assert [(o.what, o.reason) for o in lib.add(film)] == [("unreadable", "it is still being written")]
    monkeypatch.setattr(ingest, "content_hash", whole)
    assert whats(lib.add(film)) == {"a.ts": "added"}


# --- the folder -----------------------------------------------------------------------------------


class Other:
    """An encoder of the same name and width, but not the same."""

    def __init__(self, encoder):
        self.identity = {**encoder.identity, "version": 0}


def test_two_encoders_never_mix(tmp_path, folder, monkeypatch):
    lib = vmr.Library(tmp_path / "lib")
    lib.add(filmed.film(folder / "a.mp4", 2.0))
    other = filmed.film(folder / "b.mp4", 3.0)
    with monkeypatch.context() as patch:
        patch.setattr("vmr_jax.library.open_encoder", lambda *given: Other(lib.encoder))
        with pytest.raises(UserError, match=r"they differ in version \(1 and 0\)"):
            vmr.Library(tmp_path / "lib", encoder="pixels")
        with pytest.raises(UserError, match="Vectors of two encoders cannot be compared"):
            vmr.Library(tmp_path / "lib").add(other)
    assert [video.id for video in vmr.Library(tmp_path / "lib").videos] == ["a"]
    with pytest.raises(UserError, match='There is no frame encoder "clipp"'):
        vmr.Library(tmp_path / "lib", encoder="clipp")


def test_a_damaged_or_foreign_manifest_is_refused_in_one_line(tmp_path, folder):
    lib = vmr.Library(tmp_path / "lib")
    lib.add(filmed.film(folder / "a.mp4", 2.0))
    file = tmp_path / "lib" / MANIFEST
    good = file.read_text()
    for content, message in {
        good.replace('"duration": 2.0', '"duration": 3.0'): "its checksum differs",
        good.replace('"version": 1', '"version": 7', 1): "of version 7; this program reads version 1",
        good[:50]: "cannot be read",
        "[]": "is not of a library",
    }.items():
        assert content != good
        file.write_text(content)
        with pytest.raises(UserError, match=message):
            vmr.Library(tmp_path / "lib")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(UserError, match="is not empty, and no library"):
        vmr.Library(tmp_path / "full")
    with pytest.raises(UserError, match="holds no library of videos"):
        read_manifest(tmp_path / "full")


def test_damaged_features_are_named(tmp_path, folder):
    lib = vmr.Library(tmp_path / "lib", run=run_of(colours_model.Dual(), tmp_path))
    lib.add(filmed.film(folder / "a.mp4", 2.0))
    (features,) = (tmp_path / "lib" / "features").iterdir()
    content = bytearray(features.read_bytes())
    content[-1] ^= 1
    features.write_bytes(content)
    with pytest.raises(UserError, match="its checksum differs"):
        lib.search("red")


def test_features_are_a_dataset_as_they_lie(tmp_path, folder):
    """Eight rows of two seconds, as `configs/NAME.py:library` reads them, by the name of the video."""
    lib = vmr.Library(tmp_path / "lib")
    lib.add(filmed.film(folder / "a.mp4", 2.0))
    reader = open_features(tmp_path / "lib" / "features")
    assert reader.ids == ("a",) and reader.read("a.mp4").shape == (8, 304)
    (folder / "a.mp4").rename(folder / "b.mp4")
    lib.update(folder)
    assert open_features(tmp_path / "lib" / "features").ids == ("b",)


# --- questions ------------------------------------------------------------------------------------


@pytest.fixture
def films(folder):
    """Two short films and a long one; each colour is seen once in each."""
    filmed.film(
        folder / "a.mp4",
        16.0,
        show=coloured(("grey", 4), ("red", 6), ("grey", 10), ("green", 12), ("grey", 16)),
    )
    filmed.film(folder / "b.mkv", 16.0, show=coloured(("grey", 8), ("green", 10), ("grey", 16)))
    long = coloured(("grey", 93), ("blue", 95), ("grey", 160))
    filmed.film(folder / "long.mp4", 160.0, fps=4, show=long)
    return folder


@pytest.mark.parametrize("model", [colours_model.Dual(), colours_model.Joint()], ids=["index", "refined"])
def test_a_run_finds_the_second(tmp_path, films, model):
    """Windows of 16 s in 32 clips: a moment is two of them, a second of the two that show the colour."""
    lib = vmr.Library(tmp_path / "lib", run=run_of(model, tmp_path), window=16.0)
    lib.update(films)
    first = lib.search("red", k=3)[0]
    assert first.video == "a" and 4 <= first.start < first.end <= 6 and first.rank == 1
    green = lib.search("green", k=6)  # three moments of each film, which overlap by a third
    assert {hit.video for hit in green} == {"a", "b"}
    assert all(0 <= hit.gap == pytest.approx(hit.score - after.score) for hit, after in zip(green, green[1:]))
    (blue,) = lib.search("something blue", k=1)
    assert blue.video == "long" and 93 <= blue.start < blue.end <= 95
    assert {hit.video for hit in lib.search("green", k=5, video="b")} == {"b"}
    for name in ("a", "b"):
        assert [hit.video for hit in lib.search("green", k=3, video=[name, "long"])] == [name] * 3
    with pytest.raises(UserError, match='has no video "elsewhere"'):
        lib.search("green", video=["b", "elsewhere"])


def test_overlapping_windows_find_a_moment_once(tmp_path, films):
    """Each second of the long film lies in two windows; with an IoU of at most 0.5 there is no moment twice."""
    lib = vmr.Library(tmp_path / "lib", run=run_of(colours_model.Dual(), tmp_path), window=16.0)
    lib.add(films / "long.mp4")
    spans = [(hit.start, hit.end) for hit in lib.search("blue", k=20)]
    assert len(spans) == len(set(spans)) == 20


def test_the_index_follows_the_files(tmp_path, films):
    lib = vmr.Library(tmp_path / "lib", run=run_of(colours_model.Dual(), tmp_path), window=16.0)
    lib.add([films / "a.mp4", films / "b.mkv"])
    assert {hit.video for hit in lib.search("green", k=6)} == {"a", "b"}
    (films / "b.mkv").rename(films / "c.mkv")
    filmed.film(films / "a.mp4", 16.0, show=coloured(("grey", 2), ("green", 4), ("grey", 16)))
    other = vmr.Library(tmp_path / "lib")  # as another process changes it
    other.update(films)
    hits = lib.search("green", k=6)
    assert {hit.video for hit in hits} == {"a", "c"}
    assert 2 <= next(hit.start for hit in hits if hit.video == "a") < 4
    other.remove("c")
    assert {hit.video for hit in lib.search("green", k=40)} == {"a", "long"}  # 31 of a


def test_a_library_that_cannot_be_written_is_searched(tmp_path, films, monkeypatch, caplog):
    """The disk refuses to open a lock, as one that is mounted read-only does."""
    lib = vmr.Library(tmp_path / "lib", run=run_of(colours_model.Dual(), tmp_path))
    lib.add(films / "a.mp4")
    expected = lib.search("red")

    def refused(path):
        if path.is_relative_to(tmp_path):
            raise OSError(errno.EROFS, "Read-only file system", str(path))
        return open_lock(path)

    monkeypatch.setattr("vmr_jax.retrieval.windows.open_lock", refused)
    shutil.rmtree(tmp_path / "lib" / "index")
    for _ in range(2):  # the second one finds what the first has encoded
        assert vmr.Library(tmp_path / "lib", run=lib.run).search("red") == expected
    assert caplog.text.count("the moments are encoded for this process alone") == 1
    monkeypatch.setattr("vmr_jax.retrieval.windows._READ_ONLY", ())
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="lib could not be written"):
        vmr.Library(tmp_path / "file" / "lib").add(films / "a.mp4")
    with pytest.raises(UserError, match="index.* could not be written"):
        vmr.Library(tmp_path / "lib", run=lib.run).search("red")


def test_questions_that_cannot_be_answered_are_refused(tmp_path, films):
    lib = vmr.Library(tmp_path / "lib", run=run_of(colours_model.Dual(), tmp_path))
    with pytest.raises(UserError, match="has no video yet"):
        lib.search("red")
    lib.add(films / "a.mp4")
    with pytest.raises(UserError, match='knows no word of "the violet thing"'):
        lib.search("the violet thing")
    with pytest.raises(UserError, match='has no video "b"'):
        lib.search("red", video="b")
    with pytest.raises(UserError, match="k is 0"):
        lib.search("red", k=0)
    with pytest.raises(UserError, match="no text tower"):
        vmr.Library(tmp_path / "lib").search("red")


def test_a_run_of_other_features_is_refused(tmp_path, folder):
    run = run_of(colours_model.Dual(), tmp_path)
    with run.config.unlocked():
        run.config.dataset.feature_dim = 512
    with pytest.raises(UserError, match="features of 512 numbers .* have 304"):
        vmr.Library(tmp_path / "lib", run=run)


def test_a_run_that_was_trained_on_vectors_of_another_encoder_is_refused(tmp_path, folder, monkeypatch):
    """Of the same width: what the folder of the run says of its data tells them apart."""
    lib = vmr.Library(tmp_path / "lib")
    filmed.film(folder / "a.mp4", 2.0)
    lib.add(folder)
    identity = encoder_of({"manual_dir": str(tmp_path / "lib")})
    assert identity == lib.encoder.identity and encoder_of({}) == encoder_of({"manual_dir": str(folder)}) == {}
    run = run_of(colours_model.Dual(), tmp_path)
    monkeypatch.setattr(Run, "load", lambda workdir, **settings: run)
    record = {"name": "jsonl", "splits": {}, "vocabulary": ""}
    write_json(tmp_path / "data.json", {**record, "encoder": identity})
    assert vmr.Library(tmp_path / "lib", run=tmp_path).run is run
    write_json(tmp_path / "data.json", record)  # an older one, which does not say
    assert vmr.Library(tmp_path / "lib", run=tmp_path).run is run
    write_json(tmp_path / "data.json", {**record, "encoder": {**identity, "version": 0}})
    with pytest.raises(UserError, match="trained on a library that pixels encoded.*or by other weights of it"):
        vmr.Library(tmp_path / "lib", run=tmp_path)


KINDS = {
    "a.mp4": {},
    "b.mov": {},
    "c.mkv": {"codec": "libx265"},
    "d.webm": {"codec": "libvpx-vp9"},
    "e.avi": {"codec": "mpeg4"},
    "f.m4v": {"codec": "mpeg4"},
    "g.ts": {"sound": 16.0},
    "h.mp4": {"rotation": 90},
    "i.mkv": {"times": [*range(0, 5000, 400), *range(5000, 12000, 90), *range(12000, 16000, 1000)]},
    "j.mp4": {"sound": 16.0, "movflags": "frag_keyframe+empty_moov"},
}


def test_from_a_folder_of_real_files_to_clips(tmp_path, folder):
    """Ten kinds and seven broken ones; blue is seen from 9 to 11 s, and a moment is a second of the 16."""
    broken(folder, tmp_path)
    show = coloured(("grey", 9), ("blue", 11), ("red", 16))
    for name, options in KINDS.items():
        filmed.film(folder / name, 16.0, show=show, **options)
    lib = vmr.Library(tmp_path / "lib", run=run_of(colours_model.Dual(), tmp_path), window=16.0)
    report = lib.update(folder)
    assert {Path(o.file).name for o in report.of("added")} == set(KINDS) and len(report.of("unreadable")) == 7
    for video in lib.videos:
        (hit,) = lib.search("a blue one", k=1, video=video.id)
        assert 8.9 <= hit.start < hit.end <= 11.1, video.id
        (clip,) = lib.export([hit], "mp4", tmp_path / f"{video.id}.mp4", exact=True)
        assert probe(clip).duration == pytest.approx(hit.end - hit.start, abs=0.2)
        ((_, frames),) = read_frames(clip, 4.0, lambda frame: frame.to_ndarray(format="rgb24"))
        middle = frames[len(frames) // 2].mean((0, 1))
        assert middle[2] > 150 > 100 > middle[0], (video.id, middle)
