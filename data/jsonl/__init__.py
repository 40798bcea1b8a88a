"""A user's own data: one jsonl file of sentences and moments for each split; see README.md."""

from vmr_jax.data.jsonl import annotations
from vmr_jax.input import records

MODALITIES = records.TEXT_MODALITIES

SOURCE = records.Source(
    name="jsonl",
    title="A user's own data",
    files=annotations.files,
    read=annotations.read,
    splits=annotations.splits,
    fields=("val_fraction",),
)
prepare, features, word_vectors = records.entry_points(SOURCE)
