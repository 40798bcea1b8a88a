"""TEMPO: sentences that relate two moments of a DiDeMo video in time; see README.md.

From: Hendricks, Wang, Shechtman, Sivic, Darrell, Russell, "Localizing Moments in Video with Temporal Language",
EMNLP 2018.
"""

from data import records
from data.tempo import annotations

PUBLISHED_COUNTS = {}  # none that could be checked
MODALITIES = records.TEXT_MODALITIES

SOURCE = records.Source(
    name="tempo",
    title="TEMPO (Hendricks et al., EMNLP 2018)",
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
