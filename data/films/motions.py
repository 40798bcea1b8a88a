"""How the actions of the films move: poses and the state of the thing at an instant of the event."""

import dataclasses
import math
from collections.abc import Callable

from vmr_jax.data.films.drawing import Pencil, Point
from vmr_jax.data.films.looks import GROUND, THINGS, Person, Pose, draw_table, draw_thing, rests_at

THING_X = 92.0  # of a thing that stands
_WASH = (255, 255, 255)
_SPARK = (255, 150, 20)
_TOOL = (60, 60, 65)


@dataclasses.dataclass(frozen=True)
class Instant:
    """Picture to be drawn at an instant of an event.

    Attributes:
      pose: of the agent.
      at: centre of the thing.
      openness, light: of the thing, as in `draw_thing`.
      table: whether the thing stands on its table, or on the floor.
      effect: draws what flies about; None for nothing.
      receiving: pose of the recipient.
    """

    pose: Pose
    at: Point
    openness: float = 0.0
    light: float = 0.0
    table: bool = False
    effect: Callable[[Pencil], None] | None = None
    receiving: Pose | None = None


@dataclasses.dataclass(frozen=True)
class Moment:
    """An instant of an event before it is staged.

    Attributes:
      person: the agent.
      recipient: who is given the thing; None unless the action gives.
      thing: name of the object.
      progress: of the event, 0 at its start to 1 at its end.
      seconds: since its start.
    """

    person: Person
    recipient: Person | None
    thing: str
    progress: float
    seconds: float

    @property
    def size(self) -> tuple[float, float]:
        """Width and height of the thing, in pixels."""
        return THINGS[self.thing].width, THINGS[self.thing].height

    @property
    def standing(self) -> Point:
        """Centre of the thing where it stands."""
        return THING_X, rests_at(self.thing)

    @property
    def beside(self) -> float:
        """Where the agent stands to reach the standing thing."""
        return THING_X - self.size[0] / 2 - 0.3 * self.person.height

    def swing(self, per_second: float) -> float:
        """-1 to 1, so many times to and fro in a second."""
        return math.sin(2 * math.pi * per_second * self.seconds)

    def level(self, share: float) -> float:
        """The height in the picture of a share of the agent's height."""
        return GROUND - share * self.person.height


def _opens(m: Moment) -> Instant:
    """Pulls with one hand and leans back, as the thing opens."""
    x, y = m.standing
    edge = x + m.size[0] * (0.45 - 0.8 * m.progress)
    pose = Pose(
        m.beside - 6 * m.progress,
        ((edge, y),),
        lean=-0.12 - 0.04 * m.swing(1.0),
        stride=0.2,
    )
    return Instant(pose, (x, y), openness=m.progress, table=True)


def _closes(m: Moment) -> Instant:
    """Pushes with both hands and leans forward, as the thing shuts."""
    x, y = m.standing
    left = x - 0.5 * m.size[0]
    pose = Pose(
        m.beside - 6 * (1 - m.progress),
        ((left, y - 6), (left, y + 6)),
        lean=0.16 + 0.04 * m.swing(1.0),
        crouch=0.3,
    )
    return Instant(pose, (x, y), openness=1 - m.progress, table=True)


def _picks_up(m: Moment) -> Instant:
    """From the floor to above the head."""
    x = 58.0
    low, high = GROUND - m.size[1] / 2, m.level(1.0) - m.size[1] / 2
    y = low + (high - low) * m.progress
    beside = x + (0.3 * m.person.height + m.size[0] / 2) * (1 - m.progress) + 2 * m.swing(1.0)
    hands = ((beside - 0.3 * m.size[0], y + m.size[1] / 2), (beside + 0.3 * m.size[0], y + m.size[1] / 2))
    return Instant(Pose(x, hands, crouch=1 - m.progress), (beside, y))


def _puts_down(m: Moment) -> Instant:
    """From the chest to the floor, far in front."""
    x = 34.0
    low, high = GROUND - m.size[1] / 2, m.level(0.6)
    y = high + (low - high) * m.progress
    beside = x + 0.36 * m.person.height + m.size[0] / 2
    pose = Pose(x, ((beside - m.size[0] / 2, y),), crouch=0.7 * m.progress, lean=0.1 + 0.2 * m.progress)
    return Instant(pose, (beside, y))


def _carries(m: Moment) -> Instant:
    """To and fro through the room, the thing on the shoulder."""
    where = (m.seconds / 3.0) % 2.0
    faces = 1 if where < 1 else -1
    x = 24 + 80 * (where if where < 1 else 2 - where)
    y = m.level(0.84) - m.size[1] / 2
    pose = Pose(x, ((x, m.level(0.82)),), stride=0.05 + 0.2 * abs(m.swing(1.0)), faces=faces)
    return Instant(pose, (x, y))


def _throws(m: Moment) -> Instant:
    """Out of the hand and across the room, again and again."""
    part = (m.seconds / 1.2) % 1.0
    x = 26.0
    start, end = (x + 0.3 * m.person.height, m.level(0.8)), (118.0, 60.0)
    at = (
        start[0] + (end[0] - start[0]) * part,
        start[1] + (end[1] - start[1]) * part - 40 * math.sin(math.pi * part),
    )
    hand = (x + 0.4 * m.person.height * (1 - part), m.level(0.95) + 20 * part)
    return Instant(Pose(x, (hand,), lean=0.1 - 0.2 * part, stride=0.22), at)


def _holds(m: Moment) -> Instant:
    """Before the chest, nearly still."""
    x = 50.0
    at = (x + 0.12 * m.person.height + m.size[0] / 2, m.level(0.5) + m.swing(0.25))
    hands = ((at[0] - m.size[0] / 2, at[1]), (at[0] + m.size[0] / 2, at[1]))
    return Instant(Pose(x, hands), at)


def _washes(m: Moment) -> Instant:
    """In circles over the thing, with foam."""
    x, y = m.standing
    angle = 2 * math.pi * 1.7 * m.seconds
    hand = (x + 0.3 * m.size[0] * math.cos(angle), y + 0.3 * m.size[1] * math.sin(angle))

    def foam(pencil: Pencil) -> None:
        for k in range(9):
            turn = k * 2.4
            rise = (m.seconds * 0.8 + k / 9) % 1.0
            size = 4 + 3 * ((k * 7) % 3)
            pencil.ellipse(x + 0.6 * m.size[0] * math.cos(turn), y + 14 - 34 * rise, size, size, _WASH)

    return Instant(Pose(m.beside, (hand,), lean=0.08), (x, y), table=True, effect=foam)


def _turns(m: Moment, on: bool) -> Instant:
    """A finger on top switches it on, one below switches it off, in the middle of the event."""
    x, y = m.standing
    light = float((m.progress > 0.4) == on)
    press = 3 * abs(m.swing(0.8))
    edge = x - m.size[0] / 2
    hand = (edge + 4, y - m.size[1] / 2 + press - 3) if on else (edge - press, y + m.size[1] / 2 - 3)
    return Instant(Pose(m.beside, (hand,), crouch=0.0 if on else 0.5), (x, y), light=light, table=True)


def _fixes(m: Moment) -> Instant:
    """Hammers, and sparks fly."""
    x, y = m.standing
    up = 0.5 + 0.5 * m.swing(1.6)
    edge = x - m.size[0] / 2
    hand = (edge - 6, y - 16 * up)

    def hammer(pencil: Pencil) -> None:
        pencil.line((hand, (edge + 6, y - 22 * up + 2)), 3, (150, 100, 50))
        pencil.rectangle(edge + 6, y - 22 * up + 2, 7, 11, _TOOL)
        for k in range(7):
            far = 8 + 22 * ((m.seconds * 1.6 + k * 0.37) % 1.0)
            turn = math.pi * (0.1 + 0.8 * k / 6)
            pencil.ellipse(edge + 6 + far * math.cos(turn), y - far * math.sin(turn), 4, 4, _SPARK)

    return Instant(Pose(m.beside, (hand,), crouch=0.4, lean=0.06), (x, y), table=True, effect=hammer)


def _watches(m: Moment) -> Instant:
    """From afar, with the hands behind the back; the look is drawn."""
    x, y = m.standing
    here = 22.0
    eyes = (here + 0.12 * m.person.height, m.level(0.88))
    back = (here - 0.12 * m.person.height, m.level(0.5))

    def look(pencil: Pencil) -> None:
        for k in range(5):
            part = (k + (m.seconds * 0.5) % 1.0) / 5
            far = (eyes[0] + (x - eyes[0]) * part, eyes[1] + (y - eyes[1]) * part)
            pencil.ellipse(*far, 3.2, 3.2, (20, 20, 20))

    return Instant(Pose(here, (back,), stride=0.06), (x, y), table=True, effect=look)


def _gives(m: Moment) -> Instant:
    """From the hands of one to those of the other, who stands on the right."""
    if m.recipient is None:
        raise ValueError("an action that gives has a recipient")
    left, right = 30.0, 98.0
    part = min(1.0, max(0.0, 1.4 * m.progress - 0.2))
    near = left + 0.3 * m.person.height, m.level(0.6)
    far = right - 0.3 * m.recipient.height, GROUND - 0.6 * m.recipient.height
    at = near[0] + (far[0] - near[0]) * part, near[1] + (far[1] - near[1]) * part
    giver = Pose(left, (at if part < 0.6 else near,), lean=0.08)
    receiving = Pose(right, (at if part > 0.4 else far,), lean=0.08, faces=-1)
    return Instant(giver, at, receiving=receiving)


MOTIONS: dict[str, Callable[[Moment], Instant]] = {
    "open": _opens,
    "close": _closes,
    "pick up": _picks_up,
    "put down": _puts_down,
    "carry": _carries,
    "throw": _throws,
    "hold": _holds,
    "wash": _washes,
    "turn on": lambda m: _turns(m, True),
    "turn off": lambda m: _turns(m, False),
    "fix": _fixes,
    "watch": _watches,
    "give": _gives,
}


def draw_stand(pencil: Pencil, instant: Instant, thing: str) -> None:
    """Draws the thing, and its table where it stands on one."""
    if instant.table and not THINGS[thing].stands:
        draw_table(pencil, instant.at[0])
    draw_thing(pencil, thing, *instant.at, openness=instant.openness, light=instant.light)
