"""Changing distributions (CD): re-splits in which the moments of one test set lie elsewhere than in training.

From: Yuan, Lan, Wang, Chen, Wang, Zhu, "A Closer Look at Temporal Sentence Grounding in Videos: Dataset and
Metric", 2021 (arXiv 2101.09028). `test_iid` has moments distributed as in training, `test_ood` those from
sparse regions of the distribution of (start, end) / duration.
"""

import functools
from pathlib import Path

from vmr_jax.input import annotations, records

SPLITS = ("train", "val", "test_iid", "test_ood")


def source(name: str, title: str, folder: str, prefix: str, duration: str) -> records.Source:
    """A re-split that is read from `PREFIX_SPLIT.json`.

    Args:
      name: folder of `data/`.
      title: what it is, and where it was published.
      folder: in which its authors publish the files; they may also lie in `manual_dir` itself.
      prefix: starts the file names.
      duration: field of a video's duration in seconds.
    """
    files = functools.partial(_files, name, folder, prefix)
    return records.Source(
        name=name,
        title=title,
        files=files,
        read=functools.partial(_read, files, duration),
        splits=lambda options: SPLITS,
    )


def _files(name: str, folder: str, prefix: str, options, only: str = "") -> list[Path]:
    manual_dir = annotations.published_folder(records.manual_dir(options), folder)
    needed = [f"{prefix}_{split}.json" for split in SPLITS if only in ("", split)]
    return annotations.require_files(
        manual_dir,
        needed,
        name,
        f"The files are those of Yuan et al. (2021), published in the folder {folder} of their repository "
        f"grounding_changing_distribution; keep that folder, or put its files into manual_dir.",
    )


def _read(files, duration: str, options, only: str = "") -> annotations.Annotations:
    """Reads the four files, or that of `only`; UserError for malformed ones, and for a video in two of them."""
    paths = files(options, only)
    length_of = functools.partial(annotations.duration_of, name=duration)
    found = annotations.Annotations({})
    for split, path in zip([only] if only else SPLITS, paths):
        found.splits[split] = annotations.video_table(path, found, length_of)
    found.complete()
    annotations.refuse_shared_videos(found.splits, str(paths[0].parent), apart=SPLITS)
    return found
