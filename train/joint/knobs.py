"""The knobs of the joint method: those of WeakSVR, and the two losses that are not WeakSVR's."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ..knobs import Count, Positive, Weight
from ..weaksvr.knobs import WeakSVRLoss, WeakSVRModel, WeakSVRRecipe


class JointModel(WeakSVRModel):
    projection: Count = Field(
        default=128, description="width of the head that the contrast of frames sees, in training only"
    )


class JointLoss(WeakSVRLoss):
    contrast: Weight = Field(
        default=1.0, description="weight of frames against a second view of their video (CARL)"
    )
    contrast_temperature: Positive = Field(default=0.1, description="what its similarities are divided by")
    contrast_sigma: Positive = Field(
        default=1.0, description="spread of its prior, in steps between rows of a view"
    )
    reorder: Weight = Field(
        default=1.0, description="weight of a script against its sentences in other orders (TempCLR)"
    )
    reorder_negatives: Count = Field(default=15, description="other orders of each script")
    reorder_adjacent: Annotated[float, Field(ge=0, le=1)] = Field(
        default=0.5, description="share of them that exchange two neighbouring sentences only"
    )
    reorder_gamma: Positive = Field(default=0.1, description="softness of soft-DTW in it")

    @property
    def terms(self) -> tuple[str, ...]:
        asked = {"contrast": self.contrast, "reorder": self.reorder}
        return (*super().terms, *(name for name, weight in asked.items() if weight))

    @property
    def weights(self) -> dict[str, float]:
        return {
            **super().weights,
            "contrast (frames, a second view)": self.contrast,
            "reorder (script, its other orders)": self.reorder,
        }


class JointRecipe(WeakSVRRecipe):
    """A run of the joint method."""

    method: Literal["joint"] = Field(  # type: ignore[assignment]
        default="joint", description="what is trained; it has sections of its own below"
    )
    model: JointModel = JointModel()
    loss: JointLoss = JointLoss()

    def faults(self) -> dict[str, bool]:
        return {
            "model.text: true beside method = joint": not self.model.text,
            **super().faults(),
        }
