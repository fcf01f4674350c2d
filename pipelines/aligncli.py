"""`stepclip align`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import HERE, Dataset, Device, Root, Run, layout_of


def align(
    first: Annotated[str, typer.Argument(help="A video's id.")],
    second: Annotated[str, typer.Argument(help="Another one's.")],
    dataset: Dataset = None,
    run: Run = None,
    out: Annotated[
        Path | None, typer.Option(help="The picture: .png, .svg or .pdf.", show_default="in the run's folder")
    ] = None,
    root: Root = HERE,
    device: Device = "auto",
) -> None:
    """Lay two videos onto each other by a run's frame embeddings: frames side by side, and the path."""
    from .aligning import align_stage

    path, laid, notes = align_stage(layout_of(root), first, second, dataset, run, out=out, device=device)
    for note in notes:
        typer.echo(f"note: {note}")
    typer.echo(f"mean distance along the path {laid.distance:.3f}; {path}")
