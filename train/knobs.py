"""The knobs of a recipe, section by section: their types, their ranges, and what each is for."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

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
    features: Literal["auto", "device", "mapped"] = Field(
        default="auto",
        description="mapped: each batch is read from the disk; auto: where memory is too small",
    )
    batch: Count = Field(default=32, description="videos of one step; more negatives for the coarse loss")
    items: Annotated[int, Field(ge=0)] = Field(
        default=0, description="videos (or pairs) of an epoch, drawn by seed and epoch; 0: all of them"
    )
    pairs: bool = Field(
        default=False, description="a batch is pairs of videos of one procedure, side by side"
    )
    padding: Literal["mask", "zeros", "mean"] = Field(
        default="mask",
        description="sentences beyond a script's end: unused, or features that compete (fine_form: official)",
    )
    pad_to: Annotated[int, Field(ge=0)] = Field(
        default=0, description="sentences of a padded script; 0: as many as the longest has"
    )
    same_task: Share = Field(
        default=0.0, description="share of batches drawn from few tasks: near-identical scripts meet"
    )
    feature_noise: Weight = Field(
        default=0.0, description="noise added to frame features, in units of their mean size"
    )
    frame_dropout: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.0, description="chance that a frame is replaced by the one before it"
    )
    val_tasks: Annotated[int, Field(ge=0)] = Field(
        default=0, description="whole training tasks held out, to watch the loss on"
    )

    @field_validator("same_task", mode="before")
    @classmethod
    def _all_or_none(cls, value: Any) -> Any:
        return float(value) if isinstance(value, bool) else value


class ModelConfig(Section):
    frames: Count = Field(default=16, description="rows of a view: one per equal part of the video")
    width: Count = Field(default=1024, description="width of the transformer")
    depth: Annotated[int, Field(ge=0)] = Field(default=2, description="transformer layers")
    heads: Count = Field(default=8, description="attention heads")
    head_dim: Count = Field(default=64, description="width of one head")
    mlp_ratio: Positive = Field(
        default=2.0, description="width of the hidden layer of a block, over the model's width"
    )
    hidden: bool = Field(
        default=True, description="a second input layer with ReLU (ffn3 of the released model)"
    )
    dropout: Annotated[float, Field(ge=0, lt=1)] = Field(default=0.0, description="dropout in the blocks")
    input_norm: Literal["none", "layernorm", "l2", "standardise"] = Field(
        default="layernorm",
        description="what is done to raw features first; standardise: mean and spread of the training set",
    )
    centre: bool = Field(
        default=False,
        description="take each video's mean off its features first: person, room and light go with it",
    )
    smooth: Weight = Field(
        default=0.0, description="frames averaged with their neighbours: Gaussian, in rows of a view; 0: not"
    )
    motion: Weight = Field(
        default=0.0, description="weight in H of how frames change, turned away from what they show; 0: none"
    )
    text_weight: Weight = Field(
        default=0.0,
        description="directions of frame features raised by how much sentences differ there, to this power",
    )
    positions: Literal["learned", "sinusoidal", "none"] = Field(
        default="learned", description="where in the video a frame is"
    )
    position_std: Weight = Field(default=0.02, description="spread of learned positions at the start")
    cls: bool = Field(default=True, description="a learned token in front, dropped at the end (a register)")
    cls_std: Weight = Field(default=0.02, description="spread of that token at the start")
    init: Literal["xavier", "default"] = Field(
        default="xavier", description="start of the linear layers before the pooling; default: PyTorch's"
    )
    attention_scale: Literal["head", "width"] = Field(
        default="head", description="width: the released model's, a defect"
    )
    pooling: Literal["flatten", "mean", "attention"] = Field(
        default="flatten", description="frames to video; flatten keeps order"
    )
    text: bool = Field(
        default=True, description="frames and video live in the space of the text; false: SVIP's head"
    )
    video_dim: Annotated[int, Field(ge=0)] = Field(
        default=0, description="width of the video embedding without text; 0: that of a frame"
    )
    residual: bool = Field(
        default=True, description="H = unit CLIP feature + correction that starts at 0: keeps zero-shot text"
    )
    video_residual: bool = Field(
        default=False, description="v = mean of unit H + correction that starts at 0"
    )
    scale: Annotated[float, Field(ge=1, le=100)] = Field(
        default=1 / 0.07, description="both logit scales at the start"
    )


class LossConfig(Section):
    coarse: Weight = Field(default=1.0, description="weight of video against paragraph")
    coarse_form: Literal["plain", "multi", "mil", "exclude"] = Field(
        default="multi",
        description="what other videos of the same procedure are: wrong (plain), right (multi, mil), unused",
    )
    coarse_group: Annotated[int, Field(ge=0)] = Field(
        default=0, description="videos that see each other's paragraphs, as on one GPU as released; 0: all"
    )
    task_negatives: Annotated[int, Field(ge=0)] = Field(
        default=0, description="paragraphs of other procedures of its task, wrong for each video"
    )
    fine: Weight = Field(default=1.0, description="weight of frame against sentence, image side")
    fine_text: Weight = Field(default=1.0, description="weight of sentence against frames, text side")
    fine_form: Literal["corrected", "official"] = Field(
        default="corrected", description="official: with every quirk of the released code"
    )
    labels: Labelling = Field(default="viterbi", description="how pseudo-labels are made")
    prior_spread: Positive = Field(
        default=0.15, description="of the labels prior and soft-prior: spread of a step's place in the video"
    )
    teacher: bool = Field(
        default=False, description="pseudo-labels by the averaged weights (optim.ema), not by the raw ones"
    )
    gumbel: bool = Field(default=False, description="Gumbel noise on the logits of the fine loss")
    tau: Annotated[float, Field(gt=0, le=1)] = Field(
        default=1.0, description="what noisy logits are divided by (official: the frame scale)"
    )
    text_form: Literal["mean", "mil"] = Field(
        default="mean", description="text side over the frames of a sentence"
    )
    script: Weight = Field(
        default=0.0, description="weight of its own script against edited ones, aligned with the frames"
    )
    script_edits: Count = Field(
        default=6, description="edited scripts per video: sentences swapped, dropped, inserted in turn"
    )
    alignment: Weight = Field(
        default=0.0, description="weight of warping videos of one script onto each other, against others"
    )
    alignment_scale: Positive = Field(
        default=30.0, description="what warping costs are multiplied by in it; larger: the nearest count"
    )
    classes: Weight = Field(default=0.0, description="weight of naming the procedure, with class labels")
    sequence: Weight = Field(default=0.0, description="weight of SVIP's alignment of pairs (data.pairs)")
    sequence_tau: Positive = Field(default=1.0, description="its temperature; released: none, which is 1")

    @property
    def terms(self) -> tuple[str, ...]:
        """The losses that a recipe asks for, in the order in which they are logged."""
        fine = self.fine or self.fine_text
        asked = {
            "coarse": self.coarse,
            "fine": fine,
            "fine_text": fine,
            "script": self.script,
            "alignment": self.alignment,
            "classes": self.classes,
            "sequence": self.sequence,
        }
        return tuple(name for name, weight in asked.items() if weight)

    @property
    def needs_text(self) -> bool:
        return bool(self.coarse or self.fine or self.fine_text or self.script)


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
