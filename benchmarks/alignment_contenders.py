"""Who is timed by bench_alignment.py: StepCLIP's doors, the libraries that are installed, and plain loops.

A contender gets the same numbers as all others in the form that suits it best, made beforehand, and gives
what it found for the problems that it was timed on, so that all can be compared.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import torch

from stepclip.train.alignment import dtw, monotone, pairs, soft_dtw

GAMMA, DIM = 0.1, 512
PEERS = ("tslearn", "pysdtw", "dtaidistance", "aeon")


@dataclass(frozen=True)
class Size:
    """All pairs of `videos` sequences of `t` rows with `others` sequences of `s` rows."""

    name: str
    what: str
    videos: int
    others: int
    t: int
    s: int

    @property
    def problems(self) -> int:
        return self.videos * self.others


SIZES = (
    Size("a", "64 x 64 videos x paragraphs, 32 frames, 12 sentences", 64, 64, 32, 12),
    Size("b", "32 x 32 videos x paragraphs, 128 frames, 16 sentences", 32, 32, 128, 16),
    Size("c", "8 x 16 videos x videos, 256 x 256 frames", 8, 16, 256, 256),
)


@dataclass
class Contender:
    """`run(n)` does n problems; it may be asked for fewer than there are. `kind`: stepclip, peer, loop."""

    name: str
    kind: str
    run: Callable[[int], Any]


class Problems:
    """Costs of one size, and the features that a hard value starts from."""

    def __init__(self, size: Size, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.size = size
        self.a = torch.randn(size.videos, size.t, DIM, generator=generator)
        self.b = torch.randn(size.others, size.s, DIM, generator=generator)
        # (videos, t, s, others): the layout that the one product of `pairs` leaves
        self.lanes = torch.rand(size.videos, size.t, size.s, size.others, generator=generator)
        self.lanes = self.lanes.permute(0, 3, 1, 2)
        self.cost = self.lanes.reshape(-1, size.t, size.s).contiguous()
        self.cost64 = self.cost.double().numpy()

    def pair(self, i: int) -> tuple[int, int]:
        return divmod(i, self.size.others)


def installed() -> dict[str, str]:
    """Versions of the peers that are here."""
    found = {}
    for name in PEERS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


# ---- soft-DTW, value and gradient, from a given cost


def soft_contenders(p: Problems) -> list[Contender]:
    ours = [
        Contender("StepCLIP, problem index innermost", "stepclip", partial(_soft, p.lanes)),
        Contender("StepCLIP, (B, T, S) contiguous", "stepclip", partial(_soft, p.cost)),
        Contender("StepCLIP, plain torch", "loop", partial(_soft_torch, p.cost)),
        Contender("torch, a loop over cells", "loop", partial(_soft_cells, p.cost)),
    ]
    here = installed()
    if "tslearn" in here:
        ours.append(Contender("tslearn", "peer", partial(_soft_tslearn, p.cost64)))
    if "pysdtw" in here:
        ours.append(
            Contender("pysdtw (pytorch-softdtw-cuda's CPU path)", "peer", partial(_soft_pysdtw, p.cost))
        )
    return ours


def _soft(cost: torch.Tensor, n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """All problems of whole groups, at least n: the layout does not let itself be cut anywhere."""
    part = cost[: max(1, n // cost.shape[1])] if cost.ndim == 4 else cost[:n]
    leaf = part.detach().requires_grad_()
    value = soft_dtw(leaf, GAMMA)
    value.sum().backward()
    return value.detach().flatten(), leaf.grad  # type: ignore[return-value]


def _soft_torch(cost: torch.Tensor, n: int) -> tuple[torch.Tensor, torch.Tensor]:
    leaf = cost[:n].detach().requires_grad_()
    value = soft_dtw(leaf, GAMMA, backend="torch")
    value.sum().backward()
    return value.detach(), leaf.grad  # type: ignore[return-value]


def _soft_cells(cost: torch.Tensor, n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The recurrence cell by cell, all problems at once, through autograd."""
    leaf = cost[:n].detach().requires_grad_()
    _, rows, columns = leaf.shape
    far = torch.full((len(leaf),), float("inf"))
    above = [torch.zeros(len(leaf)), *[far] * columns]
    for t in range(rows):
        here = [far]
        for s in range(columns):
            before = torch.stack([above[s], above[s + 1], here[s]], -1)
            here.append(leaf[:, t, s] - GAMMA * (before / -GAMMA).logsumexp(-1))
        above = here
    above[-1].sum().backward()
    return above[-1].detach(), leaf.grad  # type: ignore[return-value]


def _soft_tslearn(cost: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    from tslearn.metrics.soft_dtw_fast import _njit_soft_dtw, _njit_soft_dtw_grad

    values, gradients = np.empty(n), np.empty(cost[:n].shape)
    rows, columns = cost.shape[1:]
    padded, total, expected = (np.zeros((rows + k, columns + k)) for k in (1, 2, 2))
    for i in range(n):
        _njit_soft_dtw(cost[i], total, GAMMA)
        values[i] = total[rows, columns]
        padded[:rows, :columns] = cost[i]
        expected[:] = 0
        _njit_soft_dtw_grad(padded, total, expected, GAMMA)
        gradients[i] = expected[1:-1, 1:-1]
    return values, gradients


def _soft_pysdtw(cost: torch.Tensor, n: int) -> tuple[torch.Tensor, torch.Tensor]:
    from pysdtw import SoftDTW

    leaf = cost[:n].detach().requires_grad_()
    empty = torch.zeros(n, leaf.shape[1], 1), torch.zeros(n, leaf.shape[2], 1)
    value = SoftDTW(gamma=GAMMA, dist_func=lambda x, y: leaf, use_cuda=False)(*empty)
    value.sum().backward()
    return value.detach(), leaf.grad  # type: ignore[return-value]


# ---- hard values of squared distances, from features


def hard_contenders(p: Problems) -> list[Contender]:
    def ours(n: int) -> torch.Tensor:
        return pairs(p.a[: max(1, n // len(p.b))], p.b, "dtw", cost="squared").flatten()

    found = [
        Contender("StepCLIP", "stepclip", ours),
        Contender("torch, the matrix product alone", "bound", partial(_product, p)),
    ]
    a, b = p.a.double().numpy(), p.b.double().numpy()
    if "dtaidistance" in installed():
        found.append(Contender("dtaidistance", "peer", partial(_dtaidistance, p, a, b)))
    if "aeon" in installed():
        channels = tuple(np.ascontiguousarray(x.transpose(0, 2, 1)) for x in (a, b))
        found.append(Contender("aeon", "peer", partial(_aeon, p, *channels)))
    if "tslearn" in installed():
        found.append(Contender("tslearn", "peer", partial(_tslearn, p, a, b)))
    return found


def _product(p: Problems, n: int) -> None:
    part = p.a[: max(1, n // len(p.b))]
    part.reshape(-1, DIM) @ p.b.reshape(-1, DIM).T


def _dtaidistance(p: Problems, a: np.ndarray, b: np.ndarray, n: int) -> np.ndarray:
    from dtaidistance import dtw_ndim

    return np.array([dtw_ndim.distance_fast(a[i], b[j]) ** 2 for i, j in map(p.pair, range(n))])


def _aeon(p: Problems, a: np.ndarray, b: np.ndarray, n: int) -> np.ndarray:
    from aeon.distances import dtw_distance

    return np.array([dtw_distance(a[i], b[j]) for i, j in map(p.pair, range(n))])


def _tslearn(p: Problems, a: np.ndarray, b: np.ndarray, n: int) -> np.ndarray:
    from tslearn.metrics import dtw as tslearn_dtw

    return np.array([tslearn_dtw(a[i], b[j]) ** 2 for i, j in map(p.pair, range(n))])


# ---- hard values of a given cost, and labels


def cost_contenders(p: Problems) -> list[Contender]:
    return [
        Contender("StepCLIP, problem index innermost", "stepclip", lambda n: dtw(p.lanes).flatten()),
        Contender("StepCLIP, (B, T, S) contiguous", "stepclip", lambda n: dtw(p.cost[:n])),
        Contender("StepCLIP, plain torch", "loop", lambda n: dtw(p.cost[:n], backend="torch")),
    ]


def label_contenders(p: Problems) -> list[Contender]:
    emission = p.cost.add(1e-3).log()
    lanes = p.lanes.add(1e-3).log()
    numpy = emission.double().numpy()
    return [
        Contender("StepCLIP, problem index innermost", "stepclip", lambda n: monotone(lanes).flatten(0, -2)),
        Contender("StepCLIP, (B, T, S) contiguous", "stepclip", lambda n: monotone(emission[:n])),
        Contender("StepCLIP, plain torch", "loop", lambda n: monotone(emission[:n], backend="torch")),
        Contender("numpy Viterbi, sample by sample", "loop", partial(_viterbi, numpy)),
    ]


def _viterbi(emission: np.ndarray, n: int) -> np.ndarray:
    """The textbook form, as WeakSVR's: a dense transition matrix, one sample after the other."""
    rows, columns = emission.shape[1:]
    allowed = np.where(np.triu(np.ones((columns, columns))), 0.0, -np.inf)  # from j (row) to k (column)
    out = np.empty((n, rows), np.int64)
    for i in range(n):
        best, back = emission[i, 0], np.empty((rows, columns), np.int64)
        for t in range(1, rows):
            reached = best[:, None] + allowed
            back[t] = reached.argmax(0)
            best = reached[back[t], np.arange(columns)] + emission[i, t]
        out[i, -1] = best.argmax()
        for t in range(rows - 1, 0, -1):
            out[i, t - 1] = back[t, out[i, t]]
    return out
