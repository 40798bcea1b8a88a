"""A library of videos on a server: the page's answers, `vmr.Library("http://...")`, and /openapi.json."""

import http.client
import inspect
import io
import json
import time
import zipfile

import colours_model
import filmed
import jsonschema
import numpy as np
import pytest
from colours_model import coloured, run_of
from PIL import Image
from serving import made_up, request, served

import vmr_jax as vmr
from vmr_jax.errors import UserError
from vmr_jax.modes import serve
from vmr_jax.modes.export import export_library
from vmr_jax.modes.serve import LibraryCorpus
from vmr_jax.retrieval import client, openapi, uploads, web
from vmr_jax.retrieval.hits import Hit
from vmr_jax.video import ingest

TOKEN = "0123456789abcdef"
PARTS = {
    "a.mp4": (("grey", 4), ("red", 6), ("grey", 10), ("green", 12), ("grey", 16)),
    "b c.mp4": (("grey", 8), ("green", 10), ("grey", 16)),
}


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """Two films, in which each colour is seen once, and a run that finds colours."""
    root = tmp_path_factory.mktemp("library")
    (root / "films").mkdir()
    for name, parts in PARTS.items():
        filmed.film(root / "films" / name, 16.0, show=coloured(*parts))
    lib = vmr.Library(root / "lib", run=run_of(colours_model.Dual(), root), window=16.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ingest, "_SETTLED", 0.0)
        patch.setattr(client, "_LOOK", 0.02)
        lib.update(root / "films")
        yield lib


@pytest.fixture(scope="module")
def service(library):
    corpus = LibraryCorpus(library)
    return web.Service(corpus, corpus)


@pytest.fixture(scope="module")
def port(service):
    with served(service, token=TOKEN) as port:
        yield port


@pytest.fixture(scope="module")
def remote(port):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VMR_JAX_TOKEN", TOKEN)
        return vmr.Library(f"http://127.0.0.1:{port}")


def known(port, method, path, fields=None):
    """Status, headers and content for who knows the token."""
    body = None if fields is None else json.dumps(fields).encode()
    kind = {"Content-Type": "application/json"} if body else {}
    return request(port, method, path, body, Authorization=f"Bearer {TOKEN}", **kind)


# --- the same calls over HTTP --------------------------------------------------------------------------


def test_a_search_finds_the_same(library, remote):
    for query, video in (("green", None), ("green", "b c"), ("red", None)):
        expected = library.search(query, 4, video)
        found = remote.search(query, 4, video)
        assert [hit[:3] for hit in found] == [hit[:3] for hit in expected]
        assert isinstance(found[0], Hit) and found[0].rank == 1 and found[0].confidence is None
        assert [hit.score for hit in found] == pytest.approx([hit.score for hit in expected], abs=1e-5)
        assert found[0].gap == pytest.approx(found[0].score - found[1].score, abs=1e-6)
    first = remote.search("red", 1)[0]
    assert first.video == "a" and 4 <= first.start < first.end <= 6


def test_videos_and_a_repr(library, remote, port):
    assert [(video.id, video.title, round(video.duration)) for video in remote.videos] == [
        ("a", "a", 16), ("b c", "b c", 16),
    ]  # fmt: skip
    assert all(abs(video.added - time.time()) < 3600 for video in remote.videos)
    assert "Ingest its folder again" in remote.about["missing"]
    assert remote.about["videos"] == 2 and remote.about["dates"] and remote.about["upload"]
    assert repr(remote) == f"Library(http://127.0.0.1:{port})"


def test_filters(library, remote):
    added = library.manifest.videos["a"].added
    assert remote.search("green", 3, min_duration=20.0) == []
    assert remote.search("green", 3, max_duration=20.0, added_from=added - 60) != []
    assert remote.search("green", 3, added_to=added - 60) == []
    # An id and a filter: both count.
    assert {hit.video for hit in remote.search("green", 3, "a", max_duration=20.0)} == {"a"}
    assert remote.search("green", 3, "a", min_duration=20.0) == []


def test_the_arguments_are_those_of_the_library(library, remote):
    """One id, several, all, and the limits: what is found here is found there."""
    added = library.manifest.videos["a"].added
    for video in (None, "a", ["a"], ["b c", "a"], {"b c"}, []):
        for limits in ({}, {"max_duration": 20.0, "added_from": added - 60}, {"min_duration": 20.0}):
            expected = library.search("green", 6, video, **limits)
            found = remote.search("green", 6, video, **limits)
            assert [hit[:3] for hit in found] == [hit[:3] for hit in expected]
            wanted = {"a", "b c"} if video is None else {video} if isinstance(video, str) else {*video}
            assert {hit.video for hit in found} == (set() if "min_duration" in limits else wanted)
    for lib in (library, remote):
        with pytest.raises(UserError, match='no video "nowhere"'):
            lib.search("green", 6, ["a", "nowhere"], min_duration=20.0)


def test_a_filter_searches_all_moments(port, service, monkeypatch):
    """Nothing is left out because others are better: the search itself is of the videos that are wanted."""
    asked = []
    monkeypatch.setattr(service.queue, "_search", lambda s, k, video: asked.append(video) or [[]] * len(s))
    alone = ({"video": "a"}, {"video": ["a"]})
    for question in ({"max_duration": 20}, {"max_duration": 20}, {"min_duration": 20}, {}, *alone):
        status, _, content = known(port, "POST", "/search", {"query": "red", **question})
        assert status == 200 and json.loads(content) == {"moments": [], "confident": None}
    everything = frozenset({"a", "b c"})
    assert asked == [everything, everything, None, "a", frozenset("a")] and asked[0] is asked[1]


def test_thumbnails_are_kept_in_the_library(library, remote):
    for second, colour in ((5.0, (255, 0, 0)), (11.0, (0, 255, 0))):
        pixels = np.asarray(Image.open(io.BytesIO(remote.thumbnail("a", second))))
        assert pixels.shape == (48, 64, 3) and np.abs(pixels.mean((0, 1)) - colour).max() < 12
    kept = list((library.path / "thumbnails").glob("*.jpg"))
    assert len(kept) == 2
    kept[0].write_bytes(b"as kept")
    assert b"as kept" in (library.thumbnail("a", 5.0), library.thumbnail("a", 11.0))
    kept[0].unlink()


@pytest.mark.parametrize("kind", ["csv", "json", "edl", "fcpxml", "vtt", "srt", "mp4"])
def test_an_export_is_that_of_the_library(library, remote, tmp_path, kind):
    hits = remote.search("green", 4)
    here = library.export(hits, kind, tmp_path / f"here.{kind}", query="green")
    there = remote.export(hits, kind, tmp_path / f"there.{kind}", query="green")
    assert len(here) == len(there) == {"mp4": 4, "srt": 2, "vtt": 2}.get(kind, 1)
    for one, other in zip(sorted(here), sorted(there)):
        if kind == "mp4":
            assert one.name == other.name and one.stat().st_size == other.stat().st_size
        elif kind != "fcpxml":  # which names the place of a file here, and its name alone there
            assert one.read_bytes() == other.read_bytes()
        assert str(library.path.parent).encode() not in other.read_bytes()


def test_subtitles_of_films_whose_names_are_no_text(library, remote, tmp_path):
    """A name of bytes that are no UTF-8 cannot be in a zip: each of them becomes a question mark."""
    odd = tmp_path / "a\udcff.mp4"
    filmed.film(tmp_path / "a.mp4", 4.0, show=coloured(("red", 4))).rename(odd)
    library.add(odd)
    try:
        hits = [remote.search("red", 1, name)[0] for name in ("a", "a\\udcff")]
        assert {path.name for path in remote.export(hits, "srt", tmp_path / "out")} == {"a.srt", "a?.srt"}
    finally:
        library.remove("a\\udcff")


def test_a_single_clip_plays_the_moment(remote, tmp_path):
    (hit,) = remote.search("red", 1)
    (clip,) = remote.export([hit], "mp4", tmp_path / "red.mp4", exact=True)
    frames = [picture for _, picture in frames_of(clip)]
    assert len(frames) == pytest.approx(10 * (hit.end - hit.start), abs=1)
    assert all(np.abs(picture.mean((0, 1)) - (255, 0, 0)).max() < 12 for picture in frames)


def frames_of(path):
    import av

    with av.open(str(path)) as file:
        return [(frame.time, frame.to_ndarray(format="rgb24")) for frame in file.decode(video=0)]


def test_a_video_comes_and_goes(library, remote, tmp_path):
    film = filmed.film(tmp_path / "a new one.mp4", 16.0, show=coloured(("blue", 2), ("grey", 16)))
    assert [tuple(outcome) for outcome in remote.add(film)] == [(str(film), "added", "")]
    assert remote.search("blue", 1)[0].video == "a new one"
    sent = library.path / "uploads" / "a new one.mp4"
    assert sent.read_bytes() == film.read_bytes()
    (again,) = remote.add(film)
    assert again.what == "unreadable" and "in the library already, as" in again.reason
    assert [path.name for path in sent.parent.iterdir()] == ["a new one.mp4"]
    remote.remove("a new one")
    assert [video.id for video in remote.videos] == ["a", "b c"] and not sent.exists()
    (tmp_path / "broken.mp4").write_bytes(b"no film")
    (broken,) = remote.add([tmp_path / "broken.mp4"])
    assert broken.what == "unreadable" and broken.reason.startswith("It cannot be read: it is broken")
    assert not list(sent.parent.iterdir())


@pytest.mark.parametrize("call", ["search", "remove", "thumbnail", "export"])
def test_calls_are_those_of_a_library_on_a_disk(call):
    ours, theirs = (getattr(kind, call) for kind in (client.RemoteLibrary, vmr.Library))
    assert inspect.signature(ours) == inspect.signature(theirs)


def test_refusals_are_those_of_the_server(remote, port):
    with pytest.raises(UserError, match='refuses this: There is no video "nowhere"'):
        remote.search("red", video="nowhere")
    with pytest.raises(UserError, match="refuses this: The run knows no word"):
        remote.search("zzz")
    with pytest.raises(UserError, match="refuses this: Give 1 to 50 moments"):
        remote.export([], "csv", "x.csv")
    with pytest.raises(UserError, match="refuses this: .* give the token"):
        client.RemoteLibrary(f"http://127.0.0.1:{port}", token="wrong").search("red")
    with pytest.raises(UserError, match="cannot be reached .* Look whether the server runs"):
        client.RemoteLibrary("http://127.0.0.1:1").search("red")
    with pytest.raises(UserError, match="run is of the server"):
        vmr.Library(f"http://127.0.0.1:{port}", run="runs/x")


def test_a_server_cannot_lead_the_token_elsewhere(monkeypatch):
    moved = b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n"
    monkeypatch.setattr(http.client.HTTPConnection, "connect", lambda self: setattr(self, "sock", _Sock(moved)))
    with pytest.raises(UserError, match="status 302"):
        client.RemoteLibrary("http://example.invalid", token=TOKEN).search("red")


class _Sock:
    """A connection on which an answer has come."""

    def __init__(self, answer):
        self._answer = answer

    def sendall(self, data):
        pass

    def makefile(self, *args):
        return io.BytesIO(self._answer)

    def close(self):
        pass


# --- the commands -------------------------------------------------------------------------------------


def test_an_export_from_the_command_line(library, port, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("VMR_JAX_TOKEN", TOKEN)
    address = f"http://127.0.0.1:{port}"
    fields = {"run": None, "video": None, "window": None, "encoder_dir": None, "exact": False}
    target = tmp_path / "red.json"
    export_library(address, query="red", top=2, format="json", output=str(target), **fields)
    assert capsys.readouterr().out == f"{target}\n"
    found = json.loads(target.read_text(encoding="utf-8"))
    assert found["query"] == "red"
    assert [(m["video"], m["start"]) for m in found["moments"]] == [
        (hit.video, pytest.approx(hit.start, abs=1e-3)) for hit in library.search("red", 2)
    ]
    for kind, message in ((None, "needs --format=NAME"), ("mp5", 'Did you mean "mp4"')):
        with pytest.raises(UserError, match=message):
            export_library(address, query="red", top=2, format=kind, output=None, **fields)


def test_a_library_in_which_nothing_reads_sentences_is_not_served(library):
    with pytest.raises(UserError, match="pixels has no text tower"):
        serve.serve_library(str(library.path), "127.0.0.1", 0)


# --- uploads ------------------------------------------------------------------------------------------


def sent(port, name, body, kind="application/octet-stream", **headers):
    given = {"Authorization": f"Bearer {TOKEN}", "Content-Type": kind, **headers}
    status, _, content = request(port, "POST", f"/videos?name={name}", body, **given)
    return status, json.loads(content).get("message", "")


@pytest.mark.parametrize(
    "name,body,kind,status,message",
    [
        ("a.mp4", b"x", "text/plain", 415, "application/octet-stream"),  # as a page elsewhere could send it
        ("a.mp4", b"x", "multipart/form-data", 415, "application/octet-stream"),
        ("a.exe", b"x", "application/octet-stream", 400, "ends with one of .mp4"),
        ("", b"x", "application/octet-stream", 400, "ends with one of .mp4"),
        (".mp4", b"x", "application/octet-stream", 400, "ends with one of .mp4"),
        ("..%2f..%2f.mp4", b"x", "application/octet-stream", 400, "ends with one of .mp4"),
        ("a.mp4", b"x" * 5000, "application/octet-stream", 413, "more than 0 MiB"),
    ],
)
def test_refused_uploads(library, service, port, monkeypatch, name, body, kind, status, message):
    monkeypatch.setattr(service.uploads, "most", 4096)
    found, said = sent(port, name, body, kind)
    assert found == status and message in said
    assert not list((library.path / "uploads").glob("*"))


@pytest.mark.parametrize(
    "name,kept",
    [
        ("a b (2).MP4", "a b (2).mp4"),
        ("../../x.mkv", "x.mkv"),
        ("C:\\films\\x.mov", "x.mov"),
        ("é<i>.ts", "é_i.ts"),
        ("a\0b.mp4", "a_b.mp4"),
        ("x" * 300 + ".mp4", "x" * 100 + ".mp4"),
        ("...x.webm", "x.webm"),
    ],
)
def test_an_upload_never_becomes_a_path(name, kept):
    assert uploads.safe_name(name) == kept


def test_a_full_disk_and_too_many(port, monkeypatch):
    monkeypatch.setattr(uploads, "FREE", 1 << 60)
    assert sent(port, "a.mp4", b"x") == (507, "The disk of the server is full.")
    monkeypatch.setattr(uploads, "MAX_AT_ONCE", 0)
    status, message = sent(port, "a.mp4", b"x")
    assert status == 503 and "Send this one later" in message


def test_nothing_is_taken_without_leave():
    with served(made_up()) as port:
        status, _, content = request(
            port, "POST", "/videos?name=a.mp4", b"x", **{"Content-Type": "application/octet-stream"}
        )
        assert status == 403 and "--allow_upload" in json.loads(content)["message"]
        assert request(port, "DELETE", "/video/a")[0] == 403


# --- the description ----------------------------------------------------------------------------------


def schema_of(operation, status):
    answers = operation["responses"]
    content = answers.get(str(status), answers["default"])["content"]
    schema = content["application/json"].get("schema", {}) if "application/json" in content else None
    return schema and {**schema, "components": openapi.description()["components"]}


def test_the_description_is_that_of_the_routes(port):
    described = openapi.description()["paths"]
    operations = {(method.upper(), path) for path, found in described.items() for method in found}
    app = web.make_app(made_up(), ["*"])
    served_here = {
        (method, route.path.replace("{video:path}", "{id}").replace(":int", ""))
        for route in app.routes
        for method in route.methods - {"HEAD"}
    }
    own = {("GET", "/"), ("GET", "/page/{name}"), ("GET", "/openapi.json")}  # of the page alone
    assert operations == served_here - own
    jsonschema.Draft202012Validator.check_schema({"$defs": openapi.SCHEMAS})


MOMENT = {"video": "a", "start": 4.0, "end": 6.0}


@pytest.mark.parametrize(
    "method,path,fields,status",
    [
        ("GET", "/about", None, 200),
        ("POST", "/search", {"query": "red", "k": 3}, 200),
        ("POST", "/search", {"query": "red", "min_duration": 5, "added_to": 1e12}, 200),
        ("POST", "/search", {"query": ""}, 400),
        ("POST", "/search", {"query": "red", "min_duration": "long"}, 400),
        ("POST", "/search", {"query": "red", "added_from": 1e300}, 400),
        ("POST", "/search", {"query": "red", "max_duration": float("nan")}, 400),
        ("GET", "/videos", None, 200),
        ("GET", "/uploads/999", None, 404),
        ("GET", "/video/nowhere", None, 404),
        ("GET", "/thumbnail/nowhere", None, 404),
        ("GET", "/thumbnail/a?t=x", None, 400),
        ("GET", "/thumbnail/a?t=-1", None, 400),
        ("GET", "/thumbnail/a?t=nan", None, 400),
        ("DELETE", "/video/nowhere", None, 404),
        ("POST", "/export", {"moments": [MOMENT], "format": "exe"}, 400),
        ("POST", "/export", {"moments": [], "format": "csv"}, 400),
        ("POST", "/export", {"moments": [MOMENT] * 51, "format": "csv"}, 400),
        ("POST", "/export", {"moments": [{**MOMENT, "end": 4.0}], "format": "csv"}, 400),
        ("POST", "/export", {"moments": [{**MOMENT, "start": 17.0, "end": 18.0}], "format": "csv"}, 400),
        ("POST", "/export", {"moments": [{**MOMENT, "video": "../secret"}], "format": "csv"}, 404),
        ("POST", "/export", {"moments": [{**MOMENT, "end": 4e3}], "format": "mp4"}, 400),
        ("POST", "/export", {"moments": [MOMENT], "format": "csv", "query": "x" * 1001}, 400),
        ("POST", "/export", {"moments": [MOMENT], "format": "csv", "exact": "yes"}, 400),
    ],
)
def test_answers_are_as_described(port, method, path, fields, status):
    found, _, content = known(port, method, path, fields)
    assert found == status
    described = openapi.description()["paths"]
    parts = path.partition("?")[0].split("/")
    name = f"/{parts[1]}" + ("/{number}" if parts[1] == "uploads" else "/{id}" if len(parts) > 2 else "")
    jsonschema.validate(json.loads(content), schema_of(described[name][method.lower()], status))


def test_an_export_of_several_files_is_a_zip(port):
    order = {"moments": [MOMENT, {**MOMENT, "start": 0.0}], "format": "mp4", "query": "../red"}
    status, headers, content = known(port, "POST", "/export", order)
    assert status == 200 and headers["Content-Type"] == "application/zip"
    assert headers["Content-Disposition"] == "attachment; filename*=UTF-8''red.zip"
    names = zipfile.ZipFile(io.BytesIO(content)).namelist()
    assert names == ["01_a_4.0-6.0s.mp4", "02_a_0.0-6.0s.mp4"]


def test_too_many_pictures_wait(service, port, monkeypatch):
    monkeypatch.setattr(service._pictures, "_most", 0)
    status, headers, content = known(port, "GET", "/thumbnail/a?t=3")
    assert status == 503 and headers["Retry-After"] == "2"


def test_a_file_that_has_changed_is_not_shown(library):
    corpus = LibraryCorpus(library)
    assert corpus.file("a") is not None and corpus.file("nowhere") is None
    entry = library.manifest.videos["b c"]
    with open(entry.file, "ab") as file:
        file.write(b"more")
    try:
        assert corpus.file("b c") is None
    finally:
        with open(entry.file, "r+b") as file:
            file.truncate(entry.size)
    assert corpus.file("b c") is not None


def test_an_upload_to_a_disk_that_cannot_be_written(library, port, monkeypatch):
    def refused(folder, name):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(uploads, "_new_file", refused)
    assert sent(port, "a.mp4", b"x") == (507, "The file could not be written (Read-only file system).")
