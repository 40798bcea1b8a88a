"""The Python of README and site is run, page by page, beside a trained run and in a folder of its own."""

import re
import sys
from pathlib import Path

import pytest

import vmr_jax as vmr

pytestmark = pytest.mark.slow  # each page compiles

ROOT = Path(__file__).resolve().parents[2]
FENCED = re.compile(r"^```python(?: title=\"([\w.]+)\")?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PAGES = {
    path.name: FENCED.findall(path.read_text(encoding="utf-8"))
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
}


@pytest.fixture(scope="module")
def trained(data_dir, tmp_path_factory):
    """A run of FVMR, as the first command would leave it but for its size."""
    settings = {
        "dataset.train_videos": 20,
        "evaluation.splits": ("val",),
        "evaluation.sanity": (),
        "batch_size": 16,
    }
    data = vmr.Dataset("storyboard", data_dir=str(data_dir), settings=settings)
    model = vmr.create("fvmr", num_clips=16, features=8, common=8, warmup_epochs=1)
    workdir = tmp_path_factory.mktemp("snippets") / "run"
    vmr.fit(model, data, train_for="2 steps", workdir=workdir)
    return workdir


@pytest.mark.parametrize("page", [page for page, blocks in PAGES.items() if blocks])
def test_snippets(page, trained, data_dir, tmp_path, monkeypatch, capsys):
    """Blocks of one page share their names; one with a title is a file that the others import."""
    home = tmp_path / "home"
    (home / ".cache").mkdir(parents=True)
    (home / ".cache" / "vmr_jax").symlink_to(data_dir)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "fvmr_storyboard").symlink_to(trained)
    names: dict = {}
    for title, code in PAGES[page]:
        if title:
            (tmp_path / title).write_text(code, encoding="utf-8")
        else:
            exec(compile(code, page, "exec"), names)
    assert capsys.readouterr().out  # every page prints an answer
    for title, _ in PAGES[page]:
        sys.modules.pop(Path(title).stem, None)


def test_the_pages_that_promise_snippets_have_them():
    assert {page for page, blocks in PAGES.items() if blocks} >= {
        "README.md",
        "data.md",
        "index.md",
        "model.md",
        "search.md",
        "video.md",
    }
