"""The page of `--mode=serve` and the small Starlette application that answers it.

  GET  /                    the page
  POST /search              {"query", "k", "video"} -> {"moments": [{"video", "start", "end", "score",
                            "duration", "playable"}]}, best first, in seconds
  GET  /videos?prefix=TEXT  {"videos": [the first ids that begin so]}
  GET  /video/ID            the file of a video, or a range of its bytes

What is refused is JSON with a `message` and a status of 400 or more. One thread searches: requests wait for it
on the event loop and are answered together.
"""

import asyncio
import bisect
import contextlib
import html
import json
import logging
import secrets
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse
from starlette.routing import Route

from vmr_jax.errors import UserError, printable_line
from vmr_jax.input.queries import check_sentence
from vmr_jax.retrieval.access import TokenGate
from vmr_jax.retrieval.connections import Seldom
from vmr_jax.retrieval.index import Found

log = logging.getLogger("vmr_jax")
seldom = Seldom()

MAX_MOMENTS = 50
MAX_BODY = 1 << 14  # bytes: a query of 1000 characters takes at most 12,000 in JSON
MAX_WAITING = 256  # sentences; who comes later is told to ask again
MAX_BATCH = 16  # sentences of one search
SUGGESTIONS = 20
SUFFIXES = (".mp4", ".webm", ".mov", ".mkv", ".avi")  # of video files; what browsers play best comes first

HEADERS = (
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("X-Frame-Options", "DENY"),
)
_POLICY = (
    "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'; "
    "media-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

Search = Callable[[Sequence[str], int, str | None], Sequence[Sequence[Found]]]  # (sentences, k, video)


class VideoFolder:
    """The video files of a folder, listed once.

    Args:
      folder: holds files named by video id, with one of `SUFFIXES`; None has no file. UserError where it is no
        folder.
    """

    def __init__(self, folder: Path | None):
        self._folder = folder and folder.expanduser().resolve()
        self._by_name: dict[str, Path] = {}
        self._by_stem: dict[str, Path] = {}
        if self._folder is None:
            return
        if not self._folder.is_dir():
            raise UserError(f"--videos={folder} is no folder. Give the folder that holds the video files.")
        files = [path for path in self._folder.iterdir() if _rank(path.suffix) is not None]
        for path in sorted(files, key=lambda path: (_rank(path.suffix), path.name)):
            if self._served(path):
                self._by_name[path.name] = path
                self._by_stem.setdefault(path.stem, path)
            else:
                log.warning(
                    "%s is not served: no file, or a link out of the folder.", printable_line(str(path))
                )

    def __len__(self) -> int:
        return len(self._by_name)

    def find(self, video: str) -> Path | None:
        """The file of a video id, which may carry the suffix of another file; None where there is none."""
        stem = video if _rank(Path(video).suffix) is None else Path(video).stem
        found = self._by_name.get(video) or self._by_stem.get(video) or self._by_stem.get(stem)
        return found if found and self._served(found) else None

    def _served(self, path: Path) -> bool:
        """Whether it is, now, a file whose real place is in the folder."""
        real = path.resolve()
        return self._folder is not None and real.is_relative_to(self._folder) and real.is_file()


def _rank(suffix: str) -> int | None:
    suffix = suffix.lower()
    return SUFFIXES.index(suffix) if suffix in SUFFIXES else None


class _Waiting(NamedTuple):
    sentence: str
    answer: asyncio.Future


class SearchQueue:
    """Lets one thread search, for all who wait and ask the same video (or all videos) at once.

    All but `_answers` runs on the event loop, so nothing is locked.

    Args:
      search: function of type `Search`; it is called by one thread at a time, always for `MAX_MOMENTS` moments
        and for 1, 2, 4, 8 or 16 sentences, so that the devices see few shapes.
    """

    def __init__(self, search: Search):
        self._search = search
        self._waiting: dict[str | None, list[_Waiting]] = {}  # by video, those who came first in front
        self._count = 0
        self._some = asyncio.Event()

    async def ask(self, sentence: str, k: int, video: str | None) -> Sequence[Found]:
        """The k best moments. HTTPException 503 where too many wait; what the search raises, is raised.

        NMS keeps moments from the best down, so the k best are the first k of more.
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

    def _next(self) -> tuple[str | None, list[_Waiting]]:
        """Takes the first of the video whose turn it is; the others of that video wait for its next turn."""
        video = next(iter(self._waiting))
        everyone = self._waiting.pop(video)
        batch, rest = everyone[:MAX_BATCH], everyone[MAX_BATCH:]
        if rest:
            self._waiting[video] = rest  # behind the other videos
        self._count -= len(batch)
        if not self._count:
            self._some.clear()
        return video, batch

    def _answers(self, sentences: list[str], video: str | None) -> list[Sequence[Found] | Exception]:
        """An answer or an error each: where a search fails, its halves are tried, down to single sentences."""
        filled = sentences + sentences[-1:] * (_power_of_two(len(sentences)) - len(sentences))
        try:
            found: list[Sequence[Found] | Exception] = [*self._search(filled, MAX_MOMENTS, video)]
            return found[: len(sentences)]
        except Exception as error:
            if len(sentences) == 1:
                return [error]
            half = len(sentences) // 2
            return self._answers(sentences[:half], video) + self._answers(sentences[half:], video)


def _power_of_two(n: int) -> int:
    """The smallest one that is not below n."""
    return 1 << (n - 1).bit_length()


def batch_sizes() -> list[int]:
    """The numbers of sentences that a search of `SearchQueue` can have."""
    return [1 << i for i in range(MAX_BATCH.bit_length())]


class Asked(NamedTuple):
    """A checked request of /search."""

    query: str
    k: int
    video: str | None


def asked(body: bytes) -> Asked:
    """Reads the JSON of a request; HTTPException 400, or UserError, says what is wrong with it."""
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError):
        raise HTTPException(400, "The request is not JSON.") from None
    if not isinstance(fields, dict):
        raise HTTPException(400, "The request is no JSON object with the field query.")
    query, k, video = fields.get("query"), fields.get("k", 10), fields.get("video")
    if not isinstance(query, str) or not query.strip():
        raise HTTPException(400, "Type a sentence first.")
    if type(k) is not int or not 1 <= k <= MAX_MOMENTS:
        raise HTTPException(400, f"The number of moments (k) must be a whole number from 1 to {MAX_MOMENTS}.")
    if video is not None and not isinstance(video, str):
        raise HTTPException(400, "The video must be the id of one, as text.")
    if any("\ud800" <= character <= "\udfff" for character in query + (video or "")):
        raise HTTPException(400, "The request has half of a surrogate pair, which is no text.")
    check_sentence(query)
    return Asked(query, k, video or None)


class Service:
    """The answers to requests.

    Args:
      title: name of the run that is searched, shown on the page.
      search: function of type `Search`.
      durations: video id -> seconds, of all videos that can be asked for.
      files: the video files.
    """

    def __init__(self, title: str, search: Search, durations: Mapping[str, float], files: VideoFolder):
        self.title, self.durations, self.files = title, durations, files
        self.queue = SearchQueue(search)
        self._ids = sorted((video.casefold(), video) for video in durations)
        self._page = resources.files(__package__).joinpath("page.html").read_text(encoding="utf-8")

    async def page(self, request: Request) -> HTMLResponse:
        """GET /."""
        nonce = secrets.token_urlsafe(16)
        content = self._page.replace("{nonce}", nonce).replace("{title}", html.escape(self.title))
        headers = {"Content-Security-Policy": _POLICY.format(nonce=nonce), "Cache-Control": "no-store"}
        return HTMLResponse(content, headers=headers)

    async def search(self, request: Request) -> JSONResponse:
        """POST /search."""
        # A page of another origin can send JSON under this name only after asking, which is refused.
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise HTTPException(415, "Send JSON, with the header Content-Type: application/json.")
        question = asked(await _bounded_body(request))
        if question.video is not None:
            self._check_video(question.video)
        found = await self.queue.ask(*question)
        return JSONResponse({"moments": self._moments(found)})

    def _moments(self, found: Sequence[Found]) -> list[dict[str, Any]]:
        """As JSON; a video whose length is not known ends with the last of its moments."""
        ends: dict[str, float] = {}
        for moment in found:
            ends[moment.video] = max(moment.end, ends.get(moment.video, self.durations.get(moment.video, 0.0)))
        playable = {video: self.files.find(video) is not None for video in ends}
        return [
            {**moment._asdict(), "duration": ends[moment.video], "playable": playable[moment.video]}
            for moment in found
        ]

    async def videos(self, request: Request) -> JSONResponse:
        """GET /videos: upper and lower case are the same."""
        prefix = request.query_params.get("prefix", "").casefold()
        first = bisect.bisect_left(self._ids, (prefix, ""))
        near = self._ids[first : first + SUGGESTIONS]
        return JSONResponse({"videos": [video for folded, video in near if folded.startswith(prefix)]})

    def video(self, request: Request) -> FileResponse:
        """GET /video/ID: the id is looked up and never becomes a path. Starlette calls it in a thread."""
        video = request.path_params["video"]
        self._check_video(video)
        path = self.files.find(video)
        if path is None:
            raise HTTPException(404, f'There is no file of the video "{video}".')
        return FileResponse(path)

    def _check_video(self, video: str) -> None:
        if video not in self.durations:
            raise HTTPException(404, f'There is no video "{video[:100]}" among those that are searched.')


async def _bounded_body(request: Request) -> bytes:
    too_large = HTTPException(413, f"The request has more than {MAX_BODY:,} bytes.", {"Connection": "close"})
    if int(request.headers.get("content-length", 0)) > MAX_BODY:  # h11 has seen that it is a number
        raise too_large
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > MAX_BODY:
                raise too_large
    except ClientDisconnect:
        raise HTTPException(400, "The request was not sent to its end.") from None
    return bytes(body)


def make_app(service: Service, hosts: Sequence[str], token: str | None = None) -> Starlette:
    """The application.

    Args:
      service: answers to the requests.
      hosts: names under which it may be asked for, '*' for any: a page elsewhere that lets its own name lead
        here (DNS rebinding) gets 400.
      token: who asks must know it; None asks for none.
    """

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette):
        asyncio.get_running_loop().set_exception_handler(seldom.on_loop)
        searching = asyncio.create_task(service.queue.run())
        yield
        searching.cancel()
        await asyncio.gather(searching, return_exceptions=True)

    middleware = [Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts), www_redirect=False)]
    if token:
        middleware.append(Middleware(TokenGate, token=token))
    handlers: dict[Any, Any] = {HTTPException: _refused, UserError: _impossible, Exception: _failed}
    return Starlette(
        routes=[
            Route("/", service.page),
            Route("/search", service.search, methods=["POST"]),
            Route("/videos", service.videos),
            Route("/video/{video:path}", service.video),
        ],
        middleware=middleware,
        exception_handlers=handlers,
        lifespan=lifespan,
    )


async def _refused(request: Request, error: HTTPException) -> JSONResponse:
    return JSONResponse({"message": error.detail}, error.status_code, error.headers)


async def _impossible(request: Request, error: UserError) -> JSONResponse:
    return JSONResponse({"message": str(error)}, 400)


async def _failed(request: Request, error: Exception) -> JSONResponse:
    seldom.error("%s %s failed", request.method, printable_line(request.url.path), exc_info=error)
    return JSONResponse({"message": "The server failed here; what it printed says why."}, 500)
