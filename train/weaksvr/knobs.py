"""The knobs of WeakSVR and SVIP, section by section, and what of them fits together."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from ..knobs import Count, DataConfig, Labelling, LossConfig, ModelConfig, Positive, Share, Weight
from ..recipe import Recipe

CORPUS = "corpus"  # of loss.labels: `losses/corpus_labels.py`


class WeakSVRData(DataConfig):
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

    @field_validator("same_task", mode="before")
    @classmethod
    def _all_or_none(cls, value: Any) -> Any:
        return float(value) if isinstance(value, bool) else value


class WeakSVRModel(ModelConfig):
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
    durations: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.0,
        description="sentences say how long steps last: this share of it at least; 0: they do not",
    )

    @property
    def size(self) -> str:
        return f"{self.frames} frames, {self.width} x {self.depth}"


class WeakSVRLoss(LossConfig):
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
    labels: Labelling | Literal["corpus"] = Field(
        default="viterbi",
        description="how pseudo-labels are made; corpus: before training, from all its videos together",
    )
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
    def weights(self) -> dict[str, float]:
        labels = f", steps labelled by `{self.labels}`"
        return {
            "coarse (video, paragraph)": self.coarse,
            f"fine (frame, sentences{labels})": self.fine,
            f"fine_text (sentence, frames{labels})": self.fine_text,
            "script (own, edited scripts)": self.script,
            "alignment (videos of one script warped onto each other)": self.alignment,
            "classes (procedure labels)": self.classes,
            "sequence (pairs aligned)": self.sequence,
        }

    @property
    def supervision(self) -> str:
        if self.classes or self.sequence:
            return "the scripts' sentences in order, and procedure labels"
        return super().supervision

    @property
    def needs_text(self) -> bool:
        return bool(self.coarse or self.fine or self.fine_text or self.script)


class WeakSVRRecipe(Recipe):
    """A run of WeakSVR or SVIP."""

    method: Literal["weaksvr"] = Field(
        default="weaksvr", description="what is trained; it has sections of its own below"
    )
    data: WeakSVRData = WeakSVRData()
    model: WeakSVRModel = WeakSVRModel()
    loss: WeakSVRLoss = WeakSVRLoss()

    def faults(self) -> dict[str, bool]:
        loss, data = self.loss, self.data
        return {
            "loss.labels: sort, viterbi or split beside loss.fine_form = official": (
                loss.fine_form == "official" and loss.labels not in ("sort", "viterbi", "split")
            ),
            "data.padding: mask beside loss.fine_form = corrected": (
                loss.fine_form == "corrected" and data.padding != "mask"
            ),
            "loss.teacher: false beside loss.fine_form = official": (
                loss.fine_form == "official" and loss.teacher
            ),
            "loss.fine: above 0, its form corrected, beside model.durations": self.model.durations > 0
            and (loss.fine_form == "official" or not loss.fine),
            "loss.teacher: false beside loss.labels = corpus, which no model makes": (
                loss.teacher and loss.labels == CORPUS
            ),
            "optim.ema: above 0 beside loss.teacher = true": loss.teacher and not self.optim.ema,
            "data.pairs: true beside loss.sequence > 0": loss.sequence > 0 and not data.pairs,
            "data.batch: an even number beside data.pairs = true": data.pairs and data.batch % 2 == 1,
            "data.batch: a multiple of loss.coarse_group": (
                loss.coarse_group > 0 and data.batch % loss.coarse_group > 0
            ),
            "model.text: true beside a loss of text (coarse, fine, fine_text, script)": (
                not self.model.text and loss.needs_text
            ),
            "loss.coarse: one of the losses above 0": not (
                loss.needs_text or loss.classes or loss.sequence or loss.alignment
            ),
            **super().faults(),
        }
