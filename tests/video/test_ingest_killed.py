"""Ingestion that dies at any step leaves a whole library, and what goes on ends as if nothing had been."""

import dataclasses
import itertools
import os

import filmed
import pytest
from killed import Killed

import vmr_jax as vmr
from vmr_jax.video import ingest, manifest
from vmr_jax.video.features import read_features
from vmr_jax.video.manifest import is_library, read_manifest


@pytest.fixture(autouse=True)
def settled(monkeypatch):
    monkeypatch.setattr(ingest, "_SETTLED", 0.0)


def dies_at(patch, step, *places):
    """From the step-th call on, from 0, every call of the places fails: nothing is done after a kill."""
    calls = itertools.count()

    def counted(function):
        def call(*args, **fields):
            if next(calls) >= step:
                raise Killed
            return function(*args, **fields)

        return call

    for owner, name in places:
        patch.setattr(owner, name, counted(getattr(owner, name)))


def content(path):
    """All that a library holds, without the instants at which its videos came."""
    found = read_manifest(path)
    features = {file.name: file.read_bytes() for file in (path / "features").iterdir()}
    entries = [dataclasses.replace(entry, added=0.0) for entry in found.videos.values()]
    return sorted(entries, key=lambda entry: entry.id), found.refused, features


def test_a_library_is_whole_at_every_instant(tmp_path, monkeypatch):
    """Films come, then one is deleted, one is changed, one is renamed; death at each step of both."""
    stock = [filmed.film(tmp_path / f"{i}.mp4", 1.0 + i / 4) for i in range(4)]
    places = (ingest, "encode_file"), (ingest, "clear"), (os, "replace"), (manifest, "write_json")
    deaths = 0
    for step in itertools.count():
        folder, lib, alone = (tmp_path / f"{name}{step}" for name in ("films", "lib", "alone"))
        folder.mkdir()
        (folder / "none.mp4").touch()
        died = []
        for films in (((0, "a"), (1, "b"), (2, "c")), ((3, "a"), (1, "d"))):
            for file in folder.glob("?.mp4"):
                file.unlink()
            for number, name in films:
                (folder / f"{name}.mp4").write_bytes(stock[number].read_bytes())
            with monkeypatch.context() as patch:
                dies_at(patch, step, *places)
                try:
                    vmr.Library(lib).update(folder)
                except Killed:
                    died.append(step)
            if is_library(lib):
                found = read_manifest(lib)
                assert all(len(read_features(lib, entry)) == entry.rows for entry in found.videos.values())
            if died:
                vmr.Library(lib).update(folder)
        vmr.Library(alone).update(folder)
        assert content(lib) == content(alone)
        deaths += len(died)
        if not died:
            break
    assert step >= 10 and deaths >= step  # every step of one of the two, and most of both
