"""Films that come and go under a running server: it answers meanwhile, and afterwards of none that is gone."""

import contextlib
import itertools
import json
import threading

import colours_model
import filmed
from colours_model import coloured, run_of
from serving import request, served

import vmr_jax as vmr
from vmr_jax.modes.serve import LibraryCorpus
from vmr_jax.retrieval import web
from vmr_jax.video import ingest

FILMS = 5  # that go, and as many that come
QUESTIONS = ({"query": "red"}, {"query": "green", "max_duration": 5.0}, {"query": "red", "k": 50})


def films(folder, names, second):
    """Films of four seconds, no two alike, in which red is seen for a second."""
    folder.mkdir(exist_ok=True)
    for number, name in enumerate(names):
        colours = coloured(("grey", second), ("red", second + 1), ("green", 4))
        show = with_a_mark(colours, number)
        filmed.film(folder / f"{name}.mp4", 4.0, codec="mpeg4", fps=4, show=show)


def with_a_mark(colours, number):
    """The pictures of a film with some pixels of its own."""

    def show(second):
        pixels = colours(second).copy()
        pixels[number // 64 % 48, number % 64] = 255
        return pixels

    return show


@contextlib.contextmanager
def asked_all_the_time(port, seen):
    """A client that asks on and on; `seen` gets (status, answer) of every question."""
    end = threading.Event()

    def client():
        for question in itertools.cycle(QUESTIONS):
            if end.is_set():
                return
            seen.append(ask(port, question))

    thread = threading.Thread(target=client)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join()


def ask(port, question):
    body = json.dumps(question).encode()
    status, _, content = request(port, "POST", "/search", body, **{"Content-Type": "application/json"})
    return status, json.loads(content)


def found(port):
    """Video -> the whole second in which its best moment of red begins, of all videos."""
    best = {}
    status, answer = ask(port, {"query": "red", "k": 50})
    for moment in answer["moments"]:
        best.setdefault(moment["video"], int(moment["start"]))
    assert status == 200
    return best


def test_films_come_and_go_while_a_client_asks(tmp_path, monkeypatch):
    """A moment is half a second of four: in old films red is seen from 1 to 2 s, in new ones from 2 to 3."""
    monkeypatch.setattr(ingest, "_SETTLED", 0.0)
    gone, stay, new = ([f"{kind}{i}" for i in range(FILMS)] for kind in ("gone", "stay", "new"))
    films(tmp_path / "films", gone + stay, 1)
    lib = vmr.Library(tmp_path / "lib", run=run_of(colours_model.Dual(), tmp_path, clips=16))
    lib.update(tmp_path / "films")
    other, seen = vmr.Library(tmp_path / "lib"), []  # as another process changes it
    with served(web.Service(LibraryCorpus(lib))) as port:
        assert found(port) == dict.fromkeys(gone + stay, 1)
        with asked_all_the_time(port, seen):
            for name in gone:
                (tmp_path / "films" / f"{name}.mp4").unlink()
            other.update(tmp_path / "films")
            assert found(port) == dict.fromkeys(stay, 1)
            films(tmp_path / "films", new, 2)
            other.update(tmp_path / "films")
            after = len(seen) + 1  # one may have been asked before
            assert found(port) == {**dict.fromkeys(stay, 1), **dict.fromkeys(new, 2)}
        for path in ("/video/gone0", "/thumbnail/gone0?t=1"):
            assert request(port, "GET", path)[0] == 404
        assert ask(port, {"query": "red", "video": "gone0"})[0] == 404
    assert {status for status, _ in seen} == {200} and len(seen) > 3
    videos = [{moment["video"] for moment in answer["moments"]} for _, answer in seen]
    assert all(names and names <= {*gone, *stay, *new} for names in videos)
    assert not any({*gone} & names for names in videos[after:])
