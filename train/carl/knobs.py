"""The knobs of CARL's recipes: data, model and loss. The values of `methods/carl.md` are the defaults."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ..knobs import Count, DataConfig, LossConfig, ModelConfig, Positive, Share, Weight
from ..recipe import Recipe


class CarlData(DataConfig):
    batch: Count = Field(default=32, description="videos of one step, each in two views")
    items: Annotated[int, Field(ge=0)] = Field(
        default=0, description="videos of an epoch, drawn by seed and epoch; 0: all of them"
    )
    group: Count = Field(
        default=1, description="videos of one label that stand side by side in a batch, to be compared"
    )
    label: Literal["procedure", "task", "none"] = Field(
        default="procedure", description="what makes two videos alike; none: all are (Pouring)"
    )
    frames: Count = Field(default=80, description="T, rows of a view")
    sampler: Literal["window", "head", "whole", "earlier"] = Field(
        default="window",
        description="rows of a view; head: as released, from the start; whole: TCC; earlier: TCN",
    )
    region: Annotated[float, Field(ge=1)] = Field(
        default=1.5, description="a view is drawn from up to this many times its own length"
    )
    overlap: Share = Field(default=0.2, description="least share of a view that the other one covers")
    least: Count = Field(
        default=1, description="a view is at most this part of its video: 2 is half, so that views differ"
    )
    appearance: Literal["auto", "cached", "fitted", "features", "none"] = Field(
        default="auto",
        description="what makes views look different: augmented copies of the cache, offsets as theirs, "
        "changes of the features; auto: copies where the cache has two or more, else features",
    )
    offset: Weight = Field(
        default=0.5,
        description="offset of a whole view, in spreads of each feature (or, fitted, as measured)",
    )
    channels: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.1, description="share of the features that a view does not see"
    )
    gain: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.2, description="a view is stronger or weaker by up to this share"
    )
    mix: Share = Field(
        default=0.5, description="up to this share of a video's mean becomes that of another video"
    )
    replace: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.05, description="chance that a frame is replaced by the one before it"
    )


class CarlModel(ModelConfig):
    input_norm: Literal["none", "layernorm", "l2", "standardise"] = Field(
        default="layernorm",
        description="what is done to raw features first; standardise: mean and spread of the training set",
    )
    hidden: Count = Field(default=512, description="width of the two layers in front, dropout and ReLU")
    norm: Literal["batch", "batch-padded", "layer"] = Field(
        default="batch", description="norm of those layers and of the projection; batch-padded: as released"
    )
    width: Count = Field(default=256, description="width of the transformer")
    depth: Annotated[int, Field(ge=0)] = Field(default=3, description="transformer layers")
    heads: Count = Field(default=8, description="attention heads")
    mlp: Count = Field(default=1024, description="width of the hidden layer of a block")
    dropout: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.1, description="dropout in front, on positions and on what a block adds"
    )
    positions: Literal["official", "sinusoidal", "none"] = Field(
        default="sinusoidal",
        description="order index of a frame; official: the released pairing of sin and cos",
    )
    rescale: Literal["always", "test"] = Field(
        default="always",
        description="positions run over 0..T-1 whatever the number of frames; test: only in evaluation",
    )
    attention_window: Annotated[int, Field(ge=0)] = Field(
        default=0, description="frames that a frame sees on each side; 0: all of the video"
    )
    copies: bool = Field(default=False, description="all layers start equal, as released")
    embedding: Count = Field(default=128, description="width of a frame's embedding")
    projection: Annotated[int, Field(ge=0)] = Field(
        default=128, description="width of the head that the loss sees, in training only; 0: none"
    )
    residual: Weight = Field(
        default=0.0,
        description="weight of the standardised feature itself beside the embedding; 0: none (the paper)",
    )
    unit: bool = Field(default=True, description="embeddings are at length 1 in evaluation")

    @property
    def size(self) -> str:
        return f"frames of {self.embedding}, {self.width} x {self.depth}"


class CarlLoss(LossConfig):
    contrast: Weight = Field(default=1.0, description="weight of the sequence contrastive loss")
    negatives: Literal["single_noself", "batch_noself"] = Field(
        default="single_noself", description="frames of the other view; batch_noself: and of all other videos"
    )
    temperature: Positive = Field(default=0.1, description="what similarities are divided by")
    clock: Literal["seconds", "rows"] = Field(
        default="seconds", description="unit of timestamps; rows: cached rows, the released frame index"
    )
    sigma: Positive = Field(
        default=0.1265, description="spread of the prior; 0.1265 s is sqrt(10) frames of 25 per second"
    )
    least_sigma: Weight = Field(
        default=1.0, description="the spread is at least this many steps between cached rows"
    )
    row_cutoff: Weight = Field(
        default=3.0, description="frames further than so many spreads from the other view count 0; 0: none do"
    )
    floor: Weight = Field(
        default=0.0, description="added to predicted probabilities inside the logarithm; released: 1e-6"
    )
    weak: Weight = Field(
        default=0.0,
        description="weight of frames against those of other videos of the label (reconstruction)",
    )
    weak_warmup: Share = Field(default=0.15, description="share of the run before it counts")
    weak_sigma: Positive = Field(default=2**0.5, description="its spread, over that of the prior")
    weak_gamma: Weight = Field(
        default=0.0, description="soft-DTW at this temperature in place of the hard path; 0: hard"
    )
    weak_ends: Literal["closed", "open"] = Field(
        default="closed", description="open: a view may begin and end inside the other, for crops"
    )
    weak_spread: bool = Field(default=False, description="a target is wider where its frame met many")
    weak_confidence: Weight = Field(
        default=0.0, description="a pair counts by exp(-cost of its path / this); 0: all alike"
    )
    cycle: Weight = Field(default=0.0, description="weight of TCC's cycle-consistency")
    cycle_variance: Weight = Field(default=0.001, description="weight of the log variance in it")
    time: Weight = Field(default=0.0, description="weight of TCN's time contrast (sampler: earlier)")
    time_regulariser: Weight = Field(default=0.002, description="pull on the length of embeddings in it")

    @property
    def terms(self) -> tuple[str, ...]:
        """The losses that a recipe asks for, in the order in which they are logged."""
        asked = {"contrast": self.contrast, "weak": self.weak, "cycle": self.cycle, "time": self.time}
        return tuple(name for name, weight in asked.items() if weight)

    @property
    def weights(self) -> dict[str, float]:
        words = {
            "contrast": "frames against the other view of their video",
            "weak": "frames against other videos of the label (our reconstruction)",
            "cycle": "cycle-consistency (TCC)",
            "time": "time contrast (TCN)",
        }
        return {words[name]: float(getattr(self, name)) for name in self.terms}

    @property
    def supervision(self) -> str:
        labels = self.weak or self.cycle
        return "which videos are of one label; no times, no sentences" if labels else "the videos alone"


class CarlRecipe(Recipe):
    """A run of CARL, of its weak version, or of a baseline of its."""

    method: Literal["carl"] = Field(
        default="carl", description="what is trained; it has sections of its own below"
    )
    data: CarlData = CarlData()
    model: CarlModel = CarlModel()
    loss: CarlLoss = CarlLoss()

    def faults(self) -> dict[str, bool]:
        data, loss = self.data, self.loss
        return super().faults() | {
            "loss.contrast: one of the losses above 0": not loss.terms,
            "data.group: 2 or more beside loss.weak or loss.cycle": (
                bool(loss.weak or loss.cycle) and data.group < 2
            ),
            "data.batch: a multiple of data.group": data.batch % data.group > 0,
            "data.sampler: earlier beside loss.time, and for nothing else": (
                (data.sampler == "earlier") != bool(loss.time)
                or bool(loss.time and (loss.contrast or loss.weak or loss.cycle))
            ),
            "model.heads: a divisor of model.width": self.model.width % self.model.heads > 0,
            "data.appearance: auto, features or none beside data.features = mapped": (
                data.features == "mapped" and data.appearance in ("cached", "fitted")
            ),
        }
