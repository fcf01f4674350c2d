"""The commands that look: doctor, serve."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from .options import HERE, Dataset, Device, Root, Run, console, layout_of


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


def serve(
    dataset: Dataset = None,
    run: Run = None,
    host: Annotated[
        str, typer.Option(help="The address to listen at; 0.0.0.0 opens it to the network, for all to see.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free one.")] = 8000,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(help="A name that browsers may call it by, such as that of a proxy. May be repeated."),
    ] = None,
    max_upload: Annotated[int, typer.Option(min=0, help="MiB of an upload; 0 turns uploads off.")] = 512,
    upload_seconds: Annotated[float, typer.Option(min=1, help="How long one may take to arrive.")] = 600.0,
    max_minutes: Annotated[float, typer.Option(min=0.01, help="Length of an upload.")] = 60.0,
    index: Annotated[
        list[Path] | None,
        typer.Option("--index", help="Folders to search as one, in place of the run's own index."),
    ] = None,
    encoder: Annotated[
        str | None, typer.Option(help="Where the encoder's weights are now.", show_default="as extracted")
    ] = None,
    root: Root = HERE,
    device: Device = "auto",
) -> None:
    """A web page: search, watch, check against a script, compare; and an API. Builds the index on first use.

    It answers this machine alone unless --host says otherwise; it has no passwords. Ctrl-C ends it.
    """
    from .web.app import LOOPBACK, create_app, listen
    from .web.app import run as answer
    from .web.library import Library

    sock = listen(host, port)
    try:
        library = Library(layout_of(root), dataset, run, folders=index or (), encoder=encoder, device=device)
        library.warm()
        alone = host in LOOPBACK or host.startswith("127.")
        hosts = [*LOOPBACK, host, *(allow_host or [])] if alone or allow_host else ["*"]
        app = create_app(
            library,
            most_upload=max_upload << 20,
            most_minutes=max_minutes,
            upload_seconds=upload_seconds,
            hosts=hosts,
        )
        at = f"[{host}]" if ":" in host else host
        typer.echo(f"{library.paths.name}, {library.run.name}: http://{at}:{sock.getsockname()[1]}")
        if not alone:
            typer.echo("note: whoever reaches this address can watch every video; there are no passwords")
        answer(app, sock)
    finally:
        sock.close()
