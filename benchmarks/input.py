"""Speed and memory of the input: our cache and pipeline beside reading HDF5 for every example.

    python benchmarks/input.py                                  # TACoS: 720 rows of 4096, 256 clips, batch 32
    python benchmarks/input.py --rows=240 --width=500           # ActivityNet Captions

Synthetic features in a gzip-compressed HDF5 file, one array a video, as 2D-TAN's files have them, and a jsonl
dataset, both in a temporary folder. "HDF5 per example" opens the file, reads a video, normalises its rows and
averages them to clips, as loaders of the field do, then stacks the batch; it has no words and no targets.
"Ours" is `Loader.training_batches`, whole batches with words, from a cache that was built before. Files are
warm in both. The two take turns; each figure is the median over the rounds. HDF5 is read in one process; more
workers divide its time by the number of free cores at best. Ours assembles two batches at a time, in threads.
"""

import json
import sys
import tempfile
import threading
import time
from pathlib import Path

import h5py
import numpy as np
from absl import flags, logging
from machine import describe_machine, own_memory
from program import run
from rich.console import Console
from rich.table import Table

from vmr_jax.configs import common, datasets
from vmr_jax.input import dataset as input_lib
from vmr_jax.input.loader import Loader
from vmr_jax.input.words import build_vocabulary
from vmr_jax.text.vectors import WordVectors

FLAGS = flags.FLAGS
flags.DEFINE_integer("videos", 24, "Videos in the file.")
flags.DEFINE_integer("queries", 16, "Queries of each video.")
flags.DEFINE_integer("rows", 720, "Native rows of each video.")
flags.DEFINE_integer("width", 4096, "Dimension of a row.")
flags.DEFINE_integer("num_clips", 256, "T.")
flags.DEFINE_integer("batch_size", 32, "Examples in a batch.")
flags.DEFINE_integer("rounds", 5, "Measurements of each.")
flags.DEFINE_integer("steps", 20, "Batches of ours in a measurement.")
flags.DEFINE_string("folder", "", "Where the temporary folder is made; empty: the system's.")

_WORDS = ("a", "person", "opens", "the", "door", "takes", "out", "two", "eggs", "from", "fridge", "and", "bowl")


def make_data(folder: Path) -> int:
    """Writes features and annotations; returns the bytes of the HDF5 file."""
    rng = np.random.default_rng(0)
    with h5py.File(folder / "features.hdf5", "w") as file:
        for v in range(FLAGS.videos):
            # Rectified, as features after a ReLU are: half zeros, which is also what compresses.
            rows = np.maximum(rng.standard_normal((FLAGS.rows, FLAGS.width), np.float32), 0)
            file.create_dataset(f"v{v}", data=rows, compression="gzip")
    with (folder / "train.jsonl").open("w", encoding="utf-8") as file:
        for i in range(FLAGS.videos * FLAGS.queries):
            row = {
                "video": f"v{i % FLAGS.videos}",
                "duration": 300.0,
                "query": " ".join(rng.choice(_WORDS, 10)),
                "windows": [[10.0 + i % 50, 100.0]],
            }
            file.write(json.dumps(row) + "\n")
    return (folder / "features.hdf5").stat().st_size


def make_loader(folder: Path) -> tuple[Loader, float]:
    """Returns the loader, its cache built, and the seconds that opening the dataset took."""
    config = common.base("none")
    datasets.manual_dataset(config, "jsonl")
    config.dataset.manual_dir, config.dataset.data_dir = str(folder), str(folder / "prepared")
    config.dataset.features, config.dataset.feature_dim = "features.hdf5", FLAGS.width
    config.dataset.val_fraction = 0.0
    config.input.num_clips = FLAGS.num_clips
    start = time.perf_counter()
    dataset = input_lib.Dataset(config.dataset, config.input)
    seconds = time.perf_counter() - start
    split = dataset.split("train")
    vocabulary = build_vocabulary(split, config.text.tokenizer)
    vectors = WordVectors(list(_WORDS), np.ones((len(_WORDS), config.text.dim), np.float32))
    return Loader(config, dataset, split, vocabulary, vectors), seconds


# --- what is measured -----------------------------------------------------------------------------


def hdf5_batch(path: Path, ids: list[str]) -> np.ndarray:
    """[B,T,D] the way of the field: every example opens, reads, normalises and averages."""
    clips = []
    for video_id in ids:
        with h5py.File(path, "r") as file:
            rows = file[video_id][()]
        rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
        edges = np.round(np.arange(FLAGS.num_clips + 1) / FLAGS.num_clips * len(rows)).astype(int)
        edges = np.minimum(edges, len(rows) - 1)
        clips.append([rows[a:b].mean(0) if a < b else rows[a] for a, b in zip(edges[:-1], edges[1:])])
    return np.stack(clips)


def seconds_of_hdf5(path: Path, round_: int) -> float:
    """Seconds per example of one batch."""
    first = round_ * FLAGS.batch_size
    ids = [f"v{(first + i) % FLAGS.videos}" for i in range(FLAGS.batch_size)]
    start = time.perf_counter()
    hdf5_batch(path, ids)
    return (time.perf_counter() - start) / FLAGS.batch_size


def seconds_of_ours(loader: Loader, round_: int) -> tuple[float, int]:
    """Seconds per example of `FLAGS.steps` batches, the first not counted; bytes of a batch."""
    stream = loader.training_batches(round_, 0, FLAGS.steps + 1, FLAGS.batch_size)
    batch = next(stream)
    start = time.perf_counter()
    for _ in stream:
        pass
    seconds = time.perf_counter() - start
    return seconds / FLAGS.steps / FLAGS.batch_size, batch.video.nbytes


class Memory(threading.Thread):
    """Watches the memory of this process, in bytes, at its highest: `anonymous` and `mapped` (files)."""

    def __init__(self):
        super().__init__(daemon=True)
        self.anonymous = self.mapped = 0
        self._finished = threading.Event()

    def run(self):
        while not self._finished.wait(0.01):
            anonymous, mapped = resident()
            self.anonymous, self.mapped = max(self.anonymous, anonymous), max(self.mapped, mapped)

    def finish(self):
        self._finished.set()
        self.join()


def resident() -> tuple[int, int]:
    """Bytes of this process in memory: of its own, and of files that the system can drop."""
    return own_memory("RssAnon"), own_memory("RssFile")


# --- the report -----------------------------------------------------------------------------------

# Batches that are alive at once in `Loader._stream`: prefetched, being made, and in the hands of the consumer.
_QUEUE = 4 + 2 + 1


def main(_):
    """Prints speed side by side, then memory."""
    logging.set_verbosity(logging.WARNING)
    import tensorflow
    import tensorflow_datasets  # noqa: F401  its memory is not that of the pipeline

    console = Console(width=150, highlight=False, soft_wrap=True)
    machine = describe_machine(*(f"{module.__name__} {module.__version__}" for module in (h5py, tensorflow)))
    console.print(f"{' '.join(sys.argv)}\n{machine}")
    with tempfile.TemporaryDirectory(dir=FLAGS.folder or None) as folder:
        size = make_data(Path(folder))
        own, files = resident()
        memory = Memory()
        memory.start()
        loader, opening = make_loader(Path(folder))
        cache = sum(f.stat().st_size for f in (Path(folder) / "prepared" / "features").glob("*.clips"))
        console.print(
            f"{FLAGS.videos} videos of {FLAGS.rows} x {FLAGS.width} float32, gzip HDF5 {size / 2**20:.0f} MiB; "
            f"cache {cache / 2**20:.0f} MiB, written with the records in {opening:.1f} s"
        )
        field, ours = [], []
        for i in range(FLAGS.rounds):
            seconds, batch_bytes = seconds_of_ours(loader, i)
            ours.append(seconds)
            if not i:
                memory.finish()
            field.append(seconds_of_hdf5(Path(folder) / "features.hdf5", i))
    table = Table(title=f"batch {FLAGS.batch_size}, {FLAGS.num_clips} clips, medians of {FLAGS.rounds} rounds")
    for column in ("", "ms per example (min-max)", "examples/s", "times"):
        table.add_column(column, justify="right")
    for name, seconds in (("HDF5 per example", field), ("ours", ours)):
        median = float(np.median(seconds))
        table.add_row(
            name,
            f"{1e3 * median:.3f} ({1e3 * min(seconds):.3f}-{1e3 * max(seconds):.3f})",
            f"{1 / median:.1f}",
            f"{np.median(field) / median:.1f}",
        )
    console.print(table)
    own_above, queue = memory.anonymous - own, _QUEUE * batch_bytes
    console.print(
        "memory above the start, at its highest while the cache was built and batches were read:\n"
        f"  {own_above / 2**20:.0f} MiB of its own, {(own_above - queue) / 2**20:.0f} MiB without a queue of "
        f"{_QUEUE} batches of {batch_bytes / 2**20:.0f} MiB\n"
        f"  {(memory.mapped - files) / 2**20:.0f} MiB of mapped files, which the system can drop"
    )


if __name__ == "__main__":
    run(main)
