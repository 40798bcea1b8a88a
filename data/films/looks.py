"""How the people, the things and the places of the films look."""

import dataclasses
from collections.abc import Callable

from vmr_jax.data.films.drawing import SIZE, Colour, Pencil, Point, shaded

GROUND = 114.0  # where feet and furniture stand
_HORIZON = 92.0  # where the wall ends and the floor begins


# --- people ---------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Person:
    """Clothes and height, in pixels, of a person."""

    clothes: Colour
    hair: Colour
    height: float
    dress: bool


PEOPLE = {
    "man": Person((25, 45, 150), (50, 35, 25), 76, dress=False),
    "woman": Person((205, 25, 50), (30, 20, 20), 72, dress=True),
    "boy": Person((50, 175, 50), (120, 70, 20), 54, dress=False),
    "girl": Person((250, 205, 30), (165, 85, 30), 52, dress=True),
}


@dataclasses.dataclass(frozen=True)
class Pose:
    """How a person stands. Lengths are in heights of the person, positions in pixels.

    Attributes:
      x: where the person stands.
      hands: where the hands are: both at one place, or each at its own.
      crouch: 0 upright to 1 on the heels.
      lean: of the shoulders, forward where positive.
      stride: between the feet.
      faces: 1 to the right, -1 to the left.
    """

    x: float
    hands: tuple[Point, ...]
    crouch: float = 0.0
    lean: float = 0.0
    stride: float = 0.12
    faces: int = 1


def draw_person(pencil: Pencil, person: Person, pose: Pose, skin: Colour, ground: float = GROUND) -> None:
    """Draws a person in a pose, from the legs up."""
    tall = person.height
    hip = (pose.x, ground - 0.44 * tall * (1 - 0.5 * pose.crouch))
    neck = (pose.x + pose.lean * tall * pose.faces, hip[1] - 0.36 * tall)
    for side in (-1, 1):
        foot = (pose.x + side * pose.stride * tall, ground)
        pencil.line((hip, foot), 0.1 * tall, skin if person.dress else shaded(person.clothes, 0.6))
    hem = (0.2 if person.dress else 0.1) * tall
    below = 0.14 * tall if person.dress else 0.02 * tall
    pencil.polygon(
        (
            (neck[0] - 0.11 * tall, neck[1]),
            (neck[0] + 0.11 * tall, neck[1]),
            (hip[0] + hem, hip[1] + below),
            (hip[0] - hem, hip[1] + below),
        ),
        person.clothes,
    )
    head = (neck[0] + 0.02 * tall * pose.faces, neck[1] - 0.1 * tall)
    if person.dress:
        pencil.rectangle(
            head[0] - 0.05 * tall * pose.faces, head[1] + 0.07 * tall, 0.2 * tall, 0.2 * tall, person.hair
        )
    pencil.ellipse(head[0], head[1] - 0.02 * tall, 0.24 * tall, 0.24 * tall, person.hair)
    pencil.ellipse(head[0] + 0.03 * tall * pose.faces, head[1] + 0.02 * tall, 0.18 * tall, 0.18 * tall, skin)
    shoulder = (neck[0], neck[1] + 0.05 * tall)
    for hand in pose.hands:
        pencil.line((shoulder, hand), 0.07 * tall, shaded(person.clothes, 1.25))
        pencil.ellipse(*hand, 0.09 * tall, 0.09 * tall, skin)


# --- things ---------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Thing:
    """Looks of an object: size in pixels, colours, and how it opens.

    Attributes:
      width, height: pixels.
      colour: of most of it.
      detail: of its handle, screen, stripes.
      draw: draws the details that it has when shut.
      opens: 'swing', a panel that turns aside; 'lid', one that rises; '' for none.
      stands: whether it stands on the floor; the others stand on a table.
    """

    width: float
    height: float
    colour: Colour
    detail: Colour
    draw: Callable[[Pencil, "Thing", float, float, float, float], None]
    opens: str = ""
    stands: bool = False


def _handle(pencil: Pencil, thing: Thing, x: float, y: float, width: float, height: float) -> None:
    pencil.rectangle(x + 0.34 * width, y, 0.1 * width, 0.16 * height, thing.detail)


def _cross(pencil: Pencil, thing: Thing, x: float, y: float, width: float, height: float) -> None:
    pencil.rectangle(x, y, 0.1 * width, height, thing.detail)
    pencil.rectangle(x, y, width, 0.08 * height, thing.detail)
    for side in (-1, 1):
        pencil.rectangle(x + side * 0.47 * width, y, 0.08 * width, height, thing.detail)
        pencil.rectangle(x, y + side * 0.47 * height, width, 0.07 * height, thing.detail)


def _two_doors(pencil: Pencil, thing: Thing, x: float, y: float, width: float, height: float) -> None:
    pencil.rectangle(x, y, 0.05 * width, height, shaded(thing.colour, 0.5))
    for side in (-1, 1):
        pencil.ellipse(x + side * 0.14 * width, y, 0.12 * width, 0.1 * height, thing.detail)


def _two_parts(pencil: Pencil, thing: Thing, x: float, y: float, width: float, height: float) -> None:
    pencil.rectangle(x, y - 0.15 * height, width, 0.04 * height, thing.detail)
    for up in (-0.28, 0.05):
        pencil.rectangle(x + 0.36 * width, y + up * height, 0.09 * width, 0.2 * height, thing.detail)


def _tape(pencil: Pencil, thing: Thing, x: float, y: float, width: float, height: float) -> None:
    pencil.rectangle(x, y, 0.16 * width, height, thing.detail)


def _screen(pencil: Pencil, thing: Thing, x: float, y: float, width: float, height: float) -> None:
    pencil.rectangle(x, y - 0.04 * height, 0.8 * width, 0.7 * height, thing.detail)


def _spine(pencil: Pencil, thing: Thing, x: float, y: float, width: float, height: float) -> None:
    pencil.rectangle(x - 0.42 * width, y, 0.14 * width, height, thing.detail)
    pencil.rectangle(x + 0.1 * width, y - 0.2 * height, 0.5 * width, 0.12 * height, thing.detail)


def _ear(pencil: Pencil, thing: Thing, x: float, y: float, width: float, height: float) -> None:
    pencil.ellipse(x + 0.5 * width, y, 0.5 * width, 0.6 * height, thing.colour)
    pencil.ellipse(x + 0.5 * width, y, 0.25 * width, 0.35 * height, thing.detail)
    pencil.rectangle(x, y - 0.3 * height, width, 0.14 * height, thing.detail)


def _straps(pencil: Pencil, thing: Thing, x: float, y: float, width: float, height: float) -> None:
    pencil.rectangle(x, y + 0.2 * height, 0.7 * width, 0.35 * height, thing.detail)
    for side in (-1, 1):
        pencil.rectangle(
            x + side * 0.3 * width, y - 0.2 * height, 0.1 * width, 0.6 * height, shaded(thing.colour, 0.5)
        )


def _stripes(pencil: Pencil, thing: Thing, x: float, y: float, width: float, height: float) -> None:
    for k in (-0.3, 0.0, 0.3):
        pencil.rectangle(x, y + k * height, width, 0.12 * height, thing.detail)


def _buttons(pencil: Pencil, thing: Thing, x: float, y: float, width: float, height: float) -> None:
    pencil.ellipse(x, y, 0.6 * width, 0.6 * height, thing.detail)


def _foot(pencil: Pencil, thing: Thing, x: float, y: float, width: float, height: float) -> None:
    pencil.rectangle(x, y + 0.2 * height, 0.16 * width, 0.6 * height, thing.detail)
    pencil.rectangle(x, y + 0.46 * height, 0.6 * width, 0.1 * height, thing.detail)


THINGS = {
    "door": Thing(34, 74, (130, 70, 25), (245, 200, 60), _handle, opens="swing", stands=True),
    "window": Thing(51, 54, (135, 205, 255), (255, 255, 255), _cross, opens="swing"),
    "cupboard": Thing(47, 56, (0, 105, 95), (240, 240, 200), _two_doors, opens="swing", stands=True),
    "fridge": Thing(36, 72, (240, 243, 248), (140, 150, 165), _two_parts, opens="swing", stands=True),
    "box": Thing(46, 38, (205, 160, 100), (240, 215, 165), _tape, opens="lid"),
    "laptop": Thing(49, 35, (110, 115, 125), (60, 65, 75), _screen, opens="lid"),
    "book": Thing(32, 40, (200, 40, 170), (255, 225, 250), _spine, opens="swing"),
    "cup": Thing(27, 32, (0, 200, 225), (230, 255, 255), _ear),
    "bag": Thing(40, 46, (115, 120, 10), (180, 190, 60), _straps, opens="lid"),
    "towel": Thing(38, 46, (255, 125, 30), (255, 255, 255), _stripes),
    "pillow": Thing(51, 32, (255, 165, 200), (255, 215, 230), _buttons),
    "phone": Thing(22, 38, (10, 10, 12), (60, 60, 80), _screen),
    "lamp": Thing(35, 59, (255, 245, 150), (90, 60, 30), _foot),
    "television": Thing(65, 49, (60, 20, 95), (25, 10, 40), _screen),
}

_INSIDE = (255, 235, 120)  # of what is open
_LIGHT = (255, 255, 235)  # of what is on


def draw_thing(
    pencil: Pencil, name: str, x: float, y: float, scale: float = 1.0, openness: float = 0.0, light: float = 0.0
) -> None:
    """Draws a thing around the point (x, y).

    Args:
      pencil: what draws.
      name: of `THINGS`.
      x: its centre when shut, in pixels from the left.
      y: likewise from above.
      scale: times its size.
      openness: 0 shut to 1 open.
      light: 0 off to 1 on.
    """
    thing = THINGS[name]
    width, height = thing.width * scale, thing.height * scale
    if openness > 0 and thing.opens == "swing":
        pencil.rectangle(x, y, width, height, shaded(_INSIDE, 0.35 + 0.65 * openness))
        shut = width * (1 - 0.9 * openness)
        x -= (width - shut) / 2
        width = shut
    if thing.draw is _foot:
        pencil.polygon(
            (
                (x - 0.28 * width, y - 0.5 * height),
                (x + 0.28 * width, y - 0.5 * height),
                (x + 0.5 * width, y + 0.05 * height),
                (x - 0.5 * width, y + 0.05 * height),
            ),
            thing.colour if not light else shaded(thing.colour, 1.3),
        )
    elif thing.draw is _buttons:
        pencil.ellipse(x, y, width, height, thing.colour)
    else:
        pencil.rectangle(x, y, width, height, thing.colour)
    thing.draw(pencil, thing, x, y, width, height)
    if openness > 0 and thing.opens == "lid":
        up = y - height / 2 - 0.3 * height * openness
        pencil.rectangle(x, up, width, 0.6 * height * openness, shaded(_INSIDE, 0.4 + 0.6 * openness))
        pencil.rectangle(x, up - 0.3 * height * openness, width, 0.14 * height, shaded(thing.colour, 0.7))
    if light > 0:
        _glow(pencil, x, y, width, height, light)


def _glow(pencil: Pencil, x: float, y: float, width: float, height: float, light: float) -> None:
    """A thing that is on is bright in the middle and has rays around it."""
    pencil.rectangle(x, y - 0.05 * height, 0.75 * width, 0.65 * height, shaded(_LIGHT, light))
    for dx, dy in ((-1, 0), (1, 0), (0, -1), (-0.75, -0.75), (0.75, -0.75)):
        inner = (x + dx * (width / 2 + 3), y + dy * (height / 2 + 3))
        pencil.line((inner, (inner[0] + dx * 9 * light, inner[1] + dy * 9 * light)), 2.4, _LIGHT)


def rests_at(name: str) -> float:
    """The height, in pixels from above, of the centre of a thing that stands on the floor or on the table."""
    thing = THINGS[name]
    return (GROUND if thing.stands else TABLE) - thing.height / 2


TABLE = 84.0


def draw_table(pencil: Pencil, x: float) -> None:
    """Draws the table under a thing at x."""
    pencil.rectangle(x, TABLE + 2.5, 56, 5, (95, 75, 60))
    for side in (-1, 1):
        pencil.rectangle(x + side * 23, (TABLE + 5 + GROUND) / 2, 4, GROUND - TABLE - 5, (75, 58, 45))


# --- places ---------------------------------------------------------------------------------------


def _tiles(pencil: Pencil, colour: Colour, step: float) -> None:
    for k in range(int(SIZE / step) + 1):
        pencil.rectangle(k * step, _HORIZON / 2, 1.5, _HORIZON, colour)
        if k * step < _HORIZON:
            pencil.rectangle(SIZE / 2, k * step, 2 * SIZE, 1.5, colour)


def _stripes_of_wall(pencil: Pencil, colour: Colour) -> None:
    for k in range(8):
        pencil.rectangle(k * 18 + 4, _HORIZON / 2, 8, _HORIZON, colour)


def _bricks(pencil: Pencil, colour: Colour) -> None:
    for row in range(10):
        pencil.rectangle(SIZE / 2, row * 10, 2 * SIZE, 1.5, colour)
        for k in range(8):
            pencil.rectangle(k * 20 + (row % 2) * 10, row * 10 + 5, 1.5, 10, colour)


def _boards(pencil: Pencil, colour: Colour) -> None:
    for row in range(4):
        pencil.rectangle(SIZE / 2, 12 + row * 22, 2 * SIZE, 5, colour)


def _checks(pencil: Pencil, colour: Colour) -> None:
    for row in range(4):
        for column in range(6):
            if (row + column) % 2:
                pencil.rectangle(column * 24 + 4, row * 24 + 10, 24, 24, colour)


@dataclasses.dataclass(frozen=True)
class Place:
    """The colours of wall and floor, and the pattern of the wall."""

    wall: Colour
    floor: Colour
    pattern: Callable[[Pencil], None]


PLACES = {
    "kitchen": Place((245, 225, 170), (150, 90, 60), lambda p: _checks(p, (225, 200, 140))),
    "bedroom": Place((190, 160, 215), (120, 80, 110), lambda p: _stripes_of_wall(p, (170, 138, 200))),
    "bathroom": Place((170, 220, 235), (90, 140, 170), lambda p: _tiles(p, (130, 185, 210), 12)),
    "garage": Place((135, 135, 135), (70, 70, 72), lambda p: _bricks(p, (95, 95, 95))),
    "office": Place((165, 205, 150), (85, 110, 75), lambda p: _boards(p, (115, 85, 55))),
}


def draw_place(pencil: Pencil, name: str) -> None:
    """Draws the empty room."""
    place = PLACES[name]
    pencil.rectangle(SIZE / 2, SIZE / 2, 2 * SIZE, 2 * SIZE, place.wall)
    place.pattern(pencil)
    pencil.rectangle(SIZE / 2, _HORIZON + SIZE / 2, 2 * SIZE, SIZE, place.floor)
