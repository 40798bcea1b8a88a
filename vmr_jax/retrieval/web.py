"""The Starlette application of `--mode=serve`: the page, and the interface for programs.

  GET  /                    the page; /page/NAME are its files
  GET  /about               what is served, and what can be asked of it
  GET  /openapi.json        the description of all this for programs
  POST /search              {"query", "k", "video", ...} -> {"moments": [...], "confident"}, best first
  GET  /videos              {"videos": [...], "next"}: by id, those whose id begins so
  GET  /video/ID            the file of a video, or a range of its bytes
  GET  /thumbnail/ID?t=S    the frame at a second, as JPEG
  POST /export              {"moments", "format", ...} -> a file
  POST /videos?name=NAME    takes a video file, where uploads are allowed; GET /uploads/N says what became of it
  DELETE /video/ID          takes a video out, likewise

What is refused is JSON with a `message` and a status of 400 or more. Times are in seconds.
"""

import asyncio
import bisect
import contextlib
import hashlib
import html
import itertools
import secrets
import shutil
import tempfile
import time
import urllib.parse
import zipfile
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, Response
from starlette.routing import Route

import vmr_jax
from vmr_jax.errors import UserError, printable_line
from vmr_jax.retrieval import export, questions
from vmr_jax.retrieval.access import TokenGate
from vmr_jax.retrieval.connections import Seldom
from vmr_jax.retrieval.corpus import Corpus, Editable
from vmr_jax.retrieval.hits import Filter, ServedVideo, both
from vmr_jax.retrieval.openapi import description
from vmr_jax.retrieval.uploads import Uploads
from vmr_jax.retrieval.waiting import MAX_MOMENTS, SearchQueue, Videos
from vmr_jax.retrieval.workers import Workers

seldom = Seldom()

MAX_PICTURES = 256  # that wait to be cut
MAX_EXPORTS = 8  # that wait to be written
EXPORT_SECONDS = 120.0  # that cutting may take
SUGGESTIONS = 20
MAX_VIDEOS = 500  # of one answer

HEADERS = (
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("X-Frame-Options", "DENY"),
)
_POLICY = (
    "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'; "
    "media-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_FILES = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8"}


class Service:
    """The answers to requests.

    Args:
      corpus: what is searched.
      editable: the same, where files may be sent and videos removed; None allows neither.
    """

    def __init__(self, corpus: Corpus, editable: Editable | None = None):
        self.corpus = corpus
        self.queue = SearchQueue(corpus.search)
        self.uploads = Uploads(editable, seldom) if editable is not None else None
        self._editable = editable
        self._pictures, self._exports = Workers(2, MAX_PICTURES), Workers(1, MAX_EXPORTS)
        self._orders = itertools.count()
        self._sorted: tuple[Mapping[str, ServedVideo], list[tuple[str, str]]] | None = None
        self._last: tuple[Mapping[str, ServedVideo], Filter, frozenset[str]] | None = None
        folder = resources.files(__package__) / "page"
        self._page = folder.joinpath("page.html").read_text(encoding="utf-8")
        self._files = {f.name: f.read_bytes() for f in folder.iterdir() if Path(f.name).suffix in _FILES}

    def close(self) -> None:
        """Begins nothing more."""
        for workers in (self._pictures, self._exports, self.uploads):
            if workers is not None:
                workers.close()

    # --- the page -------------------------------------------------------------------------------

    async def page(self, request: Request) -> HTMLResponse:
        """GET /."""
        nonce = secrets.token_urlsafe(16)
        content = self._page.replace("{nonce}", nonce).replace("{title}", html.escape(self.corpus.title))
        headers = {"Content-Security-Policy": _POLICY.format(nonce=nonce), "Cache-Control": "no-store"}
        return HTMLResponse(content, headers=headers)

    async def page_file(self, request: Request) -> Response:
        """GET /page/NAME: the style and the scripts of the page."""
        name = request.path_params["name"]
        if name not in self._files:
            raise HTTPException(404, "The page has no such file.")
        content = self._files[name]
        tag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
        headers = {"ETag": tag, "Cache-Control": "no-cache"}
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        return Response(content, media_type=_FILES[Path(name).suffix], headers=headers)

    async def about(self, request: Request) -> JSONResponse:
        """GET /about."""
        videos = self.corpus.videos()
        return JSONResponse(
            {
                "program": "vmr_jax",
                "version": vmr_jax.__version__,
                "title": self.corpus.title,
                "videos": len(videos),
                "dates": any(video.added is not None for video in videos.values()),
                "threshold": self.corpus.threshold,
                "max_moments": MAX_MOMENTS,
                "formats": list(export.FORMATS),
                "missing": self.corpus.missing,
                "upload": self.uploads is not None,
                "max_upload": self.uploads.most if self.uploads else 0,
            }
        )

    async def openapi(self, request: Request) -> JSONResponse:
        """GET /openapi.json."""
        return JSONResponse(description())

    # --- search -----------------------------------------------------------------------------------

    async def search(self, request: Request) -> JSONResponse:
        """POST /search."""
        question = questions.asked(await questions.read(request, questions.MAX_BODY))
        videos = self.corpus.videos()
        searched: Videos = question.video
        for video in [searched] if isinstance(searched, str) else searched or ():
            _check_video(video, videos)
        if question.filter:
            searched = both(searched, self._filtered(question.filter, videos))
        if searched is not None and not searched:
            return JSONResponse({"moments": [], "confident": None})
        found = await self.queue.ask(question.query, question.k, searched)
        return JSONResponse({"moments": self._moments(found), "confident": self._is_confident(found)})

    def _filtered(self, limits: Filter, videos: Mapping[str, ServedVideo]) -> frozenset[str]:
        """The videos that a filter keeps; those of the last one are known, as people ask on."""
        if self._last is None or self._last[0] is not videos or self._last[1] != limits:
            self._last = videos, limits, limits.ids(videos.values())
        return self._last[2]

    def _is_confident(self, found: Sequence[Any]) -> bool | None:
        """Whether the best moment is a match; None where scores are not calibrated."""
        sure = getattr(found[0], "confidence", None) if found else None
        return None if sure is None or self.corpus.threshold is None else sure >= self.corpus.threshold

    def _moments(self, found: Sequence[Any]) -> list[dict[str, Any]]:
        """As JSON; a video whose length is not known ends with the last of its moments."""
        videos = self.corpus.videos()
        known = {moment.video: videos.get(moment.video) for moment in found}
        ends = {name: video.duration if video else 0.0 for name, video in known.items()}
        for moment in found:
            ends[moment.video] = max(moment.end, ends[moment.video])
        playable = {video: self.corpus.file(video) is not None for video in ends}
        scores = [moment.score for moment in found]
        return [
            {
                "video": moment.video,
                "title": video.title if (video := known[moment.video]) else moment.video,
                "start": moment.start,
                "end": moment.end,
                "score": moment.score,
                "confidence": getattr(moment, "confidence", None),
                "rank": rank,
                "gap": moment.score - scores[rank] if rank < len(found) else 0.0,
                "duration": ends[moment.video],
                "playable": playable[moment.video],
            }
            for rank, moment in enumerate(found, 1)
        ]

    # --- videos -----------------------------------------------------------------------------------

    async def videos(self, request: Request) -> JSONResponse:
        """GET /videos: upper and lower case are the same; `after` goes on where the last answer ended."""
        prefix = request.query_params.get("prefix", "").casefold()
        after, only = request.query_params.get("after"), request.query_params.get("id")
        limit = request.query_params.get("limit", str(SUGGESTIONS))
        if not limit.isascii() or not limit.isdigit() or not 1 <= int(limit[:9]) <= MAX_VIDEOS:
            raise HTTPException(400, f"The limit must be a whole number from 1 to {MAX_VIDEOS}.")
        videos, ids = self._by_id()
        if only is not None:
            _check_video(only, videos)
            return JSONResponse({"videos": [self._video(videos[only])], "next": None})
        first = bisect.bisect_left(ids, (prefix, ""))
        if after is not None:
            first = max(first, bisect.bisect_right(ids, (after.casefold(), after)))
        near = [video for folded, video in ids[first : first + int(limit) + 1] if folded.startswith(prefix)]
        shown, more = near[: int(limit)], len(near) > int(limit)
        found = [self._video(videos[video]) for video in shown]
        return JSONResponse({"videos": found, "next": shown[-1] if more else None})

    def _by_id(self) -> tuple[Mapping[str, ServedVideo], list[tuple[str, str]]]:
        videos = self.corpus.videos()
        if self._sorted is None or self._sorted[0] is not videos:
            self._sorted = videos, sorted((video.casefold(), video) for video in videos)
        return self._sorted

    def _video(self, video: ServedVideo) -> dict[str, Any]:
        return {**video._asdict(), "playable": self.corpus.file(video.id) is not None}

    def video(self, request: Request) -> FileResponse:
        """GET /video/ID: the id is looked up and never becomes a path. Starlette calls it in a thread."""
        return FileResponse(self._file(request.path_params["video"]))

    def _file(self, video: str) -> Path:
        _check_video(video, self.corpus.videos())
        path = self.corpus.file(video)
        if path is None:
            raise HTTPException(404, f'There is no file of the video "{video}".')
        return path

    async def thumbnail(self, request: Request) -> Response:
        """GET /thumbnail/ID?t=SECOND."""
        video, second = request.path_params["video"], round(questions.second(request), 1)
        self._file(video)
        picture = await self._pictures.do((video, second), lambda: self.corpus.thumbnail(video, second))
        return Response(picture, media_type="image/jpeg", headers={"Cache-Control": "private, max-age=3600"})

    # --- export -----------------------------------------------------------------------------------

    async def export_file(self, request: Request) -> Response:
        """POST /export: one file; several are packed into one."""
        videos = self.corpus.videos()
        order = questions.ordered(await questions.read(request, questions.MAX_EXPORT), videos)
        folder = Path(tempfile.mkdtemp(prefix="vmr_jax_"))
        drop = BackgroundTask(shutil.rmtree, folder, ignore_errors=True)
        try:
            file = await self._exports.do(next(self._orders), lambda: self._exported(order, videos, folder))
        except BaseException:
            await drop()
            raise
        kind = "application/zip" if file.suffix == ".zip" else export.FORMATS[order.format]
        name = f"attachment; filename*=UTF-8''{urllib.parse.quote(file.name)}"
        headers = {"Content-Disposition": name, "Cache-Control": "no-store"}
        return FileResponse(file, media_type=kind, headers=headers, background=drop)

    def _exported(self, order: questions.Ordered, videos: Mapping[str, ServedVideo], folder: Path) -> Path:
        latest = time.monotonic() + EXPORT_SECONDS
        chosen = [self._chosen(moment, videos[moment["video"]], order.query) for moment in order.moments]
        name = export.file_name(order.query or "moments")
        stem = export.clip_name(chosen[0]) if order.format == "mp4" else name
        single = folder / "files" / f"{stem}.{order.format}"
        several = order.format == "mp4" and len(chosen) > 1
        several |= order.format in ("srt", "vtt") and len({moment.video for moment in chosen}) > 1
        target = folder / "files" if several else single
        target.parent.mkdir(exist_ok=True)
        try:
            if several:
                target.mkdir()
            files = export.export(
                chosen, order.format, target, order.exact, lambda: time.monotonic() > latest, places=False
            )
        except InterruptedError:
            raise UserError(
                f"Cutting took more than {EXPORT_SECONDS:g} s. Choose fewer or shorter moments, or copy them "
                "at key frames."
            ) from None
        if not several:
            return files[0]
        packed = folder / f"{name}.zip"
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:
            for file in files:
                archive.write(file, file.name.encode("utf-8", "replace").decode())  # not every name is text
        return packed

    def _chosen(self, moment: Mapping[str, Any], video: ServedVideo, query: str) -> export.Chosen:
        file = self.corpus.file(video.id)
        duration = video.duration or moment["end"]
        fields = {name: moment[name] for name in ("start", "end", "score", "confidence", "rank")}
        return export.Chosen(video.id, video.title, file, duration, **fields, query=query)

    # --- changes ----------------------------------------------------------------------------------

    async def upload(self, request: Request) -> JSONResponse:
        """POST /videos?name=NAME: the body is the file."""
        return JSONResponse(await self._uploads().receive(request), 202)

    async def upload_state(self, request: Request) -> JSONResponse:
        """GET /uploads/N."""
        return JSONResponse(self._uploads().state(request.path_params["number"]))

    def remove(self, request: Request) -> JSONResponse:
        """DELETE /video/ID."""
        self._uploads()
        assert self._editable is not None
        video = request.path_params["video"]
        _check_video(video, self.corpus.videos())
        self._editable.remove(video)
        return JSONResponse({"removed": video})

    def _uploads(self) -> Uploads:
        if self.uploads is None:
            raise HTTPException(
                403, "This server takes and removes no videos. Start it with --allow_upload where it should.",
                {"Connection": "close"},
            )  # fmt: skip
        return self.uploads


def _check_video(video: str, videos: Mapping[str, ServedVideo]) -> None:
    if video not in videos:
        raise HTTPException(404, f'There is no video "{video[:100]}" among those that are searched.')


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
        service.close()

    middleware = [Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts), www_redirect=False)]
    if token:
        middleware.append(Middleware(TokenGate, token=token))
    handlers: dict[Any, Any] = {HTTPException: _refused, UserError: _impossible, Exception: _failed}
    return Starlette(
        routes=[
            Route("/", service.page),
            Route("/page/{name}", service.page_file),
            Route("/about", service.about),
            Route("/openapi.json", service.openapi),
            Route("/search", service.search, methods=["POST"]),
            Route("/videos", service.videos),
            Route("/videos", service.upload, methods=["POST"]),
            Route("/uploads/{number:int}", service.upload_state),
            Route("/video/{video:path}", service.video),
            Route("/video/{video:path}", service.remove, methods=["DELETE"]),
            Route("/thumbnail/{video:path}", service.thumbnail),
            Route("/export", service.export_file, methods=["POST"]),
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
