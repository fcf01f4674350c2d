"""The table of benchlab: the recipe `benchlab`, several seeds, beside every control.

    python benchmarks/bench_benchlab.py [--root DIR] [--people 5] [--seeds 3] [--bench-seed 0]

Renders and extracts the bench under ROOT if it is not there yet, trains once per seed, evaluates on the
test split (tasks and people that were not trained on), and writes benchlab.json, .md and .svg beside this
script.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

from machine import machine

HERE = Path(__file__).parent
PARTS = {
    "verification": [
        ("auc", "AUC %"),
        ("order", "order"),
        ("deletion", "deletion"),
        ("addition", "addition"),
        ("wdr", "WDR"),
    ],
    "retrieval": [("r1", "R@1 %"), ("r5", "R@5 %"), ("r10", "R@10 %"), ("mrr", "MRR")],
    "matching": [("acc1", "acc@1 %"), ("mrr", "MRR")],
    "localisation": [("frame_accuracy", "frames %"), ("iou", "IoU %")],
}
RATIOS = ("wdr", "mrr")  # everything else is shown in per cent


def flat(row: dict[str, Any]) -> dict[str, float | None]:
    return {**row, **row.get("by_kind", {})}


def run(root: Path, people: int, bench_seed: int, seeds: int) -> dict[str, Any]:
    from stepclip.extract.benchlab import make_benchlab
    from stepclip.pipelines.paths import Layout
    from stepclip.pipelines.stages import eval_stage, extract_stage, train_stage

    layout, seconds = Layout(root), {}
    began = time.perf_counter()
    make_benchlab(root / "data" / "benchlab", people=people, seed=bench_seed)
    seconds["render"] = time.perf_counter() - began
    began = time.perf_counter()
    extract_stage(layout, "benchlab", encoder="embedded", fps=2.0)
    seconds["extract"] = time.perf_counter() - began
    runs = []
    for seed in range(seeds):
        began = time.perf_counter()
        train_stage(layout, "benchlab", "benchlab", f"seed{seed}", [f"seed={seed}"], overwrite=True)
        seconds[f"train, seed {seed}"] = time.perf_counter() - began
        _, results = eval_stage(layout, "benchlab", f"seed{seed}", report=False)
        runs.append(results.to_dict())
    table = {}
    for part, figures in PARTS.items():
        rows = []
        for i, first in enumerate(runs[0][part]):
            values = {}
            for key, _ in figures:
                got = [flat(r[part][i]).get(key) for r in runs]
                known = [g for g in got if g is not None]
                if known:
                    spread = statistics.stdev(known) if len(known) > 1 else 0.0
                    values[key] = [statistics.fmean(known), spread]
            rows.append({key: first[key] for key in ("name", "kind", "headline")} | values)
        table[part] = rows
    rounded = {key: round(value, 1) for key, value in seconds.items()}
    setting = {"people": people, "bench_seed": bench_seed, "seeds": seeds, "videos": 70 * people}
    return {"what": setting, "machine": machine("torch"), "seconds": rounded, "table": table}


def cell(value: list[float] | None, key: str, learned: bool) -> str:
    if value is None:
        return "–"
    mean, sd = value
    scale, digits = (1, 3) if key in RATIOS else (100, 1)
    text = f"{scale * mean:.{digits}f}"
    return f"{text} ± {scale * sd:.{digits}f}" if learned else text


def markdown(result: dict[str, Any]) -> str:
    lines = []
    for part, figures in PARTS.items():
        lines += [f"| {part} | | " + " | ".join(name for _, name in figures) + " |"]
        lines += ["|---|---|" + "---:|" * len(figures)]
        for row in result["table"][part]:
            name = f"**{row['name']}**" if row["headline"] else row["name"]
            cells = [cell(row.get(key), key, row["kind"] == "trained") for key, _ in figures]
            lines.append(f"| {name} | {row['kind']} | " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join(lines)


def chart(result: dict[str, Any], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "stepclip"
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(10, 3.6), constrained_layout=True)
    for axis, part, key, title in (
        (axes[0], "verification", "auc", "same procedure? AUC %"),
        (axes[1], "localisation", "frame_accuracy", "where is each step? frames %"),
    ):
        rows = [row for row in result["table"][part] if key in row][::-1]
        colours = ["#0072B2" if row["kind"] == "trained" else "#999999" for row in rows]
        means, sds = [100 * row[key][0] for row in rows], [100 * row[key][1] for row in rows]
        axis.barh([row["name"] for row in rows], means, xerr=sds, color=colours)
        for y, mean in enumerate(means):
            axis.text(mean + 1, y, f"{mean:.1f}", va="center", fontsize=8)
        axis.set_title(title, fontsize=10)
        axis.set_xlim(0, 100)
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", type=Path, default=Path("build/bench"))
    parser.add_argument("--people", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--bench-seed", type=int, default=0)
    given = parser.parse_args()
    found = run(given.root, given.people, given.bench_seed, given.seeds)
    from stepclip.cache.files import write_json

    write_json(HERE / "benchlab.json", found)
    (HERE / "benchlab.md").write_text(markdown(found))
    chart(found, HERE / "benchlab.svg")
    print(markdown(found))
