"""The knobs that every method has, section by section: their types, their ranges, and what each is for."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Weight = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
#: how pseudo-labels are made: `losses/pseudo_labels.py`
Labelling = Literal[
    "viterbi",
    "visit-all",
    "prior",
    "sort",
    "split",
    "uniform",
    "soft-monotone",
    "soft-visit-all",
    "soft-prior",
    "soft-dtw",
]


class Section(BaseModel):
    # strict: "true" is no number and 1 no truth value; a recipe means what it says
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class DataConfig(Section):
    """What every method asks of its data."""

    features: Literal["auto", "device", "mapped"] = Field(
        default="auto",
        description="mapped: each batch is read from the disk; auto: where memory is too small",
    )
    batch: Count = Field(default=32, description="videos of one step")
    val_tasks: Annotated[int, Field(ge=0)] = Field(
        default=0, description="whole training tasks held out, to watch the loss on"
    )


class ModelConfig(Section):
    """A method's model: its own knobs."""

    @property
    def size(self) -> str:
        """What it takes and how large it is, in a few words."""
        return ""


class LossConfig(Section):
    """A method's losses: its own knobs."""

    @property
    def terms(self) -> tuple[str, ...]:
        """The losses that a recipe asks for, in the order in which they are logged."""
        return ()

    @property
    def weights(self) -> dict[str, float]:
        """Each loss in words, and its weight."""
        return dict.fromkeys(self.terms, 1.0)

    @property
    def supervision(self) -> str:
        """What training is told."""
        return "the scripts' sentences in order; no times, no labels of frames or procedures"


class OptimConfig(Section):
    kind: Literal["adamw", "adam"] = Field(
        default="adamw", description="adam: the decay is an L2 term of the gradient (SVIP)"
    )
    lr: Positive = Field(default=5e-4, description="peak learning rate")
    weight_decay: Weight = Field(default=0.01, description="pull towards zero")
    decay: Literal["matrices", "all"] = Field(
        default="matrices",
        description="what it pulls; matrices: not biases, norms, positions, temperatures",
    )
    schedule: Literal["step", "epoch"] = Field(
        default="step", description="when the learning rate moves; epoch: once an epoch, as released"
    )
    warmup: Share = Field(default=0.05, description="share of the steps that lead up to the peak")
    final_lr: Share = Field(default=0.01, description="end of the cosine, over the peak")
    clip: Weight = Field(default=1.0, description="largest gradient norm; 0 = no limit")
    ema: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.0, description="decay of the averaged weights; 0 = none"
    )


class TrainConfig(Section):
    init: str = Field(
        default="", description="a run or checkpoint whose weights the training starts from; empty: none"
    )
    epochs: Count = Field(default=300, description="passes over the training videos")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        default="auto", description="auto: bf16 where the hardware has it; fp16: on a GPU, scaled"
    )
    compile: bool = Field(default=False, description="torch.compile of the model: slow to start")
    cuda_graph: bool = Field(default=False, description="a step recorded once and replayed, on one GPU")
    diverged: Weight = Field(
        default=3.0, description="stop where the loss is that many times its first; 0: never"
    )
    patience: Annotated[int, Field(ge=0)] = Field(
        default=0,
        description="stop after so many evaluations (evaluate.every) without a better one; 0: never",
    )
    log_every: Count = Field(
        default=20, description="steps between two lines of the log; the only time the host waits"
    )
    save_every: Count = Field(default=50, description="epochs between two checkpoints")
    keep: Count = Field(default=2, description="newest checkpoints kept")


class EvaluateConfig(Section):
    every: Annotated[int, Field(ge=0)] = Field(
        default=0, description="epochs between two evaluations while training; 0: none"
    )
    select: Literal["last", "val", "best-on-test"] = Field(
        default="last",
        description="which checkpoint counts: the last, the best on held-out pairs, or (as released, and "
        "optimistic) the best on the test pairs",
    )
    distance: Literal["pooled", "alignment", "combined"] = Field(
        default="pooled",
        description="what verification quotes first: video embeddings, DTW of frame embeddings, or both",
    )
