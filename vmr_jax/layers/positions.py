"""Sines and cosines of places, as tables that are computed once."""

import numpy as np


def positions(length: int, features: int) -> np.ndarray:
    """Returns [T,F] float32, sine and cosine of place / 10000^(2i / F), side by side."""
    angle = np.arange(length)[:, None] / 10_000.0 ** (np.arange(0, features, 2)[None] / features)
    both = np.stack([np.sin(angle), np.cos(angle)], -1).reshape(length, angle.shape[1] * 2)
    return both[:, :features].astype(np.float32)
