"""From films to mp4 files and the features of the encoder `pixels`, several at a time."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from vmr_jax.data.films.render import Film, write_film
from vmr_jax.video.decode import read_frames
from vmr_jax.video.encoder import FrameEncoder


def written(films: Iterable[Film], folder: Path) -> Iterator[tuple[Film, Path]]:
    """Yields films in order, each with its file FOLDER/VIDEO.mp4, which is written unless it is there."""
    folder.mkdir(parents=True, exist_ok=True)

    def write(film: Film) -> tuple[Film, Path]:
        path = folder / f"{film.scene.video}.mp4"
        if not path.exists():
            write_film(film, path)
        return film, path

    yield from _together(write, films)


def encoded(films: Iterable[Film], folder: Path, encoder: FrameEncoder) -> Iterator[tuple[Film, np.ndarray]]:
    """Yields films in order, each with the features [n,D] float32 of its file (see `written`)."""

    def encode(film_and_path: tuple[Film, Path]) -> tuple[Film, np.ndarray]:
        film, path = film_and_path
        rows: list[np.ndarray] = []
        before = None
        for _, frames in read_frames(path, encoder.rate, encoder.prepare, threads=1):
            rows.append(encoder.encode(frames, before))
            before = frames[-1]
        return film, np.concatenate(rows)

    yield from _together(encode, written(films, folder))


def _together(work: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
    """Results of the work on each item, in order; as many at a time as there are cores."""
    cores = os.cpu_count() or 1
    with ThreadPoolExecutor(cores) as pool:
        begun: deque[Future] = deque()
        for item in items:
            begun.append(pool.submit(work, item))
            if len(begun) > 2 * cores:
                yield begun.popleft().result()
        for future in begun:
            yield future.result()
