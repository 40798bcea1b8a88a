"""How every builder is prepared: once, quietly, and never trusted half done."""

import contextlib
import errno
import fcntl
import io
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from vmr_jax.errors import UserError
from vmr_jax.files import open_lock


def prepare_once(make_builder: Callable, data_dir: Path, manual_dir: Path | None = None, beam: str = ""):
    """Returns a prepared TFDS builder; writes its records first unless they are there.

    TFDS writes to a folder of a random name and renames it when it is complete, so what a killed
    preparation leaves behind is never read, and of two at the same time the first to finish stays. The next one
    that is alone in `data_dir` deletes what was left.

    Args:
      make_builder: makes the builder; called again after a preparation, to read what it left.
      data_dir: where the records go, named in the error where that fails.
      manual_dir: the user's own files, for builders that read them.
      beam: options of the Apache Beam pipeline of a builder that makes one, `config.dataset.beam`.
    """
    with _quiet():
        try:
            builder = _opened(make_builder, data_dir)
            if builder.data_path.exists():
                return builder
            with _preparing(data_dir, builder.data_path.parent):
                _prepare(builder, manual_dir, beam)
        except OSError as error:
            # The rename fails where another process has put the same folder there meanwhile.
            if not make_builder().data_path.exists():
                raise UserError(
                    f"The records of the dataset cannot be written to {data_dir} ({error}). Make room there, "
                    "or set config.dataset.data_dir to another folder."
                ) from None
        return _opened(make_builder, data_dir)


def _opened(make_builder: Callable, data_dir: Path):
    """The builder, which reads what is told of its records where there are any."""
    with whole_description(data_dir):
        builder = make_builder()
        if builder.data_path.exists() and not (builder.data_path / "dataset_info.json").is_file():
            raise ValueError("dataset_info.json is missing")
        return builder


@contextlib.contextmanager
def whole_description(data_dir: Path) -> Iterator[None]:
    """Reads what is told of records: UserError that says what to delete where it is not what was written."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # protobuf, TFDS and JSON each raise their own
        if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EROFS, errno.ENOSPC):
            raise  # of the disk, not of what it holds
        if isinstance(error, Warning):
            raise  # of another package, where the user has made warnings errors
        said = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"A description of records in {data_dir} is damaged ({said[:200]}). Delete "
            "the folder of the dataset in it; the records are made anew."
        ) from error


@contextlib.contextmanager
def whole_records(builder) -> Iterator[None]:
    """Reads records: UserError that says what to delete where they are not what was written.

    Each record has a checksum, which TensorFlow compares.
    """
    import tensorflow as tf

    try:
        yield
    except (tf.errors.OpError, ValueError, KeyError, UnicodeDecodeError) as error:
        raise UserError(
            f"The records in {builder.data_path} are damaged ({type(error).__name__}: "
            f"{str(error).splitlines()[0][:200]}). Delete the folder; they are made anew. Check the disk."
        ) from None


@contextlib.contextmanager
def _preparing(data_dir: Path, folder: Path) -> Iterator[None]:
    """Is known as one who prepares in `data_dir`; alone there, deletes what killed ones left in `folder`.

    The locks end with the process, however it ends. Where the system has none, nothing is deleted.
    """
    data_dir.mkdir(parents=True, exist_ok=True)
    with open_lock(data_dir / ".preparing") as lock:
        with contextlib.suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails where another prepares
            for left in folder.glob("incomplete.*"):
                shutil.rmtree(left, ignore_errors=True)
        with contextlib.suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_SH)
        yield


def _prepare(builder, manual_dir: Path | None, beam: str) -> None:
    import tensorflow_datasets as tfds

    settings = {"manual_dir": str(manual_dir)} if manual_dir else {}
    if not beam:
        builder.download_and_prepare(download_config=tfds.download.DownloadConfig(**settings))
        return
    from vmr_jax.input.pipeline import failing_plainly, pipeline_options

    settings["beam_options"] = pipeline_options(beam)
    with failing_plainly(beam):
        builder.download_and_prepare(download_config=tfds.download.DownloadConfig(**settings))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps TFDS's announcements, progress bars and warnings from the console."""
    import tensorflow_datasets as tfds
    from absl import logging

    tfds.disable_progress_bar()
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.set_verbosity(verbosity)
