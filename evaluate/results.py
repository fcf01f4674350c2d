"""The table of results: parts with their control rows; it prints, and saves as JSON and Markdown."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..cache.files import write_atomically, write_json
from .localisation import Localisation
from .retrieval import Matching, Retrieval
from .verification import Verification

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.table import Table

    from .embed import Embedded

KINDS = ("order", "deletion", "addition", "other")
SECTIONS = {True: "trained", False: "controls"}
WIDE = 125  # columns of a terminal from which each row says what it is

TRAINED, CONTROL, CHANCE = "trained", "control", "chance"


@dataclass(frozen=True)
class Row:
    """One line of a table: `kind` is trained, control or chance; `headline` marks the one to quote."""

    name: str
    kind: str
    result: Any
    explained: str = ""
    headline: bool = False


@dataclass
class Details:
    """The arrays behind the tables, for the report; not saved."""

    distances: dict[str, np.ndarray] = field(default_factory=dict)
    unmatched: np.ndarray | None = None
    labels: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)
    trained: Embedded | None = None
    raw: Embedded | None = None


@dataclass(frozen=True)
class Column:
    head: str
    value: Callable[[Any], str]
    explained: str = ""


def number(x: float, digits: int = 3) -> str:
    """Three digits, or a dash for what is undefined."""
    return "–" if x is None or not math.isfinite(x) else f"{x:.{digits}f}"


def percent(x: float) -> str:
    return "–" if x is None or not math.isfinite(x) else f"{100 * x:.1f}"


VERIFICATION = [
    Column(
        "AUC %",
        lambda r: percent(r.auc),
        "a differing pair lies further apart than an equal one; 50 is a coin",
    ),
    Column(
        "95 % CI", lambda r: f"{percent(r.ci[0])}–{percent(r.ci[1])}", "of the AUC, bootstrap over the pairs"
    ),
    Column("EER %", lambda r: percent(r.eer), "error rate where misses equal false alarms; low is good"),
    Column(
        "WDR",
        lambda r: number(r.wdr),
        "distance per differing step over distance of equal pairs; high is good",
    ),
]
RETRIEVAL = [
    Column("R@1 %", lambda r: percent(r.r1), "searches whose first answer is right"),
    Column("R@5 %", lambda r: percent(r.r5)),
    Column("R@10 %", lambda r: percent(r.r10)),
    Column("MedR", lambda r: number(r.medr, 1), "median place of the first right answer; 1 is best"),
    Column("MRR", lambda r: number(r.mrr), "mean of 1 / that place"),
]
MATCHING = [
    Column("acc@1 %", lambda r: percent(r.acc1), "scripts whose video is picked out of its few candidates"),
    Column("acc@2 %", lambda r: percent(r.acc2)),
    Column("acc@3 %", lambda r: percent(r.acc3)),
    Column("MRR", lambda r: number(r.mrr)),
]
LOCALISATION = [
    Column("frames %", lambda r: percent(r.frame_accuracy), "frames inside a true step that get that step"),
    Column("all frames %", lambda r: percent(r.all_frames), "the same, every idle frame counted as wrong"),
    Column(
        "IoU %", lambda r: percent(r.iou), "overlap of predicted and true span of a step, mean over the steps"
    ),
]


@dataclass
class Results:
    """Results on one split. A part that could not be had is empty, and `notes` says why."""

    run: str
    dataset: str
    split: str
    videos: int
    verification: list[Row] = field(default_factory=list)
    retrieval: list[Row] = field(default_factory=list)
    matching: list[Row] = field(default_factory=list)
    localisation: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    about: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    details: Details = field(default_factory=Details, repr=False, compare=False)

    def parts(self) -> list[tuple[str, str, list[Column], list[Row]]]:
        """Title, what is asked, columns and rows of each table that has any."""
        found = {k for row in self.verification for k in row.result.by_kind}
        kinds = [k for k in KINDS if k in found] + sorted(found - set(KINDS))
        by_kind = [Column(k, _auc_of(k)) for k in kinds]
        if by_kind:
            by_kind[0] = replace(by_kind[0], explained="and on: AUC % on the pairs that differ in this way")
        verified = _first(self.verification, Verification)
        retrieved, matched = _first(self.retrieval, Retrieval), _first(self.matching, Matching)
        located = _first(self.localisation, Localisation)
        parts = []
        if verified:
            asked = (
                f"Do two videos follow the same procedure? {verified.matched} pairs that do, "
                f"{verified.unmatched} that do not. WDR of equal distances: {number(verified.wdr_constant)}."
            )
            parts.append(("Verification", asked, [*VERIFICATION, *by_kind], self.verification))
        if retrieved:
            asked = f"Which video follows this text? {retrieved.queries} scripts, {retrieved.gallery} videos."
            parts.append(("Retrieval", asked, RETRIEVAL, self.retrieval))
        if matched:
            asked = f"Which of {matched.candidates:.3g} videos follows this text? {matched.rows} lists."
            parts.append(("Matching", asked, MATCHING, self.matching))
        if located:
            asked = (
                f"Where in the video does each step happen? {located.videos} videos, {located.steps} steps; "
                "the true times were hidden from training."
            )
            parts.append(("Localisation", asked, LOCALISATION, self.localisation))
        return parts

    def headline(self) -> dict[str, float]:
        """The figures to quote, by name; parts that were left out are absent."""
        out = {}
        for name, rows, value in (
            ("auc", self.verification, lambda r: r.auc),
            ("wdr", self.verification, lambda r: r.wdr),
            ("r1", self.retrieval, lambda r: r.r1),
            ("acc1", self.matching, lambda r: r.acc1),
            ("frame_accuracy", self.localisation, lambda r: r.frame_accuracy),
            ("iou", self.localisation, lambda r: r.iou),
        ):
            for row in rows:
                if row.headline:
                    out[name] = float(value(row.result))
        return out

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON; what is undefined is null."""
        parts = ("verification", "retrieval", "matching", "localisation")
        out: dict[str, Any] = {
            "run": self.run,
            "dataset": self.dataset,
            "split": self.split,
            "videos": self.videos,
            "headline": self.headline(),
            **{
                part: [
                    {"name": r.name, "kind": r.kind, "headline": r.headline, **r.result.to_dict()}
                    for r in getattr(self, part)
                ]
                for part in parts
            },
            "notes": self.notes,
            "about": self.about,
            "seconds": round(self.seconds, 2),
        }
        plain: dict[str, Any] = _plain(out)
        return plain

    def to_markdown(self) -> str:
        lines = [f"# Results of {_cell(self.run)}", "", _cell(self._subtitle()), ""]
        for title, asked, columns, rows in self.parts():
            lines += [f"## {title}", "", asked, ""]
            lines.append("| row | kind | " + " | ".join(c.head for c in columns) + " |")
            lines.append("|" + "---|" * 2 + "---:|" * len(columns))
            for row in rows:
                name = f"**{_cell(row.name)}**" if row.headline else _cell(row.name)
                lines.append(
                    f"| {name} | {row.kind} | " + " | ".join(c.value(row.result) for c in columns) + " |"
                )
            lines += ["", *(f"- {c.head}: {c.explained}" for c in columns if c.explained), ""]
        if self.notes:
            lines += ["## Notes", "", *(f"- {_cell(note)}" for note in self.notes), ""]
        return "\n".join(lines)

    def save(self, folder: str | os.PathLike[str]) -> tuple[Path, Path]:
        """Write results.json and results.md into `folder`, each atomically; returns both paths."""
        folder = Path(folder)
        write_json(folder / "results.json", self.to_dict())
        with write_atomically(folder / "results.md", "w") as file:
            file.write(self.to_markdown())
        return folder / "results.json", folder / "results.md"

    def print(self, console: Console | None = None) -> None:
        if console is None:
            from rich.console import Console as RichConsole

            console = RichConsole()
        console.print(self)

    def _subtitle(self) -> str:
        return f"{self.dataset or 'data'}, split {self.split}, {self.videos} videos"

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.markup import escape
        from rich.text import Text

        yield Text(f"Results of {self.run}: {self._subtitle()}", style="bold")
        for title, asked, columns, rows in self.parts():
            yield Text()
            yield Text.assemble((title, "bold cyan"), f"  {asked}")
            yield _rich_table(columns, rows, options.max_width >= WIDE)
            for column in columns:
                if column.explained:
                    yield Text(f"  {column.head}: {column.explained}", style="dim")
        if self.parts():
            yield Text(
                "\n* the row to quote; controls learn nothing, so what lies above the best of them is learned"
            )
        for note in self.notes:
            yield Text.from_markup(f"[yellow]note[/yellow]: {escape(note)}")


def _rich_table(columns: list[Column], rows: list[Row], wide: bool) -> Table:
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("", no_wrap=True)
    for column in columns:
        table.add_column(column.head, justify="right", no_wrap=True)
    if wide:
        table.add_column("what it is")
    last: bool | None = None
    for row in rows:
        trained = row.kind == TRAINED
        if trained != last:
            table.add_row(SECTIONS[trained], style="bold" if trained else "dim italic")
            last = trained
        label = "  " + escape(row.name) + (" *" if row.headline else "")
        style = "bold" if row.headline else None if trained else "dim"
        explained = (escape(row.explained),) if wide else ()
        table.add_row(label, *(column.value(row.result) for column in columns), *explained, style=style)
    return table


def _auc_of(kind: str) -> Callable[[Verification], str]:
    return lambda result: percent(result.by_kind.get(kind, math.nan))


def _first(rows: list[Row], kind: type) -> Any:
    return next((row.result for row in rows if isinstance(row.result, kind)), None)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
