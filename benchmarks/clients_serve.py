"""Many people on the page of `--mode=serve` at once.

    python benchmarks/clients_serve.py                      # 50 clients for 30 s
    python benchmarks/clients_serve.py --clients=200

The server is a process of its own: a made-up index, and real films that are made first. Each client does what
a browser does: it opens the page and its files, asks, gets the pictures of the moments, watches a piece of a
film, and exports a moment now and then. A row for each kind of request: how many were answered and refused, and
how long the middle, the slowest twentieth and the slowest one took.
"""

import collections
import http.client
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from absl import flags
from program import child, run

FLAGS = flags.FLAGS
flags.DEFINE_integer("clients", 50, "People at once.")
flags.DEFINE_integer("seconds", 30, "How long.")

_VIDEOS = 20
_FILES = ("page.css", "page.js", "chosen.js", "dom.js", "hits.js", "player.js", "upload.js")
_SERVER = """
import sys
from pathlib import Path
import numpy as np
from vmr_jax.modes import serve
from vmr_jax.retrieval import corpus, web
from vmr_jax.retrieval.index import Found
from vmr_jax.retrieval.video_folder import VideoFolder
videos = {f"v{i}": 30.0 for i in range(int(sys.argv[2]))}
vectors = np.random.default_rng(0).normal(size=(100_000, 256)).astype(np.float32)
def search(sentences, k, video):
    answers = []
    for sentence in sentences:
        best = np.argsort(-(vectors @ vectors[len(sentence)]))[:k]
        rows = [(f"v{i % len(videos)}", i % 20, i % 20 + 5.0, 1.0 - i / 1e6) for i in best.tolist()]
        answers.append([Found(video or name, *moment) for name, *moment in rows])
    return answers
service = web.Service(corpus.RunCorpus("benchmark", search, videos, VideoFolder(Path(sys.argv[1]))))
serve.answer(service, serve.listening("127.0.0.1", 0))
"""


def make_films(folder: Path) -> None:
    """Films of 30 s at 320 x 180."""
    import av
    import numpy as np

    for i in range(_VIDEOS):
        with av.open(str(folder / f"v{i}.mp4"), "w") as file:
            stream = file.add_stream("libx264", rate=10, options={"preset": "ultrafast", "g": "20"})
            stream.width, stream.height, stream.pix_fmt = 320, 180, "yuv420p"
            for frame in range(300):
                pixels = np.full((180, 320, 3), (frame * 5 + i * 30) % 256, np.uint8)
                file.mux(stream.encode(av.VideoFrame.from_ndarray(pixels)))
            file.mux(stream.encode())


class Client(threading.Thread):
    """One person; `took` holds the seconds of his answers by kind, `refused` counts what was not answered."""

    def __init__(self, port: int, seed: int, end: float):
        super().__init__(daemon=True)
        self.took: dict[str, list[float]] = collections.defaultdict(list)
        self.refused: collections.Counter = collections.Counter()
        self._port, self._random, self._end = port, random.Random(seed), end

    def run(self) -> None:
        """Goes on until the end."""
        self._get("page", "/")
        for name in _FILES:
            self._get("page", f"/page/{name}")
        self._get("page", "/about")
        while time.monotonic() < self._end:
            query = " ".join(["a person opens the door"] * self._random.randint(1, 9))
            found = self._get("search", "/search", {"query": query, "k": 10})
            moments = json.loads(found)["moments"] if found else []
            for moment in moments[:6]:
                middle = (moment["start"] + moment["end"]) / 2
                self._get("picture", f"/thumbnail/{moment['video']}?t={middle:.1f}")
            if moments:
                self._get("film", f"/video/{moments[0]['video']}", None, {"Range": "bytes=0-65535"})
            if moments and self._random.random() < 0.1:
                order = {name: moments[0][name] for name in ("video", "start", "end")}
                self._get("clip", "/export", {"moments": [order], "format": "mp4"})
            time.sleep(self._random.uniform(0.5, 1.5))

    def _get(self, kind: str, path: str, body: object = None, headers: dict[str, str] | None = None) -> bytes:
        """The content of an answer, b'' where there was none."""
        began = time.perf_counter()
        sent = {**(headers or {}), **({"Content-Type": "application/json"} if body else {})}
        try:
            connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
            connection.request("POST" if body else "GET", path, json.dumps(body) if body else None, sent)
            answer = connection.getresponse()
            content = answer.read()
            connection.close()
        except OSError:
            self.refused[kind] += 1
            return b""
        if answer.status not in (200, 206):
            self.refused[kind] += 1
            return b""
        self.took[kind].append(time.perf_counter() - began)
        return content


def main(argv: list[str]) -> None:
    """Prints a row for each kind of request."""
    del argv
    print(f"{FLAGS.clients} clients, {FLAGS.seconds} s, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root)
        make_films(folder)
        command = [sys.executable, "-c", _SERVER, root, str(_VIDEOS)]
        with child(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            line = next(line for line in process.stdout if "Open http://" in line)
            port = int(line.partition("Open http://")[2].partition("/")[0].rpartition(":")[2])
            end = time.monotonic() + FLAGS.seconds
            clients = [Client(port, i, end) for i in range(FLAGS.clients)]
            for client in clients:
                client.start()
            for client in clients:
                client.join()
    row = "{:<10} {:>9} {:>8} {:>12} {:>12} {:>12}"
    print(row.format("request", "answered", "refused", "median (ms)", "95% (ms)", "slowest (ms)"))
    for kind in ("page", "search", "picture", "film", "clip"):
        times = sorted(1000 * seconds for client in clients for seconds in client.took[kind])
        refused = sum(client.refused[kind] for client in clients)
        shown = [times[int(part * (len(times) - 1))] for part in (0.5, 0.95, 1.0)] if times else [0.0] * 3
        print(row.format(kind, len(times), refused, *(f"{time:,.0f}" for time in shown)))


if __name__ == "__main__":
    run(main)
