"""What bench_train.py found, against what was asked: as JSON, as a table, as a chart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

ASKED = {"split": 20.0, "viterbi": 4.0, "step": 3.5}
MINUTES = {"cpu": 25.0, "gpu": 1.0}  # of the released CSV schedule


def checks(result: dict[str, Any]) -> list[dict[str, Any]]:
    """What was asked, the least that was found over the batch sizes, whether it is met."""
    table = []
    for kind in ("split", "viterbi"):
        least = min(row["ratio"] for row in result["losses"] if row["kind"] == kind)
        table.append((f"{kind} loss, times the released", least, ASKED[kind], least >= ASKED[kind]))
    least = min(row["ratio"] for row in result["steps"])
    table.append(("whole step with bf16, times the released", least, ASKED["step"], least >= ASKED["step"]))
    minutes = result["whole"]["seconds"] / 60
    limit = MINUTES["cpu" if result["what"]["device"] == "cpu" else "gpu"]
    table.append(("minutes of the released CSV schedule", minutes, limit, minutes < limit))
    return [
        {"what": what, "found": found, "asked": f"{'<' if 'minutes' in what else '≥'} {asked:g}", "met": met}
        for what, found, asked, met in table
    ]


def markdown(result: dict[str, Any]) -> str:
    what, on = result["what"], result["machine"]
    device = on.get("gpu") or f"{on['cpu']}, one thread, CPU time"
    lines = [
        f"Milliseconds, median of {what['rounds']} rounds in turn; {device}; torch {on['torch']}. "
        f"{what['frames']} frames, width {what['width']}, scripts padded to 20 sentences.",
        "",
        "| fine loss, forward and backward | batch | released | ours | times |",
        "|---|---:|---:|---:|---:|",
    ]
    for row in result["losses"]:
        lines.append(
            f"| {row['kind']} | {row['batch']} | {row['released']['median']:.2f} | "
            f"{row['ours']['median']:.2f} | {row['ratio']:.1f} |"
        )
    names = list(result["steps"][0]["times"])
    head = " | ".join(f"batch {row['batch']}" for row in result["steps"])
    lines += ["", f"| whole step | {head} |", "|---|" + "---:|" * len(result["steps"])]
    for name in names:
        cells = " | ".join(f"{row['times'][name]['median']:.1f}" for row in result["steps"])
        lines.append(f"| {name} | {cells} |")
    ratios = " | ".join(f"{row['ratio']:.1f}" for row in result["steps"])
    lines.append(f"| released over {result['steps'][0]['fastest']} | {ratios} |")
    bound = result["matmul_gflop_per_s"]
    shares = " | ".join(f"{100 * row['gflop_per_s'] / bound['bf16']:.0f} %" for row in result["steps"])
    lines.append(f"| its share of a bf16 product's {bound['bf16']:,.0f} GFLOP/s | {shares} |")
    lines += ["", "| asked | found | asked for | met |", "|---|---:|---:|---|"]
    for row in checks(result):
        met = "yes" if row["met"] else "no"
        lines.append(f"| {row['what']} | {row['found']:.3g} | {row['asked']} | {met} |")
    lines += ["", f"The schedule's {result['whole']['steps']:,} steps of 32: {result['whole']['how']}."]
    return "\n".join(lines) + "\n"


def chart(result: dict[str, Any], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "stepclip"
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(10, 3.8), constrained_layout=True)
    sizes = [row["batch"] for row in result["steps"]]
    for place, kind in enumerate(("split", "viterbi", "sort")):
        ratios = [row["ratio"] for row in result["losses"] if row["kind"] == kind]
        spots = [i + 0.27 * (place - 1) for i in range(len(sizes))]
        colour = ("#0072B2", "#E69F00", "#999999")[place]
        axes[0].bar(spots, ratios, 0.25, label=kind, color=colour)
        for spot, ratio in zip(spots, ratios, strict=True):
            axes[0].text(spot, ratio, f"{ratio:.1f}", ha="center", va="bottom", fontsize=8)
        if kind in ASKED:
            axes[0].axhline(ASKED[kind], color=colour, linewidth=0.8, linestyle="--")
    axes[0].set_title("fine loss: times faster than the released structure", fontsize=10)
    axes[0].legend(fontsize=8, frameon=False)
    for place, (label, key, colour) in enumerate(
        (("fp32", "ratio_fp32", "#999999"), ("bf16", "ratio", "#0072B2"))
    ):
        spots = [i + 0.36 * (place - 0.5) for i in range(len(sizes))]
        values = [row[key] for row in result["steps"]]
        axes[1].bar(spots, values, 0.34, label=label, color=colour)
        for spot, value in zip(spots, values, strict=True):
            axes[1].text(spot, value, f"{value:.1f}", ha="center", va="bottom", fontsize=8)
    axes[1].axhline(ASKED["step"], color="black", linewidth=0.8, linestyle="--", label="asked with bf16")
    axes[1].set_title("whole step (split): times faster", fontsize=10)
    axes[1].legend(fontsize=8, frameon=False)
    for axis in axes:
        axis.set_xticks(range(len(sizes)), [f"batch {size}" for size in sizes])
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, metadata={"Date": None})


def save(result: dict[str, Any], out: Path) -> str:
    from stepclip.cache.files import write_json

    out.mkdir(parents=True, exist_ok=True)
    name = "train" if result["what"]["device"] == "cpu" else "train-gpu"
    write_json(out / f"{name}.json", {**result, "asked": checks(result)})
    text = markdown(result)
    (out / f"{name}.md").write_text(text, encoding="utf-8")
    chart(result, out / f"{name}.svg")
    return text
