"""Where everything made lies: one root, and under it `data/`, `runs/` and `indexes/` (docs/interfaces.md)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..cache.errors import StepclipError, nearest
from ..cache.files import read_json, write_json

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}")


def checked_name(name: str, what: str) -> str:
    """`name` when it can name a folder; StepclipError otherwise, so that no name leads out of the root."""
    if not _NAME.fullmatch(name):
        raise StepclipError(
            f"the {what} name {name!r}", "letters, digits and . _ + - (it names a folder), at most 100"
        )
    return name


@dataclass(frozen=True)
class DatasetPaths:
    """`data/<name>/` and what lies in it."""

    folder: Path

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def manifest(self) -> Path:
        return self.folder / "manifest"

    @property
    def features(self) -> Path:
        return self.folder / "features"

    @property
    def missing(self) -> Path:
        """One line per video that the annotations name and that was not found."""
        return self.folder / "missing.txt"

    @property
    def extra(self) -> Path:
        """What a release says beyond the manifest, by video id: frame labels, errors."""
        return self.folder / "extra.json"

    @property
    def settings(self) -> Path:
        """How the features were asked for, so that later stages need not be told again."""
        return self.folder / "extraction.json"


@dataclass(frozen=True)
class RunPaths:
    """`runs/<name>/` and what lies in it."""

    folder: Path

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def source(self) -> Path:
        """Which dataset the run was trained on."""
        return self.folder / "source.json"

    @property
    def dataset(self) -> str:
        """The dataset's name, "" where it is not on record."""
        return str(read_json(self.source).get("dataset", "")) if self.source.is_file() else ""


@dataclass(frozen=True)
class Layout:
    """The folders under one root."""

    root: Path

    def dataset(self, name: str) -> DatasetPaths:
        return DatasetPaths(self.root / "data" / checked_name(name, "dataset"))

    def run(self, name: str) -> RunPaths:
        return RunPaths(self.root / "runs" / checked_name(name, "run"))

    def index(self, run: str) -> Path:
        return self.root / "indexes" / checked_name(run, "run")

    def datasets(self) -> list[str]:
        """Names of the datasets that have a manifest."""
        return sorted(path.parent.parent.name for path in self.root.glob("data/*/manifest/videos.parquet"))

    def runs(self, dataset: str | None = None) -> list[str]:
        """Names of the runs that have a checkpoint (of those trained on `dataset`, when it is given)."""
        names = sorted(path.parent.name for path in self.root.glob("runs/*/checkpoints"))
        return [name for name in names if dataset is None or self.run(name).dataset in (dataset, "")]

    def choose_dataset(self, name: str | None) -> DatasetPaths:
        """The dataset of that name, or the only one; StepclipError, listing what is there, otherwise."""
        there = self.datasets()
        if name is None:
            return self.dataset(_only(there, "dataset", self.root / "data", "stepclip extract"))
        if name not in there:
            checked_name(name, "dataset")
            raise StepclipError(
                f"no dataset {name!r} under {self.root / 'data'}{nearest(name, there)}",
                f"one of: {', '.join(there)}" if there else "an extracted dataset (there is none yet)",
                f"stepclip extract --dataset {name}",
            )
        return self.dataset(name)

    def choose_run(self, name: str | None, dataset: str | None = None) -> RunPaths:
        """The run of that name, or the only one (of `dataset`); StepclipError, listing them, otherwise."""
        there = self.runs(dataset)
        if name is None:
            return self.run(_only(there, "run", self.root / "runs", "stepclip train"))
        if name not in self.runs():
            checked_name(name, "run")
            raise StepclipError(
                f"no trained run {name!r} under {self.root / 'runs'}{nearest(name, self.runs())}",
                f"one of: {', '.join(self.runs())}" if self.runs() else "a trained run (there is none yet)",
                f"stepclip train --run {name}",
            )
        return self.run(name)

    def choose_both(self, dataset: str | None, run: str | None) -> tuple[DatasetPaths, RunPaths]:
        """A run and a dataset to use it on; the run alone says which dataset it was trained on."""
        chosen = self.choose_run(run, dataset)
        return self.choose_dataset(dataset or chosen.dataset or None), chosen


def record(path: Path, **fields: Any) -> None:
    """Write `fields` over those already in the JSON file `path`, atomically."""
    kept = read_json(path) if path.is_file() else {}
    write_json(path, {**kept, **fields})


def _only(names: list[str], what: str, folder: Path, make: str) -> str:
    if len(names) == 1:
        return names[0]
    if not names:
        raise StepclipError(f"no {what} under {folder}", f"a {what}; or another --root", make)
    raise StepclipError(
        f"{len(names)} {what}s under {folder}: {', '.join(names)}", f"one of them, as --{what} NAME"
    )
