"""Figures of the report: inlined as SVG, in colours that colour-blind people can tell apart.

Okabe and Ito's colours and viridis; drawn as paths, so the page needs no font; the same data give the same
bytes. Each picture has its words beside it.
"""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's eight colours, for trained rows first, then controls.
BLUE, ORANGE, GREEN, RED, PURPLE, SKY, YELLOW, BLACK = (
    "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#F0E442", "#000000",
)  # fmt: skip
GREY = "#777777"


@dataclass(frozen=True)
class Picture:
    """A figure of the page: its address (data URI), what it shows, and how to read it."""

    source: str
    title: str
    caption: str


def new_figure(width: float = 7.2, height: float = 4.2, rows: int = 1) -> tuple[Figure, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, 1, squeeze=False)[:, 0]
    for ax in axes:
        ax.tick_params(labelsize=9)
        ax.spines[["top", "right"]].set_visible(False)
    return figure, axes


def plain(text: str, width: int = 48) -> str:
    """Text from data, for a figure: short, printable, and never read as TeX."""
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    text = text if len(text) <= width else text[: width - 1] + "…"
    return text.replace("$", r"\$")


def finished(figure: Figure, title: str, caption: str) -> Picture:
    import matplotlib

    buffer = io.BytesIO()
    # Drawn as paths, so the page needs no font; a fixed salt, so the same data give the same bytes.
    with matplotlib.rc_context({"svg.fonttype": "path", "svg.hashsalt": "stepclip"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return Picture(
        "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode(), title, caption
    )
