"""The JSON of requests to the page, read and checked; HTTPException or UserError says what is wrong with it."""

import json
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

from vmr_jax.input.queries import check_sentence
from vmr_jax.retrieval.export import FORMATS
from vmr_jax.retrieval.hits import Filter, ServedVideo
from vmr_jax.retrieval.waiting import MAX_MOMENTS

MAX_BODY = 1 << 16  # bytes: a query takes at most 12,000 in JSON; beside it a thousand ids
MAX_EXPORT = 1 << 16  # bytes: fifty moments, and their query
MAX_COPIED, MAX_EXACT = 3600.0, 600.0  # seconds of clips that one request gets


class Asked(NamedTuple):
    """A checked request of /search; `video` is an id, several, or None for all."""

    query: str
    k: int
    video: str | frozenset[str] | None
    filter: Filter


class Ordered(NamedTuple):
    """A checked request of /export; its moments are (video, start, end, score, confidence, rank)."""

    moments: list[dict[str, Any]]
    format: str
    exact: bool
    query: str


async def read(request: Request, most: int) -> bytes:
    """The body of a request that says it is JSON, of at most so many bytes."""
    # A page of another origin can send JSON under this name only after asking, which is refused.
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise HTTPException(415, "Send JSON, with the header Content-Type: application/json.")
    too_large = HTTPException(413, f"The request has more than {most:,} bytes.", {"Connection": "close"})
    if int(request.headers.get("content-length", 0)) > most:  # h11 has seen that it is a number
        raise too_large
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > most:
                raise too_large
    except ClientDisconnect:
        raise HTTPException(400, "The request was not sent to its end.") from None
    return bytes(body)


def _fields(body: bytes, must: str) -> dict[str, Any]:
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError):
        raise HTTPException(400, "The request is not JSON.") from None
    if not isinstance(fields, dict):
        raise HTTPException(400, f"The request is no JSON object with the field {must}.")
    return fields


def asked(body: bytes) -> Asked:
    """Reads a request of /search."""
    fields = _fields(body, "query")
    query, k, video = fields.get("query"), fields.get("k", 10), fields.get("video")
    if not isinstance(query, str) or not query.strip():
        raise HTTPException(400, "Type a sentence first.")
    if type(k) is not int or not 1 <= k <= MAX_MOMENTS:
        raise HTTPException(400, f"The number of moments (k) must be a whole number from 1 to {MAX_MOMENTS}.")
    ids = [video] if isinstance(video, str) else video or []
    if not isinstance(ids, list) or not all(isinstance(id, str) for id in ids):
        raise HTTPException(400, "The video must be an id, as text, or a list of ids.")
    _check_text(query + "".join(ids))
    check_sentence(query)
    limits = Filter(*(_number(fields, name) for name in Filter._fields))
    return Asked(query, k, frozenset(video) if isinstance(video, list) else video or None, limits)


def ordered(body: bytes, videos: Mapping[str, ServedVideo]) -> Ordered:
    """Reads a request of /export; every moment lies in one of the videos."""
    fields = _fields(body, "moments")
    moments, kind, query = fields.get("moments"), fields.get("format"), fields.get("query", "")
    exact = fields.get("exact", False)
    if kind not in FORMATS:
        raise HTTPException(400, f"The format must be one of {', '.join(FORMATS)}.")
    if not isinstance(moments, list) or not 1 <= len(moments) <= MAX_MOMENTS:
        raise HTTPException(400, f"Give 1 to {MAX_MOMENTS} moments to export.")
    if not isinstance(query, str) or len(query) > 1000 or type(exact) is not bool:
        raise HTTPException(400, "The query must be text of at most 1,000 characters, and exact true or false.")
    _check_text(query)
    found = [_moment(moment, videos) for moment in moments]
    seconds, most = sum(m["end"] - m["start"] for m in found), MAX_EXACT if exact else MAX_COPIED
    if kind == "mp4" and seconds > most:
        raise HTTPException(
            400, f"The clips have {seconds:,.0f} s together; at most {most:,.0f} s are cut at once."
        )
    return Ordered(found, kind, exact, query)


def _moment(moment: Any, videos: Mapping[str, ServedVideo]) -> dict[str, Any]:
    if not isinstance(moment, dict) or not isinstance(moment.get("video"), str):
        raise HTTPException(400, "A moment must be an object with video, start and end.")
    video = moment["video"]
    if video not in videos:
        raise HTTPException(404, f'There is no video "{video[:100]}" among those that are searched.')
    numbers = {name: _number(moment, name) for name in ("start", "end", "score", "confidence", "rank")}
    start, end, length = numbers["start"], numbers["end"], videos[video].duration
    if start is None or end is None or not 0 <= start < end or (length and start >= length):
        raise HTTPException(400, f'A moment of "{video[:100]}" does not lie in it, or has no length.')
    rank = numbers["rank"]
    return {**numbers, "video": video, "rank": None if rank is None else int(rank)}


def second(request: Request) -> float:
    """The number `t` of an address."""
    try:
        found = float(request.query_params.get("t", "0"))
    except ValueError:
        found = math.nan
    if not 0 <= found < 1e7:
        raise HTTPException(400, "The second (t) must be a number that is not below 0.")
    return found


def _number(fields: Mapping[str, Any], name: str) -> float | None:
    value = fields.get(name)
    if value is None:
        return None
    if type(value) not in (int, float) or not -1e15 < value < 1e15:
        raise HTTPException(400, f"{name} must be a number.")
    return float(value)


def _check_text(text: str) -> None:
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise HTTPException(400, "The request has half of a surrogate pair, which is no text.")
