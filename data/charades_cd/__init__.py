"""Charades-CD: Charades-STA divided anew, with moments elsewhere in one of its tests; see README.md.

From: Yuan, Lan, Wang, Chen, Wang, Zhu, "A Closer Look at Temporal Sentence Grounding in Videos: Dataset and
Metric", 2021 (arXiv 2101.09028).
"""

from vmr_jax.data import changing_distribution
from vmr_jax.input import records

# Of the published files: what is left when the three rows of test_ood that start after their video are dropped.
PUBLISHED_COUNTS = {
    "train": {"queries": 11071, "videos": 4564},
    "val": {"queries": 859, "videos": 333},
    "test_iid": {"queries": 823, "videos": 333},
    "test_ood": {"queries": 3372, "videos": 1440},
}
MODALITIES = records.TEXT_MODALITIES

SOURCE = changing_distribution.source(
    name="charades_cd",
    title="Charades-CD (Yuan et al., 2021)",
    folder="Charades-CD",
    prefix="charades",
    duration="video_duration",
)
prepare, features, word_vectors = records.entry_points(SOURCE)
