"""Attacks on `--mode=serve`, and how it answers others meanwhile.

    python benchmarks/attacks_serve.py                # all; 6 min
    python benchmarks/attacks_serve.py --only=idle    # those whose name has this word
    python benchmarks/attacks_serve.py --files=256    # as after `ulimit -n 256`

Each attack meets a server of its own, whose index is made up. Beside it an honest client asks one question a
second: 'answered' counts its answers, 'slowest' is the longest that it waited. 'closed' says how many of the
attacker's connections the server had closed at the end, 'log' the bytes that the server printed.
"""

import dataclasses
import http.client
import os
import resource
import select
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from absl import flags
from program import child, run

FLAGS = flags.FLAGS
flags.DEFINE_string("only", "", "Attacks whose name has this word.")
flags.DEFINE_integer("files", 1024, "Files that the server may have open.")
flags.DEFINE_integer("seconds", 60, "How long the patient attacks last.")

_SERVER = """
import sys
from pathlib import Path
from vmr_jax.modes import serve
from vmr_jax.retrieval import corpus, web
from vmr_jax.retrieval.video_folder import VideoFolder
from vmr_jax.retrieval.index import Found
def search(sentences, k, video):
    return [[Found("a", float(i), i + 1.0, 1.0 - i) for i in range(k)] for _ in sentences]
files = VideoFolder(Path(sys.argv[1]))
service = web.Service(corpus.RunCorpus("attacked", search, {"a": 60.0}, files))
serve.answer(service, serve.listening("127.0.0.1", 0))
"""
_ROW = "{:<40} {:>6} {:>6} {:>10} {:>11} {:>11}"
_QUESTION = b'{"query": "a person", "k": 3}'
_POST = b"POST /search HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
_GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n"


# --- the honest client ----------------------------------------------------------------------------


class Honest(threading.Thread):
    """Asks once a second, on a new connection each time."""

    def __init__(self, port: int):
        super().__init__(daemon=True)
        self.asked = self.answered = 0
        self.slowest = 0.0
        self._port, self._end = port, threading.Event()

    def run(self) -> None:
        """Asks until `end`."""
        while not self._end.wait(1.0):
            self.asked += 1
            began = time.perf_counter()
            try:
                connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=10)
                connection.request("POST", "/search", _QUESTION, {"Content-Type": "application/json"})
                self.answered += connection.getresponse().status == 200
                connection.close()
            except OSError:
                pass
            self.slowest = max(self.slowest, time.perf_counter() - began)

    def end(self) -> None:
        """Stops it."""
        self._end.set()
        self.join()


# --- attacks: functions of the port that give the sockets they hold -----------------------------------


def _length(count: int) -> bytes:
    return b"Content-Length: %d\r\n\r\n" % count


def opened(port: int, count: int) -> list[socket.socket]:
    """Connections; as many as the server takes."""
    found = []
    for _ in range(count):
        try:
            found.append(socket.create_connection(("127.0.0.1", port), timeout=2))
        except OSError:
            continue
    return found


def patiently(sockets: list[socket.socket], part: bytes) -> list[socket.socket]:
    """Sends `part` on each, once a second."""
    for _ in range(FLAGS.seconds):
        for held in sockets:
            try:
                held.send(part)
            except OSError:
                continue
        time.sleep(1)
    return sockets


def sent(port: int, count: int, data: bytes) -> list[socket.socket]:
    """Connections on which `data` was sent."""
    sockets = opened(port, count)
    for held in sockets:
        held.setblocking(False)
        try:
            held.send(data)
        except OSError:
            continue
    return sockets


def flood(port: int, count: int) -> list[socket.socket]:
    """Connections one after the other, of which the last 400 are held."""
    held: list[socket.socket] = []
    for _ in range(count):
        held += opened(port, 1)
        if len(held) > 400:
            held.pop(0).close()
    return held


def trickle(port: int, count: int, head: bytes, part: bytes) -> list[socket.socket]:
    """A request that comes byte by byte."""
    return patiently(sent(port, count, head), part)


def waits(sockets: list[socket.socket]) -> list[socket.socket]:
    """Does nothing with them."""
    time.sleep(FLAGS.seconds)
    return sockets


def half_closed(port: int, count: int) -> list[socket.socket]:
    """Connections whose client has said that it sends no more, in the middle of a head."""
    sockets = sent(port, count, b"GET / HT")
    for held in sockets:
        held.shutdown(socket.SHUT_WR)
    return waits(sockets)


def refused(port: int, data: bytes) -> list[socket.socket]:
    """One request that must be refused; 50 of it."""
    sockets = sent(port, 50, data)
    time.sleep(3)
    return sockets


def large(port: int) -> list[socket.socket]:
    """Bodies of 100 MB, as far as the server reads."""
    sockets = opened(port, 20)
    for held in sockets:
        try:
            held.sendall(_POST + b"Transfer-Encoding: chunked\r\n\r\n")
            for _ in range(100):
                held.sendall(b"100000\r\n" + b" " * (1 << 20) + b"\r\n")
        except OSError:
            continue
    return sockets


ATTACKS: dict[str, Callable[[int], list[socket.socket]]] = {
    "200 idle connections": lambda port: waits(opened(port, 200)),
    "2,000 idle connections": lambda port: waits(opened(port, 2000)),
    "5,000 connections, one after the other": lambda port: flood(port, 5000),
    "300 heads, a byte a second": lambda port: trickle(port, 300, _GET, b"X"),
    "300 bodies, a byte a second": lambda port: trickle(
        port, 300, _POST + b"Content-Length: 900\r\n\r\n", b" "
    ),
    "300 bodies that nobody asked for": lambda port: trickle(port, 300, _GET + _length(10**8), b"x"),
    "300 films that nobody reads": lambda port: waits(
        sent(port, 300, b"GET /video/a HTTP/1.1\r\nHost: localhost\r\n\r\n")
    ),
    "300 half-open connections": lambda port: half_closed(port, 300),
    "a header of 1 MB": lambda port: refused(port, _GET + b"X: " + b"x" * (1 << 20) + b"\r\n\r\n"),
    "10,000 header lines": lambda port: refused(port, _GET + b"X: y\r\n" * 10_000 + b"\r\n"),
    "a body of 100 MB in chunks": large,
    "Content-Length: -1": lambda port: refused(port, _POST + b"Content-Length: -1\r\n\r\n{}"),
    "Content-Length: 9e18": lambda port: refused(
        port, _POST + b"Content-Length: 9" + b"0" * 18 + b"\r\n\r\n{}"
    ),
    "two lengths": lambda port: refused(port, _POST + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}"),
    "no HTTP": lambda port: refused(port, bytes(range(256)) * 16),
}


# --- what comes of it -----------------------------------------------------------------------------


@dataclasses.dataclass
class Outcome:
    """The outcome of an attack."""

    held: int
    closed: int
    asked: int
    answered: int
    slowest: float
    log: int


def outcome(attack: Callable[[int], list[socket.socket]], folder: Path) -> Outcome:
    """Starts a server, attacks it, and ends it."""
    printed = folder / "log"
    command = [sys.executable, "-c", _SERVER, str(folder / "videos")]
    with printed.open("wb") as out, child(command, stdout=out, stderr=out, preexec_fn=_fewer_files) as process:
        honest = Honest(_port_of(process, printed))
        honest.start()
        time.sleep(2)
        sockets = attack(honest._port)
        closed = sum(_is_closed(held) for held in sockets)
        for held in sockets:
            held.close()
        honest.end()
        size = printed.stat().st_size
        return Outcome(len(sockets), closed, honest.asked, honest.answered, honest.slowest, size)


def _fewer_files() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (FLAGS.files, FLAGS.files))


def _port_of(process: subprocess.Popen, printed: Path) -> int:
    while process.poll() is None:
        text = printed.read_text(errors="replace")
        if "Open http://" in text:
            return int(text.partition("Open http://")[2].partition("/")[0].rpartition(":")[2])
        time.sleep(0.1)
    sys.exit(printed.read_text(errors="replace"))


def _is_closed(held: socket.socket) -> bool:
    """Whether the server has ended this connection."""
    held.setblocking(False)
    try:
        while select.select([held], [], [], 0)[0] if held.fileno() < 1024 else True:
            if not held.recv(1 << 16):
                return True
    except BlockingIOError:
        return False
    except OSError:
        return True
    return False


def main(argv: list[str]) -> None:
    """Prints a row for each attack, when it is over."""
    del argv
    print(f"{FLAGS.files:,} files, {os.cpu_count()} cores, {FLAGS.seconds} s")
    print(_ROW.format("attack", "held", "closed", "answered", "slowest (s)", "log (bytes)"))
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root)
        (folder / "videos").mkdir()
        with (folder / "videos" / "a.mp4").open("wb") as file:
            file.truncate(1 << 26)
        for name, attack in ATTACKS.items():
            if FLAGS.only not in name:
                continue
            o = outcome(attack, folder)
            answered = f"{o.answered} of {o.asked}"
            cells = name, f"{o.held:,}", f"{o.closed:,}", answered, f"{o.slowest:.2f}", f"{o.log:,}"
            print(_ROW.format(*cells), flush=True)


if __name__ == "__main__":
    run(main)
