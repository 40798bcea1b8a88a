"""Ingestion that is killed inside a file goes on from the last whole piece, and the features are the same."""

import itertools

import filmed
import numpy as np
import pytest
from killed import Killed

import vmr_jax as vmr
from vmr_jax.video import ingest, pieces
from vmr_jax.video.decode import CHUNK
from vmr_jax.video.pieces import BEGUN
from vmr_jax.video.pixels import Pixels
from vmr_jax.video.reader import Reader

SECONDS = 42.0  # at four rows a second 168: five chunks of 32, and eight
CHUNKS = 6


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(ingest, "_SETTLED", 0.0)
    monkeypatch.setattr(pieces, "_SECONDS", 0.0)  # every chunk is a piece


def moving(second):
    """Pixels of a bar that moves: no two frames of a film are alike."""
    pixels = np.full((48, 64, 3), filmed.level(second), np.uint8)
    at = int(10 * second) % 60
    pixels[int(second) % 40 :, at : at + 4] = (255, 30, 200)
    return pixels


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """Films by the name of their file, each made when it is first asked for, with its features."""
    root, made = tmp_path_factory.mktemp("films"), {}

    def film(name, **options):
        if name not in made:
            path = filmed.film(root / name, SECONDS, show=moving, **options)
            made[name] = path, features_of(root / f"{name}.lib", path)
        return made[name]

    return film


def features_of(library, path):
    vmr.Library(library).add(path)
    return features(library)


def features(library):
    """The bytes of the features of the only video."""
    (file,) = (library / "features").iterdir()
    return file.read_bytes()


def killed_in(library, path, chunk):
    """Ingestion dies where the encoder gets this chunk, from 0; returns the names of the pieces."""
    calls, encode = itertools.count(), Pixels.encode

    def dying(self, frames, before):
        if next(calls) == chunk:
            raise Killed
        return encode(self, frames, before)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Pixels, "encode", dying)
        with pytest.raises(Killed):
            vmr.Library(library).add(path)
    return kept(library)


def kept(library):
    return sorted(file.name for file in (library / BEGUN).glob("*/*.npz"))


def counted(monkeypatch, owner, name):
    """Counts the items of a generator, or the calls of a function; the list grows."""
    function, seen = getattr(owner, name), []

    def call(*given, **fields):
        found = function(*given, **fields)
        if not hasattr(found, "__next__"):
            seen.append(1)
            return found
        return (seen.append(1) or item for item in found)

    monkeypatch.setattr(owner, name, call)
    return seen


KINDS = {
    "a.mp4": {},
    "b.webm": {"codec": "libvpx-vp9"},
    "c.avi": {"codec": "mpeg4"},
    "d.ts": {"sound": SECONDS},
    "e.mkv": {"codec": "libx265"},
    "f.mp4": {"rotation": 90, "movflags": "frag_keyframe+empty_moov"},
    "g.mkv": {"times": [*range(0, 9000, 390), *range(9000, 20000, 90), *range(20000, 42000, 700)]},
}


@pytest.mark.parametrize("name", KINDS)
def test_features_are_those_of_a_run_that_nobody_killed(tmp_path, films, name):
    path, expected = films(name, **KINDS[name])
    for chunk in (2, 4):  # a kill, and one after it has gone on: 2 chunks are there, then 2 + 4
        killed_in(tmp_path / "lib", path, chunk if chunk == 2 else 1)
    assert kept(tmp_path / "lib") == [f"{CHUNK * i:08d}.npz" for i in range(3)]
    assert vmr.Library(tmp_path / "lib").add(path).of("added")
    assert features(tmp_path / "lib") == expected
    assert not (tmp_path / "lib" / BEGUN).exists()


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_little_is_decoded_and_encoded_again(tmp_path, films, monkeypatch, chunk):
    """A key frame comes every 12 frames, ten frames a second: 80 of them are the chunk that is compared."""
    path, expected = films("c.avi", **KINDS["c.avi"])
    assert len(killed_in(tmp_path / "lib", path, chunk)) == chunk
    decoded = counted(monkeypatch, Reader, "frames")
    encoded = counted(monkeypatch, Pixels, "encode")
    vmr.Library(tmp_path / "lib").add(path)
    assert features(tmp_path / "lib") == expected and len(encoded) == CHUNKS - chunk
    left = 420 - 80 * chunk
    assert left <= len(decoded) <= left + (80 + 12 if chunk else 0) + 2  # one is looked at first, for the size


def test_every_instant_of_a_piece_can_be_the_last(tmp_path, films, monkeypatch):
    """Death in each of the steps that write pieces, features and manifest."""
    path, expected = films("a.mp4")
    for step in itertools.count():
        library = tmp_path / f"lib{step}"
        calls, died = itertools.count(), False
        with monkeypatch.context() as patch:
            for owner, name in ((pieces.os, "replace"), (np, "savez"), (ingest, "write_manifest")):
                patch.setattr(owner, name, dying_at(step, calls, getattr(owner, name)))
            try:
                vmr.Library(library).add(path)
            except Killed:
                died = True
        assert [v.id for v in vmr.Library(library).videos] in ([], ["a"])
        vmr.Library(library).add(path)
        assert features(library) == expected and not (library / BEGUN).exists()
        if not died:
            break
    assert step >= 2 * 5 + 2  # five pieces, features, manifest


def dying_at(step, calls, function):
    def call(*given, **fields):
        if next(calls) >= step:
            raise Killed
        return function(*given, **fields)

    return call


def test_what_does_not_fit_is_encoded_from_the_beginning(tmp_path, films, monkeypatch):
    """A search for the second that ends elsewhere, a damaged piece, and one that is missing."""
    path, expected = films("c.avi", **KINDS["c.avi"])
    killed_in(tmp_path / "lib", path, 3)
    encoded = counted(monkeypatch, Pixels, "encode")
    with monkeypatch.context() as patch:
        seek = Reader.seek
        patch.setattr(Reader, "seek", lambda self, second: seek(self, second + 5))
        vmr.Library(tmp_path / "lib").add(path)
    assert features(tmp_path / "lib") == expected and len(encoded) == CHUNKS
    for fault in (lambda file: file.unlink(), lambda file: file.write_bytes(file.read_bytes()[:-200])):
        vmr.Library(tmp_path / "lib").remove(path.stem)
        killed_in(tmp_path / "lib", path, 3)
        encoded.clear()
        fault(next((tmp_path / "lib" / BEGUN).glob(f"*/{CHUNK:08d}.npz")))
        vmr.Library(tmp_path / "lib").add(path)
        assert features(tmp_path / "lib") == expected and len(encoded) == CHUNKS - 1  # the first one fits


@pytest.mark.parametrize("chunk,pieces", [(1, 1), (5, 0)])
def test_a_damaged_film_is_no_other_one_after_a_kill(tmp_path, films, chunk, pieces):
    """It is killed before the damage, and a piece stays; or when one thread reads it again, and none does.

    The damage begins at 20.6 s, in the third chunk: two are encoded before it is seen, then all six.
    """
    path, _ = films("a.mp4")
    content = bytearray(path.read_bytes())
    for at in range(len(content) * 4 // 10, len(content) * 45 // 100):
        content[at] = 0xFF
    (tmp_path / "a.mp4").write_bytes(content)
    expected = features_of(tmp_path / "whole", tmp_path / "a.mp4")
    assert len(killed_in(tmp_path / "lib", tmp_path / "a.mp4", chunk)) == pieces
    vmr.Library(tmp_path / "lib").add(tmp_path / "a.mp4")
    assert features(tmp_path / "lib") == expected


def test_pieces_follow_the_file_and_go_with_it(tmp_path, films):
    content = films("a.mp4")[0].read_bytes()
    folder, lib = tmp_path / "films", tmp_path / "lib"
    folder.mkdir()
    (folder / "a.mp4").write_bytes(content)
    vmr.Library(lib).add(filmed.film(tmp_path / "other.mp4", 2.0))
    assert len(killed_in(lib, folder, 2)) == 2
    vmr.Library(lib).remove("other")  # a change of something else
    (folder / "a.mp4").rename(folder / "b.mp4")
    killed_in(lib, folder, 1)
    assert len(kept(lib)) == 3
    (folder / "b.mp4").write_bytes(content[:-1])
    vmr.Library(lib).update()
    assert not (lib / BEGUN).exists()


def test_pieces_of_another_encoder_are_not_read(tmp_path, films, monkeypatch):
    path, _ = films("a.mp4")
    killed_in(tmp_path / "lib", path, 2)
    (folder,) = (tmp_path / "lib" / BEGUN).iterdir()
    folder.rename(folder.with_name(folder.name[:-1] + ("0" if folder.name[-1] != "0" else "1")))
    encoded = counted(monkeypatch, Pixels, "encode")
    vmr.Library(tmp_path / "lib").add(path)
    assert len(encoded) == CHUNKS and not (tmp_path / "lib" / BEGUN).exists()
