"""How far each architecture leans on the prior: the runs of benchmarks/real.py on parts of the test split.

    python benchmarks/real_subsets.py --folder=runs/real --data=DIR --cd=CHARADES_CD --cg=CHARADES_CG

CHARADES_CD and CHARADES_CG are the folders of the files of Charades-CD and Charades-CG (data/*/README.md). A
part is the test pairs that one of their files has (its sentence in its video), or those whose moment has its
middle in that third of its video. Training is the same for all parts, so that a novel word or composition of
Charades-CG may have been seen; of test_ood the moments lie where few moments of Charades do. Trains nothing,
and reads predictions.jsonl of each run that has a line on test in `--results`; takes seconds. A run whose
folder is gone keeps the line that it has.
"""

import json
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags
from lines import Lines, read_rows
from machine import command_and_commit, describe_machine
from program import run
from real import Run
from real_config import get_config

from vmr_jax.errors import UserError
from vmr_jax.evaluation.protocols import Protocol, make_protocol
from vmr_jax.evaluation.results import thirds
from vmr_jax.evaluation.rows import PRIOR
from vmr_jax.evaluation.trivial import trivial_rows
from vmr_jax.input.dataset import Dataset, Split
from vmr_jax.reporting.run_files import read_predictions

FLAGS = flags.FLAGS
FILES = {
    "iid": ("cd", "charades_test_iid.json"),
    "ood": ("cd", "charades_test_ood.json"),
    "trivial": ("cg", "test_trivial.json"),
    "composition": ("cg", "novel_composition.json"),
    "word": ("cg", "novel_word.json"),
}
THIRDS = ("first", "middle", "last")
PARTS = (*FILES, *THIRDS)
KEY = ("row", "budget", "seed")
COLUMNS = (
    *KEY, *(f"{part}_r1_iou0{m}" for part in PARTS for m in (5, 7)),
    "command", "commit", "versions", "machine",
)  # fmt: skip
COMMAND = [
    "benchmarks/real_subsets.py", "--folder=runs/real", "--data=DIR", "--cd=CHARADES_CD", "--cg=CHARADES_CG",
]  # fmt: skip
Pair = tuple[str, tuple[str, ...]]  # video, words


def main(_):
    """Writes `--output` anew: a line with the numbers of queries, one of the prior, one of each run."""
    origin = {
        **command_and_commit(COMMAND),
        "versions": f"NumPy {np.__version__}",
        "machine": describe_machine(),
    }
    lines = Lines(Path(FLAGS.output), COLUMNS, KEY)
    config = get_config("fvmr")
    config.dataset.manual_dir = FLAGS.data
    dataset = Dataset(config.dataset, annotations_only=True)
    train, test = dataset.split("train"), dataset.split("test")
    pairs = [pair(test.videos[v].id, q.text) for v, q in zip(test.owner, test.queries)]
    members = {
        **{name: of_file(Path(FLAGS[folder].value) / file, pairs) for name, (folder, file) in FILES.items()},
        **of_thirds(test.spans.mean(1) / test.durations),
    }
    rows = [
        line("queries", "", "", {f"{name}_r1_iou05": str(found.sum()) for name, found in members.items()}),
        line(PRIOR, "", "", of_prior(make_protocol(config.evaluation), train, test, members)),
    ]
    runs = [row for row in read_rows(Path(FLAGS.results)) if row["split"] == "test" and row["seed"]]
    for row in runs:
        workdir = Run(row["row"], int(row["seed"]), float(row["learning_rate"]), int(row["steps"])).workdir
        if workdir.exists():
            ious = of_predictions(read_predictions(workdir), pairs)
            rows.append(line(row["row"], row["budget"], row["seed"], shares(ious, members)))
        elif kept := lines.find(row["row"], row["budget"], row["seed"]):
            rows.append(kept)
        else:
            print(f"{workdir} is not there, so {row['row']} has no line.", file=sys.stderr)
    lines.drop(lambda _: True)
    lines.append({**origin, **row} for row in rows)


def pair(video: str, sentence: str) -> Pair:
    """A video and the words of a sentence, which the files write with and without full stops."""
    return video, tuple(re.findall(r"[a-z0-9']+", sentence.lower()))


def of_file(path: Path, pairs: list[Pair]) -> np.ndarray:
    """[Q] bool: which pairs the file has."""
    if not path.is_file():
        raise UserError(
            f"There is no file {path} (seen from {Path.cwd()}). --cd and --cg are the folders of the files of "
            "Charades-CD and Charades-CG: data/charades_cd/README.md and data/charades_cg/README.md."
        )
    videos = json.loads(path.read_text(encoding="utf-8"))
    found = {pair(video, sentence) for video, entry in videos.items() for sentence in entry["sentences"]}
    return np.asarray([p in found for p in pairs])


def of_thirds(centres: np.ndarray) -> dict[str, np.ndarray]:
    """Third of the video -> [Q] bool, from the middles of the moments as fractions of their videos."""
    return {name.split()[0]: members for name, members in thirds(centres)}


def of_prior(
    protocol: Protocol, train: Split, test: Split, members: Mapping[str, np.ndarray]
) -> dict[str, str]:
    """Columns of the best span of the training prior."""
    columns = {}
    for part, chosen in members.items():
        queries = [query for query, member in zip(test.queries, chosen) if member]
        within = Split(test.name, test.videos, queries, test.owner[chosen])
        metrics = trivial_rows(protocol, train, within, 0)[PRIOR]
        columns |= {f"{part}_r1_iou0{m}": f"{metrics[f'R@1,IoU=0.{m}']:.2f}" for m in (5, 7)}
    return columns


def of_predictions(rows: Iterable[Mapping[str, Any]], pairs: list[Pair]) -> np.ndarray:
    """[Q] IoU of the first moment of each query, in the order of `pairs`."""
    best = {pair(row["vid"], row["query"]): row["iou"] for row in rows}
    return np.asarray([best[p] for p in pairs])


def shares(ious: np.ndarray, members: Mapping[str, np.ndarray]) -> dict[str, str]:
    """Columns of R@1 in % on each part."""
    return {
        f"{part}_r1_iou0{m}": f"{100 * np.mean(ious[chosen] >= m / 10):.2f}"
        for part, chosen in members.items()
        for m in (5, 7)
    }


def line(row: str, budget: str, seed: str, columns: Mapping[str, str]) -> dict[str, str]:
    """A line of `--output`."""
    return {**dict(zip(KEY, (row, budget, seed), strict=True)), **columns}


def define_flags(holder: flags.FlagValues) -> None:
    """The flags of the program."""
    flags.DEFINE_string("folder", "runs/real", "Folder of the runs of benchmarks/real.py.", flag_values=holder)
    flags.DEFINE_string("results", "results/charades_clip.csv", "Its lines.", flag_values=holder)
    output = "results/charades_clip_subsets.csv"
    flags.DEFINE_string("output", output, "Is written anew.", flag_values=holder)
    data = "Folder of Charades-STA with the features and the split."
    flags.DEFINE_string("data", None, data, flag_values=holder)
    flags.DEFINE_string("cd", None, "Folder of the files of Charades-CD.", flag_values=holder)
    flags.DEFINE_string("cg", None, "Folder of the files of Charades-CG.", flag_values=holder)
    flags.mark_flags_as_required(["data", "cd", "cg"], holder)


if __name__ == "__main__":
    run(main, define_flags)
