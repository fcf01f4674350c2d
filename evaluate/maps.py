"""The embedding map: videos by their task, frames by their step, before training and after.

t-SNE (van der Maaten and Hinton, JMLR 2008) of unit vectors. What lies together was alike; distances between
heaps, and the heaps' sizes, mean nothing. The features as they were stand beside the trained ones.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from .figures import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, RED, SKY, Picture, finished, new_figure, plain
from .localisation import true_spans
from .results import Results

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ..cache.manifest import Manifest, VideoRow
    from .embed import Embedded

LEAST = 8  # points, under which there is no map
VIDEOS, FRAMES = 250, 250  # points that are drawn at most
NAMED = 21  # groups that get a colour and a mark of their own
COLUMNS = 3  # of their names
SEED = 0


def embedding_map(results: Results, manifest: Manifest | None) -> Picture | str:
    """Two rows of two maps: videos coloured by task, frames of one task by step; raw and trained."""
    trained, raw = results.details.trained, results.details.raw
    if manifest is None or trained is None or raw is None or len(trained) < LEAST:
        return f"Embedding map: fewer than {LEAST} videos, or no manifest."
    rows = _spread(len(trained), VIDEOS)
    videos = [manifest[trained.video_ids[i]] for i in rows]
    by_task = len({video.task for video in videos}) > 1
    groups = [video.task if by_task else video.procedure for video in videos]
    kind = "task" if by_task else "procedure"
    points = [
        (e.video[rows].float().cpu().numpy(), f"videos by {kind}: {name}") for e, name in _both(raw, trained)
    ]
    drawn = [(points, groups)]
    frames = _frames_of_one_task(manifest, trained)
    if frames is not None:
        task, at, steps = frames
        title = f"frames of task {plain(task, 12)} by step" if task else "frames by step"
        drawn.append(([(_frames(e, at), f"{title}: {name}") for e, name in _both(raw, trained)], steps))
    heights = []
    for _, names in drawn:  # of the maps, and of the names below them
        heights += [3.3, 0.16 * (1 + math.ceil(min(len(set(names)), NAMED + 1) / COLUMNS))]
    figure, _ = new_figure(7.2, 0.3 + sum(heights))
    figure.clear()
    grid = figure.add_gridspec(len(heights), 2, height_ratios=heights)
    for n, (maps, names) in enumerate(drawn):
        for side, (vectors, title) in enumerate(maps):
            ax = figure.add_subplot(grid[2 * n, side])
            _scatter(ax, _flat(vectors), names)
            ax.set_title(title, fontsize=8, loc="left")
        below = figure.add_subplot(grid[2 * n + 1, :])
        below.set_axis_off()
        below.legend(
            *ax.get_legend_handles_labels(), fontsize=6.5, ncols=COLUMNS, loc="upper left", frameon=False,
            borderaxespad=0, handletextpad=0.2, columnspacing=1.0, markerscale=1.3,
        )  # fmt: skip
    return finished(
        figure,
        "What lies together?",
        f"t-SNE maps: each point is a video (coloured by {kind})"
        + (" or a frame of one task (coloured by its step)" if frames is not None else "")
        + "; left the features before training, right after it. Neighbours are alike; sizes of heaps and "
        "distances between them mean nothing.",
    )


def _both(raw: Embedded, trained: Embedded) -> tuple[tuple[Embedded, str], ...]:
    return (raw, "features"), (trained, "trained")


def _spread(count: int, most: int) -> np.ndarray:
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int))


def _frames(embedded: Embedded, at: np.ndarray) -> np.ndarray:
    found: np.ndarray = embedded.frames[at].float().cpu().numpy()
    return found


def _frames_of_one_task(manifest: Manifest, trained: Embedded) -> tuple[str, np.ndarray, list[str]] | None:
    """The task with the most videos of known step times; frames inside its true steps; their sentences."""
    known: dict[str, list[VideoRow]] = {}
    for video_id in trained.video_ids:
        if true_spans(manifest[video_id]) is not None:
            known.setdefault(manifest[video_id].task, []).append(manifest[video_id])
    if not known:
        return None
    task = max(known, key=lambda name: len(known[name]))
    rows: list[int] = []
    steps: list[str] = []
    for video in known[task]:
        i = trained.row(video.video_id)
        times, first = trained.times[trained.slice(i)], int(trained.offsets[i])
        for (start, end), step in zip(true_spans(video), video.steps, strict=True):  # type: ignore[arg-type]
            inside = np.flatnonzero((times >= start) & (times < end))
            rows += (first + inside).tolist()
            steps += [step] * len(inside)
    chosen = _spread(len(rows), FRAMES) if rows else np.zeros(0, int)
    if len(chosen) < LEAST:
        return None
    return task, np.asarray(rows)[chosen], [steps[i] for i in chosen]


def _flat(vectors: np.ndarray) -> np.ndarray:
    """(n, E) -> (n, 2), the same for the same input."""
    from sklearn.manifold import TSNE

    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
    if np.ptp(unit, axis=0).max() < 1e-6:  # all the same
        return np.zeros((len(unit), 2))
    perplexity = min(30.0, (len(unit) - 1) / 3)
    made = TSNE(perplexity=perplexity, init="pca", random_state=SEED, max_iter=400)
    flat: np.ndarray = made.fit_transform(unit.astype(np.float64))
    return flat


def _scatter(ax: Axes, points: np.ndarray, groups: list[str]) -> None:
    """Each group by a colour and a mark: both, so that colour alone tells nothing apart."""
    colours = (BLUE, ORANGE, GREEN, RED, PURPLE, SKY, BLACK)
    names = sorted(dict.fromkeys(groups), key=lambda name: (len(name), name))
    if len(names) > NAMED:  # the largest are named
        largest = sorted(names, key=lambda name: -groups.count(name))[:NAMED]
        names = [name for name in names if name in largest]
    rest = np.array([group not in names for group in groups])
    if rest.any():
        ax.plot(*points[rest].T, ".", color=GREY, ms=3, alpha=0.5, label="others")
    for n, name in enumerate(names):
        here = np.array([group == name for group in groups])
        ax.plot(
            *points[here].T, "os^"[n // 7 % 3], color=colours[n % 7], ms=3.2, mew=0, alpha=0.85,
            label=plain(name, 38) or "–",
        )  # fmt: skip
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_color("#cccccc")
