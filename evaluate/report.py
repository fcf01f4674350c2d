"""One self-contained page about a run: tables with controls, ROC, training curve, alignments, provenance.

No script, no network: figures are inlined as SVG, in colours that colour-blind people can tell apart
(Okabe-Ito, viridis), and each has its words beside it. Everything that comes from data is escaped.
"""

from __future__ import annotations

import base64
import io
import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..cache.errors import StepclipError
from ..cache.files import write_atomically
from .localisation import frame_borders, step_spans, true_spans
from .results import TRAINED, Results

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ..cache.manifest import Manifest, VideoRow
    from ..cache.store import FeatureStore

# Okabe and Ito's eight colours, for trained rows first, then controls.
BLUE, ORANGE, GREEN, RED, PURPLE, SKY, YELLOW, BLACK = (
    "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#F0E442", "#000000",
)  # fmt: skip
TIMELINES = 4
HEAT_MAPS = 2


@dataclass(frozen=True)
class Picture:
    """A figure of the page: its address (data URI), what it shows, and how to read it."""

    source: str
    title: str
    caption: str


def write_report(
    run: str | os.PathLike[str],
    results: Results,
    store: FeatureStore | None = None,
    manifest: Manifest | None = None,
    out: str | os.PathLike[str] | None = None,
) -> Path:
    """Write `report.html` into the run folder (or to `out`) and return its path.

    `results` as `evaluate` returned them. The training curve is read from `log.jsonl` in the run folder; the
    alignments need `store` and `manifest`. What is not at hand is left out and said so. StepclipError when
    the folder is missing or cannot be written.
    """
    from jinja2 import Environment, PackageLoader, select_autoescape

    run = Path(run)
    path = Path(out) if out is not None else run / "report.html"
    if out is None and not run.is_dir():
        raise StepclipError(f"no run folder at {run}", "a trained run", "stepclip train")
    pictures: list[Picture] = []
    missing: list[str] = []
    for made in (
        _roc(results),
        _training(run / "log.jsonl"),
        *_alignments(results, store, manifest),
        _timelines(results, manifest),
    ):
        if isinstance(made, Picture):
            pictures.append(made)
        else:
            missing.append(made)
    environment = Environment(
        loader=PackageLoader(__package__, "templates"),
        autoescape=select_autoescape(default=True, default_for_string=True),
    )
    recipe = results.about.get("recipe", {})
    page = environment.get_template("report.html.j2").render(
        results=results,
        parts=results.parts(),
        best=_best(results),
        pictures=pictures,
        missing=missing,
        recipe=json.dumps(recipe, indent=2, ensure_ascii=False),
        features=sorted(results.about.get("features", {}).items()),
        about={k: v for k, v in results.about.items() if k not in ("recipe", "features")},
    )
    with write_atomically(path, "w") as file:
        file.write(page)
    return path


def _best(results: Results) -> list[dict[str, str]]:
    """The headline figures, each with the best control beside it."""
    tiles = []
    for title, rows, value, unit in (
        ("Same procedure? (AUC)", results.verification, lambda r: 100 * r.auc, "%"),
        ("Text finds its video (R@1)", results.retrieval, lambda r: 100 * r.r1, "%"),
        ("Text picks its video (acc@1)", results.matching, lambda r: 100 * r.acc1, "%"),
        ("Frames in the right step", results.localisation, lambda r: 100 * r.frame_accuracy, "%"),
    ):
        mine = [row for row in rows if row.headline]
        controls = [row for row in rows if row.kind != TRAINED and math.isfinite(value(row.result))]
        if not mine or not controls or not math.isfinite(value(mine[0].result)):
            continue
        best = max(controls, key=lambda row: value(row.result))
        tiles.append(
            {
                "title": title,
                "value": f"{value(mine[0].result):.1f} {unit}",
                "control": f"best without training: {best.name}, {value(best.result):.1f} {unit}",
            }
        )
    return tiles


def _figure(width: float = 7.2, height: float = 4.2, rows: int = 1) -> tuple[Figure, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, 1, squeeze=False)[:, 0]
    for ax in axes:
        ax.tick_params(labelsize=9)
        ax.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _plain(text: str, width: int = 48) -> str:
    """Text from data, for a figure: short, printable, and never read as TeX."""
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    text = text if len(text) <= width else text[: width - 1] + "…"
    return text.replace("$", r"\$")


def _picture(figure: Figure, title: str, caption: str) -> Picture:
    import matplotlib

    buffer = io.BytesIO()
    # Drawn as paths, so the page needs no font; a fixed salt, so the same data give the same bytes.
    with matplotlib.rc_context({"svg.fonttype": "path", "svg.hashsalt": "stepclip"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return Picture(
        "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode(), title, caption
    )


def _roc(results: Results) -> Picture | str:
    """ROC curves of trained distances (thick) and controls (thin)."""
    details = results.details
    if details.unmatched is None or not details.distances:
        return "ROC curves: no pairs were verified."
    from sklearn.metrics import roc_curve

    figure, (ax,) = _figure(6.4, 5.4)
    trained = iter(((BLUE, "-"), (ORANGE, "-"), (GREEN, "-")))
    control = iter(((RED, "--"), (PURPLE, "-."), (BLACK, ":"), (SKY, "--"), ("#777777", ":")))
    for row in results.verification:
        colour, line = next(trained if row.kind == TRAINED else control, ("#777777", ":"))
        alarms, hits, _ = roc_curve(details.unmatched, details.distances[row.name])
        label = f"{row.kind}: {row.name}  {100 * row.result.auc:.1f}"
        ax.plot(
            100 * alarms, 100 * hits, line, color=colour, lw=2.6 if row.kind == TRAINED else 1.5, label=label
        )
    ax.plot([0, 100], [0, 100], color="#bbbbbb", lw=1, zorder=0)
    ax.set(xlabel="false alarms: equal pairs called different (%)", ylabel="different pairs found (%)")
    ax.set(xlim=(0, 100), ylim=(0, 100.5), aspect="equal")
    ax.legend(title="area under the curve (%)", fontsize=9, title_fontsize=9, loc="lower right", frameon=True)
    return _picture(
        figure,
        "Do two videos follow the same procedure?",
        "Each curve is one distance: the higher above the grey diagonal (a coin), the better.",
    )


def _training(log: Path) -> Picture | str:
    """Losses over steps, from log.jsonl (half a line is passed over: a run may have been stopped)."""
    if not log.is_file():
        return "Training curve: the run folder has no log.jsonl."
    rows: list[dict[str, Any]] = []
    for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and isinstance(row.get("step"), int | float):
            rows.append(row)
    names = sorted({k for row in rows for k in row if "loss" in k or k.startswith(("coarse", "fine"))})
    names = [n for n in names if sum(isinstance(row.get(n), int | float) for row in rows) > 1][:7]
    if not names:
        return "Training curve: log.jsonl holds no losses."
    figure, (ax,) = _figure(7.2, 3.8)
    styles = zip(
        (BLUE, ORANGE, GREEN, RED, PURPLE, SKY, BLACK), ("-", "--", "-.", ":", "-", "--", "-."), strict=True
    )
    for name, (colour, line) in zip(names, styles, strict=False):
        points = [(row["step"], row[name]) for row in rows if isinstance(row.get(name), int | float)]
        x, y = np.array(points, dtype=float).T
        ax.plot(x, np.where(np.isfinite(y), y, np.nan), line, color=colour, lw=1.8, label=_plain(name))
    ax.set(xlabel="training step", ylabel="loss")
    ax.legend(fontsize=9, frameon=False)
    return _picture(
        figure, "Training", "The losses as training went on; lower is better, and flat means done."
    )


def _shown(results: Results, manifest: Manifest | None, count: int) -> list[VideoRow]:
    """Videos to draw: spread over the procedures, the same each time, not picked by how they fare."""
    if manifest is None or "trained" not in results.details.labels:
        return []
    known = [manifest[v] for v in results.details.labels["trained"]]
    first = list({video.procedure: video for video in reversed(known)}.values())[::-1]
    pick = first if len(first) >= count else known
    places = np.unique(np.linspace(0, len(pick) - 1, min(count, len(pick))).round().astype(int))
    return [pick[i] for i in places]


def _alignments(
    results: Results, store: FeatureStore | None, manifest: Manifest | None
) -> list[Picture | str]:
    """Heat maps, frames x steps, with the path found and the true borders."""
    embedded = results.details.trained
    videos = _shown(results, manifest, HEAT_MAPS)
    if store is None or embedded is None or not videos:
        return ["Alignments: no video with true step times was aligned."]
    import torch.nn.functional as F

    from .embed import text_features

    pictures: list[Picture | str] = []
    for video in videos:
        i = embedded.row(video.video_id)
        frames = F.normalize(embedded.frames[embedded.slice(i)], dim=-1)
        cosine = (frames @ text_features(store, video.steps, "step", frames.device).T).cpu().numpy()
        times, duration = embedded.times[embedded.slice(i)], float(embedded.durations[i])
        figure, (ax,) = _figure(7.2, 1.6 + 0.3 * len(video.steps))
        borders = frame_borders(times, duration)
        mesh = ax.pcolormesh(
            borders, np.arange(len(video.steps) + 1), cosine.T, cmap="viridis", rasterized=True
        )
        figure.colorbar(mesh, ax=ax, label="cosine", pad=0.01)
        path = results.details.labels["trained"][video.video_id]
        ax.step(times, path + 0.5, where="mid", color="white", lw=3.2)
        ax.step(times, path + 0.5, where="mid", color=RED, lw=1.8, label="found")
        for k, (start, end) in enumerate(_spans(video)):
            box = ([start, end, end, start, start], [k, k, k + 1, k + 1, k])
            ax.plot(*box, color="white", lw=1.6, ls="--", label="true" if k == 0 else None)
        ax.set_yticks(np.arange(len(video.steps)) + 0.5, [_plain(s, 34) for s in video.steps], fontsize=8)
        ax.invert_yaxis()
        ax.set(xlabel="seconds")
        legend = ax.legend(fontsize=8, loc="upper right", facecolor="#444444", framealpha=0.85)
        for text in legend.get_texts():
            text.set_color("white")
        pictures.append(
            _picture(
                figure,
                f"Frames and steps of {video.video_id}",
                "Bright: the frame resembles the sentence. Orange line: the steps as the alignment puts "
                "them. Dashed boxes: the truth, which training never saw.",
            )
        )
    return pictures


def _spans(video: VideoRow) -> np.ndarray:
    spans = true_spans(video)
    return spans if spans is not None else np.zeros((0, 2))


def _timelines(results: Results, manifest: Manifest | None) -> Picture | str:
    """Bars of steps over time: truth, trained, raw, uniform, for a few videos."""
    embedded = results.details.trained
    videos = _shown(results, manifest, TIMELINES)
    if embedded is None or not videos:
        return "Step timelines: no video with true step times was aligned."
    import matplotlib

    names = list(results.details.labels)
    figure, axes = _figure(7.2, 0.5 + len(videos) * (0.75 + 0.28 * (len(names) + 1)), len(videos))
    for ax, video in zip(axes, videos, strict=True):
        i = embedded.row(video.video_id)
        times, duration = embedded.times[embedded.slice(i)], float(embedded.durations[i])
        count = len(video.steps)
        colours = matplotlib.colormaps["viridis"](np.linspace(0.08, 0.95, count))
        lines: list[tuple[str, np.ndarray]] = [("truth", _spans(video))]
        lines += [
            (name, step_spans(results.details.labels[name][video.video_id], times, duration, count))
            for name in names
        ]
        for y, (_, spans) in enumerate(lines):
            _bars(ax, y, spans, colours)
        ax.set_yticks(range(len(lines)), [name for name, _ in lines], fontsize=9)
        ax.invert_yaxis()
        ax.set_xlim(0, max(duration, float(times[-1])))
        ax.set_title(_plain(f"{video.video_id} ({count} steps)", 60), fontsize=9, loc="left")
    axes[-1].set_xlabel("seconds")
    return _picture(
        figure,
        "Where the steps are",
        "One bar per step, numbered in the order of the script; gaps in the truth are idle time. The videos "
        "are one per procedure, spread evenly, not chosen by how well they fare.",
    )


def _bars(ax: Axes, y: int, spans: np.ndarray, colours: np.ndarray) -> None:
    for k, (start, end) in enumerate(spans):
        if not math.isfinite(start) or end <= start:
            continue
        ax.barh(y, end - start, left=start, height=0.82, color=colours[k], edgecolor="white", linewidth=0.8)
        dark = 0.3 * colours[k][0] + 0.59 * colours[k][1] + 0.11 * colours[k][2] < 0.55
        style: dict[str, Any] = {
            "ha": "center",
            "va": "center",
            "fontsize": 7,
            "color": "white" if dark else "black",
        }
        ax.text((start + end) / 2, y, str(k + 1), clip_on=True, **style)
