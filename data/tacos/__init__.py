"""TACoS: sentences and their moments in long videos of cooking; see README.md.

From: Regneri, Rohrbach, Wetzel, Thater, Schiele, Pinkal, "Grounding Action Descriptions in Videos", TACL 2013.
"""

from data import records
from data.tacos import annotations

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
    fields=("version",),
)


def prepare(options):
    """Returns the TFDS builder of the records, written unless they are there; see `records.prepare`."""
    return records.prepare(SOURCE, options)


def features(options):
    """Opens the user's features; see `records.open_manual_features`."""
    return records.open_manual_features(options)


def word_vectors(options) -> None:
    """Returns None: the user brings word vectors (config.text.vectors)."""
    del options
