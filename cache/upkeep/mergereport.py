"""What a merge or a compaction did, as a table and as JSON."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..files import write_json


@dataclass
class MergeReport:
    """videos, frames, bytes: copied by this run, of which `seconds` are the time; shards: of the whole cache.

    present: videos of the sources that were there already; dropped: copies that newer features had replaced;
    conflicts: those with other content in two caches,
    of which the newest counts; text_conflicts: strings with other features, which keep those that were there
    first; failures: how many videos are noted as failed now; freed: bytes of the disk, less those written;
    damaged: what was left out, in words.
    """

    action: str  # merge or compact
    path: str
    sources: list[str] = field(default_factory=list)  # of a merge
    videos: int = 0
    frames: int = 0
    bytes: int = 0
    present: int = 0
    dropped: int = 0
    texts: int = 0
    failures: int = 0
    shards_before: int = 0
    shards_after: int = 0
    freed: int = 0
    seconds: float = 0.0
    conflicts: list[str] = field(default_factory=list)
    text_conflicts: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether nothing had to be left out."""
        return not self.damaged

    @property
    def rate(self) -> float:
        """Megabytes of features copied per second."""
        return self.bytes / max(self.seconds, 1e-9) / 1e6

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write all of it as JSON, atomically."""
        write_json(path, {**asdict(self), "ok": self.ok, "rate": self.rate})
        return Path(path)

    def __str__(self) -> str:
        from rich.console import Console

        text = io.StringIO()
        Console(file=text, width=110).print(self)
        return text.getvalue().rstrip()

    def __rich__(self) -> Any:
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        table = Table(title="Merged" if self.action == "merge" else "Compacted", title_justify="left")
        cells = {
            "videos copied": f"{self.videos}",
            "frames": f"{self.frames}",
            "shards before": f"{self.shards_before}",
            "after": f"{self.shards_after}",
            "MB/s": f"{self.rate:.0f}" if self.bytes else "",
        }
        if self.action == "merge":
            cells |= {"were there": f"{self.present}", "texts": f"{self.texts}", "failed": f"{self.failures}"}
        else:
            cells["copies dropped"] = f"{self.dropped}"
            cells["MB freed"] = f"{self.freed / 1e6:.1f}"
        for column in cells:
            table.add_column(column, justify="right")
        table.add_row(*cells.values())
        parts: list[Any] = [table]
        for names, words in (
            (self.conflicts, "videos with other content in two caches, the newest of which counts"),
            (self.text_conflicts, "texts with other features in two caches, of which those there first stay"),
        ):
            if names:
                parts.append(Text(f"{len(names)} {words}: {_some(names, ', ')}"))
        if self.damaged:
            left = "left out" if self.action == "merge" else "not touched"
            listed = _some(self.damaged, "\n  ", 10)
            parts.append(Text(f"damaged, and {left}:\n  {listed}\nrun: stepclip cache repair"))
        return Group(*parts)


def _some(names: Sequence[str], between: str, most: int = 3) -> str:
    """The first few."""
    more = [f"and {len(names) - most} more"] if len(names) > most else []
    return between.join([*names[:most], *more])
