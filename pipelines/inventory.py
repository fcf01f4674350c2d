"""What is there, as tables: backends, datasets, recipes, the state of a cache, answers to a query."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .paths import Layout

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

    from ..evaluate.search import Answer


def _table(*heads: str) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for head in heads:
        table.add_column(head, overflow="fold")
    return table


def _row(table: Table, *cells: Any, style: str | None = None) -> None:
    from rich.text import Text

    table.add_row(*(Text(str(cell)) for cell in cells), style=style)  # Text: data is never markup


def clock(seconds: float) -> str:
    """Seconds as m:ss.s, or h:mm:ss beyond an hour."""
    if seconds >= 3600:
        return f"{int(seconds // 3600)}:{int(seconds // 60 % 60):02d}:{int(seconds % 60):02d}"
    tenths = round(seconds * 10)
    return f"{tenths // 600}:{tenths % 600 / 10:04.1f}"


def _titled(title: str, table: Table) -> Group:
    """A table under a line that may be longer than it."""
    from rich.console import Group
    from rich.text import Text

    return Group(Text(title, style="bold"), table)


def card_table(name: str) -> Table:
    """What an encoder says of itself; accuracies with what guessing would reach."""
    from ..extract.encoders.card import read_card

    table = _table("encoder", name)
    for key, value in read_card(name).items():
        if isinstance(value, dict) and {"accuracy", "chance", "frames"} <= value.keys():
            value = f"{value['accuracy']:.1%} of {value['frames']} frames (chance {value['chance']:.1%})"
        _row(table, key, value)
    return table


def answers_table(text: str, answers: Sequence[Answer]) -> Group:
    """Best first, with the files below: their paths are too long for a column."""
    from rich.console import Group
    from rich.text import Text

    table = _table("", "score", "from", "to", "video", "step of its script")
    files = Text(overflow="fold")
    for place, answer in enumerate(answers, 1):
        span = (clock(answer.start), clock(answer.end))
        _row(table, place, f"{answer.score:.3f}", *span, answer.video_id, answer.step)
        files.append(f"{place}  {_short(answer.path)}\n")
    return Group(Text(f'"{text}"', style="bold"), table, files)


def _short(path: str) -> str:
    """A path from here, when that is shorter."""
    try:
        return min(os.path.relpath(path), path, key=len)
    except ValueError:  # another drive
        return path


def recipes_table() -> Table:
    from ..train import list_recipes, load_recipe

    table = _table("recipe", "epochs", "batch", "frames", "width x depth", "step labels")
    for name in list_recipes():
        r = load_recipe(name)
        size = f"{r.model.width} x {r.model.depth}"
        _row(table, name, r.train.epochs, r.data.batch, r.model.frames, size, r.loss.labels)
    return table


def backends_table() -> Table:
    from ..extract.decoders import backends as decoders
    from ..extract.encoders import backends as encoders

    table = _table("backend", "kind", "usable", "version", "to install")
    for backend in [*decoders(), *encoders()]:
        usable = "yes" if backend.usable else "no"
        _row(
            table,
            backend.name,
            backend.kind,
            usable,
            backend.version or "",
            "" if backend.usable else backend.install,
        )
    return table


def datasets_table(layout: Layout) -> Table:
    from ..cache.manifest import Manifest
    from ..extract.datasets import DATASETS

    table = _table("dataset", "known", "extracted here", "videos", "splits")
    there = layout.datasets()
    for name in [*DATASETS, *(name for name in there if name not in DATASETS)]:
        known = "yes" if name in DATASETS else ""
        if name not in there:
            _row(table, name, known, "", "", "")
            continue
        paths = layout.dataset(name)
        manifest = Manifest.read(paths.manifest)
        counts = Counter(row.split or "none" for row in manifest)
        splits = ", ".join(f"{split} {count}" for split, count in counts.items())
        _row(table, name, known, str(paths.folder), len(manifest), splits)
    return table


def status_table(layout: Layout, dataset: str | None) -> tuple[Group, bool]:
    """The table, and whether every video of the manifest has features."""
    from ..cache.manifest import Manifest
    from ..cache.store import FeatureStore

    paths = layout.choose_dataset(dataset)
    manifest = Manifest.read(paths.manifest)
    with FeatureStore.open(paths.features) as store:
        failures = {f.video_id: f for f in store.failures() if f.video_id not in store}
        done = [row for row in manifest if row.video_id in store]
        failed = Counter(failures[row.video_id].reason for row in manifest if row.video_id in failures)
        table = _table("state", "videos", "what to do")
        title = f"{paths.features}, fingerprint {store.fingerprint.digest}"
        _row(table, "done", len(done), "")
        for reason, count in failed.most_common():
            examples = [f.path for f in failures.values() if f.reason == reason]
            _row(table, f"failed: {reason}", count, examples[0] + (" ..." if count > 1 else ""))
        left = len(manifest) - len(done) - sum(failed.values())
        if left:
            _row(table, "not extracted yet", left, f"stepclip extract --dataset {paths.name}")
        _row(table, "all", len(manifest), "", style="bold")
    return _titled(title, table), len(done) == len(manifest)
