"""The columns of the tables of results: head, how a value is written, how it is read."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

KINDS = ("order", "deletion", "addition", "other")


@dataclass(frozen=True)
class Column:
    head: str
    value: Callable[[Any], str]
    explained: str = ""


def number(x: float | None, digits: int = 3) -> str:
    """Three digits, or a dash for what is undefined."""
    return "–" if x is None or not math.isfinite(x) else f"{x:.{digits}f}"


def percent(x: float | None, digits: int = 1) -> str:
    return "–" if x is None or not math.isfinite(x) else f"{100 * x:.{digits}f}"


def span(ci: tuple[float, float], write: Callable[[float], str] = percent) -> str:
    """An interval, or a dash."""
    return f"{write(ci[0])}–{write(ci[1])}" if all(map(math.isfinite, ci)) else "–"


def coarse(x: float) -> str:
    return percent(x, 0)


VERIFICATION = [
    Column(
        "AUC %",
        lambda r: percent(r.auc),
        "a differing pair lies further apart than an equal one; 50 is a coin",
    ),
    Column("95 % CI", lambda r: span(r.ci), "of the figure on its left, bootstrap over the pairs"),
    Column("EER %", lambda r: percent(r.eer), "error rate where misses equal false alarms; low is good"),
    Column("95 % CI", lambda r: span(r.eer_ci, coarse)),
    Column(
        "WDR",
        lambda r: number(r.wdr),
        "distance per differing step over distance of equal pairs; high is good; 'equal': of equal distances",
    ),
    Column("95 % CI", lambda r: span(r.wdr_ci, lambda x: number(x, 2))),
    Column("equal", lambda r: number(r.wdr_constant)),
]
DISTANCES = [
    Column("AUC %", lambda r: percent(r.three.auc), "three frames of each segment, embeddings averaged"),
    Column("95 % CI", lambda r: span(r.three.ci)),
    Column("WDR", lambda r: number(r.three.wdr), "as released, a substituted step counts 2"),
    Column("WDR1", lambda r: number(r.three.wdr_levenshtein), "as the papers write it, it counts 1"),
    Column(
        "1 view %",
        lambda r: percent(r.one.auc) if r.one else "–",
        "AUC by the middle frame of each segment alone; – where there are no views",
    ),
    Column("WDR", lambda r: number(r.one.wdr) if r.one else "–"),
]
RETRIEVAL = [
    Column("R@1 %", lambda r: percent(r.r1), "searches whose first answer is right"),
    Column("R@5 %", lambda r: percent(r.r5)),
    Column("R@10 %", lambda r: percent(r.r10)),
    Column("MedR", lambda r: number(r.medr, 1), "median place of the first right answer; 1 is best"),
    Column("MRR", lambda r: number(r.mrr), "mean of 1 / that place"),
]
MATCHING = [
    Column("acc@1 %", lambda r: percent(r.acc1), "scripts whose video is picked out of its few candidates"),
    Column("95 % CI", lambda r: span(r.ci), "of it, bootstrap over the lists"),
    Column("@2 %", lambda r: percent(r.acc2)),
    Column("@3 %", lambda r: percent(r.acc3)),
    Column("MRR", lambda r: number(r.mrr)),
    Column("AUC %", lambda r: percent(r.auc), "right candidates score above wrong ones, all lists together"),
    Column(
        "by text", lambda r: percent(r.query_auc), "the same among the lists of one text, mean of the texts"
    ),
]
PSEUDO_LABELS = [
    Column(
        "train: frames %", lambda r: _found(r.train, "frame_accuracy"), "frames in a true step that get it"
    ),
    Column(
        "IoU %", lambda r: _found(r.train, "iou"), "overlap of labelled and true span, mean over the steps"
    ),
    Column("here: frames %", lambda r: _found(r.split, "frame_accuracy"), "the same on the evaluated split"),
    Column("IoU %", lambda r: _found(r.split, "iou")),
]
PROBE = [
    Column("accuracy %", lambda r: percent(r.accuracy), "videos whose procedure a linear classifier names"),
    Column("95 % CI", lambda r: span(r.ci), "of it, bootstrap over the test videos"),
    Column("per class %", lambda r: percent(r.balanced), "the same, mean over the procedures"),
]
LOCALISATION = [
    Column("frames %", lambda r: percent(r.frame_accuracy), "frames inside a true step that get that step"),
    Column("all frames %", lambda r: percent(r.all_frames), "the same, every idle frame counted as wrong"),
    Column("sentence %", lambda r: percent(r.same_sentence), "or any other step with the same sentence"),
    Column(
        "IoU %", lambda r: percent(r.iou), "overlap of predicted and true span of a step, mean over the steps"
    ),
]
FRAMES = [
    Column("accuracy %", lambda r: percent(r.accuracy), "frames whose phase a linear classifier names"),
    Column("50 %", lambda r: percent(r.accuracy_50), "the same, fitted on half of the labelled videos"),
    Column("10 %", lambda r: percent(r.accuracy_10)),
    Column(
        "progress",
        lambda r: number(r.progression),
        "R2 of how far each phase lies back; the clock is good at it",
    ),
    Column("tau", lambda r: number(r.tau), "order of nearest frames in other videos; the clock has 1"),
    Column("AP@5 %", lambda r: percent(r.ap5), "of the 5 nearest frames of other videos, those of the phase"),
    Column("AP@10 %", lambda r: percent(r.ap10)),
    Column("AP@15 %", lambda r: percent(r.ap15)),
    Column("linear %", lambda r: percent(r.linear), "one softmax layer for all phases, as for FineGym"),
]
SEQUENCES = [
    Column(
        "R@1 %", lambda r: percent(r.kept.r1), "scripts whose video comes first; windows over the whole video"
    ),
    Column("R@5 %", lambda r: percent(r.kept.r5)),
    Column("R@10 %", lambda r: percent(r.kept.r10)),
    Column("own task %", lambda r: _r1(r.own_task), "R@1 among the videos of the script's own task"),
    Column("removed %", lambda r: _r1(r.removed), "R@1 with true steps for windows: their number tells, too"),
    Column(
        "shuffled %", lambda r: _r1(r.shuffled), "videos that pick their script out of 31 other orders of it"
    ),
    Column("swapped %", lambda r: _r1(r.swapped), "out of those in which two neighbours change places"),
    Column("MRR", lambda r: number(r.swapped.mrr), "of these"),
]
CLIPS = [
    Column("R@1 %", lambda r: percent(r.text.r1), "sentences whose first clip shows it"),
    Column("R@5 %", lambda r: percent(r.text.r5)),
    Column("R@10 %", lambda r: percent(r.text.r10)),
    Column("MedR", lambda r: number(r.text.medr, 1)),
    Column("clip to text %", lambda r: percent(r.video.r1), "R@1 of clips asking for sentences"),
]
STEPS = [
    Column(
        "recall %",
        lambda r: percent(r.recall),
        "steps whose one frame lies inside, mean over tasks (CrossTask)",
    ),
    Column(
        "IoU %", lambda r: percent(r.iou), "overlap of predicted and true span of a step, mean over the steps"
    ),
    Column("MoF %", lambda r: percent(r.mof), "frames with the right label, background being one"),
    Column("F1@10", lambda r: percent(r.f1_10), "segments that overlap by that much with a true one"),
    Column("F1@25", lambda r: percent(r.f1_25)),
    Column("F1@50", lambda r: percent(r.f1_50)),
]


def few_shot_columns(first: Any) -> list[Column]:
    """By what the episodes are: so many shots, classes of one task."""
    columns = [
        Column(
            "1-shot %",
            lambda r: percent(r.one.accuracy),
            f"{first.one.ways} classes, one video of each known",
        ),
        Column(
            "±", lambda r: percent(r.one.half), "of the figure on its left, 95 %, over the episodes drawn"
        ),
    ]
    if first.more is not None:
        columns.append(Column(f"{first.more.shots}-shot %", lambda r: percent(r.more.accuracy)))
    if first.within is not None:
        what = f"1-shot among {first.within.ways} procedures of one task, which differ in a few steps"
        columns.append(Column("within %", lambda r: percent(r.within.accuracy), what))
    return columns


def _r1(found: Any) -> str:
    return "–" if found is None else percent(found.r1)


def _found(result: Any, name: str) -> str:
    return "–" if result is None else percent(getattr(result, name))


def by_kind(results: Sequence[Any]) -> list[Column]:
    """One column per kind of difference among some `Verification`s: AUC with its interval."""
    return [Column(kind, _auc_of(kind)) for kind in kinds_of(results)]


def kinds_of(results: Sequence[Any]) -> list[str]:
    """The kinds of difference among some `Verification`s, the usual ones first."""
    found = {kind for result in results for kind in result.by_kind}
    return [k for k in KINDS if k in found] + sorted(found - set(KINDS))


def _auc_of(kind: str) -> Callable[[Any], str]:
    def value(result: Any) -> str:
        auc, ci = percent(result.by_kind.get(kind)), result.by_kind_ci.get(kind)
        return f"{auc} ({span(ci, coarse)})" if ci else auc

    return value
