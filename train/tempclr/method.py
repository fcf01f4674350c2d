"""TempCLR as the engine trains it: stage A learns windows and sentences, stage B whole sequences beside
them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..gather import gather_with_gradient
from ..method import Forward, Inputs, Method, Setting
from ..order import steps_of_epoch
from .data import SequenceSet
from .knobs import TempCLRRecipe
from .model import ClipModel
from .objective import loss_terms


class TempCLR(Method):
    """`recipe` on `data`."""

    model: ClipModel

    def __init__(self, recipe: TempCLRRecipe, model: ClipModel, data: SequenceSet) -> None:
        self.recipe, self.model, self.data = recipe, model, data
        self.ids, self.device = data.ids, data.device
        self.batch = min(recipe.data.batch, len(data))
        self.parts = recipe.loss.terms
        self.steps_of_epoch = steps_of_epoch(len(data), self.batch)
        model.log_tau.requires_grad_(recipe.loss.learn_tau)
        model.log_scale.requires_grad_(recipe.loss.unit_form == "cosine")
        self._learned = [p for p in model.parameters() if p.requires_grad]
        self._resting: list[torch.nn.Parameter] = []

    def begin(self, epoch: int) -> float:
        """Stage A trains everything; stage B what `stages.trained` says, at its own rate."""
        stages = self.recipe.stages
        first = epoch < stages.first
        norms = {id(p) for p in (*self.model.norms(), self.model.log_tau)}
        whole = first or stages.trained == "all"
        self._resting = [] if whole else [p for p in self._learned if id(p) not in norms]
        if not torch.distributed.is_initialized():  # what several processes wait for must not change
            resting = {id(p) for p in self._resting}
            for p in self._learned:
                p.requires_grad_(id(p) not in resting)
        return 1.0 if first else stages.rate

    def after_backward(self) -> None:
        for p in self._resting:  # no gradient, no step: neither momentum nor decay moves it
            p.grad = None

    def plan(self, epoch: int) -> Inputs:
        """Videos (steps, B), draws (steps, B, P, 4) and the weights of the terms (steps, 4)."""
        loss = self.recipe.loss
        index, draws = self.data.plan(self.recipe.seed, epoch, self.batch, self.steps_of_epoch)
        weights = torch.tensor([loss.unit, loss.naming, loss.sequence, loss.videos])
        if epoch < self.recipe.stages.first:
            weights = torch.tensor([1.0, 0.0, 0.0, 0.0])
        return index, draws, weights.expand(self.steps_of_epoch, 4).clone()

    def terms(
        self,
        forward: Forward,
        inputs: Inputs,
        *,
        teacher: Forward | None = None,
        rank: int = 0,
        world: int = 1,
    ) -> dict[str, Tensor]:
        index, draws, weights = inputs
        units = self.data.gather(index, draws, rank, world)
        videos, windows = units.real.shape[:2]
        base = None if units.base is None else units.base.repeat_interleave(windows, 0)
        asked, place = self.data.sentences, units.words
        if len(asked) > place.numel():  # those of the step alone
            asked = asked[place.flatten()]
            place = torch.arange(place.numel(), device=place.device).view_as(place)
        out = forward(units.frames.flatten(0, 1), units.real.flatten(0, 1), base, asked)
        mine = out.windows.float().unflatten(0, (videos, windows))
        every = gather_with_gradient(mine, world)
        texts = out.texts.float()[place]
        return loss_terms(self.model, every, texts, units, self.recipe.loss, self.recipe.data.units, weights)

    def videos(self, inputs: Inputs) -> list[str]:
        return [self.ids[i] for i in inputs[0].tolist()]

    def digest(self) -> str:
        return self.data.digest()

    def says(self) -> str:
        spans = "true step times" if self.recipe.needs_times else f"steps placed by {self.recipe.data.spans}"
        return f"{len(self.data)} videos, {self.data.classes} procedures, {self.data.tasks} tasks, {spans}"

    def after_step(self) -> None:
        self.model.clamp()

    def gauges(self) -> dict[str, float]:
        return {"scale": float(self.model.scale.detach()), "tau": float(self.model.tau.detach())}


def start(recipe: TempCLRRecipe, setting: Setting) -> TempCLR:
    data = SequenceSet(
        setting.store, setting.rows, recipe.data, setting.device, setting.progress, setting.mapped,
        centre=recipe.model.centre, texts=recipe.needs_text,
    )  # fmt: skip
    model = ClipModel(recipe.model, setting.store.dim, data.text_dim, recipe.loss.tau).to(setting.device)
    model.take_mean(data.sentences)
    return TempCLR(recipe, model, data)


def build_model(recipe: TempCLRRecipe, shape: Mapping[str, Any]) -> ClipModel:
    return ClipModel(recipe.model, int(shape["feature_dim"]), int(shape["text_dim"]), recipe.loss.tau)
