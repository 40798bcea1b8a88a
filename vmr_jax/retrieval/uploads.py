"""Video files that are sent to the page: bounded in size and number, and taken one after the other."""

import asyncio
import itertools
import os
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

from vmr_jax.errors import UserError
from vmr_jax.retrieval.connections import Seldom
from vmr_jax.retrieval.corpus import Editable
from vmr_jax.retrieval.video_folder import SUFFIXES

MAX_UPLOAD = 1 << 31  # bytes of a file
FREE = 1 << 30  # bytes that are left free on the disk
MAX_AT_ONCE = 4  # files that are being sent, or wait to be taken
_KEPT = 200  # uploads of which is known what became of them
_PART = ".part"  # behind the name of a file that is being sent


class Uploads:
    """Receives files, and lets one thread take them.

    Args:
      corpus: takes them.
      seldom: logs what fails here.
      most: bytes of a file.
    """

    def __init__(self, corpus: Editable, seldom: Seldom, most: int = MAX_UPLOAD):
        self._corpus, self._seldom, self.most = corpus, seldom, most
        self._states: dict[int, dict[str, Any]] = {}
        self._numbers = itertools.count(1)
        self._thread = ThreadPoolExecutor(1)
        self._busy = 0
        self._tasks: set[asyncio.Task] = set()

    async def receive(self, request: Request) -> dict[str, Any]:
        """Reads a file, which is the body, and begins to take it; its state."""
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/octet-stream":  # which a page of another origin cannot send without asking
            raise HTTPException(415, "Send the file with the header Content-Type: application/octet-stream.")
        name = safe_name(request.query_params.get("name", ""))
        if self._busy >= MAX_AT_ONCE:
            raise HTTPException(503, "Other files are being taken. Send this one later.", {"Retry-After": "10"})
        self._busy += 1
        try:
            path = await self._receive(request, name)
        except BaseException:
            self._busy -= 1
            raise
        number = next(self._numbers)
        state = {"upload": number, "name": path.name, "state": "waiting", "video": None, "reason": None}
        self._states[number] = state
        for old in list(self._states)[:-_KEPT]:
            del self._states[old]
        task = asyncio.create_task(self._take(path, state))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return dict(state)

    def state(self, number: int) -> dict[str, Any]:
        """State of an upload: 'waiting', 'taking', 'done' with `video`, or 'failed' with `reason`."""
        if number not in self._states:
            raise HTTPException(404, "There is no such upload, or it is long over.")
        return dict(self._states[number])

    def close(self) -> None:
        """Waits for the file that is being taken, and takes no other."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _receive(self, request: Request, name: str) -> Path:
        length = int(request.headers.get("content-length", 0))
        self._check_size(length)
        folder = self._corpus.uploads
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if shutil.disk_usage(folder).free - length < FREE:
                raise HTTPException(507, "The disk of the server is full.", {"Connection": "close"})
            path, file = _new_file(folder, name)
        except OSError as error:
            raise HTTPException(507, f"The file could not be written ({error.strerror}).") from None
        part = path.with_name(path.name + _PART)
        whole = False
        try:
            with file:
                await self._write(request, file, length)
            os.replace(part, path)
            whole = True
        except ClientDisconnect:
            raise HTTPException(400, "The file was not sent to its end.") from None
        except OSError as error:
            raise HTTPException(507, f"The file could not be written ({error.strerror}).") from None
        finally:
            if not whole:
                part.unlink(missing_ok=True)
        return path

    async def _write(self, request: Request, file: BinaryIO, length: int) -> None:
        size = 0
        async for chunk in request.stream():
            size += len(chunk)
            self._check_size(size)
            if size % (1 << 26) < len(chunk) and shutil.disk_usage(file.name).free < FREE:
                raise HTTPException(507, "The disk of the server is full.", {"Connection": "close"})
            await asyncio.to_thread(file.write, chunk)
        if not size or (length and size != length):
            raise HTTPException(400, "The file is empty, or was not sent to its end.")

    def _check_size(self, size: int) -> None:
        if size > self.most:
            raise HTTPException(
                413, f"The file has more than {self.most / 2**20:,.0f} MiB.", {"Connection": "close"}
            )

    async def _take(self, path: Path, state: dict[str, Any]) -> None:
        """Lets the thread add the file; one that cannot be read is deleted."""

        def add() -> str:
            state["state"] = "taking"
            return self._corpus.add(path)

        try:
            state["video"] = await asyncio.get_running_loop().run_in_executor(self._thread, add)
            state["state"] = "done"
        except Exception as error:
            path.unlink(missing_ok=True)
            known = isinstance(error, UserError)
            if not known:
                self._seldom.error("taking an upload failed", exc_info=error)
            state["reason"] = str(error) if known else "The server failed here; what it printed says why."
            state["state"] = "failed"
        finally:
            self._busy -= 1


def safe_name(name: str) -> str:
    """The name of an upload as that of a file: no path, not hidden, with the suffix of a video file."""
    stem, suffix = os.path.splitext(name.replace("\\", "/").rpartition("/")[2])
    stem = re.sub(r"[^\w .()-]+", "_", stem).strip(" ._")[:100]
    if not stem or suffix.lower() not in SUFFIXES:
        raise HTTPException(400, f"Give the file a name that ends with one of {', '.join(SUFFIXES)}.")
    return stem + suffix.lower()


def _new_file(folder: Path, name: str) -> tuple[Path, BinaryIO]:
    """A path that no other upload has, and its part, opened."""
    stem, suffix = os.path.splitext(name)
    for n in itertools.count(1):
        path = folder / (name if n == 1 else f"{stem} ({n}){suffix}")
        if path.exists():
            continue
        try:
            return path, path.with_name(path.name + _PART).open("xb")
        except FileExistsError:
            continue
    raise AssertionError
