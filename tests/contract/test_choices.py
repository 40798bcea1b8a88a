"""Hyper-parameters: the values that they can have, and what is said of another one."""

import dataclasses
import math

import jax.numpy as jnp
import pytest
from traced import NAMES, get_config

from vmr_jax.errors import UserError
from vmr_jax.models import create, model_class
from vmr_jax.training.experiment import make_model

FREE = {("fian", "stride")}  # a number of clips or a part of the window's, which FIAN reads
TEXT = (str, tuple[str, ...])
WRONG = {
    bool: ("yes", 1, None),
    int: (True, 1.5, "1", None),
    float: (True, "1", None, math.nan, math.inf),
}  # type of a field -> values that it cannot have


def text_fields(kind):
    return {field.name for field in dataclasses.fields(kind) if field.type in TEXT}


def several(kind, field):
    return isinstance(getattr(kind, field), tuple)


@pytest.mark.parametrize("name", NAMES)
def test_every_field_of_text_says_its_values(name):
    kind = model_class(name)
    assert text_fields(kind) - set(kind.choices) == {field for owner, field in FREE if owner == name}
    assert set(kind.choices) <= text_fields(kind)
    for field, known in kind.choices.items():
        for value in known:
            create(name, **{field: (value,) if several(kind, field) else value})


def by_command(kind, name, fields):
    config = get_config(name, None)
    with config.unlocked():
        config.model.update(fields)
    return make_model(config)


MAKERS = {
    "create": lambda kind, name, fields: create(name, **fields),
    "the class": lambda kind, name, fields: kind(**fields),
    "a copy": lambda kind, name, fields: kind().clone(**fields),
    "the command": by_command,
}


@pytest.mark.parametrize("maker", MAKERS)
def test_no_other_value_is_taken(maker):
    for name in NAMES:
        kind = model_class(name)
        for field, known in kind.choices.items():
            first, *_ = known
            wrong = f"{first}_"
            with pytest.raises(UserError) as error:
                MAKERS[maker](kind, name, {field: (wrong,) if several(kind, field) else wrong})
            known = ", ".join(known)
            assert str(error.value) == (
                f'config.model.{field} of {name} is "{wrong}". Did you mean "{first}"? Known: {known}.'
            )


def test_choices_of_a_class_of_ones_own():
    class Mine(model_class("xml")):
        ends: str = "soft"
        choices = {"ends": ("soft", "hard")}

    assert Mine(ends="hard").ends == "hard"
    with pytest.raises(UserError, match='Mine is "sotf". Did you mean "soft"'):
        create(Mine, ends="sotf")
    with pytest.raises(UserError, match="config.model.ends of .*Mine is 3; it must be text"):
        create(Mine, ends=3)


def test_every_number_and_switch_takes_its_own_kind_alone():
    for name in NAMES:
        for field in dataclasses.fields(model_class(name)):
            for wrong in WRONG.get(field.type, ()):
                with pytest.raises(
                    UserError, match=f"config.model.{field.name} of {name} is {wrong!r}; it must be "
                ):
                    create(name, **{field.name: wrong})


def test_a_share_is_above_nothing_and_at_most_the_whole():
    shares = [
        (name, f.name) for name in NAMES for f in dataclasses.fields(model_class(name)) if "share" in f.name
    ]
    assert len(shares) >= 8  # those of the span predictors
    for name, field in shares:
        assert getattr(create(name, **{field: 0.25}), field) == 0.25
        for wrong in (0.0, -0.5, 1.5):
            with pytest.raises(
                UserError, match=f"{field} of {name} is {wrong}; it must be above 0, and 1 at most"
            ):
                create(name, **{field: wrong})


def test_both_neighbours_have_the_whole_label_at_most():
    assert create("vslnet", label_softness=0.5).label_softness == 0.5
    for wrong in (-1.0, 0.6):
        with pytest.raises(UserError, match=f"label_softness of vslnet is {wrong}; it must be in "):
            create("vslnet", label_softness=wrong)


def test_layers_compute_with_floating_point_numbers():
    for dtype in ("bfloat16", jnp.float16, jnp.dtype("float32")):
        assert create("fvmr", dtype=dtype).dtype == dtype
    for wrong in ("float99", "int32", jnp.int8, 3, bool):
        with pytest.raises(UserError, match="dtype of fvmr is .*; it must be jnp.float32"):
            create("fvmr", dtype=wrong)


def test_what_is_no_name_and_no_class_is_no_architecture():
    for wrong in (None, 3, ["fvmr"], create("fvmr")):
        with pytest.raises(UserError, match="An architecture is given by its name or its class, not as "):
            create(wrong)
