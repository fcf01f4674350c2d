"""Features as users have them: written by every library, for the tests of the import."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from stepclip.cache import (
    FeatureStore,
)
from stepclip.cache.exchange.importing import ImportReport, import_features

DIM = 6
Arrays = dict[str, np.ndarray]


def frames(name: str, count: int = 0, dim: int = DIM, dtype: str = "float32") -> np.ndarray:
    """The features of a video, which depend on its name alone."""
    random = np.random.default_rng(list(name.encode()))
    return random.normal(size=(count or int(random.integers(3, 9)), dim)).astype(dtype)


def bring(source: Path, out: Path, **options: Any) -> ImportReport:
    report = import_features(source, out, **{"fps": 2.0, "progress": False, **options})
    assert report.inputs == report.done + report.failed + report.skipped
    return report


def check(out: Path, name: str, expected: np.ndarray | None = None, fps: float = 2.0) -> None:
    """The cache holds exactly these features in its dtype, at these times."""
    with FeatureStore.open(out) as store:
        expected = frames(name.rpartition("/")[2]) if expected is None else expected
        found = store[name]
        np.testing.assert_array_equal(found.features, expected.astype(store.dtype))
        np.testing.assert_array_equal(found.times, np.arange(len(expected)) / fps)
        assert found.duration == pytest.approx(len(expected) / fps)


# ---- what is written, one video a file


def write_npy(path: Path, arrays: Arrays) -> None:
    np.save(path.with_suffix(".npy"), arrays["features"])


def write_npz(path: Path, arrays: Arrays) -> None:
    np.savez_compressed(path.with_suffix(".npz"), **arrays)


def write_npz_unnamed(path: Path, arrays: Arrays) -> None:
    np.savez(path.with_suffix(".npz"), arrays["features"])


def write_pt(path: Path, arrays: Arrays) -> None:
    torch.save(torch.from_numpy(arrays["features"]), path.with_suffix(".pt"))


def write_pth(path: Path, arrays: Arrays) -> None:
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items() if array.dtype.kind != "U"}
    words = {name: array.tolist() for name, array in arrays.items() if array.dtype.kind == "U"}
    torch.save({**tensors, **words}, path.with_suffix(".pth"))


def write_old_pt(path: Path, arrays: Arrays) -> None:
    torch.save(
        torch.from_numpy(arrays["features"]), path.with_suffix(".pt"), _use_new_zipfile_serialization=False
    )


def write_safetensors(path: Path, arrays: Arrays) -> None:
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items() if array.dtype.kind != "U"}
    words = {name: json.dumps(array.tolist()) for name, array in arrays.items() if array.dtype.kind == "U"}
    save_file(tensors, path.with_suffix(".safetensors"), metadata=words)


def write_h5(path: Path, arrays: Arrays) -> None:
    with h5py.File(path.with_suffix(".h5"), "w") as file:
        for name, array in arrays.items():
            file.create_dataset(name, data=array.tolist() if array.dtype.kind == "U" else array)


MAPPINGS: list[Callable[[Path, Arrays], None]] = [write_npz, write_pth, write_safetensors, write_h5]
WRITERS = [*MAPPINGS, write_npy, write_npz_unnamed, write_pt, write_old_pt]


def write_many(path: Path, arrays: Arrays) -> Path:
    kind = path.suffix
    if kind == ".h5":
        with h5py.File(path, "w") as file:
            for name, array in arrays.items():
                file[name] = array.astype("S") if array.dtype.kind == "U" else array
    elif kind == ".npz":
        np.savez(path, **arrays)
    elif kind == ".pt":
        torch.save({name: torch.from_numpy(array) for name, array in arrays.items()}, path)
    else:
        save_file({name: torch.from_numpy(array) for name, array in arrays.items()}, path)
    return path


class Malice:
    """A pickle of it makes a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def spoiled(values: np.ndarray, row: int, value: float) -> np.ndarray:
    values[row] = value
    return values


def manifest_file(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


STEPS, PARAGRAPHS = ["pour", "stir well"], ["pour, stir well", "stir well"]


def vectors(strings: list[str], dim: int = 4) -> np.ndarray:
    return np.concatenate([frames(string, 1, dim) for string in strings])
