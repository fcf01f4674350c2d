"""The labels of WeakSVR's `viterbi`, signs and all: what the product of raw cosines does is kept.

```
T1[t, k] = max over j of T1[t-1, j] * A[j, k] * C[t, k],   A = 1/K where j <= k, else 0
T2[t, k] = the lowest j of the largest T1[t-1, j] * A[j, k]
```
With a positive matrix this is the monotone path of the largest product. With a negative cosine it is not: a
negative product loses against the 0 of a forbidden transition, so that paths go backward or collapse
(`methods/weaksvr.md` 7.2, 14 % of random cases). The dense K x K maximum is here a running maximum and
minimum with one 0 beside it: O(T K), the same numbers to the last bit (float64, ties to the lowest j).
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor


@torch.no_grad()
def viterbi_official(cosines: Tensor) -> Tensor:
    """(B, T, K) -> labels int64 (B, T) in 0..K-1, not always in order. No padding is known here: none is
    masked. (The released code's labels wrap at 256; these do not.)"""
    if cosines.device.type == "cpu":
        out = np.empty(cosines.shape[:2], np.int64)
        _kernel()(cosines.detach().double().contiguous().numpy(), out)
        return torch.from_numpy(out)
    return viterbi_on_device(cosines)


def viterbi_on_device(cosines: Tensor) -> Tensor:
    """The same in torch alone, for a GPU: T steps over the whole batch, the host never waits."""
    emission = cosines.double()
    k = emission.shape[2]
    column = torch.arange(k, device=cosines.device)
    open_end = column < k - 1  # there is a forbidden j > k, whose 0 takes part
    score = emission[:, 0] * (1.0 / k)
    back = []
    for t in range(1, emission.shape[1]):
        product = score * (1.0 / k)
        high, low = product.cummax(1).values, product.cummin(1).values
        before = torch.cat([torch.full_like(high[:, :1], -torch.inf), high[:, :-1]], 1)
        origin = torch.where(product > before, column, 0).cummax(1).values
        back.append(torch.where(open_end & (high < 0), column + 1, origin))
        high = torch.where(open_end, high.clamp(min=0), high)
        low = torch.where(open_end, low.clamp(max=0), low)
        score = emission[:, t] * torch.where(emission[:, t] >= 0, high, low)
    state = score.argmax(1)
    labels = [state]
    for origin in reversed(back):
        state = origin.gather(1, state[:, None])[:, 0]
        labels.append(state)
    return torch.stack(labels[::-1], 1)


@lru_cache(maxsize=1)
def _kernel() -> Any:
    """Compiled on first use, kept on disk."""
    import numba

    @numba.njit(cache=True, nogil=True)
    def labels(emission: np.ndarray, out: np.ndarray) -> None:
        batch, steps, k = emission.shape
        score, fresh = np.empty(k), np.empty(k)
        back = np.empty((steps, k), np.int64)
        for b in range(batch):
            for j in range(k):
                score[j] = emission[b, 0, j] * (1.0 / k)
            for t in range(1, steps):
                high, low, origin = -np.inf, np.inf, 0
                for j in range(k):
                    product = score[j] * (1.0 / k)
                    if product > high:
                        high, origin = product, j
                    low = min(low, product)
                    best, least, came = high, low, origin
                    if j < k - 1:
                        if best < 0:
                            best, came = 0.0, j + 1
                        least = min(least, 0.0)
                    e = emission[b, t, j]
                    fresh[j] = e * (best if e >= 0 else least)
                    back[t, j] = came
                score, fresh = fresh, score
            state = 0
            for j in range(1, k):
                if score[j] > score[state]:
                    state = j
            for t in range(steps - 1, -1, -1):
                out[b, t] = state
                if t > 0:
                    state = back[t, state]

    return labels
