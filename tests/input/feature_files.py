"""Files of features in the layouts that the readers know."""

import pathlib
import types

import h5py
import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[2]


SHARED = ROOT / "../shared/data/charades_sta"


def rows_of(n, dim=4, dtype=np.float32, seed=0):
    return np.random.default_rng([seed, n]).normal(size=(n, dim)).astype(dtype)


VIDEOS = {"AAAAA": rows_of(3), "BBBBB": rows_of(1), "CCCCC": rows_of(5)}


def hdf5_file(tmp_path, videos=VIDEOS, key="", suffix="", name="features.hdf5"):
    path = tmp_path / name
    with h5py.File(path, "w") as file:
        for video_id, rows in videos.items():
            file[video_id + suffix + ("/" + key if key else "")] = rows
    return path


def npz_folder(tmp_path, videos=VIDEOS, key="features"):
    path = tmp_path / "npz"
    path.mkdir(exist_ok=True)
    for video_id, rows in videos.items():
        np.savez(path / f"{video_id}.npz", **{key: rows})
    return path


def npy_folder(tmp_path, videos=VIDEOS):
    path = tmp_path / "npy"
    path.mkdir(exist_ok=True)
    for video_id, rows in videos.items():
        np.save(path / f"{video_id}.npy", rows)
    return path


def options_of(folder, features, key=""):
    return types.SimpleNamespace(manual_dir=str(folder), features=features, feature_key=key)


def two_sources(tmp_path, lengths=(5, 5)):
    for name, width, n in (("slowfast", 3, lengths[0]), ("clip", 2, lengths[1])):
        (tmp_path / name).mkdir()
        np.savez(tmp_path / name / "v.npz", features=rows_of(n, width))
        np.savez(tmp_path / name / f"only_{name}.npz", features=rows_of(n, width))
