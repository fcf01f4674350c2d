"""Sequence verification: do two videos follow the same procedure? Scores from one distance per pair."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ..cache.errors import StepclipError

if TYPE_CHECKING:
    from ..cache.manifest import Manifest, Pair


@dataclass(frozen=True)
class Verification:
    """Unmatched is the positive class and the distance its score, so an AUC of 1 is perfect and .5 is chance.

    `wdr` has no upper bound; `wdr_constant` is what equal distances for all pairs would reach. Both are nan
    where they are undefined. `ci` is the 95 % interval of the AUC over resampled pairs.
    """

    auc: float
    ci: tuple[float, float]
    eer: float
    wdr: float
    wdr_constant: float
    by_kind: dict[str, float]
    matched: int
    unmatched: int
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def verify(
    distances: np.ndarray, pairs: Sequence[Pair], manifest: Manifest, *, resamples: int = 1000, seed: int = 0
) -> Verification:
    """Score `distances` (P,), larger = more different, of `pairs` (P).

    AUC and WDR as in `methods/weaksvr.md` 5.1, 5.2. StepclipError when the lengths differ, a distance is not
    finite, or only one class is present.
    """
    from sklearn.metrics import auc as area
    from sklearn.metrics import roc_curve

    distances = np.asarray(distances, dtype=np.float64)
    unmatched = np.array([not pair.matched for pair in pairs], dtype=bool)
    if distances.shape != (len(pairs),):
        raise StepclipError(
            f"distances of shape {distances.shape} for {len(pairs)} pairs", "one distance per pair"
        )
    if not np.isfinite(distances).all():
        raise StepclipError(
            f"{int((~np.isfinite(distances)).sum())} distances are not finite", "finite numbers"
        )
    if not unmatched.any() or unmatched.all():
        raise StepclipError(
            f"{int((~unmatched).sum())} matched and {int(unmatched.sum())} unmatched pairs",
            "at least one pair of each",
        )

    false_alarm, hit, _ = roc_curve(unmatched, distances, drop_intermediate=False)
    by_kind = {}
    for kind in sorted({pair.kind for pair in pairs if not pair.matched}):
        chosen = np.array([pair.matched or pair.kind == kind for pair in pairs])
        alarms, hits, _ = roc_curve(unmatched[chosen], distances[chosen])
        by_kind[kind] = float(area(alarms, hits))
    wdr, wdr_constant, notes = weighted_distance_ratio(distances, pairs, manifest)
    return Verification(
        auc=float(area(false_alarm, hit)),
        ci=bootstrap_auc(distances, unmatched, resamples, seed),
        eer=equal_error_rate(false_alarm, hit),
        wdr=wdr,
        wdr_constant=wdr_constant,
        by_kind=by_kind,
        matched=int((~unmatched).sum()),
        unmatched=int(unmatched.sum()),
        notes=notes,
    )


def equal_error_rate(false_alarm: np.ndarray, hit: np.ndarray) -> float:
    """Where the ROC curve, drawn with straight lines, meets false alarm = miss."""
    gap = false_alarm - (1 - hit)
    i = int(np.argmax(gap >= 0))
    if i == 0:
        return float(false_alarm[0])
    share = -gap[i - 1] / (gap[i] - gap[i - 1])
    return float(false_alarm[i - 1] + share * (false_alarm[i] - false_alarm[i - 1]))


def bootstrap_auc(
    distances: np.ndarray, unmatched: np.ndarray, resamples: int = 1000, seed: int = 0, level: float = 0.95
) -> tuple[float, float]:
    """Interval of the AUC when matched and unmatched pairs are each drawn anew with replacement."""
    rng = np.random.default_rng(seed)
    groups = np.unique(distances, return_inverse=True)[1]
    size = int(groups.max()) + 1
    mine, theirs = groups[unmatched], groups[~unmatched]
    values = []
    chunk = max(1, min(resamples, 8_000_000 // size))
    for start in range(0, resamples, chunk):
        n = min(chunk, resamples - start)
        high = _histogram(mine[rng.integers(len(mine), size=(n, len(mine)))], size)
        low = _histogram(theirs[rng.integers(len(theirs), size=(n, len(theirs)))], size)
        below = np.cumsum(low, axis=1) - low / 2  # ties count half
        values.append((high * below).sum(1) / (len(mine) * len(theirs)))
    tail = (1 - level) / 2
    lower, upper = np.quantile(np.concatenate(values), [tail, 1 - tail])
    return float(lower), float(upper)


def _histogram(groups: np.ndarray, size: int) -> np.ndarray:
    """Counts (n, size) of the values of each row of `groups` (n, m)."""
    n = len(groups)
    flat = (groups + np.arange(n)[:, None] * size).ravel()
    return np.bincount(flat, minlength=n * size).reshape(n, size).astype(np.float64)


def edit_distance(a: Sequence[str], b: Sequence[str], substitution: int = 2) -> int:
    """Edit distance of two step lists, insertion and deletion 1; with substitution 2, |a| + |b| - 2 LCS."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        diagonal, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            here = diagonal if x == y else min(diagonal + substitution, row[j] + 1, row[j - 1] + 1)
            diagonal, row[j] = row[j], here
    return row[-1]


def weighted_distance_ratio(
    distances: np.ndarray, pairs: Sequence[Pair], manifest: Manifest
) -> tuple[float, float, list[str]]:
    """WDR, its value for equal distances, and notes (`methods/weaksvr.md` 5.2).

    Mean over unmatched pairs of distance / edit distance of the step lists, divided by the mean distance of
    the matched pairs. Unmatched pairs with one and the same step list have no edit distance and are left
    out.
    """
    known: dict[tuple[tuple[str, ...], tuple[str, ...]], int] = {}
    edits = np.zeros(len(pairs))
    for i, pair in enumerate(pairs):
        if not pair.matched:
            scripts = (manifest[pair.video_a].steps, manifest[pair.video_b].steps)
            if scripts not in known:
                known[scripts] = edit_distance(*scripts)
            edits[i] = known[scripts]
    matched = np.array([pair.matched for pair in pairs])
    usable = ~matched & (edits > 0)
    notes = []
    if (same := int((~matched & (edits == 0)).sum())) > 0:
        notes.append(f"WDR leaves out {same} unmatched pairs whose step lists are equal")
    if not usable.any():
        return float("nan"), float("nan"), notes
    constant = float(np.mean(1 / edits[usable]))
    near = float(np.mean(distances[matched]))
    wdr = float(np.mean(distances[usable] / edits[usable]) / near) if near > 0 else float("nan")
    return wdr, constant, notes
