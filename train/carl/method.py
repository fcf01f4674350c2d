"""CARL, its weak version, TCC and TCN as the engine trains them: views in, losses of frames out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from ...cache.errors import StepclipError
from ..gather import gather_with_gradient
from ..method import Forward, Inputs, Method, Setting
from ..order import steps_of_epoch
from .data import ViewBatch, ViewSet
from .knobs import CarlRecipe
from .model import FrameEncoder
from .objective import frame_losses


class Carl(Method):
    """`recipe` on `data`; `held`: videos to watch the loss on."""

    model: FrameEncoder

    def __init__(
        self, recipe: CarlRecipe, model: FrameEncoder, data: ViewSet, held: ViewSet | None = None
    ) -> None:
        d, loss = recipe.data, recipe.loss
        self.recipe, self.model, self.data, self.held = recipe, model, data, held
        self.ids, self.device = data.ids, data.device
        self.labelled = bool(loss.weak or loss.cycle)
        self.places = places_of_labels(data.labels) if self.labelled else []
        self.unit = d.group if self.labelled else 1
        videos = sum(map(len, self.places)) if self.labelled else len(data)
        self.batch = min(d.batch, videos // self.unit * self.unit)
        if not self.batch:
            raise StepclipError(
                f"no {d.group} videos of one {d.label}" if self.labelled else "no video",
                "videos that can be compared",
                "data.label = task, or data.group = 2",
            )
        self.parts = loss.terms
        self.steps_of_epoch = steps_of_epoch(videos, self.batch, d.items)
        self.steps = self.steps_of_epoch * recipe.train.epochs
        self.pairs = group_pairs(self.batch, self.unit).to(self.device)

    def plan(self, epoch: int) -> Inputs:
        """Videos (steps, B), the draws of their views (steps, B, 2, K), and whether the weak loss counts
        already (steps,)."""
        generator = torch.Generator().manual_seed(self.recipe.seed * 1_000_003 + epoch)
        steps, size = self.steps_of_epoch, self.batch
        order = torch.empty(0, dtype=torch.int64)
        while len(order) < steps * size:
            order = torch.cat([order, self._round(generator)])
        draws = torch.rand(steps, size, 2, self.data.draws, generator=generator)
        at = torch.arange(steps) + epoch * steps
        counts = (at >= self.recipe.loss.weak_warmup * self.steps).float()
        return order[: steps * size].view(steps, size), draws, counts

    def _round(self, generator: torch.Generator) -> Tensor:
        """Every video once, in random order; with labels, in groups of one label side by side."""
        if not self.labelled:
            return torch.randperm(len(self.data), generator=generator)
        groups = []
        for places in self.places:
            mixed = places[torch.randperm(len(places), generator=generator)]
            filled = -len(mixed) % self.unit
            # the last group of a label is filled up with others of it
            groups.append(torch.cat([mixed, mixed.repeat(self.unit)[:filled]]).view(-1, self.unit))
        every = torch.cat(groups)
        return every[torch.randperm(len(every), generator=generator)].flatten()

    def terms(
        self,
        forward: Forward,
        inputs: Inputs,
        *,
        teacher: Forward | None = None,
        rank: int = 0,
        world: int = 1,
    ) -> dict[str, Tensor]:
        index, draws, counts = inputs
        share = len(index) // world
        part = slice(rank * share, (rank + 1) * share)
        batch = self._gather(self.data, index, draws, part)
        frames, real = batch.frames, batch.real[part]
        if not (self.recipe.loss.contrast or self.recipe.loss.time):
            frames, real = frames[:, :1], real[:, :1]  # one view of each is compared with other videos
        output = forward(frames.flatten(0, 1), real.flatten(0, 1))
        z = output.projected.float().unflatten(0, frames.shape[:2])
        return frame_losses(gather_with_gradient(z, world), batch, self.recipe.loss, self.pairs, counts)

    def _gather(
        self, data: ViewSet, index: Tensor, draws: Tensor, part: slice, changed: bool = True
    ) -> ViewBatch:
        c = self.recipe.loss
        return data.gather(
            index, draws, clock=c.clock, sigma=c.sigma, least_sigma=c.least_sigma, part=part, changed=changed
        )

    def videos(self, inputs: Inputs) -> list[str]:
        return [self.ids[i] for i in inputs[0].tolist()]

    def digest(self) -> str:
        return self.data.digest()

    def says(self) -> str:
        looks = {
            "cached": "views from augmented copies",
            "fitted": "views changed as augmented copies are",
            "features": "views changed in feature space",
            "none": "views of equal looks",
        }[self.data.appearance]
        labels = f", {len(self.places)} labels of two videos or more" if self.labelled else ""
        return f"{len(self.data)} videos{labels}, {looks}"

    def held_out_loss(self, autocast: Callable[[], AbstractContextManager[Any]]) -> float | None:
        """The contrast between two views, their looks unchanged, always by the same draws."""
        if self.held is None or not self.recipe.loss.contrast:
            return None
        alone = self.recipe.loss.model_copy(update={"weak": 0.0, "cycle": 0.0})
        generator = torch.Generator().manual_seed(self.recipe.seed)
        draws = torch.rand(len(self.held), 2, self.held.draws, generator=generator).to(self.device)
        total = 0.0
        for part in torch.arange(len(self.held), device=self.device).split(self.batch):
            batch = self._gather(self.held, part, draws[part], slice(None), changed=False)
            with autocast():
                output = self.model(batch.frames.flatten(0, 1), batch.real.flatten(0, 1))
            z = output.projected.float().unflatten(0, batch.frames.shape[:2])
            total += float(frame_losses(z, batch, alone, self.pairs)["loss"]) * len(part)
        return total / len(self.held)


def places_of_labels(labels: Tensor) -> list[Tensor]:
    """The videos of each label that two or more have."""
    found = [(labels == label).nonzero()[:, 0] for label in range(int(labels.max()) + 1)]
    return [places for places in found if len(places) > 1]


def group_pairs(batch: int, group: int) -> Tensor:
    """(2, P): each pair of videos that stand in one group of a batch, once."""
    a, b = torch.triu_indices(group, group, 1)
    start = torch.arange(0, batch, group)[:, None]
    return torch.stack([(start + a).flatten(), (start + b).flatten()])


def start(recipe: CarlRecipe, setting: Setting) -> Carl:
    data = ViewSet(
        setting.store, setting.rows, recipe.data, setting.device,
        progress=setting.progress, mapped=setting.mapped, seed=recipe.seed,
    )  # fmt: skip
    held = None
    if setting.held:
        held = ViewSet(
            setting.store, setting.held, recipe.data, setting.device,
            progress=setting.progress, mapped=setting.mapped, seed=recipe.seed,
        )  # fmt: skip
    model = build_model(recipe, {"feature_dim": setting.store.dim, "text_dim": setting.store.text_dim})
    model.to(setting.device).standardise(data.spread.mean, data.spread.std)
    return Carl(recipe, model, data, held)


def build_model(recipe: CarlRecipe, shape: Mapping[str, Any]) -> FrameEncoder:
    return FrameEncoder(recipe.model, recipe.data.frames, int(shape["feature_dim"]), int(shape["text_dim"]))
