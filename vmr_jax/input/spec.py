"""The shapes of a batch from the config alone, and which optional fields a dataset can fill."""

from collections.abc import Sequence
from typing import Any

import jax

from vmr_jax.errors import UserError
from vmr_jax.input import schema
from vmr_jax.input.dataset import dataset_module, dataset_names
from vmr_jax.text.tokenize import MAX_CHARACTERS
from vmr_jax.types import TREES, Batch, FieldInfo, fields_from, fields_of, with_masks

_HOW_TO_BRING = {  # those that are no streams
    "constituents": "These are the constituency trees of its sentences: set config.text.parses to a file of "
    "them in brackets, as parsers write them, or to 'right_branching' for trees that need no parser.",
    "sentence": "Set config.text.sentence_features to a file with a vector of each query.",
    "translation": "Set config.text.translation_features to a file of the queries in another language.",
}


def batch_spec(config, batch_size: int, fields: Sequence[str] = ()) -> Batch:
    """The batch of a config as ShapeDtypeStructs, without opening the dataset.

    Args:
      config: the resolved config.
      batch_size: B, number of rows.
      fields: optional `Batch` fields that the architecture requires.

    Raises:
      UserError: where the dataset lacks one of them.
    """
    check_fields(config, fields)
    lengths, widths = _lengths(config, batch_size), _widths(config)

    def spec(info: FieldInfo, own: tuple[int, ...] = ()) -> jax.ShapeDtypeStruct:
        """`own` are the last lengths where they are the field's own."""
        shared = info.axes[: len(info.axes) - len(own)]
        return jax.ShapeDtypeStruct((*(lengths[letter] for letter in shared), *own), info.dtype)

    found: dict[str, Any] = {}
    for name, info in fields_of(Batch).items():
        if name in TREES and name in fields:
            found[name] = TREES[name](**{part: spec(of) for part, of in fields_of(TREES[name]).items()})
        elif not info.optional or name in with_masks(fields):
            found[name] = spec(info, widths.get(name, ()))
    every: dict[str, Any] = {name: found.get(name) for name in fields_of(Batch)}
    return Batch(**every)


def _lengths(config, batch_size: int) -> dict[str, int]:
    """Letter of an axis -> its length."""
    objects = _widths(config).get("objects", (0,))
    return {
        "B": batch_size,
        "T": config.input.num_clips,
        "D": config.dataset.feature_dim,
        "L": config.text.max_words,
        "W": config.text.dim,
        "S": config.text.max_subwords,
        "C": MAX_CHARACTERS,
        "O": objects[0],
        "I": _widths(config).get("grid", (0,))[0],
        "V": config.text.max_verbs,
        "N": config.text.max_nouns,
        "Z": config.text.max_nodes,
        "A": schema.MAX_WINDOWS,
        "2": 2,
    }


def _widths(config) -> dict[str, tuple[int, ...]]:
    """Optional field -> its shape in one clip or one query, of the dataset's and of the user's files."""
    widths = dict(dataset_module(config.dataset.name).MODALITIES)
    widths.update({name: tuple(stream[1:]) for name, stream in config.dataset.get("streams", {}).items()})
    if config.text.sentence_features:
        widths["sentence"] = (config.text.sentence_dim,)
    if config.text.translation_features:
        widths["translation"] = ()
    if config.text.parses:
        widths["constituents"] = ()
    return widths


def check_fields(config, fields: Sequence[str]) -> None:
    """Raises UserError where the architecture requires what the dataset lacks."""
    available = _widths(config)
    for name in fields:
        if name not in available and name not in fields_from("sentence", "annotation", "features"):
            raise UserError(
                f'The architecture {config.model.name} needs "{name}", which the dataset '
                f"{config.dataset.name} does not have (it has: {', '.join(available) or 'none'}). "
                + _how_to_bring(name)
            )


def _how_to_bring(name: str) -> str:
    """Which datasets bring a field, and how the user does."""
    there = [dataset for dataset in dataset_names() if name in dataset_module(dataset).MODALITIES]
    own = _HOW_TO_BRING.get(name, "Switch off the option that needs it.")
    if name in fields_from("stream"):
        own = f"Give your own files by config.dataset.streams.{name}, or switch off the option that needs it."
    return f"These datasets bring it: {', '.join(there)}. {own}" if there else own
