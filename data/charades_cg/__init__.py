"""Charades-CG: Charades-STA divided anew, with tests of new combinations and words; see README.md.

From: Li, Xie, Qian, Zhu, Tang, Wu, Yang, Zhuang, Wang, "Compositional Temporal Grounding with Structured
Variational Cross-Graph Correspondence Learning", CVPR 2022.
"""

from vmr_jax.data import compositional
from vmr_jax.input import records

# Of the published files, before validation videos are taken out of train.
PUBLISHED_COUNTS = {
    "train": {"queries": 8281, "videos": 3555},
    "test_trivial": {"queries": 3096, "videos": 1689},
    "test_novel_composition": {"queries": 3442, "videos": 2480},
    "test_novel_word": {"queries": 695, "videos": 580},
}
MODALITIES = records.TEXT_MODALITIES

SOURCE = compositional.source(
    name="charades_cg",
    title="Charades-CG (Li et al., CVPR 2022)",
    folder="Charades-CG",
)
prepare, features, word_vectors = records.entry_points(SOURCE)
