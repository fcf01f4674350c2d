"""Recipes: one validated YAML says one training run. An unknown key is refused with the nearest known one."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field, ValidationError, model_validator

from ..cache.errors import StepclipError, nearest
from .knobs import DataConfig, EvaluateConfig, LossConfig, ModelConfig, OptimConfig, Section, TrainConfig

# the methods, and the class of their recipes: imported when a recipe names one
METHODS = {
    "weaksvr": "WeakSVRRecipe",
    "tempclr": "TempCLRRecipe",
    "carl": "CarlRecipe",
    "joint": "JointRecipe",
}
FOLDER = Path(__file__).parent / "recipes"


class Recipe(Section):
    """One training run: what is trained, on what, how. `str(recipe)` is its YAML with the reason beside each
    knob. Each method has a subclass of its own, with its own sections data, model and loss."""

    name: str
    method: str = Field(default="weaksvr", description="what is trained; it has sections of its own below")
    seed: Annotated[int, Field(ge=0, lt=2**31)] = Field(default=0, description="makes the run repeatable")
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    loss: LossConfig = LossConfig()
    optim: OptimConfig = OptimConfig()
    train: TrainConfig = TrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()

    def faults(self) -> dict[str, bool]:
        """What no single knob can know: whether each holds. The message begins with the knob to change."""
        train, evaluate = self.train, self.evaluate
        return {
            "evaluate.every: above 0 beside evaluate.select or train.patience": (
                (evaluate.select != "last" or train.patience > 0) and not evaluate.every
            ),
            "train.precision: not fp16 beside train.cuda_graph = true": (
                train.cuda_graph and train.precision == "fp16"
            ),
        }

    @model_validator(mode="after")
    def _fits_together(self) -> Recipe:
        for fault, found in self.faults().items():
            if found:
                raise ValueError(fault)
        return self

    @property
    def needs_times(self) -> bool:
        """Training reads step times; no other recipe is shown any."""
        return False

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
    tree = _tree(path)
    for override in overrides:
        _override(tree, override)
    return parse_recipe(tree, str(path))


def _tree(path: Path, seen: tuple[Path, ...] = ()) -> dict[str, Any]:
    """What the file says, laid over what the recipe says that it names as its `base`."""
    try:
        tree = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise StepclipError(
            f"a recipe that cannot be read, {path}: {_one_line(error)}", "a YAML file"
        ) from None
    if not isinstance(tree, dict):
        raise StepclipError(f"{path} holds {_kind(tree)}", "a mapping with the sections of a recipe", _SHOW)
    tree.setdefault("name", path.stem)
    base = tree.pop("base", None)
    if base is None:
        return tree
    if not isinstance(base, str):
        raise StepclipError(f"base = {base!r} in {path}", "the name of a recipe or a YAML file", _SHOW)
    below = path.parent / base
    found = below if below.is_file() else _find(base)
    if found in (*seen, path):
        raise StepclipError(f"{path} is its own base, by way of {base!r}", "a chain of bases that ends")
    return _laid_over(_tree(found, (*seen, path)), tree)


def _laid_over(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _laid_over(merged[key], value) if both else value
    return merged


_SHOW = "stepclip recipes   (lists them; each shows every knob with its reason)"


def parse_recipe(tree: Mapping[str, Any], source: str = "recipe") -> Recipe:
    """A recipe from a nested mapping; every fault of it in one StepclipError."""
    kind = _recipe_class(tree.get("method", "weaksvr"), source)
    try:
        return kind.model_validate(dict(tree))
    except ValidationError as error:
        faults = list(dict.fromkeys(_fault(e, kind) for e in error.errors()))
        raise StepclipError(
            "; ".join(f for f, _ in faults) + f" (in {source})", "; ".join(e for _, e in faults)
        ) from None


def _recipe_class(method: Any, source: str) -> type[Recipe]:
    if method not in METHODS:
        raise StepclipError(
            f"method = {method!r}{nearest(str(method), METHODS)} (in {source})",
            f"one of {', '.join(METHODS)}",
        )
    found: type[Recipe] = getattr(import_module(f".{method}.knobs", __package__), METHODS[method])
    return found


def _fault(error: Any, kind: type[Recipe]) -> tuple[str, str]:
    if error["type"] == "value_error" and not error["loc"]:
        knob, _, wanted = error["msg"].removeprefix("Value error, ").partition(": ")
        return f"{knob} does not fit the rest of the recipe", f"{knob}: {wanted}"
    section: type[Section] = kind
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
            f"unknown key {full!r}{nearest(unknown, known) or _elsewhere(unknown, kind)}",
            f"one of {', '.join(known)}",
        )
    if error["type"] == "missing":
        return f"no key {key!r}", "a value for it"
    return f"{key} = {error['input']!r}", f"{key}: {_expected(error['msg'])}"


def _expected(message: str) -> str:
    if message.startswith("Input should be a valid dictionary"):
        return "a section with knobs of its own"
    return message.removeprefix("Input should be ")


def _elsewhere(word: str, kind: type[Recipe]) -> str:
    places = [
        f"{name}.{word}"
        for name, field in kind.model_fields.items()
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
