"""Predictors that see neither the video nor the query: what every result stands beside."""

from typing import Any

import numpy as np

from vmr_jax import moments as moments_lib
from vmr_jax.evaluation import metrics
from vmr_jax.evaluation.protocols import Protocol
from vmr_jax.evaluation.rows import PRIOR, RANDOM, WHOLE_VIDEO
from vmr_jax.input.dataset import Split
from vmr_jax.input.schema import EXTRA
from vmr_jax.types import Moments


def trivial_rows(protocol: Protocol, train: Split, split: Split, seed: int) -> dict[str, dict]:
    """Metrics of three predictors that see neither the video nor the query.

    - 'whole video': [0, duration];
    - 'best span of the training prior': the cells of a 16 x 16 map (of the protocol consensus, the 21
      segments) ranked by how many training moments they hit at IoU 0.5, then by their mean IoU; after the
      protocol's NMS. Queries that a user added (tagged 'extra') do not count, so that the row is the dataset's
      own;
    - 'random span': spans between two uniform points, drawn from the seed.
    """
    keep = protocol.options.keep
    rows = {
        WHOLE_VIDEO: np.asarray([[0.0, 1.0]], np.float32)[None].repeat(len(split.queries), 0),
        PRIOR: _prior_spans(protocol, train)[None].repeat(len(split.queries), 0),
        RANDOM: np.sort(np.random.default_rng(seed).random((len(split.queries), keep, 2), np.float32), axis=-1),
    }
    durations = split.durations[:, None, None]
    rng = np.random.default_rng(seed)
    found = {
        name: protocol.finish(split, protocol.trivial(spans * durations, split, rng))
        for name, spans in rows.items()
    }
    return {name: predictions.metrics() for name, predictions in found.items()}


def _prior_spans(protocol: Protocol, train: Split) -> np.ndarray:
    """[K,2] spans as fractions of the video, best first."""
    starts, ends = np.triu_indices(protocol.prior_grid)
    cells = np.stack([starts, ends + 1], axis=1) / protocol.prior_grid  # [M,2]
    own = np.asarray([EXTRA not in query.tags for query in train.queries])
    truth = (train.spans / train.durations[:, None])[own]
    ious = metrics.iou(cells[:, None, :], truth[None, :, :])  # [M,Q]
    quality = (ious >= 0.5).mean(1) + 1e-3 * ious.mean(1)
    order = np.argsort(-quality, kind="stable")
    spans: Any = cells[order][None].astype(np.float32)
    scores: Any = quality[order][None].astype(np.float32)
    ranked = Moments(spans=spans, scores=scores)
    kept = moments_lib.nms(ranked, protocol.nms_thresholds()[0], k=protocol.options.keep)
    spans, scores = np.asarray(kept.spans[0]), np.asarray(kept.scores[0])
    return spans[np.isfinite(scores)]
