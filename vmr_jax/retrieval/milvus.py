"""The moments of an index in Milvus, a vector database: a server or cluster, or one file of Milvus Lite.

One collection holds one index, a row a moment:

  id        INT64, given by Milvus
  video     VARCHAR
  moment    INT64, the place of the moment in its video: a video is counted by its moment 0
  start     FLOAT seconds
  end       FLOAT
  vector    FLOAT_VECTOR, metric IP, index FLAT: the search is exact

The origin of the vectors is a property of the collection. A new collection gets its name when it is whole: a
build that dies leaves nothing under that name. For a search that is not exact, replace the index of `vector` in
Milvus; nothing here depends on its type.

The token of a server is read from the environment variable MILVUS_TOKEN. It is sent to an address that the user
gives, never to one that a run folder names (`pointer`): a folder may come from someone else.
"""

import contextlib
import itertools
import json
import logging
import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from vmr_jax.errors import UserError, unknown, user_path
from vmr_jax.files import plain
from vmr_jax.parallel import Parallel
from vmr_jax.retrieval.segments import EncodedVideo, check_video
from vmr_jax.retrieval.store import Ranked

log = logging.getLogger("vmr_jax")

COLLECTION = "moments"
FORMAT, VERSION = "vmr_jax moment index in milvus", 1
MOST = 16_384  # moments that Milvus ranks in one search
_PROPERTY = "vmr_jax"  # name of the property of the collection
UNFINISHED = "_unfinished"  # behind the name of a collection that is being filled
_MAX_DIM, _MAX_ID = 32_768, 1024  # numbers of a vector that Milvus takes; bytes of a video's id
_FLOATS = 1 << 22  # of the vectors in one request, 16 MiB
_RESULTS = 1 << 17  # moments in one answer
_IDS, _VIDEOS = 4096, 256  # ids of moments, and of videos, in one request
_CONNECT, _ANSWER = 10.0, 120.0  # seconds to wait


class MilvusStore:
    """An open collection of moments.

    Attributes:
      uri: address of Milvus; the file of Milvus Lite as an absolute path.
      collection: name of the collection there.
      dim: E, width of the vectors.
      source: origin of the vectors.
    """

    def __init__(self, client: Any, uri: str, collection: str, dim: int, source: dict[str, Any]):
        """Use `build` or `open`."""
        self._client, self.uri, self.collection, self.dim, self.source = client, uri, collection, dim, source

    @classmethod
    def build(
        cls,
        uri: str,
        collection: str,
        dim: int,
        dtype: str,
        source: dict[str, Any],
        videos: Iterable[EncodedVideo],
        owner: str = "",
    ) -> "MilvusStore":
        """Makes a new collection of videos.

        Args:
          uri: 'http://HOST:19530' or a file 'FILE.db' of Milvus Lite, which is made if there is none.
          collection: a new name.
          dim: E, width of the vectors.
          dtype: number format of the rows, 'float32'.
          source: origin of the vectors, plain JSON.
          videos: encoded videos. Memory: one request.
          owner: mark of who makes it, for `drop`.
        """
        check_dtype(dtype)
        if not 0 < dim <= _MAX_DIM:
            raise UserError(
                f"A moment has {dim:,} numbers, and Milvus takes 1 to {_MAX_DIM:,}. Build a folder."
            )
        if not (collection.isidentifier() and collection.isascii()):
            raise UserError(f'collection is "{collection}". Milvus takes letters, digits and underscores.')
        uri = resolved(uri)
        if is_file(uri):
            Path(uri).parent.mkdir(parents=True, exist_ok=True)
        client, unfinished = connected(uri), collection + UNFINISHED
        with asked(uri, f"make the collection {collection}"):
            if client.has_collection(collection):
                raise UserError(
                    f"Milvus at {uri} has a collection {collection} already. Give a new name for a new index, "
                    "or drop that collection first."
                )
            if client.has_collection(unfinished):  # of a build that died
                if about_of(client.describe_collection(unfinished)) is None:
                    raise UserError(
                        f"Milvus at {uri} has a collection {unfinished} that is not of a moment index. Give "
                        "another name."
                    )
                client.drop_collection(unfinished)
            _create(client, unfinished, dim, source, owner)
            for _ in cls(client, uri, unfinished, dim, source)._insert(videos, set()):
                pass
            client.flush(unfinished)
            client.rename_collection(unfinished, collection)
        return cls.open(uri, collection)

    @classmethod
    def open(cls, uri: str, collection: str = COLLECTION) -> "MilvusStore":
        """Opens a collection; UserError where there is none, or one that is no index of moments."""
        uri = resolved(uri)
        if is_file(uri) and not Path(uri).exists():
            raise UserError(f"There is no file {uri} of Milvus Lite. Bring it back, or build the index again.")
        client = connected(uri)
        with asked(uri, f"open the collection {collection}"):
            if not client.has_collection(collection):
                raise UserError(f"Milvus at {uri} has no collection {collection}. Build the index again.")
            found = client.describe_collection(collection)
            about = about_of(found)
            if about is None:
                raise UserError(
                    f"The collection {collection} of Milvus at {uri} is not of a moment index (its fields: "
                    f"{', '.join(field['name'] for field in found['fields'])}). Give the name of an index, or "
                    "a new name."
                )
            client.load_collection(collection)
        if about["version"] != VERSION:
            raise UserError(
                f"The collection {collection} of Milvus at {uri} is an index of version {about['version']}; "
                f"this program reads version {VERSION}. Build it again."
            )
        return cls(client, uri, collection, about["dim"], about["source"])

    @property
    def where(self) -> str:
        """The collection, for messages."""
        return f"the collection {self.collection} of Milvus at {self.uri}"

    @property
    def videos(self) -> list[str]:
        """Ids of the videos."""
        with self._asked("list the videos"):
            pages = self._client.query_iterator(
                self.collection, filter="moment == 0", output_fields=["video"], batch_size=_IDS
            )
            found: dict[str, None] = {}  # a change that was killed may have left a video twice
            while page := pages.next():
                found.update((row["video"], None) for row in page)
            pages.close()
        return list(found)

    def __len__(self) -> int:
        """Number of moments."""
        with self._asked("count the moments"):
            (row,) = self._client.query(self.collection, output_fields=["count(*)"], timeout=_ANSWER)
        return row["count(*)"]

    @property
    def most(self) -> int:
        """Number of moments that one search can rank."""
        return MOST

    def searcher(self, parallel: Parallel, recall: float = 1.0) -> "MilvusStore":
        """The part that ranks the moments: Milvus, on devices of its own."""
        return self

    def top(self, queries: np.ndarray, k: int, videos: Collection[str] | None = None) -> list[Ranked]:
        """The k best moments for each of queries [Q,E], of all videos or of these; k is at most `MOST`."""
        size = max(1, _RESULTS // k)
        parts = [queries[first : first + size] for first in range(0, len(queries), size)]
        if videos is None:
            return [ranked for part in parts for ranked in self._search(part, k, "")]
        self._check_lines([*videos])
        conditions = [_any_of(some) for some in _parts(sorted(set(videos)), _VIDEOS)]
        found: list[Ranked] = []
        for part in parts:
            answers = [self._search(part, k, condition) for condition in conditions]
            found += [_best(of_query, k) for of_query in zip(*answers)]
        return found

    def of_video(self, query: np.ndarray, video: str) -> Ranked:
        """The best moments of a video for a query [E], at most `MOST`; UserError where it is not there."""
        self._check_lines([video])
        (ranked,) = self._search(query[None], MOST, _any_of([video]))
        if not len(ranked.scores):
            raise self._unknown(video)
        return ranked

    def _search(self, queries: np.ndarray, k: int, condition: str) -> list[Ranked]:
        with self._asked("search"):
            answers = self._client.search(
                self.collection,
                data=list(np.asarray(queries, np.float32)),
                filter=condition,
                limit=k,
                output_fields=["video", "start", "end"],
                search_params={"metric_type": "IP"},
                timeout=_ANSWER,
            )
        return [_ranked(hits) for hits in answers]

    def add(self, videos: Iterable[EncodedVideo]) -> "MilvusStore":
        """Returns the index with these videos too; one that is there already is replaced.

        Memory: one request, and the ids of the new moments. What was there is deleted when all is added: a
        change that fails is taken back, and one whose process is killed leaves the old index whole, with some
        of the new moments beside it. Add the same videos again then.
        """
        seen: set[str] = set()
        new: set[int] = set()
        with self._asked("add videos"):
            try:
                for ids in self._insert(videos, seen):
                    new.update(ids)
            except BaseException:
                self._delete(sorted(new))
                raise
            for part in _parts(sorted(seen), _VIDEOS):
                rows = self._client.query(self.collection, filter=_any_of(part), output_fields=["id"])
                self._delete([row["id"] for row in rows if row["id"] not in new])
        return self

    def remove(self, videos: Iterable[str]) -> "MilvusStore":
        """Returns the index without these videos; UserError names the first that is not there."""
        gone = sorted(set(videos))
        self._check_lines(gone)
        parts = _parts(gone, _VIDEOS)
        with self._asked("remove videos"):
            for part in parts:
                condition = f"{_any_of(part)} and moment == 0"
                rows = self._client.query(self.collection, filter=condition, output_fields=["video"])
                if missing := sorted(set(part) - {row["video"] for row in rows}):
                    raise self._unknown(missing[0])
            for part in parts:
                self._client.delete(self.collection, filter=_any_of(part))
        return self

    def _insert(self, videos: Iterable[EncodedVideo], seen: set[str]) -> Iterator[list[int]]:
        """The ids of the moments of each request; fills `seen` with the ids of the videos."""
        rows = self._rows(videos, seen)
        while part := list(itertools.islice(rows, max(1, _FLOATS // self.dim))):
            yield self._client.insert(self.collection, part)["ids"]

    def _rows(self, videos: Iterable[EncodedVideo], seen: set[str]) -> Iterator[dict[str, Any]]:
        for video in videos:
            check_video(video, self.dim, seen)
            if len(video.id.encode()) > _MAX_ID:
                raise UserError(
                    f"The id of a video has {len(video.id.encode()):,} bytes, and an index in Milvus takes "
                    f"{_MAX_ID:,}: {video.id[:40]}... Build a folder."
                )
            seen.add(video.id)
            for i, ((start, end), vector) in enumerate(zip(np.asarray(video.spans).tolist(), video.vectors)):
                vector = np.asarray(vector, np.float32)
                yield {"video": video.id, "moment": i, "start": start, "end": end, "vector": vector}

    def _delete(self, ids: Sequence[int]) -> None:
        for part in _parts(ids, _IDS):
            self._client.delete(self.collection, ids=part)

    def _check_lines(self, videos: Sequence[str]) -> None:
        """UserError for a text that cannot be the id of a video, nor stand in a filter."""
        for video in videos:
            if video.splitlines() != [video]:
                raise self._unknown(video)

    def _unknown(self, video: str) -> UserError:
        return unknown(f"The index in {self.where} has no video", video, self.videos)

    def _asked(self, what: str) -> contextlib.AbstractContextManager[None]:
        return asked(self.uri, f"{what} ({self.collection})")


# --- the database ---------------------------------------------------------------------------------


def resolved(uri: str) -> str:
    """The address as it is kept: of a file of Milvus Lite the absolute path. UserError for any other text."""
    parts = urlsplit(uri)
    if parts.scheme in ("http", "https", "tcp", "unix"):
        if parts.username or parts.password:
            raise UserError(
                "The uri of Milvus has a user or password in it, which would be written to disk. Leave it out, "
                "and set the environment variable MILVUS_TOKEN to USER:PASSWORD."
            )
        return uri
    if parts.scheme or not uri.endswith(".db"):
        raise UserError(
            f'uri is "{uri}". Give the address of a Milvus server, http://HOST:19530, or a file of Milvus '
            "Lite, FILE.db."
        )
    return str(user_path(uri).resolve())


def check_dtype(dtype: str) -> None:
    """UserError for a number format of rows that Milvus has not."""
    if dtype != "float32":
        raise UserError(
            f"dtype is {dtype}, and an index in Milvus has float32 rows. Give --dtype=float32, or build a "
            "folder, which has bfloat16 and int8 rows too."
        )


def is_file(uri: str) -> bool:
    return uri.endswith(".db") and not urlsplit(uri).scheme


def connected(uri: str) -> Any:
    """A client of a resolved address."""
    try:
        from pymilvus import MilvusClient
        from pymilvus.exceptions import MilvusException
    except ImportError:
        raise UserError(
            "An index in Milvus needs pymilvus. Install it with: pip install -e '.[milvus]'"
        ) from None
    for name in ("pymilvus", "milvus_lite", "grpc._server"):  # they print tracebacks of what is told here
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        return MilvusClient(uri, token=os.environ.get("MILVUS_TOKEN", ""), timeout=_CONNECT)
    except MilvusException as error:
        if is_file(uri):
            raise UserError(
                f"{uri} cannot be opened with Milvus Lite ({error.message}). If another process has it open, "
                "end that first; else it is damaged or of another version of Milvus Lite: delete it and build "
                "the index again."
            ) from None
        raise UserError(
            f"Milvus at {uri} does not answer ({error.message}). Start it, or correct the address. If it wants "
            "a token, set the environment variable MILVUS_TOKEN."
        ) from None


@contextlib.contextmanager
def asked(uri: str, what: str) -> Iterator[None]:
    """Turns an error of Milvus into a message."""
    from pymilvus.exceptions import MilvusException

    try:
        yield
    except MilvusException as error:
        raise UserError(
            f"Milvus at {uri} could not {what}: {error.message}. Look at the server; where its data are "
            "damaged, drop the collection or delete the file, and build the index again."
        ) from None


def about_of(found: dict[str, Any]) -> dict[str, Any] | None:
    """The index that a described collection tells of; None where it is of something else."""
    types = {field["name"]: field["type"] for field in found["fields"]}
    try:
        about = json.loads(found["properties"][_PROPERTY])
    except (KeyError, ValueError):
        return None
    return about if types == _types() and isinstance(about, dict) else None


def _create(client: Any, collection: str, dim: int, source: dict[str, Any], owner: str) -> None:
    """An empty collection with its index, loaded."""
    schema = client.create_schema(auto_id=True, enable_dynamic_field=False)
    settings: dict[str, dict[str, Any]] = {
        "id": {"is_primary": True},
        "video": {"max_length": _MAX_ID},
        "vector": {"dim": dim},
    }
    for name, of_type in _types().items():
        schema.add_field(name, of_type, **settings.get(name, {}))
    index = client.prepare_index_params()
    index.add_index("vector", index_type="FLAT", metric_type="IP")
    about = {"format": FORMAT, "version": VERSION, "dim": dim, "source": plain(source), "owner": owner}
    client.create_collection(
        collection,
        schema=schema,
        index_params=index,
        consistency_level="Strong",  # a search sees every change before it
        properties={_PROPERTY: json.dumps(about)},
    )


def _types() -> dict[str, Any]:
    """Type of each field."""
    from pymilvus import DataType

    return {
        "id": DataType.INT64,
        "video": DataType.VARCHAR,
        "moment": DataType.INT64,
        "start": DataType.FLOAT,
        "end": DataType.FLOAT,
        "vector": DataType.FLOAT_VECTOR,
    }


def _any_of(videos: Sequence[str]) -> str:
    """The filter of the moments of these videos, whose ids are lines of text."""
    quoted = ('"' + video.replace("\\", r"\\").replace('"', r"\"") + '"' for video in videos)
    return f"video in [{', '.join(quoted)}]"


def _ranked(hits: Sequence[Any]) -> Ranked:
    found = [(hit["entity"], hit["distance"]) for hit in hits]
    spans = np.array([[entity["start"], entity["end"]] for entity, _ in found], np.float32)
    scores = np.array([score for _, score in found], np.float32)
    return Ranked([entity["video"] for entity, _ in found], spans.reshape(-1, 2), scores)


def _best(ranked: Sequence[Ranked], k: int) -> Ranked:
    """The k best moments of several answers to one query."""
    scores = np.concatenate([part.scores for part in ranked])
    order = np.argsort(-scores, kind="stable")[:k]
    ids = [video for part in ranked for video in part.videos]
    return Ranked(
        [ids[i] for i in order], np.concatenate([part.spans for part in ranked])[order], scores[order]
    )


def _parts(items: Sequence[Any], size: int) -> list[list[Any]]:
    return [list(items[first : first + size]) for first in range(0, len(items), size)]
