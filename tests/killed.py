"""A process that is killed in the middle of its work, by an exception in the place of one of its calls."""

import contextlib


class Killed(BaseException):
    """In place of a signal that nothing catches."""


@contextlib.contextmanager
def killed_at(monkeypatch, step, *places):
    """Kills the block in its step-th call, from 0, of the places: (owner, name) of functions."""
    calls = iter(range(1000))

    def counted(function):
        def call(*args, **fields):
            if next(calls) == step:
                raise Killed
            return function(*args, **fields)

        return call

    with monkeypatch.context() as patch:
        for owner, name in places:
            patch.setattr(owner, name, counted(getattr(owner, name)))
        try:
            yield
        except Killed:
            return
        raise AssertionError(f"there were fewer than {step + 1} calls")
