"""Which file a video's features were made from, so that a file that changed since is noticed."""

from __future__ import annotations

import json
import os
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path

_ENDS = 1 << 16  # bytes at either end of a file that are compared: containers keep their tables there


@dataclass(frozen=True)
class Source:
    """The file of a video as it was when its features were made: its size, its time, crc32 of its two ends.

    `start` and `end` trim it, in seconds of the file; None where they do not.
    """

    path: str
    bytes: int
    mtime_ns: int
    crc32: int
    start: float | None = None
    end: float | None = None

    @classmethod
    def of(
        cls, path: str | os.PathLike[str], start: float | None = None, end: float | None = None
    ) -> Source | None:
        """The file as it is now; None when it cannot be read."""
        try:
            there = os.stat(path)
            return cls(str(path), there.st_size, there.st_mtime_ns, _ends(path), start, end)
        except OSError:
            return None

    @property
    def json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Source:
        """Raises ValueError or TypeError when it is not what `json` gave."""
        return cls(**json.loads(text))

    def changed(self, path: str | os.PathLike[str], start: float | None, end: float | None) -> str:
        """What is another than then, in words; "" when nothing is, or when the file is not there any more.

        A copy or a move changes nothing: where size and time are not the same, the content decides.
        """
        if (start, end) != (self.start, self.end):
            return f"trimmed to {_part(start, end)}, extracted {_part(self.start, self.end)}"
        try:
            there = os.stat(path)
            if there.st_size != self.bytes:
                return f"the file has {there.st_size} bytes, {self.bytes} when it was extracted"
            if there.st_mtime_ns != self.mtime_ns and _ends(path) != self.crc32:
                return "the file was written anew since it was extracted"
        except OSError:
            pass
        return ""


def _ends(path: str | os.PathLike[str]) -> int:
    if not Path(path).is_file():
        raise OSError(f"{path} is not a plain file")  # a FIFO may never answer
    with Path(path).open("rb") as file:
        head = file.read(_ENDS)
        file.seek(max(0, os.fstat(file.fileno()).st_size - _ENDS))
        return zlib.crc32(file.read(_ENDS), zlib.crc32(head))


def _part(start: float | None, end: float | None) -> str:
    return "whole" if start is None and end is None else f"{start or 0:g} to {end or 'end'} s"
