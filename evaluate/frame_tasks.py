"""The table of frames: phases named, their progression, order across videos, retrieval; beside what knows
only the time, only the features, or both (`methods/carl.md` 6 and 6.8)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F

from .embed import Embedded, content_free, embed, embed_raw
from .frame_metrics import (
    KS,
    Phased,
    first_share,
    joined,
    kendalls_tau,
    linear_evaluation,
    phase_classification,
    phase_progression,
    precision_at_k,
)
from .phases import FramePlan, Group, phased, plan_frames
from .results import CHANCE, CONTROL, TRAINED, Results, Row

if TYPE_CHECKING:
    from ..cache.manifest import VideoRow
    from ..cache.store import FeatureStore
    from ..train.checkpoint import Checkpoint
    from .parts import Material

Source = tuple[
    "Embedded", np.ndarray, Sequence["VideoRow"]
]  # how frames are laid out, what they are, of whom
SHARES = (0.1, 0.5)
REPEATS = 3  # draws of a share of the labels
MOST_COMPARED = (
    40_000  # frames of a group that are compared with each other; of larger groups so many are drawn
)
MOST_PAIRS = 20_000  # of videos, likewise
MOST_FITTED = 200_000  # frames that a classifier is fitted on or tested with, likewise
DENSEST = 12.5  # frames a second that are compared across videos: stride 2 at the 25 of Penn Action
NEAR = 0.01  # a control that comes as near as this explains a figure
CONTROLS = ("raw", "raw, standardised", "clock", "clock + raw")
EXPLAINED = {
    "frames": "the trained embedding of each frame",
    "raw": "the cached feature of the frame, at length 1",
    "raw, standardised": "the same, each number at mean 0 and spread 1",
    "clock": "time t/L only, no content",
    "clock + raw": "both side by side",
    "content-free": "the trained model, all frames replaced by their mean",
    "chance": "noise in place of features",
}
FIGURES = {
    "accuracy": "accuracy",
    "accuracy_50": "accuracy at 50 % of the labels",
    "accuracy_10": "accuracy at 10 % of the labels",
    "progression": "progression",
    "tau": "Kendall's tau",
    "ap5": "AP@5",
    "ap10": "AP@10",
    "ap15": "AP@15",
    "linear": "linear evaluation",
}


@dataclass(frozen=True)
class FrameTasks:
    """What an embedding of frames is good for. Means over the groups (actions), as the papers have them.

    `accuracy` of named phases, with all labels, half, a tenth of the fitted videos (mean of draws, their
    deviation beside); `progression` R2; `tau` mean over `tau_pairs` pairs, `tau_undefined` of them without
    one; `ap5`, `ap10`, `ap15`; `linear`: one softmax layer for all groups. `drawn`: a group is so large that
    some of its videos, drawn by seed, stand for all.
    """

    accuracy: float
    accuracy_50: float
    accuracy_50_deviation: float
    accuracy_10: float
    accuracy_10_deviation: float
    progression: float
    tau: float
    tau_pairs: int
    tau_undefined: int
    ap5: float
    ap10: float
    ap15: float
    linear: float
    groups: int
    videos: int
    phases: int
    frames: int
    drawn: bool = False

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def frame_tasks(
    plan: FramePlan,
    test: Embedded,
    x: np.ndarray,
    videos: Sequence[VideoRow],
    fit: Source | None = None,
    *,
    stride: int = 1,
    seed: int = 0,
    linear: bool = True,
    shares: Sequence[float] = SHARES,
) -> FrameTasks:
    """Score `x` (N, E), one row per cached frame of `videos` as `test` lays them out.

    `fit`: the same of the training split, where the plan fits there. `stride`: of the frames that are
    compared across videos (6.3, 6.4).
    """
    here: Source = (test, x, videos)
    found = [
        _score(group, here, fit if plan.fit_split and fit else here, stride, seed, shares)
        for group in plan.groups
    ]
    half, tenth = (np.mean([one.shares.get(s, [np.nan]) for one in found], axis=0) for s in (0.5, 0.1))
    every_fit: list[Phased] = []
    every_test: list[Phased] = []
    first = 0
    for one, group in zip(found, plan.groups, strict=True):
        for part, to in zip(one.first_fold, (every_fit, every_test), strict=True):
            to.append(Phased(part.x, part.labels + first, part.offsets))
        first += len(group.phases)
    return FrameTasks(
        accuracy=mean_of([one.accuracy for one in found]),
        accuracy_50=float(half.mean()),
        accuracy_50_deviation=float(half.std()),
        accuracy_10=float(tenth.mean()),
        accuracy_10_deviation=float(tenth.std()),
        progression=mean_of([one.progression for one in found]),
        tau=mean_of([one.tau for one in found]),
        tau_pairs=sum(one.pairs for one in found),
        tau_undefined=sum(one.undefined for one in found),
        ap5=mean_of([one.precision[5] for one in found]),
        ap10=mean_of([one.precision[10] for one in found]),
        ap15=mean_of([one.precision[15] for one in found]),
        linear=linear_evaluation(joined(every_fit), joined(every_test), first, seed=seed)
        if linear
        else np.nan,
        groups=len(found),
        videos=sum(len(group.test) for group in plan.groups),
        phases=first,
        frames=sum(one.frames for one in found),
        drawn=any(one.drawn for one in found),
    )


@dataclass(frozen=True)
class _Scored:
    """One group: its figures, `shares` -> accuracies of the draws, the first fold (for the linear layer)."""

    accuracy: float
    shares: dict[float, list[float]]
    progression: float
    tau: float
    pairs: int
    undefined: int
    precision: dict[int, float]
    first_fold: tuple[Phased, Phased]
    frames: int
    drawn: bool


def _score(
    group: Group, here: Source, fitted: Source, stride: int, seed: int, shares: Sequence[float]
) -> _Scored:
    whole = [(phased(*fitted, ours, group), phased(*here, theirs, group)) for ours, theirs in group.folds]
    folds = [(thinned(a, MOST_FITTED, seed), thinned(b, MOST_FITTED, seed)) for a, b in whole]
    right = np.concatenate([phase_classification(ours, theirs) for ours, theirs in folds])
    of_shares: dict[float, list[float]] = {share: [] for share in shares}
    for share in shares:
        for k in range(REPEATS):
            ours, theirs = folds[k % len(folds)]
            some = ours.take(first_share(len(ours), share, seed + k))
            of_shares[share].append(float(phase_classification(some, theirs).mean()))
    every = phased(*here, group.test, group)
    strided = every.strided(stride)
    compared, pairs = thinned(strided, MOST_COMPARED, seed), group.pairs
    if len(pairs) > MOST_PAIRS:
        chosen = np.random.default_rng(seed).choice(len(pairs), MOST_PAIRS, replace=False)
        pairs = tuple(pairs[i] for i in chosen)
    tau, defined, undefined = kendalls_tau(strided, pairs) if pairs else (float("nan"), 0, 0)
    return _Scored(
        accuracy=float(right.mean()),
        shares=of_shares,
        progression=phase_progression(folds, len(group.phases))[0],
        tau=tau,
        pairs=defined,
        undefined=undefined,
        precision=precision_at_k(compared, KS),
        first_fold=folds[0],
        frames=len(every.labels),
        drawn=compared is not strided
        or pairs is not group.pairs
        or any(a is not c or b is not d for (a, b), (c, d) in zip(whole, folds, strict=True)),
    )


def thinned(data: Phased, most: int, seed: int) -> Phased:
    """`data`, or some of its videos, drawn by `seed`, of at most `most` frames (one video at least)."""
    if len(data.labels) <= most:
        return data
    order = np.random.default_rng(seed).permutation(len(data))
    kept = np.flatnonzero(np.cumsum(data.lengths[order]) <= most)
    return data.take(sorted(order[: max(1, len(kept))].tolist()))


def mean_of(values: Sequence[float]) -> float:
    """The mean of those that are defined; nan where none is."""
    known = [value for value in values if np.isfinite(value)]
    return float(np.mean(known)) if known else float("nan")


def unit_rows(x: torch.Tensor) -> np.ndarray:
    return F.normalize(x.float(), dim=-1).cpu().numpy()


def clock(embedded: Embedded) -> np.ndarray:
    """(N, 1): how much of its video lies before each frame."""
    out = [np.arange(n) / n for n in embedded.lengths]
    return np.concatenate(out)[:, None].astype(np.float32)


def control_frames(name: str, raw: Embedded, spread: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """What the control `name` knows of each frame of `raw`; `spread`: mean and deviation of the features."""
    if name == "clock":
        return clock(raw)
    if name == "raw":
        return unit_rows(raw.frames)
    if name == "raw, standardised":
        return (raw.frames.float().cpu().numpy() - spread[0]) / spread[1]
    return np.concatenate([clock(raw), unit_rows(raw.frames)], 1)


def _control(name: str, spread: tuple[np.ndarray, np.ndarray], sets: FrameSets) -> np.ndarray:
    return control_frames(name, sets.raw, spread)


def frame_stride(embedded: Embedded) -> int:
    """1, or so many that at most DENSEST frames of a second are compared."""
    apart = np.diff(embedded.times)
    apart = apart[apart > 0]  # a new video begins
    return max(1, round(1 / float(np.median(apart)) / DENSEST)) if len(apart) else 1


@dataclass(frozen=True)
class FrameSets:
    """What a table of frames is made from, of one split: the `videos`, and the frames that the model, no
    model, and the model without content (`content_free`) give, laid out alike."""

    videos: Sequence[VideoRow]
    trained: Embedded
    raw: Embedded
    bare: Embedded

    @classmethod
    def of(
        cls, checkpoint: Checkpoint, store: FeatureStore, videos: Sequence[VideoRow], device: str = "auto"
    ) -> FrameSets:
        ids = [video.video_id for video in videos]
        raw = embed_raw(store, ids, device)
        return cls(videos, embed(checkpoint, store, ids, device), raw, content_free(checkpoint, raw))


def frame_rows(
    plan: FramePlan,
    test: FrameSets,
    fit: FrameSets | None = None,
    *,
    seed: int = 0,
    controls: bool = True,
    bare: bool = True,
    linear: bool = True,
    shares: Sequence[float] = SHARES,
    step: Callable[[int], None] | None = None,
) -> list[Row]:
    """The trained row, then (with `controls`) those that know the features, the time, or both, then (with
    `bare`) the model without content, and noise. `fit`: of the training split, where the plan fits there."""
    stride, everything = frame_stride(test.raw), (fit or test).raw.frames.float()
    spread = everything.mean(0).cpu().numpy(), everything.std(0).clamp(min=1e-6).cpu().numpy()

    rng = np.random.default_rng(seed)

    def noise(sets: FrameSets) -> np.ndarray:
        return rng.normal(size=(len(sets.raw.frames), 8)).astype(np.float32)

    def row(name: str, kind: str, of: Callable[[FrameSets], np.ndarray]) -> Row:
        fitted = (fit.raw, of(fit), fit.videos) if fit is not None and plan.fit_split else None
        found = frame_tasks(
            plan, test.raw, of(test), test.videos, fitted,
            stride=stride, seed=seed, linear=linear, shares=shares,
        )  # fmt: skip
        if step is not None:
            step(1)
        return Row(name, kind, found, EXPLAINED[name], kind == TRAINED)

    rows = [row("frames", TRAINED, lambda sets: unit_rows(sets.trained.frames))]
    for name in CONTROLS if controls else ():
        rows.append(row(name, CONTROL, partial(_control, name, spread)))
    # rounded: what is equal up to the order of a sum must tie
    if bare:
        rows.append(row("content-free", CONTROL, lambda sets: unit_rows(sets.bare.frames).round(5)))
    if controls:
        rows.append(row("chance", CHANCE, noise))
    return rows


def frames(results: Results, m: Material) -> None:
    """The table of frames, where the split has true step times."""
    train = [video for video in m.manifest if video.split == "train" and video.video_id in m.store]
    plan = plan_frames(m.videos, train if results.split != "train" else [])
    if isinstance(plan, str):
        results.notes.append(f"the table of frames is left out: {plan}")
        return
    step = m.stage("reading phases off the frames", len(CONTROLS) + 3)
    test = FrameSets(m.videos, m.trained, m.raw, m.bare)
    fit = FrameSets.of(m.checkpoint, m.store, train, m.device) if plan.fit_split else None
    results.frames = rows = frame_rows(plan, test, fit, seed=m.seed, step=step)
    results.remarks["frames"] = [plan.described, *explained_by(rows)]
    if undefined := rows[0].result.tau_undefined:
        results.remarks["frames"].append(
            f"Kendall's tau is undefined for {undefined} pairs of videos, all of whose frames have one "
            "neighbour; they are left out of the mean"
        )
    if rows[0].result.drawn:
        results.remarks["frames"].append("of very large groups some videos, drawn by seed, stand for all")
    if not rows[0].result.tau_pairs + undefined:
        results.remarks["frames"].append("no Kendall's tau: no two videos of the split are of one task")


def explained_by(rows: Sequence[Row]) -> list[str]:
    """Warnings: which figures of the trained row a control reaches, or comes within NEAR of."""
    trained, controls = rows[0].result, rows[1:]
    out = []
    for figure, words in FIGURES.items():
        mine = getattr(trained, figure)
        found = [
            f"{row.name} {getattr(row.result, figure):.3f}"
            for row in controls
            if getattr(row.result, figure) >= mine - NEAR
        ]
        if found:
            out.append(f"warning: {words} {mine:.3f} says nothing of learning, {', '.join(found)} beside it")
    return out
