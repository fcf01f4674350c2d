"""Video-to-video search: is the nearest other video of the same procedure, or of the same task?

Verification asks of given pairs, this of every pair of the split: each video asks for the others of its
procedure, by the same distances (R@1 is what others call P@1). Where no procedure has two videos, as when
everybody did it in an order of their own, it asks for those of its task.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from .controls import CONTROLS, EMBEDDED, EXPLAINED, control_distances, control_embedding
from .distances import EXPLAINED_DISTANCES, combined, every_pair
from .embed import Embedded
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


def nearest_others(distances: np.ndarray, group: np.ndarray) -> Retrieval:
    """Retrieval of each video's own group among the others, from the distances (V, V) of all.

    Videos that are alone in their group ask for nothing, but are there to be found wrongly.
    """
    scores = -distances
    np.fill_diagonal(scores, -np.inf)  # no video finds itself
    relevant = group[:, None] == group
    np.fill_diagonal(relevant, False)
    asks = relevant.any(1)
    return replace(retrieve(scores[asks], relevant[asks]), gallery=len(group) - 1)


def neighbours(results: Results, m: Material) -> None:
    """The table: every distance and every control, over all pairs of the split's videos."""
    what, group = groups(m.videos)
    if not what:
        results.notes.append("video-to-video search is left out: no two videos are of one procedure or task")
        return
    cells = int(m.trained.lengths.sum()) ** 2 // 2
    ordered = cells <= CELLS
    if not ordered:
        results.notes.append(
            f"video-to-video search: {cells:.1e} cells to align for a row, more than {CELLS:.0e}; "
            "distances by alignment are left out of it"
        )
    quoted = m.distance if ordered else "pooled"
    raw, size = m.raw, len(m.videos)
    step = m.stage("searching by video", (3 if quoted == "pooled" else 4) * size**2 // 2 if ordered else 1)

    def add(name: str, kind: str, distances: np.ndarray, about: str) -> None:
        result = nearest_others(distances, group)
        results.neighbours.append(Row(name, kind, result, about, name == quoted))

    def trained(kind: str, embedded: Embedded) -> np.ndarray:
        if kind != "combined":
            return every_pair(embedded, kind, step=step)
        return _combined(every_pair(embedded, "pooled"), every_pair(embedded, "alignment", step=step))

    by_video = every_pair(m.trained, "pooled")
    add("pooled", TRAINED, by_video, EXPLAINED_DISTANCES["pooled"])
    if ordered:
        by_frames = every_pair(m.trained, "alignment", step=step)
        add("alignment", TRAINED, by_frames, EXPLAINED_DISTANCES["alignment"])
        add("combined", TRAINED, _combined(by_video, by_frames), EXPLAINED_DISTANCES["combined"])
        del by_frames
    for name in CONTROLS:
        if name in EMBEDDED:
            embedded, kind = control_embedding(name, raw)
            if kind == "pooled" or ordered:
                add(name, CONTROL, every_pair(embedded, kind, step=step), EXPLAINED[name])
        elif name == "content-free":
            add(name, CONTROL, trained(quoted, m.bare).round(6), EXPLAINED[name])
        else:
            a, b = np.divmod(np.arange(size**2), size)
            distances = control_distances(name, raw, a, b).reshape(size, size)
            add(name, CHANCE if name == "chance" else CONTROL, distances, EXPLAINED[name])
    results.remarks["neighbours"] = [f"asked for: other videos of the same {what}"]


def _combined(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """`distances.combined` of two tables (V, V): the pairs are what lies off the diagonal."""
    off = ~np.eye(len(first), dtype=bool)
    out = np.zeros_like(first)
    out[off] = combined(first[off], second[off])
    return out
