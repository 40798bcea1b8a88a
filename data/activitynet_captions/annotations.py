"""ActivityNet Captions' annotation files, and the splits that a convention makes of them."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from vmr_jax.errors import UserError
from vmr_jax.input.annotations import (
    Annotations,
    Video,
    choice,
    chosen,
    refuse_shared_videos,
    require_files,
    training_for_val,
    video_table,
    with_val,
)
from vmr_jax.input.records import manual_dir

CONVENTIONS = ("2d_tan", "vslnet", "lgi")
# Split -> the names that its file goes by: the original one, and the one that 2D-TAN gave it.
FILES = {
    "train": ("train.json",),
    "anet_val_1": ("val_1.json", "val.json"),
    "anet_val_2": ("val_2.json", "test.json"),
}
TOGETHER = "anet_val_1_and_2"

_SOURCE = (
    "The folder needs train.json, val_1.json and val_2.json (Krishna et al., Dense-Captioning Events in "
    "Videos, ICCV 2017). 2D-TAN's names val.json (for val_1.json) and test.json (for val_2.json) will do too."
)


def splits(options) -> list[str]:
    """The names of the splits that the convention can have."""
    if choice(options.convention, CONVENTIONS, "convention") == "lgi":
        return ["train", "val", TOGETHER]
    return list(FILES)


def files(options, only: str = "") -> list[Path]:
    """Returns the files of the splits of `FILES`, in that order; of the split `only`, where one is named.

    Raises:
      UserError: listing all that are missing, for a file that is there under both of its names, or for an
        unknown convention.
    """
    choice(options.convention, CONVENTIONS, "convention")
    folder = manual_dir(options)
    names = [_present_name(folder, known) for known in _wanted(options, only).values()]
    return require_files(folder, names, "activitynet_captions", _SOURCE)


def _wanted(options, only: str) -> dict[str, tuple[str, ...]]:
    """Split of `FILES` -> the names of its file, of those that are read for `only`."""
    if only == TOGETHER and options.convention == "lgi":
        return {split: names for split, names in FILES.items() if split != "train"}
    return chosen(FILES, training_for_val(only) if options.convention == "lgi" else only)


def _present_name(folder: Path, names: Sequence[str]) -> str:
    """The name under which the file is there; the first where it is not."""
    present = [name for name in names if (folder / name).is_file()]
    if len(present) > 1:
        raise UserError(
            f"{folder} has {' and '.join(present)}: the original name of one file, and the name that 2D-TAN "
            "gave it. Keep one of the two."
        )
    return (present or names)[0]


def read(options, only: str = "") -> Annotations:
    """Reads the three files in `options.manual_dir`, or those of the split `only`.

    A query is named "VIDEO-k" in train, "anet_val_1/VIDEO-k" and "anet_val_2/VIDEO-k" in the other two, which
    annotate the same videos.

    Args:
      options: has `manual_dir`; and
        convention: "2d_tan" and "vslnet" have the splits of `FILES`. With "lgi" the two validation files are
          one split, `TOGETHER`, its queries tagged with the file they are from;
        val_fraction: with "lgi", the share of the training videos that become the split val: those whose ids
          have the smallest SHA-256.
      only: a split, whose files alone are read; '' for all.

    Raises:
      UserError: for missing or malformed files, naming file, video and row.
    """
    paths = dict(zip(_wanted(options, only), files(options, only)))
    folder, together = str(next(iter(paths.values())).parent), options.convention == "lgi"
    found = Annotations({})
    for split, path in paths.items():
        training = split == "train"
        tags = (split,) if together and not training else ()
        found.splits[split] = video_table(
            path, found, tags_of=lambda *_, tags=tags: tags, prefix="" if training else f"{split}/"
        )
    found.complete()
    refuse_shared_videos(found.splits, folder)
    if {"anet_val_1", "anet_val_2"} <= found.splits.keys():
        _refuse_swapped(found.splits["anet_val_1"], found.splits["anet_val_2"], list(paths.values()))
    if together:
        found.splits = _lgi(found.splits, options.val_fraction, folder)
    return found


def _refuse_swapped(val_1: Sequence[Video], val_2: Sequence[Video], paths: Sequence[Path]) -> None:
    """Official val_2 annotates some of the videos of val_1; the other way round, the files are swapped."""
    if {video.id for video in val_1} < {video.id for video in val_2}:
        raise UserError(
            f"{paths[-2]} has {len(val_1)} videos, all of them among the {len(val_2)} of {paths[-1].name}. The "
            "two seem to be swapped: the official val_1 has 4,917 videos, val_2 has 4,885 of them. Rename them."
        )


def _lgi(splits: Mapping[str, Sequence[Video]], val_fraction: float, where: str) -> dict[str, list[Video]]:
    """Both validation files as one test split, and a part of train for validation; of those that were read."""
    found = with_val(splits["train"], val_fraction) if "train" in splits else {}
    if "anet_val_1" not in splits:
        return found
    merged: dict[str, Video] = {}
    for video in (*splits["anet_val_1"], *splits["anet_val_2"]):
        first = merged.setdefault(video.id, Video(video.id, video.duration, "val_1 and val_2"))
        if first.duration != video.duration:
            raise UserError(
                f"{where}: the video {video.id} lasts {first.duration:g} s in val_1 and {video.duration:g} s "
                "in val_2. Correct one of them."
            )
        first.queries += video.queries
    found[TOGETHER] = list(merged.values())
    return found
