"""'corpus': the moment and its video, among all videos of the split, as TVR counts them."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vmr_jax import moments as moments_lib
from vmr_jax.errors import UserError
from vmr_jax.evaluation import metrics
from vmr_jax.evaluation import prediction_files as files
from vmr_jax.evaluation.metrics import Groups
from vmr_jax.evaluation.prediction_files import PredictionFile
from vmr_jax.evaluation.protocols.base import (
    Collected,
    Predictions,
    annotated_windows,
    milliseconds,
    types_of,
)
from vmr_jax.evaluation.protocols.moment_retrieval import MomentRetrieval
from vmr_jax.input.dataset import Split
from vmr_jax.models.base import CorpusRetriever, DualEncoder, GroundingModel
from vmr_jax.types import Array, Batch, Moments

_DEPTH = 100  # moments of a query that TVR's evaluation reads of a file
_VIDEOS = 64  # whose moments are compared with the queries at once


class Corpus(MomentRetrieval):
    """The moment and its video, among all videos of the split (Lei et al., ECCV 2020).

    To the metrics of moment retrieval in the query's own video come 'VR-R@n' (the video), 'VCMR-R@n,IoU=m'
    (video and moment) and 'SVMR-R@n,IoU=m' (the moment in its own video, as TVR counts it, of n up to `keep`).
    A `CorpusRetriever` searches the best videos; of a `DualEncoder` the moments of all videos are ranked by
    their dot products, a video by its best moment.

    Args:
      options: `config.evaluation`; also corpus_top_n (the n) and corpus_videos (how many of the best videos a
        `CorpusRetriever` searches).
    """

    name = "corpus"
    counted_with = (*MomentRetrieval.counted_with, "corpus_top_n")

    def prepare(self, model: GroundingModel, split: Split) -> None:
        """Also asks for an architecture that finds the video."""
        super().prepare(model, split)
        if not isinstance(model, CorpusRetriever | DualEncoder):
            raise UserError(
                f"{type(model).__module__} finds moments in a given video only; set "
                "config.evaluation.protocol='moment_retrieval'."
            )
        types_of(split)

    def metric_names(self) -> list[str]:
        """As `counted` gives them."""
        none = np.zeros((1, 1), bool), np.zeros((1, 1, 2))
        values = self._values(dict.fromkeys(metrics.TASKS, none), np.zeros((1, 1, 2)))
        return [*super().metric_names(), *values]

    # On the devices.

    def encode_batch(self, model: GroundingModel, variables: Any, batch: Batch) -> dict[str, Any]:
        """Runs on the devices, once for every video of the split: what the search needs of it."""
        apply: Any = model.apply
        if isinstance(model, CorpusRetriever):
            videos = apply(variables, batch, method="encode_videos")
        else:
            vectors, spans, mask = apply(variables, batch, method="encode_moments")
            videos = {"vectors": vectors, "spans": spans, "mask": mask}
        return {"videos": videos, "video_mask": batch.video_mask, "duration": batch.duration}

    def search_batch(self, model: GroundingModel, state: Any, batch: Batch) -> dict[str, jax.Array]:
        """The best moments of the whole corpus: video, span and score [B,K], and the ranked videos [B,U].

        Args:
          model: the architecture.
          state: its variables and the encoded corpus.
          batch: the queries.
        """
        variables, corpus = state
        apply: Any = model.apply
        asked = max(self.options.corpus_top_n)
        if isinstance(model, CorpusRetriever):
            fits = apply(variables, batch, corpus["videos"], method="score_videos")
            depth, keep = self.options.corpus_videos, self.options.keep
        else:
            # Of the n best moments none is in a video that is not among the n whose best moments are best.
            query = apply(variables, batch, method="encode_query")
            fits, depth, keep = best_products(query, corpus["videos"]), asked, asked
        depth = min(depth, fits.shape[1])
        best, videos = jax.lax.top_k(fits, depth)  # [B,U]

        def search(_: None, u: Array) -> tuple[None, tuple[Array, Array]]:
            one = jax.tree.map(lambda x: x[videos[:, u]], corpus)
            if isinstance(model, CorpusRetriever):
                found = apply(
                    variables, batch, one["videos"], one["video_mask"], one["duration"], method="localize"
                )
                found = found.replace(scores=found.scores + best[:, u, None])
            else:
                found = by_product(query, one["videos"])
            kept = moments_lib.nms(found, self.nms_thresholds()[0], k=min(keep, found.scores.shape[1]))
            return None, (kept.spans, kept.scores)

        _, (spans, scores) = jax.lax.scan(search, None, jnp.arange(depth))  # [U,B,K,2], [U,B,K]
        spans, scores = spans.swapaxes(0, 1), scores.swapaxes(0, 1)
        b, k = batch.size, scores.shape[-1]
        scores, order = jax.lax.top_k(scores.reshape(b, -1), min(asked, depth * k))
        return {
            "corpus_videos": jnp.take_along_axis(videos, order // k, axis=1),
            "corpus_spans": jnp.take_along_axis(spans.reshape(b, -1, 2), order[..., None], axis=1),
            "corpus_scores": scores,
            "ranked_videos": videos,
        }

    # Other sources of moments.

    def trivial(self, spans: np.ndarray, split: Split, rng: np.random.Generator) -> Collected:
        """Videos come in a random order, the spans in each as they are."""
        q, count = len(split.queries), min(self.options.corpus_videos, len(split.videos))
        videos = np.stack([rng.permutation(len(split.videos))[:count] for _ in range(q)])
        return {
            **super().trivial(spans, split, rng),
            "corpus_videos": videos,
            "corpus_spans": np.repeat(spans[:, :1], count, axis=1),
            "corpus_scores": np.zeros(videos.shape, np.float32),
            "ranked_videos": videos,
        }

    def of_file(self, split: Split, found: PredictionFile) -> Collected:
        """The moments of the tasks that the file has, of each the first hundred (or more, if more count)."""
        collected = super().of_file(split, found) if "SVMR" in found.tasks else {}
        for task in found.tasks:
            rows = files.of_task(found, split, task)
            depth = max(_DEPTH, *self.options.corpus_top_n)
            spans, scores = files.stacked([p.windows for p in rows], depth)
            right = np.isfinite(scores)
            for i, mask in enumerate(files.of_own_video(found, split, rows)):
                right[i, : len(mask[:depth])] &= mask[:depth]
            collected[task] = right, spans
        return collected

    # What is counted.

    def as_written(self, split: Split, collected: Collected) -> Collected:
        """Also the moments of the corpus, in milliseconds, and whether they are of the query's own video."""
        written = super().as_written(split, collected)
        asked, owner = max(self.options.corpus_top_n), np.asarray(split.owner)[:, None]
        videos, spans = collected["corpus_videos"], milliseconds(collected["corpus_spans"])
        scores, ranked = collected["corpus_scores"], collected["ranked_videos"][:, :asked]
        ids = [video.id for video in split.videos]
        extra = {
            "pred_corpus_windows": [
                [[ids[v], *window] for v, window in zip(of_query, files.windows_of(moments, row))]
                for of_query, moments, row in zip(videos, spans, scores)
            ],
            "pred_videos": [[ids[v] for v in of_query] for of_query in ranked],
        }
        return {
            **written,
            "VR": (ranked == owner, spans),
            "VCMR": ((videos == owner) & np.isfinite(scores), spans),
            "SVMR": (np.isfinite(written["scores"][:, 0]), written["spans"][:, 0]),
            "extra": extra,
        }

    def counted(self, split: Split, collected: Collected) -> Predictions:
        """Adds the values of TVR's tasks; of a file without moments in the own video, these alone."""
        if "spans" in collected:
            found = super().counted(split, collected)
        else:
            none = np.zeros((len(split.queries), 1))
            found = Predictions(np.zeros((*none.shape, 2)), none - np.inf, none, {})
        found.values |= self._values(collected, annotated_windows(split))
        found.extra |= collected.get("extra", {})
        return found

    def _values(self, collected: Collected, windows: np.ndarray) -> dict[str, np.ndarray]:
        asked, (_, thresholds, strict) = tuple(self.options.corpus_top_n), self._counted()
        values: dict[str, np.ndarray] = {}
        for task in ("VR", "VCMR", "SVMR"):
            if task in collected:
                top_n = tuple(n for n in asked if n <= self.options.keep) if task == "SVMR" else asked
                right, spans = collected[task]
                values |= metrics.corpus_values(task, right, spans, windows, top_n, thresholds, strict)
        return values

    def groups(self, split: Split, found: Predictions) -> Groups:
        """All queries, then every type of query."""
        return metrics.mean_by_type(found.values, types_of(split))


# --- dual encoders --------------------------------------------------------------------------------


def best_products(query: Array, videos: dict[str, Array]) -> Array:
    """[B,U]: the largest dot product of each query [B,E] with a moment of each of U videos.

    Args:
      query: [B,E] encoded queries.
      videos: 'vectors' [U,M,E] and 'mask' [U,M] of the moments of each video.
    """

    def of_video(video: dict[str, Array]) -> Array:
        return jnp.where(video["mask"][None], _products(query, video["vectors"][None]), -jnp.inf).max(axis=1)

    part = {name: videos[name] for name in ("vectors", "mask")}
    return jax.lax.map(of_video, part, batch_size=_VIDEOS).T


def by_product(query: Array, videos: dict[str, Array]) -> Moments:
    """All moments of a video for each query [B,E], best first; 'vectors', 'spans', 'mask' are [B,M,...]."""
    scores = _products(query, videos["vectors"])
    return moments_lib.rank(videos["spans"], scores, videos["mask"], k=scores.shape[1])


def _products(query: Array, vectors: Array) -> Array:
    """[B,M] dot products of queries [B,E] with vectors [B,M,E], or with the same ones [1,M,E]."""
    if vectors.shape[0] == 1:
        return jnp.einsum("be,me->bm", query, vectors[0], precision="highest")
    return jnp.einsum("be,bme->bm", query, vectors, precision="highest")
