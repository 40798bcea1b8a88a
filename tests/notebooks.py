"""Runs a notebook as its user would, with other values in its form.

    python tests/notebooks.py NOTEBOOK FOLDER FIELD=VALUE ...

Values are Python. Needs nbclient, nbformat and ipykernel; nothing of this library, which the notebook installs.
"""

import ast
import re
import sys
import warnings
from pathlib import Path
from typing import Any

import nbclient
import nbformat

SECONDS = 600  # for one cell


def run(notebook: Path, folder: Path, fields: dict[str, Any]) -> list[Any]:
    """Runs the notebook in the folder; returns its cells with their outputs.

    Args:
      notebook: the file.
      folder: working folder of the kernel.
      fields: name of a field of a form ('SOURCE = ""  # @param ...') -> the value that it gets.

    Raises:
      KeyError: for a field that the notebook has not.
      nbclient.exceptions.CellExecutionError: where a cell fails.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the kernel machinery's own
        found = nbformat.read(notebook, as_version=4)
        filled(found.cells, fields)
        nbclient.NotebookClient(found, timeout=SECONDS, resources={"metadata": {"path": str(folder)}}).execute()
    return found.cells


def filled(cells: list[Any], fields: dict[str, Any]) -> None:
    """Writes the values into the forms of the cells."""
    for name, value in fields.items():
        line = re.compile(rf"^{name} = .*?(?=  # @param)", re.MULTILINE)
        holders = [cell for cell in cells if line.search(cell.source)]
        if not holders:
            raise KeyError(f"no cell has the field {name}")
        for cell in holders:
            cell.source = line.sub(lambda _, name=name, value=value: f"{name} = {value!r}", cell.source)


def printed(cells: list[Any]) -> str:
    """All that the cells printed."""
    outputs = [output for cell in cells for output in cell.get("outputs", ())]
    return "".join(output.get("text", "") for output in outputs)


if __name__ == "__main__":
    notebook, folder, *pairs = sys.argv[1:]
    values = {name: ast.literal_eval(value) for name, _, value in (pair.partition("=") for pair in pairs)}
    print(printed(run(Path(notebook), Path(folder), values)))
