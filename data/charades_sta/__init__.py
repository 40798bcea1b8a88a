"""Charades-STA: sentences and their moments in videos of everyday actions at home; see README.md.

From: Gao, Sun, Yang, Nevatia, "TALL: Temporal Activity Localization via Language Query", ICCV 2017.
"""

import hashlib
import logging
from pathlib import Path

from data.charades_sta import annotations
from data.features import FeatureReader, open_features
from data.preparing import prepare_once
from vmr_jax.text.parse import parser_name

log = logging.getLogger("vmr_jax")

# Of the official files. rows: as distributed; queries, videos: without the rows that are empty after clipping.
PUBLISHED_COUNTS = {
    "train": {"rows": 12408, "queries": 12404, "videos": 5336},
    "test": {"rows": 3720, "queries": 3720, "videos": 1334},
}

# The optional fields of `Batch` that it fills, with their shape in one clip or one query.
MODALITIES = {"tree": (), "static_words": (), "dynamic_words": ()}


def prepare(options):
    """Writes the records under `options.data_dir` unless they are there; returns their TFDS builder.

    The records' folder is named by the content of the annotation files, the options and the parser, so
    records of other files or options are never met.

    Args:
      options: has `data_dir`, `manual_dir`, `split_file`, `val_fraction`, `extra_queries` (see
        `annotations.read`).

    Raises:
      UserError: for missing or wrong annotation files, naming file and line.
    """
    from data.charades_sta.builder import CharadesSta, CharadesStaConfig

    manual_dir = _manual_dir(options)
    config = CharadesStaConfig(
        name=_fingerprint(options),
        split_file=options.split_file,
        val_fraction=float(options.val_fraction),
        extra_queries=options.extra_queries,
    )
    data_dir = Path(options.data_dir).expanduser()
    builder = prepare_once(lambda: CharadesSta(config=config, data_dir=data_dir), data_dir, manual_dir)
    _report(builder.info.metadata)
    return builder


def features(options) -> FeatureReader:
    """Opens `options.features` (relative to `options.manual_dir`), arrays named `options.feature_key`."""
    return open_features(_manual_dir(options) / Path(options.features).expanduser(), options.feature_key)


def word_vectors(options) -> None:
    """Returns None: the user brings word vectors (config.text.vectors)."""
    del options


def _manual_dir(options) -> Path:
    return Path(options.manual_dir).expanduser()


def _fingerprint(options) -> str:
    """Of all that decides what the records hold."""
    digest = hashlib.sha256(parser_name().encode())
    for path in annotations.check_files(_manual_dir(options), options.split_file, options.extra_queries):
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    shape = (bool(options.split_file), bool(options.extra_queries))
    val_fraction = 0.0 if options.split_file else float(options.val_fraction)
    digest.update(repr((*shape, val_fraction)).encode())
    return digest.hexdigest()[:16]


def _report(metadata) -> None:
    """Says in the log what was put right in the annotations, and who parsed them."""
    dropped, extra = metadata["dropped"], metadata["extra"]
    log.info(
        "charades_sta: %d rows dropped, empty after clipping to the video%s; %d clipped; extra training "
        "queries: %d used, %d of other videos left out, %d dropped; parser: %s",
        len(dropped),
        f" ({', '.join(dropped[:10])})" if dropped else "",
        metadata["clipped"],
        extra["used"],
        extra["left_out"],
        extra["dropped"],
        metadata["parser"],
    )
