"""One training step: gather, forward, losses, backward, clip, AdamW, average. Nothing in it waits for the
device.

What a step needs from the host (its part of the plan, the learning rate) comes as tensors in the same places
every time, and what it leaves (sums of losses, the first bad step) stays on the device until it is read. So a
step can be recorded once as a CUDA graph and replayed.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .method import Forward, Inputs, Method

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from .method import Embedder
    from .recipe import Recipe

_WARM = 3  # steps in the ordinary way before one is recorded: allocations and libraries settle


class Step:
    """Calls advance the method's model by one step on its `inputs`, that step's part of the plan."""

    def __init__(self, recipe: Recipe, method: Method, fabric: Fabric) -> None:
        self.recipe, self.method, self.fabric = recipe, method, fabric
        model, self.device = method.model, method.device
        self.model = model
        self.weights: list[Tensor] = [p for p in model.parameters() if p.requires_grad]
        self.graphed = recipe.train.cuda_graph and self.device.type == "cuda" and fabric.world_size == 1
        optimiser = make_optimiser(recipe, model, capturable=self.graphed)
        compiled: Any = torch.compile(model) if recipe.train.compile else model
        self.forward, self.optimiser = fabric.setup(compiled, optimiser)
        self.average = [p.detach().clone() for p in self.weights] if recipe.optim.ema else []
        self.teacher = self._teacher() if method.teacher else None
        self.parts = ("loss", *method.parts)
        self._rate = torch.zeros((), device=self.device)
        self._blend = torch.zeros((), device=self.device)
        self._sums = torch.zeros(len(self.parts) + 1, device=self.device)
        self._bad = torch.full((), -1, dtype=torch.int64, device=self.device)
        self._at = torch.zeros((), dtype=torch.int64, device=self.device)
        self._since = 0
        self._seen = 0
        self._graph: Any = None
        self._inputs: Inputs = ()

    def _teacher(self) -> Forward:
        """A second model whose weights are the averages themselves, not copies of them; it learns nothing."""
        teacher = copy.deepcopy(self.model).requires_grad_(False).eval()
        names = [name for name, p in self.model.named_parameters() if p.requires_grad]
        theirs = dict(teacher.named_parameters())
        for name, mean in zip(names, self.average, strict=True):
            theirs[name].data = mean

        @torch.no_grad()
        def answer(*fed: Any) -> Any:
            with self.fabric.autocast():
                return teacher(*fed)

        return answer

    def __call__(self, inputs: Inputs, rate: float, step: int) -> None:
        """`rate` the learning rate, `step` counted from 0."""
        # short runs: no memory of the start
        decay = min(self.recipe.optim.ema, (1 + step) / (10 + step))
        self._blend.fill_(1 - decay)
        self._at.fill_(step)
        if self.graphed:
            self._rate.fill_(rate)
            self._replay(inputs)
        else:
            for group in self.optimiser.param_groups:
                group["lr"] = rate
            self._advance(inputs)
        self._since += 1

    def _replay(self, inputs: Inputs) -> None:
        if not self._inputs:
            self._inputs = tuple(x.clone() for x in inputs)
            for group in self.optimiser.param_groups:
                group["lr"] = self._rate
        for kept, new in zip(self._inputs, inputs, strict=True):
            kept.copy_(new)
        if self._graph is not None:
            self._graph.replay()
            return
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            self._advance(self._inputs)
        torch.cuda.current_stream().wait_stream(side)
        self._seen += 1
        if self._seen == _WARM:
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph):  # recorded, not run: the next call replays it
                self._advance(self._inputs)

    def _advance(self, inputs: Inputs) -> None:
        recipe = self.recipe
        self.optimiser.zero_grad(set_to_none=True)
        terms = self.method.terms(
            self.forward,
            inputs,
            teacher=self.teacher,
            rank=self.fabric.global_rank,
            world=self.fabric.world_size,
        )
        self.fabric.backward(terms["loss"])
        self.method.after_backward()
        scaler = getattr(self.fabric.strategy.precision, "scaler", None)
        if scaler is not None:
            scaler.unscale_(self.optimiser.optimizer)
        grads = [p.grad for p in self.weights if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(grads)
        if recipe.optim.clip:
            torch.nn.utils.clip_grads_with_norm_(self.weights, recipe.optim.clip, norm)
        self.optimiser.step()
        self.method.after_step()
        if self.average:
            with torch.no_grad():
                apart = list(torch._foreach_sub(self.weights, self.average))
                torch._foreach_mul_(apart, self._blend)
                torch._foreach_add_(self.average, apart)
        if scaler is not None:  # a step whose gradients overflow is left out, and no fault
            norm = torch.where(norm.isfinite(), norm, 0.0)
        seen = torch.stack([*(terms[name].detach() for name in self.parts), norm])
        self._sums += seen
        healthy = seen.isfinite().all()
        self._bad.copy_(torch.where((self._bad < 0) & ~healthy, self._at, self._bad))

    def read(self) -> tuple[dict[str, float], int]:
        """Means since the last reading, over all processes, and the first bad step (-1: none). Here the host
        waits."""
        sums, bad = self._sums / max(self._since, 1), self._bad
        if self.fabric.world_size > 1:
            sums = sums.clone()
            torch.distributed.all_reduce(sums)
            sums /= self.fabric.world_size
            bad = bad.clone()
            torch.distributed.all_reduce(bad, torch.distributed.ReduceOp.MAX)
        values = sums.tolist()
        first = int(bad)
        self._sums.zero_()
        self._since = 0
        return dict(zip([*self.parts, "grad_norm"], values, strict=True)), first

    @property
    def pending(self) -> int:
        """Steps since the last reading."""
        return self._since

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The averaged weights in place of the raw ones, where the recipe averages."""
        raw = [p.detach().clone() for p in self.weights] if self.average else []
        try:
            for p, mean in zip(self.weights, self.average, strict=False):
                p.data.copy_(mean)
            yield
        finally:
            for p, kept in zip(self.weights, raw, strict=False):
                p.data.copy_(kept)


def make_optimiser(recipe: Recipe, model: Embedder, capturable: bool = False) -> torch.optim.Optimizer:
    """AdamW or Adam, fused, with the decay where the recipe wants it."""
    o = recipe.optim
    learnt = [p for p in model.parameters() if p.requires_grad]
    places = {id(place) for place in model.places()}
    decayed = [p for p in learnt if o.decay == "all" or (p.ndim > 1 and id(p) not in places)]
    chosen = {id(p) for p in decayed}
    groups = [
        {"params": decayed, "weight_decay": o.weight_decay},
        {"params": [p for p in learnt if id(p) not in chosen], "weight_decay": 0.0},
    ]
    kind = torch.optim.AdamW if o.kind == "adamw" else torch.optim.Adam
    return kind([g for g in groups if g["params"]], lr=o.lr, fused=True, capturable=capturable)


def learning_rate(recipe: Recipe, step: int, steps: int, per_epoch: int = 1) -> float:
    """Linear warm-up, then a cosine to `final_lr` times the peak: a function of the step alone, nothing to
    save. With the schedule "epoch" it moves once an epoch, and ends one epoch's move above `final_lr`, as
    PyTorch's CosineAnnealingLR does."""
    o = recipe.optim
    warm = round(o.warmup * steps)
    if step < warm:
        return o.lr * (step + 1) / warm
    if o.schedule == "epoch":
        share = (step // per_epoch - warm // per_epoch) / max((steps - warm) // per_epoch, 1)
    else:
        share = (step - warm) / max(steps - warm - 1, 1)
    return o.lr * (o.final_lr + (1 - o.final_lr) * 0.5 * (1 + math.cos(math.pi * min(share, 1.0))))
