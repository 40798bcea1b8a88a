"""Whatever would stop a run later stops it before data are read and before its folder is made."""

import sys
from types import SimpleNamespace

import flax.linen as nn
import jax.numpy as jnp
import pytest
from tiny import tiny_config

from vmr_jax.errors import UserError
from vmr_jax.input.dataset import Dataset
from vmr_jax.models import GroundingModel, create
from vmr_jax.training.fit import fit
from vmr_jax.training.preflight import check_config, check_losses
from vmr_jax.types import Mean, Moments


@pytest.fixture(autouse=True)
def no_data(monkeypatch):
    """Reading data would be too late."""

    def read(*_):
        pytest.fail("the data were read")

    monkeypatch.setattr(Dataset, "__init__", read)


def seconds(outputs, batch, *, epoch):
    del outputs, epoch
    return Mean.of(batch.duration, batch.example_mask)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"train_for": "4 stps"}, 'config.train_for is "4 stps"; write a number and a unit'),
        ({"log_every": "5"}, 'config.log_every is "5"; write a number and a unit'),
        ({"evaluate_every": "often"}, 'config.evaluate_every is "often"'),
        ({"checkpoint_every": "10"}, 'config.checkpoint_every is "10".*10 minutes'),
        (
            {"batch_size": 0},
            "config.batch_size is 0; it must be a positive multiple of the number of devices, 8",
        ),
        ({"optimizer__learning_rate": -1.0}, "config.optimizer.learning_rate is -1.0; it must not be negative"),
        ({"optimizer__clip_norm": -1.0}, "config.optimizer.clip_norm is -1.0; it must not be negative"),
        (
            {"optimizer__learning_rate": float("nan")},
            "config.optimizer.learning_rate is nan; it must be a number",
        ),
        ({"optimizer__clip_norm": float("inf")}, "clip_norm is inf; it must not be negative, and finite"),
        ({"evaluation__thresholds": (0.5, float("nan"))}, r"config.evaluation.thresholds is \(0.5, nan\)"),
        ({"optimizer__warmup": "1"}, 'config.optimizer.warmup is "1"'),
        ({"optimizer__name": "adma"}, 'config.optimizer.name is "adma". Did you mean "adam"'),
        ({"optimizer__schedule": "cosin"}, 'schedule is "cosin". Did you mean "cosine"'),
        ({"optimizer__rules": (".*", 1.0)}, r"config.optimizer.rules has '\.\*'; a rule is a regex"),
        ({"optimizer__rules": ((".*",),)}, r"config.optimizer.rules has \('\.\*',\); a rule is a regex"),
        ({"optimizer__rules": (("(", 1.0),)}, r'rules has "\(", which is no regular expression: missing \)'),
        ({"optimizer__no_decay": "*x"}, r'no_decay has "\*x", which is no regular expression: nothing to rep'),
        ({"text__tokenizer": "word"}, 'There is no tokeniser "word". Did you mean "words"'),
        ({"dataset__feature_dim": 0}, "config.dataset.feature_dim is 0; it must be from 1 to 2,147,483,647"),
        ({"text__max_words": -1}, "config.text.max_words is -1; it must be from 1 to"),
        ({"input__num_clips": 2**31}, "config.input.num_clips is 2147483648; it must be from 1 to"),
        ({"evaluation__keep": 0}, "config.evaluation.keep is 0; it must be from 1 to"),
        ({"num_devices": -1}, "config.num_devices is -1; it must be from 0 to"),
        ({"evaluation__nms_threshold": -0.5}, "nms_threshold is -0.5; it must be not negative, and finite"),
        ({"optimizer__b1": 2.0}, "config.optimizer.b1 is 2.0; it must be from 0 to 1"),
        ({"evaluation__thresholds": (30, 50)}, r"thresholds is \(30, 50\); it must hold IoUs from 0 to 1"),
        ({"evaluation__thresholds": ("0.5",)}, r"thresholds is \('0.5',\); it must hold IoUs from 0 to 1"),
        ({"evaluation__top_n": (0, 1)}, r"top_n is \(0, 1\); it must hold whole numbers of at least 1"),
        ({"evaluation__splits": (1,)}, r"splits is \(1,\); it must hold names of splits"),
        ({"optimizer__rules": (("none", 1.0),)}, "No rule in config.optimizer.rules covers the parameter"),
        (
            {"optimizer__decay_at": ("2 steps",)},
            "decay_at is .* read only with config.optimizer.schedule='step'",
        ),
        ({"optimizer__clip_each": True, "optimizer__clip_norm": 0.0}, "clip_each is True, .* read only with"),
        ({"evaluation__protocol": "moments"}, 'config.evaluation.protocol is "moments"'),
        ({"evaluation__select_by": "R1@0.55"}, 'select_by is "R1@0.55"'),
        ({"evaluation__sanity": ("blnd",)}, 'sanity names "blnd". Did you mean "blind"'),
        ({"evaluation__corpus_videos": 7}, "corpus_videos is 7, .* with config.evaluation.protocol='corpus'"),
        ({"evaluation__batch_size": 7}, "config.evaluation.batch_size is 7, which 8 devices cannot share"),
        ({"input__resample": "avrage"}, 'resample is "avrage"'),
        (
            {"text__vectors": "no/glove.txt"},
            "There are no word vectors at no/glove.txt.*config.text.vectors=none",
        ),
        ({"text__vocabulary": "no.json"}, "config.text.vocabulary is no.json, which is no file or folder"),
        ({"model__lstm_layers": 0}, "config.model.lstm_layers of fvmr is 0; it must be positive"),
        ({"model__common": 0}, "config.model.common of fvmr is 0; it must be positive"),
        ({"tensorboard": True}, "config.tensorboard needs tensorboardX, which is not installed"),
    ],
)
def test_wrong_settings_are_one_line_and_leave_no_folder(tmp_path, monkeypatch, fields, message):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(UserError, match=message):
        fit(tiny_config(tmp_path, **fields), tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "fields"),
    [("vslnet", {}), ("lgi", {}), ("xml", {}), ("moment_detr", {}), ("scn", {})],
)
def test_heads_share_the_width(tmp_path, name, fields):
    with pytest.raises(
        UserError, match=rf"config.model.features of {name} is 8, .* 3 heads .*config.model.heads"
    ):
        check_config(tiny_config(tmp_path, name, model__heads=3, **fields))


@pytest.mark.parametrize(
    ("name", "field"),
    [("two_d_tan", "map_layers"), ("moment_detr", "decoder_layers"), ("moment_detr", "max_windows"),
     ("scdm", "layers"), ("scn", "hide_one_in"), ("tsp_prl", "phase_steps")],
)  # fmt: skip
def test_counts_that_cannot_be_nought(tmp_path, name, field):
    with pytest.raises(UserError, match=f"config.model.{field} of {name} is 0; it must be positive"):
        check_config(tiny_config(tmp_path, name, **{f"model__{field}": 0}))


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("drn", dict(features=64.5), "config.model.features of drn is 64.5; it must be a whole number"),
        ("drn", dict(features="64"), "config.model.features of drn is '64'; it must be a whole number"),
        ("drn", dict(prior="low"), "config.model.prior of drn is 'low'; it must be a number"),
        ("excl", dict(shortest=4, longest=3), "longest of excl is 3, less than config.model.shortest, 4"),
    ],
)
def test_numbers_that_cannot_be_meant(name, fields, message):
    with pytest.raises(UserError, match=message):
        create(name, **fields)


@pytest.mark.parametrize(
    ("losses", "message"),
    [
        ([seconds], "losses is of type list; expected is a dict of name -> function"),
        ({"mine": lambda outputs, batch: None}, 'The loss "mine" cannot be called.*epoch'),
        ({"mine": 3}, 'The loss "mine" cannot be called'),
        ({"my loss": seconds}, "losses names 'my loss'; a name is a word"),
    ],
)
def test_wrong_losses(losses, message):
    with pytest.raises(UserError, match=message):
        check_losses(losses)


def test_losses_that_fail_name_their_line(tmp_path):
    def reads_what_is_not_there(outputs, batch, *, epoch):
        return outputs["logits"]

    line = reads_what_is_not_there.__code__.co_firstlineno + 1
    with pytest.raises(UserError, match=rf'"mine" fails \(.*test_preflight.py, line {line}\), TypeError'):
        check_config(tiny_config(tmp_path, "ctrl"), {"mine": reads_what_is_not_there})


class Whole(GroundingModel):
    """A class of the user's that answers with the whole video; what its loss returns is wrong."""

    dtype: jnp.dtype = jnp.float32
    vocab_size: int = 0

    @nn.compact
    def __call__(self, batch, *, train):
        return self.param("scale", lambda key: batch.duration[0] * 0) * batch.duration

    def loss(self, outputs, batch, *, epoch):
        return outputs.sum()


class WithoutPrediction(Whole):
    """Its loss is right, and it has no `predict`."""

    def loss(self, outputs, batch, *, epoch):
        return {"mine": Mean.of(outputs, batch.example_mask)}


class WrongPrediction(WithoutPrediction):
    """`predict` fails."""

    def predict(self, outputs, batch):
        return Moments(outputs.spans, outputs.scores)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Whole, "The loss of Whole returns .*; wanted is a dict of name -> vmr_jax.types.Mean"),
        (WithoutPrediction, "The predict of .*WithoutPrediction .*NotImplementedError.*the method is missing"),
        (WrongPrediction, "The predict of .*WrongPrediction .*AttributeError.*Correct the class"),
    ],
)
def test_a_class_of_the_users_is_traced_at_the_start(tmp_path, kind, message):
    config = tiny_config(tmp_path).copy_and_resolve_references().unlock()
    config.model = {"name": f"{kind.__module__}:{kind.__qualname__}"}
    with pytest.raises(UserError, match=message):
        check_config(config.lock())


def test_tensorboard_where_it_is_installed(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", SimpleNamespace(__spec__=SimpleNamespace()))
    check_config(tiny_config(tmp_path, tensorboard=True))
