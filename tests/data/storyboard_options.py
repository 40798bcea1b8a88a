"""Settings of storyboard."""

import types
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


# Of seed 0 and 900 training videos: queries per split, the start of the sha256 of all of them, and the root
# mean squares of the numbers of val.
COUNTS = {
    "train": 3544,
    "val": 395,
    "test": 589,
    "test_novel_word": 238,
    "test_novel_composition": 161,
    "test_shifted_position": 169,
}
DIGEST = "5e7775e29780e58b"
ROOT_MEAN_SQUARES = {
    "rgb": 0.293539,
    "flow": 0.231536,
    "audio": 0.190238,
    "objects": 0.201327,
    "persons": 0.559976,
    "subtitles": 0.068128,
    "translated_subtitles": 0.067465,
    "grid": 0.224681,
    "captions": 0.149334,
    "object_scores": 0.371612,
    "activity_scores": 0.159720,
}


def storyboard_options(data_dir, seed=0, train_videos=900):
    return types.SimpleNamespace(
        name="storyboard", data_dir=str(data_dir), seed=seed, train_videos=train_videos
    )


def questions_of(generated, split):
    return [(scene, arrays, q) for scene, arrays in generated[split] for q in scene.questions]
