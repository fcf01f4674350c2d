"""docs/alignment.svg: what each alignment does to one small matrix, computed by the functions themselves.

python tools/alignment_pictures.py [OUT]
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch

from stepclip.train.alignment import (
    drop_dtw_labels,
    dtw_alignment,
    monotone,
    monotone_posteriors,
    otam_alignment,
    sinkhorn_plan,
    soft_dtw_alignment,
    subsequence_alignment,
)

HERE = Path(__file__).resolve().parent.parent
INK, PATH = "#0072B2", "#D55E00"  # Okabe and Ito

#: the steps into a cell (t, s) at (0, 0): from (dt, ds); free ones are drawn dashed
DIAGONAL, UP, LEFT = (-1, -1), (-1, 0), (0, -1)


def example() -> torch.Tensor:
    """12 frames of a recording, 4 steps, cost 1 - cosine: frames 0-1 and 6 show none of them, 11 neither."""
    shows = [None, None, 0, 0, 1, 1, None, 2, 2, 3, 3, None]
    noise = torch.rand(len(shows), 4, generator=torch.Generator().manual_seed(3)) * 0.25
    cost = 0.75 + noise
    for frame, step in enumerate(shows):
        if step is not None:
            cost[frame, step] = 0.2 + noise[frame, step]
    return cost


def labelled(labels: torch.Tensor, steps: int) -> torch.Tensor:
    weights = torch.zeros(len(labels), steps)
    for frame, step in enumerate(labels.tolist()):
        if step >= 0:
            weights[frame, step] = 1
    return weights


def panels(cost: torch.Tensor) -> list[tuple[str, str, list[Any], torch.Tensor]]:
    """(title, what it says, step pattern, weights) of every operation."""
    stretch = [DIAGONAL, UP, LEFT]
    sim = -cost
    return [
        ("dtw", "corner to corner", stretch, dtw_alignment(cost).weights),
        ("soft_dtw", "how likely each cell is", stretch, soft_dtw_alignment(cost).weights),
        ("otam", "each step once", [DIAGONAL, LEFT], otam_alignment(cost).weights),
        ("subsequence", "ends free", stretch, subsequence_alignment(cost).weights),
        ("drop_dtw, 0.5", "frames left out", [DIAGONAL, UP], labelled(drop_dtw_labels(cost, 0.5), 4)),
        ("monotone", "any jump forward", [UP, DIAGONAL, (-1, -2), (-1, -3)], labelled(monotone(sim), 4)),
        (
            "monotone, visit_all",
            "stay or next",
            [DIAGONAL, UP],
            labelled(monotone(sim, visit_all=True), 4),
        ),
        (
            "soft_monotone, gamma 0.1",
            "posteriors",
            [UP, DIAGONAL, (-1, -2)],
            monotone_posteriors(sim).weights,
        ),
        ("sinkhorn", "no order", [], sinkhorn_plan(cost).plan * len(cost)),
    ]


def draw(out: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "stepclip"
    from matplotlib import pyplot as plt

    cost = example()
    every = panels(cost)
    figure, axes = plt.subplots(
        2, len(every), figsize=(15, 6.2), height_ratios=[4, 1], constrained_layout=True
    )
    for i, (title, says, pattern, weights) in enumerate(every):
        axis, glyph = axes[0][i], axes[1][i]
        axis.imshow(cost, cmap="Greys_r", vmin=0, vmax=1.3, aspect="auto")
        for t in range(weights.shape[0]):
            for s in range(weights.shape[1]):
                if (w := float(weights[t, s])) > 0.02:
                    axis.scatter(s, t, s=130 * min(w, 1), color=PATH, zorder=3, linewidths=0)
        axis.set_title(f"{title}\n{says}", fontsize=9)
        axis.set_xticks(range(4), [str(s) for s in range(4)], fontsize=7)
        axis.set_yticks(range(len(cost)), [str(t) for t in range(len(cost))], fontsize=7)
        if i == 0:
            axis.set_ylabel("frame", fontsize=8)
        axis.set_xlabel("step", fontsize=8)
        _glyph(glyph, pattern)
    figure.savefig(out, metadata={"Date": None})
    plt.close(figure)


def _glyph(axis: Any, pattern: list[tuple[int, int]]) -> None:
    """The predecessors of a cell, with arrows into it."""
    axis.set_xlim(-3.4, 0.5)
    axis.set_ylim(0.5, -1.6)
    axis.set_aspect("equal")
    axis.axis("off")
    if not pattern:
        axis.text(-1.5, -0.5, "no steps", ha="center", fontsize=8)
        return
    axis.scatter(0, 0, s=45, color=INK, zorder=3)
    for dt, ds in pattern:
        axis.scatter(ds, dt, s=30, facecolor="white", edgecolor=INK, zorder=3)
        axis.annotate(
            "",
            (0, 0),
            (ds, dt),
            arrowprops={"arrowstyle": "-|>", "color": INK, "shrinkA": 4, "shrinkB": 4, "linewidth": 1},
        )


if __name__ == "__main__":
    draw(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "docs" / "alignment.svg")
