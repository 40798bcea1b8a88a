"""DiDeMo: sentences and their moments, in chunks of five seconds, in personal videos; see README.md.

From: Hendricks, Wang, Shechtman, Sivic, Darrell, Russell, "Localizing Moments in Video with Natural Language",
ICCV 2017.
"""

from vmr_jax.data.didemo import annotations
from vmr_jax.input import records

# Of the official files, videos by their names. Train (33,005 queries) is not among them: its published count of
# 8,395 videos is that of names without extension, and the same video can have two extensions (see README.md).
PUBLISHED_COUNTS = {
    "val": {"queries": 4180, "videos": 1094},
    "test": {"queries": 4021, "videos": 1037},
}
MODALITIES = records.TEXT_MODALITIES

SOURCE = records.Source(
    name="didemo",
    title="DiDeMo (Hendricks et al., ICCV 2017)",
    files=annotations.files,
    read=annotations.read,
    splits=annotations.splits,
)
prepare, features, word_vectors = records.entry_points(SOURCE)
