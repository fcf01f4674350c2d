"""The commands that look: doctor, serve."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from .options import HERE, Root, console, layout_of


def doctor(
    root: Root = HERE,
    json_: Annotated[bool, typer.Option("--json", help="JSON instead of tables.")] = False,
) -> None:
    """What is installed and works here: libraries, devices, decoders, encoders, caches, runs; and the cures.

    Exit code 1 where something essential is broken.
    """
    from .doctor import diagnose

    found = diagnose(layout_of(root))
    if json_:
        typer.echo(json.dumps(found.to_dict(), indent=2, ensure_ascii=False))
    else:
        console().print(found)
    if not found.sound:
        raise typer.Exit(1)
