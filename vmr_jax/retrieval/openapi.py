"""`/openapi.json`: the interface of the page for programs, as OpenAPI 3.1 describes one."""

from typing import Any

import vmr_jax
from vmr_jax.retrieval.export import FORMATS
from vmr_jax.retrieval.video_folder import SUFFIXES
from vmr_jax.retrieval.waiting import MAX_MOMENTS

Schema = dict[str, Any]


def _object(required: dict[str, Schema], optional: dict[str, Schema] | None = None) -> Schema:
    return {
        "type": "object",
        "properties": {**required, **(optional or {})},
        "required": list(required),
        "additionalProperties": False,
    }


def _text(does: str, **more: Any) -> Schema:
    return {"type": "string", "description": does, **more}


def _number(does: str, **more: Any) -> Schema:
    return {"type": "number", "description": does, **more}


def _or_null(schema: Schema) -> Schema:
    return {**schema, "type": [schema["type"], "null"]}


def _list(of: Schema, **more: Any) -> Schema:
    return {"type": "array", "items": of, **more}


def _named(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


_ID = _text("Id of a video.")
_START = _number("Second at which the moment begins.", minimum=0)
_END = _number("Second at which it ends.", exclusiveMinimum=0)
_SCORE = _number("More is better; only scores of one answer can be compared.")
_CONFIDENCE = _or_null(_number("Probability that the moment is right; null where it is not calibrated."))
_DURATION = _number("Seconds of the whole video.", minimum=0)
_PLAYABLE = {"type": "boolean", "description": "Whether /video/ID has its file."}
_COUNT: Schema = {"type": "integer", "minimum": 0}

SCHEMAS: dict[str, Schema] = {
    "Refusal": _object({"message": _text("What is wrong, and what to do.")}),
    "About": _object(
        {
            "program": {"const": "vmr_jax"},
            "version": _text("Of the program."),
            "title": _text("What is served, for people."),
            "videos": {**_COUNT, "description": "Number of videos."},
            "dates": {"type": "boolean", "description": "Whether it is known when videos were added."},
            "threshold": _or_null(_number("Confidence below which a moment is no match.")),
            "max_moments": {**_COUNT, "description": "Of one answer."},
            "formats": _list({"type": "string"}, description="That /export writes."),
            "missing": _text("What to do where a video has no file; {video} in it is the id."),
            "upload": {"type": "boolean", "description": "Whether videos can be sent and removed."},
            "max_upload": {**_COUNT, "description": "Bytes of a file."},
        }
    ),
    "Question": _object(
        {"query": _text("The sentence, in English.", minLength=1, maxLength=1000)},
        {
            "k": {"type": "integer", "minimum": 1, "maximum": MAX_MOMENTS, "default": 10,
                  "description": "Number of moments."},
            "video": {
                "description": "Id of the only video to search, or ids of several; null searches all.",
                "anyOf": [{"type": ["string", "null"]}, _list({"type": "string"}, uniqueItems=True)],
            },
            "min_duration": _or_null(_number("Only videos of at least so many seconds.")),
            "max_duration": _or_null(_number("Only videos of at most so many seconds.")),
            "added_from": _or_null(_number("Only videos added since then, in seconds since 1970.")),
            "added_to": _or_null(_number("Only videos added until then.")),
        },
    ),
    "Moment": _object(
        {
            "video": _ID, "title": _text("Of the video."), "start": _START, "end": _END, "score": _SCORE,
            "confidence": _CONFIDENCE, "rank": {"type": "integer", "minimum": 1},
            "gap": _number("Lead of the score over the next one's; 0 for the last."),
            "duration": _DURATION, "playable": _PLAYABLE,
        }
    ),
    "Answer": _object(
        {
            "moments": _list(_named("Moment"), description="Best first."),
            "confident": {"type": ["boolean", "null"], "description": "Whether the best one is a match."},
        }
    ),
    "Video": _object(
        {
            "id": _ID, "title": _text("For people."), "duration": _DURATION,
            "added": _or_null(_number("When it was added, in seconds since 1970.")), "playable": _PLAYABLE,
        }
    ),
    "Videos": _object(
        {
            "videos": _list(_named("Video"), description="By id."),
            "next": _or_null(_text("Give it as `after` for those that follow; null at the end.")),
        }
    ),
    "Order": _object(
        {
            "moments": _list(
                _object(
                    {"video": _ID, "start": _START, "end": _END},
                    {"score": _or_null(_SCORE), "confidence": _CONFIDENCE,
                     "rank": _or_null(_number("1 is best."))},
                ),
                minItems=1,
                maxItems=MAX_MOMENTS,
            ),
            "format": _text("Of the file.", enum=list(FORMATS)),
        },
        {
            "exact": {"type": "boolean", "default": False,
                      "description": "Clips from the very frame, encoded anew; else copied."},
            "query": _text("The sentence, which subtitles show.", maxLength=1000),
        },
    ),
    "Upload": _object(
        {
            "upload": {**_COUNT, "description": "Its number."},
            "name": _text("Of the file."),
            "state": _text("How far it is.", enum=["waiting", "taking", "done", "failed"]),
            "video": _or_null(_text("Id that it got.")),
            "reason": _or_null(_text("Why it could not be taken.")),
        }
    ),
    "Removed": _object({"removed": _ID}),
}  # fmt: skip


def _answer(does: str, schema: str | None = None, kinds: tuple[str, ...] = ("application/json",)) -> Schema:
    body = {"schema": _named(schema)} if schema else {}
    return {"description": does, "content": {kind: body for kind in kinds}}


def _does(does: str, status: str, answer: Schema, body: Schema | None = None, *parameters: Schema) -> Schema:
    """An operation; all of them refuse in the same way."""
    operation: Schema = {
        "summary": does,
        "responses": {status: answer, "default": _answer("Refused.", "Refusal")},
    }
    if parameters:
        operation["parameters"] = list(parameters)
    if body is not None:
        operation["requestBody"] = {"required": True, "content": body}
    return operation


def _in(where: str, name: str, schema: Schema) -> Schema:
    return {"name": name, "in": where, "required": where == "path", "schema": schema}


def _json(schema: str) -> Schema:
    return {"application/json": {"schema": _named(schema)}}


def description() -> Schema:
    """The document."""
    video = _in("path", "id", {**_ID, "description": "Id of a video, percent-encoded."})
    second = _in("query", "t", _number("The second.", minimum=0, default=0))
    of_list = (
        _in("query", "prefix", _text("Only ids that begin so, whatever their case.")),
        _in("query", "id", _text("Only this video.")),
        _in("query", "after", _text("Only ids behind this one.")),
        _in("query", "limit", {"type": "integer", "minimum": 1, "maximum": 500, "default": 20}),
    )
    name = _in("query", "name", _text(f"Of the file; it ends with one of {', '.join(SUFFIXES)}."))
    file: Schema = {"application/octet-stream": {}}
    types = tuple(dict.fromkeys([kind.partition(";")[0] for kind in FORMATS.values()] + ["application/zip"]))
    paths = {
        "/about": {
            "get": _does("What is served, and what can be asked of it", "200", _answer("It.", "About")),
        },
        "/search": {
            "post": _does("The moments that a sentence describes", "200", _answer("Best first.", "Answer"),
                          _json("Question")),
        },
        "/videos": {
            "get": _does("The videos, by id", "200", _answer("Some of them.", "Videos"), None, *of_list),
            "post": _does("Takes a video file, where that is allowed; its body is the file", "202",
                          _answer("It will be taken.", "Upload"), file, name),
        },
        "/uploads/{number}": {
            "get": _does("What became of a file that was sent", "200", _answer("Its state.", "Upload"), None,
                         _in("path", "number", _COUNT)),
        },
        "/video/{id}": {
            "get": _does("The file of a video, or a range of its bytes", "200",
                         _answer("The file.", None, ("video/*",)), None, video),
            "delete": _does("Takes a video out, where allowed", "200", _answer("Done.", "Removed"), None,
                            video),
        },
        "/thumbnail/{id}": {
            "get": _does("The frame of a video at a second", "200",
                         _answer("The picture.", None, ("image/jpeg",)), None, video, second),
        },
        "/export": {
            "post": _does("Moments as clips, tables, subtitles or lists of cuts; several files come as one zip",
                          "200", _answer("The file.", None, types), _json("Order")),
        },
    }  # fmt: skip
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "vmr_jax: moments of videos",
            "version": vmr_jax.__version__,
            "description": "Times are in seconds. Where the server has a token, each request carries it.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "."}],
        "paths": paths,
        "components": {
            "schemas": SCHEMAS,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"token": []}],
    }
