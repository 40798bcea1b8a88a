"""The section 'Annotations' of `--mode=check`: counts, defects of the files, words without a vector."""

from collections import Counter
from collections.abc import Mapping, Sequence

from rich import box
from rich.table import Table
from rich.text import Text

from vmr_jax.input import records
from vmr_jax.input.dataset import Dataset, Split, dataset_module
from vmr_jax.input.words import open_word_vectors
from vmr_jax.modes.check_problems import Problems, counted, facts_table, listed, option
from vmr_jax.text.tokenize import tokenize

_UNKNOWN_WORDS = 10
_MANY_UNKNOWN = 0.1  # share of words without a vector that deserves a warning


def open_annotations(options, problems: Problems) -> Dataset | None:
    with problems.caught():
        dataset = Dataset(options, annotations_only=True)
        for name in dataset.split_names:
            dataset.split(name)
        return dataset
    return None


def annotations(config, dataset: Dataset | None, splits: Mapping[str, Split], problems: Problems) -> list:
    """Counts of each split, defects of the files, words."""
    if dataset is None:
        return [Text("could not be read; the verdict says why")]
    tokens = _tokens(config, splits, problems)
    facts = [
        *_published(config.dataset, splits, problems),
        *_repairs(config.dataset, problems),
        ("duplicated query ids", duplicates(splits, problems)),
        ("outside their video", counted(sum(map(_moments_outside, splits.values())), "moment")),
        *_words(config, dataset, tokens, problems),
    ]
    return [_split_table(config, splits, tokens), facts_table(facts)]


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
            f"{min(lengths):.1f} to {max(lengths):.1f}" if split.labelled else "not known",
            f"{min(words)} to {max(words)}" if words else "",
            f"{sum(n > limit for n in words):,}" if words else "",
        )
    return table


def _moments_outside(split: Split) -> int:
    spans, durations = split.spans, split.durations
    return int(((spans[:, 0] < 0) | (spans[:, 1] > durations)).sum())


def duplicates(splits: Mapping[str, Split], problems: Problems) -> str:
    counts = Counter(query.qid for split in splits.values() for query in split.queries)
    twice = [qid for qid, count in counts.items() if count > 1]
    if twice:
        problems.warnings.append(
            f"{counted(len(twice), 'query id')} not unique, so predictions cannot be matched by id: "
            f"{listed(twice)}. Give every query its own id in the annotation files."
        )
    return f"{len(twice):,}"


def _published(options, splits: Mapping[str, Split], problems: Problems) -> list[tuple[str, str]]:
    """Compares with the counts of the official files, where that means something."""
    published = getattr(dataset_module(options.name), "PUBLISHED_COUNTS", None)
    if not published:
        return [("published counts", "none")]
    if option(options, "split_file"):
        return [("published counts", f"not compared: {options.split_file} is a split of your own")]
    facts: list[tuple[str, str]] = []
    differences = []
    for name, expected in published.items():
        parts = _official_parts(name, published, splits)
        extra = option(options, "extra_queries") if name == "train" else ""
        found = _different(expected, parts, ("videos",) if extra else ("videos", "queries")) if parts else ""
        same = "the same here" if parts else "no such split here"
        text = f"{' + '.join(parts) or name}: {expected['videos']:,} videos, {expected['queries']:,} queries; "
        text += f"here {found}" if found else same
        text += f"; queries of {extra} come on top" if extra else ""
        facts.append(("" if facts else "published counts", text))
        if found:
            differences.append(f"{name} {found}")
    if differences:
        fields = ", ".join(f"{name}={option(options, name)!r}" for name in _fields_of_records(options))
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
    """Queries and videos that reading the files dropped, cut and counted."""
    source = getattr(dataset_module(options.name), "SOURCE", None)
    if source is None:
        return []
    with problems.caught():
        found = records.read(source, options)
        dropped = f"{counted(len(found.dropped), 'row')}, of no length within the video"
        return [
            ("dropped", dropped + (f": {listed(found.dropped)}" if found.dropped else "")),
            ("clipped", f"{counted(found.clipped, 'row')}, cut to the length of the video"),
            *_named("without a moment", found.unlabelled, "row, left out"),
            *_named("said twice", found.repeated, "row"),
            *((what, f"{count:,}") for what, count in found.counts.items()),
        ]
    return []


def _named(what: str, places: Sequence[str], one: str) -> list[tuple[str, str]]:
    """A fact on rows that there are; nothing where there are none."""
    noun, _, state = one.partition(", ")
    text = f"{counted(len(places), noun)}{state and ', '}{state}: {listed(places)}"
    return [(what, text)] if places else []


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
                f'{counted(len(wordless), "query")} without a word for the tokeniser "{style}": '
                f"{listed(wordless)}. Correct the sentences."
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
        vectors = open_word_vectors(config, dataset.sentences())
        if vectors is None:
            return []  # config.text.features takes their place
        if config.text.vectors == "none" and config.text.trainable:
            return [("words", f"{len(counts):,} different ones; the vectors of those of training are learnt")]
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
