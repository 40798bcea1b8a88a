"""An index in Milvus answers as the folder of the same vectors does; on files of Milvus Lite."""

import json
import logging
import sys

import numpy as np
import pymilvus
import pytest

from vmr_jax.errors import UserError
from vmr_jax.parallel import Parallel
from vmr_jax.retrieval import milvus, pointer
from vmr_jax.retrieval.index import MomentIndex
from vmr_jax.retrieval.milvus import MilvusStore
from vmr_jax.retrieval.segments import EncodedVideo
from vmr_jax.retrieval.store import MomentStore

DIM = 8
QUERIES = np.random.default_rng(1).normal(size=(3, DIM)).astype(np.float32)
ODD = ('say "door"', "back\\slash", "it's 100% ünï🎬", "tab\there", "] or moment == 0 or video in [")  # ids


@pytest.fixture(autouse=True)
def lite():
    """Milvus Lite serves from threads of this process until it is told to stop."""
    yield
    from milvus_lite import server_manager_instance

    server_manager_instance.release_all()


def video(name, rows=30, dim=DIM, seed=0):
    rng = np.random.default_rng([seed, rows, *name.encode()])
    start = rng.uniform(0, 50, rows)
    spans = np.stack([start, start + rng.uniform(1, 20, rows)], axis=1).astype(np.float32)
    return EncodedVideo(name, rng.normal(size=(rows, dim)).astype(np.float32), spans)


def corpus():
    return [video(f"v{i}") for i in range(12)] + [video(name) for name in ODD]


def built(path, videos=None, **fields):
    settings = dict(
        collection="moments", dim=DIM, dtype="float32", source={"step": 1}, videos=videos or corpus()
    )
    return MilvusStore.build(str(path), **{**settings, **fields})


def index_of(store, **fields):
    return MomentIndex(store, lambda sentences: QUERIES[: len(sentences)], Parallel("pmap", 1), **fields)


@pytest.fixture
def both(tmp_path):
    """The same index as a folder and in Milvus."""
    folder = MomentStore.create(tmp_path / "folder", DIM, "float32", {}).add(corpus())
    return index_of(folder), index_of(built(tmp_path / "lite.db"))


def assert_same(answers, others):
    """No two scores of random vectors are equal, so that the order is one."""
    for one, other in zip(answers, others, strict=True):
        assert [found[:3] for found in one] == [found[:3] for found in other]
        np.testing.assert_allclose([f.score for f in one], [f.score for f in other], atol=1e-5)


def same_everywhere(folder, lite):
    assert len(folder) == len(lite) and sorted(folder.store.videos) == sorted(lite.store.videos)
    # 17 videos of 30 moments; with k = 100 NMS asks for more than the first 400 of them.
    for k in (1, 10, 100):
        answers = folder.search(["a", "b", "c"], k=k)
        assert [len(found) for found in answers] == [k] * 3
        assert_same(answers, lite.search(["a", "b", "c"], k=k))
    names = folder.store.videos
    for name in (*names, names[1:6], [*names[3:5], "elsewhere"], []):
        assert_same(folder.search(["a", "b"], k=5, video=name), lite.search(["a", "b"], k=5, video=name))


def test_answers_are_those_of_the_folder(both):
    folder, lite = both
    assert len(lite) == 17 * 30
    same_everywhere(folder, lite)
    # All of them, where NMS keeps everything.
    everything = [index_of(index.store, nms_threshold=1.0).search(["a"], k=10_000) for index in both]
    assert len(everything[0][0]) == 17 * 30
    assert_same(*everything)


def test_add_and_remove(both, monkeypatch):
    monkeypatch.setattr(milvus, "_IDS", 7)  # several requests for each
    monkeypatch.setattr(milvus, "_VIDEOS", 2)
    monkeypatch.setattr(milvus, "_FLOATS", 11 * DIM)
    more = [video("new"), video("v3", rows=40, seed=1), video(ODD[0], rows=5, seed=1), video("v5", seed=1)]
    both = [index.add(iter(more)) for index in both]
    assert len(both[1]) == 17 * 30 + 30 + 10 - 25
    same_everywhere(*both)
    both = [index.remove(["v1", "v2", "new", *ODD[1:]]) for index in both]
    assert len(both[1]) == 17 * 30 + 30 + 10 - 25 - 7 * 30
    same_everywhere(*both)
    for index in both:
        with pytest.raises(UserError, match='has no video "v1"'):
            index.remove(["v0", "v1"])
        with pytest.raises(UserError, match='has no video "v1"'):
            index.search(["a"], video="v1")
    assert len(both[1].search(["a"], video="v0")[0]) > 0  # nothing was removed


@pytest.mark.parametrize("name", ["", "two\nlines", '"', "v0' or 'a' == 'a"])
def test_what_is_no_video(tmp_path, name):
    store = built(tmp_path / "lite.db", [video("v0")])
    with pytest.raises(UserError, match="has no video"):
        store.of_video(QUERIES[0], name)
    with pytest.raises(UserError, match="has no video"):
        store.remove([name])
    assert len(store) == 30


def test_a_change_that_fails_is_taken_back(both, monkeypatch):
    monkeypatch.setattr(milvus, "_FLOATS", DIM)  # a moment a request
    for index in both:
        with pytest.raises(UserError, match='"v1" comes twice'):
            index.add([video("v1", seed=1), video("new"), video("v1", seed=2)])
    same_everywhere(*both)


def test_it_is_opened_from_another_process_and_folder(tmp_path, monkeypatch):
    from milvus_lite import server_manager_instance

    monkeypatch.chdir(tmp_path)
    store = built("lite.db")
    pointer.point(tmp_path / "index", "lite.db", "moments", {"step": 1})
    expected = store.top(QUERIES, 5)
    server_manager_instance.release_all()  # as the end of the process does
    monkeypatch.chdir("/")
    again = pointer.follow(tmp_path / "index", f"{tmp_path}/lite.db")
    assert again.uri == str(tmp_path / "lite.db") and (again.dim, again.source) == (DIM, {"step": 1})
    for one, other in zip(again.top(QUERIES, 5), expected):
        assert one.videos == other.videos
        np.testing.assert_array_equal(one.scores, other.scores)


def test_where_milvus_ranks_no_more(tmp_path, monkeypatch):
    """Ten moments at most. A video with twenty of one span has a single one after NMS."""
    same = video("same", rows=20)
    same = EncodedVideo("same", same.vectors, np.tile(np.float32([[0, 10]]), (20, 1)))
    store = built(tmp_path / "lite.db", [same, video("v0", rows=3)])
    monkeypatch.setattr(milvus, "MOST", 10)
    index = index_of(store)
    (found,) = index.search(["a"], k=1, video="same")
    best = int(np.argmax(same.vectors @ QUERIES[0]))
    assert found[0].score == pytest.approx(float(same.vectors[best] @ QUERIES[0]), abs=1e-5)
    with pytest.raises(
        UserError, match="k is 2, and the collection moments .* ranks at most 10 moments, of which 1"
    ):
        index.search(["a"], k=2, video="same")
    with pytest.raises(UserError, match="k is 11, and .* ranks at most 10"):
        index.search(["a"], k=11)
    assert len(index.search(["a"], k=5, video="v0")[0]) == 3  # there are no more


def test_an_empty_index(both):
    for index in both:
        index = index.remove(index.store.videos)
        assert len(index) == 0 and index.store.videos == []
        assert index.search(["a", "b"], k=3) == [[], []]


def test_large_answers_come_in_parts(tmp_path, monkeypatch):
    store = built(tmp_path / "lite.db")
    expected = store.top(QUERIES, 4)
    monkeypatch.setattr(milvus, "_RESULTS", 5)  # a query a request
    for one, other in zip(store.top(QUERIES, 4), expected, strict=True):
        np.testing.assert_array_equal(one.spans, other.spans)


# Errors.


@pytest.mark.parametrize(
    "fields,message",
    [
        ({"dtype": "bfloat16"}, "dtype is bfloat16, and an index in Milvus has float32 rows"),
        ({"dtype": "int8"}, "dtype is int8"),
        ({"dim": 32_769}, "A moment has 32,769 numbers, and Milvus takes 1 to 32,768"),
        ({"videos": [video("x" * 1025)]}, "has 1,025 bytes, and an index in Milvus takes 1,024: xxx"),
        ({"videos": [video("a", dim=3)]}, r"expected \[n,8\]"),
        ({"videos": [video("a"), video("a")]}, '"a" comes twice'),
        ({"collection": "no-name"}, 'collection is "no-name". Milvus takes letters, digits and underscores'),
    ],
)
def test_impossible_indexes(tmp_path, fields, message):
    with pytest.raises(UserError, match=message):
        built(tmp_path / "lite.db", **fields)


@pytest.mark.parametrize(
    "uri,message",
    [
        ("moments", 'uri is "moments". Give the address of a Milvus server'),
        ("ftp://host/x.db", "Give the address of a Milvus server"),
        ("http://me:secret@host:19530", "MILVUS_TOKEN to USER:PASSWORD"),
    ],
)
def test_impossible_addresses(uri, message):
    with pytest.raises(UserError, match=message) as error:
        MilvusStore.open(uri)
    assert "secret" not in str(error.value)


def test_a_server_that_does_not_answer(monkeypatch):
    monkeypatch.setattr(milvus, "_CONNECT", 0.5)
    with pytest.raises(UserError, match="Milvus at http://127.0.0.1:9 does not answer .* MILVUS_TOKEN"):
        MilvusStore.open("http://127.0.0.1:9")  # the port 'discard'


def test_without_pymilvus(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pymilvus", None)  # an import then fails
    with pytest.raises(UserError, match=r"needs pymilvus. Install it with: pip install -e '.\[milvus\]'"):
        built(tmp_path / "lite.db")


ADDRESS = "http://host:19530"


@pytest.fixture
def server(monkeypatch):
    """Questions to a client of Milvus: addresses with the token that they get, and names that are dropped."""
    asked = []

    class Client:
        def __init__(self, uri, **fields):
            asked.append((uri, fields["token"]))

        def has_collection(self, name):
            return name in ("moments", "theirs", "unmarked")

        def describe_collection(self, name):
            fields = [{"name": field, "type": kind} for field, kind in milvus._types().items()]
            owner = {"moments": "mine", "theirs": "another", "unmarked": ""}[name]
            return {"fields": fields, "properties": {"vmr_jax": json.dumps({"owner": owner})}}

        def drop_collection(self, name):
            asked.append(name)

    monkeypatch.setattr(pymilvus, "MilvusClient", Client)
    monkeypatch.setenv("MILVUS_TOKEN", "root:secret")
    monkeypatch.delenv("MILVUS_URI", raising=False)
    return asked


@pytest.mark.parametrize("by", ["flag", "environment"])
def test_the_token_is_sent_and_not_written(tmp_path, monkeypatch, server, by):
    pointer.point(tmp_path / "index", ADDRESS, "moments", {}, "mine")
    if by == "environment":
        monkeypatch.setenv("MILVUS_URI", ADDRESS)
    pointer.drop(tmp_path / "index", ADDRESS if by == "flag" else None)
    assert server == [(ADDRESS, "root:secret"), "moments"]  # there is no moments_unfinished
    assert "secret" not in (tmp_path / "index" / "milvus.json").read_text()


@pytest.mark.parametrize("given", [None, "http://mine:19530", f"{ADDRESS}/", "mine.db"])
def test_an_address_that_only_a_folder_names_is_not_asked(tmp_path, server, caplog, given):
    pointer.point(tmp_path / "index", ADDRESS, "moments", {}, "mine")
    with pytest.raises(UserError, match=f"milvus.json points to .* at {ADDRESS}.* give --uri={ADDRESS} or set"):
        pointer.follow(tmp_path / "index", given)
    with caplog.at_level(logging.WARNING, "vmr_jax"):
        pointer.drop(tmp_path / "index", given)
    assert f"An older index was left in Milvus: the collection moments at {ADDRESS}" in caplog.text
    assert server == []


MARKS = [("theirs", "mine"), ("theirs", ""), ("unmarked", ""), ("moments", "other")]


@pytest.mark.parametrize("name,owner", MARKS)
def test_a_collection_without_the_mark_of_the_folder_stays(tmp_path, server, caplog, name, owner):
    pointer.point(tmp_path / "index", ADDRESS, name, {}, owner)
    with caplog.at_level(logging.WARNING, "vmr_jax"):
        pointer.drop(tmp_path / "index", ADDRESS)
    assert f"The collection {name} of Milvus at {ADDRESS} was left" in caplog.text
    assert server == [(ADDRESS, "root:secret")]


def test_a_collection_is_dropped_by_its_mark(tmp_path):
    path = str(tmp_path / "lite.db")
    built(path, [video("a")], owner="mine")
    built(path, [video("a")], collection="other", owner="another")
    for name in ("moments", "other"):
        pointer.point(tmp_path / name, path, name, {"step": 1}, "mine")
        pointer.drop(tmp_path / name, path)
    assert pymilvus.MilvusClient(path).list_collections() == ["other"]


def test_a_name_of_something_else_is_not_cleared(tmp_path):
    path = str(tmp_path / "lite.db")
    client = pymilvus.MilvusClient(path)
    client.create_collection("moments_unfinished", dimension=DIM)
    with pytest.raises(UserError, match="moments_unfinished that is not of a moment index. Give another name"):
        built(path)
    assert client.list_collections() == ["moments_unfinished"]


def test_an_index_is_not_overwritten_and_a_dead_build_leaves_no_name(tmp_path):
    def broken():
        yield video("a")
        raise KeyboardInterrupt  # as a kill would

    path = tmp_path / "lite.db"
    with pytest.raises(KeyboardInterrupt):
        built(path, broken())
    with pytest.raises(UserError, match="has no collection moments"):
        MilvusStore.open(str(path))
    assert built(path, [video("b")]).videos == ["b"]
    with pytest.raises(UserError, match="has a collection moments already"):
        built(path, [video("c")])
    assert MilvusStore.open(str(path)).videos == ["b"]


def test_foreign_collections_are_refused(tmp_path):
    path = str(tmp_path / "lite.db")
    client = pymilvus.MilvusClient(path)
    client.create_collection("theirs", dimension=DIM)
    with pytest.raises(UserError, match="theirs of Milvus .* is not of a moment index .its fields: id, vector"):
        MilvusStore.open(path, "theirs")
    with pytest.raises(UserError, match="has a collection theirs already"):
        built(path, collection="theirs")
    pointer.point(tmp_path / "index", path, "moments", {"step": 2})
    built(path)
    with pytest.raises(UserError, match="was built from {'step': 1}, and .* points to one of {'step': 2}"):
        pointer.follow(tmp_path / "index", path)


def test_damaged_files_are_refused(tmp_path):
    from milvus_lite import server_manager_instance

    path = tmp_path / "lite.db"
    with pytest.raises(UserError, match="There is no file .*lite.db of Milvus Lite"):
        MilvusStore.open(str(path))
    assert not path.exists()
    path.write_bytes(b"SQLite format 3")  # as files of an earlier Milvus Lite were
    with pytest.raises(UserError, match="lite.db cannot be opened with Milvus Lite"):
        MilvusStore.open(str(path))
    path.unlink()
    built(path)
    server_manager_instance.release_all()
    for file in path.rglob("*.parquet"):
        file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(UserError, match="could not open the collection moments: .* build the index again"):
        MilvusStore.open(str(path))


def test_a_file_that_another_process_has_open(tmp_path):
    import fcntl

    from milvus_lite import server_manager_instance

    built(tmp_path / "lite.db")
    server_manager_instance.release_all()
    with (tmp_path / "lite.db" / "LOCK").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="If another process has it open, end that first"):
            MilvusStore.open(str(tmp_path / "lite.db"))
    assert len(MilvusStore.open(str(tmp_path / "lite.db"))) == 17 * 30


def test_pointers(tmp_path, caplog):
    folder, path = tmp_path / "index", str(tmp_path / "none.db")
    pointer.point(folder, path, "moments", {})
    with pytest.raises(UserError, match="There is no file .*none.db"):
        pointer.follow(folder, path)
    pointer.drop(folder, path)  # nothing is there
    assert not (tmp_path / "none.db").exists()
    nowhere = json.dumps({"format": milvus.FORMAT, "version": 1})
    for text, message in (
        ("{", "cannot be read"),
        ("[" * 100_000, "cannot be read"),
        (json.dumps({"format": "x"}), "is not of a moment index"),
        (nowhere, "names no address and collection"),
    ):
        (folder / "milvus.json").write_text(text)
        with pytest.raises(UserError, match=f"milvus.json {message}"):
            pointer.follow(folder, path)
    with caplog.at_level(logging.WARNING, "vmr_jax"):
        pointer.drop(folder, path)
    assert "An older index was left in Milvus" in caplog.text


def test_either_a_folder_or_milvus(tmp_path):
    for place in ({}, {"path": tmp_path, "uri": "x.db"}):
        with pytest.raises(UserError, match="either the path of a folder or the uri of Milvus"):
            MomentIndex.build(None, {}, [], **place, encode=None, parallel=None)


def test_the_model_of_another_index_is_refused(both):
    for index in both:
        other = MomentIndex(index.store, lambda sentences: QUERIES[:1, :5], index.parallel)
        with pytest.raises(UserError, match="encodes a sentence as 5 numbers, and the moments in .* have 8"):
            other.search(["a"])
