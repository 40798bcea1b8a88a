"""A server for the tests, and questions to it."""

import contextlib
import http.client
import json
import threading

from vmr_jax.errors import UserError
from vmr_jax.modes import serve
from vmr_jax.retrieval import corpus, web
from vmr_jax.retrieval.index import Found
from vmr_jax.retrieval.video_folder import VideoFolder

DURATIONS = {"a": 30.0, "B <i>": 0.0, "b.avi": 10.0, "../secret": 10.0, "out": 10.0, "é/ö": 10.0}


def search(sentences, k, video):
    """Moments that tell the sentence, by its length and last letter; some sentences fail.

    They are of the video that is asked, of the first one of several, or of "a".
    """
    video = min(video) if isinstance(video, frozenset) else video or "a"
    for sentence in sentences:
        if sentence == "???":
            raise UserError(f'The query "{sentence}" has no word.')
        if sentence == "break":
            raise RuntimeError("as asked for")
    return [
        [Found(video, float(i), i + 1.5, len(s) + ord(s[-1]) / 1000 - i) for i in range(k)] for s in sentences
    ]


def made_up(folder=None, title="test", find=search, durations=DURATIONS):
    """The service of a made-up index, with the video files of a folder."""
    return web.Service(corpus.RunCorpus(title, find, durations, VideoFolder(folder)))


def video_folder(root):
    """A folder of video files, of which two are links, beside a file that is not to be seen."""
    (root / "secret.mp4").write_bytes(b"SECRET")
    videos = root / "videos"
    videos.mkdir()
    (videos / "a.mp4").write_bytes(bytes(range(256)) * 1000)
    (videos / "b.webm").write_bytes(b"of b")
    (videos / "notes.txt").write_bytes(b"SECRET")
    (videos / "out.mp4").symlink_to(root / "secret.mp4")
    (videos / "within.mp4").symlink_to(videos / "a.mp4")
    return videos


@contextlib.contextmanager
def served(service, hosts=("127.0.0.1", "localhost"), token=None, limits=None):
    """The port of a running server."""
    with serve.listening("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        server = serve.make_server(service, list(hosts), token, limits)
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            yield port
        finally:
            server.should_exit = True
            thread.join()


def request(port, method, path, body=None, **headers):
    """Status, headers and content; the path is sent as it is."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.putrequest(method, path, skip_host="Host" in headers, skip_accept_encoding=True)
        for name, value in {**headers, **({"Content-Length": str(len(body))} if body else {})}.items():
            connection.putheader(name, value)
        connection.endheaders(body)
        response = connection.getresponse()
        return response.status, response.headers, response.read()
    finally:
        connection.close()


def ask(port, question, kind="application/json"):
    body = question if isinstance(question, bytes) else json.dumps(question).encode()
    status, _, content = request(port, "POST", "/search", body, **{"Content-Type": kind})
    return status, json.loads(content)
