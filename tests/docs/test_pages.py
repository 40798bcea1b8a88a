"""README and site: their tables are those of results/ and of the cards, their commands and links are right."""

import importlib.util
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
META = ("command", "commit", "versions", "machine")


@pytest.fixture(scope="module")
def generated():
    """docs/generated.py, which is no part of the package."""
    spec = importlib.util.spec_from_file_location("generated", ROOT / "docs" / "generated.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_tables_of_the_pages_are_those_of_the_files(generated):
    """`python docs/generated.py` would write nothing."""
    for path in generated.pages():
        text = path.read_text(encoding="utf-8")
        assert generated.fill(text) == text, f"run python docs/generated.py: {path.name} differs"


def test_every_table_stands_on_a_page(generated):
    pages = "".join(path.read_text(encoding="utf-8") for path in generated.pages())
    assert sorted(re.findall(r"<!-- table: (\w+) -->", pages)) == sorted(generated.TABLES)


def test_a_changed_figure_is_noticed(generated):
    text = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    # FVMR's figure on the test split, as results/storyboard.csv has it.
    (row,) = [row for row in generated.rows_of("storyboard") if row["row"] == "fvmr"]
    assert row["test"] == "48.90"
    assert generated.fill(text.replace("48.90", "99.90")) == text


@pytest.mark.parametrize("question", sorted(path.stem for path in (ROOT / "results").glob("*.csv")))
def test_every_figure_has_its_origin(generated, question):
    rows = generated.rows_of(question)
    assert rows
    for row in rows:
        assert row["command"].startswith("python ") and row["machine"]
        assert re.fullmatch(r"[0-9a-f]{7,40}", row["commit"])
        script = row["command"].split()[1]
        assert (ROOT / script).exists()
        figures = [value for name, value in row.items() if name not in META]
        assert None not in figures and any(re.fullmatch(r"[\d.]+", value) for value in figures)
    assert f"`{question}.csv`" in (ROOT / "results" / "README.md").read_text(encoding="utf-8")


def test_the_first_page_is_short_and_names_one_folder():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) < 150
    assert "\n    pip install -e . && python launch.py --config=configs/fvmr.py\n" in text
    assert "\n    pip install -e '.[test]' && pytest\n" in text
    # The folder that the first command makes: runs/<config>_<dataset>.
    assert set(re.findall(r"runs/\w+", text)) == {"runs/fvmr_storyboard"}


def test_runs_are_named_by_config_and_dataset():
    """As the command names a folder where none is given, so that the lines of all pages belong together."""
    from vmr_jax.configs.datasets import DATASETS
    from vmr_jax.models import architectures

    default = {f"runs/{name}_{dataset}" for name in architectures() for dataset in DATASETS}
    own = {"runs/clip_scores", "runs/clip_scores_width", "runs/parts"}  # of docs/model.md
    for path in (ROOT / "README.md", ROOT / "launch.py", *(ROOT / "docs").glob("*.md")):
        assert set(re.findall(r"runs/\w+", path.read_text(encoding="utf-8"))) <= default | own, path.name


def test_links_lead_to_files():
    """Of the repository, where the pages can be read too; docs/hooks.py turns them into those of the site."""
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")):
        for target in re.findall(r"\]\(([^)#:]+)\)", path.read_text(encoding="utf-8")):
            assert (path.parent / target).exists(), f"{path.name}: {target}"


def test_commands_name_what_exists():
    """Configs, benchmarks and modes that README and site name."""
    from vmr_jax.modes.launch import MODES

    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")):
        text = path.read_text(encoding="utf-8")
        for name in re.findall(r"(?:configs|benchmarks|docs|data)/\w+\.py", text):
            assert name == "configs/NAME.py" or (ROOT / name).exists(), f"{path.name}: {name}"
        assert set(re.findall(r"--mode=(\w+)", text)) <= {*MODES}, path.name


def test_a_page_for_every_method(generated):
    for name, card in generated.cards().items():
        page = generated.method_page(name, card)
        assert page.startswith(f"# {name}\n") and card.title in page and f"configs/{name}.py" in page
        assert all(line in page for line in (*card.ours, *card.verified))


@pytest.mark.slow
def test_the_site_builds_strictly(tmp_path):
    """Every link, reference and docstring of the site is found; a warning is an error."""
    pytest.importorskip("mkdocs")
    pytest.importorskip("mkdocstrings_handlers.python")
    import subprocess

    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-q", "-f", str(ROOT / "mkdocs.yml")]
    done = subprocess.run([*command, "-d", str(tmp_path / "site")], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    made = (tmp_path / "site" / "methods" / "fvmr" / "index.html").read_text(encoding="utf-8")
    assert "Fast Video Moment Retrieval" in made and "48.90" in made
    made = (tmp_path / "site" / "survey" / "index.html").read_text(encoding="utf-8")
    assert "Gao and Xu, ICCV 2021, table 5" in made
