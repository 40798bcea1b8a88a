"""Text files of annotations: UTF-8, with or without a byte order mark, with either kind of line ends.

What is no such file is named: a damaged one, and one saved in its place (`vmr_jax.files.saved_instead`).
Sizes are bounded, so that a damaged file ends in a message and not in a machine without memory.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from vmr_jax.errors import UserError
from vmr_jax.files import parsed, saved_instead
from vmr_jax.input.packed import read_packed

MOST_OF_A_LINE = 2**20  # characters of a JSON line; the longest of QVHighlights has 6,000


def text_of(path: Path) -> str:
    """The text of a UTF-8 file, without a byte order mark; .gz and .zip are opened (`read_packed`)."""
    raw = read_packed(path)
    if wrong := saved_instead(raw):
        raise UserError(f"{path} {wrong}")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise UserError(f"{path}, line {line}: not UTF-8 text. Save the file as UTF-8.") from None


def lines_of(path: Path) -> Iterator[tuple[int, str]]:
    """Yields (number from 1, line without blanks around it) of the lines that are not blank."""
    for i, line in enumerate(text_of(path).split("\n"), 1):
        if line.strip():
            yield i, line.strip()


def json_of(path: Path) -> Any:
    """The content of a JSON file; UserError for an empty or damaged one, and for a key that stands twice."""
    text = text_of(path)
    if not text.strip():
        raise UserError(f"{path} is empty. Get it again.")
    try:
        return parsed(text, lambda pairs: _unique(pairs, path))
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path}, line {error.lineno}: no valid JSON ({error.msg}). The file is damaged or cut short; get "
            "it again."
        ) from None
    except ValueError as error:  # a number of thousands of digits; thousands of brackets
        raise UserError(f"{path}: JSON that no annotations hold ({error}). Get the file again.") from None


def _unique(pairs: Sequence[tuple[str, Any]], path: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise UserError(f'{path}: the key "{key}" stands twice. Remove one of the two entries.')
        found[key] = value
    return found


def jsonl_of(
    path: Path, caught: Callable[[], AbstractContextManager] = nullcontext
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields (line from 1, object) of a file with one JSON object a line; UserError where there is none.

    A line that is none is a UserError, raised within `caught()`, which may collect it.
    """
    found = False
    for i, line in lines_of(path):
        found, row = True, None
        with caught():
            row = _object(line, f"{path}, line {i}")
        if row is not None:
            yield i, row
    if not found:
        raise UserError(f"{path} is empty. Get it again.")


def _object(line: str, where: str) -> dict[str, Any]:
    if len(line) > MOST_OF_A_LINE:
        raise UserError(f"{where}: {len(line):,} characters; a row has at most {MOST_OF_A_LINE:,}. Correct it.")
    try:
        row = parsed(line)
    except json.JSONDecodeError as error:
        raise UserError(f'{where}: no valid JSON object on this line ({error.msg}): "{line[:80]}".') from None
    except ValueError as error:
        raise UserError(f"{where}: JSON that no annotations hold ({error}). Correct or delete it.") from None
    if not isinstance(row, dict):
        raise UserError(f'{where}: expected an object {{...}} on a line of its own, found "{line[:80]}".')
    return row
