"""QVHighlights: sentences, all their moments and the saliency of clips in YouTube videos; see README.md.

From: Lei, Berg, Bansal, "QVHighlights: Detecting Moments and Highlights in Videos via Natural Language
Queries", NeurIPS 2021.
"""

from vmr_jax.data.qvhighlights import annotations
from vmr_jax.input import records

# Of the official files, with the ground truth of the test split that was released later.
PUBLISHED_COUNTS = {
    "train": {"queries": 7218, "videos": 7100},
    "val": {"queries": 1550, "videos": 1519},
    "test": {"queries": 1542, "videos": 1529},
}
MODALITIES = {**records.TEXT_MODALITIES, "saliency": ()}

SOURCE = records.Source(
    name="qvhighlights",
    title="QVHighlights (Lei et al., NeurIPS 2021)",
    files=annotations.files,
    read=annotations.read,
    splits=annotations.splits,
    saliency_clips=annotations.CLIPS,
)
prepare, features, word_vectors = records.entry_points(SOURCE)
