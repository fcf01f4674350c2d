"""Few-shot recognition: N classes, K labelled videos of each, and whose is this one (`methods/tempclr.md` 4).

Distances of all videos are made once; an episode only looks them up, so ten thousand cost a second. A class
scores the mean of minus the distances of its shots. Beside order-aware distances stand the mean and Chamfer,
which see none: with a strong backbone they come close, and a table without them says little.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import numpy as np
import torch
import torch.nn.functional as F

from ..cache.errors import StepclipError, nearest
from ..train.alignment import pairs
from .sequences import Sequences

if TYPE_CHECKING:
    from .embed import Embedded

VideoDistance = Literal["mean", "chamfer", "dtw", "otam"]
CHUNK = 1 << 22


@dataclass(frozen=True)
class FewShot:
    """Mean accuracy over episodes, and half the width of its 95 % interval (normal, episodes as drawn: it
    says how well the episodes were sampled, not how another set of videos would do)."""

    accuracy: float
    half: float
    ways: int
    shots: int
    episodes: int

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


class Episodes(NamedTuple):
    """`query` (E, W) one video of each class, `support` (E, W, K): places in the list of videos."""

    query: np.ndarray
    support: np.ndarray


def even_frames(embedded: Embedded, count: int = 8) -> Sequences:
    """`count` frames of each video, one from the middle of each equal part: the protocol of the field."""
    t = embedded.lengths[:, None]
    rows = ((np.arange(count) + 0.5) * t / count).astype(np.int64) + embedded.offsets[:-1, None]
    frames = embedded.frames[torch.as_tensor(rows, device=embedded.frames.device)]
    return Sequences(frames, torch.full((len(frames),), count, device=frames.device))


def video_distances(videos: Sequences, kind: VideoDistance = "otam") -> np.ndarray:
    """(V, V) distances of the units of videos, cosine costs. "mean": of the mean unit vectors; "chamfer":
    each unit's nearest of the other video, both ways (order-free); "dtw" over L + N; "otam": both directions,
    each over its columns."""
    known = get_args(VideoDistance)
    if kind not in known:
        raise StepclipError(f"distance {kind!r}{nearest(kind, known)}", f"one of {', '.join(known)}")
    x = F.normalize(videos.vectors, dim=-1)
    real = torch.arange(x.shape[1], device=x.device) < videos.lengths[:, None]
    x = torch.where(real[..., None], x, 0.0)
    if kind == "mean":
        mean = F.normalize(x.sum(1), dim=-1)
        return (1 - mean @ mean.T).cpu().numpy()
    if kind == "chamfer":
        rows = []
        for part in torch.arange(len(x), device=x.device).split(max(1, CHUNK // real.numel())):
            cost = 1 - torch.einsum("and,bmd->abnm", x[part], x)
            cost = cost.masked_fill(~real[None, :, None], torch.inf)
            best = cost.min(-1).values.masked_fill(~real[part, None], 0.0)
            rows.append(best.sum(-1) / videos.lengths[part, None])
        one = torch.cat(rows)
        return ((one + one.T) / 2).cpu().numpy()
    normalise: Literal["L+N", "sum"] = "L+N" if kind == "dtw" else "sum"
    found = pairs(
        videos.vectors, videos.vectors, kind, lengths_a=videos.lengths, lengths_b=videos.lengths,
        cost="cosine", normalise=normalise,
    )  # fmt: skip
    if kind == "otam":
        found = found / (videos.lengths[:, None] + videos.lengths)
    return found.cpu().numpy()


def draw_episodes(
    classes: Sequence[str],
    ways: int = 5,
    shots: int = 1,
    episodes: int = 10_000,
    *,
    within: Sequence[str] | None = None,
    apart: Sequence[str] | None = None,
    seed: int = 0,
) -> Episodes:
    """Random episodes over videos with `classes`. `within`: all classes of an episode are of one such group
    (the procedures of one task: near-identical classes). `apart`: support never shares this with the queries
    (a person). StepclipError where there are not enough classes or videos."""
    rng = np.random.default_rng(seed)
    names, of = np.unique(np.asarray(classes, dtype=str), return_inverse=True)
    group = _numbers(within, len(of))
    person = _numbers(apart, len(of))
    pools = []  # which videos ask, which answer: one pool for each group and person
    for g, p in sorted(set(zip(group.tolist(), person.tolist(), strict=True))):
        asks = (group == g) & (person == p)
        answers = (group == g) & (True if apart is None else person != p)
        asked, answered = (np.bincount(of[x], minlength=len(names)) for x in (asks, answers))
        usable = np.flatnonzero((asked > 0) & (answered >= shots + (apart is None)))
        if len(usable) >= ways >= 2:
            pools.append((asks, answers, usable))
    if not pools:
        raise StepclipError(
            f"{len(of)} videos of {len(names)} classes{', by group' * (within is not None)}",
            f"for {ways}-way {shots}-shot episodes, {max(ways, 2)} classes of more than {shots} videos",
        )
    sizes = np.array([len(usable) for _, _, usable in pools], float)
    counts = rng.multinomial(episodes, sizes / sizes.sum())
    drawn = [
        _of_pool(*pool, of, ways, shots, count, apart is not None, rng)
        for pool, count in zip(pools, counts.tolist(), strict=True)
        if count
    ]
    return Episodes(*(np.concatenate(parts) for parts in zip(*drawn, strict=True)))


def _numbers(names: Sequence[str] | None, count: int) -> np.ndarray:
    if names is None:
        return np.zeros(count, np.int64)
    return np.unique(np.asarray(names, dtype=str), return_inverse=True)[1]


def _of_pool(
    asks: np.ndarray,
    answers: np.ndarray,
    usable: np.ndarray,
    of: np.ndarray,
    ways: int,
    shots: int,
    count: int,
    split: bool,
    rng: np.random.Generator,
) -> Episodes:
    """Episodes whose queries are among `asks` and support among `answers`; `split`: those do not overlap."""
    queries, members = _members(of, asks, usable), _members(of, answers, usable)
    chosen = rng.random((count, len(usable))).argsort(1)[:, :ways]
    query, support = np.zeros((count, ways), np.int64), np.zeros((count, ways, shots), np.int64)
    for part in np.array_split(np.arange(count), -(-count * ways * members.shape[1] // CHUNK)):
        c = chosen[part]
        if split:
            query[part] = _some(queries[c], 1, rng)[..., 0]
            support[part] = _some(members[c], shots, rng)
        else:
            taken = _some(members[c], shots + 1, rng)
            query[part], support[part] = taken[..., 0], taken[..., 1:]
    return Episodes(query, support)


def _members(of: np.ndarray, among: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """(C, most) videos of each class, -1 beyond."""
    found = [np.flatnonzero(among & (of == c)) for c in classes]
    most = max(map(len, found))
    return np.stack([np.pad(x, (0, most - len(x)), constant_values=-1) for x in found])


def _some(videos: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """`count` different ones of each row of (..., most)."""
    keys = np.where(videos >= 0, rng.random(videos.shape), 2.0)
    return np.take_along_axis(videos, keys.argsort(-1)[..., :count], -1)


def few_shot(distances: np.ndarray, episodes: Episodes) -> FewShot:
    """Accuracy of naming each query by the nearest class; equal scores share the answer."""
    count, ways, shots = episodes.support.shape
    right = np.zeros(count)
    for part in np.array_split(np.arange(count), -(-count * ways * ways * shots // CHUNK)):
        query, support = episodes.query[part], episodes.support[part]
        scores = -distances[query[:, :, None, None], support[:, None]].mean(-1)  # (e, query, class)
        best = scores == scores.max(-1, keepdims=True)
        right[part] = (np.diagonal(best, axis1=1, axis2=2) / best.sum(-1)).mean(1)
    half = 1.96 * float(right.std(ddof=1)) / count**0.5 if count > 1 else float("nan")
    return FewShot(float(right.mean()), half, ways, shots, count)
