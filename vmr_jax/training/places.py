"""Where data are is no part of a run's identity: folders move, and the same files are known by their names."""

import os
from pathlib import Path
from typing import Any

import ml_collections
from flax.traverse_util import flatten_dict

from vmr_jax.config import config_as_dict
from vmr_jax.files import last_name

_FOLDERS = ("dataset.manual_dir", "dataset.data_dir", "text.encoder_dir", "compilation_cache")
_FILES = (
    "init_from", "text.vectors", "text.vocabulary", "text.features", "text.translation_features",
    "text.sentence_features", "text.parses",
)  # fmt: skip
_BELOW = ("dataset.features", "dataset.split_file", "dataset.extra_queries")  # of the folder of the dataset


def identity_of(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """The fields of a config by their path, without the folders in which files are."""
    flat = flatten_dict(config_as_dict(config), sep=".")
    return {field: _name(field, value) for field, value in flat.items() if field not in _FOLDERS}


def _name(field: str, value: Any) -> Any:
    if field in (*_FILES, *_BELOW):
        names = value.split(",") if isinstance(value, str) else value
        return ",".join(last_name(name) for name in names)
    if field.startswith("dataset.streams.") and value:
        return [last_name(value[0]), *value[1:]]
    return value


def is_place(field: str) -> bool:
    """Whether a field of the config says where files are."""
    return field in (*_FOLDERS, *_FILES, *_BELOW) or field.startswith("dataset.streams.")


def stored_config(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """The config as a run keeps it: with paths that hold from every folder."""
    document = config_as_dict(config)
    for field in (*_FOLDERS, *_FILES):
        part, _, name = field.rpartition(".")
        holder = document[part] if part else document
        value = holder.get(name)
        if value and not value.startswith("~") and os.path.exists(value):
            holder[name] = str(Path(value).absolute())
    return document
