"""TEMPO's annotation files: DiDeMo's layout, with the type of the sentence in its id."""

import functools
from pathlib import Path

from vmr_jax.data import didemo
from vmr_jax.errors import unknown
from vmr_jax.input.annotations import Annotations, Video, choice, chosen, read_splits, require_files
from vmr_jax.input.records import manual_dir

SPLITS = ("train", "val", "test")
DIDEMO = "didemo"  # the type of the rows that are DiDeMo's own
# Version -> types of its temporal sentences: made from templates, and written by people.
TYPES = {"tl": ("before", "after", "then"), "hl": ("before", "after", "then", "while")}

_SOURCE = (
    "They are in initial_release_data.zip, in the Google Drive folder named by the repository "
    "TemporalLanguageRelease of Hendricks et al. (TEMPO, EMNLP 2018)."
)


def splits(options) -> tuple[str, ...]:
    """The names of the splits."""
    return SPLITS


def files(options, only: str = "") -> list[Path]:
    """Returns the files that `read` reads, of the version in `options.version`.

    Raises:
      UserError: for an unknown version; one that lists all files that are missing.
    """
    version = choice(options.version, tuple(TYPES), "version")
    names = {split: f"tempo{version.upper()}+didemo_{split}.json" for split in SPLITS}
    return require_files(manual_dir(options), chosen(names, only).values(), "tempo", _SOURCE)


def read(options, only: str = "") -> Annotations:
    """Reads the three files of `options.version` in `options.manual_dir`, or that of the split `only`.

    Raises:
      UserError: for missing or malformed files, naming file and row; for an id of unknown type or one that
        two rows have; for a training video in another split.
    """
    paths = zip([only] if only in SPLITS else SPLITS, files(options, only))
    return read_splits(dict(paths), functools.partial(read_file, version=options.version))


def read_file(path: Path, places: dict[str, str], found: Annotations, version: str) -> list[Video]:
    """`didemo.annotations.read_file` with the type of the sentence as its tag, and train_times to learn from.

    "num_segments" may be absent, as the authors do not document it: a video of which no row has it counts as
    six chunks, which the official evaluation ranks for every video.
    """
    return didemo.annotations.read_file(
        path,
        places,
        found,
        learn="train_times",
        tags_of=lambda qid, where: (_type(qid, version, where),),
        chunks_untold=True,
        related=True,
    )


def _type(qid: str, version: str, where: str) -> str:
    """The type of a sentence: what stands before the first "_" of its id, DiDeMo's where it is a number."""
    prefix = qid.split("_")[0]
    if qid.isdecimal():
        return DIDEMO
    if prefix not in TYPES[version]:
        raise unknown(
            f'{where}: the id "{qid}" has the type',
            prefix,
            TYPES[version],
            "The type stands before the first _; the id of a sentence of DiDeMo is a number. Correct the id.",
        )
    return prefix
