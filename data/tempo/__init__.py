"""TEMPO: sentences that relate two moments of a DiDeMo video in time; see README.md.

From: Hendricks, Wang, Shechtman, Sivic, Darrell, Russell, "Localizing Moments in Video with Temporal Language",
EMNLP 2018.
"""

from vmr_jax.data.tempo import annotations
from vmr_jax.input import records

PUBLISHED_COUNTS: dict[str, dict[str, int]] = {}  # none that could be checked
MODALITIES = {**records.TEXT_MODALITIES, "context": ()}

SOURCE = records.Source(
    name="tempo",
    title="TEMPO (Hendricks et al., EMNLP 2018)",
    files=annotations.files,
    read=annotations.read,
    splits=annotations.splits,
    fields=("version",),
    related=True,
)
prepare, features, word_vectors = records.entry_points(SOURCE)
