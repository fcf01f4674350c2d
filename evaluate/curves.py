"""Pictures of the figures: ROC, distances, kinds of difference, pseudo-labels, training, checkpoints.

Each function gives a picture, a sentence that says why there is none, or None where nobody would miss it.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from .columns import kinds_of
from .figures import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, RED, SKY, Picture, finished, new_figure, plain
from .results import TRAINED, Results, Row

STYLES = tuple(
    zip((BLUE, ORANGE, GREEN, RED, PURPLE, SKY, BLACK), ("-", "--", "-.", ":", "-", "--", "-."), strict=True)
)

BAND = 200  # resamples of a ROC curve


def roc(results: Results) -> Picture | str:
    """ROC curves of trained distances (thick) and controls (thin); the quoted one with its 95 % band."""
    details = results.details
    if details.unmatched is None or not details.distances:
        return "ROC curves: no pairs were verified."
    from sklearn.metrics import roc_curve

    figure, (ax,) = new_figure(6.4, 5.4)
    trained = iter(((BLUE, "-"), (ORANGE, "-"), (GREEN, "-")))
    control = iter(((RED, "--"), (PURPLE, "-."), (BLACK, ":"), (SKY, "--"), (GREY, ":")))
    flat = []
    for row in results.verification:
        distances = details.distances[row.name]
        if np.ptp(distances) == 0:
            flat.append(row.name)
            continue
        colour, line = next(trained if row.kind == TRAINED else control, (GREY, ":"))
        alarms, hits, _ = roc_curve(details.unmatched, distances)
        label = f"{row.kind}: {row.name}  {100 * row.result.auc:.1f}"
        if row.headline:
            at = np.linspace(0, 1, 101)
            low, high = roc_band(details.unmatched, distances, at)
            ax.fill_between(100 * at, 100 * low, 100 * high, color=colour, alpha=0.18, lw=0)
        ax.plot(
            100 * alarms, 100 * hits, line, color=colour, lw=2.6 if row.kind == TRAINED else 1.5, label=label
        )
    level = f"{', '.join(flat)}  50.0" if flat else None
    ax.plot([0, 100], [0, 100], color="#bbbbbb", lw=1, zorder=0, label=level)
    ax.set(xlabel="false alarms: equal pairs called different (%)", ylabel="different pairs found (%)")
    ax.set(xlim=(0, 100), ylim=(0, 100.5), aspect="equal")
    ax.legend(title="area under the curve (%)", fontsize=8, title_fontsize=8, loc="lower right", frameon=True)
    return finished(
        figure,
        "Do two videos follow the same procedure?",
        "Each curve is one distance: the higher above the grey diagonal (a coin), the better. The band "
        "around the quoted one holds 95 % of its curves over resampled pairs.",
    )


def roc_band(
    unmatched: np.ndarray, distances: np.ndarray, at: np.ndarray, resamples: int = BAND, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """The share of differing pairs found (n,), its 2.5 and 97.5 % quantiles over resampled pairs, at shares
    `at` (n,) of false alarms. Matched and unmatched pairs (P,) are drawn separately, as for the intervals."""
    from sklearn.metrics import roc_curve

    rng = np.random.default_rng(seed)
    far, near = np.flatnonzero(unmatched), np.flatnonzero(~unmatched)
    found = np.empty((resamples, len(at)))
    for curve in found:
        drawn = np.concatenate([rng.choice(far, len(far)), rng.choice(near, len(near))])
        alarms, hits, _ = roc_curve(unmatched[drawn], distances[drawn])
        curve[:] = np.interp(at, alarms, hits)
    low, high = np.quantile(found, (0.025, 0.975), axis=0)
    return low, high


def spread(results: Results) -> Picture | None:
    """How far equal and differing pairs lie apart, by the quoted distance."""
    quoted = [row for row in results.verification if row.headline]
    unmatched = results.details.unmatched
    if unmatched is None or not quoted or quoted[0].name not in results.details.distances:
        return None
    distances = results.details.distances[quoted[0].name]
    if np.ptp(distances) == 0:
        return None
    figure, (ax,) = new_figure(7.2, 2.8)
    bins = np.linspace(distances.min(), distances.max(), min(30, 4 + len(distances) // 8) + 1)
    for chosen, colour, label in ((~unmatched, GREEN, "equal pairs"), (unmatched, RED, "differing pairs")):
        shares = np.full(int(chosen.sum()), 100 / max(int(chosen.sum()), 1))
        filled = {"histtype": "stepfilled", "alpha": 0.35, "color": colour}
        ax.hist(distances[chosen], bins, weights=shares, **filled, label=label)
        ax.hist(distances[chosen], bins, weights=shares, histtype="step", color=colour, lw=1.6)
    ax.set(xlabel=f"distance ({plain(quoted[0].name)})", ylabel="share of the pairs (%)")
    ax.legend(fontsize=9, frameon=False)
    caption = "Where the two heaps overlap, no threshold tells equal from differing."
    return finished(figure, "How far apart are they?", caption)


def by_kind(results: Results) -> Picture | None:
    """AUC with its interval, one panel per kind of difference."""
    rows = [row for row in results.verification if row.result.by_kind]
    kinds = kinds_of([row.result for row in rows])
    if len(kinds) < 2:
        return None
    figure, _ = new_figure(7.2, 0.9 + 0.24 * len(rows))
    figure.clear()
    axes = figure.subplots(1, len(kinds) + 1, sharex=True, sharey=True, squeeze=False)[0]
    for ax, kind in zip(axes, ("all", *kinds), strict=True):
        for y, row in enumerate(rows):
            result = row.result
            auc, ci = (
                (result.auc, result.ci)
                if kind == "all"
                else (result.by_kind.get(kind, math.nan), result.by_kind_ci.get(kind, (math.nan, math.nan)))
            )
            colour = BLUE if row.headline else SKY if row.kind == TRAINED else GREY
            ax.plot([100 * ci[0], 100 * ci[1]], [y, y], color=colour, lw=2)
            ax.plot([100 * auc], [y], "o", color=colour, ms=5)
        ax.axvline(50, color="#bbbbbb", lw=1, zorder=0)
        count = rows[0].result.unmatched if kind == "all" else rows[0].result.kinds.get(kind, 0)
        ax.set_title(f"{plain(kind, 16)} ({count})", fontsize=9)
        ax.tick_params(labelsize=8)
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].set_yticks(range(len(rows)), [plain(row.name) for row in rows])
    axes[0].invert_yaxis()
    figure.supxlabel("AUC (%), 95 % interval", fontsize=9)
    return finished(
        figure,
        "Which differences are seen?",
        "A dot is an AUC, a line its 95 % interval over resampled pairs; grey rows learn nothing, and the "
        "grey line is a coin. Differing pairs of each kind are counted above.",
    )


def pseudo_labels(results: Results) -> Picture | None:
    """Frames labelled right by each labelling, on the training videos and on the split."""
    rows = results.pseudo_labels
    if not rows:
        return None
    figure, (ax,) = new_figure(7.2, 0.9 + 0.34 * len(rows))
    for place, (part, label, colour) in enumerate(
        (("train", "training videos", ORANGE), ("split", f"split {results.split}", BLUE))
    ):
        found = [getattr(row.result, part) for row in rows]
        if not any(found):
            continue
        values = [100 * one.frame_accuracy if one else math.nan for one in found]
        y = np.arange(len(rows)) + (place - 0.5) * 0.38
        ax.barh(y, values, height=0.36, color=colour, label=label)
        for at, value in zip(y, values, strict=True):
            if math.isfinite(value):
                ax.text(value + 0.8, at, f"{value:.1f}", va="center", fontsize=7)
    ax.set_yticks(range(len(rows)), [_label(row) for row in rows], fontsize=8)
    ax.invert_yaxis()
    ax.set(xlim=(0, 100), xlabel="frames inside a true step that are labelled with it (%)")
    ax.legend(fontsize=8, frameon=False, loc="lower right")
    return finished(
        figure,
        "How right are the pseudo-labels?",
        "Training makes them from the order of the sentences alone; the truth was looked up only for this.",
    )


def _label(row: Row) -> str:
    return f"{plain(row.name)}{' *' if row.headline else ''} ({row.kind})"


def checkpoints(results: Results) -> Picture | None:
    """AUC of every checkpoint that was compared to choose one."""
    selection = results.selection
    tried = [pair for pair in selection.tried if math.isfinite(pair[1])] if selection else []
    if selection is None or len(tried) < 2:
        return None
    figure, (ax,) = new_figure(7.2, 2.8)
    x, y = np.array(tried, dtype=float).T
    ax.plot(x, 100 * y, "o-", color=BLUE, lw=1.6)
    at = [auc for step, auc in tried if step == selection.step]
    ax.plot([selection.step], [100 * at[0]], "o", ms=11, mfc="none", color=RED, mew=2, label="chosen")
    ax.set(xlabel="training step", ylabel=f"AUC on {plain(selection.chosen_on)} (%)")
    ax.legend(fontsize=9, frameon=False)
    caption = "Every kept checkpoint, by the quoted distance."
    if selection.on_test:
        caption += " These are the figures that are reported: the best of several is better than it will be."
    return finished(figure, "Which checkpoint?", caption)


def read_log(log: Path) -> list[dict[str, Any]]:
    """Lines of log.jsonl that have a step (half a line is passed over: a run may have been stopped)."""
    rows: list[dict[str, Any]] = []
    if not log.is_file():
        return rows
    for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and isinstance(row.get("step"), int | float):
            rows.append(row)
    return rows


def training(log: Path) -> Picture | str:
    """Losses over steps."""
    if not log.is_file():
        return "Training curve: the run folder has no log.jsonl."
    rows = read_log(log)
    names = sorted({k for row in rows for k in row if "loss" in k or k.startswith(("coarse", "fine"))})
    names = [n for n in names if sum(isinstance(row.get(n), int | float) for row in rows) > 1][:7]
    if not names:
        return "Training curve: log.jsonl holds no losses."
    figure, (ax,) = new_figure(7.2, 3.8)
    for name, style in zip(names, STYLES, strict=False):
        _over_steps(ax, rows, name, style)
    ax.set(xlabel="training step", ylabel="loss")
    ax.legend(fontsize=9, frameon=False)
    caption = "The losses as training went on; lower is better, and flat means done."
    return finished(figure, "Training", caption)


def validation(log: Path) -> Picture | None:
    """AUC over steps, where training evaluated as it went."""
    rows = read_log(log)
    names = sorted({k for row in rows for k in row if "auc" in k})
    names = [n for n in names if sum(isinstance(row.get(n), int | float) for row in rows) > 1][:7]
    if not names:
        return None
    figure, (ax,) = new_figure(7.2, 2.8)
    for name, style in zip(names, STYLES, strict=False):
        _over_steps(ax, rows, name, style, 100.0)
    ax.set(xlabel="training step", ylabel="AUC (%)")
    ax.legend(fontsize=9, frameon=False)
    caption = "Verification while training went on, on the split that training was told to watch."
    return finished(figure, "Evaluation while training", caption)


def _over_steps(
    ax: Any, rows: list[dict[str, Any]], name: str, style: tuple[str, str], unit: float = 1.0
) -> None:
    points = [(row["step"], row[name]) for row in rows if isinstance(row.get(name), int | float)]
    x, y = np.array(points, dtype=float).T
    ax.plot(
        x, unit * np.where(np.isfinite(y), y, np.nan), style[1], color=style[0], lw=1.8, label=plain(name)
    )
