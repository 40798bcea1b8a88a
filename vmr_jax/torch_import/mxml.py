"""Official checkpoints of mXML (jayleicn/mTVRetrieval) -> `vmr_jax.models.mxml`.

Both languages' XML are in it, 'xml_en' and 'xml_zh', so that the encoders that they have in common stand there
twice; the copies must be equal. Not read: attention between the streams, other shared layers, languages that
share no encoders, and what is not read of XML (`vmr_jax/torch_import/xml.py`).
"""

import dataclasses
import re
from typing import Any

from vmr_jax.errors import UserError
from vmr_jax.torch_import import Entry, Shapes, xml

_LANGUAGES = {"xml_en.": "languages_query", "xml_zh.": "languages_translation"}  # their prefix -> ours
_ENCODERS = re.compile(r"query_positions|query_encoder|clip_positions|(first|second|third)_.*")
# Fields of a batch in XML -> those of the second language.
_TRANSLATED = {"query_vectors": "translation", "subtitles": "translated_subtitles"}


def hyper_parameters(shapes: Shapes) -> dict[str, Any]:
    """Fields of the model that the shapes determine.

    They do not tell heads, clip_seconds, shortest, longest, video_scale and keep. The official min_pred_l
    counts the clips behind the first, so that 2 is shortest=3; its max_pred_l counts all, as longest does.
    """
    fields = xml.hyper_parameters(_of_language(shapes, "xml_en."))
    if fields.pop("cross_attention", False):
        raise UserError(
            "The checkpoint of mXML has attention between the streams (it was trained without --no_cross_att), "
            "which is not read."
        )
    return fields


def inputs(shapes: Shapes) -> dict[str, int]:
    """Widths of the fields of a batch that the model reads."""
    first, second = (xml.inputs(_of_language(shapes, prefix)) for prefix in _LANGUAGES)
    return {**first, **{ours: second[field] for field, ours in _TRANSLATED.items() if field in second}}


def entries(shapes: Shapes) -> list[Entry]:
    """All tensors of the checkpoint."""
    return [
        dataclasses.replace(entry, key=f"{prefix}{entry.key}", path=_placed(entry.path, name), copied=True)
        for prefix, name in _LANGUAGES.items()
        for entry in xml.entries(_of_language(shapes, prefix))
    ]


def _of_language(shapes: Shapes, prefix: str) -> dict[str, tuple[int, ...]]:
    """The tensors of one XML, without its prefix."""
    return {key.removeprefix(prefix): shape for key, shape in shapes.items() if key.startswith(prefix)}


def _placed(path: str, language: str) -> str:
    """Where a tensor of XML goes: to the encoders of both languages, or to what a language has alone."""
    _, part, *rest = path.split("/")
    owner = "encoders" if _ENCODERS.fullmatch(part) else language
    return "/".join(["params", owner, part, *rest])
