"""Measures of frame-wise embeddings: phases, their progression, order across videos, retrieval of frames.

The definitions of CARL's released evaluation (`methods/carl.md` 6), its crashes repaired: an absent phase is
left out of its column, undefined correlations are counted. A set of videos is `Phased`: embeddings and labels
of every frame, one video after the other. Papers use the same names for other measures (6.7); these are
CARL's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

KS = (5, 10, 15)
_CELLS = 1 << 24  # of a table of distances at a time


@dataclass(frozen=True)
class Phased:
    """`x` (N, E) float32, `labels` (N,) int64 of every frame (no frame without a phase), `offsets` (V+1,)."""

    x: np.ndarray
    labels: np.ndarray
    offsets: np.ndarray

    @cached_property
    def lengths(self) -> np.ndarray:
        return np.diff(self.offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def take(self, videos: Iterable[int]) -> Phased:
        """Some of the videos."""
        rows = [np.arange(self.offsets[i], self.offsets[i + 1]) for i in videos]
        at = np.concatenate(rows) if rows else np.zeros(0, np.int64)
        return Phased(self.x[at], self.labels[at], np.concatenate([[0], np.cumsum([len(r) for r in rows])]))

    def strided(self, stride: int) -> Phased:
        """Every `stride`-th frame of each video."""
        rows = [np.arange(a, b, stride) for a, b in zip(self.offsets[:-1], self.offsets[1:], strict=True)]
        at = np.concatenate(rows)
        return Phased(self.x[at], self.labels[at], np.concatenate([[0], np.cumsum([len(r) for r in rows])]))


def joined(parts: Sequence[Phased]) -> Phased:
    """Several sets as one."""
    lengths = np.concatenate([part.lengths for part in parts])
    return Phased(
        np.concatenate([part.x for part in parts]),
        np.concatenate([part.labels for part in parts]),
        np.concatenate([[0], np.cumsum(lengths)]),
    )


def phase_classification(fit: Phased, test: Phased) -> np.ndarray:
    """Whether each test frame's phase is named, (N,) bool: multinomial logistic regression, C = 1 (6.1). Fit
    on frames of one phase only, it names that one."""
    from sklearn.linear_model import LogisticRegression

    if len(np.unique(fit.labels)) == 1:
        return test.labels == fit.labels[0]
    model = LogisticRegression(C=1.0, max_iter=100_000).fit(fit.x, fit.labels)
    return np.asarray(model.predict(test.x) == test.labels)


def first_share(videos: int, share: float, seed: int | None = None) -> np.ndarray:
    """max(1, int(share * videos)) of the videos: the first as released (seed None), else drawn by `seed`."""
    order = np.arange(videos) if seed is None else np.random.default_rng(seed).permutation(videos)
    return order[: max(1, int(share * videos))]


def progress_targets(data: Phased, phases: int) -> np.ndarray:
    """(N, phases): (t - last frame of phase c) / L of each frame of each video; nan where c is absent."""
    out = np.full((len(data.labels), phases), np.nan)
    for a, b in zip(data.offsets[:-1], data.offsets[1:], strict=True):
        t = np.arange(b - a)
        for c in np.unique(data.labels[a:b]):
            if c < phases:
                out[a:b, c] = (t - np.flatnonzero(data.labels[a:b] == c)[-1]) / (b - a)
    return out


def phase_progression(folds: Sequence[tuple[Phased, Phased]], phases: int) -> tuple[float, int]:
    """Mean R2 of how far each of the first `phases` - 1 phases lies back, by least squares (6.2); and how
    many phases it is the mean of.

    `folds`: (fit, test); predictions of all folds are scored together. A phase is scored over the videos that
    show it, if any do in every fit.
    """
    from sklearn.linear_model import LinearRegression
    from sklearn.metrics import r2_score

    true: list[list[np.ndarray]] = [[] for _ in range(phases - 1)]
    found: list[list[np.ndarray]] = [[] for _ in range(phases - 1)]
    for fit, test in folds:
        y_fit, y_test = progress_targets(fit, phases - 1), progress_targets(test, phases - 1)
        for shown in _alike(y_fit):
            rows = np.isfinite(y_fit[:, shown[0]])
            model = LinearRegression().fit(fit.x[rows], y_fit[rows][:, shown])
            predicted = model.predict(test.x).reshape(len(test.x), -1)
            for place, c in enumerate(shown):
                inside = np.isfinite(y_test[:, c])
                true[c].append(y_test[inside, c])
                found[c].append(predicted[inside, place])
    scores = [
        r2_score(np.concatenate(t), np.concatenate(f))
        for t, f in zip(true, found, strict=True)
        if t and sum(map(len, t)) > 1
    ]
    return (float(np.mean(scores)) if scores else float("nan")), len(scores)


def _alike(targets: np.ndarray) -> list[list[int]]:
    """Columns that are known on the same rows together; columns without a row left out."""
    groups: dict[bytes, list[int]] = {}
    for c in range(targets.shape[1]):
        known = np.isfinite(targets[:, c])
        if known.any():
            groups.setdefault(known.tobytes(), []).append(c)
    return list(groups.values())


def nearest_frames(x: Tensor, y: Tensor) -> Tensor:
    """For each row of `x` (n, E) the nearest of `y` (m, E), squared Euclidean; the first of equals."""
    return squared_distances(x, y).argmin(-1)


def squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """(n, m) in double precision, so that what is equal ties."""
    x, y = x.double(), y.double()
    return (x.square().sum(1)[:, None] + y.square().sum(1) - 2 * x @ y.T).clamp(min=0)


def kendalls_tau(data: Phased, pairs: Sequence[tuple[int, int]] | None = None) -> tuple[float, int, int]:
    """(mean tau-b, how many pairs it is of, how many were undefined) over ordered `pairs` of videos, by
    default all (6.3): the order of each frame's nearest neighbour in the other video against its own. A pair
    whose frames all have one neighbour has no tau; it is left out and counted."""
    if pairs is None:
        pairs = [(i, j) for i in range(len(data)) for j in range(len(data)) if i != j]
    x = torch.from_numpy(data.x)
    taus = np.array(
        [
            tau_b(
                nearest_frames(
                    x[data.offsets[i] : data.offsets[i + 1]], x[data.offsets[j] : data.offsets[j + 1]]
                )
            )
            for i, j in pairs
        ]
    )
    known = np.isfinite(taus)
    return (float(taus[known].mean()) if known.any() else float("nan")), int(known.sum()), int((~known).sum())


def tau_b(ranks: Tensor) -> float:
    """Kendall's tau-b of `ranks` (n,) against 0 .. n-1; nan where all are equal or n < 2."""
    up = torch.sign(ranks[None, :] - ranks[:, None]).triu(1)  # later minus earlier
    pairs = len(ranks) * (len(ranks) - 1) / 2
    untied = float(up.abs().sum())
    return float(up.sum()) / (pairs * untied) ** 0.5 if untied else float("nan")


def precision_at_k(data: Phased, ks: Sequence[int] = KS) -> dict[int, float]:
    """Share of the K nearest frames of all other videos that show the query's phase (6.4, called AP@K): mean
    over the frames of a video, then over videos. Not weighted by rank; the first of equals."""
    x, labels = torch.from_numpy(data.x), torch.from_numpy(data.labels)
    owner = torch.repeat_interleave(torch.arange(len(data)), torch.from_numpy(data.lengths))
    hits = torch.zeros(len(x), max(ks))
    others = len(x) - torch.from_numpy(data.lengths)[owner]
    for part in torch.arange(len(x)).split(max(1, _CELLS // len(x))):
        apart = squared_distances(x[part], x).masked_fill(owner[part][:, None] == owner, torch.inf)
        near = apart.sort(dim=1, stable=True).indices[:, : max(ks)]
        hits[part, : near.shape[1]] = (labels[near] == labels[part][:, None]).float()
    out = {}
    for k in ks:
        per_frame = (hits[:, :k].sum(1) / others.clamp(max=k)).numpy()
        means = [
            per_frame[a:b].mean() for a, b in zip(data.offsets[:-1], data.offsets[1:], strict=True) if b > a
        ]
        out[k] = float(np.mean(means))
    return out


def linear_evaluation(
    fit: Phased,
    test: Phased,
    classes: int,
    *,
    lr: float = 50.0,
    epochs: int = 100,
    videos: int = 10,
    decay: float = 1e-6,
    seed: int = 0,
) -> float:
    """Accuracy over all test frames of a softmax layer trained as for FineGym (6.5): SGD with momentum 0.9,
    the frames of `videos` videos a batch, a cosine per epoch, a last short batch dropped if it is not the
    only one."""
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.from_numpy(fit.x), torch.from_numpy(fit.labels)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layer = torch.nn.Linear(x.shape[1], classes)
    optimiser = torch.optim.SGD(layer.parameters(), lr=lr, momentum=0.9, weight_decay=decay)
    for epoch in range(epochs):
        for group in optimiser.param_groups:
            group["lr"] = lr * 0.5 * (1 + np.cos(np.pi * epoch / epochs))
        order = torch.randperm(len(fit), generator=generator).split(videos)
        for batch in [part for part in order if len(part) == videos] or order:
            rows = torch.cat([torch.arange(fit.offsets[i], fit.offsets[i + 1]) for i in batch.tolist()])
            loss = torch.nn.functional.cross_entropy(layer(x[rows]), y[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    with torch.no_grad():
        named = layer(torch.from_numpy(test.x)).argmax(1)
    return float((named == torch.from_numpy(test.labels)).float().mean())
