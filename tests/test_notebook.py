"""The notebooks run as they stand, with tiny values in their forms; `.ci/colab`: in fresh environments."""

import json
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).resolve().parents[1] / "notebooks").glob("*.ipynb"))
TINY = {"train_for": "2 steps", "model.features": 8, "model.common": 8}


def sources(notebook):
    return ["".join(cell["source"]) for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]]


@pytest.mark.slow
def test_notebook_trains_and_asks(tmp_path, monkeypatch):
    pytest.importorskip("nbclient")
    from notebooks import printed, run

    monkeypatch.delenv("MPLBACKEND", raising=False)  # the kernel's own draws into the notebook
    settings = {**TINY, "dataset.data_dir": str(tmp_path), "dataset.train_videos": 20}
    cells = run(NOTEBOOKS[0], tmp_path, {"SETTINGS": settings, "WORKDIR": "run"})
    outputs = json.dumps([cell.get("outputs", []) for cell in cells])
    assert "image/png" in outputs  # the curves
    assert "fvmr (this run)" in printed(cells)  # the table
    assert "a man opens the door ->" in printed(cells)  # what was asked
    assert "srcdoc" in outputs and (tmp_path / "run" / "report.html").is_file()  # the report, in the page


def test_fields_of_forms_are_filled():
    notebooks = pytest.importorskip("notebooks", exc_type=ImportError)
    from types import SimpleNamespace

    cells = [SimpleNamespace(source='SOURCE = ""  # @param {type:"string"}\nother = 1')]
    notebooks.filled(cells, {"SOURCE": "a\\b"})
    assert cells[0].source == "SOURCE = 'a\\\\b'  # @param {type:\"string\"}\nother = 1"
    with pytest.raises(KeyError, match="no cell has the field NONE"):
        notebooks.filled(cells, {"NONE": 1})


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_stored_without_outputs_and_installs_as_the_others(notebook):
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    assert all(not cell.get("outputs") and not cell.get("execution_count") for cell in cells)
    first = [
        next(source for source in sources(path) if "SOURCE" in source) for path in (NOTEBOOKS[0], notebook)
    ]
    assert first[0] == first[1]


def install_cell(monkeypatch, source, installed=()):
    """Runs the cell that installs, with `source` in its form, where these packages are there."""
    from importlib import metadata

    def version(package):
        if package in installed:
            return "1.0"
        raise metadata.PackageNotFoundError(package)

    monkeypatch.setattr(metadata, "version", version)
    cell = next(text for text in sources(NOTEBOOKS[0]) if "SOURCE" in text)
    exec(cell.replace('SOURCE = ""', f"SOURCE = {source!r}", 1), {})


def test_without_a_source_one_line_says_what_to_give(monkeypatch):
    with pytest.raises(SystemExit, match="SOURCE is empty: give an address of git, a folder .* or a wheel"):
        install_cell(monkeypatch, "")


def test_what_pip_says_is_shown(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(SystemExit, match="pip could not install .*empty: see above"):
        install_cell(monkeypatch, str(tmp_path / "empty"), installed=("numpy",))
    assert "is not installable" in capsys.readouterr().out
    assert (tmp_path / "kept.txt").read_text() == "numpy==1.0"  # the runtime's own is kept


def test_a_restarted_runtime_installs_nothing_again(monkeypatch, capsys):
    install_cell(monkeypatch, "", installed=("vmr_jax", "jax", "flax"))
    assert capsys.readouterr().out == "vmr_jax 1.0 with jax 1.0 and flax 1.0\n"
