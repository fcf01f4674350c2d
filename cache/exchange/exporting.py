"""Exporting a cache to files that open without StepCLIP; `read_export` restores it exactly.

An export is written into a hidden folder beside its target and renamed as a whole, stepclip.json last: what
has the name of an export is one, and one that takes an earlier one's place never mixes with it.
"""

from __future__ import annotations

import io
import json
import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import StepclipError, nearest
from ..files import write_atomically, write_json
from ..fingerprint import Fingerprint
from ..layout import CacheInfo, Failure
from ..manifest import Manifest
from ..shard import Video
from ..store import FeatureStore
from ..texts import TextTable, read_texts
from .exported import ABOUT, FORMATS, KIND, MANIFEST, VERSION, about_checksum, read_export
from .folders import files_in, new_folder
from .forms import Form, Npy, Safetensors, Webdataset, row_columns
from .parquetform import Parquet

DTYPES = ("float16", "float32")
FORMS: dict[str, type[Form]] = {
    "npy": Npy,
    "safetensors": Safetensors,
    "parquet": Parquet,
    "webdataset": Webdataset,
}


@dataclass
class ExportReport:
    """What an export did; `inputs == done + failed` videos. bytes, files: of all that lies in its folder.

    failures: the videos that the cache itself could not give; read_back: two lines of Python that open the
    export without StepCLIP.
    """

    out: str
    format: str
    inputs: int
    done: int = 0
    failed: int = 0
    failures: list[Failure] = field(default_factory=list)
    frames: int = 0
    texts: int = 0
    files: int = 0
    bytes: int = 0
    seconds: float = 0.0
    dtype: str = ""
    fingerprint: str = ""
    notes: list[str] = field(default_factory=list)
    read_back: tuple[str, str] = ("", "")

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write all of it as JSON, atomically."""
        write_json(path, asdict(self))
        return Path(path)

    def __str__(self) -> str:
        from rich.console import Console

        text = io.StringIO()
        # no line of `read_back` is broken: they are there to be copied
        Console(file=text, width=max(110, *(len(line) + 2 for line in self.read_back))).print(self)
        return text.getvalue().rstrip()

    def __rich__(self) -> Any:
        from rich.console import Group
        from rich.markup import escape
        from rich.table import Table
        from rich.text import Text

        title = f"Export to {self.out}: {self.format}, {self.dtype}"
        table = Table(title=escape(title), title_justify="left")
        for column in ("inputs", "done", "failed", "frames", "texts", "files", "MB", "s", "MB/s"):
            table.add_column(column, justify="right")
        counts = (self.inputs, self.done, self.failed, self.frames, self.texts, self.files)
        size = self.bytes / 1e6
        rate = size / max(self.seconds, 1e-9)
        table.add_row(*map(str, counts), f"{size:,.1f}", f"{self.seconds:.1f}", f"{rate:,.0f}")
        parts: list[Any] = [table]
        for failure in self.failures[:10]:
            parts.append(escape(f"left out: {failure.video_id}: {failure.detail.splitlines()[0]}"))
        if len(self.failures) > 10:
            parts.append(f"left out: {len(self.failures) - 10} more")
        parts += [escape(note) for note in self.notes]
        lines = [Text(f"  {line}") for line in self.read_back]
        return Group(*parts, "It opens without StepCLIP, in Python:", *lines)


def export(
    store: FeatureStore | str | os.PathLike[str],
    out: str | os.PathLike[str],
    format: str = "npy",
    *,
    video_ids: Sequence[str] | None = None,
    manifest: Manifest | str | os.PathLike[str] | None = None,
    dtype: str | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> ExportReport:
    """Write the videos and texts of a cache into the new folder `out`, as files that other tools read.

    format: npy (one file per video), safetensors, parquet (a row per frame) or webdataset (tar); `forms.py`
    says what lies where. video_ids: these alone; manifest: what it says of these videos goes along, in the
    folder manifest/; dtype: float16 or float32 in place of the cache's, noted in the fingerprint. One video
    or one part of at most 256 MB is in memory at a time. A video whose features in the cache are damaged is
    left out and named.

    Raises StepclipError when `out` is there already (with `overwrite`, when it is something else than an
    earlier export), when nothing can be exported, when a value does not fit `dtype`, and when the disk
    refuses; `out` is then as it was before.
    """
    if format not in FORMS:
        raise StepclipError(
            f"'{format}' is no format to export{nearest(format, FORMATS)}", ", ".join(FORMATS)
        )
    if dtype not in (None, *DTYPES):
        raise StepclipError(f"features as '{dtype}'{nearest(str(dtype), DTYPES)}", " or ".join(DTYPES))
    began = time.monotonic()
    store = store if isinstance(store, FeatureStore) else FeatureStore.open(store)
    rows = manifest if manifest is None or isinstance(manifest, Manifest) else Manifest.read(manifest)
    ids = store.video_ids if video_ids is None else tuple(video_ids)
    about = _converted(CacheInfo(store.fingerprint, store.dim, store.dtype, store.views), dtype)
    report = ExportReport(
        os.path.abspath(out), format, len(ids), dtype=about.dtype, fingerprint=about.fingerprint.digest
    )
    _check_asked(store, ids, rows, report.notes)
    target = Path(os.path.realpath(out))
    with (
        new_folder(target, lambda: _refuse_taken(target, overwrite)) as folder,
        FORMS[format](folder, about) as form,
    ):
        entries = _write_videos(store, ids, rows, form, report, progress)
        texts = _texts(store, report.notes)
        kept = form.add_texts(texts)
        form.add_rows(
            [
                {"video_id": entry["id"], "frames": entry["frames"], "duration": entry["duration"]}
                | row_columns(_row(rows, entry["id"]))
                for entry in entries
            ]
        )
        if rows is not None:
            rows.select(video_id for video_id in ids if video_id in rows).write(folder / MANIFEST)
            form.beside += [f"{MANIFEST}/{path.name}" for path in (folder / MANIFEST).iterdir()]
        failures = [*(store.failures() if video_ids is None else ()), *report.failures]
        said = {
            "kind": KIND,
            "version": VERSION,
            "format": format,
            **about.account("export"),
            "fingerprint": about.fingerprint.fields,
            "texts": kept,
            "beside": form.beside,
            "failures": [asdict(failure) for failure in failures],
            "videos": entries,
        }
        form.flush()
        _write_about(folder / ABOUT, said)
        report.texts = sum(len(table.index) for table in texts.values())
        report.read_back = form.read_back(Path(report.out))
    sizes = [path.stat().st_size for path in files_in(target)]
    report.files, report.bytes = len(sizes), sum(sizes)
    report.seconds = time.monotonic() - began
    if report.inputs != report.done + report.failed:
        raise AssertionError(f"{report.inputs} inputs are not {report.done} done + {report.failed} failed")
    return report


def _check_asked(store: FeatureStore, ids: Sequence[str], rows: Manifest | None, notes: list[str]) -> None:
    if not ids:
        raise StepclipError(f"there are no videos to export from {store.path}", "one video or more")
    if twice := [video_id for video_id, count in Counter(ids).items() if count > 1]:
        raise StepclipError(f"the video '{twice[0]}' is asked for twice", "each video once")
    for video_id in ids:
        store.length(video_id)  # raises where it is unknown
    if rows is not None and (without := [video_id for video_id in ids if video_id not in rows]):
        if len(without) == len(ids):
            raise StepclipError(
                f"the manifest has a row for none of the {len(ids)} videos"
                + nearest(without[0], (row.video_id for row in rows)),
                "the manifest of these videos",
            )
        notes.append(f"{len(without)} of {len(ids)} videos have no row in the manifest, first: {without[0]}")


def _converted(about: CacheInfo, dtype: str | None) -> CacheInfo:
    """What the export is an account of: features widened are not those that would be made in float32."""
    if dtype in (None, about.dtype):
        return about
    fields = dict(about.fingerprint.fields)
    if "dtype" in fields:
        fields["dtype"] = dtype
    if dtype == "float32":
        fields["dtype.from"] = about.dtype
    return CacheInfo(Fingerprint(fields), about.dim, str(dtype), about.views)


# ---- videos


def _write_videos(
    store: FeatureStore,
    ids: Sequence[str],
    rows: Manifest | None,
    form: Form,
    report: ExportReport,
    progress: bool,
) -> list[dict[str, Any]]:
    """The entries of stepclip.json, complete."""
    entries: list[dict[str, Any]] = []
    for video_id in _tracked(store, ids, form.about, progress):
        source = store.source(video_id)
        try:
            video = _whole(store, video_id)
        except StepclipError as error:
            path = source.path if source else ""
            report.failures.append(Failure(video_id, path, "damaged-in-cache", error.found))
            report.failed += 1
            continue
        video = _as_dtype(video, form.about.dtype)
        entry: dict[str, Any] = {
            "id": video_id,
            "frames": len(video.times),
            "duration": video.duration,
            "crc32": video.crc32,
            "source": asdict(source) if source else None,
        }
        form.add(video, _row(rows, video_id), entry)
        entries.append(entry)
        report.done += 1
        report.frames += len(video.times)
    form.finish()
    if not entries:
        raise StepclipError(
            f"none of the {len(ids)} videos can be read: {report.failures[0].detail}",
            "a cache with whole videos",
            "stepclip cache verify, which names what is damaged",
        )
    return entries


def _whole(store: FeatureStore, video_id: str) -> Video:
    """A video as it was written. Raises StepclipError when it is not any more."""
    found = store[video_id]
    rows, row = store._find(video_id)
    video = Video(video_id, found.features, found.times, found.duration, found.views, rows.source(row))
    if video.crc32 != rows.crc32[row]:
        raise StepclipError(
            f"the features of '{video_id}' in {rows.file} are not those that were written",
            "the checksum in its row",
            "stepclip cache repair",
        )
    return video


def _as_dtype(video: Video, dtype: str) -> Video:
    if video.features.dtype == dtype:
        return video
    with np.errstate(over="ignore"):
        features = video.features.astype(dtype)
        views = None if video.views is None else video.views.astype(dtype)
    for array in (features, *(() if views is None else views)):
        if not (np.isfinite(array).all() and array.any(axis=-1).all()):
            raise StepclipError(
                f"the features of '{video.video_id}' do not fit {dtype}",
                "numbers within +-65504, and not all of a row below 6e-8",
                f"export as {video.features.dtype}",
            )
    return Video(video.video_id, features, video.times, video.duration, views, video.source)


def _row(rows: Manifest | None, video_id: str) -> Any:
    return rows[video_id] if rows is not None and video_id in rows else None


def _tracked(store: FeatureStore, ids: Sequence[str], about: CacheInfo, shown: bool) -> Iterator[str]:
    if not shown:
        yield from ids
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("export"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("frames, {task.fields[rate]}, left"),
        TimeRemainingColumn(),
    )
    frame = np.dtype(about.dtype).itemsize * about.dim * (1 + about.views) + 8  # bytes
    lengths = [store.length(video_id) for video_id in ids]
    began, done = time.monotonic(), 0
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=sum(lengths), rate="")
        for video_id, length in zip(ids, lengths, strict=True):
            yield video_id
            done += length
            rate = done * frame / max(time.monotonic() - began, 1e-3) / 1e6
            bar.update(task, completed=done, rate=f"{rate:,.0f} MB/s")


# ---- what lies beside the videos


def _texts(store: FeatureStore, notes: list[str]) -> dict[str, TextTable]:
    try:
        return read_texts(store.path / "text.h5", store.fingerprint.digest)
    except StepclipError as error:
        notes.append(f"the texts are left out: {error.found}")
        return {}


def _write_about(path: Path, said: dict[str, Any]) -> None:
    """stepclip.json, one line per video."""
    said = json.loads(json.dumps(said, allow_nan=False))  # as it is read: tuples are lists
    said["crc32"] = about_checksum(said)

    def line(value: Any) -> str:
        return json.dumps(value, ensure_ascii=False)

    parts = [
        f"{line(key)}: [\n" + ",\n".join(map(line, value)) + "\n]"
        if isinstance(value, list) and value
        else f"{line(key)}: {line(value)}"
        for key, value in said.items()
    ]
    with write_atomically(path, "w") as file:
        file.write("{\n" + ",\n".join(parts) + "\n}\n")


def _refuse_taken(target: Path, overwrite: bool) -> None:
    """Nothing but an earlier export is ever replaced, and no file in it that it did not write."""
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    other = "a new or an empty folder; or that of an earlier export, with overwrite"
    if not target.is_dir():
        raise StepclipError(f"{target} is a file", other)
    try:
        earlier = read_export(target)
    except StepclipError as error:
        raise StepclipError(f"{target} is not empty, and no export: {error.found}", other) from error
    if not overwrite:
        raise StepclipError(
            f"{target} holds an export of {len(earlier)} videos already",
            "a new or an empty folder",
            "export with overwrite (--overwrite) to replace it",
        )
    there = {path.relative_to(target).as_posix() for path in files_in(target)}
    if others := sorted(there - earlier.files):
        raise StepclipError(
            f"{target} holds {len(others)} files that no export wrote, such as {others[0]}",
            "an earlier export and nothing else, for it is replaced as a whole",
            "move them away, or export into another folder",
        )
