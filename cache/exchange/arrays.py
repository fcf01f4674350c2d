"""The named arrays in others' files, read one by one: npy, npz, pt, safetensors, HDF5. No pickle is run."""

from __future__ import annotations

import json
import os
import pickle
import warnings
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from ..errors import StepclipError

TORCH, HDF5 = (".pt", ".pth"), (".h5", ".hdf5")
SUFFIXES = (".npy", ".npz", *TORCH, ".safetensors", *HDF5)
SCALARS = ("fps", "duration")  # what may stand in the attributes of an HDF5 file or the head of a safetensors
_TRUST = "only if you trust where it is from, make it anew without a pickle: "


class ForeignFault(StepclipError):
    """A fault of one file or one video in it. `reason`: a short slug for failed.jsonl."""

    def __init__(self, reason: str, found: str, expected: str = "", run: str = "") -> None:
        super().__init__(found, expected, run)
        self.reason = reason

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.reason, self.found, self.expected, self.run)


@dataclass(frozen=True)
class Look:
    """What is known of an array before it is read. `kind`, numpy's: f float, i and u integer, U text."""

    shape: tuple[int, ...]
    dtype: str
    kind: str

    def __str__(self) -> str:
        return f"({self.dtype})" if self.kind == "?" else f"{self.shape} {self.dtype}"


class NamedArrays(ABC):
    """One file, open: what arrays it holds, and each of them when asked. A context manager."""

    path: Path

    @property
    @abstractmethod
    def names(self) -> list[str]:
        """The names, folders of them separated by "/"; one array without a name is called ""."""

    @abstractmethod
    def look(self, name: str) -> Look: ...

    def glance(self, name: str) -> Look:
        """`look`, and for what cannot be read a matrix of the kind "?": it may be anything."""
        try:
            return self.look(name)
        except ForeignFault as fault:
            return Look((0, 0), fault.reason, "?")

    @abstractmethod
    def read(self, name: str) -> np.ndarray: ...

    def close(self) -> None:  # noqa: B027 - most keep nothing open
        pass

    def __enter__(self) -> NamedArrays:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_arrays(path: str | os.PathLike[str]) -> NamedArrays:
    """Open a file of one of `SUFFIXES`. Raises ForeignFault: it is unreadable, or a pickle."""
    path = Path(path)
    kinds: dict[str, Callable[[Path], NamedArrays]] = {
        ".npy": _Npy,
        ".npz": _Npz,
        ".safetensors": _Safetensors,
        **dict.fromkeys(TORCH, _Torch),
        **dict.fromkeys(HDF5, _Hdf5),
    }
    if path.suffix.lower() not in kinds:
        raise ForeignFault("unreadable", f"{path} is a '{path.suffix}' file", f"one of {', '.join(SUFFIXES)}")
    with _reading(path):
        return kinds[path.suffix.lower()](path)


@contextmanager
def _reading(path: Path, name: str = "") -> Iterator[None]:
    """Whatever a library says of a damaged file becomes one kind of fault."""
    try:
        yield
    except ForeignFault:
        raise
    except FileNotFoundError as error:
        raise ForeignFault("missing-file", f"{path} is not there", "a file that can be read") from error
    except Exception as error:  # readers of damaged files raise what they like: KeyError, struct.error, ...
        said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        said = (said.strip().splitlines() or [""])[0][:200] or type(error).__name__
        raise ForeignFault(
            "unreadable",
            f"{path}{f', {name!r},' if name else ''} cannot be read: {said}",
            f"a whole {path.suffix} file",
            "make or copy it again",
        ) from error


def _pickled(path: Path, what: str, convert: str) -> ForeignFault:
    return ForeignFault(
        "pickle",
        f"{path} {what}: a pickle can run any program when it is loaded, so StepCLIP never loads one",
        "plain arrays of numbers",
        f'{_TRUST}python -c "{convert}"',
    )


# ---- numpy


class _Npy(NamedArrays):
    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open("rb") as file:
            self._look = _npy_look(file, path)

    @property
    def names(self) -> list[str]:
        return [""]

    def look(self, name: str) -> Look:
        return self._look

    def read(self, name: str) -> np.ndarray:
        with _reading(self.path):
            return np.load(self.path, allow_pickle=False)


class _Npz(NamedArrays):
    def __init__(self, path: Path) -> None:
        self.path = path
        self._zip = zipfile.ZipFile(path)
        self._members = {
            name.removesuffix(".npy"): name for name in self._zip.namelist() if name.endswith(".npy")
        }

    @property
    def names(self) -> list[str]:
        return list(self._members)

    def look(self, name: str) -> Look:
        with _reading(self.path, name), self._zip.open(self._members[name]) as file:
            return _npy_look(file, self.path, name)

    def read(self, name: str) -> np.ndarray:
        self.look(name)  # an object array is refused by its head
        with _reading(self.path, name), self._zip.open(self._members[name]) as file:
            return np.lib.format.read_array(file, allow_pickle=False)

    def close(self) -> None:
        self._zip.close()


def _npy_look(file: IO[bytes], path: Path, name: str = "") -> Look:
    """Shape and dtype from the head of an npy file."""
    head = file.read(6)
    if head[:1] == b"\x80":
        raise _pickled(path, "is a pickle, not an npy file", _RESAVE.format(path=path))
    if head != b"\x93NUMPY":
        zipped = head[:4] == b"PK\x03\x04"
        raise ForeignFault(
            "unreadable",
            f"{path}{f', {name!r},' if name else ''} is no npy file"
            + (" but an npz (a zip)" if zipped else ""),
            "the format that numpy.save writes",
            "rename it to .npz" if zipped else "make or copy it again",
        )
    major = file.read(2)[0]
    read = np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    if dtype.hasobject:
        what = f"holds an object array{f' {name!r}' if name else ''}, which is a pickle"
        if name:
            convert = (
                f"import numpy as np; d = np.load({str(path)!r}, allow_pickle=True); "
                "np.savez('plain.npz', **{k: np.array(v.tolist()) for k, v in d.items()})"
            )
        else:
            convert = _RESAVE.format(path=path)
        raise _pickled(path, what, convert)
    return Look(tuple(shape), str(dtype), dtype.kind)


_RESAVE = (
    "import numpy as np; d = np.load('{path}', allow_pickle=True); "
    "d = d.item() if getattr(d, 'shape', 1) == () else d; "
    "np.savez('plain.npz', **(d if isinstance(d, dict) else {{'features': np.array(list(d))}}))"
)


# ---- torch


class _InMemory(NamedArrays):
    """Tensors and numbers that a library has made already (a mapped file: nothing is read yet)."""

    def __init__(self, path: Path, found: dict[str, Any]) -> None:
        self.path, self._found = path, found

    @property
    def names(self) -> list[str]:
        return list(self._found)

    def look(self, name: str) -> Look:
        value = self._found[name]
        if isinstance(value, np.ndarray):
            return Look(value.shape, str(value.dtype), value.dtype.kind)
        return _tensor_look(tuple(value.shape), str(value.dtype).removeprefix("torch."))

    def read(self, name: str) -> np.ndarray:
        with _reading(self.path, name):
            value = self._found[name]
            return value if isinstance(value, np.ndarray) else _to_numpy(value)

    def close(self) -> None:
        self._found = {}


class _Torch(_InMemory):
    def __init__(self, path: Path) -> None:
        import torch

        try:
            with warnings.catch_warnings(
                action="ignore"
            ):  # of old pickle protocols: refused or read all the same
                loaded = torch.load(
                    path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
                )
        except pickle.UnpicklingError as error:
            with path.open("rb") as file:
                head = file.read(2)
            if head == b"PK" or head[:1] == b"\x80":
                raise _pickled(
                    path,
                    "holds more than tensors (numpy arrays or other objects, which are pickled)",
                    f"import torch, numpy as np; d = torch.load({str(path)!r}, weights_only=False); "
                    "np.savez('plain.npz', **(d if isinstance(d, dict) else {'features': np.asarray(d)}))",
                ) from error
            raise OSError("it is not what torch.save writes") from error
        super().__init__(path, dict(_flat(loaded)))


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """The arrays in nested mappings, by their joined keys; lists of numbers or texts become arrays."""
    import torch

    if isinstance(value, torch.Tensor):
        yield name, value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flat(inner, f"{name}/{key}" if name else str(key))
    elif isinstance(value, list | tuple) and any(isinstance(each, torch.Tensor | Mapping) for each in value):
        for number, inner in enumerate(value):
            yield from _flat(inner, f"{name}/{number}" if name else str(number))
    elif isinstance(value, list | tuple | str | int | float):
        made = np.asarray(value)
        if made.dtype.kind in "biufU":
            yield name, made


def _tensor_look(shape: tuple[int, ...], dtype: str) -> Look:
    kind = {"f": "f", "b": "f", "i": "i", "u": "u", "c": "c"}.get(dtype[:1].lower(), "V")
    return Look(shape, dtype, "b" if dtype.lower() == "bool" else kind)


def _to_numpy(tensor: Any) -> np.ndarray:
    import torch

    tensor = tensor.detach()
    if tensor.is_sparse:
        tensor = tensor.to_dense()
    if tensor.is_floating_point() and tensor.dtype not in (torch.float16, torch.float32, torch.float64):
        tensor = tensor.float()  # bfloat16, which numpy lacks
    return np.array(tensor.numpy())


# ---- safetensors


class _Safetensors(NamedArrays):
    def __init__(self, path: Path) -> None:
        from safetensors import safe_open

        self.path = path
        self._file = safe_open(path, framework="pt")
        self._said = _said(self._file.metadata() or {})
        held = list(self._file.keys())
        self._names = [*held, *(name for name in self._said if name not in held)]

    @property
    def names(self) -> list[str]:
        return self._names

    def look(self, name: str) -> Look:
        if name in self._said:
            return Look(self._said[name].shape, str(self._said[name].dtype), self._said[name].dtype.kind)
        part = self._file.get_slice(name)
        return _tensor_look(tuple(part.get_shape()), part.get_dtype())

    def read(self, name: str) -> np.ndarray:
        with _reading(self.path, name):
            return self._said[name] if name in self._said else _to_numpy(self._file.get_tensor(name))


def _said(metadata: Mapping[str, str]) -> dict[str, np.ndarray]:
    """What the head says in words: fps and duration as numbers, strings as a list."""
    found = {}
    for name, text in metadata.items():
        if name.rsplit("/", 1)[-1] in (*SCALARS, "strings", "labels"):
            try:
                value = np.asarray(json.loads(text))
            except ValueError:
                continue
            if value.dtype.kind in "ifU":
                found[name] = value
    return found


# ---- HDF5


class _Hdf5(NamedArrays):
    def __init__(self, path: Path) -> None:
        import h5py

        self.path = path
        path.stat()  # a missing file is told as one
        self._file = h5py.File(path, "r", locking=False)
        self._names: list[str] = []
        self._said: dict[str, np.ndarray] = {}
        self._visit("", self._file)
        self._file.visititems(self._visit)
        self._names += [name for name in self._said if name not in self._names]

    def _visit(self, name: str, item: Any) -> None:
        if hasattr(item, "dtype"):
            self._names.append(name)
        for key in SCALARS:
            if key in item.attrs and np.ndim(item.attrs[key]) == 0:
                self._said[f"{name}/{key}" if name else key] = np.asarray(item.attrs[key])

    @property
    def names(self) -> list[str]:
        return self._names

    def look(self, name: str) -> Look:
        import h5py

        with _reading(self.path, name):
            item = self._said[name] if name in self._said else self._file[name]
            text = h5py.check_string_dtype(item.dtype) is not None
            return Look(
                tuple(item.shape or ()), "text" if text else str(item.dtype), "U" if text else item.dtype.kind
            )

    def read(self, name: str) -> np.ndarray:
        with _reading(self.path, name):
            if name in self._said:
                return self._said[name]
            item = self._file[name]
            return (
                np.array(item.asstr()[()], dtype=str) if self.look(name).kind == "U" else np.asarray(item[()])
            )

    def close(self) -> None:
        self._file.close()
