"""Rows of features between the rows that there are."""

import numpy as np


def middle_rows(n: int, length: int) -> np.ndarray:
    """[length] float32, the middles of equal clips in n rows, of which the first has its middle at 0."""
    scale = np.float32(n) / np.float32(length)
    middles = scale * (np.arange(length, dtype=np.float32) + np.float32(0.5)) - np.float32(0.5)
    return np.clip(middles, 0, n - 1)


def interpolate_rows(rows: np.ndarray, length: int) -> np.ndarray:
    """Resamples [n,...] to [length,...] float32: of the two rows around the middle of each clip.

    As torch.nn.functional.interpolate(mode='linear') has it (VLG-Net, official code: avgfeats): of a longer
    video the rows between are not read.
    """
    rows = np.asarray(rows, np.float32)
    place = middle_rows(rows.shape[0], length)
    first = place.astype(np.int64)
    second = np.minimum(first + 1, rows.shape[0] - 1)
    share = (place - first.astype(np.float32)).reshape(-1, *([1] * (rows.ndim - 1)))
    return rows[first] * (1 - share) + rows[second] * share
