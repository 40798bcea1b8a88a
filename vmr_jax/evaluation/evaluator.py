"""Evaluation: a protocol scores a model on every query once, whatever the batch size; and what is reported."""

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from vmr_jax.errors import unknown
from vmr_jax.evaluation.protocols import Collected, Corpus, Predictions, make_protocol
from vmr_jax.evaluation.rows import SANITY
from vmr_jax.input.loader import Loader, filled_batches
from vmr_jax.models.base import GroundingModel
from vmr_jax.parallel import Parallel, host_rows
from vmr_jax.types import Batch

log = logging.getLogger("vmr_jax")

_SILENCE = 15  # seconds after which a long evaluation says how far it is


class Evaluator:
    """Scores variables on splits; compiled once, used after every epoch and at the end.

    Attributes:
      between_batches: called after each batch; what it raises ends the evaluation.
    """

    def __init__(self, config: Any, model: GroundingModel, parallel: Parallel):
        self.config, self.model, self.parallel = config, model, parallel
        self.protocol = make_protocol(config.evaluation)
        self.between_batches: Callable[[], None] = lambda: None
        self.batch_size = config.evaluation.batch_size
        parallel.check_batch_size(self.batch_size, "config.evaluation.batch_size")
        _check_sanity(config.evaluation.sanity)
        self._score = self._map(self.protocol.score_batch)
        if isinstance(self.protocol, Corpus):
            self._encode, self._search = (
                self._map(self.protocol.encode_batch),
                self._map(self.protocol.search_batch),
            )
        self._explain = parallel.map_examples(
            lambda variables, batch: model.explain(model.apply(variables, batch, train=False), batch)
        )

    def _map(self, function: Callable) -> Callable:
        return self.parallel.map_examples(lambda state, batch: function(self.model, state, batch))

    def score(self, variables: Any, batch: Batch) -> dict[str, np.ndarray]:
        """Returns what the protocol collects of a batch, B rows, of moments in its own videos.

        Of several hosts each gives its own rows and gets all of them.
        """
        return self._score(variables, self.parallel.put_batch(batch))

    def run(self, variables: Any, loader: Loader) -> Predictions:
        """Predicts for every query of the loader's split exactly once."""
        self.protocol.prepare(self.model, loader.split)
        return self.protocol.finish(loader.split, self.collected(variables, loader))

    def written(self, variables: Any, loader: Loader, videos: Loader | None = None) -> Collected:
        """The moments of every query of a split, as predictions.jsonl holds them; none need be annotated.

        Args:
          variables: of the model.
          loader: of the split.
          videos: serves the corpus, a query of each video; None where each video of the split has a query.
        """
        return self.protocol.as_written(loader.split, self.collected(variables, loader, videos))

    def collected(self, variables: Any, loader: Loader, videos: Loader | None = None) -> Collected:
        """The rows that the protocol collects, of every query exactly once; arguments as of `written`."""
        corpus = self._corpus(variables, videos or loader) if isinstance(self.protocol, Corpus) else None
        collected = []
        said = time.monotonic()
        for batch in loader.evaluation_batches(self.batch_size):
            rows = self.score(variables, batch)
            if corpus is not None:
                rows |= self._search((variables, corpus), self.parallel.put_batch(batch))
            collected.append(rows)
            self.between_batches()
            if time.monotonic() - said > _SILENCE:
                said = time.monotonic()
                done = min(len(collected) * self.batch_size, len(loader))
                log.info("%s: %d of %d queries", loader.split.name, done, len(loader))
        return _joined(collected, len(loader))

    def _corpus(self, variables: Any, loader: Loader) -> Any:
        """The encoded videos of the split, C of them, on every device."""
        _, first = np.unique(loader.split.owner, return_index=True)  # a query of each video
        batches = [
            self._encode(variables, self.parallel.put_batch(loader.batch(host_rows(rows))))
            for rows in filled_batches(first, self.batch_size)
        ]
        return self.parallel.replicate(_joined(batches, len(first)))

    def metrics(self, variables: Any, loader: Loader) -> dict[str, float]:
        """The protocol's metrics in percent on the loader's split."""
        return self.run(variables, loader).metrics()

    def sanity(self, variables: Any, loader: Loader) -> dict[str, Predictions]:
        """Predictions of the same variables on videos that are hidden or shuffled, by the name of their row."""
        return {
            SANITY[shown]: self.run(variables, loader.showing(shown)) for shown in self.config.evaluation.sanity
        }

    def pictures(self, variables: Any, loader: Loader, rows: np.ndarray) -> dict[str, np.ndarray]:
        """The architecture's pictures ([len(rows),...]) of the queries at `rows`."""
        size = -(-len(rows) // len(self.parallel.devices)) * len(self.parallel.devices)
        filled = np.concatenate([rows, np.full(size - len(rows), -1, rows.dtype)])
        drawn = self._explain(variables, self.parallel.put_batch(loader.batch(host_rows(filled))))
        return {name: picture[: len(rows)] for name, picture in drawn.items()}


def _joined(batches: Sequence[Any], count: int) -> Any:
    """The first `count` rows of trees of arrays [B,...]."""
    return jax.tree.map(lambda *rows: np.concatenate(rows)[:count], *batches)


def _check_sanity(checks: Sequence[str]) -> None:
    for shown in checks:
        if shown not in SANITY:
            raise unknown("config.evaluation.sanity names", shown, SANITY, "The tuple () runs none.")
