"""Regions that a detector found, and which of them are people, from the files of DORi's program."""

import json
import os
import pickle

import jax
import numpy as np
import pytest
from charades_folder import charades_config

from vmr_jax.errors import UserError
from vmr_jax.input.dataset import Dataset
from vmr_jax.input.detections import Detections
from vmr_jax.input.loader import Loader
from vmr_jax.input.spec import batch_spec
from vmr_jax.input.words import open_word_vectors

PERSON, CUP = 7, 12  # classes
# Regions of the frames of each video: class and the number that fills its vector.
SEEN = {
    "AAAAA": {5: [(PERSON, 1), (CUP, 2)], 13: [], 21: [(CUP, 3), (CUP, 4), (PERSON, 5), (PERSON, 6)]},
    "BBBBB": {5: [(PERSON, 7)]},
    "CCCCC": {5: [(CUP, 8)]},
    "DDDDD": {5: [(CUP, 9)]},
}


@pytest.fixture
def detections(charades):
    """The folder of the four videos; their other features have a row for each frame."""
    root = charades / "detections"
    for video, frames in SEEN.items():
        (root / video).mkdir(parents=True)
        np.savez(charades / "clip" / f"{video}.npz", features=np.ones((len(frames), 3), np.float32))
        for frame, regions in frames.items():
            content = {
                "features": np.array([[value] * 2 for _, value in regions], np.float32),
                "object_class": np.array([kind for kind, _ in regions], np.int64),
                "boxes": np.zeros((len(regions), 4)),
                "image": video,
            }
            with (root / video / f"{video}-{frame:06d}.pkl").open("wb") as file:
                pickle.dump(content, file, protocol=2)
    lists = {
        "frame_selected": {video: list(frames) for video, frames in SEEN.items()},
        "mapping": {str(PERSON): {"human": True}, str(CUP): {"human": False}},
        "annotations": [],
    }
    (root / "charades_sta_train_tokens_w_objects.json").write_text(json.dumps(lists))
    return root


def opened(charades, tmp_path, slots=3):
    config = charades_config(charades, tmp_path, num_clips=4, resample="pick", normalize=True)
    with config.unlocked():
        config.dataset.streams = {"objects": ("detections", slots, 2), "persons": ("detections", slots)}
    return config, Dataset(config.dataset, config.input)


def test_regions_and_people_are_those_of_the_frames(charades, detections, tmp_path):
    config, dataset = opened(charades, tmp_path)
    vectors = open_word_vectors(config, dataset.sentences())
    fields = ("objects", "persons")
    loader = Loader(config, dataset, dataset.split("train"), [], vectors, fields)
    batch = loader.batch(np.array([0, 1]))
    batch.check()
    assert jax.tree.map(np.shape, batch) == jax.tree.map(lambda x: x.shape, batch_spec(config, 2, fields))
    # Three of four regions of the last frame are kept; the fourth row of T is padding.
    there = [[1, 1, 0], [0, 0, 0], [1, 1, 1], [0, 0, 0]]
    np.testing.assert_array_equal(batch.object_mask[0], there)
    np.testing.assert_array_equal(batch.persons[0], [[1, 0, 0], [0, 0, 0], [0, 0, 1], [0, 0, 0]])
    # Each vector is normalised for itself, flags are not.
    np.testing.assert_allclose(batch.objects[0, ..., 0], np.array(there) / np.sqrt(2), rtol=1e-6)
    assert batch.persons.dtype == bool and batch.persons[1, 0, 0]
    rows = dataset.features(dataset.split("train").videos[0], "persons")
    np.testing.assert_array_equal(rows, [[1, 0, 0], [0, 0, 0], [0, 0, 1]])


def test_no_list_leads_out_of_the_folder(charades, detections):
    lists = detections / "charades_sta_train_tokens_w_objects.json"
    content = json.loads(lists.read_text())
    content["frame_selected"] |= {"../detections/AAAAA": [5], str(detections / "BBBBB"): [5]}
    lists.write_text(json.dumps(content))
    assert Detections(detections, "persons", 3).ids == tuple(SEEN)


def test_what_is_wrong_with_detections_is_said(charades, detections, tmp_path):
    def fails(message):
        with pytest.raises(UserError, match=message):
            _, dataset = opened(charades, tmp_path)
            dataset.features(dataset.split("train").videos[0], "objects")

    lists = detections / "charades_sta_train_tokens_w_objects.json"
    content = json.loads(lists.read_text())
    frame = detections / "AAAAA" / "AAAAA-000005.pkl"
    saved = frame.read_bytes()
    for damaged in (saved[:40], pickle.dumps(print), pickle.dumps({"features": np.ones(3)})):
        frame.write_bytes(damaged)
        fails("AAAAA-000005.pkl (cannot be read as a pickle|holds no detections)")
    frame.unlink()
    fails("AAAAA-000005.pkl cannot be read as a pickle: it is not there")
    os.mkfifo(frame)
    fails("AAAAA-000005.pkl is a folder, a pipe or a device")
    frame.unlink()
    # One number is not spread over the two that the regions of the other frame have.
    frame.write_bytes(pickle.dumps({"features": np.ones((1, 1)), "object_class": [CUP]}))
    fails("AAAAA-000005.pkl has regions of 1 numbers, and another frame of 2")
    frame.write_bytes(saved)
    lists.write_text(json.dumps(content | {"frame_selected": {"AAAAA": [1e400]}}))
    fails("is no list of DORi's program")
    lists.write_text(json.dumps(content | {"mapping": {str(PERSON): {"human": True}}}))
    fails(f"a region of class {CUP}, of which the 'mapping'")
    lists.write_text("[]")
    fails("is no list of DORi's program")
    lists.unlink()
    fails("no json file with 'frame_selected' and 'mapping'")
