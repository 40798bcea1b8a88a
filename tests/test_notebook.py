"""The Colab notebook runs as it stands, in a tiny setting."""

import json
import warnings
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK = ROOT / "notebooks" / "colab_tpu.ipynb"


@pytest.mark.slow
def test_notebook_trains_and_plots(tmp_path, monkeypatch):
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    monkeypatch.setenv("VMR_JAX_WORKDIR", str(tmp_path / "run"))
    monkeypatch.delenv("MPLBACKEND", raising=False)  # the kernel's own draws into the notebook
    monkeypatch.setenv(
        "VMR_JAX_SETTINGS",
        json.dumps(
            {
                "dataset.data_dir": str(tmp_path),
                "dataset.train_videos": 20,
                "train_for": "2steps",
                "model.features": 8,
                "model.common": 8,
            }
        ),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the kernel machinery's own, not ours
        notebook = nbformat.read(NOTEBOOK, as_version=4)
        nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(ROOT)}}).execute()
    outputs = json.dumps([cell.get("outputs", []) for cell in notebook.cells])
    assert "image/png" in outputs  # the curves
    assert "fvmr (this run)" in outputs  # the table
    assert "a man opens the door ->" in outputs  # what was asked
    assert (tmp_path / "run" / "report.html").is_file()


def test_notebook_is_stored_without_outputs():
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    assert all(not cell.get("outputs") and not cell.get("execution_count") for cell in cells)
