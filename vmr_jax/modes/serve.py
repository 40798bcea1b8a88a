"""`--mode=serve`: a local page that asks a run's index, or a library of videos, and plays what it finds.

`retrieval/web.py` holds its answers.
"""

import contextlib
import functools
import ipaddress
import os
import socket
import urllib.parse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vmr_jax.errors import UserError
from vmr_jax.input.dataset import Dataset
from vmr_jax.library import WINDOW, Library
from vmr_jax.modes.index import open_index
from vmr_jax.retrieval.calibration import CONFIDENT
from vmr_jax.retrieval.hits import Hit, ServedVideo
from vmr_jax.retrieval.video_folder import VideoFolder

_SECONDS_TO_END = 2  # that open requests are given after Ctrl-C


def serve(
    config,
    workdir: Path,
    host: str,
    port: int,
    videos: str | None,
    token: str | None = None,
    uri: str | None = None,
) -> None:
    """Serves the page until Ctrl-C.

    Any sentence may come, so all word vectors are held. Every shape of search is compiled before the address is
    printed.

    Args:
      config: of the run.
      workdir: its folder, with an index.
      host: the address to listen on.
      port: the port; 0 takes a free one.
      videos: folder of video files named by video id; None plays none.
      token: who asks must know it; None is the environment variable VMR_JAX_TOKEN.
      uri: where the index is in Milvus, its address.

    Raises:
      UserError: the port is taken, the folder or the index is missing, Starlette is not installed, or other
        machines could ask without a token.
    """
    web = _web()
    from vmr_jax.retrieval import access, corpus, waiting

    token = token or os.environ.get("VMR_JAX_TOKEN")
    files = VideoFolder(Path(videos) if videos else None)
    with listening(host, port) as listener:
        access.check_token(token, host, _is_loopback(listener))
        print(f"Opening the index of {workdir} ...", flush=True)
        index = open_index(config, workdir, sentences=None, uri=uri)

        def search(sentences, k, video):
            return index.search(sentences, k=k, video=video)

        with contextlib.suppress(UserError):  # a run that knows no such word
            for size in waiting.batch_sizes():
                search(["a person"] * size, waiting.MAX_MOMENTS, None)
        durations = durations_of(config, index.store.videos)
        title = f"{config.model.name} on {config.dataset.name}, {len(durations):,} videos"
        if videos:
            playable = sum(files.find(video) is not None for video in durations)
            print(f"{playable:,} of {len(durations):,} videos have a file in {videos}.", flush=True)
        answer(web.Service(corpus.RunCorpus(title, search, durations, files)), listener, token)


def serve_library(
    library: str | Library,
    host: str,
    port: int,
    token: str | None = None,
    run: str | None = None,
    window: float | None = None,
    encoder_dir: str | None = None,
    allow_upload: bool = False,
    opens: str = "",
) -> None:
    """Serves the page of a library of videos until Ctrl-C.

    Args:
      library: its folder, or the library itself.
      host: the address to listen on.
      port: the port; 0 takes a free one.
      token: who asks must know it; None is the environment variable VMR_JAX_TOKEN.
      run: folder of a trained run, whose moments take the place of the encoder's own scores.
      window: seconds; longer videos are searched in parts; None is the default of `Library`.
      encoder_dir: folder of the encoder's weights, where it is no longer the one of the library.
      allow_upload: whether the page takes videos, and removes them.
      opens: what follows '/' in the address that is printed: '?q=SENTENCE' opens the page with an answer.

    Raises:
      UserError: the port is taken, the folder holds no library, nothing in it reads sentences, Starlette is not
        installed, or other machines could ask without a token.
    """
    web = _web()
    from vmr_jax.retrieval import access

    token = token or os.environ.get("VMR_JAX_TOKEN")
    with listening(host, port) as listener:
        access.check_token(token, host, _is_loopback(listener))
        if not isinstance(library, Library):
            print(f"Opening the library {library} ...", flush=True)
            library = Library(library, run=run, window=window or WINDOW, encoder_dir=encoder_dir)
        if library.run is None:
            library.encoder.encode_sentences(["a person"])  # says so now where it has no sentences
        print("Encoding moments that are new, and fitting the confidence of hits ...", flush=True)
        library.prepare()
        corpus = LibraryCorpus(library)
        corpus.warm()
        library.confidences.wait = False  # nobody waits for it when the videos change
        try:
            answer(web.Service(corpus, corpus if allow_upload else None), listener, token, opens)
        finally:
            library.confidences.close()


class LibraryCorpus:
    """A library of videos as the page serves it (`retrieval.corpus.Editable`).

    Args:
      library: the library.
    """

    threshold = CONFIDENT
    missing = (
        "It was moved, changed or deleted after it had been read. Ingest its folder again: "
        "vmr_jax --mode=ingest --videos=FOLDER --library=DIR"
    )

    def __init__(self, library: Library):
        self._library = library
        self._known: tuple[Any, Mapping[str, ServedVideo]] = (None, {})

    @property
    def title(self) -> str:
        """How many videos there are, and what scores them."""
        library, videos = self._library, self._library.manifest.videos
        by = library.run.config.model.name if library.run else library.manifest.encoder["name"]
        return f"{by} on {library.path.name}, {len(videos):,} video{'' if len(videos) == 1 else 's'}"

    @property
    def uploads(self) -> Path:
        """The folder for files that are sent."""
        return self._library.path / "uploads"

    def videos(self) -> Mapping[str, ServedVideo]:
        """The videos by id, the same object until they change."""
        manifest = self._library.manifest
        if self._known[0] is not manifest:
            entries = manifest.videos.values()
            self._known = manifest, {e.id: ServedVideo(e.id, e.id, e.duration, e.added) for e in entries}
        return self._known[1]

    def file(self, video: str) -> Path | None:
        """The file of a video as long as it is the one that was encoded; None where it has changed or gone."""
        entry = self._library.manifest.videos.get(video)
        if entry is None:
            return None
        path = Path(entry.file)
        try:
            return path if path.is_file() and path.stat().st_size == entry.size else None
        except OSError:
            return None

    def search(self, sentences: Sequence[str], k: int, video: str | frozenset[str] | None) -> list[list[Hit]]:
        """The k best moments for each sentence."""
        found = {sentence: self._library.search(sentence, k, video) for sentence in dict.fromkeys(sentences)}
        return [found[sentence] for sentence in sentences]

    def warm(self) -> None:
        """Compiles the search of a sentence as the page asks for it."""
        from vmr_jax.retrieval.waiting import MAX_MOMENTS

        with contextlib.suppress(UserError):  # an empty library, or a run that knows no such word
            self.search(["a person"], MAX_MOMENTS, None)

    def thumbnail(self, video: str, second: float) -> bytes:
        """The frame at a second as JPEG."""
        return self._library.thumbnail(video, second)

    def add(self, path: Path) -> str:
        """Takes a file in; its id. UserError where it cannot be read, or is there already."""
        (outcome,) = self._library.add(path)
        if outcome.what == "duplicate":
            raise UserError(f"This video is in the library already, as {outcome.reason}.")
        if outcome.what == "unreadable":
            raise UserError(f"It cannot be read: {outcome.reason}.")
        return self._library.manifest.by_file()[outcome.file].id

    def remove(self, video: str) -> None:
        """Takes a video out; its file is deleted where it was sent here."""
        file = Path(self._library.manifest.videos[video].file)
        self._library.remove(video)
        if file.parent == self.uploads.absolute():
            file.unlink(missing_ok=True)


def _web():
    try:
        import uvicorn  # noqa: F401

        from vmr_jax.retrieval import web
    except ModuleNotFoundError as error:
        raise UserError(
            f"--mode=serve needs {error.name}, which is not installed: pip install -e '.[serve]'"
        ) from None
    return web


def durations_of(config, videos: Sequence[str]) -> dict[str, float]:
    """Video id -> seconds, of the videos of an index; 0 where the dataset has no such video."""
    dataset = Dataset(config.dataset, annotations_only=True)
    known = {video.id: video.duration for name in dataset.split_names for video in dataset.split(name).videos}
    return {video: known.get(video, 0.0) for video in videos}


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens; UserError where the port is taken or the host is not of this machine."""
    if not 0 <= port < 1 << 16:
        raise UserError(f"--port={port} is no port. Give a number from 1 to 65535, or 0 for a free port.")
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.create_server(address[:2], family=family, backlog=512)
    except OSError as error:
        raise UserError(
            f"Cannot listen on port {port} of {host}: {error.strerror or error}. Another program may hold the "
            "port: give another with --port=NUMBER (0 takes a free one), and with --host an address of this "
            "machine."
        ) from None
    # Accepted connections inherit it. Without it the second packet of an answer waits 40 ms for an
    # acknowledgement; asyncio sets it only where the protocol is given by number, which create_server does not.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def _is_loopback(listener: socket.socket) -> bool:
    return ipaddress.ip_address(listener.getsockname()[0]).is_loopback


def answer(service, listener: socket.socket, token: str | None = None, opens: str = "") -> None:
    """Answers on a listening socket until Ctrl-C, and prints the address.

    On a loopback address only requests for a name of this machine are answered; on another, a warning says that
    the network can ask.

    Args:
      service: a `web.Service`.
      listener: from `listening`.
      token: who asks must know it; None asks for none.
      opens: what follows '/' in the address that is printed.
    """
    host, port = listener.getsockname()[:2]
    local = _is_loopback(listener)
    if not local:
        print(
            f"WARNING: {host} is open to the network: anyone who reaches this machine and knows the token can "
            "ask, and watch the videos. What is sent is not encrypted. The default, --host=127.0.0.1, is for "
            "this machine alone.",
            flush=True,
        )
    if ipaddress.ip_address(host).is_unspecified:
        host = "localhost"
    shown = f"[{host}]" if ":" in host else host
    print(
        f"Open http://{shown}:{port}/{urllib.parse.quote(opens, safe='?=&%')} in a browser; Ctrl-C ends.",
        flush=True,
    )
    names = ["localhost", "127.0.0.1", "[::1]", shown] if local else ["*"]
    try:
        make_server(service, names, token).run([listener])
    except KeyboardInterrupt:
        pass  # uvicorn has ended the open requests, and raises it again
    print("Ended.", flush=True)


def make_server(service, hosts: list[str], token: str | None = None, limits=None):
    """A `uvicorn.Server` of the page.

    Args:
      service: a `web.Service`.
      hosts: as in `web.make_app`.
      token: as in `web.make_app`.
      limits: `connections.Limits`; None is what the process can afford.
    """
    import uvicorn

    from vmr_jax.retrieval import connections, web

    limits = limits or connections.affordable()
    protocol: Any = functools.partial(connections.LimitedProtocol, limits=limits)
    config = uvicorn.Config(
        web.make_app(service, hosts, token),
        loop="asyncio",
        http=protocol,
        ws="none",
        log_config=None,
        log_level="critical",  # failures are logged by `web`
        access_log=False,
        proxy_headers=False,
        server_header=False,
        headers=list(web.HEADERS),
        h11_max_incomplete_event_size=connections.MAX_HEAD,
        backlog=connections.ACCEPTED,
        timeout_graceful_shutdown=_SECONDS_TO_END,
    )
    return uvicorn.Server(config)
