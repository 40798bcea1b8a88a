"""The one exception whose message is meant for the person at the keyboard."""

import difflib
import errno
import math
import numbers
import os
import re
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import TypeGuard

_COMPARED = 20_000  # known names with which an unknown one is compared at most, 0.2 s
_SHOWN = 30  # known names that a message lists at most
_ALIKE = 0.5  # of two names, from which on one may be meant by the other
_NOT_READ = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_NUMBER = re.compile(r"\d*\.\d+|\d+")


def printable(text: str) -> str:
    r"""The text with every character that is none to read written as its escape: '\x1b', '\ud800', '\u202e'.

    Those are control characters (a terminal obeys some of them) but line break and tab, halves of surrogate
    pairs (which no file in UTF-8 can hold), and the marks that turn the direction of writing.
    """
    return _NOT_READ.sub(lambda found: _escape(found[0]), text)


def printable_line(text: str) -> str:
    """A name or a sentence as one line: line breaks, and what has no width or no picture, are escaped too.

    >>> printable_line("a" + chr(10) + "b") == "a" + chr(92) + "nb"
    True
    """
    return "".join(c if c.isprintable() else _escape(c) for c in text)


def first_few(names: Sequence[object], count: int) -> str:
    """At most so many of the names, with commas between them, and dots for the others.

    >>> first_few("abc", 2), first_few("ab", 2)
    ('a, b, ...', 'a, b')
    """
    return ", ".join([*map(str, names[:count]), *["..."] * (len(names) > count)])


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode()


class UserError(Exception):
    """Something the user can put right. `launch.py` prints the message alone, without a traceback.

    A message is one paragraph: what is wrong, where (file, row or field), what was expected, what to do.

    >>> try:
    ...     vmr.create("fvmrr")
    ... except UserError as error:
    ...     print(str(error).split(" Known")[0])
    There is no architecture "fvmrr". Did you mean "fvmr"?
    """

    def __init__(self, message: str):
        super().__init__(printable(message))


def is_number(value: object) -> TypeGuard[float]:
    """True for a finite int or float; False for None, NaN, infinities and anything else."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def check_count(k: object, name: str = "k") -> None:
    """UserError for a number of something, such as k of moments, that is no whole number or below 1."""
    if isinstance(k, bool) or not isinstance(k, numbers.Integral) or k < 1:
        raise UserError(f"{name} is {k!r}; it must be at least 1, a whole number.")


def user_path(path: str | os.PathLike) -> Path:
    """The path that a user gives, with the home folder in place of a leading '~' or '~NAME'.

    Raises:
      UserError: where this machine does not know that home folder, and for what no system takes as a path.
    """
    try:
        found = Path(path).expanduser()
        os.lstat(found)
    except ValueError:  # so Python says of a null character
        raise UserError(f"{path} is no path: it has a null character. Correct it.") from None
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise UserError(f"{str(path)[:60]}... is too long for a path. Give a shorter one.") from None
    except RuntimeError:
        raise UserError(
            f"{path} begins with {Path(path).parts[0]}, a home folder that this machine does not know (of ~ "
            "alone: HOME is not set, and the user has no entry). Give the whole path, or set HOME."
        ) from None
    return found


def nearest(name: str, known: Iterable[str]) -> str:
    """Returns ' Did you mean "x"?' for the known name closest to `name`, else an empty string.

    Numbers come first: of the names that are alike in their letters, one with the same numbers is closest, so
    that 'R1@0.5' and 'R@1,IoU=.5' are near to 'R@1,IoU=0.5', not to 'R@1,IoU=0.7'. Capitals do not count. With
    more than `_COMPARED` names none is compared.
    """
    known = list(known)
    if not known or len(known) > _COMPARED:
        return ""
    whole, letters, numbers = _Likeness(name), _Likeness(_letters(name)), _numbers(name)

    def likeness(other: str) -> float:
        return whole.to(other) + (0.2 if numbers and _numbers(other) == numbers else 0.0)

    same = [other for other in known if numbers and _numbers(other) == numbers]
    same = [other for other in same if letters.to(_letters(other)) >= _ALIKE]
    closest = max(same or known, key=likeness)
    return f' Did you mean "{closest}"?' if likeness(closest) >= _ALIKE else ""


class _Likeness:
    """How alike texts are to one text, from 0 to 1."""

    def __init__(self, text: str):
        self._matcher = difflib.SequenceMatcher(b=text.casefold())

    def to(self, other: str) -> float:
        """The ratio of characters that both have in the same order."""
        self._matcher.set_seq1(other.casefold())
        return self._matcher.ratio()


def _letters(name: str) -> str:
    """A name without its numbers."""
    return _NUMBER.sub("", name)


def _numbers(name: str) -> tuple[float, ...]:
    """The numbers in a name, in order."""
    return tuple(float(number) for number in _NUMBER.findall(name))


def unknown(what: str, value: object, known: Collection[str], do: str = "", meant: str = "") -> UserError:
    """The error for a name that is none of the known ones, to be raised.

    Its message is '<what> "<value>". Did you mean "x"? Known: x, y. <do>'.

    Args:
      what: the sentence up to the name: 'There is no dataset', 'config.parallel is'.
      value: the name.
      known: the names that would have been right; many are cut to the first few and their number.
      do: a further sentence: what to do.
      meant: the known name that another one stands for; '' names the nearest.
    """
    names = list(known)
    shown = ("; " if any("," in name for name in names) else ", ").join(names[:_SHOWN]) or "none"
    more = f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
    near = f' Did you mean "{meant}"?' if meant else nearest(str(value), names)
    return UserError(f'{what} "{value}".{near} Known: {shown}{more}.{" " if do else ""}{do}')
