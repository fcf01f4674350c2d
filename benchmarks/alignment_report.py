"""What bench_alignment.py found, against what was asked: as JSON, as tables, as a chart."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

COLOURS = {"stepclip": "#0072B2", "peer": "#E69F00", "loop": "#999999", "bound": "#009E73"}  # Okabe and Ito
INNERMOST = "StepCLIP, problem index innermost"


def _median(result: dict[str, Any], operation: str, size: str, name: str) -> float:
    for row in result["rows"]:
        if (row["operation"], row["size"], row["name"]) == (operation, size, name):
            return row["us"]["median"]
    return float("nan")


def _fastest_peer(result: dict[str, Any], operation: str, size: str) -> tuple[str, float]:
    rows = [
        (row["name"], row["us"]["median"])
        for row in result["rows"]
        if (row["operation"], row["size"], row["kind"]) == (operation, size, "peer")
    ]
    return min(rows, key=lambda row: row[1], default=("no peer installed", float("nan")))


def checks(result: dict[str, Any]) -> list[dict[str, Any]]:
    """What was asked, what was found, whether it is met."""
    out = []

    def check(what: str, found: float, asked: float, least: bool = True) -> None:
        if math.isnan(found):  # a peer that is not installed
            return
        met = found >= asked if least else found <= asked
        shown = f"{'≥' if least else '≤'} {asked:g}"
        out.append({"what": what, "found": float(f"{found:.3g}"), "asked": shown, "met": bool(met)})

    for size in result["what"]["sizes"]:
        name, time = _fastest_peer(result, "soft", size)
        ours = _median(result, "soft", size, INNERMOST)
        check(f"({size}) soft-DTW value and gradient, times faster than {name}", time / ours, 20)
        ours = _median(result, "hard", size, "StepCLIP")
        for name in ("dtaidistance", "aeon"):
            time = _median(result, "hard", size, name)
            check(f"({size}) DTW value from features, times faster than {name}", time / ours, 15)
        time = _median(result, "labels", size, "numpy Viterbi, sample by sample")
        ours = _median(result, "labels", size, INNERMOST)
        check(f"({size}) labels, times faster than numpy sample by sample", time / ours, 500)
    for row in result["exact"]:
        check(f"({row['size']}) soft value, largest error", row["soft value"], 1e-5, least=False)
        check(f"({row['size']}) gradient, largest error", row["gradient"], 2e-5, least=False)
    check("first call with compiled code on the disk, s", result["start"]["cached"], 1, least=False)
    return out


def table(result: dict[str, Any]) -> str:
    """The part for README.md: microseconds a problem."""
    on, sizes = result["machine"], list(result["what"]["sizes"])
    lines = [
        f"{on['cpu']}, 1 thread of {on['cores']}, processor time, median of {result['what']['rounds']} "
        f"rounds, load {on['load']:.1f}.",
        "",
        "| microseconds a problem | " + " | ".join(f"({size})" for size in sizes) + " |",
        "|---|" + "---:|" * len(sizes),
    ]
    for operation, title in result["what"]["operations"].items():
        lines.append(f"| *{title}* |" + " |" * len(sizes))
        rows = [row for row in result["rows"] if row["operation"] == operation]
        for name in dict.fromkeys(row["name"] for row in rows):
            kind = next(row["kind"] for row in rows if row["name"] == name)
            times = [_short(_median(result, operation, size, name)) for size in sizes]
            lines.append(f"| {f'**{name}**' if kind == 'stepclip' else name} | " + " | ".join(times) + " |")
    lines += ["", *(f"({name}) {what}. " for name, what in result["what"]["sizes"].items())]
    return "\n".join(lines) + "\n"


def markdown(result: dict[str, Any]) -> str:
    lines = [table(result), "| asked | found | asked for | met |", "|---|---:|---:|---|"]
    for row in result["asked"]:
        yes = "yes" if row["met"] else "no"
        lines.append(f"| {row['what']} | {row['found']:.3g} | {row['asked']} | {yes} |")
    start = result["start"]
    lines += [
        "",
        f"First call of a process: {start['compiling']:.1f} s while it compiles, {start['cached']:.2f} s "
        f"with the compiled code on the disk; {start['again'] * 1e3:.2f} ms the second time.",
    ]
    return "\n".join(lines) + "\n"


def _short(number: float) -> str:
    """Three digits, without powers of ten."""
    return f"{float(f'{number:.3g}'):,g}" if number < 1e6 else f"{number:,.0f}"


def chart(result: dict[str, Any], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "stepclip"
    from matplotlib import pyplot as plt

    sizes = list(result["what"]["sizes"])
    shown = [name for name in ("soft", "hard", "labels") if name in result["what"]["operations"]]
    figure, axes = plt.subplots(
        len(shown), len(sizes), figsize=(11, 6.4), constrained_layout=True, squeeze=False, sharey="row"
    )
    for i, operation in enumerate(shown):
        rows = [row for row in result["rows"] if row["operation"] == operation]
        names = list(dict.fromkeys(row["name"] for row in rows))[::-1]
        for j, size in enumerate(sizes):
            axis = axes[i][j]
            for y, name in enumerate(names):
                row = next(r for r in rows if r["name"] == name and r["size"] == size)
                axis.barh(y, row["us"]["median"], color=COLOURS[row["kind"]])
                axis.text(row["us"]["median"] * 1.15, y, _short(row["us"]["median"]), va="center", fontsize=7)
            axis.set_xscale("log")
            low, high = axis.get_xlim()
            axis.set_xlim(low, high * 6)
            axis.set_yticks(range(len(names)), names, fontsize=7)
            axis.tick_params(axis="x", labelsize=7)
            axis.spines[["top", "right"]].set_visible(False)
            what = result["what"]["sizes"][size].split(", ", 1)
            axis.set_title(f"({size})" if i else f"({size}) " + "\n".join(what), fontsize=8)
            if j == 0:
                axis.set_xlabel(
                    f"{result['what']['operations'][operation]}: µs a problem, log", fontsize=7, loc="left"
                )
    figure.savefig(path, metadata={"Date": None})


def save(result: dict[str, Any], out: Path) -> None:
    from stepclip.cache.files import write_json

    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "alignment.json", result)
    (out / "alignment.md").write_text(markdown(result), encoding="utf-8")
    chart(result, out / "alignment.svg")
