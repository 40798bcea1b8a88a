"""`--mode=compare DIR1 DIR2 ...`: runs side by side, and whether they differ from the first.

All is counted anew from each run's predictions.jsonl with the protocol of the first run, on the splits that all
runs have evaluated. A difference comes with a 95% bootstrap interval over videos, paired (both runs on the same
resampled videos), and the p-value of a sign-flip test by video. Of three or more runs, p is also corrected
after Holm, for each metric and split over the runs that are compared with the first.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vmr_jax.config import load_config
from vmr_jax.errors import UserError
from vmr_jax.evaluation import prediction_files as files
from vmr_jax.evaluation import significance
from vmr_jax.evaluation.prediction_files import PredictionFile
from vmr_jax.evaluation.protocols import Predictions, Protocol, make_protocol
from vmr_jax.evaluation.results import split_of_rows
from vmr_jax.reporting.run_files import EVALUATE, read_predictions, read_results

_RECORDED = 0.005  # percent, by which a recorded figure and a counted one may differ
_DESCRIBED = (
    "convention",
    "dataset_version",
    "features",
    "feature_dim",
    "vectors",
    "tokenizer",
    "model",
    "init_from",
    "selection",
    "selected_on_test",
    "seed",
    "version",
)


@dataclasses.dataclass(frozen=True)
class Run:
    """Contents of the files of one working directory.

    Attributes:
      name: of its row.
      config: its config.json.
      results: its results.json.
      queries: split -> qid -> row of predictions.jsonl.
      file: the same file, read as any program's.
    """

    name: str
    config: Any
    results: dict
    queries: dict[str, dict[str, dict]]
    file: PredictionFile

    @property
    def protocol(self) -> Protocol:
        """How its own numbers were counted; discounted recalls need annotations that the file has not."""
        options = self.config.evaluation.copy_and_resolve_references().unlock()
        options.discounted = False
        return make_protocol(options)


# --- reading --------------------------------------------------------------------------------------


def read_runs(dirs: Sequence[str]) -> list[Run]:
    """Reads the runs; UserError where there are fewer than two, or one is named twice or not complete."""
    if len(dirs) < 2:
        raise UserError(
            f"--mode=compare needs the folders of two runs or more, not {len(dirs)}: "
            "python launch.py --mode=compare DIR1 DIR2"
        )
    paths = [Path(name) for name in dirs]
    if len({path.resolve() for path in paths}) < len(paths):
        raise UserError(f"A run is named twice: {', '.join(dirs)}. Name each folder once.")
    short = [path.resolve().name for path in paths]
    names = short if len(set(short)) == len(short) else [str(path) for path in paths]
    return [_read_run(name, path) for name, path in zip(names, paths)]


def _read_run(name: str, path: Path) -> Run:
    config, results = load_config(path, model=False), read_results(path)
    queries: dict[str, dict[str, dict]] = {}
    for row in read_predictions(path):
        split, qid = queries.setdefault(row["split"], {}), str(row["qid"])
        if qid in split:
            raise UserError(
                f"{path / 'predictions.jsonl'}: the query {qid} of {row['split']} stands twice. Write the file "
                f"again with: {EVALUATE}"
            )
        split[qid] = row
    found = files.read(path / "predictions.jsonl")
    if not all("saliency_scores" in row for rows in queries.values() for row in rows.values()):
        for prediction in found.tasks["SVMR"]:
            prediction.saliency = None  # a file of version 0.1 has not its annotations
    return Run(name, config, results, queries, found)


# --- what can be compared -------------------------------------------------------------------------


def _shared_splits(runs: Sequence[Run]) -> list[str]:
    """The splits of all runs, after checking that their queries are the same."""
    first = runs[0]
    for run in runs[1:]:
        for what, field in (("dataset", "dataset.name"), ("protocol", "evaluation.protocol")):
            _require_same(what, first, _field(first, field), run, _field(run, field))
    shared = [name for name in first.queries if all(name in run.queries for run in runs)]
    if not shared:
        found = "; ".join(f"{run.name} has {', '.join(run.queries) or 'none'}" for run in runs)
        raise UserError(
            f"The runs have evaluated no split in common: {found}. Evaluate one of them again with "
            "--mode=evaluate and config.evaluation.splits."
        )
    for name in shared:
        for run in runs[1:]:
            _check_queries(name, first, run)
    return shared


def _field(run: Run, path: str) -> str:
    section, field = path.split(".")
    return run.config[section][field]


def _require_same(what: str, first: Run, ours: str, other: Run, theirs: str) -> None:
    if ours != theirs:
        raise UserError(
            f"The runs cannot be compared: the {what} of {first.name} is {ours}, that of {other.name} is "
            f"{theirs}. Name runs of one dataset and protocol."
        )


def _check_queries(split: str, first: Run, other: Run) -> None:
    """Raises UserError where two runs did not answer the same queries."""
    ours, theirs = first.queries[split], other.queries[split]
    for one, a, two, b in ((first, ours, other, theirs), (other, theirs, first, ours)):
        only = [qid for qid in a if qid not in b]
        if only:
            raise UserError(
                f"The runs cannot be compared: {split} has {len(a)} queries in {one.name} and {len(b)} in "
                f"{two.name}; {len(only)} stand in {one.name} alone, such as {only[0]}. Evaluate both on the "
                "same annotations and videos."
            )
    for qid, row in ours.items():
        for field in ("vid", "relevant_windows"):
            if row[field] != theirs[qid][field]:
                raise UserError(
                    f'The runs cannot be compared: "{field}" of the query {qid} of {split} is {row[field]} in '
                    f"{first.name} and {theirs[qid][field]} in {other.name}. Evaluate both on the same "
                    "annotations."
                )


# --- counting -------------------------------------------------------------------------------------


def comparison(runs: Sequence[Run]) -> dict[str, Any]:
    """The content of compare.json: rows and differences of each shared split, and what else differs."""
    names = _shared_splits(runs)
    protocol, warnings = runs[0].protocol, _protocol_warnings(runs)
    splits = {}
    for name in names:
        found = [_predictions(run, protocol, name, list(runs[0].queries[name])) for run in runs]
        splits[name] = _compare_split(runs, name, found)
        warnings += [warning for run in runs for warning in _recorded_warnings(run, name)]
    left_out = {name: run.name for run in runs for name in run.queries if name not in names}
    warnings += [
        f"{name} was evaluated by {run} but not by all, and is left out." for name, run in left_out.items()
    ]
    return {
        "runs": [run.name for run in runs],
        "protocol": protocol.stamp(),
        "method": _method(len(runs)),
        "differs": _differs(runs),
        "warnings": warnings,
        "splits": splits,
    }


def _predictions(run: Run, protocol: Protocol, name: str, qids: Sequence[str]) -> Predictions:
    """Returns the outcome of each of the queries `qids` of a split with the moments of a run."""
    return protocol.read(split_of_rows(name, [run.queries[name][qid] for qid in qids]), run.file)


def _compare_split(runs: Sequence[Run], name: str, predictions: Sequence[Predictions]) -> dict:
    first, seed = runs[0], int(runs[0].config.seed)
    owner = np.asarray([row["vid"] for row in first.queries[name].values()])
    metrics = [metric for metric in predictions[0].values if all(metric in p.values for p in predictions)]
    # [Q,metrics] each; the weights of the queries are the same for all runs.
    stacked = [np.stack([p.values[m] for m in metrics], axis=1).astype(np.float64) for p in predictions]
    weights = predictions[0].weights

    def mean(values: np.ndarray) -> list[float]:
        return (100.0 * np.average(values, axis=0, weights=weights)).tolist()

    def interval(values: np.ndarray, least: float = 0.0) -> dict[str, list[float]]:
        return _by_metric(metrics, 100.0 * significance.interval(values, owner, seed, weights, (least, 1.0)))

    rows = [
        {
            "name": run.name,
            "kind": "run",
            "metrics": dict(zip(metrics, mean(found))),
            "intervals": interval(found),
        }
        for run, found in zip(runs, stacked)
    ]
    gains = [found - stacked[0] for found in stacked[1:]]
    each = 1.0 if weights is None else weights[:, None]
    p_values = np.stack([significance.sign_flip_test(each * gain, owner, seed) for gain in gains])
    corrected = np.stack([significance.holm(column) for column in p_values.T], axis=1)
    differences = [
        {
            "run": run.name,
            "against": first.name,
            "difference": dict(zip(metrics, mean(gain))),
            "interval": interval(gain, least=-1.0),
            "p": dict(zip(metrics, p.tolist())),
            **({"p_holm": dict(zip(metrics, holm.tolist()))} if len(runs) > 2 else {}),
        }
        for run, gain, p, holm in zip(runs[1:], gains, p_values, corrected)
    ]
    videos = len(np.unique(owner))
    return {"count": len(owner), "videos": videos, "rows": rows, "differences": differences}


def _by_metric(metrics: Sequence[str], ends: np.ndarray) -> dict[str, list[float]]:
    return {name: [float(low), float(high)] for name, low, high in zip(metrics, *ends)}


# --- what the reader must know --------------------------------------------------------------------


def _method(runs: int) -> list[str]:
    lines = [
        "Counted anew from predictions.jsonl with the protocol of the first run. Interval: 95%, bootstrap over "
        f"videos, {significance.RESAMPLES:,} resamples. p: two-sided sign-flip test by video, exact where few "
        f"videos differ, else {significance.FLIPS:,} draws."
    ]
    if runs > 2:
        lines.append("p (Holm): corrected, for each metric and split, over the runs compared with the first.")
    return lines


def _differs(runs: Sequence[Run]) -> list[str]:
    """Settings that the runs were made with and differ in, a line each."""
    lines = []
    for field in _DESCRIBED:
        found = [(run.results.get("protocol") or {}).get(field) for run in runs]
        if len(set(map(str, found))) > 1:
            said = ["none" if value is None else value for value in found]
            shown = "; ".join(f"{run.name}: {value}" for run, value in zip(runs, said))
            lines.append(f"{field.replace('_', ' ').capitalize()}: {shown}.")
    return lines


def _protocol_warnings(runs: Sequence[Run]) -> list[str]:
    first, warnings = runs[0], []
    ours = first.protocol.stamp()
    for run in runs[1:]:
        theirs = run.protocol.stamp()
        if ours["strict"] != theirs["strict"]:
            warnings.append(
                f"{run.name} counted {theirs['comparison']}, {first.name} {ours['comparison']}; here both "
                f"count {ours['comparison']}, so {run.name} may differ from its own results.json."
            )
        for field, label in (("nms_threshold", "an NMS threshold of"), ("kept", "at most this many moments:")):
            if ours[field] != theirs[field]:
                warnings.append(
                    f"{run.name} was written with {label} {theirs[field]}, {first.name} with {ours[field]}, "
                    "which cannot be undone; R@1 and mIoU are fair, R@n of larger n are not."
                )
    return warnings


def _recorded_warnings(run: Run, split: str) -> list[str]:
    """A warning where a run's own protocol does not give what its results.json says."""
    if split not in run.results["splits"]:
        return [f"{run.name}: predictions.jsonl has the split {split}, results.json does not."]
    recorded = run.results["splits"][split]["rows"][0]["metrics"]
    if run.protocol.options.nms_margin and not any(p.windows_at for p in run.file.tasks["SVMR"]):
        return []  # the moments of each m were kept apart, and a file of version 0.1 holds those of one
    found = _predictions(run, run.protocol, split, list(run.queries[split])).metrics()
    wrong = [m for m in found if m in recorded and not abs(found[m] - recorded[m]) < _RECORDED]
    return [
        f"{run.name}, {split}: {m} is {recorded[m]:.2f} in results.json and {found[m]:.2f} by "
        f"predictions.jsonl; write both again with: {EVALUATE}"
        for m in wrong[:1]
    ]
