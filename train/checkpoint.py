"""Checkpoints: a folder each, written aside and renamed, so that it is whole or not there.

```
runs/<run>/checkpoints/00001200/   model.safetensors  recipe.yaml  state.pt  meta.json  README.md
runs/<run>/checkpoints/last        the name of the newest, one line
runs/<run>/checkpoints/best        the name of the one that counts, where the recipe selects (evaluate.select)
```
`model.safetensors` holds what is evaluated (the averaged weights, where the recipe averages); `state.pt` what
a resume needs besides: raw weights, optimiser, random generator. It holds tensors and plain values only (read
with weights_only).
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..cache.errors import StepclipError
from ..cache.files import read_json, write_atomically, write_json
from ..cache.fingerprint import Fingerprint
from .card import model_card
from .method import Embedder, build_model
from .recipe import Recipe, load_recipe

FILES = ("model.safetensors", "recipe.yaml", "state.pt", "meta.json")


@dataclass(frozen=True)
class Checkpoint:
    """A trained model with all that says how it came about; `model` is in evaluation mode, in float32."""

    recipe: Recipe
    model: Embedder
    fingerprint: Fingerprint
    step: int
    metrics: dict[str, float] = field(default_factory=dict)
    path: Path = Path()
    meta: dict[str, Any] = field(default_factory=dict)


def save_checkpoint(
    folder: Path,
    *,
    recipe: Recipe,
    weights: Mapping[str, Tensor],
    state: dict[str, Any],
    meta: dict[str, Any],
    keep: int = 2,
    best: bool = False,
    pointed: bool = True,
) -> Path:
    """Write `folder`/<step>/ (step from `meta`) and point `last` to it, and with `best` that too; then drop
    all but the `keep` newest and the best. `pointed=False` writes it and nothing else."""
    target = folder / f"{meta['step']:08d}"
    aside = folder / f".{target.name}.{os.getpid()}.{secrets.token_hex(3)}.tmp"
    try:
        aside.mkdir(parents=True)
        save_file(
            {name: value.detach().cpu().contiguous() for name, value in weights.items()}, aside / FILES[0]
        )
        (aside / FILES[1]).write_text(str(recipe), encoding="utf-8")
        torch.save(state, aside / FILES[2])
        write_json(aside / FILES[3], meta)
        (aside / "README.md").write_text(model_card(recipe, meta), encoding="utf-8")
        for name in FILES[:3]:
            with open(aside / name, "rb+") as file:
                os.fsync(file.fileno())
        if target.exists():  # an older writing of the same step
            shutil.rmtree(target)
        os.replace(aside, target)
    except (OSError, SafetensorError) as error:
        raise StepclipError(
            f"the checkpoint {target} cannot be written: {error}",
            "a folder that can be written, with room on its disk",
            "free some space and run again with resume: the checkpoints before it are whole",
        ) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    if not pointed:
        return target
    for pointer in ("last", "best") if best else ("last",):
        with write_atomically(folder / pointer, "w") as file:
            file.write(target.name + "\n")
    kept = {target, _pointed(folder, "best")}
    for old in _steps(folder)[:-keep]:
        if old not in kept:
            shutil.rmtree(old, ignore_errors=True)
    return target


def _pointed(home: Path, pointer: str) -> Path | None:
    """The whole checkpoint that a pointer names, if there is one."""
    try:
        name = (home / pointer).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return None
    return home / name if name and (home / name / "meta.json").is_file() else None


def find_checkpoint(path: str | os.PathLike[str], newest: bool = False) -> Path:
    """The checkpoint folder that `path` means: one itself, or that of a run which counts: the best where the
    recipe selects, else (and with `newest`) the last. StepclipError when there is none."""
    folder = Path(path)
    if (folder / "meta.json").is_file():
        return folder
    for home in (folder / "checkpoints", folder):
        for pointer in ("last",) if newest else ("best", "last"):
            if named := _pointed(home, pointer):
                return named
        if steps := _steps(home):  # the pointer is lost or points to nothing: the newest whole one
            return steps[-1]
    what = f"no checkpoint under {folder}" if folder.is_dir() else f"no folder {folder}"
    raise StepclipError(what, "a run folder (runs/<name>) or one of its checkpoints", "stepclip train")


def load_checkpoint(path: str | os.PathLike[str], device: str = "cpu") -> Checkpoint:
    """Read the model of a run (the checkpoint that counts, see `find_checkpoint`) or of one checkpoint.

    StepclipError: no checkpoint, a file missing or damaged, weights that do not fit the recipe.
    """
    folder = find_checkpoint(path)
    recipe = load_recipe(folder / "recipe.yaml")
    meta = read_json(folder / "meta.json")
    try:
        fingerprint = Fingerprint(meta["fingerprint"])
        model = build_model(recipe, meta)
        step, metrics = int(meta["step"]), dict(meta["metrics"])
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(folder / "meta.json", error) from error
    try:
        model.load_state_dict(load_file(folder / "model.safetensors"))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise _damaged(folder / "model.safetensors", error) from error
    return Checkpoint(recipe, model.to(device).eval(), fingerprint, step, metrics, folder, meta)


def load_state(folder: Path) -> dict[str, Any]:
    """The training state of a checkpoint, tensors on the CPU."""
    try:
        state = torch.load(folder / "state.pt", map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds on damaged files
        raise _damaged(folder / "state.pt", error) from error
    return dict(state)


def _steps(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    found = [p for p in folder.iterdir() if re.fullmatch(r"\d+", p.name) and (p / "meta.json").is_file()]
    return sorted(found, key=lambda p: int(p.name))


def _damaged(path: Path, error: Exception) -> StepclipError:
    what = " ".join(str(error).split())[:200] or type(error).__name__
    return StepclipError(
        f"{path} is missing or damaged: {what}",
        "a whole checkpoint",
        f"another one of {path.parent.parent}, or train again",
    )
