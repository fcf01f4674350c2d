"""What bench_check.py found: as JSON, as tables, as a chart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

KINDS = ("missing", "moved", "repeated", "added")
COLOURS = {"trained": "#0072B2", "centred": "#E69F00", "raw": "#999999"}  # Okabe and Ito


def _f(value: float | None, digits: int = 3) -> str:
    return "–" if value is None or value != value else f"{value:.{digits}f}"


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


def markdown(result: dict[str, Any]) -> str:
    what, on, scripts = result["what"], result["machine"], result["scripts"]
    lines = [
        f"The synthetic bench, recipe {what['recipe']}: {what['videos']} test recordings, people and tasks "
        f"not trained on. `python benchmarks/bench_check.py`; {on['cpu']}, {on['cores']} cores.",
        "",
        f"| {scripts['queries']} scripts among {scripts['gallery']} videos | R@1 % | R@5 % | MRR "
        "| R@1 %, the same steps in three orders | MRR "
        f"| the same, by one person ({scripts['lists']} lists) |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]  # fmt: skip
    for row in scripts["rows"]:
        name = f"**{row['name']}**" if row["name"] == "ordered, trained" else row["name"]
        lines.append(
            f"| {name} | {_percent(row['r1'])} | {_percent(row['r5'])} | {_f(row['mrr'])} | "
            f"{_percent(row['orders_r1'])} | {_f(row['orders_mrr'])} | {_percent(row['lists_r1'])} |"
        )
    faults = result["faults"]
    lines += [
        "",
        f"{faults['recordings']} recordings, a fifth of them sound, a fifth with each fault. F1 per kind (in "
        "brackets: AUC of its probability, its calibration error):",
        "",
        f"| | {' | '.join(KINDS)} | borders, s: mean, median | verdict AUC | ECE |",
        f"|---|{'---:|' * 4}---:|---:|---:|",
    ]
    for row in faults["rows"]:
        cells = " | ".join(
            f"{_f(k['f1'])} ({_f(k['auc'], 2)}, {_f(k['ece'])})"
            for k in (row["kinds"][kind] for kind in KINDS)
        )
        name = f"**{row['name']}**" if row["name"].startswith("trained") else row["name"]
        lines.append(
            f"| {name} | {cells} | {row['border']:.2f}, {row['border_median']:.2f} "
            f"| {_f(row['verdict_auc'])} | {_f(row['verdict_ece'])} |"
        )
    guess = " | ".join(_f(faults["rows"][0]["kinds"][kind]["guess"]) for kind in KINDS)
    lines.append(f"| control: report every step | {guess} | – | 0.500 | – |")
    uniform = faults["uniform"]
    borders = f"{uniform['border']:.2f}, {uniform['border_median']:.2f}"
    lines.append(f"| control: uniform split | – | – | – | – | {borders} | – | – |")
    lines += [
        "",
        f"{result['procedures']['checks']} checks of recordings against their own script and against those "
        "of their task's other procedures; AUC of the verdict:",
        "",
        "| | all | other order | steps less or more (deletion) | (addition) |",
        "|---|---:|---:|---:|---:|",
    ]
    for row in result["procedures"]["rows"]:
        cells = " | ".join(_f(row[kind]) for kind in ("all", "order", "deletion", "addition"))
        lines.append(f"| {row['name']} | {cells} |")
    lines += [
        "",
        f"| compare, {result['pairs']['pairs']} pairs | AUC | accuracy at even odds | ECE |",
        "|---|---:|---:|---:|",
    ]
    for row in result["pairs"]["rows"]:
        lines.append(f"| {row['name']} | {_f(row['auc'])} | {_f(row['accuracy'])} | {_f(row['ece'])} |")
    return "\n".join(lines) + "\n"


def chart(result: dict[str, Any], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "stepclip"
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(11, 3.8), constrained_layout=True)
    rows = result["scripts"]["rows"]
    for y, row in enumerate(rows[::-1]):
        colour = "#0072B2" if row["name"].startswith("ordered") else "#999999"
        axes[0].barh(y, 100 * row["lists_r1"], color=colour)
        axes[0].text(100 * row["lists_r1"] + 1, y, _percent(row["lists_r1"]), va="center", fontsize=8)
    axes[0].axvline(100 / 3, color="black", linewidth=0.8, linestyle="--")
    axes[0].set_yticks(range(len(rows)), [row["name"] for row in rows[::-1]], fontsize=8)
    axes[0].set_xlabel(
        "the right one of three orders of the same steps, one person, % (dashed: chance)", fontsize=8
    )
    axes[0].set_title("scripts", fontsize=10)
    table = [row for row in result["faults"]["rows"] if row["name"].endswith("references")]
    for n, row in enumerate(table):
        at = [i + 0.27 * (n - 1) for i in range(len(KINDS))]
        values = [row["kinds"][kind]["auc"] for kind in KINDS]
        axes[1].bar(at, values, 0.25, color=COLOURS[row["name"].split(",")[0]], label=row["name"])
    axes[1].axhline(0.5, color="black", linewidth=0.8, linestyle="--")
    axes[1].set_xticks(range(len(KINDS)), KINDS, fontsize=8)
    axes[1].set_ylim(0.4, 1)
    axes[1].set_ylabel("AUC of the fault's probability", fontsize=8)
    axes[1].set_title("made faults (dashed: chance)", fontsize=10)
    axes[1].legend(fontsize=8, frameon=False)
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, metadata={"Date": None})


def save(result: dict[str, Any], out: Path) -> None:
    from stepclip.cache.files import write_json

    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "check.json", result)
    (out / "check.md").write_text(markdown(result), encoding="utf-8")
    chart(result, out / "check.svg")
