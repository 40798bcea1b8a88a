"""ActivityNet-CG: ActivityNet Captions divided anew, with tests of new combinations and words; see README.md.

From: Li, Xie, Qian, Zhu, Tang, Wu, Yang, Zhuang, Wang, "Compositional Temporal Grounding with Structured
Variational Cross-Graph Correspondence Learning", CVPR 2022.
"""

from vmr_jax.data import compositional
from vmr_jax.input import records

# Of the published files, before validation videos are taken out of train; four of its rows have an empty
# moment and are dropped.
PUBLISHED_COUNTS = {
    "train": {"queries": 36720, "videos": 9659},
    "test_trivial": {"queries": 15712, "videos": 4775},
    "test_novel_composition": {"queries": 12028, "videos": 4202},
    "test_novel_word": {"queries": 3920, "videos": 1991},
}
MODALITIES = records.TEXT_MODALITIES

SOURCE = compositional.source(
    name="activitynet_cg",
    title="ActivityNet-CG (Li et al., CVPR 2022)",
    folder="ActivityNet_CG",
)
prepare, features, word_vectors = records.entry_points(SOURCE)
