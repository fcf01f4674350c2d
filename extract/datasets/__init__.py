"""Data sets by name: `load_dataset("csv", videos=..., annotations=...)`."""

from __future__ import annotations

import inspect
import os
from importlib import import_module
from pathlib import Path

from ...cache.errors import StepclipError, nearest
from ...cache.manifest import Manifest
from .base import Loaded, Loader
from .captaincook4d import load_captaincook4d
from .coin import load_coin
from .crosstask import load_crosstask
from .csv import load_csv
from .diving48 import load_diving48
from .finegym import load_finegym
from .gtea import load_gtea
from .pennaction import load_pennaction
from .pouring import load_pouring
from .youcook2 import load_youcook2

__all__ = ["ABOUT", "DATASETS", "Loaded", "describe", "load_dataset"]


def load_manifest(videos: Path | None, annotations: Path | None) -> Loaded:
    """Anyone's own videos: `annotations` (or `videos`) is a CSV, TSV, JSONL, Parquet or manifest folder.

    Columns: video, steps (`|` between them, or a list), and if you like video_id, task, procedure, split,
    start, end, step_start, step_end; paths are taken from the file's folder. Checked: names of columns, that
    no id is given twice, that every video has steps, that times fit each other; the line at fault is named.
    """
    source = annotations or videos
    if source is None:
        raise StepclipError("no manifest given", "a CSV, TSV, JSONL or Parquet file", "MANIFEST=videos.csv")
    return _present(Manifest.read(source))


def load_benchlab(videos: Path | None, annotations: Path | None) -> Loaded:
    """The synthetic bench: the folder that `stepclip benchlab --out DIR` made (or its manifest/).

    It is laid out like CSV, with its annotation files beside it; splits `train` and `test`, people and tasks
    disjoint; pairs matched, order, deletion, addition; matching lists; the true step times.
    """
    source = annotations or videos
    if source is None:
        raise StepclipError("no bench given", "the folder that benchlab made", "stepclip benchlab --out DIR")
    if not source.exists():
        raise StepclipError(f"no bench at {source}", "the folder of one", f"stepclip benchlab --out {source}")
    manifest = source / "manifest"
    return _present(Manifest.read(manifest if manifest.is_dir() else source))


def _present(manifest: Manifest) -> Loaded:
    """All rows stay, so that a missing file is listed as a failure of the extraction; here it is told."""
    missing = [row.video_id for row in manifest if not os.path.lexists(row.path)]
    notes = [f"{len(missing)} of {len(manifest)} video files are missing"] if missing else []
    return Loaded(manifest, missing, notes)


DATASETS: dict[str, Loader] = {
    "csv": load_csv,
    "diving48": load_diving48,
    "coin": load_coin,
    "youcook2": load_youcook2,
    "crosstask": load_crosstask,
    "captaincook4d": load_captaincook4d,
    "pennaction": load_pennaction,
    "pouring": load_pouring,
    "finegym": load_finegym,
    "gtea": load_gtea,
    "manifest": load_manifest,
    "benchlab": load_benchlab,
}


# what each is, where its annotation files come from, for `stepclip datasets`
ABOUT = {
    "csv": ("chemistry, 70 procedures of 14 tasks, people disjoint", "SVIP's or WeakSVR's repository"),
    "diving48": ("dives of four steps", "SVIP's or WeakSVR's repository"),
    "coin": ("YouTube instructions of 36 tasks; or the whole of COIN", "as csv; COIN.json of its page"),
    "youcook2": ("cooking, a sentence and a segment per step", "the data set's page"),
    "crosstask": ("YouTube instructions of 18 tasks, and 65 related", "DmZhukov/CrossTask on GitHub"),
    "captaincook4d": ("cooking with errors, and where", "CaptainCook4D/annotations on GitHub"),
    "pennaction": ("13 sports actions, a phase per frame", "CARL's folder penn_action, or TCC's labels"),
    "pouring": ("pouring, a phase per frame", "CARL's folder pouring"),
    "finegym": ("gymnastics, an element per frame", "CARL's folder finegym, or FineGym's files"),
    "gtea": ("kitchen, features alone: stepclip cache import", "MS-TCN's release, or an .npz"),
    "manifest": ("your own videos: --manifest FILE", "a CSV, TSV, JSONL or Parquet of video,steps"),
    "benchlab": ("the synthetic bench", "stepclip benchlab, stepclip demo"),
}


def describe(name: str) -> str:
    """What the data set is: where its videos and files come from and how they lie, splits, pairs, what is
    checked, known faults. Raises StepclipError for a name that is none.
    """
    load = DATASETS[known(name)]
    module = import_module(load.__module__)
    text = inspect.getdoc(load if module.__name__ == __name__ else module) or ""
    layout = getattr(getattr(module, "ORIGIN", None), "layout", "") or getattr(module, "LAYOUT", "")
    return text + (f"\n\nLayout: {layout}." if layout else "")


def known(name: str) -> str:
    if name not in DATASETS:
        raise StepclipError(f"no data set '{name}'{nearest(name, DATASETS)}", f"one of {', '.join(DATASETS)}")
    return name


def load_dataset(
    name: str,
    videos: str | os.PathLike[str] | None = None,
    annotations: str | os.PathLike[str] | None = None,
) -> Loaded:
    """The data set `name` with its videos and annotation files. Raises StepclipError for a name, folder or
    file that is not there or not as released, saying what was expected.
    """
    return DATASETS[known(name)](
        Path(videos).expanduser() if videos is not None else None,
        Path(annotations).expanduser() if annotations is not None else None,
    )
