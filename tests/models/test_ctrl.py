"""CTRL: windows, context, positives, pairs and losses by hand."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from applied import outputs_of, random_variables
from batches import pad_clips, random_batch
from cases.ctrl import SMALL

from vmr_jax.errors import UserError
from vmr_jax.layers.sliding_windows import window_grid
from vmr_jax.models import create
from vmr_jax.models.ctrl import Outputs


@pytest.fixture(scope="module")
def batch():
    return random_batch()


@pytest.fixture(scope="module")
def small(batch):
    """A model and its variables."""
    model = create("ctrl", **SMALL)
    return model, random_variables(model, batch)


# The sliding windows.


def test_grid_by_hand():
    # Five clips: [0,2], [1,3], [2,4], [3,5]; every 1.5 clips [0,3], [1.5,4.5]; six clips do not fit.
    expected = [[0, 2], [1, 3], [2, 4], [3, 5], [0, 3], [1.5, 4.5]]
    np.testing.assert_array_equal(window_grid(5, (2, 3, 6), (1, 1.5, 1)), expected)


def test_the_default_grid_is_the_official_one_in_frames():
    """Official: windows of l frames, one every floor(0.2 l) frames, as far as they fit; a clip is 16 frames."""
    model, num_clips = create("ctrl"), 88
    for test, lengths in ((False, (64, 128, 256, 512)), (True, (128, 256))):
        frames = [
            (start, start + length)
            for length in lengths
            for start in range(0, 16 * num_clips - length + 1, length // 5)
        ]
        np.testing.assert_array_equal(model.grid(num_clips, test) * 16, frames)


def contexts(model, windows, clips):
    before, _, after = model.with_context(jnp.float32([windows]), jnp.array([clips]))
    return before[0].tolist(), after[0].tolist()


def test_official_context_exists_where_the_grid_has_it():
    """A window of 128 frames starts at multiples of 25, one of 256 at multiples of 51.

    Start 153 = 3 * 51: the window before it starts at 25 = 1 * 25, it exists; the one after would start at 409,
    no multiple of 25. Start 969 = 19 * 51: the one after starts at 1225 = 49 * 25 and ends at 1353 frames, 84.6
    clips; the one before would start at 841. A window of 128 frames has none: 128 is no multiple of 25.
    """
    model = create("ctrl")
    windows = np.float32([[153, 153 + 256], [969, 969 + 256], [25, 153]]) / 16
    own = windows.tolist()
    before, after = contexts(model, windows, 88)
    assert before == [[25 / 16, 153 / 16], own[1], own[2]]
    assert after == [own[0], [1225 / 16, 1353 / 16], own[2]]
    # In a video of 84 clips the window after does not fit.
    assert contexts(model, windows, 84)[1] == own


def test_exact_context_is_cut_to_the_video():
    model = create("ctrl", context_windows="exact", context=3)
    windows = [[0, 4], [2, 6], [5, 9], [6, 10]]
    before, after = contexts(model, windows, 10)
    # Nothing is before the first or after the last; there the window stands for itself.
    assert before == [[0, 4], [0, 2], [2, 5], [3, 6]]
    assert after == [[4, 7], [6, 9], [9, 10], [6, 10]]


def test_pooling_shares_out_the_clips_on_the_border():
    model = create("ctrl", context_windows="exact", context=1)
    video = np.float32([[[1], [2], [4], [8]]])
    pooled = model.pool(jnp.asarray(video), jnp.float32([[[1, 3], [0.5, 2], [0, 4]]]), jnp.array([4]))
    # [0,1] 1, [1,3] (2 + 4) / 2, [3,4] 8. Then [0,.5] 1, [.5,2] (.5 * 1 + 2) / 1.5, [2,3] 4. The whole: 15 / 4.
    expected = [[1, 3, 8], [1, 2.5 / 1.5, 4], [3.75, 3.75, 3.75]]
    np.testing.assert_allclose(pooled[0], expected, rtol=1e-6)


def test_positive_windows():
    """The moment [10, 20]; windows and why."""
    windows, expected = zip(
        ([10, 20], True),
        ([10, 15], False),  # inside, IoU 5/10, which is not above 1/2
        ([12, 18], True),  # inside, IoU 6/10
        ([9, 17], True),  # 1/8 = .125 outside, IoU 7/11
        ([8, 18], False),  # 2/10 outside, IoU 8/12
        ([30, 40], False),
    )
    found = create("ctrl").positives(jnp.float32(windows), jnp.float32([[10, 20]]))
    assert found.tolist() == list(expected)


def test_windows_of_half_a_moment_are_not_positive():
    """IoU 1/2 exactly, in frames; the annotation is in seconds of 29.4 frames, which float32 rounds."""
    model = create("ctrl")
    for clips in (33, 40, 60, 77, 88):
        window = model.grid(clips, test=False)
        length = window[:, 1] - window[:, 0]
        inside = window[:, 0] + 2 * length <= clips
        frames = 16 * np.stack([window[:, 0], window[:, 0] + 2 * length], axis=1)[inside]
        duration = np.float32(16 * clips / 29.4)
        moment = np.float32(frames / 29.4) * (clips / duration)
        assert len(moment) > 20 and not model.positives(window[inside], jnp.asarray(moment)).any()
        # One frame less, and the window is more than half of the moment.
        shorter = np.float32((frames - [0, 1]) / 29.4) * (clips / duration)
        assert model.positives(window[inside], jnp.asarray(shorter)).all()


def test_drawn_windows_are_positive_and_lie_in_the_video(batch):
    model = create("ctrl", **SMALL)
    # Moments of 60% of the video, 5 to 10 clips, which several windows fit; the last but one is of a tenth.
    share = np.float32([[0.113, 0.717]] * 7 + [[0.1, 0.2]])[::-1][[1, 2, 3, 4, 5, 6, 0, 7]]
    batch = dataclasses.replace(batch, span=batch.duration[:, None] * share)
    clips = batch.video_mask.sum(1)
    draw = jax.jit(lambda key: model.draw_window(key, batch, clips))
    drawn = [draw(key) for key in jax.random.split(jax.random.key(0), 40)]
    grid = model.grid(16, test=False)
    for i in range(8):
        moment = share[i] * clips[i]
        inside = np.minimum(grid[:, 1], moment[1]) - np.maximum(grid[:, 0], moment[0])
        length = grid[:, 1] - grid[:, 0]
        overlap = inside / (length + moment[1] - moment[0] - inside)
        good = (overlap > 0.5) & (1 - inside / length < 0.15) & (grid[:, 1] <= clips[i])
        assert {bool(found[i]) for _, found in drawn} == {i != 6} == {bool(good.any())}
        if i != 6:
            # All of them and no others; of 40 draws among 5 windows one is missing with probability .0007.
            assert {tuple(w[i].tolist()) for w, _ in drawn} == {tuple(w) for w in grid[good].tolist()}


def test_padded_clips_change_no_score(batch, small):
    model, variables = small
    longer = pad_clips(batch, batch.video.shape[1])
    expected, found = (outputs_of(model, variables, b, train=True) for b in (batch, longer))
    np.testing.assert_array_equal(found.window, expected.window)
    np.testing.assert_allclose(found.score, expected.score, atol=1e-6)
    expected, found = (model.predict(outputs_of(model, variables, b), b) for b in (batch, longer))
    real = np.isfinite(expected.scores)
    np.testing.assert_array_equal(np.isfinite(found.scores).sum(1), real.sum(1))
    for b in range(8):
        count = real[b].sum()
        np.testing.assert_allclose(found.scores[b, :count], expected.scores[b, :count], atol=1e-6)


# Pairs and losses.


def five(batch):
    """Five examples of ten-second videos with ten clips; the fourth is a filler, the fifth has no window.

    The first two are sentences of one moment.
    """
    batch = jax.tree.map(lambda x: x[:5], random_batch(clips=10))
    return dataclasses.replace(
        batch,
        video_mask=np.ones((5, 10), bool),
        duration=np.full(5, 10, np.float32),
        span=np.float32([[2, 6], [2, 6], [2, 6], [2, 6], [0, 1]]),
        video_index=np.array([4, 4, 5, 6, 7], np.int32),
        example_mask=np.array([True, True, True, False, True]),
    )


WINDOW = np.float32([[2, 5], [2, 6], [3, 6.5], [0, 4], [0, 4]])
FOUND = np.array([True, True, True, True, False])


def terms_of(model, batch, score, offsets):
    outputs = Outputs(
        score=jnp.asarray(score), offsets=offsets, window=jnp.asarray(WINDOW), found=jnp.asarray(FOUND)
    )
    return model.loss(outputs, batch, epoch=jnp.int32(0))


def test_alignment_by_hand(batch):
    score = np.float32(np.arange(25).reshape(5, 5) - 12) / 10
    alignment = terms_of(create("ctrl", regression="none"), five(batch), score, None)["alignment"]
    # Three examples count, B = 3. Of their 9 pairs (0,1) and (1,0) are two sentences of one moment.
    total, count = 0.0, 0
    for i in range(3):
        for j in range(3):
            if {i, j} != {0, 1}:
                sign, weight = (-1, 1 + 1 / 3) if i == j else (1, 1 / 3)
                total += weight * np.log(1 + np.exp(sign * score[i, j]))
                count += 1
    assert (float(alignment.count), count) == (7, 7)
    np.testing.assert_allclose(alignment.sum, total, rtol=1e-6)


def test_regression_by_hand(batch):
    offsets = np.zeros((5, 5, 2), np.float32)
    offsets[1, 1] = [10, -20]
    offsets[0, 1] = 1000  # not its own window
    term = terms_of(create("ctrl"), five(batch), np.zeros((5, 5), np.float32), jnp.asarray(offsets))[
        "regression"
    ]
    # In 16ths of a clip: the moment [2,6] is [0,16] from [2,5], [0,0] from [2,6], [-16,-8] from [3,6.5].
    # |0-0| + |0-16| + |10-0| + |-20-0| + |0+16| + |0+8| = 70, times .01, over 3 examples with 2 ends.
    np.testing.assert_allclose([term.sum, term.count], [0.7, 6], rtol=1e-6)


def test_relative_offsets_by_hand():
    model = create("ctrl", regression="p")
    window, moment = jnp.float32([[2, 6]]), jnp.float32([[4, 12]])
    # Centres 4 and 8, which is one length of 4 apart; lengths 4 and 8.
    targets = model.regression_targets(window, moment)
    np.testing.assert_allclose(targets, [[1, np.log(2)]], rtol=1e-6)
    np.testing.assert_allclose(model.moved(window, targets), moment, rtol=1e-6)
    model = create("ctrl")
    np.testing.assert_allclose(model.moved(window, jnp.float32([[32, 96]])), moment)


def test_scores_by_numpy(batch):
    """Every sentence with every drawn window of the batch, from the parameters as they are named."""
    model = create("ctrl", **{**SMALL, "context_windows": "exact"})
    variables = random_variables(model, batch)
    variables = jax.tree.map(lambda x: x + 0.1, variables)  # biases too
    outputs = outputs_of(model, variables, batch, train=True)
    params = jax.tree.map(np.asarray, variables["params"])

    def linear(x, layer):
        return x @ layer["kernel"] + layer["bias"]

    def mean(row, start, end):
        weights = np.array([max(0.0, min(end, t + 1) - max(start, t)) for t in range(16)])
        return weights @ row / weights.sum()

    v = []
    for row, clips, (start, end) in zip(batch.video, batch.video_mask.sum(1), outputs.window):
        own = mean(row, start, end)
        before = mean(row, max(start - 4, 0), start) if start > 0 else own
        after = mean(row, end, min(end + 4, clips)) if end < clips else own
        v.append(linear(np.concatenate([before, own, after]), params["video"]))
    v = np.array(v) / np.linalg.norm(v, axis=1, keepdims=True)
    s = linear(batch.sentence, params["sentence"])
    s = s / np.linalg.norm(s, axis=1, keepdims=True)
    for i in range(8):
        for j in range(8):
            fused = np.concatenate([v[j] * s[i], v[j] + s[i], v[j], s[i]])
            hidden = np.maximum(linear(fused, params["alignment"]["hidden"]), 0)
            expected = linear(hidden, params["alignment"]["output"])
            np.testing.assert_allclose(outputs.score[i, j], expected[0], atol=1e-5)
            np.testing.assert_allclose(outputs.offsets[i, j], expected[1:], atol=1e-5)


def test_prediction_moves_windows_and_leaves_out_those_beyond_the_video():
    model = create("ctrl", lengths=(2, 4), strides=(2, 1), test_lengths=(2, 4), offset_scale=10.0)
    batch = jax.tree.map(lambda x: x[:1], random_batch(clips=6, fill=0))
    batch = dataclasses.replace(batch, video_mask=np.arange(6)[None] < 4, duration=np.float32([8]))
    # Windows [0,2], [2,4], [4,6], [0,4], [1,5], [2,6], of which the third, fifth and sixth are beyond clip 4.
    score = jnp.float32([[1, 3, 9, 2, 9, 9]])
    offsets = jnp.zeros((1, 6, 2)).at[0, 1].set(jnp.float32([-5, 5]))
    moments = model.predict(Outputs(score=score, offsets=offsets), batch)
    # A clip is 2 s. [2,4] moves by half a clip on both sides: [1.5,4.5] is [3,9] s; it is not cut at 8 s.
    np.testing.assert_allclose(moments.spans[0, :3], [[3, 9], [0, 8], [0, 4]])
    np.testing.assert_allclose(moments.scores[0, :3], [3, 2, 1])
    assert not np.isfinite(moments.scores[0, 3:]).any()
    # Clip 0 is in [0,2] and [0,4], with scores 1 and 2; clips 2 and 3 in [2,4], with 3; clips 4, 5 in none.
    clips = model.explain(Outputs(score=score, offsets=offsets), batch)["clips"][0]
    np.testing.assert_allclose(clips, jax.nn.sigmoid(jnp.float32([2, 2, 3, 3, np.nan, np.nan])), rtol=1e-6)


@pytest.mark.parametrize("text,names", [("lstm", {"text"}), ("mean", set()), ("sentence", set())])
def test_text(batch, text, names):
    model = create("ctrl", **{**SMALL, "text": text})
    assert model.requires() == (("sentence",) if text == "sentence" else ())
    shapes = jax.eval_shape(lambda b: model.init(jax.random.key(0), b, train=True), batch)["params"]
    assert set(shapes) == {"video", "sentence", "alignment"} | names
    width = {"lstm": 8, "mean": 5, "sentence": 4}[text]
    assert shapes["sentence"]["kernel"].shape == (width, 8)


def test_mean_of_words_counts_real_words_alone(batch):
    model = create("ctrl", **{**SMALL, "text": "mean"})
    variables = random_variables(model, batch)
    shorter = dataclasses.replace(batch, query_mask=np.arange(7)[None] < np.ones((8, 1)))
    first = np.broadcast_to(batch.query_vectors[:, :1], batch.query_vectors.shape)
    expected = outputs_of(model, variables, dataclasses.replace(batch, query_vectors=first)).score
    np.testing.assert_allclose(outputs_of(model, variables, shorter).score, expected, atol=1e-6)
    assert np.abs(outputs_of(model, variables, batch).score - expected).max() > 1e-4


@pytest.mark.parametrize(
    "fields,change,message",
    [
        (
            dict(context_windows="none"),
            {},
            'context_windows of ctrl is "none"[.] Known: official, exact',
        ),
        (dict(regression="n"), {}, "Known: np, p, none"),
        (dict(strides=(1, 1)), {}, "one positive number for each of lengths"),
        (dict(test_lengths=(3,)), {}, "must be a part of lengths"),
        (dict(lengths=(20,), strides=(1,), test_lengths=(20,)), {}, "A video has 16 clips"),
        ({}, dict(sentence=None), "reads a vector of the whole query"),
    ],
)
def test_wrong_settings_are_told(batch, fields, change, message):
    with pytest.raises(UserError, match=message):
        model = create("ctrl", **{**SMALL, **fields})
        jax.eval_shape(
            lambda b: model.init(jax.random.key(0), b, train=True), dataclasses.replace(batch, **change)
        )
