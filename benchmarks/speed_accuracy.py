"""Time of a query beside accuracy, as table 1 and figure 1 of the FVMR paper: one command, one picture.

    python benchmarks/speed_accuracy.py --picture=speed.svg              # all; 15 min on two CPU cores
    python benchmarks/speed_accuracy.py --models=fvmr,ctrl --datasets=charades_sta --picture=small.svg

Text encoding, matching and their sum are measured here, with one query and random weights at the sizes of each
config (`benchmarks/latency.py`); FVMR has a second row, 'p+q', whose teacher has a say at test. Accuracy is the
highest published R@1,IoU=0.5 in % beside which a run of that config may stand (`vmr_jax.published`), since no
run of this library on these datasets is in results/; an architecture without one stands in the table alone.
Beside --picture, a csv of the same name holds the rows.
"""

import csv
import importlib
from pathlib import Path

import numpy as np
from absl import flags, logging
from figure import METRIC, Row, best_published, line, of_variant, picture
from latency import limits_of_flags
from lines import check_folder
from machine import describe_machine
from program import run
from queries import TooLarge, measured, of_queries, opened

from vmr_jax import published

FLAGS = flags.FLAGS
flags.DEFINE_string("picture", "speed_accuracy.svg", "The picture; a csv of the same name stands beside it.")


def main(_):
    """Measures, prints the table, writes the picture and the csv."""
    logging.set_verbosity(logging.WARNING)
    check_folder(Path(FLAGS.picture))
    print(describe_machine(), flush=True)
    rows = []
    for dataset in FLAGS.datasets:
        for name in FLAGS.models:
            for variant in ("", "p+q") if name == "fvmr" else ("",):
                row = measure(name, dataset, variant)
                if row is not None:
                    rows.append(row)
                    print(line(row), flush=True)
    output = Path(FLAGS.picture)
    output.write_text(picture(rows), encoding="utf-8")
    with output.with_suffix(".csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("dataset", "method", *published.TIMES, METRIC, "source"))
        for row in rows:
            times = (row.text_ms, row.matching_ms, row.total_ms)
            writer.writerow((*row[:2], *(f"{ms:.3f}" for ms in times), row.accuracy, row.source))
    print(f"{output} and {output.with_suffix('.csv')}")


def measure(name: str, dataset: str, variant: str = "") -> Row | None:
    """The row of an architecture; None, said in a line, where it needs more memory than `--memory_gib`."""
    config = importlib.import_module(f"vmr_jax.configs.{name}").get_config(dataset)
    accuracy, source = best_published(config)
    if variant:
        config.model.score = variant
        accuracy, source = of_variant(name, dataset, variant)
    stages, variables, video, query = opened(config)
    limits = limits_of_flags()
    try:
        encoded = measured(limits, stages.video, variables, video)
        text, match = of_queries(stages, variables, encoded.result, query, 1, limits)
    except TooLarge as error:
        print(f"{dataset} {name}: left out, {error}", flush=True)
        return None
    text_ms, match_ms = (1e3 * float(np.median(stage.seconds)) for stage in (text, match))
    return Row(dataset, ", ".join(filter(None, (name, variant))), text_ms, match_ms, accuracy, source)


if __name__ == "__main__":
    run(main)
