"""Compositional generalisation (CG): tests of word combinations, and of words, that training does not have.

From: Li, Xie, Qian, Zhu, Tang, Wu, Yang, Zhuang, Wang, "Compositional Temporal Grounding with Structured
Variational Cross-Graph Correspondence Learning", CVPR 2022.
"""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vmr_jax.errors import UserError
from vmr_jax.input import annotations, records

FILES = {
    "train": "train.json",
    "test_trivial": "test_trivial.json",
    "test_novel_composition": "novel_composition.json",
    "test_novel_word": "novel_word.json",
}
# split -> (field that says what is novel in each sentence, first part of the tags made of it)
TAGS = {"test_novel_composition": ("novels", "composition"), "test_novel_word": ("news", "word")}


def source(name: str, title: str, folder: str) -> records.Source:
    """A re-split that is read from `FILES`; `options.val_fraction` of its training videos become `val`.

    Args:
      name: folder of `data/`.
      title: what it is, and where it was published.
      folder: in which its authors publish the files; they may also lie in `manual_dir` itself.
    """
    files = functools.partial(_files, name, folder)
    return records.Source(
        name=name,
        title=title,
        files=files,
        read=functools.partial(_read, files),
        splits=lambda options: ("train", "val", *tuple(FILES)[1:]),
        fields=("val_fraction",),
    )


def _wanted(only: str) -> dict[str, str]:
    """Split -> file, of those that are read for `only`."""
    return annotations.chosen(FILES, annotations.training_for_val(only))


def _files(name: str, folder: str, options, only: str = "") -> list[Path]:
    manual_dir = annotations.published_folder(records.manual_dir(options), folder)
    return annotations.require_files(
        manual_dir,
        _wanted(only).values(),
        name,
        f"The files are those of Li et al. (CVPR 2022), published in the folder {folder} of their repository "
        "Compositional-Temporal-Grounding; keep that folder, or put its files into manual_dir.",
    )


def _read(files, options, only: str = "") -> annotations.Annotations:
    """Reads the four files, or that of the split `only`.

    UserError for malformed ones, and where a training video is in a test file.

    The test files share videos, so every qid starts with the name of its file: "novel_word/VIDEO-k".
    """
    paths = files(options, only)
    found = annotations.Annotations({})
    for split, path in zip(_wanted(only), paths):
        tags_of = functools.partial(_tags, *TAGS[split]) if split in TAGS else None
        found.splits[split] = annotations.video_table(path, found, tags_of=tags_of, prefix=f"{path.stem}/")
    found.complete()
    annotations.refuse_shared_videos(found.splits, str(paths[0].parent))
    if "train" in found.splits:
        training = annotations.with_val(found.splits.pop("train"), options.val_fraction)
        found.splits = training | found.splits
    return found


def _tags(name: str, kind: str, entry: Mapping[str, Any], k: int, where: str) -> tuple[str, ...]:
    """Tags such as "composition:v-n" from what the field `name` says of the k-th sentence."""
    novel = annotations.field(entry, name, where)
    if not isinstance(novel, list) or len(novel) != len(entry["sentences"]):
        raise UserError(
            f'{where}: {len(entry["sentences"])} "sentences" and '
            f'{len(novel) if isinstance(novel, list) else "no list of"} "{name}"; expected one for each '
            "sentence. Correct the entry."
        )
    found = novel[k]
    if not isinstance(found, dict) or not found or any(label.split() != [label] for label in found):
        raise UserError(
            f'{where}, row {k}: "{name}" is {found!r}; expected {{"TYPE": [what is novel], ...}} with types '
            "without blanks. Correct it."
        )
    return tuple(f"{kind}:{label}" for label in sorted(found))
