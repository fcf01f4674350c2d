"""Frame labels as steps: every run of one label is a step, the background left out."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..errors import StepclipError, nearest
from .arrays import ForeignFault

BACKGROUND = "background"


class LabelNames:
    """What labels are called, and which of them are the background. Labels are numbers or names (T,).

    names: a list, or a text file with a name per line, in order from 0, or "index name" per line; without it
    a number n is called "label n". background: numbers or names; by itself what is called "background",
    where nothing is, the number 0; an empty list: none. Negative numbers are background too: data sets mark
    with them what is not labelled. Raises StepclipError for a file that is no list of names, and a background
    that is not in it.
    """

    def __init__(
        self,
        names: Sequence[str] | str | os.PathLike[str] | None = None,
        background: int | str | Sequence[int | str] | None = None,
    ) -> None:
        self.names = (
            read_names(names) if isinstance(names, str | os.PathLike) else dict(enumerate(names or ()))
        )
        if twice := {name for name in self.names.values() if list(self.names.values()).count(name) > 1}:
            raise StepclipError(f"two labels are called '{min(twice)}'", "a name of its own for each label")
        given = [background] if isinstance(background, int | str) else list(background or ())
        known = set(self.names.values())
        given = [int(each) if str(each).isdecimal() and each not in known else each for each in given]
        if background is None:
            called = [name for name in self.names.values() if name.lower() == BACKGROUND]
            given = [*called] if called else [0, BACKGROUND]
        elif self.names:
            for each in given:
                if each not in self.names and each not in self.names.values():
                    raise StepclipError(
                        f"no label is '{each}'{nearest(str(each), self.names.values())}",
                        f"one of {', '.join(list(self.names.values())[:12])}",
                    )
        self.background = {self.names.get(each, each) if isinstance(each, int) else each for each in given}

    def note(self) -> str:
        """What becomes of the labels, in words."""
        if not self.background:
            return "every label is a step, the background too"
        shown = " or ".join(sorted(map(repr, self.background)))
        said = f"frames labelled {shown}, the background, are in no step"
        return said if self.names else f"{said}; --label-names gives numbers their names"

    def name(self, label: int | str) -> str:
        """Raises ForeignFault for a number without a name."""
        if isinstance(label, str):
            return label
        if self.names and label not in self.names:
            raise ForeignFault(
                "bad-labels",
                f"the label {label} has no name",
                f"the names of labels {min(self.names)} to {max(self.names)}, the background's among them",
            )
        return self.names.get(label, f"label {label}")

    def is_background(self, label: int | str) -> bool:
        if isinstance(label, str):
            return label in self.background or not label
        return label < 0 or label in self.background or self.names.get(label) in self.background

    def steps(
        self, labels: np.ndarray, times: np.ndarray, duration: float
    ) -> tuple[tuple[str, ...], tuple[float, ...], tuple[float, ...]]:
        """The steps and where each starts and ends, in seconds: up to the first frame of the next run.

        labels (T,) int64 or text, times (T,) and duration in seconds. Raises ForeignFault.
        """
        firsts = np.flatnonzero(np.concatenate([[True], labels[1:] != labels[:-1]]))
        ends = np.append(times[firsts[1:]], max(duration, float(times[-1])))
        runs = [
            (self.name(label), float(times[first]), float(end))
            for label, first, end in zip(labels[firsts].tolist(), firsts, ends, strict=True)
            if not self.is_background(label)
        ]
        names, starts, stops = zip(*runs, strict=True) if runs else ((), (), ())
        return names, starts, stops


def read_names(path: str | os.PathLike[str]) -> dict[int, str]:
    """A text file of label names: one per line, in order from 0, or "index name" per line."""
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise StepclipError(
            f"{path} cannot be read: {error.strerror}", "a text file of label names"
        ) from error
    except UnicodeDecodeError as error:
        raise StepclipError(f"{path} is not UTF-8 text", "a text file of label names") from error
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        raise StepclipError(f"{path} is empty", "one label name per line")
    numbered = [re.fullmatch(r"(\d+)[\s,:]+(\S.*)", line) for line in lines]
    if not all(numbered):
        return dict(enumerate(lines))
    found = {int(match[1]): match[2] for match in numbered if match}
    if len(found) < len(lines):
        raise StepclipError(f"{path} names one label twice", "each index once")
    return found
