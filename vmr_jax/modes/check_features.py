"""The section 'Features' of `--mode=check`: every feature file read once and measured."""

import dataclasses
import math
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from vmr_jax.errors import UserError, unknown, user_path
from vmr_jax.input.dataset import Split, dataset_module
from vmr_jax.input.features import MOST, TURN, FeatureReader, missing, plain_id, read_rows
from vmr_jax.modes.check_problems import Problems, counted, facts_table, listed, option

_WORST = 10  # videos, or moments, that rows do not reach
_KINDS = 4  # of damage that are told apart
_TOLERANCE = 0.1  # of seconds per row, relative
_MANY, _MOST_AGREE = 20, 0.8  # videos, and the share of them that must agree on a stride nobody states


@dataclasses.dataclass(frozen=True)
class Measured:
    """The features of one video in figures.

    Attributes:
      video: its id.
      duration: seconds, NaN where the annotations could not be read.
      rows: n of [n,D].
      dim: D, of all sources together.
      bad_rows: rows with NaN or infinity.
      first_bad: the first of them, from 0; -1 where there is none.
      zero_rows: rows of zeros.
      largest: the largest magnitude of a finite number.
      norms: of each source, the mean L2 norm of its rows without NaN or infinity; NaN where it has none.
    """

    video: str
    duration: float
    rows: int
    dim: int
    bad_rows: int
    first_bad: int
    zero_rows: int
    norms: tuple[float, ...]
    largest: float = 0.0

    @property
    def seconds_per_row(self) -> float:
        """Seconds from one row to the next, were they spread evenly over the video."""
        return self.duration / self.rows


def measure(video: str, duration: float, parts: Sequence[np.ndarray]) -> Measured:
    """Measures features in one pass over them; `parts` are those of each source, [n,D1], [n,D2], ..."""
    norms = np.stack([_norms(part) for part in parts])
    # A norm that is not finite can come of large values too, so those rows are looked at again.
    suspects = np.flatnonzero(~np.isfinite(norms).all(0))
    bad = suspects[~np.all([np.isfinite(part[suspects]).all(-1) for part in parts], axis=0)]
    return Measured(
        video=video,
        duration=duration,
        rows=norms.shape[1],
        dim=sum(part.shape[1] for part in parts),
        bad_rows=len(bad),
        first_bad=int(bad[0]) if len(bad) else -1,
        zero_rows=int((norms == 0).all(0).sum()),
        norms=tuple(_mean(source[np.isfinite(source)]) for source in norms),
        largest=_largest(parts, norms, bad),
    )


def _largest(parts: Sequence[np.ndarray], norms: np.ndarray, bad: np.ndarray) -> float:
    """A number is at most as large as the norm of its row, so only rows of large norms are looked at."""
    rows = np.setdiff1d(np.flatnonzero(~(norms <= MOST).all(0)), bad)
    return max((float(np.abs(part[rows]).max()) for part in parts if len(rows)), default=0.0)


def _norms(rows: np.ndarray) -> np.ndarray:
    """L2 norms [n] of rows [n,D]."""
    values = rows.astype(np.float32, copy=False)
    with np.errstate(over="ignore", invalid="ignore"):
        return np.sqrt(np.einsum("nd,nd->n", values, values))


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")


def features(config, splits: Mapping[str, Split], problems: Problems, console: Console) -> list:
    """Reads the features of every annotated video, of all there are where annotations could not be read."""
    with problems.caught():
        reader = dataset_module(config.dataset.name).features(config.dataset)
        if reader is None:
            return _embedded(config, splits, problems, console)
        return _of_reader(config, splits, reader, problems, console)
    return [Text("could not be opened; the verdict says why")]


def _embedded(config, splits: Mapping[str, Split], problems: Problems, console: Console) -> list:
    """Features that come with the records."""
    name = config.dataset.features
    videos = {video.id: video for split in splits.values() for video in split.videos}
    known = sorted({field for video in videos.values() for field in video.embedded})
    if videos and name not in known:
        raise unknown("Of the features in the records, config.dataset.features is", name, known)
    durations = {video.id: video.duration for video in videos.values()}
    measured, _, speed = _scan(durations, lambda video_id: [videos[video_id].embedded[name]], console)
    facts = [("source", f"in the records, {name}"), ("read", speed)]
    return [facts_table(facts + _measured_facts(config, measured, None, problems))]


def _of_reader(
    config, splits: Mapping[str, Split], reader: FeatureReader, problems: Problems, console: Console
) -> list:
    """Features of the user's files."""
    durations = {video.id: video.duration for split in splits.values() for video in split.videos}
    facts = [("source", str(reader.path))]
    if splits:
        absent = sorted(missing(reader, durations))
        _missing_problems(config, splits, reader, absent, problems)
        extra = sorted(set(reader.ids) - {plain_id(video_id) for video_id in durations})
        text = f"{len(extra):,}, not read" + (f": {listed(extra)}" if extra else "")
        facts += [
            ("without features", f"{len(absent):,} of {counted(len(durations), 'annotated video')}"),
            ("not annotated", text if extra else "0"),
        ]
        durations = {video_id: durations[video_id] for video_id in durations if video_id in reader}
    else:
        durations = dict.fromkeys(reader.ids, float("nan"))
    measured, errors, speed = _scan(durations, reader.parts, console)
    _unreadable_problems(errors, problems)
    facts.append(("read", speed + (f"; {len(errors):,} could not be read" if errors else "")))
    facts += _measured_facts(config, measured, config.dataset.feature_stride, problems)
    _coverage_problems(config, splits, measured, problems)
    facts += room(config, measured, problems)
    for name in config.dataset.streams:
        with problems.caught():
            facts.append((f"stream {name}", _stream(config, name, durations, problems, console)))
    return [facts_table(facts)]


def _stream(config, name: str, videos: Iterable[str], problems: Problems, console: Console) -> str:
    """Reads a further stream of these videos."""
    reader = dataset_module(config.dataset.name).features(config.dataset, name)
    size = math.prod(config.dataset.streams[name][1:])
    absent = missing(reader, videos)
    if absent and config.dataset.on_missing != "drop":
        problems.fatal.append(
            f"{counted(len(absent), 'video')} without features in {reader.path}: {listed(absent)}. Bring them, "
            f"or set config.dataset.on_missing='drop' to go on without.{reader.spelling(absent[0])}"
        )
    there = {video: float("nan") for video in videos if video in reader}
    _, errors, speed = _scan(there, lambda video: [read_rows(reader, video, size, False)], console)
    _unreadable_problems(errors, problems)
    return f"{reader.path}: {speed}"


def _missing_problems(
    config, splits: Mapping[str, Split], reader: FeatureReader, absent: Sequence[str], problems: Problems
) -> None:
    if not absent:
        return
    total = len({video.id for split in splits.values() for video in split.videos})
    what = f"{len(absent):,} of {counted(total, 'annotated video')} without features in {reader.path}"
    if len(absent) == total:
        problems.fatal.append(
            f"{what}. Check config.dataset.features, and that features have the names of the videos: the "
            f"annotations have {', '.join(absent[:3])}; the features {', '.join(reader.ids[:3]) or 'none'}."
        )
    elif config.dataset.on_missing == "drop":
        problems.warnings.append(f"{what} will be dropped (config.dataset.on_missing): {listed(absent)}.")
        for name in _used_splits(config, splits):
            if {video.id for video in splits[name].videos} <= set(absent):
                problems.fatal.append(
                    f"The split {name} is empty without the videos that have no features. Bring features for "
                    "it, or leave it out of config.evaluation.splits."
                )
    else:
        has_split_file = option(config.dataset, "split_file") is not None
        own = " name a split file without them (config.dataset.split_file)," if has_split_file else ""
        problems.fatal.append(
            f"{what}. Bring them,{own} or set config.dataset.on_missing='drop' to go on without: "
            f"{listed(absent)}.{reader.spelling(absent[0])}"
        )


def _unreadable_problems(errors: Mapping[str, str], problems: Problems) -> None:
    """One problem for each kind of damage, the most frequent first."""
    kinds: dict[str, list[str]] = {}
    for video_id, error in errors.items():
        # Errors name the file, and so the video; without it those of one kind are equal.
        kinds.setdefault(error.replace(plain_id(video_id), ""), []).append(video_id)
    ranked = sorted(kinds.values(), key=len, reverse=True)
    for first, *others in ranked[:_KINDS]:
        same = f" The same with {counted(len(others), 'other video')}: {listed(others)}." if others else ""
        problems.fatal.append(errors[first] + same)
    others = [video_id for ids in ranked[_KINDS:] for video_id in ids]
    if others:
        problems.fatal.append(
            f"{counted(len(others), 'more video')} cannot be read for other reasons: {listed(others)}."
        )


def _scan(
    durations: Mapping[str, float], read: Callable[[str], Sequence[np.ndarray]], console: Console
) -> tuple[list[Measured], dict[str, str], str]:
    """Reads every video once, past those that cannot be read.

    Returns:
      What was measured, the error of each video that could not be read, and the time it took, as text.
    """
    measured, errors = [], {}
    bar = Progress(
        TextColumn("reading features, {task.completed:.0f}/{task.total:.0f}"),
        BarColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    began = time.perf_counter()
    with bar:
        for video_id, duration in bar.track(durations.items(), total=len(durations)):
            try:
                measured.append(measure(video_id, duration, read(video_id)))
            except UserError as error:
                errors[video_id] = str(error)
    seconds = time.perf_counter() - began
    rate = f" in {seconds:.2f} s ({len(durations) / seconds:,.0f} a second)" if durations else ""
    return measured, errors, counted(len(durations), "video") + rate


def _measured_facts(
    config, measured: Sequence[Measured], stride: float | None, problems: Problems
) -> list[tuple[str, str]]:
    """Dimension, rows, seconds per row, bad and empty rows, norm.

    `stride` is 0.0 where none is stated, None where there is nobody to state it.
    """
    if not measured:
        return []
    rows, limit = np.array([found.rows for found in measured]), config.input.num_clips
    averaged = f"{counted(int((rows > limit).sum()), 'video')} averaged to {limit} (config.input.num_clips)"
    longer = f"; {averaged}" if rows.max() > limit else ""
    facts = [
        ("dimension", _dimensions(config, measured, problems)),
        ("rows per video", f"{rows.min():,} to {rows.max():,}, median {np.median(rows):,.0f}{longer}"),
        ("seconds per row", _seconds_per_row(measured, stride, problems)),
    ]
    empty = [found.video for found in measured if not found.rows]
    if empty:
        problems.fatal.append(
            f"{counted(len(empty), 'video')} without a single row: {listed(empty)}. Extract them again or "
            "leave them out."
        )
    return [*facts, *_value_facts(config, measured, problems)]


def _dimensions(config, measured: Sequence[Measured], problems: Problems) -> str:
    expected, counts = config.dataset.feature_dim, Counter(found.dim for found in measured)
    text = ", ".join(f"{dim} ({counted(n, 'video')})" for dim, n in counts.most_common())
    if set(counts) != {expected}:
        others = [found.video for found in measured if found.dim != expected]
        if {found.rows for found in measured} == {expected}:
            advice = f"They are [dimensions,clips], turned around. {TURN}"
        elif len(counts) == 1:
            advice = f"Set it to {measured[0].dim}, or bring the features that the config means."
        else:
            advice = f"All must have one dimension; extract these again: {listed(others)}."
        problems.fatal.append(
            f"{counted(len(others), 'video')} of {len(measured):,} with features of another dimension than "
            f"config.dataset.feature_dim, {expected}: there are {text}. {advice}"
        )
    return f"{text}; config.dataset.feature_dim is {expected}"


def _value_facts(config, measured: Sequence[Measured], problems: Problems) -> list[tuple[str, str]]:
    bad = [found for found in measured if found.bad_rows]
    if bad:
        places = [f"{found.video} (row {found.first_bad} of {found.rows})" for found in bad]
        problems.fatal.append(
            f"{counted(len(bad), 'video')} with NaN or infinity; first in, rows from 0: {listed(places)}. "
            "Extract them again or leave them out."
        )
    huge = [f"{found.video} ({found.largest:.3g})" for found in measured if found.largest > MOST]
    if huge:
        problems.fatal.append(
            f"{counted(len(huge), 'video')} with numbers that no extractor gives, beyond {MOST:.0e}: "
            f"{listed(huge)}. Extract them again or leave them out."
        )
    blank = [found.video for found in measured if found.rows and found.zero_rows == found.rows]
    if blank:
        problems.warnings.append(
            f"{counted(len(blank), 'video')} with nothing but zeros: {listed(blank)}. Extract them again."
        )
    sources = np.transpose([found.norms for found in measured if np.isfinite(found.norms).all()])
    zero_rows = sum(found.zero_rows for found in measured)
    bad_rows = sum(found.bad_rows for found in bad)
    facts = [
        ("NaN or infinity", f"{counted(bad_rows, 'row')} in {counted(len(bad), 'video')}"),
        ("all zeros", f"{counted(zero_rows, 'row')}, {counted(len(blank), 'whole video')}"),
    ]
    if len(sources):
        state = "normalised" if np.allclose(sources, 1.0, atol=0.01) else "not normalised"
        text = " and ".join(f"{source.mean():.3f}" for source in sources)
        facts.append(
            ("mean L2 norm of a row", f"{text} ({state}); config.input.normalize is {config.input.normalize}")
        )
    return facts


def _typical_seconds(measured: Sequence[Measured]) -> float:
    """The median of seconds per row; NaN where durations are unknown."""
    found = [m.seconds_per_row for m in measured if m.rows and np.isfinite(m.duration)]
    return float(np.median(found)) if found else float("nan")


def _agree(seconds: float, expected: float) -> bool:
    return abs(seconds / expected - 1) <= _TOLERANCE


def _tells(timed: Sequence[Measured], off: Sequence[Measured], stride: float | None) -> bool:
    """Whether rows that are few or many for the duration say that something is wrong.

    Without a stride that the source states, they do only where most of many videos agree on one; features may
    also have the same number of rows for every video, however long it is.
    """
    return bool(stride) or (len(timed) >= _MANY and len(off) <= (1 - _MOST_AGREE) * len(timed))


def _seconds_per_row(measured: Sequence[Measured], stride: float | None, problems: Problems) -> str:
    """Compares rows with durations; a row more or less is rounding, not a mismatch."""
    typical = _typical_seconds(measured)
    if not np.isfinite(typical):
        return "unknown"
    timed = [found for found in measured if found.rows]
    off = [
        found
        for found in timed
        if not _agree(found.seconds_per_row, typical) and abs(found.rows - found.duration / typical) > 1
    ]
    if off and _tells(timed, off, stride):
        off.sort(key=lambda found: -abs(np.log(found.seconds_per_row / typical)))
        worst = [f"{found.video} ({found.rows:,} rows, {found.duration:.1f} s)" for found in off]
        problems.warnings.append(
            f"{counted(len(off), 'video')} with more or fewer rows than their duration asks for at "
            f"{typical:.3g} s per row (truncated features, or of another frame rate). Rows are spread evenly "
            f"over the duration, so moments of these shift. Extract them again: {listed(worst, _WORST)}."
        )
    if stride and not _agree(typical, stride):
        problems.warnings.append(
            f"Rows are {typical:.3g} s apart, and config.dataset.feature_stride says {stride:.3g} s. Set it to "
            "what the features' source states, or bring the features that the config means."
        )
    every = [found.seconds_per_row for found in timed]
    text = f"{min(every):.3g} to {max(every):.3g}, median {typical:.3g}"
    if stride is not None:
        text += f"; config.dataset.feature_stride is {stride:.3g}" + ("" if stride else ", not stated")
    return f"{text}; {counted(len(off), 'video')} off by more than {_TOLERANCE:.0%}"


def _coverage_problems(
    config, splits: Mapping[str, Split], measured: Sequence[Measured], problems: Problems
) -> None:
    """Moments that begin after the last row of their video's features; a stride that is wrong is not used."""
    stride, seconds = config.dataset.feature_stride, _typical_seconds(measured)
    timed = [found for found in measured if found.rows]
    if not _tells(timed, [found for found in timed if not _agree(found.seconds_per_row, seconds)], stride):
        return
    if stride and _agree(seconds, stride):
        seconds = stride
    end = {found.video: found.rows * seconds for found in measured if found.rows}
    late = [
        f"{query.qid} (at {query.span[0]:.1f} s of {end[split.videos[v].id]:.1f} s)"
        for split in splits.values()
        for query, v in zip(split.queries, split.owner)
        if end.get(split.videos[v].id, np.inf) <= query.span[0]
    ]
    if late:
        problems.warnings.append(
            f"{counted(len(late), 'query')} whose moment begins after the features of the video end, at "
            f"{seconds:.3g} s per row: {listed(late, _WORST)}. The features are cut short; extract them again."
        )


def room(config, measured: Sequence[Measured], problems: Problems) -> list[tuple[str, str]]:
    """Measures what `vmr_jax.input.features.build_feature_store` will write, and the room for it."""
    folder = user_path(config.dataset.data_dir).absolute()
    while not folder.exists():
        folder = folder.parent
    clips = sum(min(found.rows, config.input.num_clips) * found.dim for found in measured)
    size, free = clips * np.dtype(np.float32).itemsize, shutil.disk_usage(folder).free
    if size > free:
        problems.warnings.append(
            f"The cache of the features takes {_bytes(size)} and {folder} has {_bytes(free)} left. Unless it "
            "is there already, make room or set config.dataset.data_dir to another disk."
        )
    return [("cache for training", f"{_bytes(size)}; {_bytes(free)} are free in {folder}")]


def _bytes(size: int) -> str:
    return f"{size / 2**30:,.1f} GiB" if size >= 2**30 else f"{size / 2**20:,.1f} MiB"


def _used_splits(config, splits: Mapping[str, Split]) -> list[str]:
    """The splits that a run reads: train, those it evaluates on, that it selects by."""
    options = config.evaluation
    wanted = {"train", options.select_split, *(options.splits or splits)}
    return [name for name in splits if name in wanted]
