"""The records of storyboard: those of the generated scenes, the same in every process, made once."""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from storyboard_options import DIGEST, ROOT, ROOT_MEAN_SQUARES, questions_of, storyboard_options

from vmr_jax.data import storyboard
from vmr_jax.data.storyboard.generate import VIDEOS, generate, scene_record
from vmr_jax.data.storyboard.render import SHAPES
from vmr_jax.data.storyboard.splits import SPLITS, TEST_SPLITS
from vmr_jax.data.storyboard.vectors import vectors
from vmr_jax.errors import UserError

# --- records --------------------------------------------------------------------------------------


def test_records_are_the_scenes(prepared, generated):
    """TFDS gives back, in order and bit for bit, what is generated; so a second generation is the same."""
    import tensorflow_datasets as tfds

    _, builder = prepared
    assert tuple(builder.info.splits) == SPLITS
    for split in SPLITS:
        rows = list(tfds.as_numpy(builder.as_dataset(split=split, shuffle_files=False)))
        assert len(rows) == len(generated[split])
        for row, (scene, arrays) in zip(rows, generated[split]):
            record = scene_record(scene, arrays, 0)
            assert row["video"].decode() == scene.video
            assert row["duration"] == np.float32(scene.duration)
            for name in SHAPES:
                np.testing.assert_array_equal(row[name], arrays[name])
            for field, column in row["queries"].items():
                expected = [query[field] for query in record["queries"]]
                if field in ("qid", "text", "translation", "tags", "parse"):
                    assert [text.decode() for text in column] == expected
                else:
                    np.testing.assert_array_equal(column, np.stack(expected))
            assert (row["queries"]["span"] <= row["duration"]).all()


_DIGEST = """
import hashlib, sys
from vmr_jax.data.storyboard import word_vectors
from vmr_jax.data.storyboard.splits import SPLITS
from vmr_jax.data.storyboard.generate import generate, scene_record
import types
digest = hashlib.sha256()
for split in SPLITS:
    for scene, arrays in generate(7, split, 20):
        record = scene_record(scene, arrays, 7)
        for query in record["queries"]:
            for field in sorted(query):
                value = query[field]
                digest.update(value.encode() if isinstance(value, str) else value.tobytes())
        for name in sorted(arrays):
            digest.update(arrays[name].tobytes())
words, rows = word_vectors(types.SimpleNamespace(seed=7))
digest.update(" ".join(words).encode() + rows.tobytes())
print(digest.hexdigest())
"""


def test_same_content_in_every_process():
    digests = []
    for hash_seed in ("1", "2"):
        env = os.environ | {"PYTHONHASHSEED": hash_seed}
        done = subprocess.run(
            [sys.executable, "-c", _DIGEST], cwd=ROOT, env=env, capture_output=True, text=True, check=True
        )
        digests.append(done.stdout)
    assert len(digests[0]) == 65 and digests[0] == digests[1]


def test_seeds_differ():
    (first, _), *_ = generate(0, "train", 1)
    (second, _), *_ = generate(1, "train", 1)
    assert first.events != second.events
    assert not np.array_equal(vectors(0).word_vectors, vectors(1).word_vectors)


def test_content_of_this_version(generated):
    """Fails when the content changes: then raise VERSION in builder.py, and put the new digest here.

    Without a new VERSION users would go on with the old files that they have prepared. (A numpy release
    that changes its random streams would change the content, too.)
    """
    from vmr_jax.data.storyboard.builder import Storyboard

    lines = [
        f"{scene.video} {scene.duration} {q.span} {q.context} {q.sentence.text} {q.sentence.parse}"
        for split in SPLITS
        for scene, _, q in questions_of(generated, split)
    ]
    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    assert (str(Storyboard.VERSION), digest[:16]) == ("1.9.0", DIGEST)
    # Of numbers, whose last digits another machine may round otherwise, the root mean squares of a split.
    squares = {
        name: np.sqrt(np.mean(np.concatenate([arrays[name].ravel() for _, arrays in generated["val"]]) ** 2))
        for name in SHAPES
    }
    assert squares == pytest.approx(ROOT_MEAN_SQUARES, rel=1e-4)


def test_settings_never_share_files(prepared, tmp_path):
    from vmr_jax.data.storyboard.builder import Storyboard, StoryboardConfig

    _, builder = prepared
    paths = {
        str(Storyboard(config=StoryboardConfig.of(seed, size), data_dir=tmp_path).data_path)
        for seed, size in ((0, 900), (1, 900), (0, 19), (1, 9), (11, 9))
    }
    assert len(paths) == 5
    assert builder.builder_config.name == "seed0_train900"


def test_prepare_is_quiet_and_does_it_once(prepared, capfd):
    data_dir, builder = prepared
    stamp = {p: p.stat().st_mtime_ns for p in Path(builder.data_path).iterdir()}
    again = storyboard.prepare(storyboard_options(data_dir))
    assert {p: p.stat().st_mtime_ns for p in Path(again.data_path).iterdir()} == stamp
    assert capfd.readouterr() == ("", "")


def test_prepare_is_quiet_when_it_generates(prepared, tmp_path, capfd):
    """`prepared` has imported TensorFlow, whose own start-up lines are not TFDS's."""
    # What a killed run leaves: a folder under TFDS's name for incomplete ones. It is not read.
    left = tmp_path / "storyboard" / "seed3_train2" / "incomplete.ABC123_1.1.0"
    left.mkdir(parents=True)
    (left / "storyboard-train.tfrecord-00000-of-00001").write_bytes(b"half")
    builder = storyboard.prepare(storyboard_options(tmp_path, seed=3, train_videos=2))
    assert builder.info.splits["train"].num_examples == 2
    assert builder.info.splits["test"].num_examples == VIDEOS["test"]
    assert capfd.readouterr() == ("", "")


def test_the_second_of_two_preparations_reads_the_first(prepared, tmp_path, monkeypatch):
    from vmr_jax.data.storyboard.builder import Storyboard

    data_dir, _ = prepared

    def lose_the_race(self, **settings):
        shutil.copytree(data_dir / "storyboard", tmp_path / "storyboard")
        raise FileExistsError("Cannot rename")

    monkeypatch.setattr(Storyboard, "download_and_prepare", lose_the_race)
    second = storyboard.prepare(storyboard_options(tmp_path))
    assert second.info.splits["train"].num_examples == 900
    assert Path(second.data_path).is_relative_to(tmp_path)

    def fail(self, **settings):
        raise FileExistsError("disk on fire")

    monkeypatch.setattr(Storyboard, "download_and_prepare", fail)
    with pytest.raises(UserError, match="disk on fire"):
        storyboard.prepare(storyboard_options(tmp_path / "elsewhere"))


@pytest.mark.parametrize("field, value", [("seed", -1), ("seed", 0.5), ("train_videos", 0)])
def test_bad_options(tmp_path, field, value):
    options = storyboard_options(tmp_path)
    setattr(options, field, value)
    with pytest.raises(UserError, match=rf"config\.dataset\.{field} is {value}"):
        storyboard.prepare(options)


def test_modalities_are_those_of_a_record(generated):
    scene, arrays = generated["val"][0]
    record = scene_record(scene, arrays, 0)
    for name in ("flow", "audio", "objects", "subtitles", "translated_subtitles"):
        assert record[name].shape[1:] == storyboard.MODALITIES[name]
    assert record["queries"][0]["sentence"].shape == storyboard.MODALITIES["sentence"]
    assert storyboard.features(storyboard_options("unused")) is None
    assert TEST_SPLITS == SPLITS[2:]
