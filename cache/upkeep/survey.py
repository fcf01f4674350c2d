"""A cache folder, every byte of it read: what it is, which videos are whole where, all that is wrong."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from ..catalogue import COPY, listing, read_copy
from ..errors import StepclipError
from ..files import TEMPORARY, abandoned, read_json
from ..layout import CacheInfo, Failure, read_about, scan_failures
from ..progress import byte_bar
from ..shard import SCHEMA, ShardRows
from ..texts import OTHER, SEAL, TextTable, scan_texts, seal_fault
from .examine import Finding, Shape, Shard, conclude, differences, must_read, newer, open_shard, read_by_rows
from .header import survivors

ACCOUNT, TEXTS, FAILURES, DAMAGED = "cache.json", "text.h5", "failed.jsonl", "damaged"
PUT_ASIDE = "text.damaged.h5"  # by a writer
_LATE = 1.0  # seconds that a writer may take between a shard's data and its rows
_Stamps = dict[str, tuple[int, int]]  # by suffix: a file's size and time


@dataclass(eq=False)
class Survey:
    """What lies in a cache folder; the names of files are relative to it.

    about: what the cache is, by cache.json or, where that is lost, by its shards; None where neither tells,
    for the reason `why_not`; whole: by id, the newest whole copy; left: temporary files without a writer.
    """

    path: Path
    about: CacheInfo | None = None
    digest: str = ""  # of the fingerprint; "" where nothing tells
    why_not: str = ""
    shards: list[Shard] = field(default_factory=list)
    strangers: list[Shard] = field(default_factory=list)  # of other fingerprints
    findings: list[Finding] = field(default_factory=list)  # of all files but the shards'
    whole: dict[str, tuple[Shard, ShardRows, int]] = field(default_factory=dict)
    texts: dict[str, TextTable] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)
    unread: list[int] = field(default_factory=list)  # lines of failed.jsonl
    left: list[str] = field(default_factory=list)
    writing: list[str] = field(default_factory=list)
    bytes: int = 0  # of the shards, read

    def all_findings(self) -> list[Finding]:
        return [*self.findings, *(each for shard in self.shards for each in shard.findings)]

    def find(self, file: str, kind: str, detail: str, texts: bool = False) -> None:
        self.findings.append(Finding(file, kind, detail, texts=texts))


def survey(path: Path, progress: bool) -> Survey:
    """Read a cache folder. Raises StepclipError: none there, not to be read, or of a newer schema."""
    found = Survey(cache_folder(path))
    copied = {Path(name).stem: rows for name, (_, rows) in read_copy(found.path).items()}
    every = _all_shards(found, copied, progress)
    _settle(found, every)
    for shard in found.shards:
        for video_id, (rows, row) in shard.intact.items():
            if (best := found.whole.get(video_id)) is None or _age(shard, rows, row) > _age(*best):
                found.whole[video_id] = shard, rows, row
    look_at_texts(found)
    _look_at_failures(found)
    _look_at_copy(found, every, copied)
    for folder in (found.path, found.path / "shards"):
        for name in sorted(listing(folder)):
            if name.endswith(TEMPORARY):
                file = (folder / name).relative_to(found.path).as_posix()
                (found.left if abandoned(folder / name) else found.writing).append(file)
    for file in found.left:
        found.find(file, "abandoned", "a writer was stopped before it had written this; nothing of it counts")
    return found


def cache_folder(path: Path) -> Path:
    """The folder or its `features`. Raises StepclipError where there is no cache, not even a damaged one."""
    for folder in (path, path / "features"):
        if any((folder / name).exists() for name in (ACCOUNT, "shards", TEXTS)):
            return folder
    there = ", ".join(sorted(entry.name for entry in path.iterdir())[:5]) if path.is_dir() else ""
    raise StepclipError(
        f"no feature cache at {path}" + (f" (it holds {there})" if there else ""),
        "a folder with a cache.json and shards, as `stepclip extract` makes it",
        "stepclip extract, with the same --root and DATASET",
    )


def _age(shard: Shard, rows: ShardRows, row: int) -> tuple[int, bool, int, str]:
    """The newest copy counts, as for readers; of equally old ones that which needs no repair."""
    return rows.commits[row], not shard.findings, len(rows.ids), shard.name


# ---- shards


def _all_shards(found: Survey, copied: dict[str, ShardRows], progress: bool) -> list[Shard]:
    """Every shard, examined. What others change meanwhile is examined again."""
    folder = found.path / "shards"
    done: dict[str, tuple[_Stamps, Shard]] = {}
    there = _stems(folder)
    total = sum(stamps[".h5"][0] for stamps in there.values() if ".h5" in stamps)
    with byte_bar("reading the cache", total, progress) as advance:

        def tick(count: int) -> None:
            found.bytes += count
            advance(count)

        for look in range(3):
            fresh = [name for name in there if name not in done or done[name][0] != there[name]]
            for shard in _examined(folder, fresh, copied, tick):
                done[shard.name] = there[shard.name], shard
            done = {name: each for name, each in done.items() if name in there}
            troubled = [name for name, (_, shard) in done.items() if shard.findings]
            late = max((_late(there[name]) for name in troubled), default=0.0)
            if not troubled or (look and all(_late(there[name]) for name in troubled)):
                break  # a writer who goes on is no reason to look again
            time.sleep(late)
            there = _stems(folder)
    writing = [name for name, (stamps, _) in done.items() if _late(stamps)]
    found.writing += [f"shards/{name}.h5" for name in writing]
    return [shard for name, (_, shard) in sorted(done.items()) if name not in writing]


def _late(stamps: _Stamps) -> float:
    """Seconds for which data without rows may still be waiting for them; 0 for what is no such data."""
    if ".parquet" in stamps:
        return 0.0
    return min(max(0.0, stamps[".h5"][1] / 1e9 + _LATE - time.time()), _LATE)


def _stems(folder: Path) -> dict[str, _Stamps]:
    found: dict[str, _Stamps] = {}
    for name, stamp in sorted(listing(folder).items()):
        path = Path(name)
        if path.suffix in (".h5", ".parquet") and not name.startswith("."):
            found.setdefault(path.stem, {})[path.suffix] = stamp
    return found


def _examined(
    folder: Path, names: Iterable[str], copied: dict[str, ShardRows], tick: Callable[[int], None]
) -> Iterable[Shard]:
    shards = [open_shard(folder, name, copied.get(name)) for name in names]
    unsure = []
    for shard in shards:
        with suppress(FileNotFoundError):  # removed just now; the next look says so
            read_by_rows(shard, tick)
            unsure += [shard.data] if shard.unsure else []
    safe = survivors(unsure) if unsure else set()
    for shard in shards:
        with suppress(FileNotFoundError):
            conclude(shard, shard.data in safe, tick)
    return shards


# ---- what the cache is


def _settle(found: Survey, every: list[Shard]) -> None:
    """Take the shards of the cache's fingerprint and shape; say what is wrong with cache.json."""
    shapes = Counter(shard.shape for shard in every if shard.shape)
    about, broken = _account(found.path / ACCOUNT)
    shape = None if about is None else _shape(about)
    if about is not None and shapes and shape not in shapes:
        alike = [each for each in shapes if each[0] == about.fingerprint.digest]
        if len(alike) == 1:
            broken = "its dimension, dtype or views are not those of all shards"
            shape = alike[0]
            about = CacheInfo(about.fingerprint, *shape[1:])
    if about is None and len(shapes) == 1:
        (shape,) = shapes
        about = _told(found.path, every, shape)
        found.why_not = "" if about else "no shard's header is left to make it from"
    elif about is None:
        found.why_not = (
            f"the shards are of {len(shapes)} kinds" if shapes else "no shard is left to make it from"
        )
        shape = shapes.most_common(1)[0][0] if shapes else None
    found.about, found.digest = about, shape[0] if shape else ""
    found.shards = [shard for shard in every if shard.shape in (shape, None)]
    found.strangers = [shard for shard in every if shard.shape not in (shape, None)]
    if broken:
        kind = "damaged-account" if (found.path / ACCOUNT).exists() else "no-account"
        found.find(ACCOUNT, kind, broken + (f"; {found.why_not}" if found.why_not else ""))
    elif shapes and shape not in shapes:
        found.why_not = f"none of the {len(every)} shards is of the fingerprint in {ACCOUNT}"
    for shard in found.strangers:
        digest, dim, dtype, views = shard.shape or ("", 0, "", 0)
        words = f"fingerprint {digest}, {dim}-d {dtype}, {views} views, another than the cache's"
        found.find(f"shards/{shard.name}.h5", "other-fingerprint", words)


def _account(path: Path) -> tuple[CacheInfo | None, str]:
    """cache.json, and what is wrong with it. Raises StepclipError when a newer StepCLIP wrote it."""
    if not must_read(path):
        return None, "it is gone"
    try:
        return read_about(path.parent), ""
    except StepclipError as error:
        kept = None
        with suppress(StepclipError):
            kept = read_json(path)
        if isinstance(kept, dict) and isinstance(schema := kept.get("schema"), int) and schema > SCHEMA:
            raise newer(path, schema) from error
        return None, "it is not as it was written"


def _shape(about: CacheInfo) -> Shape:
    return about.fingerprint.digest, about.dim, about.dtype, about.views


def _told(path: Path, every: list[Shard], shape: Shape) -> CacheInfo | None:
    """What the cache is, by the header of a shard."""
    for shard in every:
        if shard.header and _shape(shard.header.about) == shape:
            return CacheInfo(shard.header.about.fingerprint, *shape[1:])
    return None


# ---- the other files


def look_at_texts(found: Survey) -> None:
    path = found.path / TEXTS
    if not must_read(path):
        return
    try:
        image = path.read_bytes()
    except OSError as error:
        found.find(TEXTS, "damaged-texts", str(error), texts=True)
        return
    unsealed = seal_fault(image)
    if (unsealed or not image.startswith(SEAL)) and path not in survivors([path]):
        found.find(TEXTS, "damaged-texts", "HDF5 crashes on it or comes to no end with it", texts=True)
        return
    found.texts, faults = scan_texts(path, found.digest)
    if not found.digest or OTHER not in faults:
        faults.pop(OTHER, None)
    else:
        found.texts = {}
    if faults or unsealed:
        kind = "other-fingerprint" if OTHER in faults else "damaged-texts"
        lost = any(faults) or not found.texts  # "": only what stands around the kinds
        found.find(TEXTS, kind, "; ".join(faults.values()) or unsealed, texts=lost)


def _look_at_failures(found: Survey) -> None:
    if must_read(found.path / FAILURES):
        try:
            found.failures, found.unread = scan_failures(found.path)
        except OSError as error:
            found.find(FAILURES, "damaged-failures", f"it cannot be read: {error.strerror}")
        for line in found.unread:
            found.find(FAILURES, "damaged-failures", f"line {line} cannot be read")


def _look_at_copy(found: Survey, every: list[Shard], copied: dict[str, ShardRows]) -> None:
    if not must_read(found.path / COPY):
        return
    if not copied and not read_copy(found.path):  # again: it may have been written meanwhile
        found.find(COPY, "damaged-copy", "this copy of the row files cannot be read; it is never needed")
    for shard in every:
        other = copied.get(shard.name)
        if shard.rows and other and other.key == shard.rows.key and differences(shard.rows, other):
            found.find(COPY, "damaged-copy", f"it does not say what shards/{shard.name}.parquet says")
