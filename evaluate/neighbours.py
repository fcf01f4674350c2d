"""Video-to-video search: is the nearest other video of the same procedure, or of the same task?

Verification asks of given pairs, this of every pair of the split: each video asks for the others of its
procedure, by the same distances (R@1 is what others call P@1). Where no procedure has two videos, as when
everybody did it in an order of their own, it asks for those of its task.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from .controls import CONTROLS, EXPLAINED, control_distances
from .distances import DISTANCES, EXPLAINED_DISTANCES, alignment, combined, pooled
from .results import CHANCE, CONTROL, TRAINED, Results, Row
from .retrieval import Retrieval, retrieve

if TYPE_CHECKING:
    from ..cache.manifest import VideoRow
    from .parts import Material

CELLS = 2_000_000_000  # of all alignments of one row; beyond it they are left out


def groups(videos: Sequence[VideoRow]) -> tuple[str, np.ndarray]:
    """What is asked for, "procedure" or "task", and the group (V,) of each video; "" where nothing is."""
    for what in ("procedure", "task"):
        names = [f"{v.task}/{v.procedure}" if what == "procedure" else v.task for v in videos]
        found = np.unique(np.asarray(names, dtype=object).astype(str), return_inverse=True)[1]
        # of one group alone every answer would be right
        if np.bincount(found).max(initial=0) > 1 and found.max(initial=0) > 0:
            return what, found
    return "", np.zeros(len(videos), dtype=np.int64)


def nearest_others(distances: np.ndarray, a: np.ndarray, b: np.ndarray, group: np.ndarray) -> Retrieval:
    """Retrieval of each video's own group among the others, from the distance of every pair a < b.

    Videos that are alone in their group ask for nothing, but are there to be found wrongly.
    """
    scores = np.full((len(group), len(group)), -np.inf)  # no video finds itself
    scores[a, b] = scores[b, a] = -distances
    relevant = group[:, None] == group
    np.fill_diagonal(relevant, False)
    asks = relevant.any(1)
    found = retrieve(scores[asks], relevant[asks])
    return Retrieval(found.r1, found.r5, found.r10, found.medr, found.mrr, found.queries, len(group) - 1)


def neighbours(results: Results, m: Material) -> None:
    """The table: every distance and every control, over all pairs of the split's videos."""
    what, group = groups(m.videos)
    if not what:
        results.notes.append("video-to-video search is left out: no two videos are of one procedure or task")
        return
    rows = np.array([m.trained.row(video.video_id) for video in m.videos])
    i, j = np.triu_indices(len(rows), 1)
    a, b = rows[i], rows[j]
    cells = int(m.trained.lengths.sum()) ** 2 // 2
    ordered = cells <= CELLS
    if not ordered:
        results.notes.append(
            f"video-to-video search: {cells:.1e} cells to align for a row, more than {CELLS:.0e}; "
            "distances by alignment are left out of it"
        )
    quoted = m.distance if ordered else "pooled"
    step = m.stage("searching by video", (3 if quoted == "pooled" else 4) * len(a) if ordered else 1)
    found = {"pooled": pooled(m.trained.video, a, b)}
    if ordered:
        found["alignment"] = alignment(m.trained, a, b, step=step)
        found["combined"] = combined(found["pooled"], found["alignment"])
    for name in CONTROLS:
        if ordered or not name.startswith("dtw"):
            found[name] = control_distances(name, m.raw, a, b, bare=m.bare, distance=quoted, step=step)
    for name, distances in found.items():
        trained = name in DISTANCES
        kind = TRAINED if trained else CHANCE if name == "chance" else CONTROL
        about = EXPLAINED_DISTANCES[name] if trained else EXPLAINED[name]
        result = nearest_others(distances, i, j, group)
        results.neighbours.append(Row(name, kind, result, about, name == quoted))
    results.remarks["neighbours"] = [f"asked for: other videos of the same {what}"]
