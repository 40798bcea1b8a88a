"""`--mode=demo`: the whole way on rendered films, from video files to the page that plays a moment."""

import contextlib
import os
import socket
import sys
import threading
import time
import urllib.parse
import webbrowser
from pathlib import Path
from typing import Any

import numpy as np

from vmr_jax.config import config_as_dict, load_config
from vmr_jax.data import films
from vmr_jax.errors import UserError
from vmr_jax.evaluation.metrics import iou
from vmr_jax.input.dataset import Dataset
from vmr_jax.library import Library
from vmr_jax.modes import serve
from vmr_jax.modes.train import train
from vmr_jax.retrieval.hits import Hit
from vmr_jax.training.finish import REPORT, RESULTS

LIBRARY = "library"  # folder of the run
_SHOWN = 5  # moments
_AMONG = 10  # moments
_HOST = "127.0.0.1"


def demo(config: Any, workdir: Path, port: int, page: bool = True) -> None:
    """Renders films, trains on some of them, makes a library of others, searches it and opens its page.

    Each step says what it does. A command that is given again goes on where it stopped.

    Args:
      config: of a dual encoder on films.
      workdir: the folder of the run; the library is WORKDIR/library.
      port: of the page; 0 takes a free one.
      page: whether to serve the page at the end; False ends with a search.

    Raises:
      UserError: for a config of another dataset.
    """
    if config.dataset.name != "films":
        raise UserError(
            f"--mode=demo shows rendered films, and this config is of {config.dataset.name}. Leave --config "
            f"out, or give the films of another architecture, such as configs/mmn.py:films."
        )
    steps = _Steps(4 + page)
    options = config.dataset
    steps.say(
        f"Renders {options.train_videos + 2 * options.test_videos} short films as mp4 files and encodes four "
        "frames a second by their colours, texture and motion. They are a test bed: drawn people who do "
        f"things to drawn objects, nothing is downloaded. In {options.data_dir}/films; once."
    )
    dataset = Dataset(options, config.input)
    steps.say(
        f"Trains {config.model.name} on {options.train_videos} of them, to find the moment that a sentence "
        "describes, and evaluates it on films that it has not seen."
    )
    if _is_trained(config, workdir):
        print(f"It is trained: {workdir / REPORT}")
    else:
        train(config, workdir)
    library = _library(films.files(options, "test"), workdir, steps)
    steps.say("Searches all of them for each of their sentences, as --mode=search --library does for one.")
    sentence = _print_found(library, dataset)
    if page:
        steps.say("Serves the page: type a sentence, and see the moment played.")
        opens = f"?q={urllib.parse.quote(sentence)}"
        if port and _has_display():
            threading.Thread(target=_open_when_ready, args=(port, opens), daemon=True).start()
        serve.serve_library(library, _HOST, port, opens=opens)


def _is_trained(config: Any, workdir: Path) -> bool:
    """Whether the folder holds this very run, evaluated."""
    if not (workdir / RESULTS).is_file():
        return False
    return config_as_dict(load_config(workdir)) == config_as_dict(config)


class _Steps:
    """Says which step begins, and when."""

    def __init__(self, count: int):
        self._count, self._done, self._start = count, 0, time.monotonic()

    def say(self, text: str) -> None:
        self._done += 1
        minutes, seconds = divmod(int(time.monotonic() - self._start), 60)
        line = f"[{self._done}/{self._count}, {minutes}:{seconds:02d}] {text}"
        print(f"\n{line}", flush=True)


def _library(files: list[Path], workdir: Path, steps: _Steps) -> Library:
    """The library of some films, with the moments of the run."""
    folder = workdir / LIBRARY
    steps.say(
        f"Makes a library of the {len(files)} films of the test split in {folder}, as --mode=ingest does with "
        "video files of your own: each is decoded and encoded, and its moments are indexed."
    )
    library = Library(folder, run=workdir)
    print(library.add(files), flush=True)
    return library


def _print_found(library: Library, dataset: Dataset) -> str:
    """Prints how often the moment of a sentence of the test split is found among all films, and an example.

    Returns:
      The first sentence whose moment is found first; where there is none, the first one.
    """
    split = dataset.split("test")
    found = []
    for query, owner in zip(split.queries, split.owner):
        hits = library.search(query.text, k=_AMONG)
        right = [hit.video == split.videos[owner].id and _overlap(hit, query.span) for hit in hits]
        found.append((query.text, hits, right))
    first, among = sum(right[0] for _, _, right in found), sum(any(right) for _, _, right in found)
    print(
        f"Of the {len(found)} sentences that were written about these films, the moment of {first} is found "
        f"first, and of {among} among the first {_AMONG}. One that fits several films counts for one of them."
    )
    sentence, hits, right = next((one for one in found if one[2][0]), found[0])
    print(f'"{sentence}" is {"the first that is found first" if right[0] else "the first of them"}:')
    for hit, its in zip(hits[:_SHOWN], right):
        wanted = "its moment" if its else "another moment"
        print(f"  {hit.rank}. {hit.start:.1f} to {hit.end:.1f} s of {hit.video}, {hit.score:.3f}: {wanted}")
    return sentence


def _overlap(hit: Hit, span: tuple[float, float]) -> bool:
    """Whether the IoU with the moment is 0.5 or more."""
    return bool(iou(np.array([hit.start, hit.end]), np.array([span])).max() >= 0.5)


def _has_display() -> bool:
    """Whether a browser would have a window; in a terminal alone the address that is printed must do."""
    return sys.platform in ("darwin", "win32") or any(
        os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER")
    )


def _open_when_ready(port: int, opens: str) -> None:
    """Opens the page in the user's browser as soon as it is served."""
    while True:
        with contextlib.suppress(OSError), socket.create_connection((_HOST, port), timeout=1):
            break
        time.sleep(0.2)
    webbrowser.open(f"http://{_HOST}:{port}/{opens}")
