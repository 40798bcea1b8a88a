"""The command: its flags, and for each `--mode` one file of this folder. `launch.py` and `vmr_jax` are this."""

import importlib
import logging
import sys
from pathlib import Path
from typing import Any

from absl import app, flags
from absl import logging as absl_logging
from ml_collections import config_flags

from vmr_jax import configs
from vmr_jax.config import default_workdir, given_config, load_config
from vmr_jax.errors import UserError, unknown
from vmr_jax.modes.overrides import unknown_field

# mode -> module of this folder and its function (config, workdir, **the flags it names)
MODES = {
    "train": ("train", "train", ()),
    "evaluate": ("evaluate", "evaluate", ()),
    "predict": ("predict", "predict", ("video", "query", "top")),
    "inspect": ("inspect", "inspect", ()),
    "import": ("importing", "import_checkpoint", ("checkpoint",)),
    "check": ("check", "check", ()),
    "index": ("index", "index", ("dtype", "uri")),
    "search": ("search", "search", ("query", "video", "top")),
    "serve": ("serve", "serve", ("host", "port", "videos")),
    "score": ("score", "score", ("predictions",)),
    "compare": ("compare", "compare", ()),  # (folders of runs, workdir)
    "models": ("models", "models", ("family", "supervision", "dataset", "imports")),  # (the flags alone)
}

FLAGS = flags.FLAGS
config_flags.DEFINE_config_file("config", None, "configs/NAME.py[:dataset[,option...]]", lock_config=True)
flags.DEFINE_string("workdir", None, "Folder of the run; runs/<config>_<dataset> if not given.")
flags.DEFINE_string("mode", "train", f"What to do: {', '.join(MODES)}.")
flags.DEFINE_string("video", None, "predict, search: id of a video of the dataset.")
flags.DEFINE_string("query", None, "predict, search: the sentence.")
flags.DEFINE_integer("top", 5, "predict, search: how many moments to print.")
flags.DEFINE_string("checkpoint", None, "import: official PyTorch checkpoint.")
flags.DEFINE_string("predictions", None, "score: file of Moment-DETR's, TVR's or CBP's format.")
flags.DEFINE_string("dtype", None, "index: of the rows, if not config.retrieval.dtype.")
flags.DEFINE_string("uri", None, "index: a Milvus server, or file of Milvus Lite (FILE.db), not a folder.")
flags.DEFINE_string("host", "127.0.0.1", "serve: the address to listen on; other machines reach 0.0.0.0.")
flags.DEFINE_integer("port", 8000, "serve: the port.")
flags.DEFINE_string("family", None, "models: only of this family, such as ranking.")
flags.DEFINE_string("supervision", None, "models: full or weak.")
flags.DEFINE_string("dataset", None, "models: only those whose config has this dataset.")
flags.DEFINE_boolean("imports", None, "models: only those whose official checkpoints can be imported, or not.")
flags.DEFINE_string("videos", None, "serve: folder of video files named by video id, which the page plays.")


def main(argv: list[str]) -> None:
    """Resolves config and folder, then calls the one function of the mode."""
    if FLAGS.mode not in MODES:
        raise unknown("There is no --mode", FLAGS.mode, MODES)
    if len(argv) > 1 and FLAGS.mode != "compare":
        raise UserError(f"Unexpected argument {argv[1]!r}; flags look like --workdir=DIR.")
    from vmr_jax import parallel

    if not FLAGS["verbosity"].present:
        absl_logging.set_verbosity(absl_logging.WARNING)  # TFDS, Orbax and JAX tell much of themselves
    parallel.initialise_hosts(FLAGS.mode)
    module, function, names = MODES[FLAGS.mode]
    run = getattr(importlib.import_module(f"vmr_jax.modes.{module}"), function)
    if FLAGS.mode == "compare":
        return run(argv[1:], FLAGS.workdir and Path(FLAGS.workdir).expanduser())
    if FLAGS.mode == "models":
        return run(**{name: FLAGS[name].value for name in names})
    if FLAGS.config is None and FLAGS.workdir is None:
        raise UserError("Give --config=configs/NAME.py to train, or --workdir=DIR of a run.")
    if FLAGS.config is None:
        config = load_config(Path(FLAGS.workdir).expanduser())
    else:
        flag: Any = FLAGS["config"]
        config = given_config(FLAGS.config, flag.config_filename)
    workdir = Path(FLAGS.workdir or default_workdir(config)).expanduser()
    values = {name: FLAGS[name].value for name in names}
    if FLAGS.mode == "score" and FLAGS.config is not None:
        values["given"] = list(config_flags.get_override_values(FLAGS["config"]))
    run(config, workdir, **values)


def parse(argv: list[str]) -> list[str]:
    """Reads the flags.

    Modules in the working folder can then be imported, as a config may name a class of the user's.
    """
    sys.path.append(str(Path.cwd()))
    return FLAGS(resolved(argv))


def resolved(argv: list[str]) -> list[str]:
    """The command line with the path of the config that is meant."""
    named = [i for i, argument in enumerate(argv) if argument.lstrip("-").split("=")[0] == "config"]
    argv = list(argv)
    for i in named:
        flag, equals, value = argv[i].partition("=")
        if equals:
            argv[i] = f"{flag}={config_file(value)}"
        elif i + 1 < len(argv):
            argv[i + 1] = config_file(argv[i + 1])
    return argv


def config_file(value: str) -> str:
    """PATH[:argument] of a config, whose folder can then be imported from.

    Where nothing is at the path, it is that of the installed config of the same name. UserError where it is no
    Python file.
    """
    path, colon, argument = value.partition(":")
    if not path.endswith(".py"):
        raise UserError(
            f"--config={value} names no Python file. A config is a .py file with a function get_config, such "
            "as configs/fvmr.py, then a colon and its argument where it takes one."
        )
    installed = Path(configs.__path__[0]) / Path(path).name
    if not Path(path).expanduser().exists() and installed.exists():
        path = str(installed)
    path = str(Path(path).expanduser())
    sys.path.append(str(Path(path).resolve().parent))
    return f"{path}{colon}{argument}"


def cli() -> None:
    """Runs `main`; what the user can put right is printed without a traceback, exit status 2."""
    logging.getLogger("vmr_jax").setLevel(logging.INFO)
    logging.getLogger("vmr_jax").addHandler(logging.StreamHandler())
    logging.getLogger("vmr_jax").propagate = False
    sys.path.append(str(Path.cwd()))  # a config of the user's own imports the project that it stands in
    try:
        app.run(main, flags_parser=parse)
    except (UserError, flags.Error, AttributeError, KeyError, FileNotFoundError, ValueError) as error:
        if not isinstance(error, UserError) and FLAGS.is_parsed():
            raise  # a defect of ours, not of the command line
        wrong = None if isinstance(error, UserError | flags.Error) else unknown_field(resolved(sys.argv[1:]))
        print(f"error: {wrong or error}", file=sys.stderr)
        sys.exit(2)
