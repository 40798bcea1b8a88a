"""Scenes: the timeline of a video's events, and the questions that have one answer in it."""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from data.storyboard.grammar import (
    AGENTS,
    ANYONE,
    HELD_OUT,
    OBJECTS,
    OPPOSITE,
    PAIRS,
    PLACES,
    Clause,
    Meaning,
    Sentence,
    Writer,
    choice,
)

CLIP_SECONDS = 1.5
MIN_CLIPS, MAX_CLIPS = 24, 40
MIN_EVENT, MAX_EVENT = 3, 9  # clips
MAX_GAP = 2  # clips
QUERIES = 4  # per video, where it has as many
RELATIONAL_SHARE = 0.28  # of the questions
RELATION_ODDS = {"before": 3.0, "after": 3.0, "then": 1.0, "again": 3.0}  # 'then' is possible far more often
LATE = 0.7  # of the duration: the middle of a moment after this is rare, except in test_shifted_position
LATE_WEIGHT = 0.05

_AGENT_NAMES = tuple(name for name in AGENTS if name != ANYONE)


@dataclasses.dataclass(frozen=True)
class Event:
    """An agent does an action to an object in a place, in clips start <= t < end."""

    agent: str
    action: str
    object: str
    place: str
    start: int
    end: int


@dataclasses.dataclass(frozen=True)
class Question:
    """A sentence, what it means, and the one moment (seconds) of its video that it describes."""

    meaning: Meaning
    sentence: Sentence
    span: tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Scene:
    """One video before its features are rendered.

    Attributes:
      video: its id.
      clips: T, clips of CLIP_SECONDS each; the last one is cut short by the end of the video.
      duration: seconds.
      agents: who is there.
      objects: what is there, used or not.
      events: in order of time, not overlapping.
      questions: at most QUERIES.
    """

    video: str
    clips: int
    duration: float
    agents: tuple[str, ...]
    objects: tuple[str, ...]
    events: tuple[Event, ...]
    questions: tuple[Question, ...]


def make_scene(rng: np.random.Generator, split: str, video: str) -> Scene:
    """Draws the scene of one video; `split` decides its words, pairs and positions."""
    clips, spans = _layout(rng)
    duration = round(clips * CLIP_SECONDS - float(rng.uniform(0.05, 1.2)), 2)
    agents, triples = _plot(rng, len(spans), HELD_OUT if split == "test_novel_composition" else PAIRS)
    places = _places(rng, len(spans))
    events = tuple(
        Event(*triple, place, start, end) for triple, place, (start, end) in zip(triples, places, spans)
    )
    scene = Scene(video, clips, duration, agents, _objects(rng, events), events, ())
    return dataclasses.replace(scene, questions=_ask(rng, scene, split))


# --- the timeline ---------------------------------------------------------------------------------


def _layout(rng: np.random.Generator) -> tuple[int, list[tuple[int, int]]]:
    """Draws T and the clips of 4 to 8 events, back to back with gaps of at most MAX_GAP clips."""
    clips = int(rng.integers(MIN_CLIPS, MAX_CLIPS + 1))
    n = int(rng.integers(4, min(8, clips // 5) + 1))
    sizes = np.array([0, *([MIN_EVENT, 0] * n)])  # gap, event, gap, event, ..., gap
    limits = np.array([MAX_GAP, *([MAX_EVENT, MAX_GAP] * n)])
    # Uneven weights make lengths broad: some events get most of the clips that are left.
    weights = rng.gamma(1.5, size=sizes.size) * np.where(limits == MAX_GAP, 0.3, 1.0)
    while sizes.sum() < clips:
        sizes[_weighted(rng, range(sizes.size), weights * (sizes < limits))] += 1
    edges = np.cumsum(sizes)
    return clips, [(int(edges[i]), int(edges[i + 1])) for i in range(0, 2 * n, 2)]


def _plot(
    rng: np.random.Generator, n: int, themes: Sequence[tuple[str, str]]
) -> tuple[tuple[str, ...], list[tuple[str, str, str]]]:
    """Draws n (agent, action, object) with distractors for the theme, one of `themes`.

    The theme shares its object with one event and its action with another ("opens the door" beside
    "closes the door" and "opens the fridge"); every further event shares one or the other with an
    earlier one. In three of four videos one event happens twice.
    """
    agents = [_AGENT_NAMES[i] for i in rng.permutation(len(_AGENT_NAMES))[: int(rng.integers(1, 3))]]
    lead = agents[0]
    action, thing = choice(rng, themes)
    same_object = [a for a, o in PAIRS if o == thing and a != action]
    opposite = OPPOSITE.get(action)
    if opposite not in same_object or rng.random() < 0.4:
        opposite = choice(rng, same_object)
    same_action = [o for a, o in PAIRS if a == action and o != thing]
    triples = [(lead, action, thing), (lead, opposite, thing), (lead, action, choice(rng, same_action))]
    twice = rng.random() < 0.75
    # A held-out theme is done by both agents, so that more than one query can be asked about it.
    if len(agents) == 2 and (themes is HELD_OUT or rng.random() < 0.5) and len(triples) < n:
        triples.append((agents[1], action, thing))
    while len(triples) < n - twice:
        triple = (choice(rng, agents), *_related(rng, triples))
        if triple not in triples:
            triples.append(triple)
    if len(triples) < n:
        triples.append(triples[0] if rng.random() < 0.5 else choice(rng, triples))
    while True:
        order = [triples[i] for i in rng.permutation(n)]
        # Twice the same, side by side, would be one long event.
        if all(a != b for a, b in zip(order, order[1:])):
            return tuple(agents), order


def _related(rng: np.random.Generator, triples: Sequence[tuple[str, str, str]]) -> tuple[str, str]:
    """Draws a pair of action and object that shares exactly one of them with one of the triples."""
    _, action, thing = choice(rng, triples)
    return choice(rng, [(a, o) for a, o in PAIRS if (a == action) != (o == thing)])


def _places(rng: np.random.Generator, n: int) -> list[str]:
    """Draws the place of each event: one for the video, in two of ten a second from some event on."""
    first, second = (tuple(PLACES)[i] for i in rng.permutation(len(PLACES))[:2])
    change = int(rng.integers(1, n)) if rng.random() < 0.2 else n
    return [first] * change + [second] * (n - change)


def _objects(rng: np.random.Generator, events: Sequence[Event]) -> tuple[str, ...]:
    """The objects of the events, and two that nobody uses."""
    used = sorted({event.object for event in events})
    unused = [name for name in OBJECTS if name not in used]
    return (*used, *(unused[i] for i in rng.permutation(len(unused))[:2]))


# --- the questions --------------------------------------------------------------------------------


def fits(clause: Clause, event: Event) -> bool:
    """Whether an event is what the clause says."""
    return (
        clause.agent in (event.agent, ANYONE)
        and (clause.action, clause.object) == (event.action, event.object)
        and clause.place in (event.place, None)
    )


def _clauses(event: Event) -> list[Clause]:
    """The ways to mention an event: with its agent or anyone, with and without its place."""
    return [
        Clause(agent, event.action, event.object, place)
        for agent in (event.agent, ANYONE)
        for place in (None, event.place)
    ]


def _candidates(events: Sequence[Event]) -> Iterator[tuple[Meaning, int, int]]:
    """Yields every meaning that has exactly one answer, with the first and last event of the answer.

    A relation is only used where the sentence needs it: its main clause alone would fit two events.
    """
    for i, event in enumerate(events):
        named = Clause(event.agent, event.action, event.object)
        same = [k for k, e in enumerate(events) if fits(named, e)]
        for clause in _clauses(event):
            fitting = [k for k, e in enumerate(events) if fits(clause, e)]
            if fitting == [i]:
                yield Meaning(clause), i, i
            elif clause.place is None:
                for relation, j in _anchors(events, fitting, i):
                    yield Meaning(clause, relation, _named(events[j])), i, i
        if len(same) == 2 and same[1] == i:
            yield Meaning(named, "again"), i, i
        if i + 1 < len(events) and _follows_once(events, named, _named(events[i + 1])):
            yield Meaning(named, "then", _named(events[i + 1])), i, i + 1


def _named(event: Event) -> Clause:
    return Clause(event.agent, event.action, event.object)


def _anchors(events: Sequence[Event], fitting: Sequence[int], i: int) -> Iterator[tuple[str, int]]:
    """Yields the events, each the only one of its kind, before or after which only event i fits."""
    for j, event in enumerate(events):
        if j in fitting or sum(fits(_named(event), e) for e in events) > 1:
            continue
        if [k for k in fitting if k < j] == [i]:
            yield "before", j
        if [k for k in fitting if k > j] == [i]:
            yield "after", j


def _follows_once(events: Sequence[Event], first: Clause, second: Clause) -> bool:
    """Whether an event that fits `second` comes, at any distance, after one that fits `first` just once."""
    pairs = [
        (i, j)
        for i, a in enumerate(events)
        for j, b in enumerate(events)
        if i < j and fits(first, a) and fits(second, b)
    ]
    return len(pairs) == 1


def _ask(rng: np.random.Generator, scene: Scene, split: str) -> tuple[Question, ...]:
    """Draws the questions of a scene: a moment again only by another relation, or with anyone as agent."""
    left = []
    for meaning, first, last in _candidates(scene.events):
        span = _seconds(scene, first, last)
        late = sum(span) / 2 > LATE * scene.duration
        if _belongs(meaning, late, split):
            left.append((meaning, span, LATE_WEIGHT if late else 1.0))
    writer, questions = Writer(rng, novel=split == "test_novel_word"), []
    while left and len(questions) < QUERIES:
        relation = _relation(rng, [meaning.relation for meaning, *_ in left])
        among = [entry for entry in left if entry[0].relation == relation]
        meaning, span, _ = _weighted(rng, among, [weight for *_, weight in among])
        questions.append(Question(meaning, writer.write(meaning), span))
        left = [entry for entry in left if _kind(entry[0], entry[1]) != _kind(meaning, span)]
    return tuple(questions)


def _kind(meaning: Meaning, span: tuple[float, float]) -> tuple:
    return meaning.relation, meaning.main.agent, span


def _relation(rng: np.random.Generator, relations: Sequence[str]) -> str:
    """Draws a plain question ('') or, at RELATIONAL_SHARE, one of the relations that are possible."""
    present = [r for r in RELATION_ODDS if r in relations]
    if not present or ("" in relations and rng.random() >= RELATIONAL_SHARE):
        return ""
    return _weighted(rng, present, [RELATION_ODDS[r] for r in present])


def _weighted(rng: np.random.Generator, options: Sequence, weights: Sequence[float]):
    """Returns one of the options with odds in proportion to its weight."""
    odds = np.cumsum(weights)
    return options[int(np.searchsorted(odds, rng.random() * odds[-1], side="right"))]


def _seconds(scene: Scene, first: int, last: int) -> tuple[float, float]:
    start, end = scene.events[first].start, scene.events[last].end
    return start * CLIP_SECONDS, min(end * CLIP_SECONDS, scene.duration)


def _belongs(meaning: Meaning, late: bool, split: str) -> bool:
    """Whether a split may ask this: held-out pairs and late moments have splits of their own."""
    if split == "test_novel_composition":
        return (meaning.main.action, meaning.main.object) in HELD_OUT
    return late or split != "test_shifted_position"
