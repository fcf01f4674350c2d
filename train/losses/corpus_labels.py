"""Pseudo-labels learned from the whole training set at once: other videos tell how a sentence looks.

A hidden Markov model of the set, fitted by expectation-maximisation, with no gradient and in seconds:

- every sentence has two Gaussians, for its first and its second part, over what frames show and how they
  change; all share one covariance, so that the densities are those of linear discriminant analysis;
- a frame of a step may also be background: a hand at rest looks the same in every step;
- a step lasts as long as its sentence does elsewhere (`alignment/durations.py`), in the video's own tempo;
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

from ..alignment import duration_posteriors
from .frame_sentence import frame_log_p
from .unit import unit

CHUNK = 64  # videos at a time


@dataclass(frozen=True)
class CorpusFit:
    """How the set is fitted. Tuned on the bench of seed 7, where each but `spread` may be half or twice that.

    `parts`: of a sentence, one after the other; `spread`: how far a step's duration strays from what is
    expected, as a share of it; `temper`: weight of a frame's density, as neighbouring frames say the same
    twice; `text`: weight of the text, the log-softmax of scale cos; `background`: share of the frames of a
    step that show nothing of it; `shrink`: of the covariance towards a sphere; `least_seen`, `least_lasted`:
    frames and videos in which every part is taken to have been seen besides, looking and lasting like the
    average; `still`: share of the frames that start as background; `smooth`: of the frames, in rows.
    """

    rounds: int = 6
    parts: int = 2
    spread: float = 0.33
    temper: float = 0.2
    text: float = 0.4
    scale: float = 1 / 0.07
    background: float = 0.3
    shrink: float = 0.1
    least_seen: float = 12.0
    least_lasted: float = 3.0
    still: float = 0.25
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
    E = D the text says nothing, and all that is known at the start is that steps last alike.
    """
    fit = fit or CorpusFit()
    # a step of m / least rows in m copies strays by sqrt((1 - least) / m) of itself
    least = 1 / (1 + fit.spread**2 * len(features) / int(lengths.sum()))
    scripts = (scripts[..., None] * fit.parts + torch.arange(fit.parts, device=scripts.device)).flatten(1)
    lengths = lengths * fit.parts
    videos = _Videos(offsets, scripts, lengths)
    show, change, next_change = describe(features, videos.own, offsets, fit.smooth)
    x = torch.cat([show, change, next_change], 1)
    x = x - x.mean(0)
    text = unit(sentences.float()) if sentences.shape[1] == features.shape[1] else None
    labels = x.new_zeros(len(x), scripts.shape[1])
    lasts = x.new_ones(len(sentences) * fit.parts)
    model: _Gaussians | None = None
    for step in range(fit.rounds + 1):
        found = _Counts(len(lasts), x)
        for part, rows, inside in videos.parts():
            frames, script, size = x[rows], scripts[part], lengths[part]
            log_p = frames.new_zeros(*rows.shape, scripts.shape[1])
            if text is not None:
                log_p = fit.text * frame_log_p(show[rows], text[script // fit.parts], size, fit.scale)
                log_p = log_p.masked_fill(log_p == -torch.inf, 0.0)
            doing = torch.ones_like(log_p)
            if model is not None:
                seen, doing = model.look(frames, script)
                log_p = log_p + seen
            posterior = duration_posteriors(log_p, lasts[script], inside.sum(1), size, least)
            labels[rows[inside]] = posterior[inside]
            found.add(frames, script, size, posterior * doing, inside, posterior.sum(1), lasts)
        if step < fit.rounds:
            if model is None:  # what hardly changes starts as the background
                moved = change.norm(dim=1)
                found.rest(x[moved <= moved.quantile(fit.still)])
            model = _Gaussians.of(found, x, fit)
            lasts = found.durations(fit.least_lasted)
    return labels.view(len(labels), -1, fit.parts).sum(2)


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
    """What one round saw of each sentence, and, in the last place, of the background."""

    def __init__(self, sentences: int, like: Tensor) -> None:
        self.sum = like.new_zeros(sentences + 1, like.shape[1])
        self.frames = like.new_zeros(sentences + 1)
        self.lasted, self.seen = like.new_zeros(sentences), like.new_zeros(sentences)

    def add(
        self,
        x: Tensor,
        script: Tensor,
        size: Tensor,
        shows: Tensor,
        inside: Tensor,
        lasted: Tensor,
        lasts: Tensor,
    ) -> None:
        """x (B, T, D); `shows` (B, T, K) how much a frame shows of each step; `lasted` (B, K) in frames."""
        real = torch.arange(script.shape[1], device=script.device) < size[:, None]
        shows = shows * inside[..., None] * real[:, None]
        self.sum.index_add_(0, script[real], (shows.mT @ x)[real])
        self.frames.index_add_(0, script[real], shows.sum(1)[real])
        rest = (1 - shows.sum(2)) * inside
        self.sum[-1] += (rest[..., None] * x).sum((0, 1))
        self.frames[-1] += rest.sum()
        expected = lasts[script] * real
        tempo = inside.sum(1) / expected.sum(1)
        self.lasted.index_add_(0, script[real], (lasted / tempo[:, None])[real])
        self.seen.index_add_(0, script[real], torch.ones_like(lasted)[real])

    def rest(self, x: Tensor) -> None:
        """The background looks like the mean of x (n, D)."""
        self.sum[-1], self.frames[-1] = x.sum(0), len(x)

    def durations(self, least: float) -> Tensor:
        """What a sentence lasts, over what all do: (C,)."""
        lasts = (self.lasted + least) / (self.seen + least)
        return lasts / lasts.mean()


@dataclass(frozen=True)
class _Gaussians:
    """log p(x | c) = x . slope_c + level_c, up to what all c share; the background is the last."""

    slope: Tensor
    level: Tensor
    fit: CorpusFit

    @classmethod
    def of(cls, found: _Counts, x: Tensor, fit: CorpusFit) -> _Gaussians:
        frames = found.frames[:, None]
        mean = found.sum / (frames + fit.least_seen)
        within = (x.mT @ x - (mean * frames).mT @ mean) / len(x)
        size, direction = torch.linalg.eigh((within + within.mT).double() / 2)
        size = size.clamp(min=0)
        size = (1 - fit.shrink) * size + fit.shrink * size.mean() + 1e-12
        slope = (((mean.double() @ direction) / size) @ direction.mT).to(x.dtype)
        return cls(slope, -0.5 * (mean * slope).sum(1), fit)

    def look(self, x: Tensor, script: Tensor) -> tuple[Tensor, Tensor]:
        """x (B, T, D), script (B, K) -> (B, T, K): the log-density of a frame of each step, be it of the
        sentence or of the background; and how likely it is of the sentence."""
        f = self.fit
        step = f.temper * (x @ self.slope[script].mT + self.level[script][:, None])
        rest = f.temper * (x @ self.slope[-1] + self.level[-1])[..., None]
        step, rest = step + math.log(1 - f.background), rest + math.log(f.background)
        return torch.logaddexp(step, rest), (step - rest).sigmoid()
