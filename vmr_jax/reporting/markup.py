"""Elements of HTML and SVG: text that is markup already, and text that must be escaped first."""

import html
from collections.abc import Iterable, Sequence

from vmr_jax.errors import printable

_EMPTY = frozenset({"circle", "col", "line", "meta", "path", "rect"})


class Markup(str):
    """Text that is HTML already and is not escaped again."""


def tag(name: str, /, *children: str | None, **attributes: object) -> Markup:
    """One element. Children that are not Markup, and all attribute values, are escaped.

    Attribute names: `class_` is class, `stroke_width` is stroke-width; one that is None is left out.
    """
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{_escaped(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in _EMPTY and not children:
        return Markup(f"<{name}{written}/>")
    return Markup(f"<{name}{written}>{join(children)}</{name}>")


def join(parts: Iterable[str | None]) -> Markup:
    """The parts one after another, escaped unless Markup; None is nothing."""
    return Markup("".join(p if isinstance(p, Markup) else _escaped(p) for p in parts if p is not None))


def _escaped(value: object) -> str:
    return html.escape(printable(str(value)))


def legend(entries: Sequence[tuple[Markup, str]]) -> Markup:
    """A list of marks (SVG elements within 18 by 12 px), each with what it means."""
    items = [
        tag("li", tag("svg", mark, width="18", height="12", aria_hidden="true"), text) for mark, text in entries
    ]
    return tag("ul", *items, class_="legend")
