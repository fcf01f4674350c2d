"""The files of the sequence verification sets (CSV, Diving48-SV, COIN-SV), which share one format.

`label_bank.json`: label -> steps; `SPLIT_split.txt`: `video label` per line; `SPLIT_pairs.txt`:
`video label video label` per line, matched where the labels are equal (weaksvr.md 1.1).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ...cache.errors import StepclipError
from ...cache.files import read_json
from ...cache.manifest import MatchRow, Pair, VideoRow
from .release import counted

BANK = "label_bank.json"


@dataclass
class Release:
    """The annotation files, read; `rows`: lines by kind; `passed`: what was passed over, file by file;
    `textless`: videos that were left out, by their label, which has no script.
    """

    bank: dict[str, tuple[str, ...]]
    videos: dict[str, tuple[str, str]] = field(default_factory=dict)  # id -> (label, split)
    pairs: list[Pair] = field(default_factory=list)
    matching: list[MatchRow] = field(default_factory=list)
    rows: Counter[str] = field(default_factory=Counter)
    textless: Counter[str] = field(default_factory=Counter)
    passed: list[str] = field(default_factory=list)

    def tell(self, path: Path, found: list[str], what: str) -> None:
        if found:
            example = f"{found[0]:.60}"
            self.passed.append(f"{path.name}: passed over {len(found)} {what} (such as '{example}')")


def read_bank(path: Path) -> dict[str, tuple[str, ...]]:
    """Label -> steps. Raises StepclipError for a file that is not that."""
    bank = read_json(path)
    if not isinstance(bank, dict) or not bank:
        raise StepclipError(f"{path} holds no labels", "an object: label -> list of steps")
    for label, steps in bank.items():
        good = (
            isinstance(steps, list)
            and steps
            and all(isinstance(step, str) and step.strip() for step in steps)
        )
        if not good:
            raise StepclipError(
                f"{path}: the label '{label}' has the steps {steps!r:.80}", "a list of sentences"
            )
    return {label: tuple(step.strip() for step in steps) for label, steps in bank.items()}


def read_lines(path: Path) -> Iterator[list[str]]:
    """The fields of each line that has some; a missing newline at the end, CRLF and a BOM do not matter."""
    try:
        text = path.read_text("utf-8-sig", errors="replace")
    except OSError as error:
        raise StepclipError(
            f"{path} cannot be read: {error.strerror}", "the annotation files of the release, as they are"
        ) from error
    for line in text.splitlines():
        if fields := line.split():
            yield fields


def read_split(
    path: Path,
    split: str,
    release: Release,
    *,
    line: str,
    video_id: Callable[[str, str], str] = lambda name, label: name,
    is_label: Callable[[str], bool] | None = None,
) -> None:
    """`video label` per line. `line`: how a message names such a line; `video_id(name, label)`: the id of the
    video; `is_label`: for a label that the bank lacks, whether it is one (then the video has no text).
    """
    ghosts, junk, twice = [], [], []
    for fields in read_lines(path):
        known = len(fields) == 2 and fields[1] in release.bank
        if len(fields) != 2 or not (known or (is_label is not None and is_label(fields[1]))):
            junk.append(" ".join(fields))
            continue
        release.rows[f"{split} rows"] += 1
        name, label = fields
        if name.startswith("._"):  # AppleDouble leftovers of macOS, no videos
            ghosts.append(f"{label}/{name}")
        elif not known:
            release.textless[label] += 1
        elif (named := video_id(name, label)) in release.videos:
            twice.append(named)
        else:
            release.videos[named] = (label, split)
    release.tell(path, ghosts, "ghosts of macOS (._*)")
    release.tell(path, junk, f"lines that are no `{line}`")
    release.tell(path, twice, "videos given before")


def read_pairs(
    path: Path, split: str, release: Release, fits: Callable[[str, str], bool] | None = None
) -> None:
    """`video1 label1 video2 label2` per line. `fits(video, label)`: whether they belong together; by default
    a video has the label that its split gave it. Pairs of videos without text are passed over.
    """
    if fits is None:

        def fits(name: str, label: str) -> bool:
            return release.videos.get(name, (label, ""))[0] == label

    junk, strangers = [], []
    for fields in read_lines(path):
        if len(fields) == 4 and (fields[1] in release.textless or fields[3] in release.textless):
            release.rows["textless pairs"] += 1
            continue
        good = len(fields) == 4 and all(
            label in release.bank and fits(name, label) for name, label in (fields[:2], fields[2:])
        )
        if not good:
            junk.append(" ".join(fields))
        elif fields[0] not in release.videos or fields[2] not in release.videos:
            strangers.append(f"{fields[0]} {fields[2]}")
        else:
            a, label_a, b, label_b = fields
            matched = label_a == label_b
            kind = "matched" if matched else difference(label_a, label_b, release.bank)
            release.pairs.append(Pair(a, b, matched, kind, split))
    release.tell(path, junk, "lines that are no pair")
    release.tell(path, strangers, "pairs of videos that are in no split")


def difference(a: str, b: str, bank: Mapping[str, Sequence[str]]) -> str:
    """How the scripts of two procedures of one task differ: order, deletion, addition or other.

    order: the same steps in another order. Else, where one script holds all steps of the other: addition if
    it is the task's longest, deletion if the other is the task's shortest, other if both or neither.
    """
    first, second = Counter(bank[a]), Counter(bank[b])
    if first == second:
        return "order"
    small, large = sorted((first, second), key=Counter.total)
    task = [len(steps) for label, steps in bank.items() if label.split(".")[0] == a.split(".")[0]]
    longest, shortest = large.total() == max(task), small.total() == min(task)
    if a.split(".")[0] != b.split(".")[0] or small - large or longest == shortest:
        return "other"
    return "addition" if longest else "deletion"


def rows_of(release: Release, task: Callable[[str], str]) -> list[VideoRow]:
    """A row per video, its path to come; `task(label)` names the task of a procedure."""
    return [
        VideoRow(video_id, "", task(label), label, split, steps=release.bank[label])
        for video_id, (label, split) in release.videos.items()
    ]


def check_counts(title: str, release: Release, released: Mapping[str, int], full: bool) -> str:
    """The counts of weaksvr.md 1.2, compared when this is the `full` release; else what it is."""
    found = Counter(release.rows)
    found.update(f"{split} videos" for _, split in release.videos.values())
    splits = list(dict.fromkeys(split for _, split in release.videos.values()))
    for split in splits:
        found[f"{split} procedures"] = len({label for label, of in release.videos.values() if of == split})
    for pair in release.pairs:
        found[f"{pair.split} {'matched' if pair.matched else 'unmatched'} pairs"] += 1
    shown = "; ".join(
        f"{split}: {found[f'{split} videos']} videos of {found[f'{split} procedures']} procedures, "
        f"{found[f'{split} matched pairs']} matched + {found[f'{split} unmatched pairs']} unmatched pairs"
        for split in splits
    )
    return counted(title, found, released, full, shown)
