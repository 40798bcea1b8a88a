"""Splits and files of predictions by hand, and what a file gets."""

import pathlib

import numpy as np

from vmr_jax.configs import fvmr
from vmr_jax.evaluation.prediction_files import Prediction, PredictionFile
from vmr_jax.input import schema
from vmr_jax.input.dataset import Split, Video
from vmr_jax.modes import score


def split_of(queries, durations=None, name="test"):
    """A split of (video id, Query) pairs; videos of 30 s unless `durations` says otherwise."""
    ids = list(dict.fromkeys(video for video, _ in queries))
    videos = [Video(i, (durations or {}).get(i, 30.0), {}) for i in ids]
    owner = np.array([ids.index(video) for video, _ in queries], np.int32)
    return Split(name, videos, [query for _, query in queries], owner)


def query(qid, *windows, **fields):
    return schema.Query(qid, "a sentence", windows[0], windows=windows, **fields)


def file_of(windows, task="SVMR", **fields):
    """A file of qid -> windows."""
    rows = [Prediction(qid, np.array(rows, float).reshape(-1, 3)) for qid, rows in windows.items()]
    return PredictionFile(pathlib.Path("FILE"), {task: rows}, **fields)


def counted(dataset, found, split, **fields):
    """The groups of metrics that a file gets on a dataset, with the options that the command gives."""
    config = fvmr.get_config(dataset)
    config.evaluation.update(fields)
    protocol = score.protocol_of(config, [f"evaluation.{field}" for field in fields])
    return protocol.groups(split, protocol.read(split, found))


def moments_of(found, split, **fields):
    """As `counted`, of moments in a given video, with discounted recalls."""
    fields = {"top_n": (1, 5), "thresholds": (0.5,), "discounted": True, "strict": False, **fields}
    return counted("charades_sta", found, split, **fields)["all"]
