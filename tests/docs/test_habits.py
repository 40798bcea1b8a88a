"""What the repository promises of itself: one version, short files, hooks and floors that agree."""

import collections
import configparser
import re
import subprocess
import sys
from pathlib import Path

import vmr_jax

ROOT = Path(__file__).resolve().parents[2]
MOST_LINES = 500


def setup_cfg():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    return config


def test_the_version_is_said_once():
    """In vmr_jax/__init__.py; setup.cfg reads it there, and the changelog begins with its release."""
    assert setup_cfg()["metadata"]["version"] == "attr: vmr_jax.__version__"
    release = re.match(r"\d+\.\d+\.\d+", vmr_jax.__version__)[0]
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(r"^## (\S+)", changelog, re.MULTILINE)[1] == release
    said = [
        path.name
        for path in (ROOT / "README.md", ROOT / "CITATION.cff", ROOT / "pyproject.toml", ROOT / "mkdocs.yml")
        if release in path.read_text(encoding="utf-8")
    ]
    assert said == []


def test_no_file_is_long():
    long = {
        str(path.relative_to(ROOT))
        for folder in ("benchmarks", "configs", "data", "docs", "tests", "vmr_jax")
        for path in sorted((ROOT / folder).rglob("*.py"))
        if len(path.read_text(encoding="utf-8").splitlines()) > MOST_LINES
    }
    assert long == set()


def test_no_two_files_of_tests_have_one_name():
    """The second one is refused where both are collected, and no run of a single folder tells."""
    counts = collections.Counter(path.name for path in (ROOT / "tests").rglob("test_*.py"))
    assert [name for name, count in counts.items() if count > 1] == []


def test_the_oldest_versions_are_the_floors_of_setup_cfg():
    shown = subprocess.run(
        [sys.executable, str(ROOT / ".github" / "oldest.py")], capture_output=True, text=True, check=True
    ).stdout.split()
    floors = [line for line in setup_cfg()["options"]["install_requires"].split("\n") if "jax" in line]
    assert floors == ["jax>=0.7.2"]
    assert "jax==0.7.2" in shown and len(shown) == 6


def test_python_versions_of_the_workflow():
    """From python_requires on."""
    workflow = (ROOT / ".github" / "workflows" / "test.yml").read_text(encoding="utf-8")
    assert 'python: ["3.11", "3.12", "3.13"]' in workflow
    assert setup_cfg()["options"]["python_requires"] == ">=3.11"
