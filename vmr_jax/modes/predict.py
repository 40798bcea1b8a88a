"""`--mode=predict`: the moments of one video for one sentence."""

import dataclasses
from pathlib import Path

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

from vmr_jax.errors import UserError, nearest
from vmr_jax.evaluation.evaluator import Evaluator
from vmr_jax.input import schema
from vmr_jax.input.dataset import Video
from vmr_jax.input.loader import Loader
from vmr_jax.text.parse import parse
from vmr_jax.text.tokenize import tokenize
from vmr_jax.training.experiment import Experiment
from vmr_jax.types import Batch

_MAX_QUERY = 1000  # characters


def predict(config, workdir: Path, video: str | None, query: str | None, top: int) -> None:
    """Prints the `top` moments of `video` for `query`, best first, from the run's best checkpoint."""
    query = check_query("predict", query, top)
    if not video:
        raise UserError('--mode=predict needs --video=ID, beside --query="a sentence".')
    with config.unlocked():
        config.evaluation.keep = top
    experiment = Experiment(config, workdir, sentences=[query])
    found, split = _find_video(experiment, video)
    spans, scores = moments_of(experiment, workdir, found, query)
    table = Table()
    for column in ("rank", "start (s)", "end (s)", "score"):
        table.add_column(column, justify="right")
    for i, ((start, end), score) in enumerate(zip(spans, scores), 1):
        table.add_row(str(i), f"{start:.2f}", f"{end:.2f}", f"{score:.4f}")
    console = Console(width=None if Console().is_terminal else 100, highlight=False)
    console.print(f'"{query}" in {video} ({found.duration:.1f} s, split {split})', markup=False)
    console.print(table)


def check_query(mode: str, query: str | None, top: int) -> str:
    """The query; UserError where there is none, where it is over-long, and where no moment is asked for."""
    if not query or not query.strip():
        raise UserError(f'--mode={mode} needs --query="a sentence".')
    if len(query) > _MAX_QUERY:
        raise UserError(f"The query has {len(query)} characters; at most {_MAX_QUERY} are read.")
    if top < 1:
        raise UserError(f"--top is {top}; it must be at least 1.")
    return query


def asked_example(experiment: Experiment, loader: Loader, query: str, video: Video) -> Batch:
    """An unbatched example of a sentence that nobody annotated; UserError where it has no word."""
    tokenizer = experiment.config.text.tokenizer
    tokens = tokenize(query, tokenizer)
    if not tokens:
        raise UserError(f'The query "{query}" has no word for the tokeniser "{tokenizer}".')
    roles = parse(query)
    asked = schema.Query(
        qid="query",
        text=query,
        span=(0.0, video.duration),
        verbs=roles.verbs[: schema.MAX_VERBS],
        nouns=roles.nouns[: schema.MAX_NOUNS],
        edges=[(v, n) for v, n in roles.edges if v < schema.MAX_VERBS and n < schema.MAX_NOUNS],
        static=roles.chunks[: schema.MAX_SPANS],
    )
    return loader.example(asked, video, tokens)


def moments_of(
    experiment: Experiment, workdir: Path, video: Video, query: str
) -> tuple[np.ndarray, np.ndarray]:
    """Returns spans [K,2] in seconds, inside the video, and scores [K], best first."""
    example = asked_example(experiment, experiment.loader("train"), query, video)
    rows = len(experiment.parallel.devices)
    batch = jax.tree.map(lambda x: np.stack([x] * rows), example)
    batch = dataclasses.replace(batch, example_mask=np.arange(rows) == 0)
    variables, _ = experiment.best_variables(workdir)
    evaluator = Evaluator(experiment.config, experiment.model, experiment.parallel)
    scored = evaluator.score(variables, batch)
    spans, scores = scored["spans"][0, 0], scored["scores"][0, 0]
    real = np.isfinite(scores)
    return np.clip(spans[real], 0.0, video.duration), scores[real]


def _find_video(experiment: Experiment, video: str) -> tuple[Video, str]:
    known = []
    for name in experiment.dataset.split_names:
        for candidate in experiment.dataset.split(name).videos:
            if candidate.id == video:
                return candidate, name
            known.append(candidate.id)
    raise UserError(
        f'The dataset {experiment.config.dataset.name} has no video "{video}".{nearest(video, known)} '
        f"It has {len(known)}, for example {', '.join(known[:3])}."
    )
