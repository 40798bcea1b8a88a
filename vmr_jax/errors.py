"""The one exception whose message is meant for the person at the keyboard."""

import difflib
from collections.abc import Iterable, Mapping, Sequence


class UserError(Exception):
    """Something the user can put right. `launch.py` prints the message alone, without a traceback.

    A message is one paragraph: what is wrong, where (file, row or field), what was expected, what to do.
    """


def nearest(name: str, known: Iterable[str]) -> str:
    """Returns ' Did you mean "x"?' for the known name closest to `name`, else an empty string."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f' Did you mean "{close[0]}"?' if close else ""


def check_choices(owner: str, fields: object, choices: Mapping[str, Sequence[str]]) -> None:
    """Raises UserError where a field of the architecture `owner` is none of its `choices`."""
    for field, allowed in choices.items():
        value = getattr(fields, field)
        if value not in allowed:
            raise UserError(
                f'config.model.{field} of {owner} is "{value}"; it must be one of {", ".join(allowed)}.'
                f"{nearest(str(value), allowed)}"
            )
