"""`--mode=compare`: runs side by side, with a paired significance test."""

import textwrap
from collections.abc import Sequence
from pathlib import Path

from vmr_jax.errors import printable
from vmr_jax.files import write_json
from vmr_jax.reporting import tables
from vmr_jax.reporting.compare import comparison, read_runs
from vmr_jax.reporting.run_files import whole_files
from vmr_jax.training.writer import prepare_workdir


def compare(dirs: Sequence[str], workdir: Path | None) -> None:
    """`--mode=compare`: prints the runs of `dirs` in one table, and their differences from the first.

    Args:
      dirs: working directories of evaluated runs, two or more.
      workdir: where compare.json is written; None for nowhere.

    Raises:
      UserError: files are missing, or the runs did not answer the same queries.
    """
    with whole_files(" and ".join(dirs)):
        document = comparison(read_runs(dirs))
    print(tables.results_table(document))
    for name, split in document["splits"].items():
        print(tables.differences_table(name, split))
    lines = [*document["method"], *document["differs"], *(f"Warning: {w}" for w in document["warnings"])]
    print("\n".join(textwrap.fill(printable(line), width=100) for line in lines))
    if workdir is not None:
        prepare_workdir(workdir)
        write_json(workdir / "compare.json", document)
