"""WeakSVR as the engine trains it: pairs or single videos in batches, the losses that the recipe asks for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..method import Forward, Inputs, Method, Setting
from ..order import plan_epoch, steps_of_epoch
from .batches import Batch, TrainingSet
from .knobs import CORPUS, WeakSVRRecipe
from .model import ModelOutput, StepModel
from .objective import loss_terms


class WeakSVR(Method):
    """`recipe` on `data`; `held`: videos to watch the loss on."""

    model: StepModel

    def __init__(
        self, recipe: WeakSVRRecipe, model: StepModel, data: TrainingSet, held: TrainingSet | None = None
    ) -> None:
        d, loss = recipe.data, recipe.loss
        self.recipe, self.model, self.data, self.held = recipe, model, data, held
        self.ids, self.device = data.ids, data.device
        self.batch = min(d.batch, 2 * len(data) if d.pairs else len(data))
        self.unit = 2 if d.pairs else 1
        self.parts, self.teacher = loss.terms, loss.teacher
        if model.lasts is not None:
            self.parts += ("durations",)
        self.steps_of_epoch = steps_of_epoch(len(data), self.batch, d.items, d.pairs)
        self._procedures = data.procedures.cpu() if d.pairs else None
        if model.text:  # a temperature of a loss that is not used does not learn
            model.log_scale_video.requires_grad_(bool(loss.coarse))
            model.log_scale_frame.requires_grad_(bool(loss.fine or loss.fine_text or loss.script))

    def plan(self, epoch: int) -> Inputs:
        """Videos (steps, B) and the draws of their rows (steps, B, N)."""
        d = self.recipe.data
        made = plan_epoch(
            self.recipe.seed, epoch, self.data.tasks, self.batch, self.recipe.model.frames, d.same_task,
            items=d.items, procedures=self._procedures,
        )  # fmt: skip
        return made.order, made.draws[made.order]

    def terms(
        self,
        forward: Forward,
        inputs: Inputs,
        *,
        teacher: Forward | None = None,
        rank: int = 0,
        world: int = 1,
    ) -> dict[str, Tensor]:
        index, draws = inputs
        batch = self.gather(index, draws, rank, world)
        taught = None if teacher is None else teacher(batch.frames)
        return self.losses(forward(batch.frames), batch, taught, world)

    def gather(self, index: Tensor, draws: Tensor, rank: int, world: int) -> Batch:
        d = self.recipe.data
        return self.data.gather(
            index, draws, noise=d.feature_noise, dropout=d.frame_dropout, rank=rank, world=world
        )

    def losses(
        self, output: ModelOutput, batch: Batch, taught: ModelOutput | None, world: int
    ) -> dict[str, Tensor]:
        return loss_terms(
            self.model,
            output,
            batch,
            self.recipe.loss,
            self.data,
            teacher=taught,
            pairs=self.recipe.data.pairs,
            world=world,
        )

    def videos(self, inputs: Inputs) -> list[str]:
        return [self.ids[i] for i in inputs[0].tolist()]

    def digest(self) -> str:
        return self.data.digest()

    def says(self) -> str:
        tasks = int(self.data.tasks.max()) + 1
        return f"{len(self.data)} videos, {self.data.classes} procedures, {tasks} tasks"

    def after_step(self) -> None:
        self.model.clamp_scales()

    def gauges(self) -> dict[str, float]:
        if not self.model.text:
            return {}
        return {
            "scale_video": float(self.model.scale_video.detach()),
            "scale_frame": float(self.model.scale_frame.detach()),
        }

    def held_out_loss(self, autocast: Callable[[], AbstractContextManager[Any]]) -> float | None:
        """Middle rows, no augmentation; without the losses that ask for what only the training set has (its
        procedures, pairs)."""
        known = {"classes": 0.0, "sequence": 0.0, "task_negatives": 0}
        config = self.recipe.loss.model_copy(update=known)
        if self.held is None or not config.needs_text:
            return None
        batch, total = min(self.batch, len(self.held)), 0.0
        draws = torch.full((batch, self.recipe.model.frames), 0.5, device=self.device)
        parts = torch.arange(len(self.held) // batch * batch, device=self.device).view(-1, batch)
        generator = torch.Generator().manual_seed(self.recipe.seed)
        shuffled = torch.randperm(len(self.held), generator=generator).to(self.device)
        for part in parts:
            gathered = self.held.gather(shuffled[part], draws)
            with autocast():
                output = self.model(gathered.frames)
            total += float(loss_terms(self.model, output, gathered, config, self.held)["loss"])
        return total / len(parts)


def training_sets(recipe: WeakSVRRecipe, setting: Setting) -> tuple[TrainingSet, TrainingSet | None]:
    """What is trained on, and what is held out."""
    d, store = recipe.data, setting.store
    data = TrainingSet(
        store, setting.rows, setting.device, setting.progress, setting.mapped,
        padding=d.padding, pad_to=d.pad_to, rivals=recipe.loss.task_negatives, seed=recipe.seed,
    )  # fmt: skip
    held = None
    if setting.held:
        held = TrainingSet(store, setting.held, setting.device, setting.progress, setting.mapped)
    if recipe.loss.labels == CORPUS:
        for part in filter(None, (data, held)):
            part.learn_labels()
    return data, held


Kind = TypeVar("Kind", bound=StepModel)


def made_model(kind: type[Kind], recipe: WeakSVRRecipe, data: TrainingSet, setting: Setting) -> Kind:
    """A model of that class on the device, with what it takes from the training set before the first step."""
    classes = data.classes if recipe.loss.classes else 0
    model = kind(recipe.model, setting.store.dim, data.text_dim, classes).to(setting.device)
    if recipe.model.input_norm == "standardise" or recipe.data.feature_noise:  # both read every frame
        model.standardise(data.spread.mean, data.spread.std)
    model.weigh(data.sentences[:-1])  # the last row is the padding
    return model


def start(recipe: WeakSVRRecipe, setting: Setting) -> WeakSVR:
    data, held = training_sets(recipe, setting)
    return WeakSVR(recipe, made_model(StepModel, recipe, data, setting), data, held)


def build_model(
    recipe: WeakSVRRecipe, shape: Mapping[str, Any], kind: type[StepModel] = StepModel
) -> StepModel:
    return kind(recipe.model, int(shape["feature_dim"]), int(shape["text_dim"]), int(shape.get("classes", 0)))
