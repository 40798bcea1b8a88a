"""ActivityNet Captions' annotation files, and the splits that a convention makes of them."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from vmr_jax.errors import UserError
from vmr_jax.input.annotations import (
    Annotations,
    Video,
    choice,
    refuse_shared_videos,
    require_files,
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


def files(options) -> list[Path]:
    """Returns the files of the splits of `FILES`, in that order.

    Raises:
      UserError: listing all that are missing, for a file that is there under both of its names, or for an
        unknown convention.
    """
    choice(options.convention, CONVENTIONS, "convention")
    folder = manual_dir(options)
    names = [_present_name(folder, known) for known in FILES.values()]
    return require_files(folder, names, "activitynet_captions", _SOURCE)


def _present_name(folder: Path, names: Sequence[str]) -> str:
    """The name under which the file is there; the first where it is not."""
    present = [name for name in names if (folder / name).is_file()]
    if len(present) > 1:
        raise UserError(
            f"{folder} has {' and '.join(present)}: the original name of one file, and the name that 2D-TAN "
            "gave it. Keep one of the two."
        )
    return (present or names)[0]


def read(options) -> Annotations:
    """Reads the three files in `options.manual_dir`.

    A query is named "VIDEO-k" in train, "anet_val_1/VIDEO-k" and "anet_val_2/VIDEO-k" in the other two, which
    annotate the same videos.

    Args:
      options: has `manual_dir`; and
        convention: "2d_tan" and "vslnet" have the splits of `FILES`. With "lgi" the two validation files are
          one split, `TOGETHER`, its queries tagged with the file they are from;
        val_fraction: with "lgi", the share of the training videos that become the split val: those whose ids
          have the smallest SHA-256.

    Raises:
      UserError: for missing or malformed files, naming file, video and row.
    """
    paths = files(options)
    folder, together = paths[0].parent, options.convention == "lgi"
    dropped: list[str] = []
    splits, clipped = {}, 0
    for split, path in zip(FILES, paths):
        training = split == "train"
        tags = (split,) if together and not training else ()
        splits[split], cut = video_table(
            path, dropped, tags_of=lambda *_, tags=tags: tags, prefix="" if training else f"{split}/"
        )
        clipped += cut
    refuse_shared_videos(splits, str(folder))
    _refuse_swapped(splits["anet_val_1"], splits["anet_val_2"], paths)
    if together:
        splits = _lgi(splits, options.val_fraction, str(folder))
    return Annotations(splits, dropped, clipped)


def _refuse_swapped(val_1: Sequence[Video], val_2: Sequence[Video], paths: Sequence[Path]) -> None:
    """Official val_2 annotates some of the videos of val_1; the other way round, the files are swapped."""
    if {video.id for video in val_1} < {video.id for video in val_2}:
        raise UserError(
            f"{paths[1]} has {len(val_1)} videos, all of them among the {len(val_2)} of {paths[2].name}. The "
            "two seem to be swapped: the official val_1 has 4,917 videos, val_2 has 4,885 of them. Rename them."
        )


def _lgi(splits: Mapping[str, Sequence[Video]], val_fraction: float, where: str) -> dict[str, list[Video]]:
    """Both validation files as one test split, and a part of train for validation."""
    found = with_val(splits["train"], val_fraction)
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
