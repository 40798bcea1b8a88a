"""`--mode=check`: whether training would work, from reading all annotations and all features once.

Sections: problems, annotations, words, features, run, verdict. Each section prints what it found and adds to
the problems; none stops at the first. Nothing is written to the folder of the run.
"""

import contextlib
import dataclasses
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from vmr_jax.errors import UserError, nearest
from vmr_jax.evaluation.evaluator import Evaluator
from vmr_jax.evaluation.protocols import check_selection
from vmr_jax.input import dataset as input_lib
from vmr_jax.input import records
from vmr_jax.input.dataset import Dataset, Split, dataset_module
from vmr_jax.input.features import FeatureReader, missing, plain_id
from vmr_jax.input.loader import steps_per_epoch
from vmr_jax.input.spec import check_fields
from vmr_jax.input.words import open_word_vectors
from vmr_jax.models.base import GroundingModel
from vmr_jax.modes.inspect import abstract_variables, parameter_count
from vmr_jax.parallel import Parallel
from vmr_jax.text.tokenize import tokenize
from vmr_jax.training import optimizer as optimizer_lib
from vmr_jax.training.experiment import make_model

_WIDTH = 100  # columns at most
_LISTED = 20  # ids or rows of one problem
_WORST = 10  # videos, or moments, that rows do not reach
_KINDS = 4  # of damage that are told apart
_UNKNOWN_WORDS = 10
_MANY_UNKNOWN = 0.1  # share of words without a vector that deserves a warning
_TOLERANCE = 0.1  # of seconds per row, relative


def check(config, workdir: Path) -> None:
    """`--mode=check`: prints the report; ends the process with status 1 where training would fail."""
    del workdir
    terminal = Console()
    width = min(terminal.width, _WIDTH) if terminal.is_terminal else _WIDTH
    if find_problems(config, Console(width=width, highlight=False)).fatal:
        sys.exit(1)


def find_problems(config, console: Console) -> "Problems":
    """Prints annotations, features, run and verdict; returns what is wrong with them."""
    problems = Problems()
    dataset = _open_annotations(config.dataset, problems)
    splits = {name: dataset.split(name) for name in dataset.split_names} if dataset else {}
    _print(console, f"Annotations of {config.dataset.name}", *_annotations(config, dataset, splits, problems))
    _print(console, "Features", *_features(config, splits, problems, console))
    _print(console, "Run", *_run(config, dataset, problems))
    _print(console, "Verdict", *_verdict(problems))
    return problems


# --- problems -------------------------------------------------------------------------------------


class Problems:
    """What was found: `fatal` stops training, `warnings` do not. Each is one line with what to do."""

    def __init__(self):
        self.fatal: list[str] = []
        self.warnings: list[str] = []

    @contextlib.contextmanager
    def caught(self) -> Iterator[None]:
        """Turns a UserError of the block into a fatal problem."""
        try:
            yield
        except UserError as error:
            self.fatal.append(str(error))


def _listed(items: Iterable[str], most: int = _LISTED) -> str:
    """The first items, and how many there are where that is not all."""
    items = list(items)
    shown = ("; " if any("," in item for item in items) else ", ").join(items[:most])
    return f"{shown}, ... ({len(items):,} in all)" if len(items) > most else shown


def _counted(count: int, one: str) -> str:
    """'1 video', '1,334 videos', '2 queries'."""
    many = f"{one[:-1]}ies" if one.endswith("y") else f"{one}s"
    return f"{count:,} {one if count == 1 else many}"


def _option(options, name: str):
    """A field of `config.dataset` that only some datasets have; None where this one has not."""
    return options[name] if name in options else None


# --- annotations ----------------------------------------------------------------------------------


def _open_annotations(options, problems: Problems) -> Dataset | None:
    with problems.caught():
        dataset = Dataset(options, annotations_only=True)
        for name in dataset.split_names:
            dataset.split(name)
        return dataset
    return None


def _annotations(config, dataset: Dataset | None, splits: Mapping[str, Split], problems: Problems) -> list:
    """Counts of each split, defects of the files, words."""
    if dataset is None:
        return [Text("could not be read; the verdict says why")]
    tokens = _tokens(config, splits, problems)
    facts = [
        *_published(config.dataset, splits, problems),
        *_repairs(config.dataset, problems),
        ("duplicated query ids", _duplicates(splits, problems)),
        ("outside their video", _counted(sum(map(_moments_outside, splits.values())), "moment")),
        *_words(config, dataset, tokens, problems),
    ]
    return [_split_table(config, splits, tokens), _facts(facts)]


def _split_table(config, splits: Mapping[str, Split], tokens: Mapping[str, list[list[str]]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    table.add_column("split")
    limit = config.text.max_words
    for column in ("videos", "queries", "moments, s", "words", f"cut to {limit} words"):
        table.add_column(column, justify="right")
    for name, split in splits.items():
        lengths = [end - start for query in split.queries for start, end in query.windows or [query.span]]
        words = [len(found) for found in tokens.get(name, ())]
        table.add_row(
            Text(name),
            f"{len(split.videos):,}",
            f"{len(split.queries):,}",
            f"{min(lengths):.1f} to {max(lengths):.1f}",
            f"{min(words)} to {max(words)}" if words else "",
            f"{sum(n > limit for n in words):,}" if words else "",
        )
    return table


def _moments_outside(split: Split) -> int:
    spans, durations = split.spans, split.durations
    return int(((spans[:, 0] < 0) | (spans[:, 1] > durations)).sum())


def _duplicates(splits: Mapping[str, Split], problems: Problems) -> str:
    counts = Counter(query.qid for split in splits.values() for query in split.queries)
    twice = [qid for qid, count in counts.items() if count > 1]
    if twice:
        problems.warnings.append(
            f"{_counted(len(twice), 'query id')} not unique, so predictions cannot be matched by id: "
            f"{_listed(twice)}. Give every query its own id in the annotation files."
        )
    return f"{len(twice):,}"


def _published(options, splits: Mapping[str, Split], problems: Problems) -> list[tuple[str, str]]:
    """Compares with the counts of the official files, where that means something."""
    published = getattr(dataset_module(options.name), "PUBLISHED_COUNTS", None)
    if not published:
        return [("published counts", "none")]
    if _option(options, "split_file"):
        return [("published counts", f"not compared: {options.split_file} is a split of your own")]
    facts, differences = [], []
    for name, expected in published.items():
        parts = _official_parts(name, published, splits)
        extra = _option(options, "extra_queries") if name == "train" else ""
        found = _different(expected, parts, ("videos",) if extra else ("videos", "queries")) if parts else ""
        same = "the same here" if parts else "no such split here"
        text = f"{' + '.join(parts) or name}: {expected['videos']:,} videos, {expected['queries']:,} queries; "
        text += f"here {found}" if found else same
        text += f"; queries of {extra} come on top" if extra else ""
        facts.append(("" if facts else "published counts", text))
        if found:
            differences.append(f"{name} {found}")
    if differences:
        fields = ", ".join(f"{name}={_option(options, name)!r}" for name in _fields_of_records(options))
        chosen = f" or another version (config.dataset: {fields})" if fields else ""
        problems.warnings.append(
            f"The counts are not those of the official files: {'; '.join(differences)}. Unless you chose a part"
            f"{chosen}, get the official files: results on others cannot be compared with published ones."
        )
    return facts


def _fields_of_records(options) -> tuple[str, ...]:
    """The fields of `config.dataset` that decide what is read."""
    source = getattr(dataset_module(options.name), "SOURCE", None)
    return source.fields if source else ()


def _different(expected: Mapping[str, int], parts: Mapping[str, Split], compared: Sequence[str]) -> str:
    """The counts that are not as expected, '' where all are."""
    found = {
        "videos": sum(len(split.videos) for split in parts.values()),
        "queries": sum(len(split.queries) for split in parts.values()),
    }
    return ", ".join(f"{found[what]:,} {what}" for what in compared if found[what] != expected[what])


def _official_parts(
    name: str, published: Mapping[str, Mapping[str, int]], splits: Mapping[str, Split]
) -> dict[str, Split]:
    """The splits that make up an official one: what is held out of train for validation belongs to it."""
    held_out = name == "train" and "val" not in published
    return {part: splits[part] for part in ((name, "val") if held_out else (name,)) if part in splits}


def _repairs(options, problems: Problems) -> list[tuple[str, str]]:
    """What reading the files dropped, cut and counted."""
    source = getattr(dataset_module(options.name), "SOURCE", None)
    if source is None:
        return []
    with problems.caught():
        found = records.read(source, options)
        dropped = f"{_counted(len(found.dropped), 'row')}, empty after clipping to the video"
        return [
            ("dropped", dropped + (f": {_listed(found.dropped)}" if found.dropped else "")),
            ("clipped", f"{_counted(found.clipped, 'row')}, cut to the length of the video"),
            *((what, f"{count:,}") for what, count in found.counts.items()),
        ]
    return []


# --- words ----------------------------------------------------------------------------------------


def _tokens(config, splits: Mapping[str, Split], problems: Problems) -> dict[str, list[list[str]]]:
    """Words of every query of each split; empty where the tokeniser is wrong."""
    with problems.caught():
        style = config.text.tokenizer
        tokens = {
            name: [[token.text for token in tokenize(query.text, style)] for query in split.queries]
            for name, split in splits.items()
        }
        wordless = [
            f"{query.qid} ({query.text!r})"
            for name, split in splits.items()
            for query, words in zip(split.queries, tokens[name])
            if not words
        ]
        if wordless:
            problems.fatal.append(
                f'{_counted(len(wordless), "query")} without a word for the tokeniser "{style}": '
                f"{_listed(wordless)}. Correct the sentences."
            )
        return tokens
    return {}


def _words(
    config, dataset: Dataset, tokens: Mapping[str, list[list[str]]], problems: Problems
) -> list[tuple[str, str]]:
    """Which words have no vector."""
    counts = Counter(word for queries in tokens.values() for words in queries for word in words)
    if not counts:
        return []
    with problems.caught():
        vectors = open_word_vectors(config, dataset)
        unknown = Counter({word: n for word, n in counts.items() if not vectors.known(word)})
        share = unknown.total() / counts.total()
        if share > _MANY_UNKNOWN:
            problems.warnings.append(
                f"{share:.0%} of the words have no vector and become zeros. Check that config.text.vectors is "
                f'a whole file in their language and that the tokeniser "{config.text.tokenizer}" splits off '
                "punctuation."
            )
        text = f"{unknown.total():,} of {counts.total():,} ({share:.2%}), {len(unknown):,} of {len(counts):,} "
        text += "different ones"
        if unknown:
            most = ", ".join(f"{word} ({n:,})" for word, n in unknown.most_common(_UNKNOWN_WORDS))
            text += f"; most frequent: {most}"
        return [("words without vector", text)]
    return []


# --- features -------------------------------------------------------------------------------------


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
    )


def _norms(rows: np.ndarray) -> np.ndarray:
    """L2 norms [n] of rows [n,D]."""
    values = rows.astype(np.float32, copy=False)
    with np.errstate(over="ignore", invalid="ignore"):
        return np.sqrt(np.einsum("nd,nd->n", values, values))


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")


def _features(config, splits: Mapping[str, Split], problems: Problems, console: Console) -> list:
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
        raise UserError(
            f'config.dataset.features is "{name}", which the records do not have.{nearest(name, known)} They '
            f"have: {', '.join(known)}."
        )
    durations = {video.id: video.duration for video in videos.values()}
    measured, _, speed = _scan(durations, lambda video_id: [videos[video_id].embedded[name]], console)
    facts = [("source", f"in the records, {name}"), ("read", speed)]
    return [_facts(facts + _measured_facts(config, measured, None, problems))]


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
        text = f"{len(extra):,}, not read" + (f": {_listed(extra)}" if extra else "")
        facts += [
            ("without features", f"{len(absent):,} of {_counted(len(durations), 'annotated video')}"),
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
    facts += _room(config, measured, problems)
    return [_facts(facts)]


def _missing_problems(
    config, splits: Mapping[str, Split], reader: FeatureReader, absent: Sequence[str], problems: Problems
) -> None:
    if not absent:
        return
    total = len({video.id for split in splits.values() for video in split.videos})
    what = f"{len(absent):,} of {_counted(total, 'annotated video')} without features in {reader.path}"
    if len(absent) == total:
        problems.fatal.append(
            f"{what}. Check config.dataset.features, and that features have the names of the videos: the "
            f"annotations have {', '.join(absent[:3])}; the features {', '.join(reader.ids[:3]) or 'none'}."
        )
    elif config.dataset.on_missing == "drop":
        problems.warnings.append(f"{what} will be dropped (config.dataset.on_missing): {_listed(absent)}.")
        for name in _used_splits(config, splits):
            if {video.id for video in splits[name].videos} <= set(absent):
                problems.fatal.append(
                    f"The split {name} is empty without the videos that have no features. Bring features for "
                    "it, or leave it out of config.evaluation.splits."
                )
    else:
        has_split_file = _option(config.dataset, "split_file") is not None
        own = " name a split file without them (config.dataset.split_file)," if has_split_file else ""
        problems.fatal.append(
            f"{what}. Bring them,{own} or set config.dataset.on_missing='drop' to go on without: "
            f"{_listed(absent)}."
        )


def _unreadable_problems(errors: Mapping[str, str], problems: Problems) -> None:
    """One problem for each kind of damage, the most frequent first."""
    kinds: dict[str, list[str]] = {}
    for video_id, error in errors.items():
        # Errors name the file, and so the video; without it those of one kind are equal.
        kinds.setdefault(error.replace(plain_id(video_id), ""), []).append(video_id)
    ranked = sorted(kinds.values(), key=len, reverse=True)
    for first, *others in ranked[:_KINDS]:
        same = f" The same with {_counted(len(others), 'other video')}: {_listed(others)}." if others else ""
        problems.fatal.append(errors[first] + same)
    others = [video_id for ids in ranked[_KINDS:] for video_id in ids]
    if others:
        problems.fatal.append(
            f"{_counted(len(others), 'more video')} cannot be read for other reasons: {_listed(others)}."
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
    return measured, errors, _counted(len(durations), "video") + rate


def _measured_facts(
    config, measured: Sequence[Measured], stride: float | None, problems: Problems
) -> list[tuple[str, str]]:
    """Dimension, rows, seconds per row, bad and empty rows, norm.

    `stride` is 0.0 where none is stated, None where there is nobody to state it.
    """
    if not measured:
        return []
    rows, limit = np.array([found.rows for found in measured]), config.input.num_clips
    averaged = f"{_counted(int((rows > limit).sum()), 'video')} averaged to {limit} (config.input.num_clips)"
    longer = f"; {averaged}" if rows.max() > limit else ""
    facts = [
        ("dimension", _dimensions(config, measured, problems)),
        ("rows per video", f"{rows.min():,} to {rows.max():,}, median {np.median(rows):,.0f}{longer}"),
        ("seconds per row", _seconds_per_row(measured, stride, problems)),
    ]
    empty = [found.video for found in measured if not found.rows]
    if empty:
        problems.fatal.append(
            f"{_counted(len(empty), 'video')} without a single row: {_listed(empty)}. Extract them again or "
            "leave them out."
        )
    return [*facts, *_value_facts(config, measured, problems)]


def _dimensions(config, measured: Sequence[Measured], problems: Problems) -> str:
    expected, counts = config.dataset.feature_dim, Counter(found.dim for found in measured)
    text = ", ".join(f"{dim} ({_counted(n, 'video')})" for dim, n in counts.most_common())
    if set(counts) != {expected}:
        others = [found.video for found in measured if found.dim != expected]
        advice = (
            f"Set it to {measured[0].dim}, or bring the features that the config means."
            if len(counts) == 1
            else f"All must have one dimension; extract these again: {_listed(others)}."
        )
        problems.fatal.append(
            f"{_counted(len(others), 'video')} of {len(measured):,} with features of another dimension than "
            f"config.dataset.feature_dim, {expected}: there are {text}. {advice}"
        )
    return f"{text}; config.dataset.feature_dim is {expected}"


def _value_facts(config, measured: Sequence[Measured], problems: Problems) -> list[tuple[str, str]]:
    bad = [found for found in measured if found.bad_rows]
    if bad:
        places = [f"{found.video} (row {found.first_bad} of {found.rows})" for found in bad]
        problems.fatal.append(
            f"{_counted(len(bad), 'video')} with NaN or infinity; first in, rows from 0: {_listed(places)}. "
            "Extract them again or leave them out."
        )
    blank = [found.video for found in measured if found.rows and found.zero_rows == found.rows]
    if blank:
        problems.warnings.append(
            f"{_counted(len(blank), 'video')} with nothing but zeros: {_listed(blank)}. Extract them again."
        )
    sources = np.transpose([found.norms for found in measured if np.isfinite(found.norms).all()])
    zero_rows = sum(found.zero_rows for found in measured)
    bad_rows = sum(found.bad_rows for found in bad)
    facts = [
        ("NaN or infinity", f"{_counted(bad_rows, 'row')} in {_counted(len(bad), 'video')}"),
        ("all zeros", f"{_counted(zero_rows, 'row')}, {_counted(len(blank), 'whole video')}"),
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
    if off:
        off.sort(key=lambda found: -abs(np.log(found.seconds_per_row / typical)))
        worst = [f"{found.video} ({found.rows:,} rows, {found.duration:.1f} s)" for found in off]
        problems.warnings.append(
            f"{_counted(len(off), 'video')} with more or fewer rows than their duration asks for at "
            f"{typical:.3g} s per row (truncated features, or of another frame rate). Rows are spread evenly "
            f"over the duration, so moments of these shift. Extract them again: {_listed(worst, _WORST)}."
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
    return f"{text}; {_counted(len(off), 'video')} off by more than {_TOLERANCE:.0%}"


def _coverage_problems(
    config, splits: Mapping[str, Split], measured: Sequence[Measured], problems: Problems
) -> None:
    """Moments that begin after the last row of their video's features; a stride that is wrong is not used."""
    stride, seconds = config.dataset.feature_stride, _typical_seconds(measured)
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
            f"{_counted(len(late), 'query')} whose moment begins after the features of the video end, at "
            f"{seconds:.3g} s per row: {_listed(late, _WORST)}. The features are cut short; extract them again."
        )


def _room(config, measured: Sequence[Measured], problems: Problems) -> list[tuple[str, str]]:
    """What `vmr_jax.input.features.build_feature_store` will write."""
    folder = Path(config.dataset.data_dir).expanduser().absolute()
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


# --- run ------------------------------------------------------------------------------------------


def _run(config, dataset: Dataset | None, problems: Problems) -> list:
    """Whether the config builds: devices, architecture, optimiser, evaluation."""
    facts, parallel, model = [], None, None
    with problems.caught():
        parallel = Parallel(config.parallel, config.num_devices)
        kind = parallel.devices[0].platform.upper()
        facts.append(("devices", f"{len(parallel.devices)} {kind}, config.parallel='{parallel.mode}'"))
        parallel.check_batch_size(config.batch_size, "config.batch_size")
    with problems.caught():
        model = make_model(config)
        check_fields(config, model.requires())
        facts.append(("architecture", _architecture(config, model)))
    with problems.caught():
        input_lib.check_resample(config.input.resample)
    with problems.caught():
        facts.append(("training", _training(config, dataset)))
    if parallel is not None and model is not None:
        with problems.caught():
            facts.append(("evaluation", _evaluation(config, Evaluator(config, model, parallel), dataset)))
    return [_facts(facts)]


def _architecture(config, model: GroundingModel) -> str:
    """Its size, after its parameters were found to be covered by the optimiser's rules."""
    variables = abstract_variables(config, vocab_size=2 if config.text.trainable else 0)
    schedule = optimizer_lib.learning_rate(config.optimizer, 1, 1)
    optimizer_lib.make_optimizer(config.optimizer, schedule, variables["params"], 1)
    needs = f"; needs {', '.join(model.requires())}" if model.requires() else ""
    return f"{config.model.name}, {parameter_count(variables):,} parameters{needs}"


def _training(config, dataset: Dataset | None) -> str:
    """How long it takes, in steps; UserError for a duration that cannot be read."""
    rows = max(config.input.queries_per_video, 1)
    size = max(config.batch_size, rows)  # a wrong one was named above
    steps = steps_per_epoch(dataset.split("train").owner, size, rows) if dataset else 1
    for field in ("evaluate_every", "log_every"):
        optimizer_lib.duration(config[field], steps, f"config.{field}")
    total = optimizer_lib.duration(config.train_for, steps, "config.train_for")
    counted = f": {_counted(steps, 'step')} an epoch, {total:,} in all" if dataset else ""
    return f"{config.train_for}, batches of {config.batch_size}{counted}"


def _evaluation(config, evaluator: Evaluator, dataset: Dataset | None) -> str:
    """The protocol, its splits, and how the best checkpoint is chosen."""
    options, protocol = config.evaluation, evaluator.protocol
    check_selection(options, protocol)
    best = (
        f"best by {options.select_by} on {options.select_split}" if options.select_split else "the last is kept"
    )
    if dataset is None:
        return f"{protocol.name}; {best}"
    names = list(options.splits) or [name for name in dataset.split_names if name != "train"]
    for name in dict.fromkeys((*names, *filter(None, [options.select_split]))):
        protocol.prepare(evaluator.model, dataset.split(name))
    return f"{protocol.name} on {', '.join(names)}; {best}"


def _used_splits(config, splits: Mapping[str, Split]) -> list[str]:
    """The splits that a run reads: train, those it evaluates on, that it selects by."""
    options = config.evaluation
    wanted = {"train", options.select_split, *(options.splits or splits)}
    return [name for name in splits if name in wanted]


# --- verdict --------------------------------------------------------------------------------------


def _verdict(problems: Problems) -> list:
    """The problems, and whether training would start."""
    lines = Table.grid(padding=(0, 2, 0, 0))
    lines.add_column(no_wrap=True, min_width=7)
    lines.add_column(overflow="fold")
    for word, found, style in (
        ("problem", problems.fatal, "bold red"),
        ("warning", problems.warnings, "yellow"),
    ):
        for text in found:
            lines.add_row(Text(word, style=style), Text(text))
    warned = f" ({_counted(len(problems.warnings), 'warning')})" if problems.warnings else ""
    if problems.fatal:
        result = Text(
            f"{_counted(len(problems.fatal), 'problem')} would stop training{warned}", style="bold red"
        )
    else:
        result = Text(f"ok: training would start{warned}", style="bold green")
    return [lines, result] if lines.row_count else [result]


# --- tables ---------------------------------------------------------------------------------------


def _facts(facts: Iterable[tuple[str, str]]) -> Table:
    """Two columns: what, and its value."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(min_width=21, max_width=30, style="dim")
    table.add_column(overflow="fold")
    for what, value in facts:
        table.add_row(Text(what), Text(value))
    return table


def _print(console: Console, title: str, *parts) -> None:
    console.print(Text(title, style="bold"))
    for part in parts:
        console.print(part)
    console.print()
