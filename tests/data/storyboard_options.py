"""Settings of storyboard."""

import types
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


# Queries per split, and the start of the sha256 of all of them, of seed 0 and 900 training videos.
COUNTS = {
    "train": 3544,
    "val": 395,
    "test": 589,
    "test_novel_word": 238,
    "test_novel_composition": 161,
    "test_shifted_position": 169,
}
DIGEST = "f0136c1daca9a5c1"


def storyboard_options(data_dir, seed=0, train_videos=900):
    return types.SimpleNamespace(
        name="storyboard", data_dir=str(data_dir), seed=seed, train_videos=train_videos
    )


def questions_of(generated, split):
    return [(scene, arrays, q) for scene, arrays in generated[split] for q in scene.questions]
