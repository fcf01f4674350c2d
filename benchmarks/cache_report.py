"""What bench_cache.py found, against what was asked: as JSON, as a table, as a chart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cache_layouts import BATCH

ASKED = {"batches": 0.8, "load": 0.5, "open": 1.0, "memory": 1.0, "write": 0.5}
PLAIN, LARGE = "plain write and fsync", "FeatureWriter, shards of 64 MiB"
COLOURS = {"stepclip": "#0072B2", "reference": "#999999", "other": "#E69F00"}  # Okabe and Ito


def checks(result: dict[str, Any]) -> list[dict[str, Any]]:
    """What was asked, what was found, whether it is met."""
    rows = {row["name"]: row for row in result["reading"]["layouts"]}
    ours = [row for row in rows.values() if row["kind"] == "stepclip"]
    load = next(row for row in ours if "load()" in row["name"])
    shards = next(way for way in result["writing"]["ways"] if way["name"] == LARGE)
    opened, memory = result["opening"], result["memory"]
    table = [
        *(
            (
                f"random batches, {row['name']}, share of a memmap",
                row["batches_share"]["median"],
                "batches",
                1,
            )
            for row in ours
        ),
        ("full load, store.load(), share of a memmap", load["load_share"]["median"], "load", 1),
        (f"opening {opened['videos']:,} videos in a fresh process, s", opened["cold"]["median"], "open", -1),
        (f"opening {opened['videos']:,} videos again, s", opened["warm"]["median"], "open", -1),
        (f"memory while {memory['gb']:g} GB are read, GB", memory["growth_gb"], "memory", -1),
        ("writing shards of 64 MiB, share of a plain write", shards["share"]["median"], "write", 1),
    ]
    return [
        {
            "what": what,
            "found": found,
            "asked": f"{'≥' if sign > 0 else '<'} {ASKED[key]:g}",
            "met": bool(found >= ASKED[key] if sign > 0 else found < ASKED[key]),
        }
        for what, found, key, sign in table
    ]


def markdown(result: dict[str, Any]) -> str:
    what, on = result["what"], result["machine"]
    lines = [
        f"{what['videos']:,} videos of about {what['frames']} frames of {what['dim']} float16 numbers "
        f"({result['reading']['gb']:g} GB), median of {what['rounds']} rounds, one thread; {on['cpu']}, "
        f"{on['cores']} cores{', the quick form' * what['quick']}.",
        "",
        "| layout | videos/s, random batches of 16 | share of memmap | full load, GB/s | share of memmap |",
        "|---|---:|---:|---:|---:|",
    ]
    for row in result["reading"]["layouts"]:
        name = f"**{row['name']}**" if row["kind"] == "stepclip" else row["name"]
        batches = "– | –"
        if "videos_per_s" in row:
            batches = f"{row['videos_per_s']['median']:,.0f} | {row['batches_share']['median']:.3g}"
        load = "– | –"
        if "load_share" in row:
            load = f"{row['load_gb_per_s']['median']:.3g} | {row['load_share']['median']:.3g}"
        lines.append(f"| {name} | {batches} | {load} |")
    lines += ["", f"| writing {result['writing']['gb']:g} GB | MB/s | share |", "|---|---:|---:|"]
    for way in result["writing"]["ways"]:
        lines.append(f"| {way['name']} | {way['mb_per_s']['median']:,.0f} | {way['share']['median']:.3g} |")
    lines += ["", "| asked | found | asked for | met |", "|---|---:|---:|---|"]
    for row in result["asked"]:
        lines.append(
            f"| {row['what']} | {row['found']:.3g} | {row['asked']} | {'yes' if row['met'] else 'no'} |"
        )
    return "\n".join(lines) + "\n"


def chart(result: dict[str, Any], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "stepclip"
    from matplotlib import pyplot as plt

    rows = result["reading"]["layouts"][::-1]
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.4), sharey=True, constrained_layout=True)
    for axis, key, asked, title in (
        (axes[0], "batches_share", ASKED["batches"], f"random batches of {BATCH} videos"),
        (axes[1], "load_share", ASKED["load"], "full load"),
    ):
        for y, row in enumerate(rows):
            if key not in row:
                why = "in order only" if key == "batches_share" else "not measured"
                axis.text(0.01, y, why, va="center", fontsize=8, color="#555555")
                continue
            median, (low, high) = row[key]["median"], row[key]["spread"]
            error = [[max(0, median - low)], [max(0, high - median)]]
            axis.barh(y, median, color=COLOURS[row["kind"]], xerr=error, error_kw={"linewidth": 0.8})
            axis.text(max(median, high) + 0.02, y, f"{median:.2g}", va="center", fontsize=8)
        axis.vlines(asked, -0.6, len(rows) - 0.4, color="black", linewidth=0.8, linestyle="--")
        axis.text(asked, len(rows) - 0.3, f"asked: {asked:g}", ha="center", fontsize=8)
        axis.set_ylim(-0.6, len(rows) - 0.4)
        axis.set_yticks(range(len(rows)), [row["name"] for row in rows], fontsize=8)
        axis.set_xlabel("share of a raw memmap's speed (line: spread of the rounds)", fontsize=8)
        axis.set_title(title, fontsize=10, pad=18)
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, metadata={"Date": None})


def save(result: dict[str, Any], out: Path) -> None:
    from stepclip.cache.files import write_json

    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "cache.json", result)
    (out / "cache.md").write_text(markdown(result), encoding="utf-8")
    chart(result, out / "cache.svg")
