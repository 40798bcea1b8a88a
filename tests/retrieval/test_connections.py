"""--mode=serve under attack: who lets it wait is shut out, and the others are answered meanwhile."""

import contextlib
import logging
import resource
import socket
import time
import types

import pytest
from serving import ask, made_up, request, served

from vmr_jax.retrieval import connections

LIMITS = connections.Limits(connections=6, request=0.5, unread=0.5)
POST = b"POST /search HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n"


@pytest.fixture(scope="module")
def port(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    with (folder / "a.mp4").open("wb") as file:
        file.truncate(1 << 26)  # more than the sockets hold
    service = made_up(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(connections, "_LOOK", 0.05)
        with served(service, limits=LIMITS) as port:
            yield port


def connected(port, data=b""):
    connection = socket.create_connection(("127.0.0.1", port), timeout=20)
    connection.sendall(data)
    return connection


def received(connection):
    """All that comes until the server hangs up."""
    parts = []
    with contextlib.suppress(ConnectionResetError):
        while part := connection.recv(1 << 16):
            parts.append(part)
    return b"".join(parts)


def trickled(connection, part):
    """Seconds until the server hangs up, while `part` is sent ten times a second."""
    began = time.monotonic()
    connection.settimeout(0.1)
    while time.monotonic() - began < 20:
        try:
            connection.send(part)
            if not connection.recv(1 << 16):
                break
        except TimeoutError:
            continue
        except OSError:
            break
    return time.monotonic() - began


@pytest.mark.parametrize(
    "head,part",
    [
        (b"", b""),
        (GET, b"X"),
        (GET + b"X: ", b"x\r\nX: "),
        (POST + b"Content-Length: 900\r\n\r\n", b" "),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
        (GET + b"Content-Length: 99999999\r\n\r\n", b"x"),  # answered, and still being sent
        (GET + b"\r\n", b"G"),  # a second request that never ends
    ],
)
def test_a_request_must_end_in_time(port, head, part):
    with connected(port, head) as slow:
        assert 0.4 < trickled(slow, part) < 5  # LIMITS.request is 0.5 s
    assert ask(port, {"query": "a person"})[0] == 200


def test_a_client_that_has_hung_up_is_forgotten(port):
    with connected(port, b"GET / HT") as half:
        half.shutdown(socket.SHUT_WR)
        assert received(half).startswith((b"HTTP/1.1 400", b""))


def test_an_answer_that_nobody_reads_is_given_up(port):
    with connected(port, b"GET /video/a HTTP/1.1\r\nHost: localhost\r\n\r\n") as reader:
        time.sleep(1.5)  # LIMITS.unread is 0.5 s
        assert len(received(reader)) < 1 << 26


def test_an_answer_that_is_read_slowly_goes_on(port):
    with connected(port, b"GET /video/a HTTP/1.1\r\nHost: localhost\r\n\r\n") as reader:
        total = 0
        for _ in range(20):  # 1 s: twice as long as nobody may read
            total += len(reader.recv(1 << 20))
            time.sleep(0.05)
        assert total + len(received(reader)) > 1 << 26


def test_who_has_waited_longest_makes_room(port):
    with contextlib.ExitStack() as stack:
        idle = [stack.enter_context(connected(port)) for _ in range(6)]  # all places
        busy = idle.pop()
        busy.sendall(POST + b'Content-Length: 19\r\n\r\n{"query": "person"}')
        for _ in range(8):
            assert ask(port, {"query": "a person"})[0] == 200
        assert received(idle[0]) == b""
        assert busy.recv(12) == b"HTTP/1.1 200"


class Connection:
    """As much of one as `_make_room` reads; `since` is None where the server has work."""

    def __init__(self, address, since, closed):
        self.client, self.since = (address, 1), since
        self.transport = types.SimpleNamespace(abort=lambda: closed.append((address, since)))

    def waiting_since(self):
        return self.since


def test_the_address_with_most_connections_makes_room():
    closed = []
    crowd = {Connection("10.0.0.1", since, closed) for since in (2.0, 3.0, 4.0, None)}
    crowd.add(Connection("10.0.0.9", 1.0, closed))
    for _ in range(5):
        connections._make_room(crowd)
    # Of three that wait of 10.0.0.1 two go; of one each the one that has waited longest; never the busy one.
    assert closed == [("10.0.0.1", 2.0), ("10.0.0.1", 3.0), ("10.0.0.9", 1.0), ("10.0.0.1", 4.0)]
    assert [one.since for one in crowd] == [None]


# --- requests that are refused ----------------------------------------------------------------------


def length(count):
    return POST + b"Content-Length: %d\r\n\r\n{}" % count


@pytest.mark.parametrize(
    "data,status",
    [
        (length(-1), 400),
        (length(10**18), 413),
        (length(10**30), 400),
        (POST + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}", 400),
        (POST + b"Content-Length: 2, 3\r\n\r\n{}", 400),
        (POST + b"Content-Length: +2\r\n\r\n{}", 400),
        (POST + b"Transfer-Encoding: gzip\r\n\r\n", 400),
        (POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
        (GET + b"X: " + b"x" * 2 * connections.MAX_HEAD + b"\r\n\r\n", 400),
        (GET + b"X: y\r\n" * 6000 + b"\r\n", 400),
        (b"GET /" + b"x" * 2 * connections.MAX_HEAD + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
        (GET + b" folded: x\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),  # no host
        (bytes(range(256)), 400),
    ],
)
def test_what_is_refused(port, data, status, capfd):
    with connected(port) as connection:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it need not be read to its end
            connection.sendall(data)
        answer = received(connection)
    assert answer[:12] in (b"HTTP/1.1 %d" % status, b"")  # b"" where the rest was refused before it was read
    assert ask(port, {"query": "a person"})[0] == 200
    assert capfd.readouterr().err == ""


def test_headers_that_keep_others_out(port):
    headers = request(port, "GET", "/")[1]
    assert headers["X-Frame-Options"] == "DENY" and headers["Referrer-Policy"] == "no-referrer"
    assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
    assert not [name for name in headers if name.lower().startswith("access-control")]


# --- files and log ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "files,most,raised,places",
    [
        (1024, 4096, None, 256),
        (256, 4096, 1024, 256),  # (1024 - 256) / 2 is 384, and 256 is the most
        (256, 512, 512, 128),
        (100, 100, None, 16),
        (resource.RLIM_INFINITY, resource.RLIM_INFINITY, None, 256),
    ],
)
def test_there_are_files_for_all_connections(monkeypatch, files, most, raised, places):
    now = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (files, most))
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: now.append(limits))
    assert connections.affordable().connections == places
    assert now == ([] if raised is None else [(raised, most)])


def test_strangers_cannot_fill_the_log(caplog, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    seldom = connections.Seldom(lines=3)
    with caplog.at_level(logging.ERROR, "vmr_jax"):
        for _ in range(1000):
            seldom.on_loop(None, {"message": "socket.accept() failed", "exception": OSError(24, "many")})
        assert caplog.messages == ["socket.accept() failed ([Errno 24] many)"] * 3
        now[0] += 60
        seldom.error("%s failed", "GET")
    assert caplog.messages[3:] == ["997 more errors were not printed", "GET failed"]
