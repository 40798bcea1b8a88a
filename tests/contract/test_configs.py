"""Every config builds, has a golden parameter count, and takes a step."""

import importlib

import cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from traced import NAMES, after_step, get_config, variables_of

from vmr_jax.config import config_as_dict, load_config
from vmr_jax.configs import datasets
from vmr_jax.errors import UserError
from vmr_jax.files import write_json
from vmr_jax.input.spec import batch_spec
from vmr_jax.modes.inspect import abstract_variables, parameter_count
from vmr_jax.training import optimizer as optimizer_lib
from vmr_jax.training.experiment import initial_variables, make_model
from vmr_jax.training.step import initial_state, make_step

GOLDEN = {(name, arg): count for name, case in cases.ALL.items() for arg, count in case.golden().items()}
SHAPES = ("charades_sta,vgg", "activitynet_captions,c3d", "tacos,c3d", "didemo,vgg", "jsonl")


def datasets_of(name):
    return importlib.import_module(f"vmr_jax.configs.{name}").DATASETS


def with_datasets(args):
    """(architecture, argument) of those whose config has the argument's dataset, with features of any kind."""

    def has(name, dataset):
        return {*datasets.FEATURES[dataset]} <= {
            *datasets_of(name).get(dataset, ())
        } and dataset in datasets_of(name)

    return [(name, arg) for name in NAMES for arg in args if has(name, arg.split(",")[0])]


@pytest.mark.parametrize("name,arg", GOLDEN)
def test_golden_parameter_count(name, arg):
    assert parameter_count(variables_of(get_config(name, arg))) == GOLDEN[name, arg]


@pytest.mark.parametrize("name", NAMES)
def test_inspect_counts_the_parameters_of_the_default_config(name):
    assert parameter_count(abstract_variables(get_config(name, None))) == GOLDEN[name, "storyboard"]


def test_every_config_has_a_golden_count():
    for name in NAMES:
        for dataset, options in datasets_of(name).items():
            if dataset == "films":  # has the model of storyboard, see below
                continue
            variants = [o for o in options if o in datasets.FEATURES.get(dataset, ())] or [None]
            for variant in variants:
                arg = dataset if variant is None else f"{dataset},{variant}"
                assert (name, arg) in GOLDEN, f"no golden parameter count for {name}:{arg}"


@pytest.mark.parametrize("name", [name for name in NAMES if "films" in datasets_of(name)])
def test_films_has_the_settings_of_storyboard(name):
    """But for the data, streams and seconds of a clip, which films does not have, and how FVMR is trained."""
    own = {"dataset", "note"} | ({"optimizer", "train_for", "evaluate_every"} if name == "fvmr" else set())
    left = {"streams", "clip_seconds"} | ({"contrast_weight"} if name == "fvmr" else set())
    films, storyboard = (config_as_dict(get_config(name, arg)) for arg in ("films", "storyboard"))
    assert films["dataset"]["name"] == "films"
    assert films["model"].get("streams") in (None, "video", "rgb")
    assert films.keys() == storyboard.keys()
    for part in films.keys() - own - {"model"}:
        assert films[part] == storyboard[part]
    for field in films["model"].keys() - left:
        assert films["model"][field] == storyboard["model"][field]


def test_every_architecture_has_a_config_and_a_case():
    assert set(NAMES) == set(cases.ALL)
    for name in NAMES:
        get_config(name, None)


@pytest.mark.parametrize("name,arg", with_datasets(SHAPES))
def test_training_step_keeps_the_shapes_of_its_state(name, arg):
    _, scalars = after_step(get_config(name, arg), differentiate=False)
    assert all(value.shape == () and value.dtype == jnp.float32 for value in scalars.values())


@pytest.mark.parametrize("name", NAMES)
def test_one_step_of_the_default_config(name):
    config = get_config(name, None)
    model = make_model(config, vocab_size=9)  # of one class there is nothing to learn
    rows = 4 * config.input.queries_per_video
    spec = batch_spec(config, rows, model.requires())
    rng = np.random.default_rng(0)
    batch = jax.tree.map(
        lambda s: rng.random(s.shape, np.float32) if s.dtype == np.float32 else np.ones(s.shape, s.dtype),
        spec,
    ).replace(
        span=np.tile(np.float32([0.2, 0.6]), (rows, 1)),
        duration=np.ones(rows, np.float32),
        example_index=np.arange(rows, dtype=np.int32),
        video_index=np.arange(rows, dtype=np.int32) // config.input.queries_per_video,
    )
    schedule = optimizer_lib.learning_rate(config.optimizer, 100, 10)
    variables = initial_variables(model, spec, 0)
    optimizer = optimizer_lib.make_optimizer(config.optimizer, schedule, variables["params"], 10)
    step = jax.jit(make_step(model, optimizer, schedule, 10, 0))
    state = jax.jit(lambda v: initial_state(v, optimizer))(variables)
    for _ in range(2):  # the first step of a warm-up has rate 0
        state, scalars = step(state, batch)
    assert np.isfinite(scalars["train/loss"]) and scalars["train/grad_norm"] > 0
    assert any(
        not np.array_equal(a, b)
        for a, b in zip(jax.tree.leaves(state.params), jax.tree.leaves(variables["params"]))
    )


@pytest.mark.parametrize("name", NAMES)
def test_parameters_and_loss_are_float32_where_the_computation_is_not(name):
    config = get_config(name, None)
    with config.unlocked():
        config.dtype = "bfloat16"
    after, scalars = after_step(config, differentiate=True)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(after.params))
    assert all(value.dtype == jnp.float32 for value in scalars.values())


WRONG = {
    "charades_sta,vg": 'For charades_sta this config has no option "vg". Did you mean "vgg"?',
    "charades_sta,vgg,clip": "Name one feature variant, not 2: vgg, clip.",
    "tacos,2d_tan,tall": "Name one version, not 2: 2d_tan, tall.",
}


@pytest.mark.parametrize("name,arg", with_datasets(WRONG))
def test_wrong_option_names_the_nearest(name, arg):
    with pytest.raises(UserError) as error:
        get_config(name, arg)
    assert WRONG[arg] in str(error.value)


@pytest.mark.parametrize("name", NAMES)
def test_wrong_dataset_names_the_nearest(name):
    with pytest.raises(UserError) as error:
        get_config(name, "storybord")
    assert 'no dataset "storybord". Did you mean "storyboard"?' in str(error.value)


@pytest.mark.parametrize("name", NAMES)
def test_a_dataset_that_is_left_out_is_told_why(name):
    config = importlib.import_module(f"vmr_jax.configs.{name}")
    lacking = getattr(config, "LACKING", {})
    assert set(lacking) == set(datasets.DATASETS) - set(config.DATASETS)
    known = ", ".join(config.DATASETS)
    for dataset, why in lacking.items():
        with pytest.raises(UserError) as error:
            get_config(name, dataset)
        assert str(error.value) == f'This config has no dataset "{dataset}": {why}. Known: {known}.'


def test_a_library_is_left_out_as_ones_own_data_are():
    with pytest.raises(UserError, match='no dataset "library": mXML reads every query in a second language'):
        get_config("mxml", "library,clip")


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
