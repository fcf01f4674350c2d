"""What the engine trains: a method gives its data, its model and its losses; the engine knows nothing else.

A method lies in a package of its own (`weaksvr`, `tempclr`, `carl`, `joint`), whose `method.py` has two
functions: `start(recipe, setting) -> Method` and `build_model(recipe, shape) -> Embedder`.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from ..cache.manifest import VideoRow
    from ..cache.store import FeatureStore
    from .features import Features
    from .recipe import Recipe

Forward = Callable[..., Any]  # the model, wrapped for processes and precision
Inputs = tuple[Tensor, ...]


class Embedder(nn.Module):
    """A trained model as the stages after it see it: cached features in, embeddings out.

    `text`: its embeddings lie in the space of the texts. `frames`: how many rows of a video one call takes,
    or None where a video is embedded as it is. `shape`: what `build_model` needs to make another one.
    """

    text: bool = True
    frames: int | None = None
    feature_dim: int
    text_dim: int

    @property
    def shape(self) -> dict[str, int]:
        return {"feature_dim": self.feature_dim, "text_dim": self.text_dim}

    @property
    def parameter_count(self) -> int:
        return sum(p.numel() for p in self.parameters())

    def embed_packed(self, packed: Features, batch: int = 256) -> tuple[Tensor, Tensor]:
        """(video (V, E'), frames (N, E)), float32, raw: one vector per video and one per cached frame.

        `batch`: how many inputs of the model one call takes.
        """
        raise NotImplementedError

    def embed_texts(self, features: Tensor, kind: str) -> Tensor:
        """Cached features (n, D) of sentences ("step") or whole scripts ("paragraph") -> (n, E), where the
        frames lie; as they are, unless a method trains them."""
        return features

    least: float = 0.0  # share of its expected duration that a step lasts for sure

    def durations(self, features: Tensor) -> Tensor | None:
        """What the sentences of these cached features (n, D) are expected to last, (n,), in a unit of their
        own; None: nothing is expected."""
        return None

    def places(self) -> list[Tensor]:
        """Parameters that are places, not weights: no decay of matrices pulls them."""
        return []


@dataclass(frozen=True)
class Setting:
    """What a method is started with: the cache, the training videos and those held out (without step times,
    unless the recipe asks for them), the device, whether features stay on the disk, whether to show bars."""

    store: FeatureStore
    rows: Sequence[VideoRow]
    held: Sequence[VideoRow]
    device: torch.device
    mapped: bool = False
    progress: bool = False


class Method(ABC):
    """One training run's data, model and losses.

    `ids`: the training videos. `batch`: videos of a step, and `unit`: how many of them stay together on one
    process. `parts`: the terms of the loss, as they are logged. `teacher`: the terms want the averaged
    model's answer too. `held`: the training set's like of videos to watch the loss on, if there are any.
    """

    model: Embedder
    ids: tuple[str, ...]
    batch: int
    unit: int = 1
    parts: tuple[str, ...]
    teacher: bool = False
    held: Any = None
    steps_of_epoch: int
    device: torch.device

    @abstractmethod
    def plan(self, epoch: int) -> Inputs:
        """What the steps of an epoch get: tensors (steps, ...) on the host, a pure function of the recipe's
        seed and the epoch, whatever the number of processes."""

    @abstractmethod
    def terms(
        self,
        forward: Forward,
        inputs: Inputs,
        *,
        teacher: Forward | None = None,
        rank: int = 0,
        world: int = 1,
    ) -> dict[str, Tensor]:
        """The terms of one step by name, and their weighted sum as "loss".

        `inputs` are that step's part of the plan, on the device. Gather, forward, losses; no loop over
        samples, and nothing that waits for the device. Random numbers are drawn for the whole batch, so that
        processes stay level; with `world` processes the mean of the losses is that of one process.
        """

    @abstractmethod
    def videos(self, inputs: Inputs) -> list[str]:
        """Ids of the videos of one step: for the message when it goes wrong."""

    @abstractmethod
    def digest(self) -> str:
        """What is trained on: another answer means that a resume would not be the same run."""

    @abstractmethod
    def says(self) -> str:
        """The training set in words: the first line of a run."""

    def begin(self, epoch: int) -> float:
        """Called before the first step of each epoch, and where a run is taken up: what this epoch trains.
        Returns a factor of the learning rate."""
        return 1.0

    def after_backward(self) -> None:
        """Called between the backward pass and what is done with the gradients."""
        return

    def after_step(self) -> None:
        """Called after each optimiser step; most methods have nothing to do there."""
        return

    def gauges(self) -> dict[str, float]:
        """Figures that are logged beside the losses, read when a line is written."""
        return {}

    def held_out_loss(self, autocast: Callable[[], AbstractContextManager[Any]]) -> float | None:
        """The mean loss of the videos held out; None where there are none, or it means nothing."""
        return None


def digest_of(*content: Any) -> str:
    """16 hex digits of what can be written as JSON."""
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def start_method(recipe: Recipe, setting: Setting) -> Method:
    """The method that the recipe names, on its training set."""
    return cast("Method", _package(recipe).start(recipe, setting))


def build_model(recipe: Recipe, shape: Mapping[str, Any]) -> Embedder:
    """An untrained model of the recipe; `shape`: `Embedder.shape`, as a checkpoint's `meta.json` keeps it."""
    return cast("Embedder", _package(recipe).build_model(recipe, shape))


def _package(recipe: Recipe) -> Any:
    return import_module(f".{recipe.method}.method", __package__)
