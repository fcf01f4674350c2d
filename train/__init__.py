"""Stage two: alignment kernels, losses, the model, recipes and the training loop. Names load on first use."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .checkpoint import Checkpoint, load_checkpoint
    from .method import Embedder, Method
    from .recipe import Recipe, list_recipes, load_recipe
    from .trainer import FitResult, fit
    from .weaksvr.model import ModelOutput, StepModel

_HOMES = {
    "Checkpoint": "checkpoint",
    "load_checkpoint": "checkpoint",
    "Embedder": "method",
    "Method": "method",
    "Recipe": "recipe",
    "list_recipes": "recipe",
    "load_recipe": "recipe",
    "FitResult": "trainer",
    "ModelOutput": "weaksvr.model",
    "StepModel": "weaksvr.model",
    "fit": "trainer",
}
__all__ = [
    "Checkpoint",
    "Embedder",
    "FitResult",
    "Method",
    "ModelOutput",
    "Recipe",
    "StepModel",
    "fit",
    "list_recipes",
    "load_checkpoint",
    "load_recipe",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)
