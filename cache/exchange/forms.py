"""The forms of an export: how each writes videos and texts, and the two lines that read it elsewhere.

Here: npy, safetensors and webdataset; Parquet has a file of its own. Each form fills in the entry of a video
in stepclip.json with the place where its arrays lie.
"""

from __future__ import annotations

import io
import json
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

import numpy as np

from ..layout import CacheInfo
from ..rows import VideoRow
from ..shard import Video
from ..texts import TextTable, text_checksum
from .exported import Place, shapes
from .filenames import FileNames

PART = 1 << 30  # bytes of one tar or Parquet file, about
_TENSORS = 1 << 28  # of one safetensors file: it is held in memory until it is written
_LOOSE = 1 << 28  # bytes of finished files that are flushed together

Entry = dict[str, Any]


class Form(ABC):
    """Writes one export into an empty folder. `part`: bytes after which a new file is begun.

    A context manager: after an error it lets go of the file at hand.
    """

    part = PART

    def __init__(self, folder: Path, about: CacheInfo) -> None:
        self.folder, self.about = folder, about
        self.beside: list[str] = []  # files that no video lies in
        self.example = ""  # a file to show in `read_back`
        self.count = 0  # numbered files so far
        self._open = ExitStack()  # the file at hand, and who writes into it
        self._loose: list[Path] = []  # written, perhaps not yet on the disk
        self._loose_bytes = 0

    def __enter__(self) -> Form:
        return self

    def __exit__(self, *error: Any) -> None:
        self._open.__exit__(*error)

    @abstractmethod
    def add(self, video: Video, row: VideoRow | None, entry: Entry) -> None:
        """Take one video; its entry is complete after the next `finish`."""

    @abstractmethod
    def finish(self) -> None:
        """Write what waits and close the file at hand."""

    @abstractmethod
    def read_back(self, folder: Path) -> tuple[str, str]:
        """Two lines of Python that read a file of the exported folder without StepCLIP."""

    def add_texts(self, tables: Mapping[str, TextTable]) -> dict[str, Any]:
        """texts/<kind>.npy, and all strings in texts.json."""
        places = {}
        for kind, table in tables.items():
            with self.new(f"texts/{kind}.npy") as file:
                places[kind] = (f"texts/{kind}.npy", write_npy(file, np.ascontiguousarray(table.features)))
            self.beside.append(f"texts/{kind}.npy")
        return self._strings(tables, places)

    def _strings(self, tables: Mapping[str, TextTable], places: Mapping[str, Place]) -> dict[str, Any]:
        if not tables:
            return {}
        self.write_text("texts.json", json.dumps({k: list(t.index) for k, t in tables.items()}, indent=1))
        return {
            kind: {**text_entry(table), "strings": "texts.json", "place": places[kind]}
            for kind, table in tables.items()
        }

    def add_rows(self, videos: list[dict[str, Any]]) -> None:  # noqa: B027 - most forms have no table of them
        """Take what is known of each video: video_id, frames, duration, and its row of the manifest."""

    def write_text(self, name: str, text: str) -> None:
        with self.new(name) as file:
            file.write(text.encode())
        self.beside.append(name)

    @contextmanager
    def new(self, name: str) -> Iterator[IO[bytes]]:
        """A file of the export."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "xb") as file:
            yield file
            self._loose.append(path)
            self._loose_bytes += file.tell()
        if self._loose_bytes > _LOOSE:
            self.flush()

    def flush(self) -> None:
        """Bring what was written to the disk; small files one by one would take five times as long."""
        with ThreadPoolExecutor(8) as pool:
            for _ in pool.map(_sync, self._loose):
                pass
        self._loose, self._loose_bytes = [], 0

    def arrays(self, video: Video) -> dict[str, np.ndarray]:
        """features, times and, where there are any, views: in C order, little-endian."""
        return {
            part: np.ascontiguousarray(getattr(video, part), dtype)
            for part, (dtype, _) in shapes(self.about, 1).items()
        }


class Npy(Form):
    """features/<id>.npy, times/<id>.npy, views/<id>.npy."""

    def __init__(self, folder: Path, about: CacheInfo) -> None:
        super().__init__(folder, about)
        self.names = FileNames()

    def add(self, video: Video, row: VideoRow | None, entry: Entry) -> None:
        name = self.names(video.video_id)
        for part, array in self.arrays(video).items():
            with self.new(f"{part}/{name}.npy") as file:
                entry[part] = (f"{part}/{name}.npy", write_npy(file, array))
        self.example = self.example or f"features/{name}.npy"

    def finish(self) -> None:
        pass

    def read_back(self, folder: Path) -> tuple[str, str]:
        return "import numpy", f"features = numpy.load({str(folder / self.example)!r})"


class Safetensors(Form):
    """features-00000.safetensors, ...: the tensors <id>/features, <id>/times, <id>/views."""

    part = _TENSORS

    def __init__(self, folder: Path, about: CacheInfo) -> None:
        super().__init__(folder, about)
        self.waiting: list[tuple[str, dict[str, np.ndarray], Entry]] = []
        self.bytes = 0

    def add(self, video: Video, row: VideoRow | None, entry: Entry) -> None:
        # copies: a map of every shard of a part would be more files than a process may hold open
        arrays = {part: np.array(array) for part, array in self.arrays(video).items()}
        size = sum(array.nbytes + len(video.video_id) + 200 for array in arrays.values())  # with its header
        if self.waiting and self.bytes + size > self.part:
            self.finish()
        self.waiting.append((video.video_id, arrays, entry))
        self.bytes += size

    def finish(self) -> None:
        if not self.waiting:
            return
        name = f"features-{self.count:05d}.safetensors"
        tensors = {
            f"{video_id}/{part}": array
            for video_id, arrays, _ in self.waiting
            for part, array in arrays.items()
        }
        places = self._save(name, tensors)
        for video_id, arrays, entry in self.waiting:
            entry.update({part: (name, places[f"{video_id}/{part}"]) for part in arrays})
        self.example = self.example or name
        self.count, self.waiting, self.bytes = self.count + 1, [], 0

    def add_texts(self, tables: Mapping[str, TextTable]) -> dict[str, Any]:
        if not tables:
            return {}
        name = "texts.safetensors"
        places = self._save(name, {kind: np.ascontiguousarray(t.features) for kind, t in tables.items()})
        self.beside.append(name)
        return self._strings(tables, {kind: (name, place) for kind, place in places.items()})

    def _save(self, name: str, tensors: dict[str, np.ndarray]) -> dict[str, int]:
        """Write one file; the bytes before each tensor in it.

        Not by `safetensors.save_file`, whose files nobody but their owner can read. Wide numbers come first,
        so that each lies at a multiple of its size.
        """
        order = sorted(tensors, key=lambda key: -tensors[key].itemsize)
        header: dict[str, Any] = {"__metadata__": {"writer": "stepclip"}}
        end = 0
        for key in order:
            array, first = tensors[key], end
            end = first + array.nbytes
            header[key] = {
                "dtype": f"F{8 * array.itemsize}",
                "shape": array.shape,
                "data_offsets": (first, end),
            }
        head = json.dumps(header).encode()
        head += b" " * (-len(head) % 8)
        with self.new(name) as file:
            file.write(len(head).to_bytes(8, "little") + head)
            for key in order:
                file.write(tensors[key].data.cast("B"))
        return {key: 8 + len(head) + header[key]["data_offsets"][0] for key in order}

    def read_back(self, folder: Path) -> tuple[str, str]:
        return "import safetensors.numpy", (
            f"tensors = safetensors.numpy.load_file({str(folder / self.example)!r})"
        )


class Webdataset(Form):
    """shard-00000.tar, ...: <key>.json, <key>.features.npy, <key>.times.npy, <key>.views.npy."""

    def __init__(self, folder: Path, about: CacheInfo) -> None:
        super().__init__(folder, about)
        self.names = FileNames(samples=True)
        self.now = int(time.time())
        self._tar: Any = None

    def add(self, video: Video, row: VideoRow | None, entry: Entry) -> None:
        import tarfile

        key = entry["key"] = self.names(video.video_id)
        said = {"video_id": video.video_id, "duration": video.duration, **row_columns(row)}
        members = {"json": (json.dumps(said, ensure_ascii=False).encode(), 0)}  # content, bytes of its header
        for part, array in self.arrays(video).items():
            npy = io.BytesIO()
            header = write_npy(npy, array)
            members[f"{part}.npy"] = (npy.getvalue(), header)
        size = sum(len(content) + 1024 for content, _ in members.values())
        if self._tar is not None and self._tar.offset + size > self.part:
            self.finish()
        shard = f"shard-{self.count:05d}.tar"
        if self._tar is None:
            file = self._open.enter_context(self.new(shard))
            self._tar = self._open.enter_context(
                tarfile.TarFile(fileobj=file, mode="w", format=tarfile.PAX_FORMAT)
            )
        for suffix, (content, header) in members.items():
            member = tarfile.TarInfo(f"{key}.{suffix}")
            member.size, member.mtime = len(content), self.now
            self._tar.addfile(member, io.BytesIO(content))
            if suffix != "json":
                blocks = -(-len(content) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
                entry[suffix.removesuffix(".npy")] = (shard, self._tar.offset - blocks + header)
        self._tar.members.clear()  # tarfile remembers all that it wrote

    def finish(self) -> None:
        if self._tar is not None:
            self._open.close()
            self._tar = None
            self.count += 1

    def read_back(self, folder: Path) -> tuple[str, str]:
        shards = f"[{str(folder) + os.sep!r} + f'shard-{{n:05d}}.tar' for n in range({self.count})]"
        return "import webdataset", (
            f"sample = next(iter(webdataset.WebDataset({shards}, shardshuffle=False).decode()))"
        )


def _sync(path: Path) -> None:
    with open(path, "r+b") as file:
        os.fsync(file.fileno())


def write_npy(file: IO[bytes], array: np.ndarray) -> int:
    """Write a .npy of an array in C order; the bytes before its numbers.

    Not by numpy's `save`, which does not say why a disk refuses.
    """
    np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
    before = file.tell()
    file.write(array.data.cast("B"))
    return before


def row_columns(row: VideoRow | None) -> dict[str, Any]:
    """A manifest's row as `Manifest.read` takes it: `video` is the path."""
    if row is None:
        return {}
    said = asdict(row)
    del said["video_id"]
    return {"video": said.pop("path"), **said}


def text_entry(table: TextTable) -> dict[str, Any]:
    count, dim = table.features.shape
    return {"count": count, "dim": dim, "crc32": text_checksum(list(table.index), table.features)}
