"""A run small enough for a test: a few storyboard videos, eight hidden units."""

import importlib


def tiny_config(data_dir, name="fvmr", **fields):
    """The default config of an architecture, shrunk; `fields` are dotted paths with __ for the dot.

    Of the architectures "ctrl" compiles fastest, in a third of the time of FVMR.
    """
    config = importlib.import_module(f"vmr_jax.configs.{name}").get_config(None)
    config.dataset.data_dir = str(data_dir)
    config.dataset.train_videos = 20
    config.model.features = 8
    if name == "fvmr":
        config.model.common = 8
        config.model.warmup_epochs = 1
    config.batch_size = 16
    config.evaluation.batch_size = 200  # two batches of the 395 queries of val, three of the 589 of test
    config.evaluation.splits = ("val", "test")
    config.train_for = "8 steps"
    config.evaluate_every = "4 steps"
    config.log_every = "2 steps"
    return with_fields(config, fields)


def with_fields(config, fields):
    """The config, locked, with the fields set that keywords name: evaluation__splits is evaluation.splits."""
    for field, value in fields.items():
        *parents, last = field.split("__")
        node = config
        for parent in parents:
            node = node[parent]
        node[last] = value
    return config.lock()


def indexed_run(data_dir, workdir):
    """The config of a run of two steps that is trained in `workdir`, and indexed there."""
    from vmr_jax.modes import index
    from vmr_jax.modes.train import train

    config = tiny_config(data_dir, train_for="2 steps", evaluate_every="2 steps", evaluation__splits=("val",))
    train(config, workdir)
    index.index(config, workdir, dtype=None, uri=None)
    return config
