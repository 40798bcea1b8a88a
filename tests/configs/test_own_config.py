"""A config file and a model of the user's own, in a folder that is no part of the repository."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MODEL = """
import flax.linen as nn
import jax.numpy as jnp

import vmr_jax as vmr
from vmr_jax.types import Mean, Moments


class Mine(vmr.GroundingModel):
    features: int = 8
    vocab_size: int = 0
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, batch, *, train):
        pooled = jnp.concatenate([batch.video.mean(1), batch.query_vectors.mean(1)], -1)
        start, length = jnp.split(nn.sigmoid(nn.Dense(2)(nn.relu(nn.Dense(self.features)(pooled)))), 2, -1)
        return jnp.concatenate([start, start + length], -1) * batch.duration[:, None]

    def loss(self, outputs, batch, *, epoch):
        return {"span": Mean.of(jnp.abs(outputs - batch.span).mean(-1), batch.example_mask)}

    def predict(self, outputs, batch):
        return Moments(outputs[:, None], jnp.ones((batch.size, 1)))
"""
CONFIG = """
from my_project.models import Mine

from vmr_jax.configs import common, datasets


def get_config(arg=None):
    config = common.base(Mine)
    datasets.storyboard(config)
    return config
"""


def test_a_users_project_is_found_from_its_folder(tmp_path):
    (tmp_path / "my_project").mkdir()
    (tmp_path / "my_project" / "models.py").write_text(MODEL)
    (tmp_path / "mine.py").write_text(CONFIG)
    command = [
        sys.executable,
        ROOT / "launch.py",
        "--mode=inspect",
        "--config=mine.py",
        "--config.model.features=6",
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    # Rows of 64 numbers and word vectors of 50; two linear layers with bias: 114 * 6 + 6 and 6 * 2 + 2.
    assert str((64 + 50) * 6 + 6 + 6 * 2 + 2) in done.stdout
