"""One model for all three: the joint recipe `stepclip` beside the three specialists, on the tasks of each.

    python benchmarks/bench_joint.py [--root DIR] [--people 5] [--seeds 5] [--bench-seed 0]

The bench and its runs are those of bench_benchlab.py (the same ROOT renders and trains nothing twice). Every
model is trained once per seed and evaluated on the test split by `stepclip eval`. Writes joint.json, .md and
.svg beside this script, and the table into docs/results.md.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import readme
from bench_benchlab import Entry, all_runs, options, prepare
from machine import machine

HERE = Path(__file__).parent
JOINT = "stepclip"
ENTRIES = tuple(
    Entry("joint", name, name, labels=False, every_table=True)
    for name in ("stepclip-weaksvr", "stepclip-tempclr", "stepclip-carl", JOINT)
)
# head of the column, whose task, part of the results, key
TASKS = (
    ("verification AUC", "stepclip-weaksvr", "verification", "auc"),
    ("steps found", "stepclip-weaksvr", "localisation", "frame_accuracy"),
    ("script in own order", "stepclip-tempclr", "sequences", "shuffled.r1"),
    ("script to video R@1", "stepclip-tempclr", "sequences", "kept.r1"),
    ("step recall", "stepclip-tempclr", "steps", "recall"),
    ("phase accuracy", "stepclip-carl", "frames", "accuracy"),
    ("frames AP@5", "stepclip-carl", "frames", "ap5"),
)
Cells = dict[str, list[float] | None]  # of a row, by the head of the column
KEPT = 0.99  # of each specialist's score on its own tasks


def run(
    root: Path, people: int, bench_seed: int, seeds: int, part: tuple[int, int] = (0, 1)
) -> dict[str, Any]:
    """All runs, or a share of them. `table`: name of the row -> head of the column -> mean and deviation, or
    None; the best control of each column last."""
    from stepclip.evaluate import over_seeds
    from stepclip.pipelines.paths import Layout

    layout = Layout(root)
    prepare(layout, people, bench_seed)
    done = all_runs(layout, ENTRIES, seeds, part)
    if part[1] > 1:
        return {}
    table: dict[str, Cells] = {}
    for entry in ENTRIES:
        rows = over_seeds([done[entry.run, seed]["results"] for seed in range(seeds)])
        quoted = {row.part: row.figures for row in rows if row.headline}
        table[entry.name] = {head: _cell(quoted.get(of, {}).get(key)) for head, _, of, key in TASKS}
    rows = over_seeds([done[ENTRIES[0].run, seed]["results"] for seed in range(seeds)])
    table["best control"] = {
        head: _cell(
            max(
                (r.figures[key] for r in rows if r.part == of and r.kind != "trained" and key in r.figures),
                key=lambda spread: spread.mean,
                default=None,
            )
        )
        for head, _, of, key in TASKS
    }
    what = {"people": people, "bench_seed": bench_seed, "seeds": seeds, "videos": 70 * people}
    return {"what": what, "machine": machine("torch"), "table": table}


def _cell(spread: Any) -> list[float] | None:
    return None if spread is None else [round(spread.mean, 6), round(spread.deviation, 6)]


def verdicts(table: dict[str, Cells]) -> list[tuple[str, str, float]]:
    """(task, its specialist, the joint model's score over the specialist's)."""
    found = []
    for head, specialist, _, _ in TASKS:
        ours, theirs = table[JOINT][head], table[specialist][head]
        if ours and theirs:
            found.append((head, specialist, ours[0] / theirs[0]))
    return found


def markdown(result: dict[str, Any]) -> str:
    table: dict[str, Cells] = result["table"]
    heads = [head for head, *_ in TASKS]
    own = {head: specialist for head, specialist, *_ in TASKS}
    lines = ["| % | " + " | ".join(heads) + " |", "|---|" + "---:|" * len(heads)]
    for name, cells in table.items():
        shown = []
        for head in heads:
            value = cells[head]
            text = "–" if value is None else f"{100 * value[0]:.1f}"
            if value is not None and name in {*own.values(), JOINT}:
                text += f" ± {100 * value[1]:.1f}"
            shown.append(f"**{text}**" if own[head] == name else text)
        label = name if name == "best control" else f"`{name}`"
        lines.append(f"| {label} | " + " | ".join(shown) + " |")
    ratios = {head: ratio for head, _, ratio in verdicts(table)}
    cells_ = [f"{100 * ratios[h]:.1f}" if h in ratios else "–" for h in heads]
    lines.append("| joint, % of the specialist | " + " | ".join(cells_) + " |")
    kept = [head for head, ratio in ratios.items() if ratio >= KEPT]
    better = [head for head, ratio in ratios.items() if ratio > 1]
    lost = [head for head in ratios if head not in kept]
    seeds = result["what"]["seeds"]
    lines += [
        "",
        f"Mean and deviation of {seeds} seeds; bold: a specialist on its own task. The joint model keeps "
        f"99 % of the specialist on {len(kept)} of {len(ratios)} tasks"
        + (f" (not on: {', '.join(lost)})" if lost else "")
        + f", and is better on {', '.join(better) or 'none'}.",
    ]
    return "\n".join(lines) + "\n"


def chart(result: dict[str, Any], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "stepclip"
    from matplotlib import pyplot as plt

    table: dict[str, Cells] = result["table"]
    names = list(table)
    colours = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#BBBBBB"]
    figure, axis = plt.subplots(figsize=(10, 3.8), constrained_layout=True)
    width = 0.8 / len(names)
    for k, name in enumerate(names):
        known = [(i, table[name][head]) for i, (head, *_) in enumerate(TASKS)]
        values = [(i, value) for i, value in known if value is not None]
        axis.bar(
            [i + (k - len(names) / 2 + 0.5) * width for i, _ in values],
            [100 * value[0] for _, value in values],
            width,
            yerr=[100 * value[1] for _, value in values],
            color=colours[k],
            label=name,
        )
    axis.set_xticks(range(len(TASKS)), [head.replace(" ", "\n", 1) for head, *_ in TASKS], fontsize=8)
    axis.set_ylabel("%")
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(fontsize=8, ncols=5, loc="upper center", bbox_to_anchor=(0.5, 1.14), frameon=False)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def main() -> None:
    from stepclip.cache.files import write_json

    found = run(**options(__doc__))
    if not found:
        return
    write_json(HERE / "joint.json", found)
    (HERE / "joint.md").write_text(markdown(found))
    readme.put("joint", markdown(found), HERE.parent / "docs" / "results.md")
    chart(found, HERE / "joint.svg")
    print(markdown(found))


if __name__ == "__main__":
    main()
