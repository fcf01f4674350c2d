"""The table of results: parts with their control rows; it prints, and saves as JSON and Markdown."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..cache.files import write_atomically, write_json
from .columns import (
    CLIPS,
    DISTANCES,
    FRAMES,
    LOCALISATION,
    MATCHING,
    PROBE,
    PSEUDO_LABELS,
    RETRIEVAL,
    SEQUENCES,
    STEPS,
    VERIFICATION,
    Column,
    by_kind,
    few_shot_columns,
)
from .localisation import Localisation
from .retrieval import Matching, Retrieval
from .verification import Verification

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.table import Table

    from .embed import Embedded
    from .selection import Selection

PARTS = (
    "verification",
    "distances",
    "neighbours",
    "retrieval",
    "matching",
    "localisation",
    "pseudo_labels",
    "probe",
    "frames",
    "sequences",
    "clips",
    "steps",
    "few_shot",
)
WIDE = 125  # columns of a terminal from which each row says what it is

TRAINED, CONTROL, CHANCE = "trained", "control", "chance"
ON_TEST = "trained (chosen on the test)"


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
class Part:
    """One table: what is asked, its columns and rows, and what is to be said below it."""

    title: str
    asked: str
    columns: list[Column]
    rows: list[Row]
    remarks: list[str] = field(default_factory=list)


@dataclass
class Results:
    """Results on one split. A part that could not be had is empty, and `notes` says why.

    `selection` says which checkpoint this is and who chose it; `remarks` what stands below a part's table.
    """

    run: str
    dataset: str
    split: str
    videos: int
    verification: list[Row] = field(default_factory=list)
    retrieval: list[Row] = field(default_factory=list)
    matching: list[Row] = field(default_factory=list)
    localisation: list[Row] = field(default_factory=list)
    distances: list[Row] = field(default_factory=list)
    neighbours: list[Row] = field(default_factory=list)
    pseudo_labels: list[Row] = field(default_factory=list)
    probe: list[Row] = field(default_factory=list)
    frames: list[Row] = field(default_factory=list)
    sequences: list[Row] = field(default_factory=list)
    clips: list[Row] = field(default_factory=list)
    steps: list[Row] = field(default_factory=list)
    few_shot: list[Row] = field(default_factory=list)
    selection: Selection | None = None
    remarks: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    about: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    details: Details = field(default_factory=Details, repr=False, compare=False)

    def parts(self) -> list[Part]:
        """The tables that have rows."""
        parts = []

        def add(key: str, title: str, asked: str, columns: list[Column], rows: list[Row]) -> None:
            parts.append(Part(title, asked, columns, rows, self.remarks.get(key, [])))

        if found := _first(self.verification, Verification):
            asked = (
                f"Do two videos follow the same procedure? {found.matched} pairs that do, "
                f"{found.unmatched} that do not."
            )
            add("verification", "Verification", asked, VERIFICATION, self.verification)
            if len(found.kinds) > 1:
                counted = ", ".join(f"{count} {kind}" for kind, count in found.kinds.items())
                asked = (
                    f"The same by how the scripts differ: {counted}. AUC % of these pairs against all equal "
                    "ones, 95 % CI."
                )
                columns = by_kind([row.result for row in self.verification])
                add("by_kind", "Verification by kind of difference", asked, columns, self.verification)
        if self.distances:
            asked = "The same pairs by other distances, on three and on one view of each video."
            add("distances", "Verification by distance", asked, DISTANCES, self.distances)
        if found := _first(self.neighbours, Retrieval):
            asked = f"Which other video is the same? {found.queries} ask, each among {found.gallery} others."
            add("neighbours", "Video-to-video search", asked, RETRIEVAL, self.neighbours)
        if found := _first(self.retrieval, Retrieval):
            asked = f"Which video follows this text? {found.queries} scripts, {found.gallery} videos."
            add("retrieval", "Retrieval", asked, RETRIEVAL, self.retrieval)
        if found := _first(self.matching, Matching):
            asked = f"Which of {found.candidates:.3g} videos follows this text? {found.rows} lists."
            add("matching", "Matching", asked, MATCHING, self.matching)
        if found := _first(self.localisation, Localisation):
            asked = (
                f"Where in the video does each step happen? {found.videos} videos, {found.steps} steps; "
                "the true times were hidden from training."
            )
            add("localisation", "Localisation", asked, LOCALISATION, self.localisation)
        if self.pseudo_labels:
            asked = (
                "How right are the labels that training makes for itself? One frame of each segment, "
                "against the true step times, which training never sees."
            )
            add("pseudo_labels", "Pseudo-labels", asked, PSEUDO_LABELS, self.pseudo_labels)
        if self.probe:
            asked = f"Can a linear classifier read off the procedure? {self.probe[0].result.described()}"
            add("probe", "Linear probe", asked, PROBE, self.probe)
        if self.frames:
            one = self.frames[0].result
            asked = (
                f"What does an embedding of single frames know? {one.videos} videos, {one.frames} frames, "
                f"{one.phases} phases in {one.groups} groups."
            )
            add("frames", "Frames", asked, FRAMES, self.frames)
        if self.sequences:
            kept = self.sequences[0].result.kept
            asked = (
                f"Which video follows this script? {kept.queries} scripts, {kept.gallery} videos, by windows."
            )
            add("sequences", "Full-video retrieval", asked, SEQUENCES, self.sequences)
        if self.clips:
            asked = f"Which clip shows this sentence? {self.clips[0].result.text.queries} of each."
            add("clips", "Clip retrieval", asked, CLIPS, self.clips)
        if self.steps:
            one = self.steps[0].result
            asked = f"When is each step, by the metrics of the field? {one.videos} videos, {one.steps} steps."
            add("steps", "Step localisation", asked, STEPS, self.steps)
        if self.few_shot:
            one = self.few_shot[0].result.one
            asked = f"Which of {one.ways} classes, from few videos of each? {one.episodes} episodes."
            add("few_shot", "Few-shot", asked, few_shot_columns(self.few_shot[0].result), self.few_shot)
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
            ("pseudo_labels", self.pseudo_labels, lambda r: (r.train or r.split).frame_accuracy),
            ("probe", self.probe, lambda r: r.accuracy),
            ("phase_accuracy", self.frames, lambda r: r.accuracy),
            ("ap5", self.frames, lambda r: r.ap5),
            ("progression", self.frames, lambda r: r.progression),
            ("tau", self.frames, lambda r: r.tau),
            ("full_video_r1", self.sequences, lambda r: r.kept.r1),
            ("shuffled_r1", self.sequences, lambda r: r.shuffled.r1),
            ("clip_r1", self.clips, lambda r: r.text.r1),
            ("step_recall", self.steps, lambda r: r.recall),
            ("few_shot", self.few_shot, lambda r: r.one.accuracy),
        ):
            for row in rows:
                if row.headline:
                    out[name] = float(value(row.result))
        return out

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON; what is undefined is null."""
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
                for part in PARTS
            },
            "selection": self.selection.to_dict() if self.selection else None,
            "remarks": self.remarks,
            "notes": self.notes,
            "about": self.about,
            "seconds": round(self.seconds, 2),
        }
        plain: dict[str, Any] = _plain(out)
        return plain

    def to_markdown(self) -> str:
        lines = [f"# Results of {_cell(self.run)}", "", _cell(self.subtitle), ""]
        for part in self.parts():
            lines += [f"## {part.title}", "", part.asked, ""]
            lines.append("| row | kind | " + " | ".join(c.head for c in part.columns) + " |")
            lines.append("|" + "---|" * 2 + "---:|" * len(part.columns))
            for row in part.rows:
                name = f"**{_cell(row.name)}**" if row.headline else _cell(row.name)
                values = " | ".join(c.value(row.result) for c in part.columns)
                lines.append(f"| {name} | {self.kind_of(row)} | {values} |")
            lines += ["", *(f"- {c.head}: {c.explained}" for c in part.columns if c.explained)]
            lines += [*(f"- {_cell(remark)}" for remark in part.remarks), ""]
        if self.notes:
            lines += ["## Notes", "", *(f"- {_cell(note)}" for note in self.notes), ""]
        return "\n".join(lines)

    def file(self, suffix: str, stem: str = "results") -> str:
        """The name of a file of these results: `results.json` is that of the run's own checkpoint alone.

        One that was asked for by name gets its own (`results-best-on-test.json`) and never passes for it.
        """
        label = self.selection.label if self.selection else ""
        return f"{stem}-{label}{suffix}" if label else f"{stem}{suffix}"

    def save(self, folder: str | os.PathLike[str]) -> tuple[Path, Path]:
        """Write results.json and results.md (see `file`) into `folder`, each atomically; returns both
        paths."""
        as_json, as_text = (Path(folder) / self.file(suffix) for suffix in (".json", ".md"))
        write_json(as_json, self.to_dict())
        with write_atomically(as_text, "w") as file:
            file.write(self.to_markdown())
        return as_json, as_text

    @property
    def on_test(self) -> bool:
        """The checkpoint was chosen by the figures that are reported: too good by construction."""
        return self.selection is not None and self.selection.on_test

    def kind_of(self, row: Row) -> str:
        """A row's kind in words; a trained row of a checkpoint that was chosen on the test says so."""
        return ON_TEST if self.on_test and row.kind == TRAINED else row.kind

    def print(self, console: Console | None = None) -> None:
        if console is None:
            from rich.console import Console as RichConsole

            console = RichConsole()
        console.print(self)

    @property
    def subtitle(self) -> str:
        chosen = f", {self.selection}" if self.selection else ""
        return f"{self.dataset or 'data'}, split {self.split}, {self.videos} videos{chosen}"

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.markup import escape
        from rich.text import Text

        yield Text(f"Results of {self.run}: {self.subtitle}", style="bold")
        for part in self.parts():
            yield Text()
            yield Text.assemble((part.title, "bold cyan"), f"  {part.asked}")
            yield _rich_table(part, options.max_width >= WIDE, ON_TEST if self.on_test else TRAINED)
            for column in part.columns:
                if column.explained:
                    yield Text(f"  {column.head}: {column.explained}", style="dim")
            for remark in part.remarks:
                yield Text(f"  {remark}")
        if self.parts():
            yield Text(
                "\n* the row to quote; controls learn nothing, so what lies above the best of them is learned"
            )
        for note in self.notes:
            yield Text.from_markup(f"[yellow]note[/yellow]: {escape(note)}")


def _rich_table(part: Part, wide: bool, trained_words: str) -> Table:
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("", no_wrap=True)
    for column in part.columns:
        table.add_column(column.head, justify="right", no_wrap=True)
    if wide:
        table.add_column("what it is")
    last: bool | None = None
    for row in part.rows:
        trained = row.kind == TRAINED
        if trained != last:
            table.add_row(trained_words if trained else "controls", style="bold" if trained else "dim italic")
            last = trained
        label = "  " + escape(row.name) + (" *" if row.headline else "")
        style = "bold" if row.headline else None if trained else "dim"
        explained = (escape(row.explained),) if wide else ()
        table.add_row(label, *(column.value(row.result) for column in part.columns), *explained, style=style)
    return table


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
