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
prepare, features, word_vectors = records.entry_points(SOURCE)
