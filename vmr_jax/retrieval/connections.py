"""Limits of a connection to `--mode=serve`: time, memory, and a place among so many others.

uvicorn reads HTTP with h11, and closes what rests between two requests. Here is what they leave open: a request
that never ends, an answer that nobody reads, more connections than the process may have files, and a log that
whoever connects can fill.
"""

import asyncio
import collections
import logging
import resource
import time
from typing import Any, NamedTuple

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

log = logging.getLogger("vmr_jax")

MAX_HEAD = 1 << 14  # bytes of the request line and the headers; twice as many are always refused
ACCEPTED = 64  # connections that are accepted before others are looked at
_FILES = 1024  # that the process may open, where the system lets it
_OWN_FILES = 256  # of them for the index, and for connections that are just coming or going
_LOOK = 1.0  # seconds between two looks at a connection


class Limits(NamedTuple):
    """Limits of all connections together, and how long a client may let the server wait.

    Attributes:
      connections: number of them; of more, the one that has waited longest for its client is closed.
      request: seconds from the first byte of a request, or the start of the connection, to its last byte; who
        sends a file gets as many more as it takes at `rate`.
      unread: seconds in which a client reads nothing of its answer.
      rate: bytes a second at which a file must come.
    """

    connections: int = 256
    request: float = 10.0
    unread: float = 60.0
    rate: float = 1e5


class LimitedProtocol(H11Protocol):
    """A connection that is closed when its client lets it wait too long, or when others need its place.

    Args:
      limits: what it may take.
      fields: as of `H11Protocol`.
    """

    def __init__(self, *args: Any, limits: Limits, **fields: Any):
        super().__init__(*args, **fields)
        self._limits = limits
        self._state: tuple[Any, bool, int] | None = None
        self._since = 0.0  # when its state was last seen to change
        self._next_look: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Takes a place, from another where there is none left."""
        super().connection_made(transport)
        self._look()
        if len(self.connections) > self._limits.connections:
            _make_room(self.connections)

    def connection_lost(self, exc: Exception | None) -> None:
        """Leaves its place."""
        super().connection_lost(exc)
        if self._next_look is not None:
            self._next_look.cancel()

    def data_received(self, data: bytes) -> None:
        """Reads in pieces: h11 counts only what it had before a piece that ends the head."""
        self._since = min(self.loop.time(), self._since + len(data) / self._limits.rate)
        for first in range(0, len(data), MAX_HEAD):
            if not self.transport.is_closing():
                super().data_received(data[first : first + MAX_HEAD])

    def waiting_since(self) -> float | None:
        """Since when it waits for its client, in the seconds of the loop; None while the server has work."""
        coming, unread = self._is_coming(), self.transport.get_write_buffer_size()
        return self._since if coming or unread else None

    def _is_coming(self) -> bool:
        """Whether its request, or the next one, has not come whole."""
        return self.conn.their_state in (h11.IDLE, h11.SEND_BODY)

    def _look(self) -> None:
        """Closes the connection if its client is late."""
        now, coming = self.loop.time(), self._is_coming()
        # An answer that is read changes what is left to send; a body that trickles in changes nothing here.
        state = (self.cycle, coming, self.transport.get_write_buffer_size())
        if state != self._state:
            self._state, self._since = state, now
        since = self.waiting_since()
        if since is not None and now - since > (self._limits.request if coming else self._limits.unread):
            self.transport.abort()
        else:
            self._next_look = self.loop.call_later(_LOOK, self._look)


def _make_room(connections: set[Any]) -> None:
    """Closes the connection that has waited longest for its client, of the address that has most of them."""
    waiting = [connection for connection in connections if connection.waiting_since() is not None]
    if not waiting:
        return
    crowd = collections.Counter(connection.client and connection.client[0] for connection in waiting)

    def claim(connection: Any) -> tuple[int, float]:
        return -crowd[connection.client and connection.client[0]], connection.waiting_since()

    last = min(waiting, key=claim)
    connections.discard(last)  # at once, so that the next who comes does not choose it again
    last.transport.abort()


def affordable() -> Limits:
    """The limits of this process, whose connections need two files each: themselves, and the video they get."""
    files, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _FILES if most == resource.RLIM_INFINITY else min(_FILES, most)
    if files != resource.RLIM_INFINITY and files < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))
        files = wanted
    if files == resource.RLIM_INFINITY:
        return Limits()
    return Limits(connections=max(16, min(Limits().connections, (files - _OWN_FILES) // 2)))


class Seldom:
    """A log of what strangers can cause: some lines a minute, and how many more there would have been.

    Args:
      lines: number of lines a minute.
    """

    def __init__(self, lines: int = 10):
        self._lines, self._began, self._count = lines, 0.0, 0

    def error(self, message: str, *values: Any, exc_info: BaseException | None = None) -> None:
        """Logs an error, with its traceback, or counts it."""
        now = time.monotonic()
        if not self._count or now - self._began >= 60:
            if self._count > self._lines:
                log.error("%d more errors were not printed", self._count - self._lines)
            self._began, self._count = now, 0
        self._count += 1
        if self._count <= self._lines:
            log.error(message, *values, exc_info=exc_info)

    def on_loop(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """The exception handler of an event loop: asyncio would print a traceback for each refused socket."""
        self.error("%s (%s)", context.get("message", "The event loop failed"), context.get("exception"))
