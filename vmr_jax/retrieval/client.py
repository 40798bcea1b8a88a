"""A library that `--mode=serve` serves, on this or another machine: the same calls, by HTTP."""

import http.client
import io
import json
import os
import shutil
import time
import urllib.error
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vmr_jax.errors import UserError, printable_line, user_path
from vmr_jax.files import disk_error
from vmr_jax.retrieval.hits import Filter, Hit, ServedVideo
from vmr_jax.video.ingest import Outcome, Report, video_files

TOKEN = "VMR_JAX_TOKEN"  # variable of the environment
_MOST = 1 << 26  # bytes of an answer in JSON
_LOOK = 0.5  # seconds between two looks at a file that the server takes
_PART = 500  # videos of one answer


def is_address(path: object) -> bool:
    """Whether a library is on a server: 'http://HOST:PORT' or 'https://...'."""
    return isinstance(path, str) and path.startswith(("http://", "https://"))


class RemoteLibrary:
    """A library on a server; `vmr.Library("http://host:8000")` gives one.

    Args:
      address: of the page.
      token: that the server asks for; None is the environment variable VMR_JAX_TOKEN.
      timeout: seconds in which the server must answer.

    Raises:
      UserError: of every call, with the words of the server where it refuses something.
    """

    def __init__(self, address: str, *, token: str | None = None, timeout: float = 60.0):
        self.address = address.rstrip("/")
        self._token, self._timeout = token or os.environ.get(TOKEN), timeout
        # Another address, to which a server may lead, is not to get the token.
        self._opener = urllib.request.build_opener(_Nowhere)

    def __repr__(self) -> str:
        return f"Library({self.address})"

    # --- the calls --------------------------------------------------------------------------------

    @property
    def about(self) -> dict[str, Any]:
        """Facts that the server tells of itself: title, number of videos, formats of export."""
        return self._json("about")

    @property
    def videos(self) -> list[ServedVideo]:
        """The videos by id, each with id, title, duration in seconds, and when it was added."""
        found: list[ServedVideo] = []
        after: str | None = ""
        while after is not None:
            part = self._json("videos", {"limit": _PART, **({"after": after} if after else {})})
            fields = ("id", "title", "duration", "added")
            found += [ServedVideo(*(video[name] for name in fields)) for video in part["videos"]]
            after = part["next"]
        return found

    def search(
        self,
        query: str,
        k: int = 10,
        video: str | Collection[str] | None = None,
        *,
        min_duration: float | None = None,
        max_duration: float | None = None,
        added_from: float | None = None,
        added_to: float | None = None,
    ) -> list[Hit]:
        """The k best moments for a sentence, best first, by the arguments of `Library.search`."""
        limits = Filter(min_duration, max_duration, added_from, added_to)._asdict()
        asked = video if video is None or isinstance(video, str) else sorted({*video})
        answer = self._json("search", body={"query": query, "k": k, "video": asked, **limits})
        return [Hit(*(moment[name] for name in Hit._fields)) for moment in answer["moments"]]

    def add(self, paths: str | Path | Iterable[str | Path]) -> Report:
        """Sends video files, and those of folders, and waits until they can be searched.

        Returns:
          What became of each.
        """
        given = [paths] if isinstance(paths, (str, Path)) else list(paths)
        files: list[Path] = []
        for path in map(user_path, given):
            files += video_files(path) if path.is_dir() else [path]
        return Report([self._add(file) for file in sorted({*files})])

    def _add(self, file: Path) -> Outcome:
        try:
            with file.open("rb") as content:
                size = os.fstat(content.fileno()).st_size
                headers = {"Content-Type": "application/octet-stream", "Content-Length": str(size)}
                state = json.loads(self._read("videos", {"name": file.name}, content, headers))
        except OSError as error:
            raise UserError(f"{file} cannot be read ({error.strerror or error}).") from None
        while state["state"] in ("waiting", "taking"):
            time.sleep(_LOOK)
            state = self._json(f"uploads/{state['upload']}")
        done = state["state"] == "done"
        return Outcome(str(file), "added" if done else "unreadable", state["reason"] or "")

    def remove(self, ids: str | Iterable[str]) -> Report:
        """Takes videos out, by their ids."""
        ids = [ids] if isinstance(ids, str) else list(ids)
        for video in ids:
            self._read(f"video/{_quoted(video)}", method="DELETE")
        return Report([Outcome(video, "removed") for video in ids])

    def thumbnail(self, video: str, second: float) -> bytes:
        """The frame of a video at a second, as JPEG."""
        return self._read(f"thumbnail/{_quoted(video)}", {"t": f"{second:.1f}"})

    def export(
        self, hits: Sequence[Any], format: str, path: str | Path, exact: bool = False, *, query: str = ""
    ) -> list[Path]:
        """Writes hits as files, as `Library.export` does; the server makes them."""
        moments = [
            {
                name: getattr(hit, name, None)
                for name in ("video", "start", "end", "score", "confidence", "rank")
            }
            for hit in hits
        ]
        order = {"moments": moments, "format": format, "exact": exact, "query": query}
        path, content = Path(path), self._read("export", body=order, most=None)
        try:
            if content[:4] != b"PK\x03\x04":
                if path.is_dir():
                    path = path / f"moments.{format}"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
                return [path]
            return _unpacked(content, path)
        except OSError as error:
            raise disk_error(path, error) from None

    # --- HTTP -------------------------------------------------------------------------------------

    def _json(self, path: str, asked: Mapping[str, Any] | None = None, body: Any = None) -> dict[str, Any]:
        content = self._read(path, asked, body)
        try:
            found = json.loads(content)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise UserError(f"{self.address} is no page of vmr_jax: it answers {path} with no JSON.")
        return found

    def _read(
        self,
        path: str,
        asked: Mapping[str, Any] | None = None,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        method: str | None = None,
        most: int | None = _MOST,
    ) -> bytes:
        address = f"{self.address}/{path}" + (f"?{urllib.parse.urlencode(asked)}" if asked else "")
        sent = dict(headers or {})
        if body is not None and not headers:
            body, sent["Content-Type"] = json.dumps(body).encode(), "application/json"
        if self._token:
            sent["Authorization"] = f"Bearer {self._token}"
        request = urllib.request.Request(address, body, sent, method=method)
        try:
            with self._opener.open(request, timeout=self._timeout) as answer:
                content = answer.read(-1 if most is None else most + 1)
        except urllib.error.HTTPError as error:
            with error:
                raise UserError(f"{self.address} refuses this: {_message(error)}") from None
        except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
            why = getattr(error, "reason", None) or error
            raise UserError(
                f"{self.address} cannot be reached ({why}). Look whether the server runs."
            ) from None
        if most is not None and len(content) > most:
            raise UserError(f"{self.address} answers {path} with more than {most:,} bytes.")
        return content


class _Nowhere(urllib.request.HTTPRedirectHandler):
    """Follows no redirection."""

    def redirect_request(self, *given: Any) -> None:
        return None


def _message(error: urllib.error.HTTPError) -> str:
    """The message of the server, else its status."""
    try:
        return printable_line(str(json.loads(error.read(1 << 16))["message"]))
    except (ValueError, KeyError, TypeError, OSError):
        return f"status {error.code}"


def _quoted(video: str) -> str:
    return urllib.parse.quote(video, safe="")


def _unpacked(content: bytes, folder: Path) -> list[Path]:
    """The files of a zip, all in one folder, whatever their names say."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        for member in archive.infolist():
            target = folder / Path(member.filename.replace("\\", "/")).name
            with archive.open(member) as source, target.open("wb") as out:
                shutil.copyfileobj(source, out)
            written.append(target)
    return written
