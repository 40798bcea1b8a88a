"""From a scene to the features of its clips, in every modality."""

import numpy as np

from vmr_jax.data.storyboard.grammar import ACTIONS, AGENTS, ANYONE, OBJECTS, choice
from vmr_jax.data.storyboard.scene import Event, Scene
from vmr_jax.data.storyboard.vectors import (
    AUDIO_DIM,
    CELL_DIM,
    FLOW_DIM,
    OBJECT_DIM,
    PHASES,
    RGB_DIM,
    SENTENCE_DIM,
    SUBTITLE_DIM,
    Vectors,
)

THINGS = (*(name for name in AGENTS if name != ANYONE), *OBJECTS)  # classes of the object scores
SLOTS = 4  # O, objects per clip
SIDE = 4  # I, cells along each side of a frame

# Shapes of the arrays in a record; None is T.
SHAPES = {
    "rgb": (None, RGB_DIM),
    "flow": (None, FLOW_DIM),
    "audio": (None, AUDIO_DIM),
    "objects": (None, SLOTS, OBJECT_DIM),
    "persons": (None, SLOTS),
    "subtitles": (None, SUBTITLE_DIM),
    "translated_subtitles": (None, SUBTITLE_DIM),
    "grid": (None, SIDE, SIDE, CELL_DIM),
    "captions": (None, SENTENCE_DIM),
    "object_scores": (None, len(THINGS)),
    "activity_scores": (None, len(ACTIONS)),
}

# Standard deviation of the noise of one number; a concept vector has length 1.
NOISE = {
    "rgb": 0.12,
    "flow": 0.12,
    "audio": 0.12,
    "objects": 0.1,
    "grid": 0.12,
    "captions": 0.12,
    "object_scores": 0.15,
    "activity_scores": 1.0,
}
PHASE_GAIN = 0.7
STYLE_GAIN = 0.5  # what all clips of a video have in common beside the place


def render(scene: Scene, world: Vectors, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Returns float32 arrays of the shapes in `SHAPES`, T = scene.clips."""
    arrays: dict[str, np.ndarray] = {
        "rgb": _rgb(scene, world, rng),
        "flow": _flow(scene, world, rng),
        "audio": _audio(scene, world, rng),
        **_objects(scene, world, rng),
        **_subtitles(scene, world, rng),
        # The later ones stand behind, so that their draws change no earlier one.
        "grid": _grid(scene, world, rng),
        "captions": _captions(scene, world, rng),
        "object_scores": _object_scores(scene, rng),
        "activity_scores": _activity_scores(scene, rng),
    }
    return {name: array.astype(np.float32) for name, array in arrays.items()}


def _phase_weights(event: Event) -> np.ndarray:
    """[clips of the event, PHASES]: start, middle and end fade into one another; rows add up to 1."""
    n = event.end - event.start
    position = (np.arange(n) + 0.5) / n * (PHASES - 1)
    return np.maximum(1.0 - np.abs(position[:, None] - np.arange(PHASES)), 0.0)


def _gain(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """[T,1] gain: of the video, times that of the clip."""
    return rng.uniform(0.8, 1.25) * rng.uniform(0.85, 1.15, (scene.clips, 1))


def _noisy(signal: np.ndarray, name: str, rng: np.random.Generator) -> np.ndarray:
    return signal + rng.normal(scale=NOISE[name], size=signal.shape)


def _rgb(scene: Scene, world: Vectors, rng: np.random.Generator) -> np.ndarray:
    """The things there and their events, times a gain, plus noise; an idle clip is its place."""
    looks = world.appearance
    signal = np.zeros((scene.clips, RGB_DIM))
    place = scene.events[0].place
    for event, following in zip(scene.events, (*scene.events[1:], None)):
        first = 0 if event is scene.events[0] else event.start
        last = scene.clips if following is None else following.start
        place = event.place
        signal[first:last] += looks["place"][place]
        signal[event.start : event.end] += (
            looks["agent"][event.agent]
            + looks["action"][event.action]
            + looks["object"][event.object]
            + PHASE_GAIN * _phase_weights(event) @ world.phases[event.action]
        )
        if event.recipient is not None:
            signal[event.start : event.end] += looks["recipient"][event.recipient]
    style = rng.normal(size=RGB_DIM)
    signal += STYLE_GAIN * style / np.linalg.norm(style)
    return _noisy(_gain(scene, rng) * signal, "rgb", rng)


def _flow(scene: Scene, world: Vectors, rng: np.random.Generator) -> np.ndarray:
    """Action + phase: motion tells neither who nor what with."""
    signal = np.zeros((scene.clips, FLOW_DIM))
    for event in scene.events:
        phases = _phase_weights(event) @ world.motion_phases[event.action]
        signal[event.start : event.end] = world.motion[event.action] + PHASE_GAIN * phases
    return _noisy(_gain(scene, rng) * signal, "flow", rng)


def _audio(scene: Scene, world: Vectors, rng: np.random.Generator) -> np.ndarray:
    """The sound of the actions that have one; one clip in ten has a sound from elsewhere."""
    signal = np.zeros((scene.clips, AUDIO_DIM))
    for event in scene.events:
        if event.action in world.sounds:
            signal[event.start : event.end] = _phase_weights(event) @ world.sounds[event.action]
    for t in np.flatnonzero(rng.random(scene.clips) < 0.1):
        signal[t] += choice(rng, world.sounds[choice(rng, tuple(world.sounds))])
    return _noisy(signal, "audio", rng)


def _objects(scene: Scene, world: Vectors, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Slots in any order, an empty one is a zero row: what is used, who uses it, what else is there.

    'persons' is 1 where a person is in the slot, else 0.
    """
    signal, persons = np.zeros((scene.clips, SLOTS, OBJECT_DIM)), np.zeros((scene.clips, SLOTS))
    active = {t: event for event in scene.events for t in range(event.start, event.end)}
    for t in range(scene.clips):
        seen, others = [], [*scene.agents, *scene.objects]
        event = active.get(t)
        if event is not None:
            seen.append((event.agent, PHASE_GAIN * world.pose[event.action]))
            others.remove(event.agent)
            if rng.random() < 0.95:
                seen.append((event.object, PHASE_GAIN * world.use[event.action]))
            others.remove(event.object)
            if event.recipient is not None:
                seen.append((event.recipient, PHASE_GAIN * world.receiving))
                others.remove(event.recipient)
        visible = rng.random(len(others)) < 0.4
        order = rng.permutation(len(others))
        seen += [(others[i], np.zeros(OBJECT_DIM)) for i in order if visible[i]]
        for slot, (name, doing) in zip(rng.permutation(SLOTS), seen):
            signal[t, slot] = _noisy(world.entities[name] + doing, "objects", rng)
            persons[t, slot] = name in scene.agents
    return {"objects": signal, "persons": persons}


def _subtitles(scene: Scene, world: Vectors, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """In both languages, zero where nothing is said.

    In six of ten events someone names the object, half of them the action. One clip in ten has a word of small
    talk, about anything.
    """
    said: list[list[str]] = [[] for _ in range(scene.clips)]
    for event in scene.events:
        if rng.random() < 0.6:
            line = ["the", choice(rng, OBJECTS[event.object].words)]
            if rng.random() < 0.5:
                line.insert(0, choice(rng, ACTIONS[event.action].verbs).gerund)
            first = int(rng.integers(event.start, event.end))
            for t in range(first, min(first + 2, event.end)):
                said[t] += line
    for k in np.flatnonzero(rng.random(scene.clips) < 0.1):
        said[k].append(choice(rng, OBJECTS[choice(rng, tuple(OBJECTS))].words))
    signals = {}
    for name, translated in (("subtitles", False), ("translated_subtitles", True)):
        signal = np.zeros((scene.clips, SUBTITLE_DIM))
        for t, line in enumerate(said):
            if line:
                signal[t] = world.said(line, translated)
        signals[name] = signal
    return signals


def _grid(scene: Scene, world: Vectors, rng: np.random.Generator) -> np.ndarray:
    """An event fills four cells of the frame, who and how above what; any other may hold any thing there."""
    signal = np.zeros((scene.clips, SIDE, SIDE, CELL_DIM))
    others = [world.cells[name] for name in (*scene.agents, *scene.objects)]
    seen = rng.random((scene.clips, SIDE, SIDE)) < 0.3
    which = rng.integers(0, len(others), (scene.clips, SIDE, SIDE))
    signal[seen] = np.stack(others)[which[seen]]
    for event in scene.events:
        row, column = rng.integers(0, SIDE - 1, 2)
        who = world.cells[event.agent] + world.cells[event.action]
        signal[event.start : event.end, row, column : column + 2] = who
        signal[event.start : event.end, row + 1, column : column + 2] = world.cells[event.object]
    return _noisy(signal, "grid", rng)


def _captions(scene: Scene, world: Vectors, rng: np.random.Generator) -> np.ndarray:
    """Who does what with what, in words, as a captioner puts it that takes every sixth thing for another."""
    signal = np.zeros((scene.clips, SENTENCE_DIM))
    for event in scene.events:
        for t in range(event.start, event.end):
            thing = event.object if rng.random() < 5 / 6 else choice(rng, tuple(OBJECTS))
            nouns = [AGENTS[event.agent].words[0], OBJECTS[thing].words[0]]
            signal[t] = world.said([*nouns, ACTIONS[event.action].verbs[0].gerund])
    return _noisy(signal, "captions", rng)


def _object_scores(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """From 0 to 1, of who and what is used and of what else is there, four in ten times."""
    signal = np.zeros((scene.clips, len(THINGS)))
    there = [THINGS.index(name) for name in (*scene.agents, *scene.objects)]
    signal[:, there] = 0.8 * (rng.random((scene.clips, len(there))) < 0.4)
    for event in scene.events:
        used = [THINGS.index(name) for name in (event.agent, event.object, event.recipient) if name]
        signal[event.start : event.end, used] = 0.8
    return np.clip(_noisy(signal, "object_scores", rng), 0.0, 1.0)


def _activity_scores(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """Probabilities of the actions, which add up to 1; of an idle clip they say nothing."""
    logits = np.zeros((scene.clips, len(ACTIONS)))
    for event in scene.events:
        logits[event.start : event.end, tuple(ACTIONS).index(event.action)] = 3.0
    odds = np.exp(_noisy(logits, "activity_scores", rng))
    return odds / odds.sum(1, keepdims=True)
