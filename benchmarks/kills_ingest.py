"""Kills ingestion at random instants, lets it go on, and compares the library with one that nobody killed.

    python benchmarks/kills_ingest.py --kills=100
        about five minutes on two free cores.

A chain is one library and one folder of short films. Between two kills files are renamed, deleted, changed and
added. After every kill, half of them by SIGKILL, half by SIGTERM, the library is opened as its users do: its
manifest is whole, every video in it has its features with the right checksum, and their rows are as many as the
manifest says. At the end of a chain it holds the videos, and the same bytes of features, as one of a single
run.
"""

import argparse
import collections
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import program
from forks import Fork

from vmr_jax.library import Library
from vmr_jax.video import ingest, manifest, pieces
from vmr_jax.video.features import read_features
from vmr_jax.video.manifest import is_library, read_manifest

ingest._SETTLED = 0.0  # the films are whole when ingestion starts
pieces._SECONDS = 0.0  # each chunk of 32 frames is kept: of 40 rows of a film the first 32
IN_A_CHAIN = 10  # kills
FILMS = 8
PHASES = ("start", "reading", "encoding", "piece", "features", "manifest")


def main() -> None:
    """Runs chains until there were as many kills as asked for; exit status 1 after a loss."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    draw, counts, wrong, chains = random.Random(options.seed), collections.Counter(), [], 0
    with tempfile.TemporaryDirectory() as place:
        stock = [make_film(Path(place) / f"stock{i}.mp4", i) for i in range(3 * FILMS)]
        while sum(counts.values()) < options.kills:
            chains += 1
            folder = Path(place) / f"chain{chains}"
            most = min(IN_A_CHAIN, options.kills - sum(counts.values()))
            try:
                counts.update(chain(folder, stock, draw, most))
            except AssertionError as error:
                wrong.append(f"chain {chains}: {error}")
            print(f"chain {chains}: {sum(counts.values())} kills, {wrong[-1:] or 'whole'}", flush=True)
    print(f"\n{'killed in':<12}{'SIGKILL':>8}{'SIGTERM':>8}")
    for phase in PHASES:
        print(f"{phase:<12}{counts[phase, 'SIGKILL']:>8}{counts[phase, 'SIGTERM']:>8}")
    print(f"\n{sum(counts.values())} kills of {chains} libraries: {chains - len(wrong)} whole each time")
    print("\n".join(wrong))
    sys.exit(bool(wrong))


def make_film(path: Path, seed: int) -> Path:
    """Ten seconds of noise, no two films alike."""
    rng = np.random.default_rng(seed)
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=10, options={"preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = 160, 120, "yuv420p"
        for i in range(100):
            frame = av.VideoFrame.from_ndarray(rng.integers(0, 256, (120, 160, 3)).astype(np.uint8))
            frame.pts, frame.time_base = i, Fraction(1, 10)
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return path


def chain(folder: Path, stock: list[Path], draw: random.Random, most: int):
    """Kills ingestion `most` times; returns (phase, signal) of each kill. AssertionError after a loss."""
    films, library = folder / "films", folder / "library"
    films.mkdir(parents=True)
    for film in stock[:FILMS]:
        shutil.copy(film, films)
    kills: list[tuple[str, str]] = []
    while len(kills) < most:
        number = draw.choice([signal.SIGKILL, signal.SIGTERM])
        with started(library, films) as process:
            until = time.monotonic() + draw.uniform(0, 1.2)
            while process.poll() is None and time.monotonic() < until:
                time.sleep(0.001)
            if process.status is None:
                os.kill(process.pid, number)
                process.wait()
                kills.append((["start", *process.news()][-1], number.name))
        check_whole(library)
        change(films, stock, draw)
    with started(library, films) as process:
        assert process.wait() == 0, f"it does not go on: status {process.status}"
    check_whole(library)
    alone = folder / "alone"
    with started(alone, films) as process:
        assert process.wait() == 0, f"a single run fails: status {process.status}"
    assert content(library) == content(alone), "it is not what a single run leaves"
    return kills


def started(library: Path, films: Path) -> Fork:
    """Ingests in a process of its own, which tells the phases that it begins."""

    def work(tell: int) -> None:
        for owner, name, phase in (
            (ingest, "content_hash", "reading"),
            (ingest, "probe", "encoding"),
            (np, "savez", "piece"),
            (ingest, "crc32_of_file", "features"),
            (manifest, "write_json", "manifest"),
        ):
            announce(owner, name, phase, tell)
        Library(library).update(films)

    return Fork(work)


def announce(owner, name: str, phase: str, tell: int) -> None:
    """Makes a function say into a pipe that its phase begins."""
    function = getattr(owner, name)

    def saying(*args, **kwargs):
        os.write(tell, f"{phase}\n".encode())
        return function(*args, **kwargs)

    setattr(owner, name, saying)


def change(films: Path, stock: list[Path], draw: random.Random) -> None:
    """Renames, deletes, changes or adds a film."""
    there, what = sorted(films.iterdir()), draw.choice(["rename", "delete", "change", "add", "nothing"])
    one, other = draw.choice(there), draw.choice(stock)
    if what == "rename":
        one.rename(films / f"film{draw.randrange(10**6)}.mp4")
    elif what == "delete" and len(there) > 3:
        one.unlink()
    elif what == "change":
        shutil.copy(other, one)
    elif what == "add":
        shutil.copy(other, films / f"film{draw.randrange(10**6)}.mp4")


def check_whole(library: Path) -> None:
    """AssertionError, or UserError, where a library is not whole."""
    if is_library(library):
        found = read_manifest(library)
        for entry in found.videos.values():
            assert read_features(library, entry).shape == (entry.rows, found.dim), entry.id


def content(library: Path) -> set[tuple[str, float, bytes]]:
    """All that a library holds: content and length of each video, and its features."""
    found = read_manifest(library)
    folder = library / "features"
    assert not (library / pieces.BEGUN).exists()
    assert {file.stem for file in folder.iterdir()} == {entry.content for entry in found.videos.values()}
    return {(e.content, e.duration, (folder / f"{e.content}.npy").read_bytes()) for e in found.videos.values()}


if __name__ == "__main__":
    with program.ended_in_one_line():
        main()
