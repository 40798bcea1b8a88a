"""From a scene to a film: its frames, and the mp4 file."""

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from vmr_jax.data.films.drawing import SIZE, Pencil
from vmr_jax.data.films.looks import PEOPLE, Pose, draw_person, draw_place, draw_thing
from vmr_jax.data.films.motions import MOTIONS, Moment, draw_stand
from vmr_jax.data.storyboard.scene import CLIP_SECONDS, Event, Scene

FPS = 10
_SKINS = ((255, 220, 190), (235, 190, 150), (200, 145, 105), (140, 95, 65))
_AWAY = 0.22  # scale of what stands on the shelf
_WAITS = 0.5  # how often one who has nothing to do is seen
_BACK = 96.0  # where the feet of those who wait are
_CRF = "28"  # of H.264: less is better
_KEY_FRAMES = 2  # seconds from one to the next, to which a player can jump


def frame_count(duration: float) -> int:
    """Number of frames of a scene of so many seconds; the film lasts so many times 1/FPS seconds."""
    return int(duration * FPS + 1e-6)


class Film:
    """The pictures of a scene, each a function of its time.

    Args:
      scene: of storyboard.
      rng: draws how this film looks: light, skin, where the camera stands, who waits.
    """

    def __init__(self, scene: Scene, rng: np.random.Generator):
        self.scene = scene
        self._skins = {name: _SKINS[int(rng.integers(len(_SKINS)))] for name in scene.agents}
        light = rng.uniform(0.94, 1.04) * rng.uniform(0.99, 1.01, 3)
        self._curve = [round(min(255.0, value * gain)) for gain in light for value in range(256)]
        self._shift = (float(rng.uniform(-2, 2)), float(rng.uniform(-2, 2)))
        self._waits = rng.random((len(scene.events) + 1, len(scene.agents))) < _WAITS
        self._rooms: dict[tuple, Any] = {}

    def frames(self) -> Iterator[np.ndarray]:
        """Yields the frames [SIZE,SIZE,3] uint8, one every 1/FPS seconds."""
        for k in range(frame_count(self.scene.duration)):
            yield self.frame(k / FPS)

    def frame(self, second: float) -> np.ndarray:
        """The frame [SIZE,SIZE,3] uint8 that is shown at a second."""
        clip = second / CLIP_SECONDS
        events = self.scene.events
        number = next((i for i, event in enumerate(events) if clip < event.end), len(events) - 1)
        event = events[number]
        if event.start <= clip < event.end:
            pencil = Pencil(self._room(number, event.place, event), self._shift)
            self._draw_event(pencil, event, clip)
        else:
            place = events[number - 1 if number and clip < event.start else number].place
            pencil = Pencil(self._room(number, place, None), self._shift)
        return self._taken(pencil.finished())

    def _draw_event(self, pencil: Pencil, event: Event, clip: float) -> None:
        moment = Moment(
            PEOPLE[event.agent],
            PEOPLE[event.recipient] if event.recipient else None,
            event.object,
            (clip - event.start) / (event.end - event.start),
            (clip - event.start) * CLIP_SECONDS,
        )
        instant = MOTIONS[event.action](moment)
        draw_stand(pencil, instant, event.object)
        draw_person(pencil, moment.person, instant.pose, self._skins[event.agent])
        if moment.recipient is not None and instant.receiving is not None:
            draw_person(pencil, moment.recipient, instant.receiving, self._skins[event.recipient or ""])
        if instant.effect is not None:
            instant.effect(pencil)

    def _room(self, number: int, place: str, event: Event | None) -> Any:
        """The picture behind an event, or of a room in which nothing happens: it does not move."""
        key = number, place, event is None
        if key not in self._rooms:
            pencil = Pencil(shift=self._shift)
            draw_place(pencil, place)
            busy = {event.agent, event.recipient} if event else set()
            used = event.object if event else None
            shelf = [name for name in self.scene.objects if name != used]
            for k, name in enumerate(shelf):
                draw_thing(pencil, name, 10 + k * 108 / max(len(shelf) - 1, 1), 15, scale=_AWAY)
            waiting = [a for a, w in zip(self.scene.agents, self._waits[number]) if w and a not in busy]
            for k, name in enumerate(waiting):
                self._draw_waiting(pencil, name, 8.0 + 112 * k)
            self._rooms[key] = pencil.picture
        return self._rooms[key]

    def _draw_waiting(self, pencil: Pencil, name: str, x: float) -> None:
        small = dataclasses.replace(PEOPLE[name], height=PEOPLE[name].height * 0.5)
        hands = [(x + side * 0.12 * small.height, _BACK - 0.42 * small.height) for side in (-1, 1)]
        draw_person(pencil, small, Pose(x, tuple(hands), stride=0.05), self._skins[name], ground=_BACK)

    def _taken(self, picture: Any) -> np.ndarray:
        """The picture in the light of this film."""
        return np.asarray(picture.point(self._curve))


def write_film(film: Film, path: Path) -> None:
    """Writes a film as mp4 (H.264), which browsers play; a killed writer leaves no file of that name.

    Args:
      film: the pictures.
      path: of the file, which is replaced where it is there.
    """
    import av

    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    options = {"crf": _CRF, "preset": "ultrafast", "g": str(_KEY_FRAMES * FPS), "threads": "1"}
    try:
        with av.open(str(unfinished), "w", format="mp4", options={"movflags": "faststart"}) as file:
            stream = file.add_stream("libx264", rate=FPS, options=options)
            stream.width = stream.height = SIZE
            stream.pix_fmt = "yuv420p"
            for pixels in film.frames():
                file.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
            file.mux(stream.encode(None))
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
