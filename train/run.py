"""A run's folder: refused when it is taken, checked when it is taken up again."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from .. import __version__
from ..cache.errors import StepclipError
from ..cache.files import read_json, write_atomically
from ..cache.fingerprint import Fingerprint
from .checkpoint import find_checkpoint
from .method import Method
from .recipe import Recipe, load_recipe

MADE_HERE = ("recipe.yaml", "log.jsonl", "checkpoints", "tensorboard", "diverged")
# what does not change the weights may differ on a resume
_FREE = (
    "name",
    "data.features",
    "evaluate.distance",
    "train.cuda_graph",
    "train.compile",
    "train.diverged",
    "train.log_every",
    "train.save_every",
    "train.keep",
)


class RunFolder:
    """`path` of a run to start, to start over (`overwrite`) or to take up (`resume`); `found` is the
    checkpoint then."""

    def __init__(
        self,
        path: Path,
        recipe: Recipe,
        fingerprint: Fingerprint,
        method: Method,
        *,
        resume: bool,
        overwrite: bool,
        first: bool = True,
    ) -> None:
        """`first`: of several processes the one that writes; the others look only for a checkpoint."""
        self.path, self.checkpoints, self.recipe = path, path / "checkpoints", recipe
        self.meta: dict[str, Any] = {
            "stepclip": __version__,
            "recipe": recipe.name,
            "fingerprint": fingerprint.fields,
            "digest": fingerprint.digest,
            "data": method.digest(),
            "videos": len(method.ids),
        }
        self.found: Path | None = None
        self.found_meta: dict[str, Any] = {}
        if resume and overwrite:
            raise StepclipError("both resume and overwrite", "one of them")
        if path.exists() and not path.is_dir():
            raise StepclipError(f"{path} is a file", "a folder for the run")
        if resume:
            self._take_up(fingerprint)
        elif first and path.exists() and any(path.iterdir()):
            self._start_over(overwrite)

    def _start_over(self, overwrite: bool) -> None:
        if not any((self.path / name).exists() for name in MADE_HERE):
            there = ", ".join(sorted(p.name for p in self.path.iterdir())[:5])
            raise StepclipError(f"{self.path} is no run: it holds {there}", "an empty or new folder")
        if not overwrite:
            raise StepclipError(
                f"a run is there already: {self.path}",
                "a new folder for a new run",
                "the same with --resume to go on, or --overwrite to start over (its checkpoints are lost)",
            )
        for name in MADE_HERE:
            target = self.path / name
            if target.is_dir() and not target.is_symlink():
                shutil.rmtree(target)
            else:
                target.unlink(missing_ok=True)

    def _take_up(self, fingerprint: Fingerprint) -> None:
        if not self.checkpoints.is_dir():
            if (self.path / "recipe.yaml").is_file():  # ended before its first checkpoint
                self._same_recipe(load_recipe(self.path / "recipe.yaml"))
                return
            raise StepclipError(
                f"no run to resume in {self.path}", "the folder of a run", "the same without --resume"
            )
        try:
            self.found = find_checkpoint(self.path, newest=True)
        except StepclipError:
            if not (self.path / "recipe.yaml").is_file():
                raise
            self._same_recipe(load_recipe(self.path / "recipe.yaml"))
            return
        self._same_recipe(load_recipe(self.found / "recipe.yaml"))
        self.found_meta = read_json(self.found / "meta.json")
        before = Fingerprint(self.found_meta.get("fingerprint", {}))
        if before != fingerprint:
            raise StepclipError(
                f"the run {self.path} was trained on another cache:\n"
                + before.table(fingerprint, "run", "now"),
                "the cache of the run",
                "resume with that cache, or start a new run",
            )
        if self.found_meta.get("data") != self.meta["data"]:
            raise StepclipError(
                f"the run {self.path} was trained on other videos or scripts "
                f"({self.found_meta.get('videos')} then, {self.meta['videos']} now)",
                "the same manifest and the same extracted videos",
                "resume with those, or start a new run",
            )

    def _same_recipe(self, before: Recipe) -> None:
        changed = [row for row in before.difference(self.recipe) if row[0] not in _FREE]
        if changed:
            table = "\n".join(f"  {key}  run: {mine}  now: {theirs}" for key, mine, theirs in changed)
            raise StepclipError(
                f"the run {self.path} has another recipe:\n{table}",
                "the recipe of the run",
                f"resume with {self.path / 'recipe.yaml'}, or start a new run",
            )

    def say_recipe(self) -> None:
        """recipe.yaml of the run."""
        self.path.mkdir(parents=True, exist_ok=True)
        with write_atomically(self.path / "recipe.yaml", "w") as file:
            file.write(str(self.recipe))
