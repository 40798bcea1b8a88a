"""Charades-STA: sentences and their moments in videos of everyday actions at home; see README.md.

From: Gao, Sun, Yang, Nevatia, "TALL: Temporal Activity Localization via Language Query", ICCV 2017.
"""

from vmr_jax.data.charades_sta import annotations
from vmr_jax.input import records

# Of the official files: what is left of 12,408 rows when the four that are empty after clipping are dropped.
PUBLISHED_COUNTS = {
    "train": {"queries": 12404, "videos": 5336},
    "test": {"queries": 3720, "videos": 1334},
}
MODALITIES = records.TEXT_MODALITIES

SOURCE = records.Source(
    name="charades_sta",
    title="Charades-STA (Gao et al., TALL, ICCV 2017)",
    files=annotations.files,
    read=annotations.read,
    splits=annotations.splits,
    fields=("split_file", "val_fraction", "extra_queries"),
)
prepare, features, word_vectors = records.entry_points(SOURCE)
