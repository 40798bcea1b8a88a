"""The pointer to an index in Milvus: a small file in the run folder, in place of the folder of an index.

A run folder may come from someone else. So what it points to is opened only where the user gives the same
address, by --uri or the environment variable MILVUS_URI, and a collection is dropped only where it has the mark
of the folder.
"""

import logging
import os
from pathlib import Path
from typing import Any

from vmr_jax.errors import UserError, printable_line
from vmr_jax.files import read_json, write_json
from vmr_jax.retrieval.milvus import (
    FORMAT,
    UNFINISHED,
    VERSION,
    MilvusStore,
    about_of,
    asked,
    connected,
    is_file,
    resolved,
)

log = logging.getLogger("vmr_jax")

POINTER = "milvus.json"
URI = "MILVUS_URI"  # of the environment: the address, where no --uri gives it


def point(folder: Path, uri: str, collection: str, source: dict[str, Any], owner: str = "") -> None:
    """Makes a folder that says where an index is: `follow` opens it. Holds no token."""
    folder.mkdir(parents=True)
    document = {"uri": resolved(uri), "collection": collection, "source": source, "owner": owner}
    write_json(folder / POINTER, {"format": FORMAT, "version": VERSION, **document})


def follow(folder: Path, uri: str | None) -> MilvusStore:
    """Opens the index that a folder points to; UserError where it is not what was pointed to.

    Args:
      folder: from `point`.
      uri: the address that the user gives; None is the environment variable MILVUS_URI. UserError where the
        folder points to another one.
    """
    pointer = _read_pointer(folder)
    if not _is_given(pointer, uri):
        raise UserError(
            f"{folder / POINTER} points to the collection {pointer['collection']} of Milvus at "
            f"{pointer['uri']}. A folder may come from someone else, so only an address that you give is "
            f"asked. If it is yours, give --uri={pointer['uri']} or set the environment variable {URI} to it."
        )
    store = MilvusStore.open(pointer["uri"], pointer["collection"])
    if store.source != pointer["source"]:
        raise UserError(
            f"{store.where} was built from {store.source}, and {folder / POINTER} points to one of "
            f"{pointer['source']}. Build the index again."
        )
    return store


def drop(folder: Path, uri: str | None) -> None:
    """Drops the collection that a folder points to, if the user gives its address and it has the folder's mark.

    One that is elsewhere, out of reach, or without the mark of this folder is told and left.

    Args:
      folder: from `point`.
      uri: as in `follow`.
    """
    try:
        pointer = _read_pointer(folder)
        at, name = pointer["uri"], pointer["collection"]
        if not _is_given(pointer, uri):
            log.warning(
                "An older index was left in Milvus: the collection %s at %s. To have it dropped, give its "
                "address with the environment variable %s when you build a new one.",
                *(printable_line(text) for text in (name, at, URI)),
            )
            return
        if is_file(at) and not Path(at).exists():
            return
        client = connected(at)
        for collection in (name, name + UNFINISHED):
            with asked(at, f"drop the collection {collection}"):
                if not client.has_collection(collection):
                    continue
                about = about_of(client.describe_collection(collection))
                if about and pointer.get("owner") and about.get("owner") == pointer["owner"]:
                    client.drop_collection(collection)
                else:
                    log.warning(
                        "The collection %s of Milvus at %s was left: it has not the mark of %s. Drop it "
                        "yourself if it is yours.",
                        *(printable_line(text) for text in (collection, at, str(folder))),
                    )
    except UserError as error:
        log.warning("An older index was left in Milvus. %s", printable_line(str(error)))


def _is_given(pointer: dict[str, Any], uri: str | None) -> bool:
    """Whether a pointer leads where the user says, by --uri or by the environment."""
    given = [address for address in (uri, os.environ.get(URI)) if address]
    return pointer["uri"] in [resolved(address) for address in given]


def _read_pointer(folder: Path) -> dict[str, Any]:
    path = folder / POINTER
    try:
        pointer = read_json(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}). Build the index again.") from None
    if not isinstance(pointer, dict) or (pointer.get("format"), pointer.get("version")) != (FORMAT, VERSION):
        raise UserError(f"{path} is not of a moment index of version {VERSION}. Build the index again.")
    if not all(isinstance(pointer.get(field), str) for field in ("uri", "collection")):
        raise UserError(f"{path} names no address and collection. Build the index again.")
    return pointer
