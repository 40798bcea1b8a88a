"""`--mode=serve`: a local page that asks a run's index and plays what it finds; `web` holds its answers."""

import functools
import ipaddress
import os
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vmr_jax.errors import UserError
from vmr_jax.input.dataset import Dataset
from vmr_jax.modes.index import open_index

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
    web, access = _web()
    token = token or os.environ.get("VMR_JAX_TOKEN")
    files = web.VideoFolder(Path(videos) if videos else None)
    with listening(host, port) as listener:
        access.check_token(token, host, _is_loopback(listener))
        print(f"Opening the index of {workdir} ...", flush=True)
        index = open_index(config, workdir, sentences=None, uri=uri)

        def search(sentences, k, video):
            return index.search(sentences, k=k, video=video)

        for size in web.batch_sizes():
            search(["a person"] * size, web.MAX_MOMENTS, None)
        durations = _durations(config, index.store.videos)
        title = f"{config.model.name} on {config.dataset.name}, {len(durations):,} videos"
        if videos:
            playable = sum(files.find(video) is not None for video in durations)
            print(f"{playable:,} of {len(durations):,} videos have a file in {videos}.", flush=True)
        run(web.Service(title, search, durations, files), listener, token)


def _web():
    try:
        import uvicorn  # noqa: F401

        from vmr_jax.retrieval import access, web
    except ModuleNotFoundError as error:
        raise UserError(
            f"--mode=serve needs {error.name}, which is not installed: pip install -e '.[serve]'"
        ) from None
    return web, access


def _durations(config, videos: Sequence[str]) -> dict[str, float]:
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


def run(service, listener: socket.socket, token: str | None = None) -> None:
    """Answers on a listening socket until Ctrl-C, and prints the address.

    On a loopback address only requests for a name of this machine are answered; on another, a warning says that
    the network can ask.

    Args:
      service: a `web.Service`.
      listener: from `listening`.
      token: who asks must know it; None asks for none.
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
    print(f"Open http://{shown}:{port}/ in a browser; Ctrl-C ends.", flush=True)
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
