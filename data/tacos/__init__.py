"""TACoS: sentences and their moments in long videos of cooking; see README.md.

From: Regneri, Rohrbach, Wetzel, Thater, Schiele, Pinkal, "Grounding Action Descriptions in Videos", TACL 2013.
"""

from vmr_jax.data.tacos import annotations
from vmr_jax.input import records

# Of the files of 2D-TAN, the version that is read by default.
PUBLISHED_COUNTS = {
    "train": {"queries": 9790, "videos": 75},
    "val": {"queries": 4436, "videos": 27},
    "test": {"queries": 4001, "videos": 25},
}
MODALITIES = records.TEXT_MODALITIES

SOURCE = records.Source(
    name="tacos",
    title="TACoS (Regneri et al., TACL 2013)",
    files=annotations.files,
    read=annotations.read,
    splits=annotations.splits,
    fields=("version",),
)
prepare, features, word_vectors = records.entry_points(SOURCE)
