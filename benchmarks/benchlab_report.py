"""What bench_benchlab.py found, against what was asked: JSON, table, chart; in README and docs/results.md."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import readme

Value = list[float] | None  # mean and standard deviation over the seeds
OURS = "stepclip-weaksvr"
KINDS = ("order", "deletion", "addition")
COLUMNS = ("auc", "other", *KINDS, "wdr", "paragraph", "script", "labels", "labels_iou", "found")
HEADS = ("paragraph %", "script %", "labels %", "IoU %", "found %")
LEGEND = (
    "*AUC* of verification, by kind of difference too, and *WDR* (in the head: of a distance that is "
    "equal for all pairs) by the distance that a recipe quotes: the pooled embedding for the papers', "
    "DTW of the frames for ours; *other*: the AUC by the other one. *paragraph*, *script*: text to "
    "video, the right one of five, by one vector or by the sentences in order. *labels*, *IoU*: "
    "pseudo-labels of the training videos against the hidden truth, frames inside a step and spans. "
    "*found*: frames of unseen tasks that get their step, the script given."
)
GROUPS = {
    "official": "WeakSVR as released",
    "corrected": "WeakSVR, corrected",
    "SVIP": "SVIP",
    OURS: "`stepclip-weaksvr`",
}
NAMES = {("official", "sort"): "sort (the released choice)", (OURS, "as it is"): "**as it is**"}
# what a control is called in the tables of pairs; of text to video (and its column); of labels; of steps
CONTROLS = {
    "chance": ("chance", ("chance", "script"), "chance", "chance"),
    "clock, equal parts": ("clock", ("clock", "script"), "uniform", "uniform"),
    "duration": ("duration", ("duration", "script"), "", ""),
    "mean of the frames": ("mean-pool", ("mean-pool", "paragraph"), "", ""),
    "16 frames end to end": ("flat", ("", ""), "", ""),
    "order of the frames (DTW)": ("dtw-raw", ("script-raw", "script"), "raw visit-all", "raw"),
    "DTW, the video's mean taken off": (
        "dtw-centred", ("script-centred", "script"), "centred visit-all", "centred",
    ),
}  # fmt: skip
COLOURS = {"official": "#999999", "corrected": "#56B4E9", "SVIP": "#E69F00", OURS: "#0072B2"}
CONTROL_COLOUR = "#D9D9D9"


def figure(row: dict[str, Any], part: str, name: str | None, key: str) -> Value:
    """Mean and deviation of a figure of a row's part; `name` None: of the one to quote, "": of none."""
    for found in row["figures"]:
        if found["part"] == part and (found["headline"] if name is None else found["name"] == name):
            value: Value = found["figures"].get(key)
            return value
    return None


def lines_of(result: dict[str, Any]) -> list[dict[str, Any]]:
    """The table: a dict of figures per line, trained ones first, controls from the first entry's runs."""
    lines = []
    for row in result["rows"]:
        quoted = next(f["name"] for f in row["figures"] if f["part"] == "verification" and f["headline"])
        other = "pooled" if quoted == "alignment" else "alignment"
        line = {
            "group": row["group"],
            "name": row["name"],
            "other": figure(row, "verification", other, "auc"),
        }
        line |= _pairs(row, None)
        line |= {key: figure(row, "matching", key, "acc1") for key in ("paragraph", "script")}
        line |= _labels(row, None) if row["labels"] else _labels(row, "")
        lines.append(line | {"found": figure(row, "localisation", "trained", "frame_accuracy")})
    first = result["rows"][0]
    for name, (pairs, match, labels, found) in CONTROLS.items():
        line = {"group": "controls", "name": name, "other": None, **_pairs(first, pairs)}
        line |= dict.fromkeys(("paragraph", "script")) | {
            key: figure(first, "matching", of, "acc1") for of, key in (match,) if of
        }
        line |= _labels(first, labels)
        lines.append(line | {"found": figure(first, "localisation", found, "frame_accuracy")})
    return lines


def _pairs(row: dict[str, Any], name: str | None) -> dict[str, Value]:
    kinds = {kind: figure(row, "verification", name, f"by_kind.{kind}") for kind in KINDS}
    return {key: figure(row, "verification", name, key) for key in ("auc", "wdr")} | kinds


def _labels(row: dict[str, Any], name: str | None) -> dict[str, Value]:
    frames, iou = (figure(row, "pseudo_labels", name, f"train.{key}") for key in ("frame_accuracy", "iou"))
    return {"labels": frames, "labels_iou": iou}


def checks(result: dict[str, Any]) -> list[dict[str, Any]]:
    """What was asked, what was found, whether it is met; and the stricter comparisons beside it."""
    rows = {(row["group"], row["name"]): row for row in result["rows"]}
    best = rows[OURS, "as it is"]

    def above(group: str, name: str) -> float:
        auc = [figure(row, "verification", None, "auc") for row in (best, rows[group, name])]
        return 100 * (auc[0][0] - auc[1][0])  # type: ignore[index]

    labels = [figure(best, "pseudo_labels", name, "train.frame_accuracy") for name in (None, "uniform")]
    table: list[tuple[str, float, float | None]] = [
        ("AUC points over coarse only, as released", above("official", "coarse only"), 5.0),
        ("AUC points over the whole as released (sort)", above("official", "sort"), 3.0),
        (
            "accuracy of the labels over equal parts, the same frames",
            labels[0][0] / labels[1][0],  # type: ignore[index]
            1.5,
        ),
        ("AUC points over coarse only, corrected", above("corrected", "coarse only"), None),
        ("AUC points over coarse only with our own parts", above(OURS, "coarse only"), None),
        ("AUC points over our own parts before training", above(OURS, "before training"), None),
    ]
    return [
        {
            "what": what,
            "found": round(found, 3),
            "asked": "–" if asked is None else f"≥ {asked:g}",
            "met": None if asked is None else found >= asked,
        }
        for what, found, asked in table
    ]


def cell(value: Value, digits: int = 1, unit: float = 100, bold: bool = False) -> str:
    if value is None:
        return "–"
    mean, deviation = value
    text = f"{unit * mean:.{digits}f}"
    text += f" ± {unit * deviation:.{digits}f}" if deviation else ""
    return f"**{text}**" if bold else text


def markdown(result: dict[str, Any]) -> str:
    what = result["what"]
    equal = figure(result["rows"][0], "verification", None, "wdr_constant")
    heads = ("AUC %", "other", *KINDS, f"WDR (equal: {cell(equal, 3, 1)})", *HEADS)
    out = [
        f"Bench seed {what['bench_seed']}: {what['videos']} videos, {what['people']} people for the 45 "
        "training procedures and as many others for the 25 of the test, whose tasks are not trained on. "
        f"Mean ± standard deviation of {what['seeds']} training seeds.",
        "",
        "| | " + " | ".join(heads) + " |",
        "|---|" + "---:|" * len(heads),
    ]
    group = ""
    for line in lines_of(result):
        if line["group"] != group:
            group = line["group"]
            out.append(f"| *{GROUPS.get(group, 'controls, nothing trained')}* |" + " |" * len(heads))
        best = (line["group"], line["name"]) == (OURS, "as it is")
        cells = [
            cell(line[key], *((3, 1) if key == "wdr" else (1, 100)), bold=best and key in ("auc", "labels"))
            for key in COLUMNS
        ]
        out.append(f"| {NAMES.get((group, line['name']), line['name'])} | " + " | ".join(cells) + " |")
    out += ["", LEGEND, "", "| asked of our recipe | found | asked | |", "|---|---:|---:|---|"]
    for check in checks(result):
        met = "" if check["met"] is None else "met" if check["met"] else "**missed**"
        out.append(f"| {check['what']} | {check['found']:.4g} | {check['asked']} | {met} |")
    seconds = sum(row["seconds"]["train"] + row["seconds"]["evaluate"] for row in result["rows"])
    minutes = what["seeds"] * seconds / 60
    out += [
        "",
        f"One schedule for the papers' presets: `{' '.join(what['paper'])}`. Theirs is a width of 1024 "
        "and 300 epochs. "
        f"{len(result['rows'])} lines x {what['seeds']} seeds took {minutes:.0f} minutes "
        f"of one core ({result['machine']['cpu']}), no GPU.",
    ]
    return "\n".join(out)


def chart(result: dict[str, Any], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "stepclip"
    from matplotlib import pyplot as plt

    lines = lines_of(result)
    figure_, axes = plt.subplots(1, 2, figsize=(11, 7.2), constrained_layout=True, width_ratios=[1.25, 1])
    for axis, key, title in (
        (axes[0], "auc", "Same procedure? AUC % of verification"),
        (axes[1], "labels", "Labels used in training: frames %"),
    ):
        shown = [line for line in lines if line[key] is not None][::-1]
        names = [_named(line) for line in shown]
        means, deviations = zip(*(line[key] for line in shown), strict=True)
        colours = [COLOURS.get(line["group"], CONTROL_COLOUR) for line in shown]
        axis.barh(
            range(len(shown)), [100 * m for m in means], xerr=[100 * d for d in deviations], color=colours,
            error_kw={"lw": 0.9, "capsize": 2},
        )  # fmt: skip
        for y, (mean, deviation) in enumerate(zip(means, deviations, strict=True)):
            axis.text(100 * (mean + deviation) + 1, y, f"{100 * mean:.1f}", va="center", fontsize=8)
        axis.set_yticks(range(len(shown)), names, fontsize=8)
        axis.set_title(title, fontsize=10)
        axis.set_xlim(0, 100)
        best = 100 * max(line[key][0] for line in shown if line["group"] == "controls")
        axis.axvline(best, color="#666666", lw=0.8, ls=":")
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].axvline(50, color="#666666", lw=0.8)
    figure_.supxlabel(
        "dotted: the best control; bars: mean of the seeds, lines: their standard deviation", fontsize=8
    )
    figure_.savefig(path, metadata={"Date": None})
    plt.close(figure_)


def _named(line: dict[str, Any]) -> str:
    group = {"official": "released", "corrected": "corrected", "SVIP": "SVIP", OURS: "ours"}.get(
        line["group"]
    )
    return str(line["name"]) if group is None else f"{group}: {line['name']}"


def save(result: dict[str, Any], folder: Path, pages: tuple[Path, ...] | None = None) -> str:
    """benchlab.json, .md and .svg in `folder`, the table in the pages; returns the table."""
    from stepclip.cache.files import write_json

    write_json(folder / "benchlab.json", {**result, "asked": checks(result)})
    table = markdown(result)
    (folder / "benchlab.md").write_text(table + "\n", encoding="utf-8")
    chart(result, folder / "benchlab.svg")
    root = Path(__file__).resolve().parent.parent
    for page in (root / "README.md", root / "docs" / "results.md") if pages is None else pages:
        readme.put("benchlab", table, page)
    return table
