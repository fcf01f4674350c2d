"""Check a recording against a script: evidence, probabilities, and the alignment of what was really done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ...cache.errors import StepclipError
from ..localisation import frame_borders
from .checker import Checker, Judge
from .edits import Evidence, align, gap_frames
from .likeness import References, nearest_others, similarities, unit_frames, with_references
from .report import ADDED, DONE, MISSING, MOVED, REPEATED, CheckReport, Extra, Step

if TYPE_CHECKING:
    from ..embed import Embedded


def check(
    embedded: Embedded,
    store: Any,
    i: int,
    script: Sequence[str],
    checker: Checker,
    others: Sequence[str] = (),
    references: References | None = None,
    *,
    trim: float = 0.0,
    without: Sequence[str] = (),
    name: str = "",
) -> CheckReport:
    """Check video `i` of `embedded` against `script`. `store` has the features of the texts: the steps, and
    `others`, sentences of other scripts that may have been done in between.

    With `references`, other recordings in which steps of the script are done (but those of `without`), and a
    checker that was fitted with them, both judge where all steps have some. `trim`: where the video begins in
    its file, seconds. StepclipError for an empty script, or with too few frames for its steps.
    """
    if not script:
        raise StepclipError("the script has no steps", "a sentence per step, in order")
    sentences = [*script, *(s for s in dict.fromkeys(others) if s not in set(script))]
    steps = len(script)
    similarity, seconds = similarities(embedded, store, i, sentences)
    columns, judge, by = np.arange(len(sentences)), checker.script, "script"
    if references is not None and checker.references is not None:
        prototypes = references.prototypes(sentences, without)
        both = with_references(similarity, unit_frames(embedded, i), prototypes, steps)
        if both is not None:
            (similarity, columns), judge, by = both, checker.references, "references"
    kept = nearest_others(similarity, steps)
    similarity, columns = similarity[:, kept], columns[kept]
    here = embedded.slice(i)
    duration = float(embedded.durations[i])
    borders = frame_borders(embedded.times[here], duration) + trim
    found = judged(judge, similarity, steps, seconds)
    done, extras = laid_out(found, script, [sentences[c] for c in columns], borders)
    notes = []
    if not checker.fitted:
        notes.append("the probabilities are not calibrated: the run has too few training videos for it")
    return CheckReport(
        name or embedded.video_ids[i],
        done,
        extras,
        judge.wrong(found.p),
        judge.verdict.threshold,
        by,
        checker.fitted,
        duration,
        tuple(float(each) for each in found.p[ADDED]),
        tuple(notes),
    )


@dataclass(frozen=True)
class Judged:
    """Evidence, probabilities, what is reported, and the alignment of what was really done: `order`, columns
    of the cosines (steps, then other sentences) in the order done, and `labels` (T,), the place in `order` of
    each frame, -1 background. `extra[n]`: kind and gap of place n in `order` where it is none of the script's
    own steps."""

    evidence: Evidence
    p: dict[str, np.ndarray]
    status: list[str]
    order: list[int]
    labels: np.ndarray
    extra: dict[int, tuple[str, int]]
    idle: list[int]  # gaps in which something was added that is like no known sentence


def judged(judge: Judge, similarity: torch.Tensor, steps: int, seconds: np.ndarray) -> Judged:
    """Take the evidence of cosines (T, K + O), decide what is reported, and align what was done."""
    found = judge.evidence(similarity, steps, seconds)
    p = judge.probabilities(found)
    over = {kind: p[kind] / max(judge.kinds[kind].threshold, 1e-9) for kind in p}
    status = [DONE] * steps
    for k in range(steps):
        kind = MISSING if over[MISSING][k] >= over[MOVED][k] else MOVED
        if over[kind][k] >= 1 and (kind == MISSING or found.place[MOVED][k] >= 0):
            status[k] = kind
    # (where it stands, after what is there by right, which column, what it is)
    things: list[tuple[float, int, int, str]] = []
    for k in range(steps):
        if status[k] == DONE:
            things.append((float(k), 0, k, DONE))
        elif status[k] == MOVED:
            things.append((found.place[MOVED][k] - 0.5, 0, k, MOVED))
    room = len(similarity) - 2 - len(things)
    again = [k for k in range(steps) if over[REPEATED][k] >= 1 and status[k] != MISSING]
    wanted = [(over[REPEATED][k], found.place[REPEATED][k] - 0.5, k, REPEATED) for k in again]
    wanted += [
        (over[ADDED][g], g - 0.5, steps + int(found.place[ADDED][g]), ADDED)
        for g in range(steps + 1)
        if over[ADDED][g] >= 1 and found.place[ADDED][g] >= 0
    ]
    # of several things in one gap the surest: one stretch of frames is not two actions
    best: dict[float, tuple[float, float, int, str]] = {}
    for each in sorted(wanted, key=lambda w: -w[0]):
        best.setdefault(each[1], each)
    for _, at, column, kind in sorted(best.values(), key=lambda w: -w[0])[: max(0, room)]:
        things.append((at, 1, column, kind))
    things.sort(key=lambda t: t[:2])
    order = [column for *_, column, _ in things]
    level = judge.background
    if level is None:
        level = float(torch.quantile(similarity[:, :steps].flatten().float(), judge.quantile))
    labels = align(similarity, order, level) if order else np.full(len(similarity), -1)
    extra = {
        n: (kind, round(at + 0.5)) for n, (at, _, _, kind) in enumerate(things) if kind in (REPEATED, ADDED)
    }
    idle = [g for g in range(steps + 1) if over[ADDED][g] >= 1 and found.place[ADDED][g] < 0]
    return Judged(found, p, status, order, labels, extra, idle)


def laid_out(
    found: Judged, script: Sequence[str], sentences: Sequence[str], borders: np.ndarray
) -> tuple[tuple[Step, ...], tuple[Extra, ...]]:
    """Steps and extras with their seconds, from what `judged` found; `borders` (T+1,) of the frames."""

    def span(frames: np.ndarray) -> tuple[float, float] | None:
        return (float(borders[frames[0]]), float(borders[frames[-1] + 1])) if len(frames) else None

    spans: dict[int, tuple[float, float]] = {}
    extras: list[Extra] = []
    for n, column in enumerate(found.order):
        at = span(np.flatnonzero(found.labels == n))
        kind, gap = found.extra.get(n, ("", 0))
        if at is None:
            continue
        if not kind:
            spans[column] = at
        elif kind == REPEATED:
            sure = float(found.p[REPEATED][column])
            extras.append(Extra(kind, script[column], column, *at, sure))
        else:
            extras.append(Extra(kind, sentences[column], None, *at, float(found.p[ADDED][gap])))
    for gap in found.idle:
        at = span(gap_frames(found.evidence.labels, gap))
        if at is not None:
            extras.append(Extra(ADDED, "", None, *at, float(found.p[ADDED][gap])))
    steps = []
    for k, step in enumerate(script):
        start, end = spans.get(k, (None, None))
        p = {kind: float(found.p[kind][k]) for kind in (MISSING, MOVED, REPEATED)}
        steps.append(Step(k, step, found.status[k], start, end, **p))
    return tuple(steps), tuple(sorted(extras, key=lambda e: e.start))
