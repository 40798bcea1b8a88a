"""A batch for checkpoints of architectures that complete sentences."""

import numpy as np

from vmr_jax.types import Batch

B, T, L, D, W, VOCABULARY = 3, 16, 6, 5, 4, 9


def ragged_batch():
    """Every video has T clips, as officially; the first sentence has all L words."""
    rng = np.random.default_rng(0)
    query_mask = np.arange(L) < np.array([L, L - 1, 3])[:, None]
    return Batch(
        video=rng.normal(size=(B, T, D)).astype(np.float32),
        video_mask=np.ones((B, T), bool),
        duration=np.full(B, 30, np.float32),
        query=(rng.integers(2, VOCABULARY + 1, (B, L)) * query_mask).astype(np.int32),
        query_vectors=(rng.normal(size=(B, L, W)) * query_mask[..., None]).astype(np.float32),
        query_mask=query_mask,
        span=np.full((B, 2), np.nan, np.float32),
        example_mask=np.ones(B, bool),
        example_index=np.arange(B, dtype=np.int32),
        video_index=np.arange(B, dtype=np.int32),
        content_words=query_mask,
    )


def hidden_words():
    """[B,L] bool: two words of the first sentence, one of the others."""
    hidden = np.zeros((B, L), bool)
    hidden[:, 1] = hidden[0, 4] = True
    return hidden
