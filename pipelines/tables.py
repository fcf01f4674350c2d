"""Tables as the command line prints them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table


def table(*heads: str) -> Table:
    from rich import box
    from rich.table import Table

    made = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for head in heads:
        made.add_column(head, overflow="fold")
    return made


def add(table: Table, *cells: Any, style: str | None = None) -> None:
    """One row; cells are data, never markup."""
    from rich.text import Text

    table.add_row(*(Text(str(cell)) for cell in cells), style=style)
