"""Apache Beam as preparation runs it: its options, a map over items, and its failures in one paragraph."""

import contextlib
import io
import logging
import shlex
from collections.abc import Callable, Iterator, Sequence

from vmr_jax.errors import UserError

log = logging.getLogger("vmr_jax")


def pipeline_options(text: str, setting: str = "config.dataset.beam"):
    """Beam's options of a text such as '--runner=DirectRunner --direct_num_workers=2'; `setting` gives them.

    Raises:
      UserError: Beam is not installed; it does not know the options.
    """
    try:
        from apache_beam.options.pipeline_options import PipelineOptions, WorkerOptions
    except ImportError:
        raise UserError(
            f"{setting} is '{text}', and Apache Beam is not installed. Install it with: "
            f"pip install -e '.[beam]', or do without it: {setting}=''."
        ) from None
    flags = shlex.split(text)
    options = PipelineOptions(flags)
    with contextlib.redirect_stderr(io.StringIO()) as said:
        try:
            known = options.get_all_options()
            extra = options.get_all_options(retain_unknown_options=True).keys() - known.keys()
        except SystemExit:  # of argparse, which prints a page and the reason
            known, extra = {}, set()
    if not known or not text.strip().startswith("--"):
        reason = said.getvalue().strip().rpartition("error: ")[2]
        raise UserError(
            f"{setting} is '{text}', which are no options of Apache Beam{reason and f' ({reason})'}. "
            "Expected is, for example, '--runner=DirectRunner --direct_num_workers=2 "
            "--direct_running_mode=multi_processing'."
        )
    if extra:
        log.warning(
            "Apache Beam leaves options that it does not know to the runner: %s", ", ".join(sorted(extra))
        )
    if not known["default_sdk_harness_log_level"]:
        options.view_as(WorkerOptions).default_sdk_harness_log_level = "ERROR"
    return options


@contextlib.contextmanager
def failing_plainly(text: str, setting: str = "config.dataset.beam") -> Iterator[None]:
    """Makes of a worker's failure one paragraph, not the tracebacks of all the layers above it."""
    try:
        yield
    except (UserError, OSError):
        raise
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = next((line for line in reversed(lines) if "Error" in line), lines[-1] if lines else "")
        log.debug("Apache Beam failed", exc_info=True)
        raise UserError(
            f"Apache Beam failed with the options '{text}': {type(error).__name__}: {reason[:400]}. Workers "
            "need this package and the user's files at the same paths, best absolute ones. Correct "
            f"{setting}, or do without it: {setting}=''."
        ) from error


def mapped(function: Callable, items: Sequence):
    """The Beam transform of `function((i, items[i]))`, a keyed example, over all i.

    `function` and `items` are pickled for the workers.
    """
    import apache_beam as beam

    return beam.Create(list(enumerate(items))) | beam.Map(function)


def run_each(function: Callable, items: Sequence, text: str, setting: str) -> None:
    """Calls `function` with every item, for what it leaves on disk, over the pipeline that `setting` describes.

    `function` and `items` are pickled for the workers.
    """
    options = pipeline_options(text, setting)
    import apache_beam as beam

    with failing_plainly(text, setting), beam.Pipeline(options=options) as pipeline:
        _ = pipeline | beam.Create(list(items)) | beam.Reshuffle() | beam.Map(function)
