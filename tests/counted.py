"""Options, splits and models by hand, for the tests of what is counted."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from vmr_jax.evaluation.protocols import MomentRetrieval
from vmr_jax.input.dataset import Split, Video
from vmr_jax.input.schema import Query
from vmr_jax.models.base import CorpusRetriever, GroundingModel
from vmr_jax.types import Moments

OPTIONS = ConfigDict(
    {
        "top_n": (1, 2),
        "thresholds": (0.5,),
        "strict": False,
        "nms_threshold": 0.5,
        "nms_margin": 0.0,
        "keep": 2,
        "sanity": (),
        "discounted": False,
    }
)


PROTOCOL = MomentRetrieval(OPTIONS)


def split_of(moments, durations=None, name="test", **fields):
    """A split of one query per video: moments [[start, end], ...] of videos of 100 s."""
    durations = durations or [100.0] * len(moments)
    lists = {key: iter(values) for key, values in fields.items()}
    queries = [
        Query(qid=f"q{i}", text="a man runs", span=tuple(span), **{k: next(v) for k, v in lists.items()})
        for i, span in enumerate(moments)
    ]
    videos = [Video(f"v{i}", duration, {}) for i, duration in enumerate(durations)]
    return Split(name, videos, queries, np.arange(len(queries), dtype=np.int32))


class Sum(GroundingModel):
    """Whole video where its features sum to something, its first half where they are zero; knows no order."""

    def __call__(self, batch, *, train):
        del train
        return jnp.abs(batch.video).sum((1, 2))

    def predict(self, outputs, batch):
        end = jnp.where(outputs > 0, batch.duration, batch.duration / 2)
        spans = jnp.stack([jnp.zeros_like(end), end], axis=1)[:, None]
        return Moments(spans=spans, scores=jnp.ones((batch.size, 1)))


class Finder(CorpusRetriever, GroundingModel):
    """Knows the query's video by its number, and always answers its second half."""

    @nn.nowrap
    def _half(self, duration):
        spans = jnp.stack([duration / 2, duration], axis=1)[:, None]
        return Moments(spans=spans, scores=jnp.zeros((len(duration), 1)))

    def __call__(self, batch, *, train):
        return batch.duration

    def predict(self, outputs, batch):
        return self._half(batch.duration)

    def saliency(self, outputs, batch):
        return batch.video.sum(-1)

    def encode_videos(self, batch):
        return batch.video_index

    def score_videos(self, batch, videos):
        # The video with the next number is best, then the right one, then those further away.
        distance = jnp.abs(videos[None, :] - (batch.video_index[:, None] + 0.9))
        return -distance.astype(jnp.float32)

    def localize(self, batch, videos, video_mask, duration):
        return self._half(duration)
