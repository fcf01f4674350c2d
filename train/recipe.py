"""Recipes: one validated YAML says one training run. An unknown key is refused with the nearest known one."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from ..cache.errors import StepclipError, nearest

FOLDER = Path(__file__).parent / "recipes"
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Weight = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    # strict: "true" is no number and 1 no truth value; a recipe means what it says
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class DataConfig(Section):
    features: Literal["auto", "device", "mapped"] = Field(
        default="auto",
        description="mapped: each batch is read from the disk; auto: where memory is too small",
    )
    batch: Count = Field(default=32, description="videos of one step; more negatives for the coarse loss")
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
    fine: Weight = Field(default=1.0, description="weight of frame against sentence, image side")
    fine_text: Weight = Field(default=1.0, description="weight of sentence against frames, text side")
    labels: Literal["viterbi", "visit-all", "prior", "uniform"] = Field(
        default="viterbi", description="how pseudo-labels are made"
    )
    text_form: Literal["mean", "mil"] = Field(
        default="mean", description="text side over the frames of a sentence"
    )


class OptimConfig(Section):
    lr: Positive = Field(default=5e-4, description="peak learning rate")
    weight_decay: Weight = Field(
        default=0.01, description="on matrices only, not on biases, norms, positions, temperatures"
    )
    warmup: Share = Field(default=0.05, description="share of the steps that lead up to the peak")
    final_lr: Share = Field(default=0.01, description="end of the cosine, over the peak")
    clip: Weight = Field(default=1.0, description="largest gradient norm; 0 = no limit")
    ema: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.0, description="decay of the averaged weights; 0 = none"
    )


class TrainConfig(Section):
    epochs: Count = Field(default=300, description="passes over the training videos")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        default="auto", description="auto: bf16 where the hardware has it"
    )
    log_every: Count = Field(
        default=20, description="steps between two lines of the log; the only time the host waits"
    )
    save_every: Count = Field(default=50, description="epochs between two checkpoints")
    keep: Count = Field(default=2, description="newest checkpoints kept")


class EvaluateConfig(Section):
    distance: Literal["pooled", "alignment", "combined"] = Field(
        default="pooled",
        description="what verification quotes first: video embeddings, DTW of frame embeddings, or both",
    )


class Recipe(Section):
    """One training run: what is trained, on what, how. `str(recipe)` is its YAML with the reason beside each
    knob."""

    name: str
    seed: Annotated[int, Field(ge=0, lt=2**31)] = Field(default=0, description="makes the run repeatable")
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    loss: LossConfig = LossConfig()
    optim: OptimConfig = OptimConfig()
    train: TrainConfig = TrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()

    def flat(self) -> dict[str, Any]:
        """Every knob under its dotted name."""
        return {key: value for key, value, _ in _walk(self)}

    def difference(self, other: Recipe) -> list[tuple[str, Any, Any]]:
        mine, theirs = self.flat(), other.flat()
        return [(key, mine[key], theirs[key]) for key in mine if mine[key] != theirs[key]]

    def __str__(self) -> str:
        lines, section = [], ""
        for key, value, reason in _walk(self):
            head, _, leaf = key.rpartition(".")
            if head != section:
                lines.append(f"{head}:")
                section = head
            shown = f"{'  ' if head else ''}{leaf}: {_yaml(value)}"
            lines.append(f"{shown:<30} # {reason}" if reason else shown)
        return "\n".join(lines) + "\n"


def _walk(section: Section, prefix: str = "") -> Iterator[tuple[str, Any, str]]:
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, Section):
            yield from _walk(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value, field.description or ""


def _yaml(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True, width=10**6).removesuffix("\n...\n").strip()


class _Loader(yaml.SafeLoader):
    """YAML 1.1 reads 1e-4 as a string; everyone who writes it in a recipe means the number."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


def list_recipes() -> list[str]:
    """The recipes that come with StepCLIP."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load_recipe(name_or_path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """A recipe by name (see `list_recipes`) or from a YAML file, with `a.b=c` overrides laid over it.

    StepclipError: no such recipe, a file that is no YAML mapping, an unknown key (with the nearest known
    one), a value of the wrong type or out of range (with key, value, what was expected), an override without
    `=`.
    """
    path = _find(name_or_path)
    try:
        tree = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise StepclipError(
            f"a recipe that cannot be read, {path}: {_one_line(error)}", "a YAML file"
        ) from None
    if not isinstance(tree, dict):
        raise StepclipError(f"{path} holds {_kind(tree)}", "a mapping with the sections of a recipe", _SHOW)
    tree.setdefault("name", path.stem)
    for override in overrides:
        _override(tree, override)
    return parse_recipe(tree, str(path))


_SHOW = "stepclip recipes   (lists them; each shows every knob with its reason)"


def parse_recipe(tree: Mapping[str, Any], source: str = "recipe") -> Recipe:
    """A recipe from a nested mapping; every fault of it in one StepclipError."""
    try:
        return Recipe.model_validate(dict(tree))
    except ValidationError as error:
        faults = list(dict.fromkeys(_fault(e) for e in error.errors()))
        raise StepclipError(
            "; ".join(f for f, _ in faults) + f" (in {source})", "; ".join(e for _, e in faults)
        ) from None


def _fault(error: Any) -> tuple[str, str]:
    section: type[Section] = Recipe
    path: list[str] = []
    for part in map(str, error["loc"]):
        field = section.model_fields.get(part)
        if field is None:
            break
        path.append(part)
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            section = field.annotation
    key = ".".join(path)
    if error["type"] == "extra_forbidden":
        known = list(section.model_fields)
        unknown = str(error["loc"][-1])
        full = ".".join([*path, unknown])
        return (
            f"unknown key {full!r}{nearest(unknown, known) or _elsewhere(unknown)}",
            f"one of {', '.join(known)}",
        )
    if error["type"] == "missing":
        return f"no key {key!r}", "a value for it"
    return f"{key} = {error['input']!r}", f"{key}: {_expected(error['msg'])}"


def _expected(message: str) -> str:
    if message.startswith("Input should be a valid dictionary"):
        return "a section with knobs of its own"
    return message.removeprefix("Input should be ")


def _elsewhere(word: str) -> str:
    places = [
        f"{name}.{word}"
        for name, field in Recipe.model_fields.items()
        if isinstance(field.annotation, type)
        and issubclass(field.annotation, Section)
        and word in field.annotation.model_fields
    ]
    return f" (it belongs in {' or '.join(map(repr, places))})" if places else ""


def _find(name_or_path: str | Path) -> Path:
    named = FOLDER / f"{name_or_path}.yaml"
    if isinstance(name_or_path, str) and "/" not in name_or_path and named.is_file():
        return named
    path = Path(name_or_path)
    if path.is_file():
        return path
    known = list_recipes()
    raise StepclipError(
        f"no recipe {str(name_or_path)!r}{nearest(str(name_or_path), known)}",
        f"a YAML file, or one of {', '.join(known)}",
        _SHOW,
    )


def _override(tree: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise StepclipError(f"the override {override!r}", "key=value, for example optim.lr=1e-4")
    try:
        value = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError:
        value = text
    node = tree
    for depth, part in enumerate(parts[:-1]):
        if node.get(part) is None:
            node[part] = {}
        if not isinstance(node[part], dict):
            raise StepclipError(
                f"the override {override!r}: {'.'.join(parts[: depth + 1])!r} is a value", "a section"
            )
        node = node[part]
    node[parts[-1]] = value


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _kind(value: Any) -> str:
    return "nothing" if value is None else f"a {type(value).__name__}"
