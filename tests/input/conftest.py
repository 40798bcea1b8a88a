"""Folders that several files of tests read."""

import numpy as np
import pytest


@pytest.fixture
def charades(tmp_path):
    """A Charades-STA folder of four videos with features of width 3."""
    root = tmp_path / "charades"
    (root / "clip").mkdir(parents=True)
    (root / "charades_sta_train.txt").write_text(
        "AAAAA 0.0 5.0##a person opens the door.\nBBBBB 2.0 9.0##person sits down.\n"
    )
    (root / "charades_sta_test.txt").write_text("CCCCC 1.0 4.0##person eats.\nDDDDD 0.0 3.0##person laughs.\n")
    (root / "Charades_v1_train.csv").write_text("id,length\nAAAAA,10\nBBBBB,10\n")
    (root / "Charades_v1_test.csv").write_text("id,length\nCCCCC,10\nDDDDD,10\n")
    for i, video in enumerate(("AAAAA", "BBBBB", "CCCCC", "DDDDD")):
        np.savez(root / "clip" / f"{video}.npz", features=np.full((10, 3), i + 1, np.float32))
    words = ["a", "person", "opens", "the", "door", "rug"]
    np.savez(root / "vectors.npz", words=np.array(words), vectors=np.eye(6, 5, dtype=np.float32))
    return root
