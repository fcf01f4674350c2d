"""What bench_search.py found, against what was asked: as JSON, as a table, as a chart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

ASKED = {"share": 0.95, "times": 20.0, "recall": 0.95, "ms": 10.0}
COLOURS = {"stepclip": "#0072B2", "reference": "#999999", "other": "#E69F00"}  # Okabe and Ito


def checks(result: dict[str, Any]) -> list[dict[str, Any]]:
    """What was asked, what was found, whether it is met."""
    rows = [
        (f"exact, batch {row['batch']}: share of bare FAISS's queries/s", row["share"]["median"], "share", 1)
        for row in result["exact"]["batches"]
    ]
    for sort in ("moments", "sentences"):
        good = [a for a in result["approximate"] if a[sort]["recall"] >= ASKED["recall"]]
        if good:
            best = max(good, key=lambda a: a[sort]["256"]["times_exact"]["median"])
            for batch in ("1", "16", "256"):
                what = f"{best['kind']}, recall@10 {best[sort]['recall']:.3f} on {sort}: times exact"
                rows.append(
                    (f"{what}, batch {batch}", best[sort][batch]["times_exact"]["median"], "times", 1)
                )
    slowest = max(result["re_ranking"]["ms"].values(), key=lambda ms: ms["median"])
    ranking = result["re_ranking"]
    size = f"{ranking['windows']} windows x {ranking['steps']} steps"
    what = f"re-ranking {ranking['candidates']} candidates ({size}), ms"
    rows.append((what, slowest["median"], "ms", -1))
    return [
        {
            "what": what, "found": found, "asked": f"{'≥' if sign > 0 else '<'} {ASKED[key]:g}",
            "met": bool(found >= ASKED[key] if sign > 0 else found < ASKED[key]),
        }
        for what, found, key, sign in rows
    ]  # fmt: skip


def markdown(result: dict[str, Any]) -> str:
    what, on, exact = result["what"], result["machine"], result["exact"]
    lines = [
        f"{what['count']:,} vectors of {what['dim']} numbers, one thread, processor time, median of "
        f"{what['rounds']} rounds; {on['cpu']}, {on['cores']} cores{', the quick form' * what['quick']}. "
        f"`python benchmarks/bench_search.py`",
        "",
        "| exact, queries/s | batch 1 | batch 16 | batch 256 |",
        "|---|---:|---:|---:|",
    ]
    for name in ("stepclip", "bare FAISS", "bare FAISS as it comes"):
        cells = " | ".join(f"{row[name]['median']:,.1f}" for row in exact["batches"])
        lines.append(f"| {'**stepclip**' if name == 'stepclip' else name} | {cells} |")
    shares = " | ".join(f"{row['share']['median']:.3f}" for row in exact["batches"])
    lines += [
        f"| share of bare FAISS | {shares} |",
        "",
        f"Built in {exact['build_s']:g} s, {exact['bytes'] / 1e9:.2f} GB, opened (mapped) in "
        f"{1e3 * exact['open_s']:.0f} ms. \"As it comes\": without `distance_compute_blas_threshold = 1`.",
    ]  # fmt: skip
    if result["approximate"]:
        lines += [
            "",
            "| index | queries | recall@10 | queries/s, batch 1 / 16 / 256 | times exact | effort | build, s "
            "| in memory, GB | on disk, GB |",
            "|---|---|---:|---:|---:|---:|---:|---:|---:|",
        ]
    for row in result["approximate"]:
        for sort in ("moments", "sentences"):
            of = row[sort]
            speed = " / ".join(f"{of[str(b)]['queries_per_s']['median']:,.0f}" for b in (1, 16, 256))
            times = " / ".join(f"{of[str(b)]['times_exact']['median']:.1f}" for b in (1, 16, 256))
            size = f"{row['memory_bytes'] / 1e9:.2f} | {row['bytes'] / 1e9:.2f}"
            lines.append(
                f"| {row['kind']} | {sort} | {of['recall']:.3f} | {speed} | {times} | {of['effort']} | "
                f"{row['build_s']:g} | {size} |"
            )
    ranking = result["re_ranking"]
    lines += [
        "",
        f"| re-ranking {ranking['candidates']} candidates of {ranking['windows']} windows against "
        f"{ranking['steps']} steps | ms |",
        "|---|---:|",
    ]
    lines += [f"| {name} | {ms['median']:.2f} |" for name, ms in ranking["ms"].items()]
    lines += ["", "| asked | found | asked for | met |", "|---|---:|---:|---|"]
    for row in result["asked"]:
        met = "yes" if row["met"] else "no"
        lines.append(f"| {row['what']} | {row['found']:.3g} | {row['asked']} | {met} |")
    lines += ["", *(f"- {note}" for note in result["notes"])] if result.get("notes") else []
    return "\n".join(lines) + "\n"


def chart(result: dict[str, Any], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "stepclip"
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(11, 3.8), constrained_layout=True)
    names = {"stepclip": "stepclip", "bare FAISS": "reference", "bare FAISS as it comes": "other"}
    for n, (name, colour) in enumerate(names.items()):
        values = [row[name]["median"] for row in result["exact"]["batches"]]
        at = [i + 0.27 * (n - 1) for i in range(len(values))]
        axes[0].bar(at, values, 0.25, color=COLOURS[colour], label=name)
    batches = [row["batch"] for row in result["exact"]["batches"]]
    axes[0].set_xticks(range(len(batches)), [f"batch {b}" for b in batches], fontsize=8)
    axes[0].set_ylabel("queries/s, one thread", fontsize=8)
    axes[0].set_title(f"exact, {result['what']['count']:,} x {result['what']['dim']}", fontsize=10)
    axes[0].legend(fontsize=8, frameon=False)
    for sort, marker in (("moments", "o"), ("sentences", "s")):
        for row in result["approximate"]:
            of = row[sort]
            axes[1].plot(
                of["256"]["times_exact"]["median"], of["recall"], marker, color=COLOURS["stepclip"],
                fillstyle="full" if sort == "moments" else "none",
            )  # fmt: skip
            axes[1].annotate(
                f"{row['kind']}, {sort}", (of["256"]["times_exact"]["median"], of["recall"]),
                fontsize=8, xytext=(5, 5 if sort == "moments" else -10), textcoords="offset points",
            )  # fmt: skip
    if not result["approximate"]:
        axes[1].text(0.5, 0.5, "not measured", ha="center", transform=axes[1].transAxes, fontsize=9)
        axes[1].set_xlim(1, 100)
    axes[1].axhline(ASKED["recall"], color="black", linewidth=0.8, linestyle="--")
    axes[1].axvline(ASKED["times"], color="black", linewidth=0.8, linestyle="--")
    axes[1].set_xscale("log")
    axes[1].set_xlabel("times the queries/s of exact search, batches of 256", fontsize=8)
    axes[1].set_ylabel("recall@10 against exact search", fontsize=8)
    axes[1].set_title("approximate (dashed: asked)", fontsize=10)
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, metadata={"Date": None})


def save(result: dict[str, Any], out: Path) -> None:
    from stepclip.cache.files import write_json

    result["asked"] = checks(result)
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "search.json", result)
    (out / "search.md").write_text(markdown(result), encoding="utf-8")
    chart(result, out / "search.svg")
