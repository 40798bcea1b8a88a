"""--mode=serve: what it answers, what it refuses, and many who ask at once."""

import json
import re
import signal
import socket
import subprocess
import sys
import textwrap
from urllib.parse import quote

import pytest
from serving import ask, made_up, request, served, video_folder

from vmr_jax.errors import UserError
from vmr_jax.modes import serve
from vmr_jax.retrieval import questions, waiting, web

TOKEN = "0123456789abcdef"  # as short as is taken


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return video_folder(tmp_path_factory.mktemp("files"))


@pytest.fixture(scope="module")
def port(folder):
    with served(made_up(folder, "fvmr on <i>x</i>")) as port:
        yield port


# --- the page and its data ---------------------------------------------------------------------------


def test_the_page_asks_nobody_else(port):
    status, headers, content = request(port, "GET", "/")
    page = content.decode()
    assert status == 200 and headers["X-Content-Type-Options"] == "nosniff"
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "connect-src 'self'" in policy and "unsafe" not in policy
    (nonce,) = set(re.findall(r"'nonce-([^']+)'", policy))
    assert page.count(f'nonce="{nonce}"') == 2 and "{" + "nonce}" not in page
    files = {name: request(port, "GET", f"/{name}")[2].decode() for name in re.findall(r'"(page/[^"]+)"', page)}
    names = set(re.findall(r'from "./([^"]+)"', files["page/page.js"])) | {"dom.js"}
    files |= {name: request(port, "GET", f"/page/{name}")[2].decode() for name in names}
    assert {*files} == {
        "page/page.css",
        "page/page.js",
        "chosen.js",
        "dom.js",
        "hits.js",
        "player.js",
        "upload.js",
    }
    for content in (page, *files.values()):
        assert content and not re.search(r"https?:|//[a-z]+\.|@import|url\(", content)
    assert "fvmr on &lt;i&gt;x&lt;/i&gt;" in page and "<i>" not in page
    assert request(port, "GET", "/")[1]["Content-Security-Policy"] != policy  # a new nonce each time


def test_an_answer(port):
    status, answer = ask(port, {"query": "a person", "k": 2})
    score = 8.11  # 8 letters; ord("n") is 110
    of_video = {"video": "a", "title": "a", "duration": 30.0, "playable": True, "confidence": None}
    assert status == 200 and answer == {
        "moments": [
            {**of_video, "start": 0.0, "end": 1.5, "score": score, "rank": 1, "gap": pytest.approx(1.0)},
            {**of_video, "start": 1.0, "end": 2.5, "score": score - 1, "rank": 2, "gap": 0.0},
        ],
        "confident": None,
    }
    assert len(ask(port, {"query": "a person"})[1]["moments"]) == 10
    assert len(ask(port, {"query": "a person", "k": 50, "video": ""})[1]["moments"]) == 50


def test_a_video_of_unknown_length_ends_with_its_last_moment(port):
    _, answer = ask(port, {"query": "a person", "k": 3, "video": "B <i>"})
    # the third of three moments ends at 2 + 1.5 s
    assert [(m["video"], m["duration"], m["playable"]) for m in answer["moments"]] == [
        ("B <i>", 3.5, False)
    ] * 3


def test_suggestions(port, monkeypatch):
    def suggested(prefix):
        return [video["id"] for video in listed(port, f"prefix={prefix}")["videos"]]

    assert suggested("b") == suggested("B") == ["B <i>", "b.avi"]
    assert suggested("") == ["../secret", "a", "B <i>", "b.avi", "out", "é/ö"]
    assert suggested("zzz") == []
    monkeypatch.setattr(web, "SUGGESTIONS", 2)
    assert suggested("") == ["../secret", "a"]


def listed(port, query):
    return json.loads(request(port, "GET", f"/videos?{query}")[2])


def test_all_videos_come_in_parts(port):
    first = listed(port, "limit=4")
    assert [video["id"] for video in first["videos"]] == ["../secret", "a", "B <i>", "b.avi"]
    assert first["next"] == "b.avi"
    rest = listed(port, "limit=4&after=b.avi")
    assert [video["id"] for video in rest["videos"]] == ["out", "é/ö"] and rest["next"] is None
    assert listed(port, "id=a") == {
        "videos": [{"id": "a", "title": "a", "duration": 30.0, "added": None, "playable": True}], "next": None,
    }  # fmt: skip
    assert 'no video "nowhere"' in listed(port, "id=nowhere")["message"]
    for limit in ("0", "501", "-1", "x", "9" * 5000, "²"):
        assert "from 1 to 500" in listed(port, f"limit={quote(limit)}")["message"]


def test_the_page_files_are_those_of_its_folder(port):
    status, headers, content = request(port, "GET", "/page/page.css")
    assert status == 200 and headers["Content-Type"] == "text/css; charset=utf-8" and b"{" in content
    assert request(port, "GET", "/page/page.css", **{"If-None-Match": headers["ETag"]})[::2] == (304, b"")
    for name in ("page.html", "nothing.js", "..%2fweb.py", "%2e%2e%2faccess.py", ""):
        assert request(port, "GET", f"/page/{name}")[0] == 404


# --- refusals ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "question,status,message",
    [
        (b"", 400, "not JSON"),
        (b"{", 400, "not JSON"),
        (b"\xff\xfe", 400, "not JSON"),
        (b"[" * 16_000, 400, "not JSON"),
        (b'{"query": "a", "k": ' + b"9" * 5000 + b"}", 400, "not JSON"),
        (b'["a person"]', 400, "no JSON object"),
        ({}, 400, "Type a sentence"),
        ({"query": 5}, 400, "Type a sentence"),
        ({"query": " \n"}, 400, "Type a sentence"),
        ({"query": "x" * 1001}, 400, "has 1001 characters; at most 1000 are read"),
        ({"query": "\ud800"}, 400, "surrogate"),
        ({"query": "a", "video": "\udfff"}, 400, "surrogate"),
        ({"query": "a", "k": 0}, 400, "from 1 to 50"),
        ({"query": "a", "k": 51}, 400, "from 1 to 50"),
        ({"query": "a", "k": 2.5}, 400, "from 1 to 50"),
        ({"query": "a", "k": True}, 400, "from 1 to 50"),
        ({"query": "a", "k": None}, 400, "from 1 to 50"),
        ({"query": "a", "video": ["a", 1]}, 400, "must be an id, as text, or a list of ids"),
        ({"query": "a", "video": {"a": 1}}, 400, "must be an id"),
        ({"query": "a", "video": ["a", "nowhere"]}, 404, 'no video "nowhere"'),
        ({"query": "a", "video": ["a", "\udfff"]}, 400, "surrogate"),
        ({"query": "a", "video": "nowhere"}, 404, 'no video "nowhere"'),
        ({"query": "???"}, 400, "has no word"),
        ({"query": "break"}, 500, "The server failed here"),
        (b"{" + b" " * questions.MAX_BODY, 413, "more than 65,536 bytes"),
    ],
)
def test_refused_questions(port, question, status, message):
    found, answer = ask(port, question)
    assert found == status and message in answer["message"] and "as asked for" not in answer["message"]


def test_the_longest_query_fits_whatever_its_letters(port):
    query = "\U0001f600" * 1000  # 12 bytes each in ASCII JSON
    assert ask(port, {"query": query, "k": 1})[0] == 200


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_a_page_elsewhere_cannot_send_a_question(port, kind):
    status, answer = ask(port, {"query": "a person"}, kind)
    assert status == 415 and "application/json" in answer["message"]


@pytest.mark.parametrize(
    "method,path,status", [("GET", "/search", 405), ("POST", "/", 405), ("GET", "/x", 404)]
)
def test_other_requests_are_refused_in_json(port, method, path, status):
    found, _, content = request(port, method, path)
    assert found == status and json.loads(content)["message"]


def test_a_body_without_end_is_not_read_to_its_end(port):
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(
            b"POST /search HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        )
        for _ in range(questions.MAX_BODY // 4096 + 1):  # one chunk more than is read, and never the last
            connection.sendall(b"1000\r\n" + b" " * 4096 + b"\r\n")
        answer = b"".join(iter(lambda: connection.recv(4096), b""))  # until the server hangs up
    assert answer.startswith(b"HTTP/1.1 413 ") and b"more than 65,536 bytes" in answer


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "", "a b"])
def test_a_foreign_name_is_refused(port, host):
    assert request(port, "GET", "/", Host=host)[0] == 400
    assert request(port, "GET", "/video/a", Host=host)[0] == 400


def test_names_of_this_machine_are_not(port):
    assert request(port, "GET", "/", Host=f"127.0.0.1:{port}")[0] == 200
    assert request(port, "GET", "/", Host="LOCALHOST")[0] == 200


# --- video files -------------------------------------------------------------------------------------

CONTENT = bytes(range(256)) * 1000  # of a.mp4


@pytest.mark.parametrize(
    "range_,first,last",
    [
        ("bytes=0-0", 0, 0),
        ("bytes=1000-1999", 1000, 1999),
        ("bytes=255999-", 255_999, 255_999),
        ("bytes=-5", 255_995, 255_999),
    ],
)
def test_a_range_of_a_video(port, range_, first, last):
    status, headers, content = request(port, "GET", "/video/a", Range=range_)
    assert status == 206 and content == CONTENT[first : last + 1]
    assert headers["Content-Range"] == f"bytes {first}-{last}/256000"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"


def test_a_whole_video(port):
    status, headers, content = request(port, "GET", "/video/a")
    assert (status, content) == (200, CONTENT)
    assert headers["Content-Type"] == "video/mp4" and headers["Accept-Ranges"] == "bytes"
    status, headers, content = request(port, "HEAD", "/video/a")
    assert (status, headers["Content-Length"], content) == (200, "256000", b"")
    status, headers, content = request(port, "GET", "/video/b.avi")  # its file has another suffix
    assert (status, headers["Content-Type"], content) == (200, "video/webm", b"of b")


def test_a_range_that_is_not_there(port):
    status, headers, content = request(port, "GET", "/video/a", Range="bytes=256000-")
    assert (status, headers["Content-Range"], content) == (416, "bytes */256000", b"")


@pytest.mark.parametrize(
    "path",
    [
        "/video/../secret.mp4",
        "/video/..%2fsecret.mp4",
        "/video/%2e%2e/secret.mp4",
        "/video/%2e%2e%2fsecret",  # which is an id of the index
        "/video/../secret",
        "/video/%252e%252e%252fsecret",
        "/video/..\\secret.mp4",
        "/video//etc/passwd",
        "/video/%2fetc%2fpasswd",
        "/video/a%00.mp4",
        "/video/%00",
        "/video/",
        "/video/.",
        "/video/notes",
        "/video/notes.txt",
        "/video/out",  # an id of the index, and a link that leaves the folder
        "/video/within",  # a file, and no id of the index
        "/video/%ff%fe",
        "/video/" + "a" * 5000,
        "//etc/passwd",
        "/../../../etc/passwd",
    ],
)
def test_what_is_no_video_is_not_served(port, path):
    status, _, content = request_raw(port, path)
    assert status in (400, 404)
    assert b"SECRET" not in content and b"root:" not in content and json.loads(content)["message"]


def request_raw(port, path):
    """GET of bytes that http.client would not send."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(
            f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode("latin-1")
        )
        head, _, content = b"".join(iter(lambda: connection.recv(65536), b"")).partition(b"\r\n\r\n")
    return int(head.split()[1]), head, content


@pytest.mark.parametrize("path", ["/video/a\0b", "/video/a b", "video/a"])
def test_a_request_that_is_no_http_is_refused(port, path):
    assert request_raw(port, path)[0] in (400, 404)


def test_a_refused_client_is_told_to_ask_again(port, monkeypatch):
    monkeypatch.setattr(waiting, "MAX_WAITING", 0)
    status, headers, content = request(
        port, "POST", "/search", b'{"query": "a person"}', **{"Content-Type": "application/json"}
    )
    assert status == 503 and headers["Retry-After"] == "1"
    assert json.loads(content)["message"].startswith("Too many questions are waiting")


# --- the address -------------------------------------------------------------------------------------


def test_a_taken_port():
    with serve.listening("127.0.0.1", 0) as taken:
        number = taken.getsockname()[1]
        with pytest.raises(UserError, match=rf"port {number} of 127.0.0.1.*--port=NUMBER"):
            serve.listening("127.0.0.1", number)


def test_answers_are_sent_at_once():
    with serve.listening("127.0.0.1", 0) as listener:
        with socket.create_connection(listener.getsockname()), listener.accept()[0] as accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


@pytest.mark.parametrize("port", [-1, 65536])
def test_a_number_that_is_no_port(port):
    with pytest.raises(UserError, match=f"--port={port} is no port"):
        serve.listening("127.0.0.1", port)


def test_a_host_that_is_not_of_this_machine():
    with pytest.raises(UserError, match="192.0.2.1"):  # kept for documentation (RFC 5737)
        serve.listening("192.0.2.1", 0)


@pytest.mark.parametrize("host,foreign", [("127.0.0.1", 400), ("0.0.0.0", 200)])
def test_interrupt_ends_it_even_while_a_video_is_watched(tmp_path, host, foreign):
    with (tmp_path / "a.mp4").open("wb") as file:
        file.truncate(1 << 28)  # more than the sockets hold
    token = None if foreign == 400 else TOKEN
    program = f"""
        from pathlib import Path
        from vmr_jax.modes import serve
        from vmr_jax.retrieval import corpus, web
        from vmr_jax.retrieval.video_folder import VideoFolder
        files = VideoFolder(Path({str(tmp_path)!r}))
        service = web.Service(corpus.RunCorpus("test", lambda s, k, v: [[]] * len(s), {{"a": 1.0}}, files))
        serve.answer(service, serve.listening("{host}", 0), {token!r})
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            lines = [process.stdout.readline()]
            while "Open http://" not in lines[-1] and lines[-1]:
                lines.append(process.stdout.readline())
            name, number = re.search(r"http://([^:]+):(\d+)/", lines[-1]).groups()
            assert name == {"127.0.0.1": "127.0.0.1", "0.0.0.0": "localhost"}[host]
            warned = any("WARNING" in line and "anyone" in line for line in lines)
            assert warned == (host == "0.0.0.0")
            known = {"Authorization": f"Bearer {TOKEN}"}
            assert request(int(number), "GET", "/", Host="evil.example", **known)[0] == foreign
            with socket.create_connection(("127.0.0.1", int(number)), timeout=60) as watching:
                head = f"GET /video/a HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n\r\n"
                watching.sendall(head.encode())
                assert watching.recv(12) == b"HTTP/1.1 200"
                process.send_signal(signal.SIGINT)
                out, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert (process.returncode, out, err) == (0, "Ended.\n", "")
