"""One thread searches: questions wait for it on the event loop and are answered together."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from starlette.exceptions import HTTPException

MAX_MOMENTS = 50
MAX_WAITING = 256  # sentences; who comes later is told to ask again
MAX_BATCH = 16  # sentences of one search

Videos = str | frozenset[str] | None  # the only video that is searched, or those of several ids, or all
Search = Callable[[Sequence[str], int, Videos], Sequence[Sequence[Any]]]  # (sentences, k, video)


class _Waiting(NamedTuple):
    sentence: str
    answer: asyncio.Future


class SearchQueue:
    """Lets one thread search, for all who wait and ask the same video (or the same ones, or all) at once.

    All but `_answers` runs on the event loop, so nothing is locked.

    Args:
      search: function of type `Search`; it is called by one thread at a time, for `MAX_MOMENTS` moments and
        for 1, 2, 4, 8 or 16 sentences, so that the devices see few shapes.
    """

    def __init__(self, search: Search):
        self._search = search
        self._waiting: dict[Videos, list[_Waiting]] = {}  # those who came first in front
        self._count = 0
        self._some = asyncio.Event()

    async def ask(self, sentence: str, k: int, video: Videos) -> Sequence[Any]:
        """The k best moments.

        NMS keeps moments from the best down, so the k best are the first k of more. HTTPException 503 where too
        many wait; what the search raises, is raised.
        """
        if self._count >= MAX_WAITING:
            raise HTTPException(
                503, "Too many questions are waiting. Ask again in a moment.", {"Retry-After": "1"}
            )
        waiting = _Waiting(sentence, asyncio.get_running_loop().create_future())
        self._waiting.setdefault(video, []).append(waiting)
        self._count += 1
        self._some.set()
        return (await waiting.answer)[:k]

    async def run(self) -> None:
        """Answers until it is cancelled."""
        with ThreadPoolExecutor(1) as thread:
            while True:
                await self._some.wait()
                video, batch = self._next()
                sentences = [waiting.sentence for waiting in batch]
                answers = await asyncio.get_running_loop().run_in_executor(
                    thread, self._answers, sentences, video
                )
                for waiting, answer in zip(batch, answers):
                    if waiting.answer.done():  # its request was cancelled
                        continue
                    if isinstance(answer, Exception):
                        waiting.answer.set_exception(answer)
                    else:
                        waiting.answer.set_result(answer)

    def _next(self) -> tuple[Videos, list[_Waiting]]:
        """Takes the first of those whose turn it is; the others like them wait for their next turn."""
        video = next(iter(self._waiting))
        everyone = self._waiting.pop(video)
        batch, rest = everyone[:MAX_BATCH], everyone[MAX_BATCH:]
        if rest:
            self._waiting[video] = rest  # behind the others
        self._count -= len(batch)
        if not self._count:
            self._some.clear()
        return video, batch

    def _answers(self, sentences: list[str], video: Videos) -> list[Sequence[Any] | Exception]:
        """An answer or an error each: where a search fails, its halves are tried, down to single sentences."""
        filled = sentences + sentences[-1:] * (_power_of_two(len(sentences)) - len(sentences))
        try:
            found: list[Sequence[Any] | Exception] = [*self._search(filled, MAX_MOMENTS, video)]
            if len(found) != len(filled):
                raise RuntimeError(f"The search has {len(found)} answers to {len(filled)} sentences.")
            return found[: len(sentences)]
        except BaseException as error:  # whatever it is: who waits must hear of it, and the queue goes on
            if len(sentences) == 1:
                return [_failure(error)]
            half = len(sentences) // 2
            return self._answers(sentences[:half], video) + self._answers(sentences[half:], video)


def _failure(error: BaseException) -> Exception:
    """The error as one that a future can hold."""
    if isinstance(error, Exception) and not isinstance(error, StopIteration):
        return error
    failure = RuntimeError(f"The search ended with {error!r}.")
    failure.__cause__ = error
    return failure


def _power_of_two(n: int) -> int:
    """The smallest one that is not below n."""
    return 1 << (n - 1).bit_length()


def batch_sizes() -> list[int]:
    """The numbers of sentences that a search of `SearchQueue` can have."""
    return [1 << i for i in range(MAX_BATCH.bit_length())]
