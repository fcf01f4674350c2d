"""`stepclip check` and `stepclip compare`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from .options import HERE, Dataset, Device, Quiet, Root, Run, console, layout_of, told

AsJson = Annotated[bool, typer.Option("--json", help="JSON instead of a table.")]
Encoder = Annotated[
    str | None, typer.Option(help="Where the encoder's weights are now.", show_default="as extracted")
]


def check(
    video: Annotated[str, typer.Argument(help="A video file, or the id of a video of the cache.")],
    script: Annotated[
        Path | None,
        typer.Option(help="A file, a step per line.", show_default="its own, of a video of the cache"),
    ] = None,
    dataset: Dataset = None,
    run: Run = None,
    references: Annotated[
        bool, typer.Option("--references/--no-references", help="Also by other recordings of the steps.")
    ] = True,
    json_: AsJson = False,
    encoder: Encoder = None,
    root: Root = HERE,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Which steps of a script a recording does, when, how surely; what is missing, out of order or extra.

    The exit code is 0 when it is as its script, 1 when not, 2 when it cannot be checked. The first check of a
    run learns from its training videos how sure to be, and keeps that in runs/RUN/check.json.
    """
    from .scripts import read_script

    steps = None if script is None else read_script(script)
    from .checking import Checking

    with told("opening the run", not quiet and not json_) as say:
        opened = Checking.open(layout_of(root), dataset, run, encoder=encoder, device=device)
        report = opened.check(video, steps, references=references, progress=False, say=say)
    _print(report, json_)
    raise typer.Exit(0 if report.ok else 1)


def compare(
    a: Annotated[str, typer.Argument(help="A video file, or the id of a video of the cache.")],
    b: Annotated[str, typer.Argument(help="Another one.")],
    dataset: Dataset = None,
    run: Run = None,
    json_: AsJson = False,
    encoder: Encoder = None,
    root: Root = HERE,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Whether two recordings show the same procedure, and where they part.

    The exit code is 0 when they do (or no training pairs taught what "same" is), 1 when not.
    """
    from .checking import Checking

    with told("opening the run", not quiet and not json_) as say:
        opened = Checking.open(layout_of(root), dataset, run, encoder=encoder, device=device)
        found = opened.compare(a, b, progress=False, say=say)
    _print(found, json_)
    raise typer.Exit(1 if found.matched is False else 0)


def _print(found: Any, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(found.to_dict(), indent=2, ensure_ascii=False))
    else:
        console().print(found)
