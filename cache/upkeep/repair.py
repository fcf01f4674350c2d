"""A damaged cache, mended: every whole video of it saved, all that is damaged put aside, nothing deleted.

    report = repair("data/mine/features")
    print(report.lost)                               # what `stepclip extract` has to do again

Videos are saved before the files that they lay in are put aside, so a kill at any moment costs nothing, and
the next repair goes on. Shards that are whole are not touched.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

from ..catalogue import COPY, Catalogue
from ..commit import commit_shard
from ..errors import StepclipError
from ..files import locked, sync_folder, write_atomically, write_json
from ..layout import LOCK, UPKEEP, CacheInfo, scan_failures, write_about, write_failures
from ..progress import byte_bar
from ..shard import ROWS_TYPES, SCHEMA, ShardRows, Video, head_checksum, read_rows, write_rows
from ..texts import write_texts
from .examine import Data, Shard, conclude, differences, open_shard, read_by_rows
from .survey import ACCOUNT, DAMAGED, FAILURES, PUT_ASIDE, TEXTS, Survey, cache_folder, look_at_texts, survey
from .verify import as_text, faults_of, some

_BYTES = 64 << 20  # of videos that are in memory at once
_YOUNG = 60.0  # seconds in which data without rows may still get them from its writer
_SAVED = "saved-"  # what the names of shards of saved videos begin with


@dataclass
class RepairReport:
    """saved: ids of videos that were brought back; lost: those of which no whole copy was left; older: those
    whose newest copy was damaged, so that an older one counts again.

    aside: files that were put aside, which are now in `folder`; made: files that were written anew. Names are
    relative to `path`. With dry_run all of it is what would be.
    """

    path: str
    dry_run: bool = False
    saved: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    older: list[str] = field(default_factory=list)
    texts_lost: bool = False
    aside: list[str] = field(default_factory=list)
    folder: str = ""
    made: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def changed(self) -> bool:
        """Whether there was anything to do."""
        return bool(self.aside or self.made)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write all of it as JSON, atomically."""
        write_json(path, asdict(self))
        return Path(path)

    def __str__(self) -> str:
        return as_text(self)

    def __rich__(self) -> Any:
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        if not self.changed:
            return Text(f"{self.path}: nothing to repair, every byte was read")
        would = ": what a repair would do" if self.dry_run else ": repaired"
        table = Table()
        cells = {
            "videos saved": len(self.saved),
            "lost": len(self.lost),
            "files put aside": len(self.aside),
            "written anew": len(self.made),
            "seconds": f"{self.seconds:.1f}",
        }
        for column in cells:
            table.add_column(column, justify="right")
        table.add_row(*map(str, cells.values()))
        lines = [*self.notes]
        if self.aside:
            lines.append(f"put aside in {self.folder or DAMAGED}, nothing is deleted: {some(self.aside)}")
        if self.made:
            lines.append(f"written anew: {some(self.made)}")
        if self.older:
            lines.append(f"an older copy counts again of {len(self.older)} videos: {some(self.older)}")
        if self.lost:
            lines.append(f"lost, no whole copy is left of {len(self.lost)} videos: {some(self.lost)}")
        if again := [*(["the videos"] if self.lost else []), *(["the texts"] if self.texts_lost else [])]:
            lines.append(f"run: stepclip extract, which does {' and '.join(again)} again")
        return Group(Text(self.path + would), table, *map(Text, lines))


def repair(path: str | os.PathLike[str], *, progress: bool = True, dry_run: bool = False) -> RepairReport:
    """Mend the cache folder `path` (or its `features`); afterwards `verify` finds no fault in it.

    cache.json is made anew from the shards, row files from their data; whole videos of damaged shards go into
    new ones, as old as they were. All that is damaged, unfinished or of another fingerprint goes to
    damaged/<UTC time>/, with a repair.json that says what was saved and lost. dry_run: write nothing, only
    say what would be done. Readers and writers may be at work. Raises StepclipError: with nothing changed,
    where nothing tells what the cache is or its shards are of several kinds; with nothing lost, when the disk
    refuses.
    """
    began = time.monotonic()
    folder = cache_folder(Path(path))
    if dry_run:
        report = _Repair(survey(folder, progress), True).run(progress)
    else:
        with locked(folder / UPKEEP, "another repair, merge or compaction"):
            report = _Repair(survey(folder, progress), False).run(progress)
    report.seconds = time.monotonic() - began
    if report.folder and not dry_run:
        report.save(folder / report.folder / "repair.json")
    return report


class _Repair:
    """One repair of what a survey found; the lock is held."""

    def __init__(self, found: Survey, dry: bool) -> None:
        self.found, self.dry, self.path = found, dry, found.path
        self.report = RepairReport(str(found.path), dry)
        if found.about is None or found.why_not:
            words = "; ".join(each.detail for each in found.findings if each.file == ACCOUNT)
            raise StepclipError(
                f"what the cache {found.path} is cannot be told: {found.why_not or words}",
                f"{ACCOUNT}, or shards of one fingerprint",
                "stepclip cache repair, once what does not belong there is elsewhere; nothing was changed",
            )
        self.about: CacheInfo = found.about

    def run(self, progress: bool) -> RepairReport:
        faults = faults_of(self.found)
        report = self.report
        report.lost = sorted({video_id for fault in faults for video_id in fault.videos})
        self._older()
        damaged = any(fault.file == ACCOUNT for fault in faults)
        if damaged or (faults and self.about.schema < SCHEMA):  # an older StepCLIP would not see new shards
            self._put_aside(ACCOUNT, stays=True)
            self._make(ACCOUNT, lambda: write_about(self.path, self.about, "repair"))
        self._shards(progress)
        for file in [f"shards/{shard.name}" for shard in self.found.strangers]:
            self._put_aside(f"{file}.h5")
            self._put_aside(f"{file}.parquet")
        for file in (*self.found.left, PUT_ASIDE):
            self._put_aside(file)
        kinds = {fault.file for fault in faults}
        if TEXTS in kinds:
            self._texts()
        if FAILURES in kinds:
            self._failures()
        if COPY in kinds:
            self._put_aside(COPY)
            if not self.dry:
                Catalogue(self.path, self.about.fingerprint.digest).keep_copy()
        return report

    def _older(self) -> None:
        """Note the videos whose newest copy is damaged while an older one is whole."""
        for shard in self.found.shards:
            touched = {video_id for each in shard.findings for video_id in each.touched}
            known = shard.rows or (shard.header.rows if shard.header else None)
            for row, video_id in enumerate(known.ids if known else ()):
                if video_id in touched and (whole := self.found.whole.get(video_id)):
                    _, rows, place = whole
                    if known and rows.commits[place] < known.commits[row]:
                        self.report.older.append(video_id)
        self.report.older = sorted(set(self.report.older))

    # ---- shards

    def _shards(self, progress: bool) -> None:
        todo = [shard for shard in self.found.shards if shard.findings]
        needed = {shard.name: self._needed(shard) for shard in todo}
        total = sum(_size(rows, row) for each in needed.values() for rows, row in each)
        with byte_bar("saving whole videos", total, progress and total > 0) as tick:
            for shard in todo:
                here = needed[shard.name]
                self.report.saved += [rows.ids[row] for rows, row in here]
                if shard.size and shard.shape is None and not here:
                    self.report.notes.append(
                        f"what shards/{shard.name} held is not known: both files are damaged"
                    )
                if self._only_rows(shard) and (here or self._young(shard)):
                    self._put_aside(f"shards/{shard.name}.parquet", stays=True)
                    self._make(f"shards/{shard.name}.parquet", partial(self._write_rows, shard))
                    continue
                self._save(shard, here, tick)
                # data first: data alone would be taken for a shard that lacks nothing but its rows
                self._put_aside(f"shards/{shard.name}.h5")
                self._put_aside(f"shards/{shard.name}.parquet")
        self.report.saved.sort()

    def _needed(self, shard: Shard) -> list[tuple[ShardRows, int]]:
        """The videos whose newest whole copy lies in this damaged shard, in the order of the file."""
        whole = self.found.whole
        here = [place for video_id, place in shard.intact.items() if whole[video_id][0] is shard]
        return sorted(here, key=lambda place: place[0].first[place[1]])

    def _only_rows(self, shard: Shard) -> bool:
        """Whether all that a shard lacks is its row file."""
        kinds = {each.kind for each in shard.findings}
        whole = shard.header is not None and shard.intact.keys() == set(shard.header.rows.ids)
        return whole and kinds <= {"no-rows", "damaged-rows"}

    def _young(self, shard: Shard) -> bool:
        """Whether a writer may be about to write the rows; they will be the same."""
        if shard.has_rows or shard.name.startswith(_SAVED):  # no other repair is at work
            return False
        with suppress(FileNotFoundError):
            return time.time() - shard.data.stat().st_mtime < _YOUNG
        return False

    def _write_rows(self, shard: Shard) -> None:
        own = shard.header.rows if shard.header else None
        assert own is not None
        features_at, times_at, views_at = own.places
        about = {
            **self.about.account("repair"),
            "bytes": own.bytes,
            "features_at": features_at,
            "times_at": times_at,
            "views_at": views_at,
            "committed": own.committed,
            "runs": own.runs,
            "head_crc32": head_checksum(own),
        }
        columns = (own.ids, own.first, own.frames, own.durations, own.crc32, own.sources)
        write_rows(shard.row_file, about, dict(zip(ROWS_TYPES, columns, strict=True)))
        if differences(read_rows(shard.row_file), own):
            raise _not_as_written(shard.row_file)

    def _save(
        self, shard: Shard, places: Sequence[tuple[ShardRows, int]], tick: Callable[[int], None]
    ) -> None:
        """Write videos of a damaged shard into new ones, each as old as it was, and read them again."""
        if self.dry or not places:
            self.report.made += [f"shards/{_saved_name(shard)}-*.h5"] if places else []
            return
        waiting: list[Video] = []
        numbers = count()

        def write() -> None:
            path = commit_shard(self.path, _saved_name(shard), numbers, self.about, waiting, time.time_ns())
            again = open_shard(path.parent, path.stem, None)
            read_by_rows(again, lambda _: None)
            conclude(again, False, lambda _: None)
            if again.findings:
                raise _not_as_written(path)
            self.report.made.append(path.relative_to(self.path).as_posix())
            waiting.clear()

        with Data(shard.data, tick) as data:
            for rows, row in places:
                video = data.video(rows, row)
                if video.crc32 != rows.crc32[row]:
                    raise _not_as_written(shard.data)
                waiting.append(video)
                if sum(each.nbytes for each in waiting) >= _BYTES:
                    write()
        if waiting:
            write()

    # ---- the other files

    def _texts(self) -> None:
        with self._shared():
            self.found.findings = [each for each in self.found.findings if each.file != TEXTS]
            look_at_texts(self.found)  # again: a writer may have mended it
            here = [each for each in self.found.findings if each.file == TEXTS]
            if not here:
                return
            self.report.texts_lost = any(each.texts for each in here)
            tables = self.found.texts
            self._put_aside(TEXTS, stays=bool(tables))
            if tables:
                account = {**self.about.account("repair"), "fingerprint": self.about.fingerprint.json}
                self._make(TEXTS, lambda: write_texts(self.path / TEXTS, account, tables))

    def _failures(self) -> None:
        with self._shared():
            try:
                kept, unread = scan_failures(self.path)
                lines = (self.path / FAILURES).read_bytes().split(b"\n")
            except OSError:
                self._put_aside(FAILURES)
                return
            if not unread:
                return
            self.report.notes.append(f"{len(unread)} lines of {FAILURES} could not be read and are put aside")
            self.report.aside.append(FAILURES)
            if not self.dry:
                with write_atomically(self._aside() / FAILURES) as file:
                    file.writelines(lines[number - 1] + b"\n" for number in unread)
            self._make(FAILURES, lambda: write_failures(self.path, kept))

    # ---- how

    def _shared(self) -> Any:
        """Hold what writers hold while they change a file that all of them share."""
        from contextlib import nullcontext

        return nullcontext() if self.dry else locked(self.path / LOCK)

    def _make(self, file: str, write: Callable[[], None]) -> None:
        self.report.made.append(file)
        if not self.dry:
            write()

    def _put_aside(self, file: str, stays: bool = False) -> None:
        """Move a file to damaged/<time>/, where it is there; `stays`: until another takes its place."""
        source = self.path / file
        if not source.exists():
            return
        self.report.aside.append(file)
        if self.dry:
            return
        target = self._aside() / file
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            if not stays:
                os.rename(source, target)
            else:
                try:
                    os.link(source, target)
                except OSError:  # a file system without hard links
                    shutil.copy2(source, target)
            sync_folder(target.parent)
        except OSError as error:
            raise StepclipError(
                f"{source} cannot be put aside: {error.strerror or error}",
                "a cache folder that can be written, with room on its disk",
                "stepclip cache repair again, once it can; nothing is lost",
            ) from error

    def _aside(self) -> Path:
        """The folder of this repair."""
        if not self.report.folder:
            now = datetime.now(UTC).strftime("%Y-%m-%dT%H-%M-%SZ")
            for number in count(1):
                name = f"{DAMAGED}/{now}" + (f"-{number}" if number > 1 else "")
                if not (self.path / name).exists():
                    self.report.folder = name
                    break
        return self.path / self.report.folder


def _saved_name(shard: Shard) -> str:
    return _SAVED + re.sub(rf"^{_SAVED}(.*)-\d+$", r"\1", shard.name)


def _size(rows: ShardRows, row: int) -> int:
    return rows.frames[row] * rows.dim * 2 * (1 + rows.views)


def _not_as_written(path: Path) -> StepclipError:
    return StepclipError(
        f"{path} does not read back as it was written",
        "a disk that keeps what is written to it",
        "stepclip cache repair on another disk, with a copy of the cache; nothing was put aside of it",
    )
