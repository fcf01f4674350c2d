"""The one exception of every foreseen fault, and the search for the word that was meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class StepclipError(Exception):
    """A fault that was foreseen: what was found, what was expected, what to run (or do) about it.

    The command line prints it and ends with exit code 2. It survives pickling: a worker process may raise it.
    """

    def __init__(self, found: str, expected: str = "", run: str = "") -> None:
        super().__init__(found, expected, run)
        self.found, self.expected, self.run = found, expected, run

    def __str__(self) -> str:
        lines = [self.found]
        if self.expected:
            lines.append(f"  expected: {self.expected}")
        if self.run:
            lines.append(f"  run: {self.run}")
        return "\n".join(lines)


def nearest(word: str, known: Iterable[str], n: int = 1) -> str:
    """`" (did you mean 'x'?)"` for the `n` known words nearest to `word`, or `""` when none is near."""
    lowered: dict[str, str] = {}
    for candidate in known:
        lowered.setdefault(str(candidate).lower(), str(candidate))
    found = difflib.get_close_matches(str(word).lower(), list(lowered), n=n)
    if not found:
        return ""
    return " (did you mean " + " or ".join(repr(lowered[name]) for name in found) + "?)"
