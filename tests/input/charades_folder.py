"""The config of a small Charades-STA folder."""

import numpy as np


def charades_config(root, tmp_path, **fields):
    from vmr_jax.configs import fvmr

    config = fvmr.get_config("charades_sta,clip")
    config.dataset.manual_dir, config.dataset.data_dir = str(root), str(tmp_path / "prepared")
    config.dataset.features, config.dataset.feature_dim = "clip", 3
    config.dataset.val_fraction = 0.0
    config.evaluation.select_split = ""
    config.text.vectors, config.text.dim = str(root / "vectors.npz"), 5
    for field, value in fields.items():
        section = config.input if field in config.input else config.dataset
        section[field] = value
    return config.lock()


LENGTHS = {"AAAAA": 1, "BBBBB": 7, "CCCCC": 8, "DDDDD": 21}  # rows; eight clips below


def vary(charades, dim=37, folder="clip", more=0):
    """Gives the four videos noise of different lengths; returns it."""
    rng = np.random.default_rng(len(folder))
    (charades / folder).mkdir(exist_ok=True)
    rows = {v: rng.normal(size=(n + more, dim)).astype(np.float32) for v, n in LENGTHS.items()}
    for video, values in rows.items():
        np.savez(charades / folder / f"{video}.npz", features=values)
    return rows
