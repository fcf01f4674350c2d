"""Linear probe: can a linear classifier, trained on some videos' embeddings, name the procedure of others?

The transfer lists of CSV (`transfer_train.txt`, `transfer_test.txt`) re-split the videos of the 25 test
procedures, 689 to 185 (`methods/weaksvr.md` 5.3). Where a data set has no such lists, every video is named
once by a classifier that was trained without its fold.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..cache.errors import StepclipError
from .bootstrap import interval
from .controls import EXPLAINED
from .embed import flatten_segments
from .results import CHANCE, CONTROL, TRAINED, Results, Row

if TYPE_CHECKING:
    from .parts import Material

FOLDS = 5
TRAIN, TEST = "train", "test"


@dataclass(frozen=True)
class Probe:
    """Share of the test videos that are named right, its 95 % interval, and its mean over the classes."""

    accuracy: float
    ci: tuple[float, float]
    balanced: float
    classes: int
    train: int
    test: int
    folds: int

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def described(self) -> str:
        how = f"{self.folds} folds, {self.test} videos" if self.folds else ""
        return f"{self.classes} procedures, {how or f'{self.train} videos to train on, {self.test} to test'}."


@dataclass(frozen=True)
class Plan:
    """Which videos are named by a classifier that learned from which others: pairs of row numbers."""

    turns: tuple[tuple[np.ndarray, np.ndarray], ...]
    labels: np.ndarray  # (V,) class of each video
    folds: int  # 0: lists were given


def plan(procedures: Sequence[str], lists: Sequence[str | None] | None = None, seed: int = 0) -> Plan | str:
    """The turns over V videos of these `procedures`, or why there are none.

    `lists`: "train", "test" or None for each video, as released; without them, up to 5 stratified folds over
    the procedures that have at least two videos.
    """
    labels = np.unique(np.asarray(procedures, dtype=object).astype(str), return_inverse=True)[1]
    if lists is not None:
        train = np.array([name == TRAIN for name in lists], dtype=bool)
        test = np.array([name == TEST for name in lists], dtype=bool)
        test &= np.isin(labels, labels[train])  # a class without a training video cannot be named
        if len(np.unique(labels[train])) < 2 or not test.any():
            return "the transfer lists leave fewer than two procedures to train on, or no video to test"
        return Plan(((np.flatnonzero(train), np.flatnonzero(test)),), labels, 0)
    from sklearn.model_selection import StratifiedKFold

    count = np.bincount(labels)
    usable = np.flatnonzero(count[labels] > 1)
    if len(np.unique(labels[usable])) < 2:
        return "fewer than two procedures have two videos"
    folds = int(min(FOLDS, count[labels[usable]].min()))
    split = StratifiedKFold(folds, shuffle=True, random_state=seed)
    turns = tuple((usable[a], usable[b]) for a, b in split.split(usable, labels[usable]))
    return Plan(turns, labels, folds)


def probe(features: np.ndarray | None, how: Plan, *, resamples: int = 1000, seed: int = 0) -> Probe:
    """Probe `features` (V, F); None names the most frequent class of the training videos (chance).

    Standardised by the training videos, then scikit-learn's multinomial logistic regression, L2, C = 1.
    StepclipError when a feature is not finite.
    """
    if features is not None and not np.isfinite(features).all():
        raise StepclipError("a feature of the linear probe is not finite", "finite numbers")
    right, truth = [], []
    for train, test in how.turns:
        if features is None:
            named = np.full(len(test), np.bincount(how.labels[train]).argmax())
        else:
            named = _named(features[train], how.labels[train], features[test])
        right.append(named == how.labels[test])
        truth.append(how.labels[test])
    hit, labels = np.concatenate(right).astype(float), np.concatenate(truth)
    rng = np.random.default_rng(seed)
    again = hit[rng.integers(len(hit), size=(resamples, len(hit)))].mean(1)
    return Probe(
        accuracy=float(hit.mean()),
        ci=interval(again),
        balanced=float(np.mean([hit[labels == c].mean() for c in np.unique(labels)])),
        classes=len(np.unique(np.concatenate([how.labels[train] for train, _ in how.turns]))),
        train=len(how.turns[0][0]),
        test=len(hit),
        folds=how.folds,
    )


def _named(train: np.ndarray, labels: np.ndarray, test: np.ndarray) -> np.ndarray:
    from sklearn.linear_model import LogisticRegression

    mean, spread = train.mean(0), train.std(0)
    spread = np.where(spread > 1e-9 * max(1.0, float(np.abs(train).max())), spread, np.inf)  # constants: 0
    x, y = (train - mean) / spread, (test - mean) / spread
    if x.shape[1] > len(x):
        # With an L2 penalty the weights lie in the span of the training videos: turned into it, the same
        # classifier has as many weights as there are videos.
        basis = np.linalg.svd(x, full_matrices=False)[2].T
        x, y = x @ basis, y @ basis
    with warnings.catch_warnings():  # few videos of many procedures are what a fold is, no mistake
        warnings.filterwarnings("ignore", message="The number of unique classes", category=UserWarning)
        return np.asarray(LogisticRegression(C=1.0, max_iter=2000).fit(x, labels).predict(y))


def listed(video_ids: Sequence[str], transfer: Mapping[str, str] | None) -> list[str | None] | None:
    """The transfer list of each video; None where the data set has none for these videos."""
    if not transfer or not any(video_id in transfer for video_id in video_ids):
        return None
    return [transfer.get(video_id) for video_id in video_ids]


def linear_probe(results: Results, m: Material, transfer: Mapping[str, str] | None) -> None:
    """A linear classifier of the procedure on each embedding: transfer lists, else folds of the split."""
    ids = [video.video_id for video in m.videos]
    how = plan([video.procedure for video in m.videos], listed(ids, transfer), m.seed)
    if not isinstance(how, Plan):
        results.notes.append(f"the linear probe is left out: {how}")
        return
    if not how.folds and (absent := sum(name not in m.trained for name in transfer or {})):
        results.notes.append(
            f"linear probe: {absent} of {len(transfer or {})} listed videos have no features here"
        )
    flat, duration = flatten_segments(m.raw).video, torch.from_numpy(m.raw.durations)[:, None]
    one = m.middle
    shown: list[tuple[str, str, torch.Tensor | None, str]] = [
        ("video", TRAINED, m.trained.video, "the video embedding, three views"),
        ("video, 1 view", TRAINED, one.video, "the video embedding of the middle view"),
        (
            "segments",
            TRAINED,
            one.frames.view(len(one), -1),
            "the frame embeddings of the middle view, end to end",
        ),
        ("mean-pool", CONTROL, m.raw.video, EXPLAINED["mean-pool"]),
        ("flat", CONTROL, flat, EXPLAINED["flat"]),
        ("duration", CONTROL, duration, "the duration alone"),
        ("content-free", CONTROL, m.bare.video, EXPLAINED["content-free"]),
        ("chance", CHANCE, None, "the most frequent procedure"),
    ]
    step = m.stage("linear probe", len(shown))
    for name, kind, features, about in shown:
        values = None if features is None else features.double().cpu().numpy()
        result = probe(values, how, seed=m.seed)
        results.probe.append(Row(name, kind, result, about, name == "video"))
        step(1)
    if how.folds:
        results.remarks["probe"] = [
            "no transfer lists: each video is named by a classifier trained without its fold"
        ]
