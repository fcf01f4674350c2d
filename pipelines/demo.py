"""The demo: everything on the synthetic bench, one stage after the other, each kept for the next time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..cache.errors import StepclipError
from ..cache.files import read_json
from .paths import Layout, record

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

DATASET = "benchlab"
RUN = "demo"
FPS = 2.0  # frames a second: two to six a step
QUERY = "pour the blue liquid into the beaker"


class _Stages:
    """Names each stage, times it, and keeps the time of one that is reused from an earlier call."""

    def __init__(self, file: Path, console: Console) -> None:
        self.file, self.console = file, console
        self.seconds: dict[str, tuple[float, bool]] = {}

    def run(self, name: str, about: str, action: Callable[[], Any], kept: bool = False) -> Any:
        """`action()`, unless the stage is `kept`: finished by an earlier call."""
        before = read_json(self.file) if self.file.is_file() else {}
        if kept:
            self.console.print(
                f"{len(self.seconds) + 1}. {name}: kept from before", markup=False, highlight=False
            )
            self.seconds[name] = (float(before.get("seconds", {}).get(name, 0.0)), True)
            return None
        self.console.print(f"{len(self.seconds) + 1}. {name}: {about}", markup=False, highlight=False)
        started = time.perf_counter()
        result = action()
        self.seconds[name] = (time.perf_counter() - started, False)
        record(self.file, seconds={**before.get("seconds", {}), name: round(self.seconds[name][0], 1)})
        return result


def run_demo(
    layout: Layout,
    *,
    people: int = 8,
    seed: int = 0,
    device: str = "auto",
    progress: bool = True,
    console: Console | None = None,
) -> Path:
    """Render `data/benchlab`, extract it with the embedded encoder, train `runs/demo`, evaluate, index, ask.

    Prints one table (each question with its controls), the answer to a query, and where the files are. A
    second call reuses what is finished. Returns the run's folder. StepclipError when the root holds a demo
    of other settings.
    """
    from rich.console import Console as RichConsole

    from ..extract.benchlab import make_benchlab
    from .searching import index_stage, search_stage
    from .stages import eval_stage, extract_stage, train_stage

    console = console or RichConsole()
    data, run = layout.dataset(DATASET), layout.run(RUN)
    state = data.folder / "demo.json"
    before = _checked_state(state, data.folder, people, seed)
    stages = _Stages(state, console)

    def render() -> None:
        record(state, people=people, seed=seed)
        make_benchlab(data.folder, people=people, seed=seed, progress=progress)
        record(state, rendered=True)

    def extract() -> None:
        done = extract_stage(layout, DATASET, device=device, progress=progress, encoder="embedded", fps=FPS)
        console.print(done.report)
        record(state, extracted=True)

    def train() -> None:
        resume = (run.folder / "recipe.yaml").exists()  # an earlier call was stopped
        train_stage(
            layout, DATASET, None, RUN, [f"seed={seed}"], resume=resume, device=device, progress=progress
        )
        record(state, trained=True)

    def evaluate() -> None:
        eval_stage(layout, DATASET, RUN, device=device, progress=progress)
        record(state, evaluated=True)

    def index() -> None:
        index_stage(layout, DATASET, RUN, device=device)

    results = run.folder / "results.json"
    rendered = bool(before.get("rendered")) and data.manifest.exists()
    stages.run("render", f"{people} people perform laboratory procedures (mp4)", render, rendered)
    extracted = rendered and bool(before.get("extracted")) and (data.features / "cache.json").exists()
    stages.run("extract", "decode, encode with the embedded encoder, cache", extract, extracted)
    trained = extracted and bool(before.get("trained")) and any((run.folder / "checkpoints").glob("*"))
    stages.run("train", "from the scripts alone, no step times", train, trained)
    evaluated = (
        trained
        and bool(before.get("evaluated"))
        and results.exists()
        and (run.folder / "report.html").exists()
    )
    stages.run(
        "evaluate", "on people and tasks that were not trained on, beside the controls", evaluate, evaluated
    )
    indexed = evaluated and (layout.index(RUN) / "meta.json").exists()
    stages.run("index", "every video, for search", index, indexed)
    answers = stages.run(
        "search", f'"{QUERY}"', lambda: search_stage(layout, QUERY, DATASET, RUN, 3, device=device)
    )

    from .searchcli import answers_table

    console.print()
    console.print(demo_table(read_json(results)))
    console.print(answers_table(QUERY, answers))
    console.print(_whereabouts(layout, stages.seconds), markup=False, highlight=False, soft_wrap=True)
    return run.folder


def demo_table(results: dict[str, Any]) -> Table:
    """One table of `results.json`: each question, what answers it (trained, then controls), two figures."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for head in ("question", "answered by", "", "figure", ""):
        table.add_column(head, no_wrap=True)
    for question, part, figures in _QUESTIONS:
        for place, row in enumerate(results.get(part, [])):
            cells = [f"{name} {_shown(row.get(key), kind)}" for name, key, kind in figures]
            style = "bold" if row["headline"] else "dim" if row["kind"] != "trained" else None
            head = question if not place else ""
            table.add_row(*(Text(cell) for cell in (head, row["name"], row["kind"], *cells)), style=style)
        table.add_section()
    return table


_QUESTIONS: list[tuple[str, str, list[tuple[str, str, str]]]] = [
    ("same procedure?", "verification", [("AUC", "auc", "%"), ("WDR", "wdr", "")]),
    ("which video?", "retrieval", [("R@1", "r1", "%"), ("MRR", "mrr", "")]),
    ("which of its task?", "matching", [("acc@1", "acc1", "%"), ("MRR", "mrr", "")]),
    ("where is each step?", "localisation", [("frames", "frame_accuracy", "%"), ("IoU", "iou", "%")]),
]


def _shown(value: float | None, kind: str) -> str:
    if value is None:
        return "–"
    return f"{100 * value:.1f} %" if kind == "%" else f"{value:.3f}"


def _checked_state(state: Path, folder: Path, people: int, seed: int) -> dict[str, Any]:
    """What an earlier demo left, if it was of these settings; StepclipError when something else is there."""
    before: dict[str, Any] = read_json(state) if state.is_file() else {}
    other = {"people": people, "seed": seed}
    if "people" in before and {key: before[key] for key in other} != other:
        raise StepclipError(
            f"{folder} holds a demo of {before['people']} people, seed {before['seed']}",
            f"{people} people, seed {seed}, as asked now",
            "stepclip demo --root ANOTHER_FOLDER, or the same --people and --seed",
        )
    if not before and (folder / "manifest").exists():
        raise StepclipError(
            f"{folder} is there and no demo made it",
            "a root without data/benchlab, or with that of an earlier demo",
            "stepclip demo --root ANOTHER_FOLDER",
        )
    return before


def _whereabouts(layout: Layout, seconds: dict[str, tuple[float, bool]]) -> str:
    data, run = layout.dataset(DATASET), layout.run(RUN)
    lines: Iterable[tuple[str, Any]] = [
        ("videos, scripts", data.folder),
        ("features", data.features),
        ("run, checkpoints", run.folder),
        ("report", run.folder / "report.html"),
        ("index", layout.index(RUN)),
    ]
    spent = ", ".join(
        f"{name} {took:.0f} s{' (before)' if kept else ''}" for name, (took, kept) in seconds.items()
    )
    now = sum(took for took, kept in seconds.values() if not kept)
    return "\n".join(
        [*(f"{what:<18}{where}" for what, where in lines), f"{'time':<18}{spent}; {now:.0f} s now"]
    )
