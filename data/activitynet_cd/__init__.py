"""ActivityNet-CD: ActivityNet Captions divided anew, with moments elsewhere in one of its tests; see README.md.

From: Yuan, Lan, Wang, Chen, Wang, Zhu, "A Closer Look at Temporal Sentence Grounding in Videos: Dataset and
Metric", 2021 (arXiv 2101.09028).
"""

from vmr_jax.data import changing_distribution
from vmr_jax.input import records

# Of the published files: what is left when the four rows of test_ood whose moment is empty are dropped.
PUBLISHED_COUNTS = {
    "train": {"queries": 51415, "videos": 10984},
    "val": {"queries": 3521, "videos": 746},
    "test_iid": {"queries": 3443, "videos": 746},
    "test_ood": {"queries": 13574, "videos": 2450},
}
MODALITIES = records.TEXT_MODALITIES

SOURCE = changing_distribution.source(
    name="activitynet_cd",
    title="ActivityNet-CD (Yuan et al., 2021)",
    folder="ActivityNet-CD",
    prefix="anet",
    duration="duration",
)
prepare, features, word_vectors = records.entry_points(SOURCE)
