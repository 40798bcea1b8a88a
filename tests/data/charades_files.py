"""Settings of a Charades-STA folder, and where the real files are."""

import pathlib

import ml_collections
import pytest

from vmr_jax.data import charades_sta
from vmr_jax.input import records

ROOT = pathlib.Path(__file__).resolve().parents[2]


SHARED = ROOT / "../shared/data/charades_sta"


needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data are not here")


def charades_options(manual_dir, data_dir, **changes):
    options = dict(
        name="charades_sta",
        data_dir=str(data_dir),
        manual_dir=str(manual_dir),
        features="features",
        feature_key="",
        feature_dim=4,
        split_file="",
        val_fraction=0.0,
        extra_queries="",
    )
    return ml_collections.ConfigDict({**options, **changes})


def charades_annotations(manual_dir, **changes):
    return records.read(charades_sta.SOURCE, charades_options(manual_dir, "unused", **changes))


def read_records(builder, split):
    import tensorflow_datasets as tfds

    return list(tfds.as_numpy(builder.as_dataset(split=split, shuffle_files=False)))
