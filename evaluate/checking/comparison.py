"""Two recordings: the same procedure or not, and where they part.

Their frames are aligned by DTW (1 - cosine). The distance, cost / (T + S), becomes a probability by a
logistic regression on pairs of training videos: of one procedure, and of different procedures of one task.
They part where the cost along the path, averaged over a second and a half, is above what nine tenths of the
path between training videos of one procedure stay below.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ...train.alignment import dtw_path
from ..distances import alignment
from ..localisation import frame_borders
from .checker import Likeness, Logistic
from .likeness import unit_frames

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

    from ...cache.manifest import VideoRow
    from ..embed import Embedded

SMOOTH = 1.5  # seconds over which the cost along the path is averaged
LEAST = 1.0  # seconds that a part must last, in one of the recordings
TIMES = 3.0  # as long in one recording as in the other: it is in that one only
BELOW = 0.9  # share of the path between recordings of one procedure
PAIRS = 400  # of each sort, on which it is fitted
ONLY_A, ONLY_B, DIFFERENT = "only in A", "only in B", "different"


@dataclass(frozen=True)
class Parting:
    """A stretch where two recordings part: `kind` only in A, only in B, or different; seconds of each file.
    `steps`: which steps of A's and of B's own scripts lie there, where those are known."""

    kind: str
    start_a: float
    end_a: float
    start_b: float
    end_b: float
    cost: float
    steps_a: tuple[str, ...] = ()
    steps_b: tuple[str, ...] = ()


@dataclass(frozen=True)
class Comparison:
    """`distance`: DTW cost / (T + S); `same`: the probability that both show one procedure, at even odds,
    None where no training pairs taught it. `path` (P, 2): seconds of A and of B that belong together."""

    a: str
    b: str
    distance: float
    same: float | None
    partings: tuple[Parting, ...]
    path: tuple[tuple[float, float], ...]

    @property
    def matched(self) -> bool | None:
        return None if self.same is None else self.same >= 0.5

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich import box
        from rich.table import Table
        from rich.text import Text

        yield Text(f"A {self.a}\nB {self.b}", style="bold")
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for head in ("where they part", "A from", "to", "B from", "to", "steps there"):
            table.add_column(head, overflow="fold")
        for part in self.partings:
            times = [
                f"{int(t // 60)}:{t % 60:04.1f}" for t in (part.start_a, part.end_a, part.start_b, part.end_b)
            ]
            named = [f"A: {', '.join(part.steps_a)}"] if part.steps_a else []
            named += [f"B: {', '.join(part.steps_b)}"] if part.steps_b else []
            table.add_row(*(Text(each) for each in (part.kind, *times, "; ".join(named))))
        yield table if self.partings else Text("they part nowhere")
        words = {True: "the same procedure", False: "not the same procedure", None: "not calibrated"}
        sure = "" if self.same is None else f": probability {100 * self.same:.0f} % that it is the same"
        yield Text(f"{words[self.matched]}{sure}, distance {self.distance:.3f}")


def compare(
    embedded: Embedded,
    i: int,
    j: int,
    likeness: Likeness | None = None,
    *,
    names: tuple[str, str] | None = None,
    trims: tuple[float, float] = (0.0, 0.0),
    labels: tuple[Sequence[str], Sequence[str]] = ((), ()),
) -> Comparison:
    """Compare videos `i` and `j` of `embedded`. `labels`: the step of each frame of each, "" for none, empty
    where no script is known. `trims`: where each begins in its file."""
    a, b = np.array([i]), np.array([j])
    distance = float(alignment(embedded, a, b)[0])
    cost, path = path_costs(embedded, i, j)
    edges = [
        frame_borders(embedded.times[embedded.slice(k)], float(embedded.durations[k])) + trim
        for k, trim in zip((i, j), trims, strict=True)
    ]
    times = [embedded.times[embedded.slice(k)] + trim for k, trim in zip((i, j), trims, strict=True)]
    limit = float(cost.mean() + cost.std()) if likeness is None else likeness.limit
    partings = []
    for first, last in runs(cost > limit):
        here = path[first : last + 1]
        (a0, b0), (a1, b1) = here[0], here[-1]
        span_a, span_b = (
            (float(e[s]), float(e[t + 1])) for e, s, t in zip(edges, (a0, b0), (a1, b1), strict=True)
        )
        long_a, long_b = span_a[1] - span_a[0], span_b[1] - span_b[0]
        if max(long_a, long_b) < LEAST:
            continue
        kind = ONLY_A if long_a > TIMES * long_b else ONLY_B if long_b > TIMES * long_a else DIFFERENT
        named = [
            tuple(dict.fromkeys(each[k] for k in range(s, t + 1) if each and each[k]))
            for each, s, t in zip(labels, (a0, b0), (a1, b1), strict=True)
        ]
        mean = float(cost[first : last + 1].mean())
        partings.append(Parting(kind, *span_a, *span_b, mean, *named))
    return Comparison(
        *(names or (embedded.video_ids[i], embedded.video_ids[j])),
        distance,
        None if likeness is None else float(likeness.same(np.array([[distance]]))[0]),
        tuple(partings),
        tuple((float(times[0][s]), float(times[1][t])) for s, t in path),
    )


def path_costs(embedded: Embedded, i: int, j: int) -> tuple[np.ndarray, np.ndarray]:
    """The smoothed cost (P,) along the DTW path (P, 2) of videos `i` and `j`."""
    cost = 1 - unit_frames(embedded, i).cpu() @ unit_frames(embedded, j).cpu().T
    path = dtw_path(cost).numpy()
    raw = cost[torch.from_numpy(path[:, 0]), torch.from_numpy(path[:, 1])].numpy()
    # a second and a half of the slower recording, in places of the path
    pace = max(float(embedded.durations[k]) for k in (i, j)) / len(path)
    width = max(1, 2 * round(SMOOTH / max(pace, 1e-6) / 2) + 1)
    padded = np.pad(raw, width // 2, mode="edge")
    return np.convolve(padded, np.full(width, 1 / width), mode="valid"), path


def runs(mask: np.ndarray) -> list[tuple[int, int]]:
    """First and last place of each stretch of True."""
    change = np.diff(np.concatenate(([0], mask.astype(int), [0])))
    return list(
        zip(np.flatnonzero(change > 0).tolist(), (np.flatnonzero(change < 0) - 1).tolist(), strict=True)
    )


def fit_likeness(videos: Sequence[VideoRow], embedded: Embedded, seed: int = 0) -> Likeness | None:
    """Fit on the pairs of training videos, all embedded; None where there are no two of one procedure, or
    none of another."""
    rng = np.random.default_rng(seed)
    pairs = list(combinations(range(len(videos)), 2))
    if len(pairs) > 200_000:
        pairs = [pairs[n] for n in sorted(rng.permutation(len(pairs))[:200_000])]
    same = [(a, b) for a, b in pairs if videos[a].procedure == videos[b].procedure]
    other = [(a, b) for a, b in pairs if videos[a].procedure != videos[b].procedure]
    near = [(a, b) for a, b in other if videos[a].task == videos[b].task]
    other = near or other
    if len(same) < 4 or len(other) < 4:
        return None
    chosen = [[each[n] for n in sorted(rng.permutation(len(each))[:PAIRS])] for each in (same, other)]
    rows = np.array([embedded.row(v.video_id) for v in videos])
    both = rows[np.array(chosen[0] + chosen[1])]
    distance = alignment(embedded, both[:, 0], both[:, 1])
    truth = np.arange(len(both)) < len(chosen[0])
    even = np.where(truth, 0.5 / truth.mean(), 0.5 / (1 - truth.mean()))
    along = [path_costs(embedded, int(rows[a]), int(rows[b]))[0] for a, b in chosen[0][:50]]
    return Likeness(
        Logistic.fit(distance[:, None], truth, even), float(np.quantile(np.concatenate(along), BELOW))
    )
