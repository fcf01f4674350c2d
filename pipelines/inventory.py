"""What is there, as tables: backends, datasets, recipes, encoders."""

from __future__ import annotations

import os
from collections import Counter
from typing import TYPE_CHECKING

from ..cache.errors import StepclipError
from .paths import DatasetPaths, Layout
from .tables import add, table

if TYPE_CHECKING:
    from rich.table import Table


def clock(seconds: float) -> str:
    """Seconds as m:ss.s, or h:mm:ss beyond an hour."""
    if seconds >= 3600:
        return f"{int(seconds // 3600)}:{int(seconds // 60 % 60):02d}:{int(seconds % 60):02d}"
    tenths = round(seconds * 10)
    return f"{tenths // 600}:{tenths % 600 / 10:04.1f}"


def card_table(name: str) -> Table:
    """What an encoder says of itself; accuracies with what guessing would reach."""
    from ..extract.encoders.card import read_card

    shown = table("encoder", name)
    for key, value in read_card(name).items():
        if isinstance(value, dict) and {"accuracy", "chance", "frames"} <= value.keys():
            value = f"{value['accuracy']:.1%} of {value['frames']} frames (chance {value['chance']:.1%})"
        add(shown, key, value)
    return shown


def short_path(path: str) -> str:
    """A path from here, when that is shorter."""
    try:
        return min(os.path.relpath(path), path, key=len)
    except ValueError:  # another drive
        return path


def recipes_table() -> Table:
    from ..train import list_recipes, load_recipe

    shown = table("recipe", "method", "epochs", "batch", "model", "losses", "step labels")
    for name in list_recipes():
        r = load_recipe(name)
        terms = ", ".join(term for term in r.loss.terms if term != "fine_text")
        labels = str(getattr(r.loss, "labels", "–")) if "fine" in r.loss.terms else "–"
        if getattr(r.loss, "fine_form", "") == "official":
            labels += ", as released"
        add(shown, name, r.method, r.train.epochs, r.data.batch, r.model.size, terms, labels)
    return shown


def backends_table() -> Table:
    from ..extract.decoders import backends as decoders
    from ..extract.encoders import backends as encoders

    shown = table("backend", "kind", "usable", "version", "to install")
    for backend in [*decoders(), *encoders()]:
        usable = "yes" if backend.usable else "no"
        add(
            shown,
            backend.name,
            backend.kind,
            usable,
            backend.version or "",
            "" if backend.usable else backend.install,
        )
    return shown


def _done(paths: DatasetPaths) -> str:
    """How many videos have features; "?" where the cache cannot be opened."""
    from ..cache.store import FeatureStore

    if not paths.features.is_dir():
        return "0"
    try:
        with FeatureStore.open(paths.features) as store:
            return str(len(store))
    except StepclipError:
        return "?"


def datasets_table(layout: Layout) -> Table:
    """The known data sets; of those under this root how many videos are there, are missing, have features."""
    from ..cache.manifest import Manifest
    from ..extract.datasets import ABOUT, DATASETS

    shown = table("dataset", "what it is", "annotations from", "videos", "missing", "extracted", "splits")
    there = layout.datasets()
    for name in [*DATASETS, *(name for name in there if name not in DATASETS)]:
        about, source = ABOUT.get(name, ("your own", ""))
        if name not in there:
            add(shown, name, about, source, "", "", "", "")
            continue
        paths = layout.dataset(name)
        manifest = Manifest.read(paths.manifest)
        counts = Counter(row.split or "none" for row in manifest)
        splits = ", ".join(f"{split} {count}" for split, count in counts.items())
        missing = set(paths.missing.read_text().splitlines()) if paths.missing.is_file() else set()
        present = [row.video_id for row in manifest if os.path.lexists(row.path)]
        missing = (missing | {row.video_id for row in manifest}) - set(present)
        add(shown, name, about, source or str(paths.folder), len(present), len(missing), _done(paths), splits)
    return shown
