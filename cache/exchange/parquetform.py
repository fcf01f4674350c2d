"""The Parquet form of an export: a row per frame, a row per text, a row per video."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..layout import CacheInfo
from ..rows import VideoRow
from ..shard import Video
from ..texts import TextTable
from .forms import Entry, Form, text_entry

_ROW_GROUP = 16 << 20  # bytes: what is held in memory, and what a damaged page may cost


class Parquet(Form):
    """frames-00000.parquet, ...: a row per frame: video_id, frame, time, features, view_0, view_1, ...

    features and views are fixed_size_list<halffloat or float>[D]: pandas and pyarrow read float16 as float16,
    DuckDB (tried with 2.0) as float32. A row group holds whole videos.
    """

    def __init__(self, folder: Path, about: CacheInfo) -> None:
        import pyarrow as pa

        super().__init__(folder, about)
        self.vector = pa.list_(pa.from_numpy_dtype(np.dtype(about.dtype)), about.dim)
        views = [(f"view_{view}", self.vector) for view in range(about.views)]
        columns = [("video_id", pa.string()), ("frame", pa.int32()), ("time", pa.float64())]
        self.schema = pa.schema([*columns, ("features", self.vector), *views])
        self.waiting: list[tuple[Any, Entry]] = []
        self.waiting_bytes = self.bytes = self.groups = 0
        self._writer: Any = None

    def add(self, video: Video, row: VideoRow | None, entry: Entry) -> None:
        import pyarrow as pa

        # copies: a map of every shard of a row group would be more files than a process may hold open
        arrays = {part: np.array(array) for part, array in self.arrays(video).items()}
        table = pa.table(
            [
                pa.repeat(video.video_id, len(arrays["times"])),
                np.arange(len(arrays["times"]), dtype=np.int32),
                arrays["times"],
                *(self._vectors(each) for each in (arrays["features"], *arrays.get("views", ()))),
            ],
            self.schema,
        )
        size = sum(array.nbytes for array in arrays.values())
        if self.waiting and self.waiting_bytes + size > _ROW_GROUP:
            self._write_group()
        self.waiting.append((table, entry))
        self.waiting_bytes += size

    def _vectors(self, array: np.ndarray) -> Any:
        import pyarrow as pa

        return pa.FixedSizeListArray.from_arrays(pa.array(array.ravel()), type=self.vector)

    def _write_group(self) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        if not self.waiting:
            return
        if self._writer is not None and self.bytes + self.waiting_bytes > self.part:
            self._close_file()
        name = f"frames-{self.count:05d}.parquet"
        if self._writer is None:
            file = self._open.enter_context(self.new(name))
            # features do not compress, and their smallest and largest numbers tell nothing
            self._writer = self._open.enter_context(
                pq.ParquetWriter(
                    file,
                    self.schema,
                    compression="none",
                    use_dictionary=["video_id"],
                    write_statistics=["video_id", "frame", "time"],
                    write_page_checksum=True,
                )
            )
        first = 0
        for table, entry in self.waiting:
            entry["rows"] = (name, self.groups, first)
            first += table.num_rows
        self._writer.write_table(pa.concat_tables([table for table, _ in self.waiting]), row_group_size=first)
        self.groups, self.bytes = self.groups + 1, self.bytes + self.waiting_bytes
        self.waiting, self.waiting_bytes = [], 0
        self.example = self.example or name

    def _close_file(self) -> None:
        if self._writer is not None:
            self._open.close()
            self._writer, self.bytes, self.groups, self.count = None, 0, 0, self.count + 1

    def finish(self) -> None:
        self._write_group()
        self._close_file()

    def add_texts(self, tables: Mapping[str, TextTable]) -> dict[str, Any]:
        """texts.parquet: kind, text, features."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        if not tables:
            return {}
        vector = pa.list_(pa.float32(), next(iter(tables.values())).features.shape[1])
        parts = [
            pa.table(
                {
                    "kind": pa.repeat(kind, len(table.index)),
                    "text": pa.array(list(table.index), pa.string()),
                    "features": pa.FixedSizeListArray.from_arrays(
                        pa.array(np.ascontiguousarray(table.features).ravel()), type=vector
                    ),
                }
            )
            for kind, table in tables.items()
        ]
        with self.new("texts.parquet") as file:
            pq.write_table(pa.concat_tables(parts), file, compression="none", write_page_checksum=True)
        self.beside.append("texts.parquet")
        return {kind: {**text_entry(table), "strings": "texts.parquet"} for kind, table in tables.items()}

    def add_rows(self, videos: list[dict[str, Any]]) -> None:
        """videos.parquet: video_id, frames, duration, and the columns of the manifest where one was given."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        types = {"video_id": pa.string(), "frames": pa.int64(), "duration": pa.float64()}
        if any("steps" in video for video in videos):
            types |= dict.fromkeys(("video", "task", "procedure", "split"), pa.string())
            types |= {"start": pa.float64(), "end": pa.float64(), "steps": pa.list_(pa.string())}
            types |= dict.fromkeys(("step_start", "step_end"), pa.list_(pa.float64()))
        with self.new("videos.parquet") as file:
            pq.write_table(pa.Table.from_pylist(videos, pa.schema(list(types.items()))), file)
        self.beside.append("videos.parquet")

    def read_back(self, folder: Path) -> tuple[str, str]:
        return "import pandas", f"frames = pandas.read_parquet({str(folder / self.example)!r})"
