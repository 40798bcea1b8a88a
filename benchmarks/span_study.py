"""Why span predictors answer the whole video on real features, and what lets them off it.

    python benchmarks/span_study.py --data=DIR --vectors=GLOVE --folder=runs/span
        Trains each of VARIANTS, some three CPU minutes each, and evaluates it on the validation split; DIR and
        GLOVE as in benchmarks/real.py. Started again, it goes on where it was.
    python benchmarks/span_study.py --data=DIR --vectors=GLOVE --folder=runs/span --test=NAME[,NAME]
        Reads the test split too, once for each of these variants; trains all variants that are not there yet,
        or those of --only=NAME[,NAME].

A variant is the config of benchmarks/real_config.py for its architecture with the settings that are named. Each
run is evaluated twice, with moments of any length and with those of at most SHARE of the video, which trains
nothing. `start_nats` and `end_nats` are minus the log of the probability of the right first and last clip, mean
over the queries; the row 'histogram' has those of a predictor that knows how often a training moment begins and
ends how many clips from the border, and nothing else, and what its best pair of clips finds.
"""

import os
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import program
from absl import flags, logging
from lines import Lines
from real import EVALUATIONS, METRICS, PLACES, define_places, launch, metrics, origin, sanity, to_checkout
from real_config import get_config

from vmr_jax.config import load_config, override
from vmr_jax.evaluation.evaluator import Evaluator
from vmr_jax.evaluation.results import split_results
from vmr_jax.evaluation.rows import SANITY
from vmr_jax.input.loader import Loader
from vmr_jax.layers.attention import MASKED
from vmr_jax.layers.span import rank_pairs, span_labels
from vmr_jax.losses import position_cross_entropy
from vmr_jax.models import GroundingModel
from vmr_jax.models.vslnet import Outputs
from vmr_jax.training.experiment import Experiment

FLAGS = flags.FLAGS
SHARE = 0.5  # of the video; 99% of the moments of the training sentences are shorter
COLUMNS = (
    "row", "longest_share", "split", "architecture", "settings", "steps", "best_step", *METRICS,
    *(f"{name}_r1_iou0{m}" for name in SANITY for m in (5, 7)), "uses_video", "start_nats", "end_nats",
    "command", "commit", "versions", "machine",
)  # fmt: skip


class Variant(NamedTuple):
    """A training run: an architecture, its steps, and fields of its config that differ from its own."""

    architecture: str
    steps: int
    settings: dict[str, Any] = {}

    def flags(self, data: str, vectors: str) -> list[str]:
        """The flags of launch.py, `data` and `vectors` in place of the user's own files."""
        return [
            f"--config=benchmarks/real_config.py:{self.architecture}",
            f"--config.dataset.manual_dir={data}",
            f"--config.text.vectors={vectors}",
            f"--config.train_for={self.steps} steps",
            f"--config.evaluate_every={self.steps // EVALUATIONS} steps",
            "--config.evaluation.splits=('val',)",
            *(f"--config.{field}={value}" for field, value in self.settings.items()),
        ]


NO_EXTRA = {"dataset.extra_queries": ""}
CENTER, SHORT = {"model.center_video": True}, {"model.longest_share": SHARE}
VARIANTS = {
    "vslnet": Variant("vslnet", 2900),
    "vslnet_seed_1": Variant("vslnet", 2900, {"seed": 1}),
    "vslnet_seed_2": Variant("vslnet", 2900, {"seed": 2}),
    "vslnet_normal": Variant("vslnet", 2900, {"model.table_init": "normal"}),
    "vslnet_no_extra": Variant("vslnet", 2900, NO_EXTRA),
    "vslnet_rate_3": Variant("vslnet", 2900, {"optimizer.learning_rate": 3e-3} | SHORT),
    "vslnet_highlight_1": Variant("vslnet", 2900, {"model.highlight_weight": 1.0}),
    "vslnet_soft": Variant("vslnet", 2000, {"model.label_softness": 0.25}),
    "vslnet_center": Variant("vslnet", 2900, CENTER),
    "vslnet_center_no_extra": Variant("vslnet", 2900, CENTER | NO_EXTRA | SHORT),
    "tmlga": Variant("tmlga", 6100),
    "excl": Variant("excl", 3600),
    "acrm": Variant("acrm", 3100),
    "l_net": Variant("l_net", 5400),
    "seqpan": Variant("seqpan", 700),
    "seqpan_short": Variant("seqpan", 700, SHORT),
    "vslnet_l": Variant("vslnet_l", 600),
    "emb": Variant("emb", 300),
}
HISTOGRAMS = {"histogram": {}, "histogram of the sentences": NO_EXTRA}  # row -> settings


def main(_):
    """Trains, evaluates, writes."""
    logging.set_verbosity(logging.WARNING)
    os.nice(19)
    to_checkout("data", "vectors", "folder", "results")
    program.known("only", FLAGS.only, VARIANTS)
    trained = FLAGS.only or [*VARIANTS]
    program.known("test", FLAGS.test, trained)
    lines()
    for name in trained:
        train(name)
        measure(name, "val")
        if name in FLAGS.test:
            measure(name, "test")
    for name, settings in HISTOGRAMS.items():
        measure_histogram(name, settings)


# --- runs ---------------------------------------------------------------------------------------------------


def train(name: str) -> None:
    """Trains a variant, or goes on; nothing where it has ended."""
    workdir = Path(FLAGS.folder) / name
    if not (workdir / "results.json").exists():
        print(f"{name}: training", flush=True)
        launch([*VARIANTS[name].flags(FLAGS.data, FLAGS.vectors), f"--workdir={workdir}"])


def measure(name: str, split: str) -> None:
    """Appends the lines of a variant on a split, with moments of any length and with short ones."""
    variant, workdir = VARIANTS[name], Path(FLAGS.folder) / name
    errors = None
    for share in (1.0, SHARE):
        if lines().has(name, f"{share:g}", split):
            continue
        config = load_config(workdir).unlock()
        config.model.update(limited(variant.architecture, share))
        experiment = Experiment(config.lock(), workdir)
        variables, position = experiment.best_variables(workdir)
        if errors is None:  # which the share does not change
            errors = nats(experiment, variables, split)
        row = {"row": name, "longest_share": f"{share:g}", "best_step": position["step"], **errors}
        write(row, variant, experiment, variables, split)


def limited(architecture: str, share: float) -> dict[str, Any]:
    """Fields of the model that leave moments of at most a share of the video; ExCL counts it in clips."""
    if architecture == "excl":
        clips = get_config(architecture).input.num_clips
        return {"longest": 0 if share == 1 else int(share * clips)}
    return {"longest_share": share}


def write(row: dict[str, Any], variant: Variant, experiment: Experiment, variables: Any, split: str) -> None:
    """Evaluates a model on a split, and appends its line and, once, those of the trivial answers."""
    config, loader = experiment.config, experiment.loader(split)
    evaluator = Evaluator(config, experiment.model, experiment.parallel)
    shown = evaluator.sanity(variables, loader)
    predictions = evaluator.run(variables, loader)
    train_split = experiment.dataset.split("train")
    found = split_results(config, evaluator.protocol, train_split, loader.split, predictions, shown)["rows"]
    append(
        {
            **row,
            "split": split,
            "architecture": variant.architecture,
            "settings": ", ".join(f"{field}={value}" for field, value in variant.settings.items()),
            "steps": variant.steps or "",
            **metrics(next(row for row in found if row["kind"] == "run")),
            **sanity(found),
            **origin(command(variant)),
        }
    )
    for other in found:
        if other["kind"] == "trivial" and not lines().has(other["name"], "1", split):
            name = {"row": other["name"], "longest_share": "1", "split": split}
            append({**name, **metrics(other), **origin(command(variant))})


def nats(experiment: Experiment, variables: Any, split: str) -> dict[str, str]:
    """Columns of the mean nats of both ends; none where an architecture scores a clip several times."""

    @jax.jit
    def errors(variables, batch):
        outputs = experiment.model.apply(variables, batch, train=False)
        if outputs.start.ndim != 2:
            return None
        labels = span_labels(batch.span, batch.duration, batch.video_mask)
        return [position_cross_entropy(x, clip) for x, clip in zip((outputs.start, outputs.end), labels)]

    found: list[list[np.ndarray]] = []
    for batch in experiment.loader(split).evaluation_batches(experiment.config.evaluation.batch_size):
        both = errors(variables, batch)
        if both is None:
            return {}
        found.append([np.asarray(x)[np.asarray(batch.example_mask)] for x in both])
    start, end = (np.concatenate(x).mean() for x in zip(*found))
    return {"start_nats": f"{start:.3f}", "end_nats": f"{end:.3f}"}


# --- a predictor without a network --------------------------------------------------------------------------


class Histogram(GroundingModel):
    """Scores a clip by how often a moment begins, and ends, so many clips from the border of the video.

    Attributes:
      start: logits of the clips, counted from the first one.
      end: logits of the clips, counted from the last one.
      longest_share: length of the longest moment that is ranked, as a share of the video.
    """

    start: tuple[float, ...] = ()
    end: tuple[float, ...] = ()
    longest_share: float = 1.0

    def __call__(self, batch, *, train: bool) -> Outputs:
        """Looks the logits up."""
        mask = batch.video_mask
        clip = jnp.arange(mask.shape[1])[None]
        from_end = jnp.maximum(mask.sum(1)[:, None] - 1 - clip, 0)
        start, end = (
            jnp.asarray(self.start)[jnp.broadcast_to(clip, mask.shape)],
            jnp.asarray(self.end)[from_end],
        )
        return Outputs(jnp.where(mask, start, MASKED), jnp.where(mask, end, MASKED), None)

    def predict(self, outputs: Outputs, batch):
        """Ranks as VSLNet does."""
        mask = batch.video_mask
        return rank_pairs(outputs.start, outputs.end, batch.duration, mask, 100, self.longest_share)


def measure_histogram(name: str, settings: dict[str, Any]) -> None:
    """Appends its lines on the validation split; says where training moments lie, and how clips differ."""
    config = get_config("vslnet").unlock()
    override(config, {"dataset.manual_dir": FLAGS.data, "text.vectors": FLAGS.vectors, **settings})
    experiment = Experiment(config.lock())
    first, from_end, count = borders(experiment.loader("train"), config.evaluation.batch_size)
    short = count - first - from_end <= SHARE * count
    print(
        f"{name}: {(first == 0).mean():.1%} of {len(first):,} training moments begin with the first clip, "
        f"{(from_end == 0).mean():.1%} end with the last one, {((first == 0) & (from_end == 0)).mean():.1%} do "
        f"both; {short.mean():.1%} have at most {SHARE:g} of the clips. Of the square of the clips "
        f"{clip_squares(experiment)}.",
        flush=True,
    )
    if lines().has(name, f"{SHARE:g}", "val"):
        return
    size = config.input.num_clips
    # A place that was never seen has half a moment.
    start, end = (tuple(np.log(np.bincount(x, minlength=size) + 0.5)) for x in (first, from_end))
    experiment.model = Histogram(start, end)
    row = {"row": name, **nats(experiment, {}, "val")}
    for share in (1.0, SHARE):
        experiment.model = Histogram(start, end, share)
        row["longest_share"] = f"{share:g}"
        write(row, Variant("vslnet", 0, settings), experiment, {}, "val")


def borders(loader: Loader, batch_size: int) -> tuple[np.ndarray, ...]:
    """Clips before the first one of each moment, clips behind its last one, and clips of its video."""
    found = []
    for batch in loader.evaluation_batches(batch_size):
        first, last = span_labels(batch.span, batch.duration, batch.video_mask)
        count = batch.video_mask.sum(1)
        found.append(np.stack([first, count - 1 - last, count])[:, np.asarray(batch.example_mask)])
    return tuple(np.concatenate(found, axis=1))


def clip_squares(experiment: Experiment) -> str:
    """The shares that all training videos have in common, that tell videos apart, and clips of a video."""
    videos = [experiment.dataset.clips(video) for video in experiment.dataset.split("train").videos]
    means = np.stack([rows.mean(0) for rows in videos])
    common = np.square(means.mean(0)).sum()
    between = np.square(means - means.mean(0)).sum(1).mean()
    within = np.mean([np.square(rows - rows.mean(0)).sum(1).mean() for rows in videos])
    total = common + between + within
    return (
        f"{common / total:.0%} is common to all videos, {between / total:.0%} differs between videos and "
        f"{within / total:.0%} between clips of a video"
    )


# --- lines --------------------------------------------------------------------------------------------------


def lines() -> Lines:
    """Those of `--results` as they are now."""
    return Lines(Path(FLAGS.results), COLUMNS, ("row", "longest_share", "split"))


def command(variant: Variant) -> list[str]:
    """What repeats its lines, of another user's files."""
    if not variant.steps:
        data, vectors = PLACES
        return ["benchmarks/span_study.py", f"--data={data}", f"--vectors={vectors}"]
    return ["launch.py", *variant.flags(*PLACES)]


def append(row: dict[str, Any]) -> None:
    """Appends a line, and prints it."""
    lines().append([row])
    print(", ".join(str(row.get(column, "")) for column in COLUMNS[:-4]), flush=True)


def define_flags(holder: flags.FlagValues) -> None:
    """The flags of the program."""
    define_places(holder)
    flags.DEFINE_string("folder", "runs/span", "Gets a folder for each run.", flag_values=holder)
    flags.DEFINE_string(
        "results", "results/span_study.csv", "Gets two lines for each run and split.", flag_values=holder
    )
    flags.DEFINE_list("only", [], "Variants; none given: all of them.", flag_values=holder)
    flags.DEFINE_list(
        "test", [], "Variants, among those trained, whose test split is read too.", flag_values=holder
    )


if __name__ == "__main__":
    program.run(main, define_flags)
