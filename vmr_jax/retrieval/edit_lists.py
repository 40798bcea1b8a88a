"""Moments as a list of cuts that editing programs open: CMX3600 EDL and FCPXML.

Such lists count in frames, an EDL at one rate for all: that of most of the videos, among the usual ones.
"""

import collections
import fractions
import urllib.parse
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from vmr_jax.errors import printable_line

RATES = tuple(
    fractions.Fraction(*rate)
    for rate in ((24_000, 1001), (24, 1), (25, 1), (30_000, 1001), (30, 1), (50, 1), (60_000, 1001), (60, 1))
)
FCPXML = "1.8"  # that Final Cut Pro 10.4 and all later ones read, and DaVinci Resolve


class Cut(NamedTuple):
    """A moment in the words of an editing program.

    Attributes:
      name: of the clip.
      source: name of the video file, for people.
      address: URL of the video file, or of its name alone.
      start: seconds in the source.
      end: likewise.
      length: of the source, in seconds.
      rate: frames a second of the source.
      note: what was asked for.
    """

    name: str
    source: str
    address: str
    start: float
    end: float
    length: float
    rate: fractions.Fraction
    note: str


def usual_rate(rates: Sequence[fractions.Fraction]) -> fractions.Fraction:
    """The rate of `RATES` that is nearest to most of these."""
    nearest = [min(RATES, key=lambda usual: abs(usual - rate)) for rate in rates]
    return collections.Counter(nearest).most_common(1)[0][0]


def timecode(frames: int, rate: fractions.Fraction) -> str:
    """Hours, minutes, seconds and frames, without frames dropped.

    >>> timecode(25 * 3661 + 4, fractions.Fraction(25))
    '01:01:01:04'
    """
    whole = round(rate)
    seconds, frame = divmod(frames, whole)
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}:{frame:02d}"


def _frames(cut: Cut, rate: fractions.Fraction) -> tuple[int, int]:
    """First frame and number of frames, at least one."""
    first = round(cut.start * rate)
    return first, max(1, round(cut.end * rate) - first)


def edl(title: str, cuts: Sequence[Cut]) -> str:
    """The cuts one behind the other as a CMX3600 edit decision list."""
    rate = usual_rate([cut.rate for cut in cuts])
    lines, at = [f"TITLE: {printable_line(title)}", "FCM: NON-DROP FRAME", ""], 0
    for i, cut in enumerate(cuts, 1):
        first, count = _frames(cut, rate)
        times = [timecode(frame, rate) for frame in (first, first + count, at, at + count)]
        lines += [
            f"{i:03d}  AX       V     C        {' '.join(times)}",
            f"* FROM CLIP NAME: {printable_line(cut.source)}",
        ]
        if cut.note:
            lines.append(f"* COMMENT: {printable_line(cut.note)}")
        lines.append("")
        at += count
    return "\n".join(lines)


def fcpxml(title: str, cuts: Sequence[Cut]) -> str:
    """The cuts one behind the other as a project of Final Cut Pro."""
    rate = usual_rate([cut.rate for cut in cuts])
    root = ElementTree.Element("fcpxml", version=FCPXML)
    resources = ElementTree.SubElement(root, "resources")
    ElementTree.SubElement(resources, "format", id="r0", frameDuration=_time(1, rate))
    assets: dict[str, str] = {}
    for cut in cuts:
        if cut.address not in assets:
            assets[cut.address] = f"r{len(assets) + 1}"
            length = max(
                1, round(cut.length * rate), *(sum(_frames(c, rate)) for c in cuts if c.address == cut.address)
            )
            ElementTree.SubElement(
                resources, "asset", id=assets[cut.address], name=_text(cut.source), src=cut.address, start="0s",
                duration=_time(length, rate), hasVideo="1", format="r0",
            )  # fmt: skip
    total = sum(_frames(cut, rate)[1] for cut in cuts)
    event = ElementTree.SubElement(ElementTree.SubElement(root, "library"), "event", name=_text(title))
    project = ElementTree.SubElement(event, "project", name=_text(title))
    sequence = ElementTree.SubElement(
        project, "sequence", format="r0", duration=_time(total, rate), tcStart="0s", tcFormat="NDF"
    )
    spine, at = ElementTree.SubElement(sequence, "spine"), 0
    for cut in cuts:
        first, count = _frames(cut, rate)
        times = {"offset": _time(at, rate), "start": _time(first, rate), "duration": _time(count, rate)}
        clip = ElementTree.SubElement(
            spine,
            "asset-clip",
            times,
            ref=assets[cut.address],
            name=_text(cut.name),
            format="r0",
            tcFormat="NDF",
        )
        if cut.note:
            ElementTree.SubElement(clip, "note").text = _text(cut.note)
        at += count
    ElementTree.indent(root)
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n<!DOCTYPE fcpxml>\n'
        + ElementTree.tostring(root, "unicode")
        + "\n"
    )


def _time(frames: int, rate: fractions.Fraction) -> str:
    """A time as a fraction of a second whose denominator is that of a frame."""
    return f"{frames * rate.denominator}/{rate.numerator}s"


def _text(text: str) -> str:
    """One line without what XML cannot hold."""
    return printable_line(text)


def address_of(name: str, places: Mapping[str, str]) -> str:
    """The URL of a file whose place is known, else that of its name, relative to the list."""
    return places.get(name) or urllib.parse.quote(name)
