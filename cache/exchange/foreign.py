"""Others' features: which videos a folder or one file holds, and what it says of each of them.

folder    one file per video, in folders of any depth; `X_fps.npy`, `X_timestamps_ms.npy` and the like beside
          `X.npy` or `X_rgb.npy` (as video_features writes them) are of the video X
one file  an array per video, or a group of arrays per video: VIDEO/features, VIDEO/times, VIDEO/labels
"""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from ..errors import StepclipError, nearest
from .arrays import SUFFIXES, ForeignFault, Look, NamedArrays, open_arrays
from .recordings import KNOWN, OTHERS, Entry, Keys, Members, Recording

TEST_IDS = "test_ids"
_BESIDE = re.compile(rf"(.+)_({'|'.join(sorted(OTHERS, key=len, reverse=True))})")
_PICKLES = (".pkl", ".pickle", ".p")


class Foreign:
    """A folder or a file of others' features, open. A context manager.

    entries: its videos; ignored: how many files or arrays are no features, by kind; splits: what it says of
    them, by video id; notes: what else is worth a word. Raises StepclipError when it holds no features.
    """

    def __init__(
        self,
        source: str | os.PathLike[str],
        keys: Keys | None = None,
        *,
        prefix: str | None = None,
        pattern: str | None = None,
        transposed: bool = False,
        test_ids_key: str | None = None,
        labels: str | os.PathLike[str] | None = None,
    ) -> None:
        self.path = Path(os.path.abspath(os.path.expanduser(source)))
        self.keys, self.transposed = keys or Keys(), transposed
        self.name = self.path.name if self.path.is_dir() else self.path.stem
        self.ignored: Counter[str] = Counter()
        self.splits: dict[str, str] = {}
        self.notes: list[str] = []
        self.prefix = ""
        self._file: NamedArrays | None = None
        if self.path.is_dir():
            if prefix or test_ids_key:
                raise StepclipError(f"{self.path} is a folder", "one file, for a prefix or a key of test ids")
            self.entries = _in_folder(self.path, pattern, self.ignored)
        elif self.path.is_file():
            if pattern:
                raise StepclipError(f"{self.path} is one file", "a folder, for a pattern of its files")
            self._file = open_arrays(self.path)
            try:
                self.entries = self._in_file(self._file, prefix, test_ids_key)
            except BaseException:
                self.close()
                raise
        else:
            there = os.listdir(self.path.parent) if self.path.parent.is_dir() else []
            raise StepclipError(
                f"nothing at {self.path}{nearest(self.path.name, there)}",
                f"a folder of features, or one file of {', '.join(SUFFIXES)}",
            )
        if labels is not None:
            self.entries = _with_labels(self.entries, Path(labels))

    def look(self, entry: Entry) -> Look:
        """The array of features as it lies there; reads no features. Raises ForeignFault."""
        with self._members(entry) as members:
            return members.look(members.roles(self.keys)["features"])

    def read(self, entry: Entry, features: bool = True) -> Recording:
        """All that is said of a video; without `features`, all but those. Raises ForeignFault."""
        with self._members(entry) as members:
            return members.recording(self.keys, self.transposed, features)

    @contextmanager
    def _members(self, entry: Entry) -> Iterator[Members]:
        if self._file is not None:
            yield Members(self._file, entry)
        else:
            with open_arrays(entry.path) as arrays:
                yield Members(arrays, entry)

    def _in_file(self, file: NamedArrays, prefix: str | None, test_ids_key: str | None) -> list[Entry]:
        names = file.names
        prefix = self._prefix(names) if prefix is None and test_ids_key is None else prefix
        head = f"{prefix.strip('/')}/" if prefix else ""
        below = {name.removeprefix(head): name for name in names if name.startswith(head)}
        if not below:
            heads = sorted({name.rsplit("/", 1)[0] for name in names if "/" in name})
            raise StepclipError(
                f"{self.path} holds nothing under '{prefix}'{nearest(str(prefix), heads)}",
                f"one of {some(heads)}" if heads else "no prefix: its arrays have none",
            )
        self.prefix = head.rstrip("/")
        self.name += f"/{self.prefix}" if head else ""
        test_ids = below.get(test_ids_key or TEST_IDS) or (test_ids_key if test_ids_key in names else None)
        if test_ids_key and test_ids is None:
            raise StepclipError(
                f"{self.path} holds no '{test_ids_key}'{nearest(test_ids_key, names)}",
                f"one of {some(names)}",
            )
        arrays = {name: full for name, full in below.items() if full != test_ids}
        videos = _videos_in(file, arrays, self.keys.features, self.transposed, self.path.stem)
        used = {full for members in videos.values() for full in members.values()}
        if len(arrays) > len(used):
            self.ignored["arrays"] = len(arrays) - len(used)
        if test_ids is not None:
            listed = {str(each) for each in file.read(test_ids).reshape(-1).astype(str).tolist()}
            self.splits = {video_id: "test" if video_id in listed else "train" for video_id in videos}
            if lost := sorted(listed - set(videos)):
                self.notes.append(f"{len(lost)} test ids have no features: {some(lost)}")
        return [Entry(video_id, self.path, members) for video_id, members in videos.items()]

    def _prefix(self, names: Sequence[str]) -> str | None:
        """The one group that has a list of test ids. Raises StepclipError when several have one."""
        found = [name.rpartition("/")[0] for name in names if name.rpartition("/")[2] == TEST_IDS]
        if "" in found or not found:
            return None
        if len(found) > 1:
            raise StepclipError(
                f"{self.path} holds {len(found)} splits of its videos: {some(found)}",
                "one of them",
                f"the same with --prefix {found[0]} (in Python: prefix={found[0]!r})",
            )
        return found[0]

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def __enter__(self) -> Foreign:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


# ---- a folder


def _in_folder(folder: Path, pattern: str | None, ignored: Counter[str]) -> list[Entry]:
    """The videos of a folder: their ids are their paths below it without suffix, or what `*` stands for."""
    if pattern is not None and pattern.count("*") != 1:
        raise StepclipError(f"the pattern '{pattern}'", "one '*', which stands for the video id: '*_rgb.npy'")
    if (folder / "cache.json").exists():
        raise StepclipError(
            f"{folder} is a feature cache of StepCLIP already", "others' features", "stepclip cache merge"
        )
    files = {path.relative_to(folder).as_posix(): path for path in _walk(folder)}
    features = {name: path for name, path in files.items() if path.suffix.lower() in SUFFIXES}
    beside = _files_beside(features)
    claimed = {path for others in beside.values() for path in others.values()}
    stems = {_stem(name) for name in features}
    entries: dict[str, list[Entry]] = defaultdict(list)
    used: set[Path] = set()
    for name, path in features.items():
        stem = _stem(name)
        base = stem.rpartition("_")[0]
        owner = stem if stem in beside else base if base in beside and base not in stems else None
        video_id = owner or stem if pattern is None else _starred(name, pattern)
        if video_id and path not in claimed:
            others = beside.get(owner or "", {})
            used |= {path, *others.values()}
            entries[video_id].append(Entry(video_id, path, beside=others))
    for path in claimed - used if pattern is None else ():  # of no features: told as features that are wrong
        stem = _stem(path.relative_to(folder).as_posix())
        entries[stem].append(Entry(stem, path))
        used.add(path)
    ignored.update(path.suffix.lower() or "no suffix" for path in files.values() if path not in used)
    if twice := sorted(video_id for video_id, found in entries.items() if len(found) > 1):
        names = [entry.path.name for entry in entries[twice[0]]]
        tail = names[0].removeprefix(twice[0].rpartition("/")[2])
        raise StepclipError(
            f"{len(twice)} video ids have several files in {folder}: '{twice[0]}' is {' and '.join(names)}",
            "one file per video",
            f"the same with --pattern '*{tail}' (in Python: pattern='*{tail}')",
        )
    if not entries:
        there = ", ".join(f"{count} {suffix}" for suffix, count in ignored.most_common(5)) or "nothing"
        raise StepclipError(
            f"no features in {folder}; found: {there}",
            f"files of {', '.join(SUFFIXES)}" + (f" that fit '{pattern}'" if pattern else ""),
            "numpy.savez, to make plain arrays of the pickles: a pickle can run any program when it is "
            "loaded, so StepCLIP never loads one"
            if any(ignored[suffix] for suffix in _PICKLES)
            else "",
        )
    return [entries[video_id][0] for video_id in sorted(entries)]


def _stem(name: str) -> str:
    return name[: -len(Path(name).suffix)]


def _starred(name: str, pattern: str) -> str:
    """What `*` stands for in the name, without a suffix; "" where the pattern does not fit."""
    first, last = pattern.split("*")
    if not (name.startswith(first) and name.endswith(last) and len(name) > len(first) + len(last)):
        return ""
    return name[len(first) : len(name) - len(last)] if last else _stem(name[len(first) :])


def _walk(folder: Path) -> Iterator[Path]:
    """All files, through links to folders, each folder once; hidden ones are left out."""
    seen: set[str] = set()
    for where, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(where)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(where, name) for name in sorted(names) if not name.startswith("."))


def _files_beside(files: Mapping[str, Path]) -> dict[str, dict[str, Path]]:
    """By the name of a video: the files of its times, its rate or its labels, by what they are called."""
    found: dict[str, dict[str, Path]] = defaultdict(dict)
    for name, path in files.items():
        match = _BESIDE.fullmatch(_stem(name))
        if match and path.suffix.lower() == ".npy":
            try:
                with open_arrays(path) as arrays:
                    if sum(side > 1 for side in arrays.look("").shape) <= 1:
                        found[match[1]][match[2]] = path
            except ForeignFault:
                continue
    return found


def _with_labels(entries: Sequence[Entry], folder: Path) -> list[Entry]:
    """Each video with its file of labels, ID.txt or ID.npy, where there is one."""
    if not folder.is_dir():
        raise StepclipError(f"no folder {folder}", "a folder of VIDEO_ID.txt or .npy, one label per frame")
    given = []
    for entry in entries:
        places = [folder / f"{entry.video_id}{suffix}" for suffix in (".txt", ".npy")]
        place = next((path for path in places if path.is_file()), None)
        given.append(replace(entry, beside={**entry.beside, "labels": place}) if place else entry)
    if not any("labels" in entry.beside for entry in given):
        raise StepclipError(
            f"{folder} holds the labels of none of the {len(entries)} videos",
            f"files such as {entries[0].video_id}.txt",
        )
    return given


# ---- one file of many videos


def _videos_in(
    file: NamedArrays, names: Mapping[str, str], features: str | None, transposed: bool, stem: str
) -> dict[str, dict[str, str]]:
    """By video id: the names of its arrays. `names`: below the prefix -> in the file."""
    groups: dict[str, dict[str, str]] = defaultdict(dict)
    for name, full in names.items():
        parent, _, last = name.rpartition("/")
        groups[parent][last] = full
    wanted = features or KNOWN["features"][0]
    videos = {parent: group for parent, group in groups.items() if wanted in group}
    if not videos and not features:
        videos = _unnamed_groups(groups)
    everyones = {last: full for last, full in groups.get("", {}).items() if last.lower() == "fps"}
    if videos:
        return {parent or stem: {**everyones, **group} for parent, group in videos.items()}
    looks = {name: file.glance(full) for name, full in names.items() if _last(name).lower() not in OTHERS}
    matrices = [name for name, look in looks.items() if len(look.shape) > 1]
    sizes: dict[str, set[int]] = defaultdict(set)  # of the arrays beside each other: D, 0 for no matrix
    side = -2 if transposed else -1
    for name, look in looks.items():
        if look.kind != "?":
            sizes[name.rpartition("/")[0]].add(look.shape[side] if len(look.shape) > 1 else 0)
    if features or not matrices or any(len(found) > 1 for parent, found in sizes.items() if parent):
        shown = ", ".join(f"{name} {look}" for name, look in list(looks.items())[:8]) or some(list(names))
        choice = _last(matrices[0]) if matrices else "NAME"
        raise StepclipError(
            f"{file.path} holds no '{wanted}'; its {len(names)} arrays: {shown}",
            "an array (T, D) per video, or VIDEO/features, VIDEO/times, VIDEO/labels",
            f"the same with --features-key {choice} (in Python: features_key={choice!r}), or with --prefix",
        )
    # `fps` may be an attribute of the array itself
    extra = {name: groups[name] if name else {} for name in matrices if name in groups}
    return {name or stem: {**everyones, **extra.get(name, {}), wanted: names[name]} for name in matrices}


def _unnamed_groups(groups: Mapping[str, dict[str, str]]) -> dict[str, dict[str, str]]:
    """The groups that are a video each, although none of their arrays is called features.

    They hold times or labels beside other arrays, or one array each, of the same name in all of them.
    """
    arrays = {
        parent: [last for last in group if last.lower() not in OTHERS] for parent, group in groups.items()
    }
    said = {*KNOWN["times"], *KNOWN["labels"]}
    described = {
        parent: group
        for parent, group in groups.items()
        if arrays[parent] and any(last.lower() in said for last in group)
    }
    held = [lasts for lasts in arrays.values() if lasts]
    if not described and "" not in groups and len(held) > 1 and all(lasts == held[0][:1] for lasts in held):
        return {parent: group for parent, group in groups.items() if arrays[parent]}
    return described


def _last(name: str) -> str:
    return name.rpartition("/")[2]


def some(names: Sequence[str], count: int = 5) -> str:
    """The first few of many names, and how many there are."""
    return ", ".join(names[:count]) + (f", ... ({len(names)} in all)" if len(names) > count else "")
