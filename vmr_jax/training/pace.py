"""When a run saves beside its evaluations: after some time, and when it is asked to end."""

import time

from vmr_jax.parallel import largest_of_hosts, several_hosts
from vmr_jax.training.clock import seconds_of
from vmr_jax.training.interrupt import Signals

_SAVE = 1  # beside the numbers of signals, which are larger


class Pace:
    """Decides after a step whether it is saved; several hosts decide together, each time they log."""

    def __init__(self, checkpoint_every: str, log_every: int, signals: Signals):
        """Starts the time.

        Args:
          checkpoint_every: '10 minutes'; '0 minutes' saves after evaluations alone.
          log_every: steps after which several hosts ask each other.
          signals: those of this host.
        """
        self._seconds = seconds_of(checkpoint_every, "config.checkpoint_every")
        self._log_every, self._signals = log_every, signals
        self.saved()

    def saved(self) -> None:
        """Starts the time anew."""
        self._since = time.monotonic()

    def wish(self, step: int, evaluates: bool) -> int:
        """The thing to do after a step: 0 nothing, 1 save it, else the signal by which the run is to end.

        Args:
          step: the number of steps done.
          evaluates: whether it is evaluated anyway.
        """
        if several_hosts() and not (evaluates or step % self._log_every == 0):
            return 0
        due = self._seconds and time.monotonic() - self._since >= self._seconds
        return largest_of_hosts(self._signals.received or (_SAVE if due else 0))
