"""What a check says: of each step whether, when and how surely it was done; extra actions; a verdict.

`to_dict` has the form of CaptainCook4D's error annotations as `stepclip extract` keeps them (`extra.json`):
`is_error`, `steps` (what was done, by start time, each with its `place` in the script, None for an extra, and
`errors` with their `tag`) and `missing`; with a `confidence` beside each.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

DONE, MISSING, MOVED = "done", "missing", "moved"
REPEATED, ADDED = "repeated", "added"
WORDS = {
    DONE: "done",
    MISSING: "missing",
    MOVED: "out of order",
    REPEATED: "done again",
    ADDED: "not in the script",
}
TAGS = {MISSING: "Missing Step", MOVED: "Order Error", REPEATED: "Extra Step", ADDED: "Extra Step"}


@dataclass(frozen=True)
class Step:
    """A step of the script: `status` done, missing or moved (done, out of order); `start`, `end` seconds of
    the file (None: missing, or no frame was left for it). `missing`, `moved`, `repeated`: the probabilities
    of each fault; `sure`: that of the status."""

    place: int
    step: str
    status: str
    start: float | None
    end: float | None
    missing: float
    moved: float
    repeated: float

    @property
    def sure(self) -> float:
        return {MISSING: self.missing, MOVED: self.moved}.get(
            self.status, (1 - self.missing) * (1 - self.moved)
        )


@dataclass(frozen=True)
class Extra:
    """Something done that the script has not there: `status` repeated (the step at `place` once more) or
    added (`place` None; `step` is the known sentence most like it, "" where there is none)."""

    status: str
    step: str
    place: int | None
    start: float
    end: float
    sure: float


@dataclass(frozen=True)
class CheckReport:
    """A recording against its script. `wrong`: the probability of any fault, at even odds; `ok` while it is
    below `threshold`. `by`: what judged, "script" or "references"; `calibrated`: whether on this run's data.
    `added` (K + 1): the probability that something else was done before each step, and after the last.
    """

    video: str
    steps: tuple[Step, ...]
    extras: tuple[Extra, ...]
    wrong: float
    threshold: float
    by: str
    calibrated: bool
    duration: float
    added: tuple[float, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        return self.wrong < self.threshold

    @property
    def faults(self) -> list[Step | Extra]:
        """What is not as the script has it, the surest first."""
        found: list[Step | Extra] = [*(s for s in self.steps if s.status != DONE), *self.extras]
        return sorted(found, key=lambda each: -each.sure)

    def to_dict(self) -> dict[str, Any]:
        done = [
            {
                "place": s.place, "start": s.start, "end": s.end, "description": s.step, "modified": None,
                "errors": _errors(s), "confidence": s.sure,
            }
            for s in self.steps
            if s.status != MISSING
        ]  # fmt: skip
        done += [
            {
                "place": None, "start": e.start, "end": e.end, "description": e.step, "modified": None,
                "errors": _errors(e), "confidence": e.sure,
                **({"repeats": e.place} if e.status == REPEATED else {}),
            }
            for e in self.extras
        ]  # fmt: skip
        missing = [
            {"place": s.place, "description": s.step, "errors": _errors(s), "confidence": s.sure}
            for s in self.steps
            if s.status == MISSING
        ]
        return {
            "recording": self.video,
            "is_error": not self.ok,
            "score": self.wrong,
            "by": self.by,
            "calibrated": self.calibrated,
            "duration": self.duration,
            "steps": sorted(done, key=lambda s: (s["start"] is None, s["start"] or 0.0)),
            "missing": missing,
            "notes": list(self.notes),
        }

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich import box
        from rich.table import Table
        from rich.text import Text

        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for head in ("", "step", "from", "to", "", "sure"):
            table.add_column(head, overflow="fold")
        rows: list[tuple[Any, Step | Extra]] = [(s.place + 1, s) for s in self.steps]
        rows += [("+", e) for e in self.extras]
        for place, each in rows:
            span = [_clock(each.start), _clock(each.end)]
            words = WORDS[each.status] + ("" if each.sure >= 0.5 else "?")
            style = "" if each.status == DONE else "bold red" if each.sure >= 0.5 else "yellow"
            cells = (place, each.step or "(something)", *span, words, f"{100 * each.sure:.0f} %")
            table.add_row(*(Text(str(cell)) for cell in cells), style=style)
        yield Text(self.video, style="bold")
        yield table
        verdict = "as its script" if self.ok else "not as its script"
        by = {"script": "its sentences", "references": "its sentences and other recordings of its steps"}
        yield Text(f"{verdict}: a fault with probability {100 * self.wrong:.0f} %, judged by {by[self.by]}")
        for note in self.notes:
            yield Text(f"note: {note}")


def _errors(each: Step | Extra) -> list[dict[str, str]]:
    if each.status == DONE:
        return []
    return [{"tag": TAGS[each.status], "description": WORDS[each.status]}]


def _clock(seconds: float | None) -> str:
    return "–" if seconds is None else f"{int(seconds // 60)}:{seconds % 60:04.1f}"
