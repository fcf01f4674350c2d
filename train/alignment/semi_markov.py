"""Ordered steps that last, with pauses between them: the posteriors of a semi-Markov model.

A video is a script's steps, one after the other; step k takes d frames with probability p_k(d), and before
the first, between two and after the last there may be frames of rest. All ways are summed in log space,
O(T S D); one loop over the frames, everything else in tensor operations.

    ended[t, k+1]   = log sum_d  ready[t-d, k] + log p_k(d) + sum of log_p[t-d .. t-1, k]
    resting[t, k]   = log (ended[t-1, k] pause + resting[t-1, k] longer) + rest[t-1]
    ready[t, k]     = log (ended[t, k] (1 - pause) + resting[t, k] (1 - longer))

after Ferguson 1980 (explicit durations); in weakly supervised segmentation, Richard et al. 2018.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...cache.errors import StepclipError


@dataclass(frozen=True)
class Segments:
    """`value` (B,) log of the sum over all ways, -inf where there is none; `steps` (B, T, S) the probability
    of each step at each frame; `rests` (B, T, S + 1) of rest after so many steps. Together each row within
    the length sums to 1; zeros beyond, and where there is no way."""

    value: Tensor
    steps: Tensor
    rests: Tensor


@torch.no_grad()
def semi_markov(
    log_p: Tensor,
    rest: Tensor,
    log_duration: Tensor,
    rows: Tensor,
    steps: Tensor,
    *,
    pause: float = 0.5,
    longer: float = 0.6,
) -> Segments:
    """The posteriors of frames `log_p` (B, T, S), the log-likelihood of each under each step.

    `rest` (B, T) that under rest; `log_duration` (B, S, D) log-probability of lasting 1 .. D frames; lengths
    `rows` and `steps` (B,). `pause`: the probability of rest after a step (and before the first); `longer`:
    of one more frame of it. A video with fewer frames than steps has no way. Computed in float64.
    """
    b, t, s = log_p.shape
    if rest.shape != (b, t) or log_duration.shape[:2] != (b, s):
        raise StepclipError(
            f"log_p {tuple(log_p.shape)}, rest {tuple(rest.shape)}, log_duration {tuple(log_duration.shape)}",
            "(B, T, S), (B, T), (B, S, D)",
        )
    odds = torch.tensor([1 - pause, pause, longer, 1 - longer], dtype=torch.float64, device=log_p.device)
    none, enter, stay, leave = odds.log()
    place = torch.arange(max(t, s) + 1, device=log_p.device)
    real = (place[:t] < rows[:, None])[..., None]
    till = torch.zeros(b, t + 1, s, dtype=torch.float64, device=log_p.device)  # sums of log_p up to a frame
    till[:, 1:] = torch.where(real, log_p.double(), 0.0).cumsum(1)
    rest = torch.where(real[..., 0], rest.double(), 0.0)[..., None]
    lasts = log_duration.double().flip(2).transpose(1, 2)  # (B, D, S), the longest first
    reach = lasts.shape[1]

    ended = torch.full((b, t + 1, s + 1), -torch.inf, dtype=torch.float64, device=log_p.device)
    resting, ready = ended.clone(), ended.clone()
    ended[:, 0, 0] = 0.0
    for now in range(t + 1):
        if now:
            window = slice(max(0, now - reach), now)
            began = ready[:, window, :s] - till[:, window]
            ended[:, now, 1:] = till[:, now] + _total(began + lasts[:, reach - (now - window.start) :])
            resting[:, now] = (
                _either(ended[:, now - 1] + enter, resting[:, now - 1] + stay) + rest[:, now - 1]
            )
        ready[:, now] = _either(ended[:, now] + none, resting[:, now] + leave)
    every = torch.arange(b, device=log_p.device)
    value = ready[every, rows, steps]

    after = ended.new_full(ended.shape, -torch.inf)  # what comes after: ended, resting, ready
    after_rest, after_ready = after.clone(), after.clone()
    lasts = lasts.flip(1)
    last = (place[: t + 1] == rows[:, None])[..., None] & (place[: s + 1] == steps[:, None])[:, None]
    for now in range(t, -1, -1):
        if now < t:
            window = slice(now + 1, min(t, now + reach) + 1)
            ends = after[:, window, 1:] + till[:, window]
            after_ready[:, now, :s] = _total(ends + lasts[:, : window.stop - window.start]) - till[:, now]
        after_ready[:, now] = torch.where(last[:, now], 0.0, after_ready[:, now])
        on = after_rest[:, now + 1] + rest[:, now] if now < t else after_rest[:, now]
        after[:, now] = _either(after_ready[:, now] + none, on + enter)
        after_rest[:, now] = _either(after_ready[:, now] + leave, on + stay)

    whole = torch.where(value > -torch.inf, value, 0.0)[:, None, None]
    inside = real & (place[:s] < steps[:, None])[:, None] & (value > -torch.inf)[:, None, None]
    begins = (ready[..., :s] + after_ready[..., :s] - whole).exp().cumsum(1)
    finished = (ended[..., 1:] + after[..., 1:] - whole).exp().cumsum(1)
    shown = torch.where(inside, (begins - finished)[:, :t], 0.0).clamp(min=0)
    rests = (resting[:, 1:] + after_rest[:, 1:] - whole).exp()
    rests = torch.where(real & (value > -torch.inf)[:, None, None], rests, 0.0)
    return Segments(value.to(log_p.dtype), shown.to(log_p.dtype), rests.to(log_p.dtype))


def log_normal_durations(mean: Tensor, spread: float, longest: int) -> Tensor:
    """Log-probabilities (..., longest) of 1 .. longest frames: log-normal about `mean` (...), `spread` of the
    logarithm, which for small ones is the share by which a duration strays."""
    frames = torch.arange(1, longest + 1, dtype=torch.float64, device=mean.device)
    off = (frames.log() - mean.double().clamp(min=0.5).log()[..., None]) / spread
    return (-0.5 * off.square()).log_softmax(-1)


def _either(a: Tensor, b: Tensor) -> Tensor:
    return torch.logaddexp(a, b)


def _total(x: Tensor) -> Tensor:
    return x.logsumexp(1)
