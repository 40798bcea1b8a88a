"""Protocols: what is evaluated, independent of the architecture; `config.evaluation.protocol` names one.

A protocol looks at the splits (`prepare`), runs inside jit on the devices (`score_batch`), and turns what was
collected into moments and per-query values (`finish`), whose means are the metrics:

- 'moment_retrieval': moments in a given video;
- 'highlights': several moments of a given video, and how salient its clips are (QVHighlights);
- 'corpus': the moment and its video, among all videos of the split (TVR).
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vmr_jax import moments as moments_lib
from vmr_jax.errors import UserError, nearest
from vmr_jax.evaluation import metrics
from vmr_jax.input import schema
from vmr_jax.input.dataset import Split
from vmr_jax.models.base import CorpusRetriever, GroundingModel
from vmr_jax.types import Batch, Moments


@dataclasses.dataclass
class Predictions:
    """Ranked moments of every query of a split in its own video, after NMS, and what they count for.

    Attributes:
      spans: [Q,K,2] float64 seconds, whole milliseconds.
      scores: [Q,K] float32, -inf past the last moment.
      ious: [Q,K] float64 with the nearest annotated moment, 0 past the last moment.
      values: metric -> [Q], of which it is the mean.
      extra: further keys of a query's line in predictions.jsonl -> one value per query.
    """

    spans: np.ndarray
    scores: np.ndarray
    ious: np.ndarray
    values: dict[str, np.ndarray]
    extra: dict[str, list] = dataclasses.field(default_factory=dict)


def milliseconds(seconds: np.ndarray) -> np.ndarray:
    """Seconds as float64, rounded to milliseconds."""
    return np.round(np.asarray(seconds, np.float64), 3)


def annotated_windows(split: Split) -> np.ndarray:
    """[Q,W,2] float64 seconds, in milliseconds: all annotated moments of each query; [0,0] fills."""
    windows = [query.windows or [query.span] for query in split.queries]
    filled = np.zeros((len(windows), max(map(len, windows), default=1), 2))
    for row, moments in zip(filled, windows):
        row[: len(moments)] = moments
    return milliseconds(filled)


def nearest_iou(spans: np.ndarray, scores: np.ndarray, windows: np.ndarray) -> np.ndarray:
    """IoU [Q,K] of ranked moments [Q,K,2] with the nearest of the annotated [Q,W,2]; 0 where score is -inf.

    One annotated moment is the rule of the field; of several, QVHighlights takes the one with the highest IoU.
    """
    each = [metrics.ranked_iou(spans, scores, windows[:, w]) for w in range(windows.shape[1])]
    return np.max(each, axis=0)


def means(values: dict[str, np.ndarray], rows: np.ndarray | slice = slice(None)) -> dict[str, float]:
    """The metrics in percent of the queries at `rows`."""
    return {name: 100.0 * float(np.mean(column[rows])) for name, column in values.items()}


class MomentRetrieval:
    """Moments in a given video: R@n,IoU=m and mIoU; at the end of a run dR@n,IoU=m too, where asked for.

    Args:
      options: `config.evaluation`: top_n, thresholds, strict, nms_threshold, nms_margin, keep, discounted.
    """

    name = "moment_retrieval"

    def __init__(self, options):
        self.options = options

    def prepare(self, model: GroundingModel, split: Split) -> None:
        """Raises UserError where the architecture or the split cannot serve this protocol."""
        if type(model).predict is GroundingModel.predict:
            raise UserError(f"{type(model).__module__} predicts no moments; choose another protocol.")
        if not len(split.queries):
            raise UserError(f"The split {split.name} holds no query to evaluate on.")

    def metric_names(self) -> list[str]:
        """What a checkpoint can be selected by."""
        return list(self.per_query(np.zeros((1, 1))))

    def score_batch(self, model: GroundingModel, variables: Any, batch: Batch) -> dict[str, jax.Array]:
        """Runs on the devices: spans [B,P,K,2] and scores [B,P,K] after NMS at each of P IoUs."""
        outputs = model.apply(variables, batch, train=False)
        return self._kept(model.predict(outputs, batch))

    def _kept(self, ranked: Moments) -> dict[str, jax.Array]:
        ranked.check()
        kept = [moments_lib.nms(ranked, at, k=self.options.keep) for at in self.nms_thresholds()]
        return {
            "spans": jnp.stack([moments.spans for moments in kept], axis=1),
            "scores": jnp.stack([moments.scores for moments in kept], axis=1),
        }

    def nms_thresholds(self) -> tuple[float, ...]:
        """The IoU of NMS; with `nms_margin` one for each m (CTRL suppresses above m - 0.05)."""
        if not self.options.nms_margin:
            return (self.options.nms_threshold,)
        return tuple(m - self.options.nms_margin for m in self.options.thresholds)

    def ranked(self, spans: np.ndarray, scores: np.ndarray) -> dict[str, np.ndarray]:
        """What `score_batch` would collect of moments [Q,K,2], [Q,K], best first, without NMS."""
        return {"spans": spans[:, None], "scores": scores[:, None]}

    def trivial(self, spans: np.ndarray, split: Split, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """What `finish` takes of a predictor of `spans` [Q,K,2] seconds that sees neither video nor query."""
        del split, rng
        return self.ranked(spans, np.zeros(spans.shape[:2], np.float32))

    def finish(self, split: Split, collected: dict[str, np.ndarray]) -> Predictions:
        """Adds the IoUs, with the nearest of the annotated moments where a query has several.

        Times are cut to the video and to milliseconds, as predictions.jsonl holds them: who scores that file
        finds the same numbers. Where NMS depends on m, the file holds the moments of the first m.
        """
        spans = milliseconds(np.clip(collected["spans"], 0.0, split.durations[:, None, None, None]))
        scores, windows = collected["scores"], annotated_windows(split)
        ious = [nearest_iou(spans[:, p], scores[:, p], windows) for p in range(spans.shape[1])]
        values = self.per_query(ious[0])
        for m, found in zip(self.options.thresholds, ious if len(ious) > 1 else ()):
            values.update({name: v for name, v in self.per_query(found).items() if name.endswith(f"IoU={m:g}")})
        return Predictions(spans[:, 0], scores[:, 0], ious[0], values)

    def per_query(self, ious: np.ndarray) -> dict[str, np.ndarray]:
        """What each metric is the mean of: a hit as 0 or 1, or the IoU; [Q] each, of IoUs [Q,K]."""
        options = self.options
        return metrics.retrieval_values(ious, tuple(options.top_n), tuple(options.thresholds), options.strict)

    def score(self, split: Split, found: Predictions) -> dict[str, float]:
        """The metrics in percent, and the discounted recalls (with the moment to learn) where asked for."""
        values, options = means(found.values), self.options
        if not options.discounted:
            return values
        truth, durations = milliseconds(split.spans), milliseconds(split.durations)
        counted = (tuple(options.top_n), tuple(options.thresholds), options.strict)
        return {
            **values,
            **metrics.discounted_recall(found.spans, found.ious, truth, durations, *counted),
        }

    def stamp(self) -> dict[str, Any]:
        """What must be printed beside the numbers for them to mean something."""
        margin = self.options.nms_margin
        return {
            "name": self.name,
            "strict": bool(self.options.strict),
            "comparison": "IoU > m" if self.options.strict else "IoU >= m",
            "nms_threshold": f"m - {margin:g}" if margin else float(self.options.nms_threshold),
            "kept": int(self.options.keep),
        }


class Highlights(MomentRetrieval):
    """Several moments of a video, and the saliency of its clips, as QVHighlights counts them.

    To the metrics of moment retrieval come 'mAP' (the mean over ten IoUs), 'mAP,IoU=0.5', 'mAP,IoU=0.75',
    'HL-mAP,VeryGood' and 'HL-Hit@1,VeryGood'. `--mode=score` gives all of the official figures.
    """

    name = "highlights"

    def prepare(self, model: GroundingModel, split: Split) -> None:
        """Also asks for the architecture's saliency and the split's annotation of it."""
        super().prepare(model, split)
        if type(model).saliency is GroundingModel.saliency:
            raise UserError(
                f"{type(model).__module__} gives clips no saliency; set config.evaluation.protocol="
                "'moment_retrieval'."
            )
        if any(query.saliency is None for query in split.queries):
            raise UserError(
                f"The split {split.name} has no annotated saliency, which the protocol highlights needs. Set "
                "config.evaluation.protocol='moment_retrieval'."
            )

    def metric_names(self) -> list[str]:
        """As `finish` gives them."""
        one = np.zeros((1, 1, 2)), np.zeros((1, 1)), np.asarray([[[0.0, 1.0]]])
        return [*super().metric_names(), *_detection(*one), *_highlight_names()]

    def score_batch(self, model: GroundingModel, variables: Any, batch: Batch) -> dict[str, jax.Array]:
        """Also the saliency [B,T] and the number of clips [B]."""
        outputs = model.apply(variables, batch, train=False)
        return {
            **self._kept(model.predict(outputs, batch)),
            "saliency": model.saliency(outputs, batch),
            "clips": batch.video_mask.sum(1),
        }

    def trivial(self, spans: np.ndarray, split: Split, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Saliency is random."""
        clips = _annotated_clips(split)
        saliency = rng.random((len(split.queries), clips.max()), np.float32)
        return {**super().trivial(spans, split, rng), "saliency": saliency, "clips": clips}

    def finish(self, split: Split, collected: dict[str, np.ndarray]) -> Predictions:
        """Saliency is read at the centre of each annotated clip; predictions.jsonl has it too."""
        found = super().finish(split, collected)
        found.values |= _detection(found.spans, found.scores, annotated_windows(split))
        clips = _annotated_clips(split)
        predicted = np.full((len(clips), clips.max()), -np.inf)
        for i, count in enumerate(clips):
            centres = (np.arange(count) + 0.5) * schema.SALIENCY_SECONDS / split.durations[i]
            rows = np.minimum(centres * collected["clips"][i], collected["clips"][i] - 1).astype(int)
            predicted[i, :count] = collected["saliency"][i, rows]
        annotated = np.stack([query.saliency for query in split.queries])
        values = metrics.highlight_values(predicted, annotated, clips)[_HIGHLIGHT]
        found.values |= {f"{name},{_HIGHLIGHT}": column for name, column in values.items()}
        saliency = [row[:count].round(4).tolist() for row, count in zip(predicted, clips)]
        found.extra = {"pred_saliency_scores": saliency}
        return found


_HIGHLIGHT = "VeryGood"


def _highlight_names() -> list[str]:
    values = metrics.highlight_values(np.zeros((1, 1)), np.zeros((1, 1, 1), int), np.ones(1, int))
    return [f"{name},{_HIGHLIGHT}" for name in values[_HIGHLIGHT]]


def _detection(spans: np.ndarray, scores: np.ndarray, windows: np.ndarray) -> dict[str, np.ndarray]:
    values = metrics.detection_values(spans, scores, windows)
    return {name: values[name] for name in ("mAP", "mAP,IoU=0.5", "mAP,IoU=0.75")}


def _annotated_clips(split: Split) -> np.ndarray:
    """[Q] int, clips of 2 s in each query's video."""
    return (milliseconds(split.durations) / schema.SALIENCY_SECONDS).astype(int)


class Corpus(MomentRetrieval):
    """The moment and its video, among all videos of the split, as TVR counts them (Lei et al., ECCV 2020).

    To the metrics of moment retrieval in the query's own video come 'VR-R@n' (the video) and
    'VCMR-R@n,IoU=m' (video and moment).

    Args:
      options: `config.evaluation`; also corpus_videos (how many of the best videos are searched) and
        corpus_top_n (the n of both).
    """

    name = "corpus"

    def prepare(self, model: GroundingModel, split: Split) -> None:
        """Also asks for an architecture that finds the video."""
        super().prepare(model, split)
        if not isinstance(model, CorpusRetriever):
            raise UserError(
                f"{type(model).__module__} finds moments in a given video only; set "
                "config.evaluation.protocol='moment_retrieval'."
            )

    def metric_names(self) -> list[str]:
        """As `finish` gives them."""
        one, none = np.zeros((1, 1), np.int32), np.zeros((1, 1, 2))
        values = self._values(np.zeros(1, int), one, none, none)
        return [*super().metric_names(), *values]

    def encode_batch(self, model: Any, variables: Any, batch: Batch) -> dict[str, Any]:
        """Runs on the devices, once for every video of the split: what the search needs of it."""
        return {
            "videos": model.apply(variables, batch, method="encode_videos"),
            "video_mask": batch.video_mask,
            "duration": batch.duration,
        }

    def search_batch(self, model: Any, state: Any, batch: Batch) -> dict[str, jax.Array]:
        """Also the best moments of the whole corpus: video [B,R], span [B,R,2], and the ranked videos [B,P].

        Args:
          model: the architecture.
          state: its variables and the encoded corpus.
          batch: the queries.
        """
        variables, corpus = state
        fits = model.apply(variables, batch, corpus["videos"], method="score_videos")  # [B,C]
        depth = min(self.options.corpus_videos, fits.shape[1])
        best, videos = jax.lax.top_k(fits, depth)  # [B,P]

        def search(_, p):
            one = jax.tree.map(lambda x: x[videos[:, p]], corpus)
            found = model.apply(
                variables, batch, one["videos"], one["video_mask"], one["duration"], method="localize"
            )
            kept = moments_lib.nms(
                found, self.nms_thresholds()[0], k=min(self.options.keep, found.scores.shape[1])
            )
            return None, (kept.spans, kept.scores + best[:, p, None])

        _, (spans, scores) = jax.lax.scan(search, None, jnp.arange(depth))  # [P,B,K,2], [P,B,K]
        spans, scores = spans.swapaxes(0, 1), scores.swapaxes(0, 1)
        b, k = batch.size, scores.shape[-1]
        _, order = jax.lax.top_k(scores.reshape(b, -1), min(max(self.options.corpus_top_n), depth * k))
        return {
            "corpus_videos": jnp.take_along_axis(videos, order // k, axis=1),
            "corpus_spans": jnp.take_along_axis(spans.reshape(b, -1, 2), order[..., None], axis=1),
            "ranked_videos": videos,
        }

    def trivial(self, spans: np.ndarray, split: Split, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Videos come in a random order, the spans in each as they are."""
        q, count = len(split.queries), min(self.options.corpus_videos, len(split.videos))
        videos = np.stack([rng.permutation(len(split.videos))[:count] for _ in range(q)])
        return {
            **super().trivial(spans, split, rng),
            "corpus_videos": videos,
            "corpus_spans": np.repeat(spans[:, :1], count, axis=1),
            "ranked_videos": videos,
        }

    def finish(self, split: Split, collected: dict[str, np.ndarray]) -> Predictions:
        """Adds the values of both tasks; predictions.jsonl gets the ten best moments of the corpus."""
        found = super().finish(split, collected)
        videos, spans = collected["corpus_videos"], milliseconds(collected["corpus_spans"])
        owner = np.asarray(split.owner)
        found.values |= self._values(owner, videos, spans, annotated_windows(split), collected["ranked_videos"])
        found.extra = {
            "pred_corpus_windows": [
                [[split.videos[v].id, *span] for v, span in zip(row[:10], moments[:10].tolist())]
                for row, moments in zip(videos, spans)
            ]
        }
        return found

    def _values(self, owner, videos, spans, windows, ranked=None) -> dict[str, np.ndarray]:
        counted = tuple(self.options.corpus_top_n)
        ranked = videos if ranked is None else ranked
        right = videos == owner[:, None]
        vr = metrics.corpus_values("VR", ranked == owner[:, None], spans, windows, counted)
        thresholds = tuple(self.options.thresholds)
        return {**vr, **metrics.corpus_values("VCMR", right, spans, windows, counted, thresholds)}


PROTOCOLS = {protocol.name: protocol for protocol in (MomentRetrieval, Highlights, Corpus)}


def make_protocol(options) -> MomentRetrieval:
    """Builds the protocol that `config.evaluation.protocol` names."""
    if options.protocol not in PROTOCOLS:
        raise UserError(
            f'config.evaluation.protocol is "{options.protocol}".{nearest(options.protocol, PROTOCOLS)} '
            f"Known: {', '.join(PROTOCOLS)}."
        )
    return PROTOCOLS[options.protocol](options)


def check_selection(options, protocol: MomentRetrieval) -> None:
    """Raises UserError where `config.evaluation.select_by` is none of the protocol's metrics."""
    known = protocol.metric_names()
    if options.select_by not in known:
        raise UserError(
            f'config.evaluation.select_by is "{options.select_by}", which the protocol {protocol.name} does '
            f"not measure.{nearest(options.select_by, known)} It has: {'; '.join(known)}."
        )
