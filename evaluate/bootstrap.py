"""Confidence intervals of verification figures: the pairs drawn anew with replacement, many times at once.

Matched and unmatched pairs are drawn separately, so every resample has as many of each as the list. The same
seed draws the same pairs for every distance over one list, so two distances may be compared resample by
resample (`verification.gain`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

CHUNK_NUMBERS = 8_000_000  # of one table (resamples, distinct distances)
LEVEL = 0.95


@dataclass(frozen=True)
class Samples:
    """Each figure on R resamples, (R,); nan where a resample leaves it undefined."""

    auc: np.ndarray
    eer: np.ndarray
    wdr: np.ndarray


def resample(
    distances: np.ndarray,
    unmatched: np.ndarray,
    edits: np.ndarray | None = None,
    resamples: int = 1000,
    seed: int = 0,
    *,
    auc_only: bool = False,
) -> Samples:
    """AUC, EER and WDR (or the first alone) of `distances` (P,) on resampled pairs.

    `unmatched` (P,) bool, at least one of each; `edits` (P,) edit distances of the scripts, for the WDR:
    unmatched pairs with 0 have none and are left out of it.
    """
    rng = np.random.default_rng(seed)
    groups = np.unique(distances, return_inverse=True)[1]
    size = int(groups.max()) + 1
    mine, theirs = np.flatnonzero(unmatched), np.flatnonzero(~unmatched)
    known = np.zeros(len(distances), dtype=bool) if edits is None else unmatched & (edits > 0)
    per_edit = np.divide(
        distances, 1.0 if edits is None else edits, out=np.zeros(len(distances)), where=known
    )
    auc, eer, wdr = [], [], []
    chunk = max(1, min(resamples, CHUNK_NUMBERS // size))
    for start in range(0, resamples, chunk):
        n = min(chunk, resamples - start)
        far = mine[rng.integers(len(mine), size=(n, len(mine)))]
        near = theirs[rng.integers(len(theirs), size=(n, len(theirs)))]
        high, low = _histogram(groups[far], size), _histogram(groups[near], size)
        below = np.cumsum(low, axis=1) - low / 2  # ties count half
        auc.append((high * below).sum(1) / (len(mine) * len(theirs)))
        if auc_only:
            continue
        eer.append(_equal_error_rates(high / len(mine), low / len(theirs)))
        with np.errstate(divide="ignore", invalid="ignore"):
            wdr.append(per_edit[far].sum(1) / known[far].sum(1) / distances[near].mean(1))
    none = [np.zeros(0)]
    return Samples(np.concatenate(auc), np.concatenate(eer or none), np.concatenate(wdr or none))


def interval(samples: np.ndarray, level: float = LEVEL) -> tuple[float, float]:
    """The middle `level` of the samples; nan where none of them is a number."""
    finite = samples[np.isfinite(samples)]
    if not len(finite):
        return float("nan"), float("nan")
    tail = (1 - level) / 2
    lower, upper = np.quantile(finite, [tail, 1 - tail])
    return float(lower), float(upper)


def _equal_error_rates(high: np.ndarray, low: np.ndarray) -> np.ndarray:
    """EER (n,) from the shares (n, size) of unmatched and matched pairs at each distance, smallest first."""
    hit = np.cumsum(high[:, ::-1], axis=1)
    alarm = np.cumsum(low[:, ::-1], axis=1)
    gap = alarm + hit - 1  # grows from -1 to 1; at 0 false alarms and misses are equal
    # a tie may leave the last sum a hair below 1
    i = np.where((gap >= 0).any(1), np.argmax(gap >= 0, axis=1), gap.shape[1] - 1)[:, None]
    before = np.maximum(i - 1, 0)
    gap0 = np.where(i > 0, np.take_along_axis(gap, before, 1), -1.0)
    alarm0 = np.where(i > 0, np.take_along_axis(alarm, before, 1), 0.0)
    gap1, alarm1 = np.take_along_axis(gap, i, 1), np.take_along_axis(alarm, i, 1)
    share = -gap0 / (gap1 - gap0)
    return np.asarray((alarm0 + share * (alarm1 - alarm0))[:, 0])


def _histogram(groups: np.ndarray, size: int) -> np.ndarray:
    """Counts (n, size) of the values of each row of `groups` (n, m)."""
    n = len(groups)
    flat = (groups + np.arange(n)[:, None] * size).ravel()
    return np.bincount(flat, minlength=n * size).reshape(n, size).astype(np.float64)
