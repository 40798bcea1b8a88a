"""Why span predictors answer the whole video: what is tried, and the predictor without a network."""

import jax
import numpy as np
import pytest
from absl import flags

from vmr_jax.config import override
from vmr_jax.errors import UserError
from vmr_jax.types import Batch


@pytest.fixture(scope="module")
def study(program):
    """The program."""
    return program("span_study")


def test_every_variant_sets_fields_that_its_config_has(study):
    for variant in study.VARIANTS.values():
        config = study.get_config(variant.architecture).unlock()
        override(config, variant.settings)
        override(config, {f"model.{k}": v for k, v in study.limited(variant.architecture, 0.5).items()})
        assert variant.steps >= study.EVALUATIONS


def test_the_histogram_counts_ends_from_the_end(study):
    # Of three real clips the start has 1/2, 1/4, 1/4 and the end, counted backwards, 1/8, 1/8, 3/4: the whole
    # video has 1/2 * 3/4. Of at most two clips the last two, and the last alone, have 1/4 * 3/4.
    model = study.Histogram(tuple(np.log([2.0, 1.0, 1.0, 9.0])), tuple(np.log([6.0, 1.0, 1.0, 9.0])))
    batch = Batch.of(duration=[6.0], video=np.ones((1, 4, 1)), video_mask=[[True, True, True, False]])
    outputs = model.apply({}, batch, train=False)
    np.testing.assert_allclose(jax.nn.softmax(outputs.end)[0], [1 / 8, 1 / 8, 3 / 4, 0], rtol=1e-6)
    best = model.predict(outputs, batch)
    assert (best.spans[0, 0].tolist(), best.scores[0, 0]) == ([0, 6], pytest.approx(3 / 8))
    short = model.clone(longest_share=2 / 3).predict(outputs, batch)
    assert short.spans[0, :2].tolist() == [[2, 6], [4, 6]] and float(short.scores[0, 0]) == pytest.approx(
        3 / 16
    )


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--only=excl", "--test=excl,tmlga"], '--test has "tmlga"'),  # which would not be trained
        (["--results=absent/lines.csv"], "lines.csv cannot be written: there is no folder"),
    ],
)
def test_what_could_not_be_done_is_refused_before_training(study, program, monkeypatch, tmp_path, given, said):
    holder = flags.FlagValues()
    study.define_flags(holder)
    holder(["program", "--data=DIR", "--vectors=FILE", "--results=lines.csv", *given])
    for module in (study, program("real")):
        monkeypatch.setattr(module, "FLAGS", holder)
    monkeypatch.setattr(study.os, "nice", lambda _: 0)
    monkeypatch.setattr(study, "train", lambda name: pytest.fail("a variant was trained"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=said):
        study.main([])
