"""The command: its flags, and for each `--mode` one file of this folder. `launch.py` and `vmr_jax` are this."""

import gc
import importlib
import io
import logging
import os
import re
import signal
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from absl import app, flags
from absl import logging as absl_logging

from vmr_jax import configs
from vmr_jax.errors import UserError, printable_line, unknown, user_path
from vmr_jax.memory import start_with_large_pages
from vmr_jax.training.interrupt import Interrupted, Terminated, signals_of_command

# What imports JAX is imported inside functions: it takes seconds, in which the command speaks and listens.
log = logging.getLogger("vmr_jax")


class Mode(NamedTuple):
    """A mode: a function of a module of this folder.

    Attributes:
      does: a few words for --help.
      place: 'module.function', of (config, workdir, **the flags that it names).
      flags: names of the flags that it reads beside --config and --workdir.
      common: which of --config and --workdir it reads.
    """

    does: str
    place: str
    flags: tuple[str, ...] = ()
    common: tuple[str, ...] = ("config", "workdir")


MODES = {
    "train": Mode("trains, or resumes; evaluates and reports at the end (the default)", "train.train"),
    "evaluate": Mode("the numbers of a run, from its best checkpoint", "evaluate.evaluate"),
    "predict": Mode("moments of a video; submissions", "predict.predict", ("video", "query", "top", "split")),
    "inspect": Mode("parameters, FLOPs and memory; needs no data", "inspect.inspect"),
    "import": Mode("an official PyTorch checkpoint as a run", "importing.import_checkpoint", ("checkpoint",)),
    "check": Mode("annotations and features, before training", "check.check"),
    "index": Mode("encodes every moment of a run's dataset once", "index.index", ("dtype", "uri")),
    "ingest": Mode(
        "decodes and encodes video files into a library",
        "ingest.ingest",
        ("videos", "library", "encoder", "encoder_dir", "watch", "beam"),
        (),
    ),
    "search": Mode("the best moments of an index", "search.search", ("query", "video", "top", "uri")),
    "serve": Mode(
        "a page to type a sentence, over an index", "serve.serve", ("host", "port", "videos", "token", "uri")
    ),
    "export": Mode(
        "the best moments as clips, tables, subtitles, cuts", "export.export",
        ("query", "video", "top", "uri", "videos", "format", "output", "exact"),
    ),
    "demo": Mode("films are rendered, learnt and searched; opens the page", "demo.demo", ("port",)),
    "score": Mode("the metrics of any program's prediction file", "score.score", ("predictions",)),
    "compare": Mode("one table of several runs: DIR DIR ...", "compare.compare", (), ("workdir",)),
    "models": Mode(
        "the architectures", "models.models",
        ("architecture", "family", "supervision", "dataset", "imports"), (),
    ),
    "survey": Mode(
        "what papers report, beside what was measured", "survey.survey", ("dataset", "feature", "output"), ()
    ),
}  # fmt: skip

OF_LIBRARY = {  # what these modes are with --library in the place of --config and --workdir
    "search": Mode(
        "the same in a library of videos", "search.search_library",
        ("library", "run", "query", "video", "top", "window", "encoder_dir"), (),
    ),
    "serve": Mode(
        "the page of a library", "serve.serve_library",
        ("library", "run", "host", "port", "token", "window", "encoder_dir", "allow_upload"), (),
    ),
    "export": Mode(
        "the same from a library", "export.export_library",
        ("library", "run", "query", "video", "top", "window", "encoder_dir", "format", "output", "exact"), (),
    ),
}  # fmt: skip

_MODEL = "-config.model.name"
_COLUMN = 58  # characters of a flag in --help, of which two then stand side by side
_FLAG = re.compile("--?[A-Za-z]")

FLAGS = flags.FLAGS
flags.DEFINE_string(
    "config", None, "configs/NAME.py[:DATASET[,OPTION...]]; its fields are --config.FIELD=VALUE."
)
flags.DEFINE_string("workdir", None, "Folder of the run; runs/NAME_DATASET where none is given.")
flags.DEFINE_string("mode", "train", "Which of the modes above.")
flags.DEFINE_string("video", None, "Id of a video of the dataset.")
flags.DEFINE_string("split", None, "Splits to predict as a submission, such as val,test.")
flags.DEFINE_string("query", None, "The sentence.")
flags.DEFINE_integer("top", 5, "How many moments to print.")
flags.DEFINE_string("checkpoint", None, "Official PyTorch checkpoint.")
flags.DEFINE_string("predictions", None, "File of Moment-DETR's, TVR's or CBP's format; .gz and .zip too.")
flags.DEFINE_string("dtype", None, "Of the rows, if not config.retrieval.dtype.")
flags.DEFINE_string("uri", None, "A Milvus server, or file of Milvus Lite (FILE.db), not a folder.")
flags.DEFINE_string("host", "127.0.0.1", "The address to listen on; other machines reach 0.0.0.0.")
flags.DEFINE_integer("port", 8000, "The port.")
flags.DEFINE_string("token", None, "Of the page; else VMR_JAX_TOKEN.")
flags.DEFINE_string("architecture", None, "All of these, such as fvmr,mmn.")
flags.DEFINE_string("family", None, "Only of this family, such as ranking.")
flags.DEFINE_string("supervision", None, "Only full, weak or none.")
flags.DEFINE_string("dataset", None, "Only those whose config has this dataset; only the rows of it.")
flags.DEFINE_string("feature", None, "Only rows with these features, such as c3d; unknown: not stated.")
flags.DEFINE_string("output", None, "File to write, or folder of clips.")
flags.DEFINE_string("format", None, "Of the export, such as mp4.")
flags.DEFINE_boolean("exact", False, "Clips from the very frame, encoded anew.")
flags.DEFINE_boolean("allow_upload", False, "The page takes and removes videos.")
flags.DEFINE_boolean("imports", None, "Only those whose official checkpoints can be imported, or not.")
flags.DEFINE_string("videos", None, "Folder of video files; those that the page plays are named by video id.")
flags.DEFINE_string("library", None, "Folder of a library of videos.")
flags.DEFINE_string("encoder", None, "Of frames: pixels, clip or siglip.")
flags.DEFINE_string("encoder_dir", None, "Folder of the encoder's weights.")
flags.DEFINE_boolean("watch", False, "Follows the folder until Ctrl-C.")
flags.DEFINE_string("beam", None, "Options of Apache Beam, which then encodes: '--runner=DirectRunner ...'.")
flags.DEFINE_string("run", None, "Folder of a run that searches a library.")
flags.DEFINE_float("window", None, "Seconds; of longer videos, parts.")


def main(argv: list[str]) -> None:
    """Resolves config and folder, then calls the one function of the mode."""
    if FLAGS.mode not in MODES:
        raise unknown("There is no --mode", FLAGS.mode, MODES)
    mode, rest = _mode(), argv[1:]
    _check_flags(FLAGS.mode, mode, rest)
    from vmr_jax import parallel
    from vmr_jax.config import default_workdir, load_config, read_config
    from vmr_jax.configs.common import COMPILATION_CACHE
    from vmr_jax.modes.overrides import overridden
    from vmr_jax.training.ranges import check_ranges

    if not FLAGS["verbosity"].present:
        absl_logging.set_verbosity(absl_logging.WARNING)  # TFDS, Orbax and JAX tell much of themselves
    parallel.initialise_hosts(FLAGS.mode)
    module, function = mode.place.split(".")
    values: dict[str, Any] = {name: FLAGS[name].value for name in mode.flags}
    if not mode.common:
        if "library" in mode.flags:
            parallel.keep_programs(COMPILATION_CACHE)
        return _function(module, function)(**values)
    if FLAGS.mode == "compare":
        return _function(module, function)(rest, FLAGS.workdir and user_path(FLAGS.workdir))
    of = FLAGS.config or ("configs/fvmr.py:films" if FLAGS.mode == "demo" else None)
    if of is None and FLAGS.workdir is None:
        raise UserError(
            "Give --config=configs/NAME.py to train, or --workdir=DIR of a run; --help lists the modes."
        )
    if of is None:
        named = [value for flag, _, value in (a.partition("=") for a in rest) if flag.endswith(_MODEL)]
        config = load_config(user_path(FLAGS.workdir), model=FLAGS.mode != "score", trusted=named)
    else:
        config = read_config(*config_file(of))
    config, given, _ = overridden(config, rest)
    check_ranges(config)
    parallel.keep_programs(_program_folder(config, of is None, given))
    workdir = user_path(FLAGS.workdir or default_workdir(config))
    if FLAGS.mode == "score":
        values |= {"given": given, "of_run": of is None}
    _function(module, function)(config, workdir, **values)


def _program_folder(config: Any, of_run: bool, given: Collection[str]) -> str:
    """Where compiled programs are kept. What a run's folder says is not followed: a program is code.

    Args:
      config: of the command.
      of_run: whether it is of a run's folder, which may be a stranger's.
      given: fields that the command sets.
    """
    from vmr_jax.configs.common import COMPILATION_CACHE

    if of_run and "compilation_cache" not in given:
        return COMPILATION_CACHE
    return config.get("compilation_cache", "")


def _function(module: str, function: str) -> Any:
    return getattr(importlib.import_module(f"vmr_jax.modes.{module}"), function)


def _mode() -> Mode:
    """The mode that the flags ask for."""
    of_library = FLAGS["library"].present and FLAGS.mode in OF_LIBRARY
    return (OF_LIBRARY if of_library else MODES)[FLAGS.mode]


def _check_flags(name: str, mode: Mode, rest: Sequence[str]) -> None:
    """Refuses the flags and arguments that a mode would ignore; `rest` is what is no flag of the program."""
    reads = (*mode.common, *mode.flags)
    unread = [argument.lstrip("-").split("=")[0] for argument in rest if _FLAG.match(argument)]
    for flag in unread:
        if not flag.startswith(("config.", "noconfig.")):
            from vmr_jax.modes.overrides import unknown_flag

            raise unknown_flag(flag, FLAGS)
    ignored = [flag.name for flag in _own_flags() if flag.present and flag.name not in (*reads, "mode")]
    ignored += unread if "config" not in reads else []
    if ignored:
        every = [*MODES.items(), *((f"{other} --library=DIR", its) for other, its in OF_LIBRARY.items())]
        others = [f"--mode={other}" for other, its in every if ignored[0] in its.flags and its is not mode]
        raise UserError(
            f"--mode={name} does not read --{ignored[0]}{', which is of ' if others else ''}"
            f"{' and '.join(others)}. It reads {', '.join(f'--{flag}' for flag in reads)}."
        )
    if rest and not unread and name != "compare":
        raise UserError(f"Unexpected argument {rest[0]!r}; flags look like --workdir=DIR.")


def _own_flags() -> list[flags.Flag]:
    """The flags of this file, without absl's."""
    return FLAGS.flags_by_module_dict()[__name__]


def _read(mode: Mode) -> str:
    """The flags of a mode as --help shows them."""
    return f" [{' '.join(f'--{flag}' for flag in mode.flags)}]" if mode.flags else ""


def help_text(program: str) -> str:
    """The text of --help: the modes with their flags, and the flags."""
    lines = [
        "Video Moment Retrieval: trains, evaluates, explains, searches.",
        "",
        f"  {program} --config=configs/NAME.py[:DATASET[,OPTION]] [--config.FIELD=VALUE ...] [--workdir=DIR]",
        f"  {program} --mode=MODE --workdir=DIR [FLAGS]",
        f"  {program} --mode=ingest --videos=FOLDER --library=DIR; then search and serve with --library=DIR",
        "",
        "modes, and the flags that they read:",
    ]
    for name, mode in MODES.items():
        lines.append(f"  {name:<9} {mode.does}{_read(mode)}")
        if name in OF_LIBRARY:
            lines[-1] += f" or{_read(OF_LIBRARY[name])}"
    lines += ["", "flags:"]
    told = [f"--{flag.name:<12} {flag.help}" for flag in _own_flags()]
    short = [text for text in told if len(text) < _COLUMN]
    lines += [f"  {left:<{_COLUMN}}{right}".rstrip() for left, right in zip(short[::2], [*short[1::2], ""])]
    lines += [f"  {text}" for text in told if len(text) >= _COLUMN]
    lines += [
        "",
        f"Begin with {program} --config=configs/fvmr.py, which needs no data; --mode=models lists NAME.",
    ]
    return "\n".join(lines)


def parse(argv: list[str]) -> list[str]:
    """Reads the flags; what is none of them, such as `--config.FIELD=VALUE`, is returned."""
    FLAGS.set_gnu_getopt(True)
    try:
        return FLAGS(argv, known_only=True)
    except flags.Error as error:
        from vmr_jax.modes.overrides import refused

        raise refused(error, FLAGS) from None


def config_file(value: str) -> tuple[str, str | None]:
    """The path of a --config and its argument; the folder of the file can then be imported from.

    Where nothing is at the path, it is that of the installed config of the same name. UserError where it is no
    Python file.
    """
    path, colon, argument = value.partition(":")
    if not path.endswith(".py"):
        meant = (
            f"configs/{path}.py" if (Path(configs.__path__[0]) / f"{path}.py").exists() else "configs/fvmr.py"
        )
        raise UserError(
            f"--config={value} names no Python file. A config is a .py file with a function get_config, such "
            f"as {meant}, then a colon and its argument where it takes one."
        )
    installed = Path(configs.__path__[0]) / Path(path).name
    if not user_path(path).exists() and installed.exists():
        path = str(installed)
    path = str(user_path(path))
    sys.path.append(str(Path(path).resolve().parent))
    return path, argument if colon else None


def command() -> None:
    """`cli` as a program of its own, with the memory that suits it.

    Until it listens, Ctrl-C ends it without a traceback: while it starts anew, once it is here again.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    can_wait = hasattr(signal, "pthread_sigmask")  # not on Windows, where nothing starts anew
    if can_wait:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    start_with_large_pages()
    if can_wait:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    cli()


def cli() -> None:
    """Runs `main`; what the user can put right is printed without a traceback, exit status 2.

    Ctrl-C and SIGTERM end it in one line, exit status 130 and 143.
    """
    with signals_of_command() as signals:
        try:
            _run_to_reader()
        except (Interrupted, Terminated) as error:  # of a run that has saved; all else ends at once
            if not error.told:
                print(signals.line(signals.received), file=sys.stderr)
            sys.exit(128 + signals.received)


def start_lightly() -> None:
    """Spares the start work that serves nothing: garbage is looked for less often, and Keras stays away."""
    gc.set_threshold(50_000)  # of 700: imports and traces make millions of objects, most of which stay
    os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")  # TensorFlow then imports no Keras, which nobody uses


def _run_to_reader() -> None:
    """Runs `_run`; ends in silence where who reads what it prints has read enough, as `head` has."""
    try:
        try:
            _run()
        finally:
            print(end="", flush=True)  # also where there is no output (>&-)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the last flush, of Python's own
        sys.exit(141)  # as of a program that SIGPIPE ends


def _run() -> None:
    if {"--help", "-help", "-h"} & {*sys.argv[1:]}:
        print(help_text("vmr_jax" if Path(sys.argv[0]).stem == "vmr_jax" else "python launch.py"))
        return
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # an output in ASCII or cp1252 ends no command
    log.setLevel(logging.INFO)
    log.addHandler(logging.StreamHandler())
    log.propagate = False
    log.info("Loading JAX")
    start_lightly()
    sys.path.append(str(Path.cwd()))  # a config may name a class of the project that it stands in
    try:
        app.run(main, flags_parser=parse)
    except MemoryError as error:
        line = f"The memory of this machine does not suffice ({error or 'all is in use'}). Use smaller sizes."
        print(f"error: {printable_line(line)}", file=sys.stderr)
        sys.exit(2)
    except (UserError, RuntimeError) as error:
        from vmr_jax.parallel import backend_error

        wrong = error if isinstance(error, UserError) else backend_error(error)
        if wrong is None:
            raise  # a defect of ours, not of the command line
        print("error: " + "\n".join(map(printable_line, str(wrong).split("\n"))), file=sys.stderr)
        sys.exit(2)
