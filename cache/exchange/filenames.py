"""File names for video ids: readable, inside their folder whatever the id is, and one of each on any disk."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter

_UNFIT = re.compile(
    r'[\x00-\x1f\x7f<>:"|?*\\%~]'
)  # what some file system refuses, and the two letters we add
_EMPTY = re.compile(r"\A/|(?<=/)/|/\Z")  # slashes that would make a folder without a name
_ENDS = re.compile(r"\A\.|[. ]\Z")  # hidden; "." and ".."; ends that Windows drops
_DEVICE = re.compile(r"\A(?=(?:con|prn|aux|nul|com\d|lpt\d)(?:\.|\Z)).", re.IGNORECASE)
_FOLDER = re.compile(r"\.(?=npy\Z)", re.IGNORECASE)  # no folder is called as the file of another id
_SAMPLE = re.compile(r"\.|\A_(?=_)")  # webdataset splits at the first dot, passes over names like __this__
_LONGEST, _LONGEST_PATH = 200, 600  # bytes; a name may have 255, with its suffix and a number


class FileNames:
    """Gives each id a relative path of its own: slashes make folders, unfit characters become %XX.

    Names that only differ in case, or in how a letter is composed, would be one file on some disks: the later
    one gets a number (`a~2`). What is too long is cut and gets a hash. `samples`: names without a dot, for
    the keys of webdataset.
    """

    def __init__(self, samples: bool = False) -> None:
        self.samples = samples
        self._taken: Counter[str] = Counter()

    def __call__(self, video_id: str) -> str:
        """The path of an id that was not asked for before, without a suffix; parts joined by "/"."""
        *folders, last = _EMPTY.sub("%2F", _UNFIT.sub(_quoted, video_id)).split("/")
        folders = [self._fit(_FOLDER.sub(_quoted, folder)) for folder in folders]
        name = "/".join([*folders, self._fit(last)])
        if len(name.encode()) > _LONGEST_PATH:
            name = _cut(name.replace("/", "%2F"))
        same = unicodedata.normalize("NFC", name).casefold()
        self._taken[same] += 1
        return name if self._taken[same] == 1 else f"{name}~{self._taken[same]}"

    def _fit(self, part: str) -> str:
        for pattern in (_SAMPLE, _ENDS, _DEVICE) if self.samples else (_ENDS, _DEVICE):
            part = pattern.sub(_quoted, part)
        return part if len(part.encode()) <= _LONGEST else _cut(part)


def _quoted(found: re.Match[str]) -> str:
    return f"%{ord(found[0]):02X}"


def _cut(part: str) -> str:
    kept = part.encode()[: _LONGEST - 20].decode(errors="ignore")
    return f"{kept}~{hashlib.sha256(part.encode()).hexdigest()[:16]}"
