"""Sequence verification: do two videos follow the same procedure? Scores from one distance per pair."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from ..cache.errors import StepclipError
from .bootstrap import Samples, interval, resample

if TYPE_CHECKING:
    from ..cache.manifest import Manifest, Pair


@dataclass(frozen=True)
class Verification:
    """Unmatched is the positive class and the distance its score, so an AUC of 1 is perfect and .5 is chance.

    `wdr` has no upper bound; `wdr_constant` is what equal distances for all pairs would reach. Both are nan
    where they are undefined. They use the released edit distance, whose substitution costs 2;
    `wdr_levenshtein` is the ratio with the papers' plain one, where it costs 1. `ci`, `eer_ci`, `wdr_ci` and
    `by_kind_ci` are 95 % intervals over resampled pairs (`bootstrap`); `samples` are the resamples
    themselves. A kind's AUC holds its pairs against all matched ones; `kinds` counts them.
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
    eer_ci: tuple[float, float] = (float("nan"), float("nan"))
    wdr_ci: tuple[float, float] = (float("nan"), float("nan"))
    by_kind_ci: dict[str, tuple[float, float]] = field(default_factory=dict)
    kinds: dict[str, int] = field(default_factory=dict)
    wdr_levenshtein: float = float("nan")
    samples: Samples | None = field(default=None, repr=False, compare=False)

    def to_dict(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "samples"}


def verify(
    distances: np.ndarray,
    pairs: Sequence[Pair],
    manifest: Manifest,
    *,
    resamples: int = 1000,
    seed: int = 0,
    kinds: bool = True,
) -> Verification:
    """Score `distances` (P,), larger = more different, of `pairs` (P); by kind of difference with `kinds`.

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
    edits = edit_distances(pairs, manifest)
    wdr, wdr_constant, notes = weighted_distance_ratio(distances, unmatched, edits)
    samples = resample(distances, unmatched, edits, resamples, seed)
    by_kind, by_kind_ci, counts = {}, {}, {}
    for kind in sorted({pair.kind for pair in pairs if not pair.matched and kinds}):
        chosen = np.array([pair.matched or pair.kind == kind for pair in pairs])
        alarms, hits, _ = roc_curve(unmatched[chosen], distances[chosen])
        by_kind[kind] = float(area(alarms, hits))
        again = resample(distances[chosen], unmatched[chosen], resamples=resamples, seed=seed, auc_only=True)
        by_kind_ci[kind] = interval(again.auc)
        counts[kind] = int((chosen & unmatched).sum())
    return Verification(
        auc=float(area(false_alarm, hit)),
        ci=interval(samples.auc),
        eer=equal_error_rate(false_alarm, hit),
        wdr=wdr,
        wdr_constant=wdr_constant,
        by_kind=by_kind,
        matched=int((~unmatched).sum()),
        unmatched=int(unmatched.sum()),
        notes=notes,
        eer_ci=interval(samples.eer),
        wdr_ci=interval(samples.wdr) if np.isfinite(wdr) else (float("nan"), float("nan")),
        by_kind_ci=by_kind_ci,
        kinds=counts,
        wdr_levenshtein=weighted_distance_ratio(distances, unmatched, edit_distances(pairs, manifest, 1))[0],
        samples=samples,
    )


def gap_auc(distances: np.ndarray, unmatched: np.ndarray) -> float:
    """The AUC alone: `unmatched` (P,) bool is the positive class, `distances` (P,) its score."""
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(unmatched, distances))


def gain(first: Verification, second: Verification) -> tuple[float, tuple[float, float]]:
    """AUC of `first` minus that of `second`, and its interval over the same resamples of the same pairs."""
    if first.samples is None or second.samples is None:
        return first.auc - second.auc, (float("nan"), float("nan"))
    return first.auc - second.auc, interval(first.samples.auc - second.samples.auc)


def equal_error_rate(false_alarm: np.ndarray, hit: np.ndarray) -> float:
    """Where the ROC curve, drawn with straight lines, meets false alarm = miss."""
    gap = false_alarm - (1 - hit)
    i = int(np.argmax(gap >= 0))
    if i == 0:
        return float(false_alarm[0])
    share = -gap[i - 1] / (gap[i] - gap[i - 1])
    return float(false_alarm[i - 1] + share * (false_alarm[i] - false_alarm[i - 1]))


def edit_distance(a: Sequence[str], b: Sequence[str], substitution: int = 2) -> int:
    """Edit distance of two step lists, insertion and deletion 1; with substitution 2, |a| + |b| - 2 LCS."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        diagonal, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            here = diagonal if x == y else min(diagonal + substitution, row[j] + 1, row[j - 1] + 1)
            diagonal, row[j] = row[j], here
    return row[-1]


def edit_distances(pairs: Sequence[Pair], manifest: Manifest, substitution: int = 2) -> np.ndarray:
    """Edit distance (P,) of the step lists of each unmatched pair; 0 for matched ones."""
    known: dict[tuple[tuple[str, ...], tuple[str, ...]], int] = {}
    edits = np.zeros(len(pairs))
    for i, pair in enumerate(pairs):
        if not pair.matched:
            scripts = (manifest[pair.video_a].steps, manifest[pair.video_b].steps)
            if scripts not in known:
                known[scripts] = edit_distance(*scripts, substitution)
            edits[i] = known[scripts]
    return edits


def weighted_distance_ratio(
    distances: np.ndarray, unmatched: np.ndarray, edits: np.ndarray
) -> tuple[float, float, list[str]]:
    """WDR, its value for equal distances, and notes (`methods/weaksvr.md` 5.2).

    Mean over unmatched pairs of distance / edit distance of the step lists, divided by the mean distance of
    the matched pairs. Unmatched pairs with one and the same step list have no edit distance and are left
    out.
    """
    usable = unmatched & (edits > 0)
    notes = []
    if (same := int((unmatched & (edits == 0)).sum())) > 0:
        notes.append(f"WDR leaves out {same} unmatched pairs whose step lists are equal")
    if not usable.any():
        return float("nan"), float("nan"), notes
    constant = float(np.mean(1 / edits[usable]))
    near = float(np.mean(distances[~unmatched]))
    wdr = float(np.mean(distances[usable] / edits[usable]) / near) if near > 0 else float("nan")
    return wdr, constant, notes
