"""A pencil that draws on a picture: positions and sizes are pixels of the film, whose edges come out smooth."""

from collections.abc import Sequence
from typing import Any

SIZE = 128  # pixels, height and width of a film
_FINER = 2  # the drawing is made so many times larger, and reduced

Colour = tuple[int, int, int]
Point = tuple[float, float]


class Pencil:
    """Draws on a copy of a picture.

    Args:
      picture: of another pencil, to go on from; None begins with black.
      shift: by which everything is moved to the right and down, in pixels.
    """

    def __init__(self, picture: Any = None, shift: Point = (0.0, 0.0)):
        from PIL import Image, ImageDraw

        size = SIZE * _FINER
        self.picture: Any = Image.new("RGB", (size, size)) if picture is None else picture.copy()
        self._draw = ImageDraw.Draw(self.picture)
        self._shift = shift

    def rectangle(self, x: float, y: float, width: float, height: float, colour: Colour) -> None:
        """Fills a rectangle around the point (x, y)."""
        left, top = self._at(x - width / 2, y - height / 2)
        right, bottom = self._at(x + width / 2, y + height / 2)
        if right > left and bottom > top:
            self._draw.rectangle((left, top, right - 1, bottom - 1), fill=colour)

    def ellipse(self, x: float, y: float, width: float, height: float, colour: Colour) -> None:
        """Fills an ellipse around the point (x, y)."""
        left, top = self._at(x - width / 2, y - height / 2)
        right, bottom = self._at(x + width / 2, y + height / 2)
        self._draw.ellipse((left, top, right, bottom), fill=colour)

    def line(self, points: Sequence[Point], width: float, colour: Colour) -> None:
        """Draws a line through points, round where it bends."""
        scaled = [self._at(x, y) for x, y in points]
        self._draw.line(scaled, fill=colour, width=max(1, round(width * _FINER)), joint="curve")

    def polygon(self, points: Sequence[Point], colour: Colour) -> None:
        """Fills a polygon."""
        self._draw.polygon([self._at(x, y) for x, y in points], fill=colour)

    def finished(self) -> Any:
        """The picture at the size of the film."""
        return self.picture.reduce(_FINER)

    def _at(self, x: float, y: float) -> tuple[int, int]:
        return round((x + self._shift[0]) * _FINER), round((y + self._shift[1]) * _FINER)


def shaded(colour: Colour, by: float) -> Colour:
    """A colour that is so many times as light, at most white."""
    red, green, blue = (min(255, round(part * by)) for part in colour)
    return red, green, blue
