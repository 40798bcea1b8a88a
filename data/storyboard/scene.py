"""Scenes: the timeline of a video's events, and the questions that have one answer in it."""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from vmr_jax.data.storyboard.grammar import (
    AGENTS,
    ANYONE,
    GIVE,
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
QUERIES = 4  # per video, less where a split may not ask so many
RELATIONAL_SHARE = 0.28  # of the questions
# By how often each is possible: "then" nearly always, "again" and "after" ask for late moments.
RELATION_ODDS = {"before": 3.0, "after": 24.0, "then": 1.0, "again": 24.0}
LATE = 0.7  # of the duration: the middle of a moment after this is rare, except in test_shifted_position
LATE_KEPT = 0.2  # of the late moments of the other splits

_AGENT_NAMES = tuple(name for name in AGENTS if name != ANYONE)


@dataclasses.dataclass(frozen=True)
class Event:
    """An agent does an action to an object in a place, in clips start <= t < end.

    `recipient` is who is given the object, None unless the action is GIVE.
    """

    agent: str
    action: str
    object: str
    recipient: str | None
    place: str
    start: int
    end: int


@dataclasses.dataclass(frozen=True)
class Question:
    """A sentence, what it means, and the one moment (seconds) of its video that it describes.

    `context` is the moment before or after which that is, None where the sentence names none.
    """

    meaning: Meaning
    sentence: Sentence
    span: tuple[float, float]
    context: tuple[float, float] | None = None


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
      questions: one to QUERIES of them.
    """

    video: str
    clips: int
    duration: float
    agents: tuple[str, ...]
    objects: tuple[str, ...]
    events: tuple[Event, ...]
    questions: tuple[Question, ...]


def make_scene(
    rng: np.random.Generator,
    split: str,
    video: str,
    queries: int = QUERIES,
    relational_share: float = RELATIONAL_SHARE,
) -> Scene:
    """Draws the scene of one video.

    Args:
      rng: decides all that is random.
      split: decides its words, pairs and positions.
      video: its id.
      queries: the most that are asked about it.
      relational_share: of the questions, how many place their moment by another one.
    """
    while True:  # a scene without a question that the split may ask is drawn again
        scene = _draw_scene(rng, split, video)
        questions = _ask(rng, scene, split, queries, relational_share)
        if questions:
            return dataclasses.replace(scene, questions=questions)


def _draw_scene(rng: np.random.Generator, split: str, video: str) -> Scene:
    clips, spans = _layout(rng)
    duration = round(clips * CLIP_SECONDS - float(rng.uniform(0.05, 1.2)), 2)
    agents, doings = _plot(rng, len(spans), HELD_OUT if split == "test_novel_composition" else PAIRS)
    places = _places(rng, len(spans))
    events = tuple(
        Event(agent, action, item, recipient, place, start, end)
        for (agent, action, item, recipient), place, (start, end) in zip(doings, places, spans)
    )
    return Scene(video, clips, duration, agents, _objects(rng, events), events, ())


# --- the timeline ---------------------------------------------------------------------------------


def _layout(rng: np.random.Generator) -> tuple[int, list[tuple[int, int]]]:
    """Draws T and the clips of 4 to 8 events, back to back with gaps of at most MAX_GAP clips."""
    clips = int(rng.integers(MIN_CLIPS, MAX_CLIPS + 1))
    n = int(rng.integers(4, min(8, clips // 5) + 1))
    sizes = np.array([0, *([MIN_EVENT, 0] * n)])  # gap, event, gap, event, ..., gap
    limits = np.array([MAX_GAP, *([MAX_EVENT, MAX_GAP] * n)])
    # Uneven weights make lengths broad: some events get most of the clips that are left.
    weights = rng.gamma(0.7, size=sizes.size) * np.where(limits == MAX_GAP, 0.3, 1.0)
    while sizes.sum() < clips:
        sizes[_weighted(rng, range(sizes.size), weights * (sizes < limits))] += 1
    edges = np.cumsum(sizes)
    return clips, [(int(edges[i]), int(edges[i + 1])) for i in range(0, 2 * n, 2)]


def _plot(
    rng: np.random.Generator, n: int, themes: Sequence[tuple[str, str]]
) -> tuple[tuple[str, ...], list[tuple]]:
    """Draws the agents and n (agent, action, object, recipient), with distractors for the theme.

    The theme, one of `themes`, shares its object with one event and its action with another ("opens the
    door" beside "closes the door" and "opens the fridge"); every further event shares one or the other with
    an earlier one. Often both agents do the same, give to each other, or do something twice.
    """
    agents = tuple(_AGENT_NAMES[i] for i in rng.permutation(len(_AGENT_NAMES))[: 1 + (rng.random() < 0.7)])
    possible = [pair for pair in PAIRS if _possible(pair, agents)]
    themes = [pair for pair in themes if _possible(pair, agents)]
    gifts = [pair for pair in themes if pair[0] == GIVE]
    action, thing = choice(rng, gifts if gifts and rng.random() < 0.4 else themes)
    same_object = [a for a, o in possible if o == thing and a != action]
    other = OPPOSITE.get(action)
    if other not in same_object or rng.random() < 0.4:
        other = choice(rng, same_object)
    same_action = [o for a, o in possible if a == action and o != thing]
    doings = [
        _doing(agents, 0, action, thing),
        _doing(agents, 0, other, thing),
        _doing(agents, -1, action, choice(rng, same_action)),
    ]
    if len(agents) == 2 and (action == GIVE or rng.random() < 0.7):
        doings.append(_doing(agents, 1, action, thing))
    twice = len(doings) < n and rng.random() < 0.75
    while len(doings) < n - twice:
        doing = _doing(agents, int(rng.integers(len(agents))), *_related(rng, doings, possible))
        if doing not in doings:
            doings.append(doing)
    if twice:
        doings.append(choice(rng, doings))
    while True:
        order = [doings[i] for i in rng.permutation(n)]
        # Twice the same, side by side, would be one long event.
        if all(a != b for a, b in zip(order, order[1:])):
            return agents, order


def _possible(pair: tuple[str, str], agents: Sequence[str]) -> bool:
    return pair[0] != GIVE or len(agents) == 2


def _doing(agents: Sequence[str], who: int, action: str, thing: str) -> tuple:
    """(agent, action, object, recipient): with GIVE the recipient is the other agent."""
    return agents[who], action, thing, agents[1 - who % 2] if action == GIVE else None


def _related(
    rng: np.random.Generator, doings: Sequence[tuple], possible: Sequence[tuple[str, str]]
) -> tuple[str, str]:
    """Draws a pair of action and object that shares exactly one of them with one of the doings."""
    _, action, thing, _ = choice(rng, doings)
    return choice(rng, [(a, o) for a, o in possible if (a == action) != (o == thing)])


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


def _fits(clause: Clause, event: Event) -> bool:
    """Whether an event is what the clause says."""
    return (
        clause.agent in (event.agent, ANYONE)
        and (clause.action, clause.object) == (event.action, event.object)
        and clause.recipient == event.recipient
        and clause.place in (event.place, None)
    )


def _clauses(event: Event) -> list[Clause]:
    """The ways to mention an event: with its agent or anyone, with and without its place."""
    return [
        Clause(agent, event.action, event.object, event.recipient, place)
        for agent in (event.agent, ANYONE)
        for place in (None, event.place)
    ]


def _candidates(events: Sequence[Event]) -> Iterator[tuple[Meaning, int, int]]:
    """Yields every meaning that has exactly one answer, with the first and last event of the answer.

    A relation is only used where the sentence needs it: its main clause alone would fit two events.
    """
    for i, event in enumerate(events):
        named = _named(event)
        same = [k for k, e in enumerate(events) if _fits(named, e)]
        for clause in _clauses(event):
            fitting = [k for k, e in enumerate(events) if _fits(clause, e)]
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
    return Clause(event.agent, event.action, event.object, event.recipient)


def _anchors(events: Sequence[Event], fitting: Sequence[int], i: int) -> Iterator[tuple[str, int]]:
    """Yields the events, each the only one of its kind, before or after which only event i fits."""
    for j, event in enumerate(events):
        if j in fitting or sum(_fits(_named(event), e) for e in events) > 1:
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
        if i < j and _fits(first, a) and _fits(second, b)
    ]
    return len(pairs) == 1


def _ask(
    rng: np.random.Generator, scene: Scene, split: str, queries: int, relational_share: float
) -> tuple[Question, ...]:
    """Draws the questions of a scene: a moment again only by another relation, or with anyone as agent."""
    asked_late = rng.random(len(scene.events)) < LATE_KEPT
    left = []
    for meaning, first, last in _candidates(scene.events):
        span = _seconds(scene, first, last)
        late = sum(span) / 2 > LATE * scene.duration
        if _may_ask(meaning, late, bool(asked_late[last]), split):
            left.append((meaning, span))
    writer, questions = Writer(rng, novel=split == "test_novel_word"), []
    for _ in range(queries):
        relation = _relation(rng, {meaning.relation for meaning, _ in left}, relational_share)
        among = [entry for entry in left if entry[0].relation == relation]
        if among:
            meaning, span = choice(rng, among)
            questions.append(Question(meaning, writer.write(meaning), span, _context(scene, meaning)))
            left = [entry for entry in left if _kind(*entry) != _kind(meaning, span)]
    return tuple(questions)


def _context(scene: Scene, meaning: Meaning) -> tuple[float, float] | None:
    """The moment before or after which that of the meaning is."""
    if meaning.relation not in ("before", "after"):
        return None
    _, other = meaning.both
    (event,) = (k for k, e in enumerate(scene.events) if _fits(other, e))
    return _seconds(scene, event, event)


def _may_ask(meaning: Meaning, late: bool, asked_late: bool, split: str) -> bool:
    """Held-out pairs and late moments have splits of their own; elsewhere few moments are late."""
    if split == "test_shifted_position":
        return late
    if split == "test_novel_composition" and (meaning.main.action, meaning.main.object) not in HELD_OUT:
        return False
    return asked_late or not late


def _kind(meaning: Meaning, span: tuple[float, float]) -> tuple:
    return meaning.relation, meaning.main.agent, span


def _relation(rng: np.random.Generator, possible: set[str], share: float) -> str:
    """Draws '' (a plain question) or, at this share, one of the possible relations."""
    relations = [r for r in RELATION_ODDS if r in possible]
    if rng.random() >= share or not relations:
        return ""
    return _weighted(rng, relations, [RELATION_ODDS[r] for r in relations])


def _weighted(rng: np.random.Generator, options: Sequence, weights: Sequence[float] | np.ndarray):
    """Returns one of the options with odds in proportion to its weight."""
    odds = np.cumsum(weights)
    return options[int(np.searchsorted(odds, rng.random() * odds[-1], side="right"))]


def _seconds(scene: Scene, first: int, last: int) -> tuple[float, float]:
    start, end = scene.events[first].start, scene.events[last].end
    return start * CLIP_SECONDS, min(end * CLIP_SECONDS, scene.duration)
