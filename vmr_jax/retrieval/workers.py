"""A few threads for what takes long beside the search, with a bounded number of those who wait."""

import asyncio
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from starlette.exceptions import HTTPException


class Workers:
    """Does work in threads, once for all who wait for the same.

    All runs on the event loop but the work itself, so nothing is locked.

    Args:
      threads: number of them.
      most: pieces of work that wait or are done, at most; who comes later is told to ask again.
    """

    def __init__(self, threads: int, most: int):
        self._pool = ThreadPoolExecutor(threads)
        self._most = most
        self._waiting: dict[Hashable, asyncio.Future] = {}

    async def do(self, key: Hashable, work: Callable[[], Any]) -> Any:
        """The result of `work`, or of the same (by `key`) that has begun; HTTPException 503 for too many."""
        if key not in self._waiting:
            if len(self._waiting) >= self._most:
                raise HTTPException(
                    503, "The server has too much to do. Ask again in a moment.", {"Retry-After": "2"}
                )
            future = asyncio.get_running_loop().run_in_executor(self._pool, work)
            self._waiting[key] = future
            future.add_done_callback(lambda done: self._done(key, done))
        # One of those who wait may leave; the others still want it.
        return await asyncio.shield(self._waiting[key])

    def _done(self, key: Hashable, future: asyncio.Future) -> None:
        del self._waiting[key]
        if not future.cancelled():
            future.exception()  # where all have left, nobody else looks

    def close(self) -> None:
        """Begins no other work."""
        self._pool.shutdown(wait=False, cancel_futures=True)
