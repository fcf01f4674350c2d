"""Two videos laid onto each other by the frame embeddings of a run: a picture in its folder."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..cache.errors import StepclipError
from ..cache.files import write_atomically
from .paths import Layout

if TYPE_CHECKING:
    from ..cache.manifest import VideoRow
    from ..evaluate.side_by_side import SideBySide

SIDE = 128  # short side of a shown frame, in pixels
FORMATS = (".png", ".svg", ".pdf")


def align_stage(
    layout: Layout,
    first: str,
    second: str,
    dataset: str | None = None,
    run: str | None = None,
    *,
    out: str | os.PathLike[str] | None = None,
    device: str = "auto",
) -> tuple[Path, SideBySide, list[str]]:
    """The picture's path, the alignment, and notes: frames are shown where both videos' files are at hand.

    StepclipError for an unknown video, features of another kind than the run's, another suffix than FORMATS.
    """
    from ..cache.manifest import Manifest
    from ..cache.store import FeatureStore

    paths, chosen = layout.choose_both(dataset, run)
    name = "-".join(("align", first, second)).replace("/", "_") + ".png"
    target = Path(out) if out is not None else chosen.folder / name
    if target.suffix not in FORMATS:
        raise StepclipError(f"a picture named {target.name!r}", f"a suffix of {', '.join(FORMATS)}")
    from ..evaluate.embed import embed  # brings torch: after what needs no wait
    from ..evaluate.evaluation import check_fingerprint
    from ..evaluate.side_by_side import draw_side_by_side, lay_side_by_side
    from ..train.checkpoint import load_checkpoint

    manifest = Manifest.read(paths.manifest)
    with FeatureStore.open(paths.features) as store:
        checkpoint = load_checkpoint(chosen.folder)
        check_fingerprint(checkpoint, store)
        laid = lay_side_by_side(
            embed(checkpoint, store, list(dict.fromkeys((first, second))), device), first, second
        )
    rows = [manifest[first], manifest[second]]
    lost = [row.path for row in rows if not Path(row.path).is_file()]
    notes = [f"frames are not shown: no file {lost[0]}"] if lost else []

    def images(which: int, seconds: Sequence[float]) -> list[np.ndarray]:
        return frames_at(rows[which], seconds)

    figure = draw_side_by_side(laid, None if lost else images)
    with write_atomically(target) as file:
        figure.savefig(file, format=target.suffix[1:], dpi=120)
    return target, laid, notes


def frames_at(row: VideoRow, seconds: Sequence[float]) -> list[np.ndarray]:
    """The frame of a video nearest to each of `seconds`, small; one pass over the file."""
    from ..extract import Sampling, get_decoder
    from ..extract.decoders.base import End

    best: list[tuple[float, np.ndarray]] = [(np.inf, np.zeros((1, 1, 3), np.uint8))] * len(seconds)
    for item in get_decoder("pyav").stream(row.path, Sampling(fps=None, every=1), row.start, row.end, SIDE):
        if isinstance(item, End):
            continue
        at, image = item
        best = [
            (abs(at - wanted), image) if abs(at - wanted) < apart else (apart, kept)
            for wanted, (apart, kept) in zip(seconds, best, strict=True)
        ]
    return [image for _, image in best]
