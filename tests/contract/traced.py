"""What tracing alone tells of a config: nothing is compiled, and what configs share is traced once.

Most configs of an architecture differ in the files of the dataset and the width of its features alone.
"""

import importlib

import jax
import jax.numpy as jnp
import pytest

from vmr_jax.input.spec import batch_spec
from vmr_jax.models import architectures
from vmr_jax.training import experiment
from vmr_jax.training import optimizer as optimizer_lib
from vmr_jax.training.step import initial_state, make_step

NAMES = sorted(architectures())
# Stand for the widths of clip features and of word vectors: larger than any other size of any model.
CLIPS, WORDS = 10**6, 10**8
# Fields with the number of alike layers that follow each other.
_STACKS = ("conv_layers", "layers", "lstm_layers", "map_layers", "syntax_layers")
_variables = {}  # setting -> shapes and dtypes of its variables
_stepped = {}  # setting -> state and scalars after a step


def get_config(name, arg):
    return importlib.import_module(f"vmr_jax.configs.{name}").get_config(arg).lock()


def _setting(config):
    """The model, its batch with widths that stand for any, and the text of both."""
    model = experiment.make_model(config)
    spec = batch_spec(config, max(config.input.queries_per_video, 1), model.requires())
    spec = spec.replace(
        video=jax.ShapeDtypeStruct((*spec.video.shape[:2], CLIPS), spec.video.dtype),
        query_vectors=jax.ShapeDtypeStruct((*spec.query_vectors.shape[:2], WORDS), spec.query_vectors.dtype),
    )
    return model, spec, f"{model} {spec}"


def variables_of(config):
    """Shapes and dtypes of the variables, traced once for all widths: a size w WORDS / 2 + c CLIPS + n is there
    w times half the width of word vectors, c times that of clip features, and n.
    """
    model, spec, text = _setting(config)
    if text not in _variables:
        _variables[text] = experiment.abstract_variables(model, spec)
    actual = batch_spec(config, 1, model.requires())
    clips, words = actual.video.shape[-1], actual.query_vectors.shape[-1]

    def size(n):
        halves, rest = divmod(n, WORDS // 2)
        return halves * words // 2 + rest // CLIPS * clips + rest % CLIPS

    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(tuple(map(size, x.shape)), x.dtype), _variables[text])


def with_few_layers(config):
    """The config with two layers where more that are alike follow each other; of a published text encoder, one.

    All are counted as parameters; tracing and compiling cost by the layer, and the others are like these.
    """
    fewer = config.copy_and_resolve_references().unlock()
    for field, most in {**dict.fromkeys(_STACKS, 2), "text_layers": 1}.items():
        if field in fewer.model:
            fewer.model[field] = min(fewer.model[field], most)
    return fewer.lock()


def _shapes_of_gradients(objective, has_aux):
    """Stands for `jax.grad` where only shapes and dtypes matter, which are those of the parameters."""
    assert has_aux

    def gradients(params):
        value, aux = objective(params)
        assert (value.shape, value.dtype) == ((), jnp.float32)
        return params, aux

    return gradients


def after_step(config, *, differentiate: bool):
    """Shapes of the state and of the scalars after a step, traced once for all widths of features.

    Those of the state are checked to be what they were before. Most of the time goes into the derivative, which
    can be left out.
    """
    config = with_few_layers(config)
    text = f"{_setting(config)[2]} {differentiate}"
    if text not in _stepped:
        model = experiment.make_model(config)
        schedule = optimizer_lib.learning_rate(config.optimizer, 100, 10)
        variables = variables_of(config)
        optimizer = optimizer_lib.make_optimizer(config.optimizer, schedule, variables["params"], 10)
        state = jax.eval_shape(lambda v: initial_state(v, optimizer), variables)
        batch = batch_spec(config, config.batch_size, model.requires())
        with pytest.MonkeyPatch.context() as patch:
            if not differentiate:
                patch.setattr(jax, "grad", _shapes_of_gradients)
            after, scalars = jax.eval_shape(make_step(model, optimizer, schedule, 10, 0), state, batch)
        kinds = [jax.tree.map(lambda x: (x.shape, x.dtype), tree) for tree in (after, state)]
        assert kinds[0] == kinds[1]
        _stepped[text] = after, scalars
    return _stepped[text]
