"""The knobs of TempCLR, section by section, and what of them fits together."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ..knobs import Count, DataConfig, LossConfig, ModelConfig, Positive, Section, Share, Weight
from ..recipe import Recipe


class TempCLRData(DataConfig):
    batch: Count = Field(default=16, description="videos of one step")
    units: Literal["drawn", "script", "rows"] = Field(
        default="drawn",
        description="drawn: random pairs of a sentence and a window in its span; script: every sentence with "
        "windows of its span; rows: the labelled rows of the video, to fine-tune localisation",
    )
    pairs: Count = Field(default=16, description="units drawn: pairs of a video")
    windows: Count = Field(default=1, description="units script: windows of each sentence")
    rows: Count = Field(
        default=10, description="units rows: at most so many rows for each step of the script"
    )
    spans: Literal["given", "visit-all", "prior", "uniform"] = Field(
        default="visit-all",
        description="where in the video a sentence is: true times of the manifest, ordered alignment of the "
        "features (prior: near its share of it), or equal parts",
    )
    shortest: Count = Field(default=3, description="frames of the shortest window")
    longest: Count = Field(default=32, description="frames of the longest, at most model.window")
    feature_noise: Weight = Field(
        default=0.0, description="noise added to frame features, in units of their mean size"
    )
    neighbours: Annotated[int, Field(ge=0)] = Field(
        default=0,
        description="batches from so many nearest videos of a random one, from the second epoch; 0: not",
    )


class TempCLRModel(ModelConfig):
    window: Count = Field(default=32, description="frames of a window at most: the places that there are")
    reach: Annotated[int, Field(ge=0)] = Field(
        default=0, description="frames of the window around a frame that embeds it after training; 0: window"
    )
    width: Count = Field(default=512, description="width of the transformer")
    depth: Annotated[int, Field(ge=0)] = Field(default=2, description="transformer layers")
    heads: Count = Field(default=8, description="attention heads")
    mlp_ratio: Positive = Field(
        default=4.0, description="width of the hidden layer of a block, over the width"
    )
    dropout: Annotated[float, Field(ge=0, lt=1)] = Field(default=0.1, description="dropout in the blocks")
    position_std: Weight = Field(default=0.02, description="spread of learned positions at the start")
    centre: bool = Field(
        default=False,
        description="take each video's mean off its frames, the mean sentence off sentences: person, room, "
        "light go with it",
    )
    text: Literal["adapter", "frozen"] = Field(
        default="adapter", description="sentences through a residual layer that starts at 0, or as they are"
    )
    gain: bool = Field(
        default=False,
        description="a learned factor for each of CLIP's numbers, past the branches; trained as the norms",
    )
    scale: Annotated[float, Field(ge=1, le=100)] = Field(
        default=1 / 0.07, description="scale of cosines in the unit loss at the start"
    )

    @property
    def size(self) -> str:
        return f"windows of up to {self.window} frames, {self.width} x {self.depth}"


class TempCLRLoss(LossConfig):
    unit: Weight = Field(default=0.3, description="weight of windows against sentences")
    unit_form: Literal["cosine", "dot"] = Field(
        default="cosine", description="scaled cosines, or raw products without a temperature (released)"
    )
    same: Literal["unused", "wrong"] = Field(
        default="unused", description="what other pairs with the same sentence are (released: wrong)"
    )
    against: Literal["batch", "video"] = Field(
        default="batch", description="which pairs are wrong: all of the step (released), or its own video's"
    )
    naming: Weight = Field(
        default=0.0, description="weight of each row against each step of its script, yes or no (units rows)"
    )
    sequence: Weight = Field(default=0.7, description="weight of a video's sequence against re-ordered ones")
    videos: Weight = Field(
        default=0.0, description="weight of another video of its procedure against its re-ordered forms"
    )
    cost: Literal["cosine", "tempclr"] = Field(
        default="cosine", description="tempclr: 0.01 in the denominator, as released"
    )
    standardise: bool = Field(
        default=False,
        description="costs divided by their spread in the batch: CLIP's cosines lie close together",
    )
    distance: Literal["soft_dtw", "soft_otam"] = Field(default="soft_dtw", description="of two sequences")
    gamma: Positive = Field(default=0.1, description="its softness, in units of the cost")
    normalise: Literal["sum", "L+N", "path", "max", "L*N"] = Field(
        default="sum", description="what a distance is divided by; sum: nothing (released)"
    )
    tau: Positive = Field(default=1.0, description="what distances are divided by in the softmax")
    learn_tau: bool = Field(default=False, description="it is learned from there")
    length: Annotated[int, Field(ge=2)] = Field(
        default=5,
        description="units drawn: pairs of a sequence, that do not overlap; videos with fewer are out",
    )
    strict: bool = Field(
        default=False, description="units drawn: an unused sentence and row between two pairs, as released"
    )
    negatives: Count = Field(default=31, description="re-ordered sequences of a video")
    side: Literal["text", "video", "both"] = Field(default="text", description="what is re-ordered")
    granularity: Literal["segments", "clips", "both"] = Field(
        default="segments",
        description="on the video side: whole segments, windows inside them, or both; a text has segments",
    )
    adjacent: Share = Field(
        default=0.0,
        description="share of the re-ordered sequences in which two neighbours change places, no more",
    )
    rivals: bool = Field(
        default=False, description="the scripts of the batch's other procedures are wrong sequences too"
    )

    @property
    def terms(self) -> tuple[str, ...]:
        return tuple(name for name in ("unit", "naming", "sequence", "videos") if getattr(self, name))

    @property
    def weights(self) -> dict[str, float]:
        return {
            "unit (window, sentences)": self.unit,
            "naming (row, steps of its script)": self.naming,
            f"sequence (own, {self.negatives} re-ordered, by {self.distance})": self.sequence,
            "videos (of one procedure, re-ordered ones)": self.videos,
        }


class StagesConfig(Section):
    """Stage A learns units alone, stage B sequences beside them."""

    first: Annotated[int, Field(ge=0)] = Field(
        default=0, description="epochs of stage A, unit loss alone, all weights; the rest is stage B"
    )
    trained: Literal["layernorm", "all"] = Field(default="layernorm", description="what stage B trains")
    rate: Positive = Field(default=1.0, description="learning rate of stage B, over that of stage A")


class TempCLRRecipe(Recipe):
    """A run of TempCLR."""

    method: Literal["tempclr"] = Field(
        default="tempclr", description="what is trained; it has sections of its own below"
    )
    data: TempCLRData = TempCLRData()
    model: TempCLRModel = TempCLRModel()
    loss: TempCLRLoss = TempCLRLoss()
    stages: StagesConfig = StagesConfig()

    @property
    def needs_times(self) -> bool:
        return self.data.spans == "given"

    @property
    def needs_text(self) -> bool:
        """Whether sentences are looked at: videos against videos, with steps placed otherwise, need none."""
        return self.loss.terms != ("videos",) or self.data.spans not in ("given", "uniform")

    def faults(self) -> dict[str, bool]:
        loss, data = self.loss, self.data
        return {
            "loss.unit: one of the losses above 0": not loss.terms,
            "loss.unit: above 0 beside stages.first > 0": self.stages.first > 0 and not loss.unit,
            "loss.naming: 0 unless data.units = rows": loss.naming > 0 and data.units != "rows",
            "data.spans: given beside data.units = rows": data.units == "rows" and data.spans != "given",
            "loss.length: at most data.pairs": data.units == "drawn" and loss.length > data.pairs,
            "data.longest: from data.shortest to model.window": not (
                data.shortest <= data.longest <= self.model.window
            ),
            "data.batch: 2 or more beside loss.videos or loss.rivals": data.batch < 2
            and bool(loss.videos or loss.rivals),
            "model.reach: at most model.window": self.model.reach > self.model.window,
            "model.width: a multiple of model.heads": self.model.width % self.model.heads > 0,
            "stages.first: 0 beside train.cuda_graph": self.stages.first > 0 and self.train.cuda_graph,
            "stages.first: fewer than train.epochs": 0 < self.train.epochs < self.stages.first,
            **super().faults(),
        }
