"""The working directory of a run that never was: the files that a report is made of."""

import json
import math

import numpy as np

METRICS = [f"R@{n},IoU={m}" for n in (1, 5) for m in (0.3, 0.5, 0.7)] + ["mIoU"]
SENTENCES = [
    "The cook pours water into the pot again.",
    "After closing the fridge, she cuts an onion.",
    "A person opens the door.",
    "He puts the red cup on the shelf before the dog runs in.",
    "Somebody washes a plate in the sink.",
]


def metrics_near(level, seed):
    """Metrics in percent that fall with the threshold and rise with n."""
    noise = np.random.default_rng(seed).uniform(-2, 2, len(METRICS))
    base = np.asarray([1.25, 1.0, 0.65, 1.7, 1.5, 1.2, 0.9]) * level
    return {name: round(float(v), 4) for name, v in zip(METRICS, np.clip(base + noise, 0, 100))}


def split_result(level, count, seed, published=False):
    """One entry of results.json's splits."""
    rows = [
        {"name": "FVMR (this run)", "metrics": metrics_near(level, seed)},
        {
            "name": "whole video",
            "metrics": {k: v for k, v in metrics_near(14, seed + 1).items() if "@5" not in k},
        },
        {"name": "best span of the training prior", "metrics": metrics_near(22, seed + 2)},
        {"name": "random span", "metrics": metrics_near(11, seed + 3)},
    ]
    if published:
        metrics = {"R@1,IoU=0.5": 53.33, "R@1,IoU=0.7": 32.15, "R@5,IoU=0.5": 85.11, "R@5,IoU=0.7": 60.32}
        rows.append({"name": "published, i3d", "metrics": metrics})

    def groups(labels):
        return [
            {"label": label, "count": 23 + 40 * i, "metrics": metrics_near(level - 12 + 8 * i, seed + i)}
            for i, label in enumerate(labels)
        ]

    return {
        "count": count,
        "rows": rows,
        "by_length": groups(["0-5 s", "5-10 s", "10-20 s", "20-40 s", "over 40 s"]),
        "by_position": groups(["first third", "middle third", "last third"]),
        "by_words": groups(["1-4 words", "5-8 words", "9-12 words", "over 12 words"]),
    }


def metric_records(steps=900, every=10):
    """Lines of metrics.jsonl: three terms, validation every 100 steps."""
    rng = np.random.default_rng(0)
    records = []
    for step in range(every, steps + 1, every):
        terms = {
            f"train/{name}": a * math.exp(-step / b) + c + 0.02 * float(rng.random())
            for name, a, b, c in (("match", 0.7, 200, 0.2), ("align", 0.3, 120, 0.1), ("rank", 0.2, 400, 0.05))
        }
        rate = 2e-3 * min(1.0, step / 60) * 0.5 * (1 + math.cos(math.pi * step / steps))
        records.append(
            {
                "step": step,
                "epoch": step / 112.5,
                "train/loss": sum(terms.values()),
                **terms,
                "train/grad_norm": 1.5 * math.exp(-step / 300) + float(rng.random()),
                "train/learning_rate": rate,
            }
        )
        if step % 100 == 0:
            level = 45 * (1 - math.exp(-step / 250)) - (2 if step > 800 else 0)
            values = {f"val/{k}": v for k, v in metrics_near(level, step).items()}
            loss = {"val/loss": 0.45 + 0.7 * math.exp(-step / 150)}
            records.append({"step": step, "epoch": step / 112.5, **values, **loss})
    return records


def prediction_rows(split, count, seed):
    """Lines of predictions.jsonl, IoU computed from the first moment."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(count):
        duration = round(float(rng.uniform(20, 60)), 1)
        start = float(rng.uniform(0, duration * 0.7))
        end = min(duration, start + float(rng.uniform(3, 14)))
        shift = float(rng.choice([0.2, 1.5, 12.0]))
        moments = []
        for k in range(5):
            a = float(np.clip(start + rng.normal(0, shift * (1 + k)), 0, duration - 2))
            b = float(np.clip(end + rng.normal(0, shift * (1 + k)), a + 1, duration))
            moments.append([round(a, 3), round(b, 3), round(0.93 - 0.11 * k - 0.1 * float(rng.random()), 4)])
        a, b = moments[0][:2]
        overlap = max(0.0, min(b, end) - max(a, start))
        rows.append(
            {
                "split": split,
                "qid": f"{split}-{i}",
                "vid": f"video{i // 4:04d}",
                "query": SENTENCES[i % len(SENTENCES)],
                "duration": duration,
                "relevant_windows": [[round(start, 3), round(end, 3)]],
                "pred_relevant_windows": moments,
                "iou": overlap / ((b - a) + (end - start) - overlap),
            }
        )
    return rows


def score_map(row, n=16):
    """[n,n] scores that fall with the distance from the first prediction; NaN below the diagonal."""
    a, b = (n * t / row["duration"] for t in row["pred_relevant_windows"][0][:2])
    i, j = np.mgrid[:n, :n]
    scores = 0.9 * np.exp(-((i - a) ** 2 + (j + 1 - b) ** 2) / 20) + 0.02
    return np.where(j >= i, scores, np.nan).astype(np.float32)


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_run(folder, splits=("val", "test")):
    """A whole working directory of a run that never was."""
    folder.mkdir(exist_ok=True)
    config = {
        "model": {"name": "fvmr", "features": 96, "num_clips": 16, "scale_layers": [15], "warmup_epochs": 2},
        "dataset": {"name": "storyboard", "features": "rgb", "queries_per_video": 4, "root": ""},
        "optimizer": {"name": "adamw", "learning_rate": 0.002, "rules": [[".*", {"weight_decay": 0.01}]]},
        "evaluation": {"nms_threshold": 0.5, "strict": False, "note": None},
        "seed": 0,
    }
    results = {
        "step": 900,
        "best_step": 800,
        "protocol": {
            "name": "moment_retrieval",
            "strict": False,
            "comparison": "IoU >= m",
            "nms_threshold": 0.5,
            "kept": 5,
            "selection": "val R@1,IoU=0.5",
            "dataset": "storyboard",
            "features": "rgb",
            "seed": 0,
            "version": "0.1.0",
        },
        "note": "storyboard is a generated test bed; its numbers say nothing about real video.",
        "splits": {
            name: split_result(44 - 4 * i, 400 - 40 * i, 10 * i, published=name == "test")
            for i, name in enumerate(splits)
        },
    }
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "results.json").write_text(json.dumps(results), encoding="utf-8")
    write_lines(folder / "metrics.jsonl", metric_records())
    rows = [row for i, name in enumerate(splits) for row in prediction_rows(name, 40, i)]
    write_lines(folder / "predictions.jsonl", rows)
    timing = [
        {"step": s, "steps_per_second": 5 + s / 1000, "examples_per_second": 160.0, "compile_seconds": 12.34}
        for s in range(100, 901, 100)
    ]
    write_lines(folder / "timing.jsonl", timing)
    ours = sorted((row for row in rows if row["split"] == splits[-1]), key=lambda row: -row["iou"])
    drawn = [("best", 0), ("best", 1), ("median", 19), ("median", 20), ("worst", 39), ("worst", 38)]
    arrays, examples = {}, []
    for i, (kind, place) in enumerate(drawn):
        arrays[f"map_{i}"] = score_map(ours[place])
        arrays[f"clips_{i}"] = np.nan_to_num(score_map(ours[place])).max(1)
        name = {"map": f"map_{i}", "clips": f"clips_{i}" if i % 2 else None}
        examples.append({"qid": ours[place]["qid"], "split": splits[-1], "kind": kind, **name})
    np.savez(folder / "examples.npz", **arrays)
    (folder / "examples.json").write_text(json.dumps(examples), encoding="utf-8")
    return folder


def edit_results(folder, change):
    path = folder / "results.json"
    results = json.loads(path.read_text())
    change(results)
    path.write_text(json.dumps(results))


def add_sanity(results, blind, shuffled, low, high, lost=None):
    """Gives the test split rows of the sanity checks, and this run an interval of R@1,IoU=0.5.

    `lost` are the paired intervals of what is lost by each.
    """
    rows = results["splits"]["test"]["rows"]
    rows[0]["intervals"] = {"R@1,IoU=0.5": [low, high]}
    rows[1:1] = [
        {
            "name": name,
            "metrics": {"R@1,IoU=0.5": value},
            **({"lost": {"R@1,IoU=0.5": ends}} if ends else {}),
        }
        for name, value, ends in zip(
            ("blind (no video)", "shuffled video"), (blind, shuffled), lost or (None, None)
        )
    ]
