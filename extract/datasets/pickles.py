"""Released pickle files, read without running anything that they name.

A pickle is a program: loading one calls whatever it names. Here a name only ever stands for one of the few
readers below, which make numbers, texts, lists and arrays; every other name is refused. Neither numpy's nor
torch's own loaders are given what the file says: with a forged dtype they read memory that is not theirs.
"""

from __future__ import annotations

import io
import math
import os
import pickle
import re
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np

from ...cache.errors import StepclipError

_CODE = re.compile(r"b1|[iu][1248]|f[248]")
_STORAGES = {
    "BoolStorage": "?",
    "ByteStorage": "u1",
    "CharStorage": "i1",
    "ShortStorage": "<i2",
    "IntStorage": "<i4",
    "LongStorage": "<i8",
    "HalfStorage": "<f2",
    "FloatStorage": "<f4",
    "DoubleStorage": "<f8",
}
_TORCH_MAGIC = 0x1950A86A20F9469CFC6C


def read_pickle(path: str | os.PathLike[str]) -> Any:
    """What the pickle at `path` holds: dicts, lists, tuples, texts, numbers; arrays, tensors as np.ndarray.

    Nothing in it is executed. Raises StepclipError for a file that names anything else, and one that is
    damaged or no pickle at all.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(64).lstrip()
            file.seek(0)
            if head.startswith((b"<", b"version https://git-lfs")):
                what = "a web page" if head[:1] == b"<" else "a pointer of Git LFS"
                raise StepclipError(
                    f"{path} is {what}, not the file itself",
                    "the released file (Google Drive gives a page in place of a large file)",
                    "download it again",
                )
            return _Reader(file).load()
    except StepclipError:
        raise
    except _Refused as refused:
        raise StepclipError(
            f"{path} names {refused}, which was refused and not run: a pickle can run any program",
            "a released file: dicts, lists, texts, numbers, arrays and tensors of numbers",
            "download it again from its authors; do not load it with pickle or torch",
        ) from None
    except OSError as error:
        raise StepclipError(f"{path} cannot be read: {error.strerror}", "a released pickle file") from error
    except Exception as error:  # a damaged pickle can raise nearly everything
        raise StepclipError(
            f"{path} cannot be read as a pickle: {str(error) or type(error).__name__:.120}",
            "a whole pickle file, as it was released",
            "download it again",
        ) from error


class _Refused(Exception):
    """The name of what is not allowed."""


class _Call:
    """Stands for a function that a pickle names. A pickle can change what it names: not this."""

    __slots__ = ("_make",)

    def __init__(self, make: Callable[..., Any]) -> None:
        self._make = make

    def __call__(self, *arguments: Any) -> Any:
        return self._make(*arguments)

    def __setstate__(self, _: Any) -> None:
        raise ValueError("it changes a function")


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        module = module.replace("numpy._core.", "numpy.core.")  # its name before numpy 2
        found = _KNOWN.get((module, name))
        if found is None:
            raise _Refused(f"{module}.{name}")
        return _Call(found) if callable(found) and found is not OrderedDict else found


# ---- numpy


class _Dtype:
    """A dtype of plain numbers."""

    __slots__ = ("_code", "_order")

    def __init__(self, code: str, *_: Any) -> None:
        if not isinstance(code, str) or not _CODE.fullmatch(code):
            raise ValueError(f"an array of {code!r:.40}, which are not plain numbers")
        self._code, self._order = code, "="

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        order, parts = state[1], state[2:5]
        if order not in ("<", ">", "|", "=") or parts != (None, None, None):
            raise ValueError("an array of records, which are not plain numbers")
        self._order = order

    def numpy(self) -> np.dtype[Any]:
        return np.dtype(self._order + self._code)


class _Array(np.ndarray):
    """An array that takes its numbers only as checked here."""

    def __setstate__(self, state: Any) -> None:
        shape, dtype, fortran, data = state[-4:]
        checked = _shaped(data, dtype, shape, "F" if fortran else "C")
        super().__setstate__((1, checked.shape, checked.dtype, False, checked.tobytes("C")))  # type: ignore[arg-type]


def _reconstruct(*_: Any) -> np.ndarray:
    """An array whose numbers are still to come."""
    return _Array((0,), np.int8)


def _shaped(data: Any, dtype: Any, shape: Any, order: str) -> np.ndarray:
    if not isinstance(dtype, _Dtype) or not isinstance(data, bytes | bytearray) or order not in ("C", "F"):
        raise ValueError("an array that does not hold plain numbers")
    return np.frombuffer(bytes(data), dtype.numpy()).reshape(_sizes(shape), order=order)  # type: ignore[call-overload]


def _from_buffer(data: Any, dtype: Any, shape: Any, order: Any, *_: Any) -> np.ndarray:
    return _shaped(data, dtype, shape, order).copy()


def _scalar(dtype: Any, data: Any) -> Any:
    return _shaped(data, dtype, (), "C").item()


def _sizes(shape: Any) -> tuple[int, ...]:
    if not isinstance(shape, tuple) or not all(isinstance(side, int) and side >= 0 for side in shape):
        raise ValueError(f"the shape {shape!r:.40}")
    return shape


def _no_bytes() -> bytes:
    return b""


def _encode(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise ValueError(f"bytes in the encoding {encoding!r:.40}")
    return text.encode("latin1")


# ---- torch: a tensor is a window on a storage, which is a file of its own inside the pickle


class _StorageReader(pickle.Unpickler):
    """The description of a storage: only names of kinds of storage, each standing for its dtype."""

    def find_class(self, module: str, name: str) -> Any:
        if module != "torch" or name not in _STORAGES:
            raise _Refused(f"{module}.{name} in a tensor")
        return _STORAGES[name]

    def persistent_load(self, pid: Any) -> Any:
        return pid


def _storage(data: bytes) -> np.ndarray:
    """The numbers (N,) of a storage in torch.save's format before 1.6, which pickled tensors still hold."""
    file = io.BytesIO(data)
    magic, _, _, about, keys = (_StorageReader(file).load() for _ in range(5))
    if magic != _TORCH_MAGIC or len(keys) != 1 or about[0] != "storage" or about[2] != keys[0]:
        raise ValueError("a tensor that is not as torch writes it")
    numbers = int.from_bytes(file.read(8), "little")
    found = np.frombuffer(file.read(), about[1])
    if len(found) != numbers:
        raise ValueError(f"a tensor that is cut: {len(found)} of {numbers} numbers")
    return found


def _tensor(storage: Any, offset: Any, shape: Any, stride: Any, *_: Any) -> np.ndarray:
    shape, stride = _sizes(shape), _sizes(stride)
    (offset,) = _sizes((offset,))
    last = offset + sum((side - 1) * step for side, step in zip(shape, stride, strict=True))
    count = math.prod(shape)
    if not isinstance(storage, np.ndarray) or storage.ndim != 1 or count > len(storage):
        raise ValueError("a tensor without its storage")
    if count and last >= len(storage):
        raise ValueError("a tensor that reaches beyond its storage")
    size = storage.itemsize
    window = np.lib.stride_tricks.as_strided(
        storage[offset:] if count else storage[:0], shape, [step * size for step in stride]
    )
    return window.copy()


_KNOWN: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("_codecs", "encode"): _encode,  # so protocols 0 to 2 write bytes
    ("__builtin__", "bytes"): _no_bytes,
    ("numpy", "ndarray"): "ndarray",
    ("numpy", "dtype"): _Dtype,
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy.core.numeric", "_frombuffer"): _from_buffer,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch.storage", "_load_from_bytes"): _storage,
}
