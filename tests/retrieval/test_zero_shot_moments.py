"""Moments of a frame encoder: those of the architecture zero_shot, found by its sentences."""

import numpy as np
import pytest

from vmr_jax import Batch, create
from vmr_jax.parallel import Parallel
from vmr_jax.retrieval.zero_shot import FrameMoments, Window


@pytest.mark.parametrize("devices", [1, 4])
def test_moments_are_those_of_zero_shot(devices):
    """Eleven windows of one to six rows, in two batches of one shape."""
    rng = np.random.default_rng(0)
    windows = [Window(f"w{i}", rng.normal(size=(i % 6 + 1, 5)), 3.0 + i) for i in range(11)]
    moments = FrameMoments(6, Parallel("jit", num_devices=devices))
    found = list(moments(iter(windows)))
    assert [video.id for video in found] == [window.id for window in windows]
    model = create("zero_shot", text="sentence")
    for window, video in zip(windows, found):
        batch = Batch.of(video=[window.rows], duration=[window.duration])
        vectors, spans, mask = model.apply({}, batch, method="encode_moments")
        np.testing.assert_allclose(video.vectors, vectors[mask], atol=1e-5)
        np.testing.assert_allclose(video.spans, spans[mask], atol=1e-4)
        assert video.spans.max() == pytest.approx(window.duration)
        assert video.vectors.dtype == np.float32


def test_settings_tell_what_moments_depend_on():
    one = Parallel("jit", num_devices=1)
    assert FrameMoments(6, one).settings == FrameMoments(6, one).settings != FrameMoments(7, one).settings
    assert FrameMoments(6, one).settings["lengths"] == (2, 4, 8, 16, 32, 64, 128, 256)
