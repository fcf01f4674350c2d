"""How good checks are: per kind of fault, borders of steps in time, calibration.

The truth is a `Truth`: of recordings with made faults (`truth_of`), and of CaptainCook4D's annotations
(`captaincook_truth`), by the same measures. Each reported fault may name one true fault, and each true fault
is named once: a missing step by its place, a step out of order by a place that tells it (of two that changed
places, either), an extra by overlapping in time (a repetition also by its step). Order errors beyond the
first that names one true fault count neither for nor against: both steps of a swap may be told.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from .faults import Recording
from .report import ADDED, MISSING, MOVED, REPEATED, CheckReport

BINS = 10


@dataclass(frozen=True)
class Truth:
    """What really happened: places missing, groups of places any of which tells an order error, extras as
    (start, end, place of the step repeated or None), and the true seconds of the steps done by place."""

    wrong: bool
    missing: frozenset[int]
    moved: tuple[frozenset[int], ...]
    extras: tuple[tuple[float, float, int | None], ...]
    spans: Mapping[int, tuple[float, float]]
    gaps: frozenset[int] | None = None  # in which something was added, where that is known


def truth_of(recording: Recording, pace: float) -> Truth:
    """The truth of a recording with a made fault; `pace` seconds per frame."""
    extras: list[tuple[float, float, int | None]] = []
    spans: dict[int, tuple[float, float]] = {}
    seen: set[int] = set()
    twice = {place for place in recording.repeated}
    segments = [(s.first * pace, s.last * pace, s.place) for s in recording.segments]
    for start, end, place in segments:
        if place is None:
            extras.append((start, end, None))
        elif place in twice:
            extras.append((start, end, place))  # either of the two may be told as the one too many
        elif place not in seen:
            spans[place] = (start, end)
        if place is not None:
            seen.add(place)
    wrong = recording.kind != "sound"
    return Truth(wrong, recording.missing, recording.moved, tuple(extras), spans, recording.added)


def captaincook_truth(entry: Mapping[str, Any]) -> Truth:
    """The truth of a CaptainCook4D recording, from what `extract` keeps of it in extra.json.

    Of its tags, Order Error and Missing Step are what a check of a script can tell; steps done that the
    script has not are extras. Other tags (technique, measurement, timing, temperature, preparation) leave a
    step done.
    """
    done = entry["steps"]
    spans = {s["place"]: (s["start"], s["end"]) for s in done if s["place"] is not None}
    moved = tuple(
        frozenset((s["place"],))
        for s in done
        if s["place"] is not None and any(e["tag"] == "Order Error" for e in s["errors"])
    )
    extras = tuple((s["start"], s["end"], s.get("repeats")) for s in done if s["place"] is None)
    missing = frozenset(s["place"] for s in entry["missing"] if s["place"] is not None)
    return Truth(bool(entry["is_error"]), missing, moved, extras, spans)


@dataclass(frozen=True)
class KindScore:
    """Of one kind: `f1` with its precision and recall, `auc` and `ece` of the probabilities of all places;
    `guess` is the F1 of reporting every place; nan where nothing of it is true."""

    f1: float
    precision: float
    recall: float
    guess: float
    auc: float
    ece: float
    true: int
    reported: int


@dataclass(frozen=True)
class CheckScore:
    """`kinds`: missing, moved, repeated, added. `border`: mean error, seconds, of the starts and ends of the
    steps that were done and found; `found`: their share. The verdict's figures are of whole recordings, sound
    and faulty ones counting the same."""

    kinds: dict[str, KindScore]
    border: float
    border_median: float
    found: float
    verdict_auc: float
    verdict_accuracy: float
    verdict_ece: float
    recordings: int

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def score_checks(reports: Sequence[CheckReport], truths: Sequence[Truth]) -> CheckScore:
    """Score reports of recordings against what really happened, one of each per recording.

    Counts run over all recordings; AUC and ECE over all steps, of "added" over all gaps.
    """
    kinds = {}
    for kind in (MISSING, MOVED, REPEATED, ADDED):
        hits = told = true = places = 0
        p: list[float] = []
        y: list[bool] = []
        for report, truth in zip(reports, truths, strict=True):
            if kind in (MISSING, MOVED):
                named = {s.place for s in report.steps if s.status == kind}
                events = [frozenset((k,)) for k in truth.missing] if kind == MISSING else list(truth.moved)
                met = [event for event in events if event & named]
                spare = named - set().union(*events) if events else named
                hits, told, true = hits + len(met), told + len(met) + len(spare), true + len(events)
                p += [getattr(s, kind) for s in report.steps]
                y += [any(s.place in event for event in events) for s in report.steps]
            else:
                wanted = kind == REPEATED
                theirs = [e for e in truth.extras if (e[2] is not None) == wanted]
                mine = [e for e in report.extras if e.status == kind]
                groups = {e[2] for e in theirs} if wanted else set(range(len(theirs)))
                met_groups = set()
                extra_told = 0
                for e in mine:
                    at = [
                        (t[2] if wanted else n)
                        for n, t in enumerate(theirs)
                        if min(e.end, t[1]) > max(e.start, t[0]) and (not wanted or t[2] == e.place)
                    ]
                    new = [g for g in at if g not in met_groups]
                    met_groups |= set(new[:1])
                    extra_told += not at
                hits, told = hits + len(met_groups), told + len(met_groups) + extra_told
                true += len(groups)
                if wanted:
                    p += [s.repeated for s in report.steps]
                    y += [s.place in groups for s in report.steps]
                elif truth.gaps is not None:
                    p += report.added
                    y += [g in truth.gaps for g in range(len(report.added))]
            places += len(report.steps) + (kind == ADDED)
        kinds[kind] = _kind(hits, told, true, places, np.array(p), np.array(y, dtype=bool))
    errors, done, seen = [], 0, 0
    for report, truth in zip(reports, truths, strict=True):
        for s in report.steps:
            if s.place not in truth.spans:
                continue
            done += 1
            if s.start is not None and s.end is not None:
                seen += 1
                start, end = truth.spans[s.place]
                errors += [abs(s.start - start), abs(s.end - end)]
    wrong = np.array([t.wrong for t in truths])
    p_wrong = np.array([r.wrong for r in reports])
    even = np.where(wrong, 0.5 / max(wrong.mean(), 1e-9), 0.5 / max(1 - wrong.mean(), 1e-9))
    right = (np.array([not r.ok for r in reports]) == wrong).astype(float)
    return CheckScore(
        kinds,
        float(np.mean(errors)) if errors else float("nan"),
        float(np.median(errors)) if errors else float("nan"),
        seen / max(done, 1),
        auc(wrong, p_wrong),
        float(np.average(right, weights=even)),
        calibration(wrong, p_wrong, even),
        len(reports),
    )


def _kind(hits: int, told: int, true: int, places: int, p: np.ndarray, y: np.ndarray) -> KindScore:
    nan = float("nan")
    precision = hits / told if told else nan
    recall = hits / true if true else nan
    f1 = 2 * hits / (told + true) if told + true else nan
    guess = 2 * true / (places + true) if true else nan
    return KindScore(f1, precision, recall, guess, auc(y, p), calibration(y, p), true, told)


def auc(y: np.ndarray, p: np.ndarray) -> float:
    """Area under the ROC curve; nan without both sorts."""
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(y, p)) if len(y) and y.any() and not y.all() else float("nan")


def calibration(y: np.ndarray, p: np.ndarray, weights: np.ndarray | None = None, bins: int = BINS) -> float:
    """Expected calibration error: the mean over bins of equal width of |share true - mean probability|,
    weighted by how many fall into each (Naeini et al., AAAI 2015); nan without any."""
    if not len(y):
        return float("nan")
    w = np.ones(len(y)) if weights is None else np.asarray(weights, float)
    at = np.minimum((p * bins).astype(int), bins - 1)
    gaps = [abs(np.sum(w[at == b] * (y[at == b] - p[at == b]))) for b in range(bins)]
    return float(np.sum(gaps) / w.sum())
