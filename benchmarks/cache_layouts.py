"""Layouts in which the features of many videos can lie, to be read in random batches and all at once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

from stepclip.cache import FeatureStore, FeatureWriter, Fingerprint

BATCH = 16  # videos
FINGERPRINT = Fingerprint({"encoder.name": "random numbers"})


@dataclass(frozen=True)
class Data:
    """V videos, one after the other in `features` (N, D) float16: video i has the rows from offsets[i]."""

    features: np.ndarray
    offsets: list[int]

    @classmethod
    def random(cls, videos: int, frames: int, dim: int, seed: int = 0) -> Data:
        """Lengths within a quarter of `frames`, and so many on average."""
        random = np.random.default_rng(seed)
        lengths = random.integers(frames - frames // 4, frames + frames // 4 + 1, videos)
        offsets = [0, *np.cumsum(lengths).tolist()]
        features = np.empty((offsets[-1], dim), np.float16)
        for first, last in pairwise(offsets):  # float32 of it all would take twice as much
            features[first:last] = random.standard_normal((last - first, dim), np.float32)
        return cls(features, offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def name(self, i: int) -> str:
        return f"video-{i:06d}"

    def video(self, i: int) -> np.ndarray:
        return self.features[self.offsets[i] : self.offsets[i + 1]]


def open_writer(folder: Path, data: Data, shard_videos: int = 1 << 30) -> FeatureWriter:
    """A writer of shards of 64 MiB, or of `shard_videos` where those are smaller."""
    return FeatureWriter(folder, FINGERPRINT, dim=data.features.shape[1], shard_videos=shard_videos)


def add_videos(writer: FeatureWriter, data: Data, repeats: int = 1, first: int = 0) -> None:
    """All videos, `repeats` times, each under a name of its own, numbered from `first`."""
    for repeat in range(repeats):
        for i in range(len(data)):
            video = data.video(i)
            name = data.name(first + repeat * len(data) + i)
            writer.add(name, video, np.arange(len(video)) / 4, len(video) / 4)


class Layout(ABC):
    """One way to keep the features. `write` makes its files; reading starts with `open`."""

    name: str
    kind = "other"  # stepclip | reference | other
    sequential = False  # no video can be had by itself
    whole = True  # False: loading all of it says nothing new

    def __init__(self, data: Data, folder: Path) -> None:
        self.data, self.folder, self.file = data, folder, folder / type(self).__name__

    def write(self) -> None:  # noqa: B027 - some share the files of another
        pass

    def open(self) -> None:  # noqa: B027
        pass

    @abstractmethod
    def video(self, i: int) -> np.ndarray: ...

    def batch(self, videos: Sequence[int]) -> Any:
        """The frames of these videos, copied into one array."""
        return np.concatenate([self.video(i) for i in videos])

    def load(self) -> Any:
        """All features (N, D) in memory, read anew."""
        return self.batch(range(len(self.data)))


def in_pieces(array: np.ndarray) -> np.ndarray:
    """A copy, made 64 MiB at a time: on some processors one copy of hundreds of megabytes is far slower."""
    out, step = np.empty(array.shape, array.dtype), (64 << 20) // array[0].nbytes
    for first in range(0, len(array), step):
        out[first : first + step] = array[first : first + step]
    return out


class Memmap(Layout):
    name, kind = "one raw memmap", "reference"

    def write(self) -> None:
        self.data.features.tofile(self.file)

    def open(self) -> None:
        self.map = np.memmap(self.file, np.float16, "r").reshape(self.data.features.shape)

    def video(self, i: int) -> np.ndarray:
        return self.map[self.data.offsets[i] : self.data.offsets[i + 1]]

    def load(self) -> Any:
        return in_pieces(self.map)


class Memory(Layout):
    name, kind = "copy from memory", "reference"

    def video(self, i: int) -> np.ndarray:
        return self.data.video(i)

    def load(self) -> Any:
        return in_pieces(self.data.features)


class Store(Layout):
    name, kind = "StepCLIP, store[id]", "stepclip"

    def write(self) -> None:
        with open_writer(self.folder / "stepclip", self.data) as writer:
            add_videos(writer, self.data)

    def open(self) -> None:
        self.store = FeatureStore.open(self.folder / "stepclip")
        self.names = self.store.video_ids

    def video(self, i: int) -> np.ndarray:
        return self.store[self.names[i]].features


class Packed(Store):
    name = "StepCLIP, store.load().gather"

    def write(self) -> None:
        pass  # the files of Store

    def open(self) -> None:
        super().open()
        self.features: Any = self.store.load(progress=False)
        self.rows = [torch.arange(first, last) for first, last in pairwise(self.data.offsets)]

    def batch(self, videos: Sequence[int]) -> Any:
        return self.features.gather(torch.cat([self.rows[i] for i in videos]))

    def load(self) -> Any:
        return self.store.load(progress=False).features


class Mapped(Packed):
    name = "StepCLIP, store.mapped().gather"

    def open(self) -> None:
        super().open()
        self.features = self.store.mapped()

    def load(self) -> Any:
        return self.features.gather(torch.arange(self.features.count))


class Contiguous(Layout):
    name = "h5py, one dataset, D[a:b]"

    def write(self) -> None:
        with h5py.File(self.file, "w") as file:
            file["features"] = self.data.features

    def open(self) -> None:
        self.dataset = h5py.File(self.file, "r")["features"]

    def video(self, i: int) -> np.ndarray:
        return self.dataset[self.data.offsets[i] : self.data.offsets[i + 1]]

    def load(self) -> Any:
        return self.dataset[:]


class PerVideo(Layout):
    name = "h5py, a dataset per video"

    def write(self) -> None:
        with h5py.File(self.folder / "PerVideo", "w") as file:
            for i in range(len(self.data)):
                file[self.data.name(i)] = self.data.video(i)

    def open(self) -> None:
        self.h5 = h5py.File(self.folder / "PerVideo", "r")

    def video(self, i: int) -> np.ndarray:
        return self.h5[self.data.name(i)][:]


class CachedDatasets(PerVideo):
    name = "h5py, a dataset per video, kept open"

    def write(self) -> None:
        pass  # the file of PerVideo

    def open(self) -> None:
        super().open()
        self.datasets = [self.h5[self.data.name(i)] for i in range(len(self.data))]

    def video(self, i: int) -> np.ndarray:
        return self.datasets[i][:]


class OpenedFile(CachedDatasets):
    name, whole = "h5py, a dataset per video, file opened for each", False

    def open(self) -> None:
        pass

    def video(self, i: int) -> np.ndarray:
        with h5py.File(self.folder / "PerVideo", "r") as file:
            return file[self.data.name(i)][:]


class Npy(Layout):
    name = "one .npy per video"

    def write(self) -> None:
        self.file.mkdir()
        for i in range(len(self.data)):
            np.save(self.file / f"{self.data.name(i)}.npy", self.data.video(i))

    def video(self, i: int) -> np.ndarray:
        return np.load(self.file / f"{self.data.name(i)}.npy")


class Safetensors(Layout):
    name = "safetensors, a tensor per video"

    def write(self) -> None:
        from safetensors.numpy import save_file

        save_file({self.data.name(i): self.data.video(i) for i in range(len(self.data))}, self.file)

    def open(self) -> None:
        from safetensors import safe_open

        self.opened = safe_open(self.file, "np")

    def video(self, i: int) -> np.ndarray:
        return self.opened.get_tensor(self.data.name(i))


class WebDataset(Layout):
    name, sequential = "webdataset tar (in order only)", True

    def write(self) -> None:
        import webdataset

        with webdataset.TarWriter(str(self.file)) as tar:
            for i in range(len(self.data)):
                tar.write({"__key__": self.data.name(i), "npy": self.data.video(i)})

    def video(self, i: int) -> np.ndarray:
        raise NotImplementedError("a tar is read from its beginning")

    def load(self) -> Any:
        import webdataset

        samples = webdataset.WebDataset(str(self.file), shardshuffle=False, empty_check=False).decode()
        return np.concatenate([sample["npy"] for sample in samples])


LAYOUTS: tuple[type[Layout], ...] = (
    Memmap,
    Memory,
    Store,
    Packed,
    Mapped,
    Contiguous,
    PerVideo,
    CachedDatasets,
    OpenedFile,
    Npy,
    Safetensors,
    WebDataset,
)
