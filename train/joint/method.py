"""All losses on one model: a step sees two views of each video, the first with its script.

WeakSVR's terms are those of `weaksvr/objective.py`. CARL's contrast compares the two views through a
projection that only training has; TempCLR's compares the warped distance of frames and script with that of
the script in other orders. All of them move the same frame embeddings.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..alignment import cost_matrix
from ..losses.sequence_contrast import reordered, sequence_contrast_loss, sequence_distance
from ..losses.timestamp_contrast import timestamp_contrast_loss
from ..method import Forward, Inputs, Setting
from ..tempclr.orders import draw_orders
from ..weaksvr import method as weaksvr
from ..weaksvr.batches import Batch, TrainingSet
from ..weaksvr.method import WeakSVR, made_model, training_sets
from ..weaksvr.model import ModelOutput, StepModel
from ..weaksvr.sampling import rows_from_draws
from .knobs import JointLoss, JointModel, JointRecipe


class JointOutput(NamedTuple):
    """As `ModelOutput`, and `projected` (B, N, P) frames for the contrast of views."""

    frames: Tensor
    video: Tensor
    projected: Tensor


class JointStepModel(StepModel):
    """WeakSVR's model with a projection of its frames."""

    def __init__(self, config: JointModel, feature_dim: int, text_dim: int, classes: int = 0) -> None:
        super().__init__(config, feature_dim, text_dim, classes)
        self.project = nn.Sequential(
            nn.Linear(text_dim, text_dim), nn.ReLU(), nn.Linear(text_dim, config.projection)
        )
        tau = torch.tensor(1.0 / config.scale)
        self.log_tau = nn.Parameter(tau.log())

    def forward(self, frames: Tensor) -> JointOutput:  # type: ignore[override]
        found: ModelOutput = super().forward(frames)
        return JointOutput(*found, self.project(found.frames))


class Joint(WeakSVR):
    """`recipe` on `data`; a plan has two draws of rows for each video of a step."""

    recipe: JointRecipe
    model: JointStepModel

    def __init__(
        self, recipe: JointRecipe, model: JointStepModel, data: TrainingSet, held: TrainingSet | None = None
    ) -> None:
        super().__init__(recipe, model, data, held)
        model.log_tau.requires_grad_(bool(recipe.loss.reorder))
        for weight in model.project.parameters():
            weight.requires_grad_(bool(recipe.loss.contrast))

    def plan(self, epoch: int) -> Inputs:
        """Videos (steps, B), draws of the first view and of the second (steps, B, N)."""
        order, draws = super().plan(epoch)
        generator = torch.Generator().manual_seed(self.recipe.seed * 1_000_003 + epoch + 500_000)
        return order, draws, torch.rand(draws.shape, generator=generator)

    def terms(
        self,
        forward: Forward,
        inputs: Inputs,
        *,
        teacher: Forward | None = None,
        rank: int = 0,
        world: int = 1,
    ) -> dict[str, Tensor]:
        index, *draws = inputs
        config = self.recipe.loss
        views = [self.gather(index, drawn, rank, world) for drawn in draws[: 2 if config.contrast else 1]]
        batch = views[0]
        both = forward(torch.cat([view.frames for view in views]))
        size = len(batch.frames)
        first = ModelOutput(both.frames[:size], both.video[:size])
        taught = None if teacher is None else teacher(batch.frames)
        terms = self.losses(first, batch, taught, world)
        total = terms["loss"]
        if config.contrast:
            projected = both.projected.float().unflatten(0, (2, size)).transpose(0, 1)
            times = self._times(index[batch.own], [drawn[batch.own] for drawn in draws])
            terms["contrast"] = timestamp_contrast_loss(
                projected,
                times,
                sigma=config.contrast_sigma,
                temperature=config.contrast_temperature,
                row_cutoff=3.0,
            )
            total = total + config.contrast * terms["contrast"]
        if config.reorder:
            terms["reorder"] = reorder_term(first.frames.float(), batch, config, self.model.log_tau.exp())
            total = total + config.reorder * terms["reorder"]
        return {**terms, "loss": total}

    def _times(self, index: Tensor, draws: list[Tensor]) -> Tensor:
        """(B, 2, N): where in its video each row of both views lies, in steps between rows of a view."""
        lengths = self.data.lengths[index]
        rows = torch.stack([rows_from_draws(lengths, drawn) for drawn in draws], 1)
        return rows * (rows.shape[2] / lengths[:, None, None])


def reorder_term(frames: Tensor, batch: Batch, config: JointLoss, tau: Tensor) -> Tensor:
    """Each script against its sentences in other orders, by soft-DTW with the video's `frames` (B, N, E)."""
    lengths = batch.step_lengths
    cost = cost_matrix(batch.steps, frames, "cosine")
    place = torch.arange(cost.shape[1], device=cost.device).expand(len(cost), -1)
    orders = draw_orders(
        place, lengths, config.reorder_negatives, adjacent=config.reorder_adjacent, content=batch.words
    )
    every = torch.cat([cost[:, None], reordered(cost, orders.places)], 1)
    columns = torch.full_like(lengths, cost.shape[2])
    sizes = tuple(size[:, None].expand(every.shape[:2]) for size in (lengths, columns))
    distance = sequence_distance(every, sizes, "soft_dtw", config.reorder_gamma, "L+N")
    real = orders.real & (lengths > 1)[:, None]
    return sequence_contrast_loss(distance[:, 0], distance[:, 1:], tau, real=real, counts=lengths > 1)


def start(recipe: JointRecipe, setting: Setting) -> Joint:
    data, held = training_sets(recipe, setting)
    return Joint(recipe, made_model(JointStepModel, recipe, data, setting), data, held)


def build_model(recipe: JointRecipe, shape: Mapping[str, Any]) -> StepModel:
    return weaksvr.build_model(recipe, shape, JointStepModel)
