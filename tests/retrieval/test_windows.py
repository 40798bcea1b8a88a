"""Windows of long videos, and the index that follows the videos of a library."""

import numpy as np
import pytest

from vmr_jax.parallel import Parallel
from vmr_jax.retrieval import windows as following
from vmr_jax.retrieval.segments import EncodedVideo
from vmr_jax.retrieval.windows import MomentEncoder, follow, stored_id, windows


@pytest.mark.parametrize("duration", [0.5, 119.9, 120.0, 120.1, 180.0, 250.0, 7201.3])
def test_every_moment_of_half_a_window_lies_whole_in_one(duration):
    found = windows(duration, 120.0)
    assert found[0][0] == 0 and found[-1][1] == pytest.approx(duration)
    assert all(end - start == pytest.approx(min(duration, 120.0)) for start, end in found)
    for start in np.arange(0, max(duration - 60, 0.1), 7.3):
        end = min(start + 60, duration)
        assert any(first <= start and end <= last + 1e-9 for first, last in found)
    assert len(found) == len(set(found)) <= 1 + np.ceil(max(duration - 120, 0) / 60)


def encoder(encoded, **source):
    """One moment for each of two windows of a video, named a, b, ...; the vector of a letter is its own."""

    def moments(contents):
        for content in contents:
            encoded.append(content)
            for start in (0.0, 5.0):
                vector = np.eye(8, dtype=np.float32)[[ord(content) - ord("a")]]
                yield EncodedVideo(stored_id(content, start), vector * (1 + start), np.array([[1.0, 2.0]]))

    def sentences(texts):
        return np.eye(8, dtype=np.float32)[[ord(text) - ord("a") for text in texts]]

    return MomentEncoder(source, sentences, moments, Parallel("jit", 1), "float32", 0.5)


def test_an_index_follows_what_there_is(tmp_path):
    """A moment from 1 to 2 s of the window that begins at 5 is one from 6 to 7 s of the video."""
    encoded = []
    index = follow(tmp_path, encoder(encoded, run=1), {"a": "first", "b": "second"})
    assert [tuple(found) for found in index.search(["b"], k=2)[0]] == [
        ("second", 6.0, 7.0, 6.0),
        ("second", 1.0, 2.0, 1.0),
    ]
    index = follow(tmp_path, encoder(encoded, run=1), {"b": "renamed", "c": "third"})
    assert encoded == ["a", "b", "c"]
    assert {found.video for found in index.search(["b"], k=9)[0]} == {"renamed", "third"}
    assert index.search(["c"], k=1, video="third")[0][0].start == 6.0
    follow(tmp_path, encoder(encoded, run=1), {"b": "renamed", "c": "third"})
    assert encoded == ["a", "b", "c"]


def test_an_index_of_another_run_is_another_one_and_the_oldest_go(tmp_path):
    encoded = []
    for run in range(6):
        follow(tmp_path, encoder(encoded, run=run), {"a": "first"})
    assert len(encoded) == 6
    assert len([path for path in tmp_path.iterdir() if path.is_dir()]) == following._KEPT


def test_what_a_process_that_died_has_left_is_no_index(tmp_path):
    encoded = []
    index = follow(tmp_path, encoder(encoded), {"a": "first"})
    (index.store.path / "manifest.json").unlink()
    assert len(follow(tmp_path, encoder(encoded), {"a": "first"})) == 2
    assert encoded == ["a", "a"]
