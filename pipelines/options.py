"""What the commands share: their common options, the layout under the root, the console."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

if TYPE_CHECKING:
    from .paths import Layout

Root = Annotated[
    Path,
    typer.Option(
        "--root",
        help="Where data/, runs/ and indexes/ lie.",
        envvar="STEPCLIP_ROOT",
        show_default="the current folder",
    ),
]
Dataset = Annotated[
    str | None, typer.Option("--dataset", help="Its name; may be left out where there is one.")
]
Run = Annotated[str | None, typer.Option("--run", help="Its name; may be left out where there is one.")]
Checkpoint = Annotated[
    str | None,
    typer.Option(
        "--checkpoint",
        help="last, best-val, best-on-test (best on the very split reported; marked), or a kept step.",
        show_default="the run's own",
    ),
]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress bars.")]
HERE = Path(".")


def layout_of(root: Path) -> Layout:
    from .paths import Layout

    return Layout(root.expanduser())


def console() -> Any:
    from rich.console import Console

    # a pipe or a log file gets whole lines, not those of an 80-column terminal
    return Console() if sys.stdout.isatty() else Console(width=160)


@contextmanager
def told(first: str, shown: bool = True) -> Iterator[Callable[[str], None]]:
    """A line that says what is being done, while it lasts; call what it gives with the next thing."""
    from rich.console import Console
    from rich.status import Status

    with Status(first, console=Console(stderr=True, quiet=not shown)) as status:
        yield lambda text: status.update(text)


class Retrying(TyperCommand):
    """A command of which `--retry-failed=REASON` is short for `--retry-failed-for REASON`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        short, long = "--retry-failed=", "--retry-failed-for="
        return super().parse_args(
            ctx, [long + a.removeprefix(short) if a.startswith(short) else a for a in args]
        )
