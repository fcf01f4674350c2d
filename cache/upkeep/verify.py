"""Every byte of a cache folder against its checksums, and every fault by name.

report = verify("data/mine/features")
print(report)                                    # a table: what is wrong, what it costs, what to run
"""

from __future__ import annotations

import io
import os
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..files import write_json
from ..shard import ShardRows
from .survey import Survey, survey

_SHOWN = 3  # names of a list that are printed; the JSON has them all
KINDS = {
    "no-account": "cache.json is gone",
    "damaged-account": "cache.json is damaged",
    "no-rows": "data without a row file",
    "no-data": "a row file without data",
    "damaged-rows": "a row file is damaged",
    "size": "a data file is cut or longer",
    "damaged-header": "the header of a data file is damaged",
    "contradiction": "a data file contradicts its rows",
    "checksum": "a video has not the bytes written",
    "values": "a video has values no writer takes",
    "other-fingerprint": "made in another way than the cache",
    "damaged-texts": "the features of texts are damaged",
    "damaged-failures": "lines of failed.jsonl are damaged",
    "damaged-copy": "rows.parquet, a mere copy, is damaged",
    "abandoned": "never finished; its writer is gone",
}


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong in a cache folder.

    file: relative to the folder; kind: one of `KINDS`; videos: the ids that it costs, of which no whole copy
    is left; remedy: "repair" where `stepclip cache repair` brings all back, "extract" where `stepclip
    extract` must then do videos, or texts, again.
    """

    file: str
    kind: str
    detail: str
    videos: tuple[str, ...] = ()
    remedy: str = "repair"


@dataclass
class VerifyReport:
    """videos, frames: those that are whole; bytes: read of the shards, in `seconds`.

    superseded: copies that newer ones of the same videos replaced, which take `superseded_bytes`, no fault;
    writing: files that a writer was at; notes: what else is worth knowing.
    """

    path: str
    videos: int = 0
    frames: int = 0
    bytes: int = 0
    shards: int = 0
    texts: int = 0
    seconds: float = 0.0
    faults: list[Fault] = field(default_factory=list)
    superseded: int = 0
    superseded_bytes: int = 0
    writing: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether there is no fault."""
        return not self.faults

    @property
    def lost(self) -> list[str]:
        """The ids of videos that no repair brings back."""
        return sorted({video_id for fault in self.faults for video_id in fault.videos})

    def by_kind(self) -> dict[str, list[Fault]]:
        """The faults, in the order of `KINDS`."""
        found = {kind: [fault for fault in self.faults if fault.kind == kind] for kind in KINDS}
        return {kind: faults for kind, faults in found.items() if faults}

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write all of it as JSON, atomically."""
        write_json(path, {**asdict(self), "ok": self.ok, "lost": self.lost})
        return Path(path)

    def __str__(self) -> str:
        return as_text(self)

    def __rich__(self) -> Any:
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        table = Table()
        cells = {
            "whole videos": self.videos,
            "frames": self.frames,
            "texts": self.texts,
            "shards": self.shards,
            "MB": f"{self.bytes / 1e6:.1f}",
            "seconds": f"{self.seconds:.1f}",
            "MB/s": f"{self.bytes / 1e6 / max(self.seconds, 1e-9):.0f}",
            "faults": len(self.faults),
        }
        for column in cells:
            table.add_column(column, justify="right")
        table.add_row(*map(str, cells.values()))
        parts: list[Any] = [Text(f"{self.path}: every byte read"), table]
        if self.faults:
            faults = Table(title="Faults", title_justify="left")
            faults.add_column("fault", max_width=20)
            faults.add_column("of them", justify="right")
            faults.add_column("such as", overflow="fold")
            faults.add_column("videos lost", overflow="fold", max_width=26)
            for kind, of_kind in self.by_kind().items():
                such = "\n".join(f"{fault.file}: {fault.detail}" for fault in of_kind[:_SHOWN])
                lost = sorted({video_id for fault in of_kind for video_id in fault.videos})
                costs = f"{len(lost)}: {some(lost)}" if lost else "texts" if _texts(of_kind) else "none"
                faults.add_row(KINDS[kind], str(len(of_kind)), Text(such), Text(costs))
            parts.append(faults)
            parts.append(Text(f"run: stepclip cache repair{self._then()}"))
        if self.superseded:
            freed = f"stepclip cache compact frees their {self.superseded_bytes / 1e6:.1f} MB"
            parts.append(Text(f"{self.superseded} older copies of videos lie there too; {freed}"))
        if self.writing:
            parts.append(Text(f"{len(self.writing)} files are being written now: {some(self.writing)}"))
        return Group(*parts)

    def _then(self) -> str:
        again = [f"{len(self.lost)} videos"] if self.lost else []
        again += ["texts"] if _texts(self.faults) else []
        return f", then stepclip extract, which does {' and '.join(again)} again" if again else ""


def verify(path: str | os.PathLike[str], *, progress: bool = True) -> VerifyReport:
    """Read every byte of the cache folder `path` (or of its `features`) and name all that is wrong.

    Writes nothing, takes no lock, maps no file; one video's block at a time is in memory. Others may read and
    write meanwhile: what they have not committed is no fault. Raises StepclipError when there is no cache,
    when a file may not be read, and when a newer StepCLIP wrote it.
    """
    began = time.monotonic()
    found = survey(Path(path), progress)
    report = VerifyReport(str(found.path), faults=faults_of(found), writing=found.writing)
    report.videos = len(found.whole)
    report.frames = sum(rows.frames[row] for _, rows, row in found.whole.values())
    report.bytes, report.shards = found.bytes, len(found.shards)
    report.texts = sum(len(table.index) for table in found.texts.values())
    for shard in found.shards:
        for video_id, (rows, row) in shard.intact.items():
            if shard.rows and not shard.findings and found.whole[video_id][0] is not shard:
                report.superseded += 1
                report.superseded_bytes += _size(rows, row)
    report.seconds = time.monotonic() - began
    return report


def faults_of(found: Survey) -> list[Fault]:
    """The findings, with what each of them costs."""
    faults = []
    for each in found.all_findings():
        lost = tuple(video_id for video_id in each.touched if video_id not in found.whole)
        remedy = "extract" if lost or each.texts else "repair"
        faults.append(Fault(each.file, each.kind, each.detail, lost, remedy))
    return faults


def as_text(report: Any) -> str:
    """What a report prints."""
    from rich.console import Console

    text = io.StringIO()
    Console(file=text, width=110).print(report)
    return text.getvalue().rstrip()


def some(names: Iterable[str]) -> str:
    """The first of them."""
    every = list(names)
    return ", ".join(every[:_SHOWN]) + (", ..." if len(every) > _SHOWN else "")


def _texts(faults: list[Fault]) -> bool:
    return any(fault.remedy == "extract" and not fault.videos for fault in faults)


def _size(rows: ShardRows, row: int) -> int:
    return rows.frames[row] * (rows.dim * (1 + rows.views) * np.dtype(rows.dtype).itemsize + 8)
