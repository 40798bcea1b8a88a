"""Prints the lower bounds of setup.cfg as pins: the oldest supported versions of what the numbers depend on."""

import configparser
import re
from pathlib import Path

PINNED = ("chex", "flax", "jax", "numpy", "optax", "orbax-checkpoint")

config = configparser.ConfigParser()
config.read(Path(__file__).resolve().parents[1] / "setup.cfg")
for line in config["options"]["install_requires"].split("\n"):
    match = re.fullmatch(r"([\w-]+)>=([\d.]+)", line.strip())
    if match and match[1] in PINNED:
        print(f"{match[1]}=={match[2]}")
