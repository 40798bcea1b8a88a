"""A user's own data: one jsonl file of sentences and moments for each split; see README.md."""

from data import records
from data.jsonl import annotations

MODALITIES = records.TEXT_MODALITIES

SOURCE = records.Source(
    name="jsonl",
    title="A user's own data",
    files=annotations.files,
    read=annotations.read,
    fields=("val_fraction",),
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
