"""A Charades-STA folder that is checked, and what the check finds in it."""

import io

import numpy as np
from rich.console import Console
from tiny import with_fields

from vmr_jax.configs import ctrl
from vmr_jax.modes import check

# video -> seconds; every file of features has one row a second
DURATIONS = {"AAAAA": 10, "BBBBB": 20, "CCCCC": 30, "DDDDD": 40}


def write(folder, name, *lines):
    (folder / name).write_text("\n".join(lines) + "\n")


def features(folder, video, rows):
    np.savez(folder / "clip" / f"{video}.npz", features=rows)


def config_of(folder, data_dir, **fields):
    """CTRL's, which is traced soonest, with the settings of FVMR for clips and training."""
    config = ctrl.get_config("charades_sta,clip")
    config.dataset.manual_dir, config.dataset.data_dir = str(folder), str(data_dir)
    config.dataset.feature_dim, config.dataset.features = 3, "clip"
    config.dataset.val_fraction = 0.0
    config.evaluation.select_split = ""
    config.model.features = config.model.hidden = 8
    config.model.text = "mean"
    config.input.normalize, config.batch_size, config.train_for = True, 32, "50 epochs"
    config.text.vectors, config.text.dim = str(folder / "vectors.npz"), 5
    return with_fields(config, fields)


def report_of(config):
    """The number of fatal problems, and what is printed with all blanks and line ends as one blank."""
    file = io.StringIO()
    problems = check.find_problems(config, Console(file=file, width=100, highlight=False))
    assert max(map(len, file.getvalue().splitlines())) <= 100
    text = " ".join(file.getvalue().split())
    for problem in problems.fatal + problems.warnings:
        # A path longer than the line is broken in the middle, so blanks do not count.
        assert "".join(problem.split()) in text.replace(" ", "")
    return len(problems.fatal), text


def problems_of(config):
    """The fatal problems, and the warnings but those that four videos always have."""
    problems = check.find_problems(config, Console(file=io.StringIO()))
    always = ("The counts are not those of the official", "Training takes", "config.batch_size is ")
    return problems.fatal, [text for text in problems.warnings if not text.startswith(always)]


def with_row(row, value):
    rows = np.full((30, 3), 2, np.float32)
    rows[row, 1] = value
    return rows


def spoiled(**arrays):
    """Writes one array of that name as the features of CCCCC."""
    return lambda folder: np.savez(folder / "clip" / "CCCCC.npz", **arrays)
