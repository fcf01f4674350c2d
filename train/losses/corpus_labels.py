"""Pseudo-labels learned from the whole training set at once: other videos tell how a sentence looks.

A semi-Markov model of the set, fitted by expectation-maximisation, with no gradient and in seconds:

- every sentence has two Gaussians, for its first and its second part, over what frames show and how they
  change; rest has one. All share one covariance, so that the densities are those of linear discriminant
  analysis;
- a step lasts as long as its sentence does elsewhere, in the video's own tempo; before, between and after
  steps there may be rest (`alignment/semi_markov.py`);
- steps come in the order of the script, and each is there.

Frame-wise labels by a script's order come from weakly supervised segmentation: Kuehne, Richard and Gall 2017
(alternating alignment and training), Richard et al. 2018 (lengths per class). Here the text features of the
sentences give a start, and stay in as a second opinion. Only training videos with their scripts are looked
at, no times.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ..alignment import Segments, log_normal_durations, monotone_posteriors, semi_markov
from .frame_sentence import frame_log_p
from .unit import unit

CHUNK = 64  # videos at a time
BYTES = 30  # of memory, for each number of the features


@dataclass(frozen=True)
class CorpusFit:
    """How the set is fitted. Tuned on the bench of seed 7; each may be half or twice that at little cost.

    `parts`: of a sentence, one after the other; `spread`: how far a step's duration strays from what is
    expected, as a share of it; `pause`, `longer`: probability of rest between two parts, and of one more
    frame of it; `rest`: the share of a video that is expected to be rest; `still`: the share of all frames,
    those that change least, that start as rest; `temper`: weight of a frame's density, as neighbouring frames
    say the same twice; `text`: weight of the text, the log-softmax of scale cos; `shrink`: of the covariance
    towards a sphere; `least_seen`, `least_lasted`: frames and videos in which every part is taken to have
    been seen besides, looking and lasting like the average; `smooth`: of the frames, in rows.
    """

    rounds: int = 6
    parts: int = 2
    spread: float = 0.28
    pause: float = 0.5
    longer: float = 0.6
    rest: float = 0.25
    still: float = 0.25
    temper: float = 0.2
    text: float = 0.4
    scale: float = 1 / 0.07
    shrink: float = 0.1
    least_seen: float = 12.0
    least_lasted: float = 3.0
    smooth: float = 0.8


@torch.no_grad()
def corpus_labels(
    features: Tensor,
    offsets: Tensor,
    scripts: Tensor,
    lengths: Tensor,
    sentences: Tensor,
    fit: CorpusFit | None = None,
) -> Tensor:
    """The probability of each sentence of its script at each frame: (N, K), rows that sum to 1.

    `features` (N, D) raw frames of V videos, video v in rows `offsets[v]` to `offsets[v + 1]` (V + 1,);
    `scripts` (V, K) int64 places in `sentences` (C, E), the first `lengths` (V,) of each row count. Without
    E = D the text says nothing, and all that is known at the start is that steps last alike. Takes some
    `BYTES` D bytes of memory a frame.
    """
    fit = fit or CorpusFit()
    parts = torch.arange(fit.parts, device=scripts.device)
    scripts, lengths = (scripts[..., None] * fit.parts + parts).flatten(1), lengths * fit.parts
    videos = _Videos(offsets, scripts, lengths)
    show, change, next_change = describe(features, videos.own, offsets, fit.smooth)
    x = torch.cat([show, change, next_change], 1)
    x = x - x.mean(0)
    text = unit(sentences.float()) if sentences.shape[1] == features.shape[1] else None
    labels = x.new_zeros(len(x), scripts.shape[1])
    lasts = x.new_ones(len(sentences) * fit.parts)
    resting = x.new_zeros(len(scripts))  # the share of each video; at first nobody knows what rest looks like
    spread = fit.spread * fit.parts**0.5  # of a part, so that the whole strays as told
    model: _Gaussians | None = None
    for step in range(fit.rounds + 1):
        found = _Counts(len(lasts), x)
        for part, rows, inside in videos.parts():
            frames, script, size, count = x[rows], scripts[part], lengths[part], inside.sum(1)
            log_p = frames.new_zeros(*rows.shape, scripts.shape[1])
            rest = frames.new_full(rows.shape, -1e6)
            if model is not None:
                log_p, rest = (fit.temper * density for density in model.log_density(frames, script))
            if text is not None:
                said = frame_log_p(show[rows], text[script // fit.parts], size, fit.scale)
                log_p = log_p + fit.text * said.masked_fill(said == -torch.inf, 0.0)
                rest = rest - fit.text * (size / fit.parts).log()[:, None]  # as a text that fits no better
            expected = _real(script, size) * lasts[script]
            tempo = count * (1 - resting[part]) / expected.sum(1)
            longest = 3 + int(5 * (count / size).max())
            lasting = log_normal_durations(expected * tempo[:, None], spread, longest)
            way = semi_markov(log_p, rest, lasting, count, size, pause=fit.pause, longer=fit.longer)
            shown = _any_way(way, log_p, count, size)
            labels[rows[inside]] = _shared_out(shown, way.rests, size)[inside]
            resting[part] = (fit.rest + way.rests.sum((1, 2)) / count) / 2
            found.add(frames, script, size, shown, inside, tempo)
        if step < fit.rounds:
            if model is None:
                moved = change.norm(dim=1)
                found.rest(x[moved <= moved.quantile(fit.still)])
                resting.fill_(fit.rest)
            model = _Gaussians.of(found, x, fit)
            lasts = found.durations(fit.least_lasted)
    return labels.view(len(labels), -1, fit.parts).sum(2)


def _real(script: Tensor, size: Tensor) -> Tensor:
    return torch.arange(script.shape[1], device=script.device) < size[:, None]


def _any_way(way: Segments, log_p: Tensor, count: Tensor, size: Tensor) -> Tensor:
    """The posteriors of the steps; of a video with fewer frames than parts, which has no way, those of ways
    that leave some out."""
    if bool((way.value > -torch.inf).all()):
        return way.steps
    free = monotone_posteriors(log_p, 1.0, (count, size), check=False).weights
    return torch.where((way.value > -torch.inf)[:, None, None], way.steps, free)


def _shared_out(steps: Tensor, rests: Tensor, size: Tensor) -> Tensor:
    """Rest (B, T, S + 1) counts half as the step before it and half as the one after: (B, T, S)."""
    place = torch.arange(steps.shape[2], device=steps.device)
    after = rests[..., :-1] * torch.where(place == 0, 1.0, 0.5)
    before = rests[..., 1:] * torch.where(place == size[:, None] - 1, 1.0, 0.5)[:, None]
    return steps + (after + before) * (place < size[:, None])[:, None]


def describe(features: Tensor, own: Tensor, offsets: Tensor, spread: float) -> tuple[Tensor, Tensor, Tensor]:
    """What frames show, how they change, and how the next differs: each (N, D), of unit features less the
    video's mean, the first two smoothed over about `spread` rows. `own` (N,) the video of each row."""
    x = unit(features.float())
    size = (offsets[1:] - offsets[:-1]).to(x.dtype)
    mean = x.new_zeros(len(size), x.shape[1]).index_add_(0, own, x) / size[:, None]
    x = x - mean[own]

    def at(y: Tensor, apart: int) -> Tensor:
        row = torch.arange(len(y), device=y.device) + apart
        return y[torch.minimum(torch.maximum(row, offsets[own]), offsets[own + 1] - 1)]

    def smoothed(y: Tensor, by: float) -> Tensor:
        reach = math.ceil(3 * by)
        near = [math.exp(-0.5 * (apart / by) ** 2) for apart in range(-reach, reach + 1)]
        out = torch.zeros_like(y)
        for apart, weight in zip(range(-reach, reach + 1), near, strict=True):
            out += weight / sum(near) * at(y, apart)
        return out

    slow = smoothed(x, 1.25 * spread)
    return smoothed(x, spread), at(slow, 1) - at(slow, -1), at(x, 1) - x


class _Videos:
    """Rows of the videos, some videos at a time, filled up with their last row."""

    def __init__(self, offsets: Tensor, scripts: Tensor, lengths: Tensor) -> None:
        self.offsets, self.sizes = offsets, offsets[1:] - offsets[:-1]
        every = torch.arange(len(scripts), device=offsets.device)
        self.own = torch.repeat_interleave(every, self.sizes)

    def parts(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """`part` videos, `rows` (B, T) int64 of their frames, `inside` (B, T) which of them are real."""
        order = self.sizes.argsort()  # videos of like length together: little is filled up
        for part in order.split(CHUNK):
            size = self.sizes[part]
            place = torch.arange(int(size.max()), device=size.device)
            inside = place < size[:, None]
            yield part, self.offsets[part, None] + torch.minimum(place, size[:, None] - 1), inside


class _Counts:
    """What one round saw of each part of a sentence, and, in the last place, of rest."""

    def __init__(self, sentences: int, like: Tensor) -> None:
        self.sum = like.new_zeros(sentences + 1, like.shape[1])
        self.frames = like.new_zeros(sentences + 1)
        self.lasted, self.seen = like.new_zeros(sentences), like.new_zeros(sentences)

    def add(
        self, x: Tensor, script: Tensor, size: Tensor, shows: Tensor, inside: Tensor, tempo: Tensor
    ) -> None:
        """x (B, T, D); `shows` (B, T, K) how much each frame is of each part; `tempo` (B,) the frames of a
        part that lasts 1."""
        real = _real(script, size)
        self.sum.index_add_(0, script[real], (shows.mT @ x)[real])
        self.frames.index_add_(0, script[real], shows.sum(1)[real])
        rest = (1 - shows.sum(2)) * inside
        self.sum[-1] += (rest[..., None] * x).sum((0, 1))
        self.frames[-1] += rest.sum()
        lasted = shows.sum(1) / tempo[:, None]
        self.lasted.index_add_(0, script[real], lasted[real])
        self.seen.index_add_(0, script[real], torch.ones_like(lasted)[real])

    def rest(self, x: Tensor) -> None:
        """Rest looks like the mean of x (n, D)."""
        self.sum[-1], self.frames[-1] = x.sum(0), len(x)

    def durations(self, least: float) -> Tensor:
        """What each part lasts, over what all do: (C,)."""
        lasts = (self.lasted + least) / (self.seen + least)
        return lasts / lasts.mean()


@dataclass(frozen=True)
class _Gaussians:
    """log p(x | c) = x . slope_c + level_c, up to what all c share; rest is the last."""

    slope: Tensor
    level: Tensor

    @classmethod
    def of(cls, found: _Counts, x: Tensor, fit: CorpusFit) -> _Gaussians:
        frames = found.frames[:, None]
        mean = found.sum / (frames + fit.least_seen)
        within = (x.mT @ x - (mean * frames).mT @ mean) / len(x)
        size, direction = torch.linalg.eigh((within + within.mT).double() / 2)
        size = size.clamp(min=0)
        size = (1 - fit.shrink) * size + fit.shrink * size.mean() + 1e-12
        slope = (((mean.double() @ direction) / size) @ direction.mT).to(x.dtype)
        return cls(slope, -0.5 * (mean * slope).sum(1))

    def log_density(self, x: Tensor, script: Tensor) -> tuple[Tensor, Tensor]:
        """x (B, T, D), script (B, K) -> of its parts of sentences (B, T, K), and of rest (B, T)."""
        rest = x @ self.slope[-1] + self.level[-1]
        return x @ self.slope[script].mT + self.level[script][:, None], rest
