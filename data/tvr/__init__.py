"""TVR and mTVR: sentences and their moments in clips of TV shows with subtitles; see README.md.

From: Lei, Yu, Berg, Bansal, "TVR: A Large-Scale Dataset for Video-Subtitle Moment Retrieval", ECCV 2020;
Lei, Berg, Bansal, "mTVR: Multilingual Moment Retrieval in Videos", ACL 2021.
"""

from vmr_jax.data.tvr import annotations, submission
from vmr_jax.input import records

# Of the official files: every video has five queries.
PUBLISHED_COUNTS = {
    "train": {"queries": 87175, "videos": 17435},
    "val": {"queries": 10895, "videos": 2179},
}
MODALITIES = records.TEXT_MODALITIES

SOURCE = records.Source(
    name="tvr",
    title="TVR (Lei et al., ECCV 2020)",
    files=annotations.files,
    read=annotations.read,
    splits=annotations.splits,
)
WITHOUT_VIDEO = {submission.PUBLIC_TEST: submission.public_test}  # splits of queries whose video is not told
video_numbers = submission.video_numbers
prepare, features, word_vectors = records.entry_points(SOURCE)
