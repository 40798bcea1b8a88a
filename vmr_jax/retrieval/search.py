"""Search for the largest dot products, with finer rows for the last ranking where an index has them.

`device_rows` goes through the rows on accelerators, `cpu_rows` on the cores of a CPU; both find the same.
An index may have every row twice, in few bits for that and in more bits: then the best hundred are ranked
again by the finer rows, of which no others are read from the disk.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from vmr_jax.parallel import Parallel
from vmr_jax.retrieval.cpu_rows import CpuRows
from vmr_jax.retrieval.device_rows import DeviceRows

RANKED_AGAIN = 100  # at least; and at least two for each row that is wanted


class Rows(Protocol):
    """Part of the rows of an index.

    Attributes:
      vectors: [n,E].
      alive: which of them count, [n] bool.
      scales: [n] of int8 rows, else None.
      finer: [n,E] the same rows in more bits, or None.
    """

    vectors: np.ndarray
    alive: np.ndarray
    scales: np.ndarray | None
    finer: np.ndarray | None

    def numbers(self, rows: np.ndarray) -> np.ndarray:
        """[.,E] float32: the finest that there is of some rows."""


class Stored(Protocol):
    """The rows of an index, in parts."""

    segments: Sequence[Rows]


class Searcher:
    """The rows of an index on the devices.

    Args:
      store: the index; a changed one needs a new searcher.
      parallel: the devices.
      recall: the share of the best rows that is to be found, on average; below 1 a TPU may be faster
        (`DeviceRows`). A CPU finds all.
    """

    def __init__(self, store: Stored, parallel: Parallel, recall: float = 1.0):
        segments = store.segments
        alive = [segment.alive for segment in segments]
        self.count = sum(int(part.sum()) for part in alive)
        self._starts = np.cumsum([0, *(len(part) for part in alive)])
        self._segments, self._finer = segments, any(segment.finer is not None for segment in segments)
        scales = [segment.scales for segment in segments if segment.scales is not None]
        rows = [segment.vectors for segment in segments], alive, scales or None, parallel
        if parallel.devices[0].platform == "cpu":
            self._rows: CpuRows | DeviceRows = CpuRows(*rows, coarse=self._finer)
        else:
            self._rows = DeviceRows(*rows, recall)

    def __call__(
        self, queries: np.ndarray, k: int, counts: Sequence[np.ndarray] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Scores [Q,K] and rows [Q,K] of queries [Q,E], best first; K is k, or all rows that count.

        Args:
          queries: [Q,E].
          k: number of rows that are wanted.
          counts: which rows of each part count, [n] bool; None is those of the store.
        """
        count = self.count if counts is None else sum(int(part.sum()) for part in counts)
        k, queries = min(k, count), np.asarray(queries, np.float32)
        if not k or not len(queries):
            return np.zeros((len(queries), k), np.float32), np.zeros((len(queries), k), np.int64)
        if not self._finer:
            return self._rows(queries, k, counts)
        several = min(max(RANKED_AGAIN, 2 * k), count)
        return self._ranked_again(queries, k, self._rows(queries, several, counts)[1])

    def _ranked_again(self, queries: np.ndarray, k: int, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The k best of rows [Q,.] by the finest numbers, of equal ones the lower row first."""
        rows = np.sort(rows, axis=1)
        scores = np.zeros(rows.shape, np.float32)
        for query, of_query, found in zip(queries, rows, scores):
            edges = np.searchsorted(of_query, self._starts)
            for segment, start, low, high in zip(self._segments, self._starts, edges[:-1], edges[1:]):
                if low < high:
                    found[low:high] = np.vecdot(segment.numbers(of_query[low:high] - start), query)
        order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        return np.take_along_axis(scores, order, 1), np.take_along_axis(rows, order, 1)
