"""Every config builds, has a golden parameter count, and takes a step."""

import importlib
import pkgutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import configs
from configs import common
from vmr_jax import input as input_lib
from vmr_jax import optimizer as optimizer_lib
from vmr_jax.errors import UserError
from vmr_jax.experiment import config_as_dict, initial_variables, load_config, make_model
from vmr_jax.inspect import abstract_variables, parameter_count
from vmr_jax.train import initial_state, make_step
from vmr_jax.writer import write_json

FVMR = 19_133_442  # Charades-STA VGG; derived in tests/models/test_fvmr.py
# The official code's: Charades-STA VGG (4096-d clips, kernel 5), ActivityNet Captions C3D (500-d, kernel 9).
CHARADES_POOL, CHARADES_CONV = 60_925_953, 69_060_609
ACTIVITYNET_POOL, ACTIVITYNET_CONV = 91_588_609, 108_644_353


# VSLNet, Charades-STA I3D: the official code has 786,271 with a table of 10 GloVe vectors and one for padding.
VSLNET = 786_271 - (10 + 1) * 300
# Characters are 100-d on ActivityNet Captions, not 50-d: 40 of them, and 10, 20, 30, 40 kernels of 1 to 4.
VSLNET_CHARS = 50 * (40 + 10 * 1 + 20 * 2 + 30 * 3 + 40 * 4)


def _other_width(count, published, width, features=512):
    """The first layer alone reads the D-dimensional clips: `published` * F weights become `width` * F."""
    return count - (published - width) * features


def _golden():
    counts = {
        ("fvmr", "storyboard"): 286_978,
        ("two_d_tan", "storyboard"): 189_953,
        ("vslnet", "storyboard"): 183_233,
    }
    for dataset, variants in {**common.FEATURES, "jsonl": {"": common.Features("features", 512)}}.items():
        for variant, features in variants.items():
            arg = f"{dataset},{variant}" if variant else dataset
            counts["fvmr", arg] = _other_width(FVMR, 4096, features.dim)
            chars = VSLNET_CHARS if dataset.startswith("activitynet") else 0
            counts["vslnet", arg] = _other_width(VSLNET, 1024, features.dim, 128) + chars
            if dataset.startswith("activitynet"):
                counts["two_d_tan", arg] = _other_width(ACTIVITYNET_POOL, 500, features.dim)
            else:  # a pooled map has no weights, so its size does not count
                counts["two_d_tan", arg] = _other_width(CHARADES_POOL, 4096, features.dim)
    counts["two_d_tan", "charades_sta,vgg,conv"] = CHARADES_CONV
    counts["two_d_tan", "activitynet_captions,c3d,conv"] = ACTIVITYNET_CONV
    return counts


GOLDEN = _golden()
SHAPES = ("storyboard", "charades_sta,vgg", "activitynet_captions,c3d", "tacos,c3d", "didemo,vgg", "jsonl")

NAMES = sorted(m.name for m in pkgutil.iter_modules(configs.__path__) if m.name != "common")


def get_config(name, arg):
    return importlib.import_module(f"configs.{name}").get_config(arg).lock()


@pytest.mark.parametrize("name,arg", GOLDEN)
def test_golden_parameter_count(name, arg):
    assert parameter_count(abstract_variables(get_config(name, arg))) == GOLDEN[name, arg]


def test_every_config_has_a_golden_count():
    for name in NAMES:
        datasets = importlib.import_module(f"configs.{name}").DATASETS
        for dataset, options in datasets.items():
            variants = [o for o in options if o in common.FEATURES.get(dataset, ())] or [None]
            for variant in variants:
                arg = dataset if variant is None else f"{dataset},{variant}"
                assert (name, arg) in GOLDEN, f"no golden parameter count for {name}:{arg}"


def test_every_architecture_has_a_config():
    from vmr_jax.models import architectures

    assert set(architectures()) <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("arg", SHAPES)
def test_training_step_has_consistent_shapes(name, arg):
    config = get_config(name, arg)
    model = make_model(config)
    schedule = optimizer_lib.learning_rate(config.optimizer, 100, 10)
    variables = abstract_variables(config)
    optimizer = optimizer_lib.make_optimizer(config.optimizer, schedule, variables["params"])
    state = jax.eval_shape(lambda v: initial_state(v, optimizer), variables)
    batch = input_lib.batch_spec(config, config.batch_size, model.requires())
    after, scalars = jax.eval_shape(make_step(model, optimizer, schedule, 10, 0), state, batch)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(
        lambda x: (x.shape, x.dtype), state
    )
    assert all(value.shape == () and value.dtype == jnp.float32 for value in scalars.values())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_one_step_of_the_default_config(name, dtype):
    config = get_config(name, None)
    with config.unlocked():
        config.dtype = dtype
    model = make_model(config)
    spec = input_lib.batch_spec(config, 4, model.requires())
    rng = np.random.default_rng(0)
    batch = jax.tree.map(
        lambda s: rng.random(s.shape, np.float32) if s.dtype == np.float32 else np.ones(s.shape, s.dtype),
        spec,
    ).replace(span=np.tile(np.float32([0.2, 0.6]), (4, 1)), duration=np.ones(4, np.float32))
    schedule = optimizer_lib.learning_rate(config.optimizer, 100, 10)
    variables = initial_variables(model, spec, 0)
    optimizer = optimizer_lib.make_optimizer(config.optimizer, schedule, variables["params"])
    step = jax.jit(make_step(model, optimizer, schedule, 10, 0))
    state = initial_state(variables, optimizer)
    for _ in range(2):  # the first step of a warm-up has rate 0
        state, scalars = step(state, batch)
    assert np.isfinite(scalars["train/loss"]) and scalars["train/grad_norm"] > 0
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(state.params))
    assert any(
        not np.array_equal(a, b)
        for a, b in zip(jax.tree.leaves(state.params), jax.tree.leaves(variables["params"]))
    )


@pytest.mark.parametrize(
    "arg,message",
    [
        ("storybord", 'no dataset "storybord". Did you mean "storyboard"?'),
        ("charades_sta,vg", 'no option "vg" for charades_sta. Did you mean "vgg"?'),
        ("charades_sta,vgg,clip", "Name one feature variant, not 2: vgg, clip."),
        ("tacos,2d_tan,tall", "Name one version, not 2: 2d_tan, tall."),
    ],
)
@pytest.mark.parametrize("name", NAMES)
def test_wrong_argument_names_the_nearest(name, arg, message):
    with pytest.raises(UserError) as error:
        get_config(name, arg)
    assert message in str(error.value)


@pytest.mark.parametrize(
    "convention,select,evaluated",
    [
        ("2d_tan", "anet_val_1", ("anet_val_2",)),
        ("vslnet", "anet_val_2", ("anet_val_1",)),
        ("lgi", "val", ("anet_val_1_and_2",)),
    ],
)
def test_conventions_of_activitynet_name_their_splits(convention, select, evaluated):
    config = get_config("two_d_tan", f"activitynet_captions,{convention}")
    assert config.dataset.convention == convention
    assert (config.evaluation.select_split, config.evaluation.splits) == (select, evaluated)


@pytest.mark.parametrize("name", NAMES)
def test_unknown_field_is_refused_with_the_nearest_name(name):
    with pytest.raises(AttributeError, match="learning_rate"):
        get_config(name, None).optimizer.learning_rat = 1.0


@pytest.mark.parametrize("name,arg", list(GOLDEN)[:2])
def test_config_survives_json(name, arg, tmp_path):
    config = get_config(name, arg)
    write_json(tmp_path / "config.json", config_as_dict(config))
    again = load_config(tmp_path)
    assert config_as_dict(again) == config_as_dict(config)
    assert again.optimizer.rules == config.optimizer.rules  # tuples stay tuples
    assert again.is_locked


def test_wrong_hyper_parameter_names_the_nearest():
    config = get_config("two_d_tan", None)
    with config.unlocked():
        config.model.map_kernal = 3
    with pytest.raises(UserError, match='no hyper-parameter "map_kernal". Did you mean "map_kernel"'):
        make_model(config)
