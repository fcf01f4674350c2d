"""Which checkpoint counts, and when to stop: what the evaluations of a run say, remembered."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .method import Embedder

# called with the model (evaluation mode, the weights that are saved) and the step: figures by name, "auc"
# among them, larger is better. It comes from above: this room measures losses only.
Watch = Callable[["Embedder", int], Mapping[str, float]]
METRIC = "auc"


class Selection:
    """The best evaluation so far; how many since were no better."""

    def __init__(self, by: str, patience: int) -> None:
        self.by, self.patience = by, patience
        self.best, self.step, self.waits = -math.inf, 0, 0

    def look(self, metrics: Mapping[str, float], step: int) -> bool:
        """Take in an evaluation; whether it is the best so far."""
        value = metrics.get(METRIC, math.nan)
        if value > self.best:
            self.best, self.step, self.waits = value, step, 0
            return True
        self.waits += 1
        return False

    @property
    def selects(self) -> bool:
        return self.by != "last"

    @property
    def exhausted(self) -> bool:
        return 0 < self.patience <= self.waits

    def says(self, step: int) -> dict[str, Any]:
        """For `meta.json`: how this checkpoint was chosen."""
        if not self.selects or not math.isfinite(self.best):
            return {"by": "last", "step": step}
        return {"by": self.by, "metric": METRIC, "value": self.best, "step": self.step}

    def state(self) -> dict[str, float]:
        return {"best": self.best, "step": self.step, "waits": self.waits}

    def load(self, state: Mapping[str, float]) -> None:
        self.best, self.step, self.waits = state["best"], int(state["step"]), int(state["waits"])
