"""Pictures of where the steps are: frames against sentences, and bars over time."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .figures import RED, Picture, finished, new_figure, plain
from .localisation import frame_borders, step_spans, true_spans
from .results import Results

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ..cache.manifest import Manifest, VideoRow
    from ..cache.store import FeatureStore

# seconds of a video -> images (H, W, 3) uint8; [] where its file cannot be read
Stills = Callable[["VideoRow", Sequence[float]], Sequence[np.ndarray]]

TIMELINES = 4
HEAT_MAPS = 2
STRIP, WIDTH = 0.62, 6.3  # inches of a strip of frames


def _shown(results: Results, manifest: Manifest | None, count: int) -> list[VideoRow]:
    """Videos to draw: spread over the procedures, the same each time, not picked by how they fare."""
    if manifest is None or "trained" not in results.details.labels:
        return []
    known = [manifest[v] for v in results.details.labels["trained"]]
    first = list({video.procedure: video for video in reversed(known)}.values())[::-1]
    pick = first if len(first) >= count else known
    places = np.unique(np.linspace(0, len(pick) - 1, min(count, len(pick))).round().astype(int))
    return [pick[i] for i in places]


def alignments(
    results: Results, store: FeatureStore | None, manifest: Manifest | None
) -> list[Picture | str]:
    """Heat maps, frames x steps, with the path found and the true borders."""
    embedded = results.details.trained
    videos = _shown(results, manifest, HEAT_MAPS)
    if store is None or embedded is None or not videos:
        return ["Alignments: no video with true step times was aligned."]
    import torch.nn.functional as F

    pictures: list[Picture | str] = []
    for video in videos:
        i = embedded.row(video.video_id)
        frames = F.normalize(embedded.frames[embedded.slice(i)], dim=-1)
        cosine = (frames @ embedded.texts(store, video.steps, "step").T).cpu().numpy()
        times, duration = embedded.times[embedded.slice(i)], float(embedded.durations[i])
        figure, (ax,) = new_figure(7.2, 1.6 + 0.3 * len(video.steps))
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
        ax.set_yticks(np.arange(len(video.steps)) + 0.5, [plain(s, 34) for s in video.steps], fontsize=8)
        ax.invert_yaxis()
        ax.set(xlabel="seconds")
        legend = ax.legend(fontsize=8, loc="upper right", facecolor="#444444", framealpha=0.85)
        for text in legend.get_texts():
            text.set_color("white")
        pictures.append(
            finished(
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


def timelines(results: Results, manifest: Manifest | None, stills: Stills | None = None) -> Picture | str:
    """Bars of steps over time, under frames of the video: truth, trained, raw, uniform, for a few videos."""
    embedded = results.details.trained
    videos = _shown(results, manifest, TIMELINES)
    if embedded is None or not videos:
        return "Step timelines: no video with true step times was aligned."
    import matplotlib

    names = list(results.details.labels)
    strips = [_strip(video, results, stills) for video in videos]
    seen = any(strips)
    bars = 0.75 + 0.28 * (len(names) + 1)
    figure, axes = new_figure(7.2, 0.5 + len(videos) * (bars + STRIP * seen), len(videos))
    for ax, video, strip in zip(axes, videos, strips, strict=True):
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
        top = ax
        if seen:
            top = ax.inset_axes((0, 1.02, 1, STRIP / bars), sharex=ax)
            top.set_axis_off()
            for n, image in enumerate(strip):
                edges = (n * ax.get_xlim()[1] / len(strip), (n + 1) * ax.get_xlim()[1] / len(strip))
                top.imshow(image, extent=(*edges, 0, 1), aspect="auto", interpolation="bilinear")
            top.set_xlim(ax.get_xlim())
        top.set_title(plain(f"{video.video_id} ({count} steps)", 60), fontsize=9, loc="left")
    axes[-1].set_xlabel("seconds")
    return finished(
        figure,
        "Where the steps are",
        "One bar per step, numbered in the order of the script; gaps in the truth are idle time. The videos "
        "are one per procedure, spread evenly, not chosen by how well they fare."
        + (" Each frame stands for the time below it." if seen else ""),
    )


def _strip(video: VideoRow, results: Results, stills: Stills | None) -> list[np.ndarray]:
    """Frames of a video at the middles of equal shares of its time, as many as fit side by side; none where
    its file cannot be read."""
    embedded = results.details.trained
    if stills is None or embedded is None:
        return []
    i = embedded.row(video.video_id)
    end = max(float(embedded.durations[i]), float(embedded.times[embedded.slice(i)][-1]))
    first = stills(video, [end / 2])
    if not first:
        return []
    height, width = first[0].shape[:2]
    count = max(3, min(12, round(WIDTH / (STRIP * width / max(height, 1)))))
    return list(stills(video, [(n + 0.5) * end / count for n in range(count)]))


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
