"""Containerfile: what it copies is there, and the command that it starts is one of this program."""

import json
import re
from pathlib import Path

from vmr_jax.modes.launch import MODES, OF_LIBRARY

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "Containerfile").read_text(encoding="utf-8")


def test_what_is_copied_is_there_and_is_all_that_an_installation_needs():
    copied = {name for line in re.findall(r"^COPY (.*)$", TEXT, re.MULTILINE) for name in line.split()[:-1]}
    assert all((ROOT / name).exists() for name in copied)
    assert {"setup.cfg", "pyproject.toml", "README.md", "LICENSE", "vmr_jax", "configs", "data"} == copied


def test_the_command_is_one_of_the_program():
    given = " ".join(re.findall(r" vmr_jax (--.*)$", TEXT, re.MULTILINE))  # behind the image's name
    flags = [*json.loads(re.search(r"^CMD (.*)$", TEXT, re.MULTILINE)[1]), *given.split()]
    assert len(flags) == 6
    names = {flag[2:].partition("=")[0] for flag in flags}
    assert names <= {"mode", *OF_LIBRARY["serve"].flags, *MODES["ingest"].flags}
    assert re.search(r"^USER vmr$", TEXT, re.MULTILINE)  # not as root
