"""Two videos laid onto each other by their frames: the DTW path, and a picture of frames side by side.

CARL's visual alignment (`methods/carl.md` 6.6): squared Euclidean distances of the embeddings, and for each
frame of the first video the first frame of the second that the path leads to.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..cache.errors import StepclipError
from ..train.alignment import dtw_alignment
from .figures import BLUE, GREY, RED, plain
from .frame_metrics import squared_distances

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from .embed import Embedded

COLUMNS = 8  # frames in a row of the picture
Frames = Callable[[int, Sequence[float]], Sequence[np.ndarray]]  # 0 or 1, seconds -> images (H, W, 3) uint8


@dataclass(frozen=True)
class SideBySide:
    """`cost` (T, S) squared distances, `path` (P, 2) cells from (0, 0) to the last, `partner` (T,) the first
    frame of the second video for each of the first, `distance` the mean cost along the path; the times of the
    frames, in seconds, and the names."""

    cost: np.ndarray
    path: np.ndarray
    partner: np.ndarray
    distance: float
    first_times: np.ndarray
    second_times: np.ndarray
    names: tuple[str, str]


def lay_side_by_side(embedded: Embedded, first: str, second: str) -> SideBySide:
    """Align two embedded videos by their ids; StepclipError for an id that was not embedded."""
    a, b = embedded.slice(embedded.row(first)), embedded.slice(embedded.row(second))
    if first == second:
        raise StepclipError(f"{first!r} twice", "two videos")
    cost = squared_distances(embedded.frames[a].cpu(), embedded.frames[b].cpu())
    found = dtw_alignment(cost[None])
    path = found.paths()[0]
    partner = torch.full((len(cost),), len(cost[0]))
    partner.scatter_reduce_(0, path[:, 0], path[:, 1], "amin")
    return SideBySide(
        cost.numpy(),
        path.numpy(),
        partner.numpy(),
        float(found.value[0]) / len(path),
        embedded.times[a],
        embedded.times[b],
        (first, second),
    )


def draw_side_by_side(laid: SideBySide, images: Frames | None = None, columns: int = COLUMNS) -> Figure:
    """The path over the matrix of distances; with `images`, above it three rows of frames: of the first
    video, their partners in the second, and the second at the same share of its length, as it were without
    alignment.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as NewFigure

    count = min(columns, len(laid.partner))
    chosen = np.unique(np.linspace(0, len(laid.partner) - 1, count).round().astype(int))
    share = np.round(chosen / max(len(laid.partner) - 1, 1) * (len(laid.second_times) - 1)).astype(int)
    rows = 3 if images is not None else 0
    figure = NewFigure(figsize=(9.6, 4.2 + 1.25 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(rows + 1, len(chosen), height_ratios=[1.0] * rows + [3.2])
    if images is not None:
        shown = (
            (plain(laid.names[0]), images(0, laid.first_times[chosen].tolist()), laid.first_times[chosen]),
            (
                "aligned",
                images(1, laid.second_times[laid.partner[chosen]].tolist()),
                laid.second_times[laid.partner[chosen]],
            ),
            ("by share of length", images(1, laid.second_times[share].tolist()), laid.second_times[share]),
        )
        for r, (words, pictures, times) in enumerate(shown):
            for c, (picture, at) in enumerate(zip(pictures, times, strict=True)):
                ax = figure.add_subplot(grid[r, c])
                ax.imshow(picture)
                ax.set(xticks=[], yticks=[])
                ax.set_title(f"{at:.1f} s", fontsize=7, pad=2)
                if c == 0:
                    ax.set_ylabel(words, fontsize=7)
    ax = figure.add_subplot(grid[rows, :])
    extent = (0.0, float(laid.first_times[-1]), float(laid.second_times[-1]), 0.0)
    ax.imshow(laid.cost.T, cmap="viridis", aspect="auto", extent=extent, interpolation="nearest")
    ax.plot(laid.first_times[laid.path[:, 0]], laid.second_times[laid.path[:, 1]], color="white", lw=2.4)
    ax.plot(
        laid.first_times[laid.path[:, 0]], laid.second_times[laid.path[:, 1]], color=RED, lw=1.2, label="path"
    )
    ax.plot(extent[:2], extent[3:1:-1], "--", color=GREY, lw=1, label="by share of length")
    ax.vlines(laid.first_times[chosen], 0, laid.second_times[laid.partner[chosen]], color=BLUE, lw=0.6)
    ax.set(xlabel=f"{plain(laid.names[0])} (s)", ylabel=f"{plain(laid.names[1])} (s)")
    ax.invert_yaxis()
    ax.legend(fontsize=7, loc="upper left")
    ax.set_title(f"dark: alike; mean distance along the path {laid.distance:.3f}", fontsize=8)
    return figure
