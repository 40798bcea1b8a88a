"""Splits and moments that nobody predicted, of every protocol."""

import numpy as np
from counted import OPTIONS
from ml_collections import ConfigDict

from vmr_jax.input.dataset import Split, Video
from vmr_jax.input.schema import Query

Q, K = 40, 6
CASES = {
    "moment_retrieval": {},
    "moment_retrieval, strict and discounted": {"strict": True, "discounted": True},
    "moment_retrieval, NMS by m": {"nms_margin": 0.05},
    "highlights": {"keep": 10},
    "consensus": {"keep": 21, "nms_threshold": 1.0},
    "consensus, typed": {"keep": 21, "nms_threshold": 1.0, "top_n": (1, 3, 5)},
    "corpus": {},
    "corpus, typed": {"strict": True, "discounted": True},
}


def options_of(case):
    fields = {
        **OPTIONS.to_dict(), "top_n": (1, 5), "thresholds": (0.3, 0.5, 0.7), "keep": 5, "corpus_videos": 4,
        "corpus_top_n": (1, 3, 10), "protocol": case.split(",")[0], **CASES[case],
    }  # fmt: skip
    return ConfigDict(fields)


def split_for(case, rng):
    """Two queries a video; annotated moments on a grid of half a second, or of chunks."""
    durations = np.full(Q // 2, 30.0) if "consensus" in case else rng.uniform(20, 60, Q // 2).astype(np.float32)
    owner = np.repeat(np.arange(Q // 2), 2)
    queries = []
    for i in range(Q):
        if "consensus" in case:
            first = rng.integers(0, 6, 4)
            windows = [(5.0 * f, 5.0 * rng.integers(f + 1, 7)) for f in first]
        else:
            edges = np.sort(rng.choice(int(2 * durations[owner[i]]), 4, replace=False)) / 2
            windows = [tuple(edges[:2]), tuple(edges[2:])]
        tags = (("before", "then", "while")[i % 7 % 3],) if "typed" in case else ()
        saliency = rng.integers(-1, 5, (30, 3))
        queries.append(Query(f"q{i}", "a dog", windows[0], windows=windows, tags=tags, saliency=saliency))
    videos = [Video(f"v{i}", float(d), {}) for i, d in enumerate(durations)]
    return Split("test", videos, queries, owner)


def collected_for(case, protocol, split, rng):
    """Moments as the devices give them: float32 with all digits, some outside the video, some missing."""
    lists = len(protocol.nms_thresholds())
    spans = _moments(split, rng, (lists, K))
    scores = -np.sort(-rng.normal(size=(Q, lists, K)).astype(np.float32), axis=-1)
    scores[::3, :, 4:] = -np.inf
    collected = {"spans": spans, "scores": scores}
    if "highlights" in case:
        collected |= {
            "saliency": rng.normal(size=(Q, 64)).astype(np.float32),
            "clips": rng.integers(10, 65, Q),
        }
    if "corpus" in case:
        found = -np.sort(-rng.normal(size=(Q, 10)).astype(np.float32), axis=-1)
        found[::4, 7:] = -np.inf
        videos = rng.integers(0, Q // 2, (Q, 10))
        videos[::2, 0], videos[1::4, 2] = split.owner[::2], split.owner[1::4]
        collected |= {
            "corpus_videos": videos,
            "corpus_spans": _moments(split, rng, (10,)),
            "corpus_scores": found,
            "ranked_videos": np.stack([rng.permutation(Q // 2)[:4] for _ in range(Q)]),
        }
    return collected


def _moments(split, rng, shape):
    """[Q,*shape,2] float32: a quarter of them near the first annotated moment."""
    anywhere = np.sort(rng.uniform(-1, 61, (Q, *shape, 2)), axis=-1)
    near = split.spans.reshape(Q, *(1 for _ in shape), 2) + rng.normal(scale=0.3, size=anywhere.shape)
    return np.where(rng.random((Q, *shape, 1)) < 0.75, anywhere, np.sort(near, axis=-1)).astype(np.float32)
