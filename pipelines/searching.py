"""What the search commands call: an index made, changed and asked; also for a notebook or the web page."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..cache.errors import StepclipError
from ..cache.files import read_json
from .paths import DatasetPaths, Layout, RunPaths, record
from .stages import settings_of

if TYPE_CHECKING:
    from ..cache.manifest import Manifest
    from ..evaluate.search import Answer, Filter, SearchIndex


def index_stage(
    layout: Layout,
    dataset: str | None = None,
    run: str | None = None,
    split: str | None = None,
    *,
    kind: str = "auto",
    memory: float | None = None,
    device: str = "auto",
    say: Callable[[str], None] | None = None,
) -> Path:
    """Build `indexes/<run>/` over every video with features (or those of a split), for an earlier one.

    `kind` and `memory` (bytes) are those of `evaluate.search.build_index`; `say` is told the recall of an
    approximate index."""
    paths, chosen, part = _chosen(layout, dataset, run, split)
    from ..evaluate.search import build_index

    out = layout.index(chosen.name)
    build_index(chosen.folder, paths.features, part, out, kind=kind, memory=memory, device=device, say=say)
    record(out / "source.json", dataset=paths.name, run=chosen.name)
    return out


def add_stage(
    layout: Layout,
    dataset: str | None = None,
    run: str | None = None,
    split: str | None = None,
    *,
    device: str = "auto",
    say: Callable[[str], None] | None = None,
) -> tuple[Path, list[str]]:
    """Add the videos with features (of a split) that the index of a run lacks: (its folder, their ids)."""
    paths, chosen, part = _chosen(layout, dataset, run, split)
    from ..evaluate.search import add_videos

    out = layout.index(chosen.name)
    return out, add_videos(out, chosen.folder, paths.features, part, device=device, say=say)


def remove_stage(layout: Layout, ids: Sequence[str], run: str | None = None) -> tuple[Path, list[str]]:
    """Take videos out of the index of a run: (its folder, those of `ids` that were in it)."""
    from ..evaluate.search import remove_videos

    out = layout.index(layout.choose_run(run).name)
    return out, remove_videos(out, ids)


def open_index(
    layout: Layout,
    dataset: str | None = None,
    run: str | None = None,
    folders: Sequence[Path] = (),
    *,
    device: str = "auto",
) -> tuple[SearchIndex, DatasetPaths, RunPaths]:
    """The index of a run, built first where there is none or an old one; or the index at `folders`, searched
    as one. With it the dataset and the run."""
    paths, chosen = layout.choose_both(dataset, run)
    from ..evaluate.search import SearchIndex

    if not folders:
        if _index_is_old(layout.index(chosen.name), paths, chosen):
            index_stage(layout, paths.name, chosen.name, device=device)
        folders = [layout.index(chosen.name)]
    return SearchIndex.open(*folders, gpu=device.startswith("cuda")), paths, chosen


def load_text_encoder(paths: DatasetPaths, encoder: str | None = None, device: str = "auto") -> Any:
    """The encoder of a dataset's texts: the one on record, or where `encoder` says its weights are now."""
    from ..extract.encoders import load_encoder

    settings = settings_of(paths, None, {} if encoder is None else {"encoder": encoder})
    return load_encoder(settings["encoder"], device=device, precision=settings["precision"])


def search_stage(
    layout: Layout,
    text: str | None = None,
    dataset: str | None = None,
    run: str | None = None,
    top: int = 5,
    by: str = "moment",
    *,
    steps: Sequence[str] | None = None,
    video: Path | None = None,
    like: str | None = None,
    where: Filter | None = None,
    folders: Sequence[Path] = (),
    dask: str | None = None,
    encoder: str | None = None,
    device: str = "auto",
    progress: bool = True,
) -> list[Answer]:
    """The best `top` videos for one of: a text; `steps`, a script in order; `video`, a file or the id of an
    indexed video; `like`, a moment as VIDEO@1:23. Builds the index when there is none or an old one.

    `folders`: indices to search as one, instead of the run's own; `dask`: by workers that each hold some of
    them, `local:N` or a scheduler's address. StepclipError unless just one is asked."""
    given = [text is not None, steps is not None, video is not None, like is not None]
    if sum(given) != 1:
        raise StepclipError(
            f"{sum(given)} things to search for",
            "one of: a text, --steps FILE, --video FILE, --like VIDEO@1:23",
            'stepclip search "stir the liquid"',
        )
    if text is not None and not text.strip():
        raise StepclipError("the text is empty", "a sentence", 'stepclip search "stir the liquid"')
    if dask is not None and (video is not None or like is not None):
        raise StepclipError(
            f"--dask {dask} beside --video or --like", "a text or --steps FILE", "the same without --dask"
        )
    moment = parse_moment(like) if like is not None else None
    here = folders if dask is None else folders[:1]  # the others lie where the workers are
    index, paths, chosen = open_index(layout, dataset, run, here, device=device)
    from ..evaluate.search import Filter

    where = where or Filter()
    if moment is not None:
        return index.search_like(*moment, top, where)
    if video is not None:
        if str(video) in index.video_ids():
            return index.search_like_video(str(video), top, where)
        return _by_video(index, paths, chosen, video, top, where, encoder, device, progress)
    loaded = load_text_encoder(paths, encoder, device)
    with ExitStack() as open_:
        asked: Any = index
        if dask is not None:
            from ..evaluate.search.fleet import fleet

            own = [str(folder) for folder in folders] or [str(layout.index(chosen.name))]
            asked = open_.enter_context(fleet(dask, own))
        if steps is not None:
            return list(asked.search_script(steps, loaded, top, where=where))
        return list(asked.search(text, loaded, top, by, where))


def _by_video(
    index: SearchIndex,
    paths: DatasetPaths,
    run: RunPaths,
    video: Path,
    top: int,
    where: Filter,
    encoder: str | None,
    device: str,
    progress: bool,
) -> list[Answer]:
    from ..evaluate.embed import embed
    from ..train.checkpoint import load_checkpoint
    from .newvideo import extracted

    checkpoint = load_checkpoint(run.folder)
    with extracted(
        paths, [video], [()], checkpoint.fingerprint, encoder=encoder, device=device, progress=progress
    ) as (store, ids):
        return index.search_video(embed(checkpoint, store, ids, device), top, where)


def parse_moment(text: str) -> tuple[str, float]:
    """VIDEO@1:23 -> the video's id and seconds; also VIDEO@83 and VIDEO@1:02:03.5."""
    video, at, time = text.rpartition("@")
    try:
        parts = [float(each) for each in time.split(":")]
        if not at or not video or len(parts) > 3 or any(not 0 <= each < 1e6 for each in parts):
            raise ValueError
    except ValueError:
        raise StepclipError(
            f"the moment {text!r}", "the id of a video and a time, such as 10.1/test00@1:23"
        ) from None
    return video, sum(each * 60.0**power for power, each in enumerate(reversed(parts)))


def _chosen(
    layout: Layout, dataset: str | None, run: str | None, split: str | None
) -> tuple[DatasetPaths, RunPaths, Manifest]:
    from ..cache.manifest import Manifest

    paths, chosen = layout.choose_both(dataset, run)
    manifest = Manifest.read(paths.manifest)
    part = manifest if split in (None, "all") else manifest.split(str(split))
    if not len(part):
        raise StepclipError(f"no video of split {split!r} in {paths.name}", "train, val, test or all")
    return paths, chosen, part


def _index_is_old(folder: Path, paths: DatasetPaths, run: RunPaths) -> bool:
    """No index, one of an earlier schema or over another dataset, or one that is older than the features or
    the checkpoint."""
    from ..evaluate.search.build import SCHEMA

    meta = folder / "meta.json"
    if not meta.is_file():
        return True
    source = folder / "source.json"
    if not source.is_file() or read_json(source).get("dataset") != paths.name:
        return True
    if read_json(meta).get("schema") != SCHEMA:
        return True
    made = meta.stat().st_mtime
    newer = [*(paths.features / "shards").glob("*.parquet"), *run.folder.glob("checkpoints/*")]
    return any(os.stat(path).st_mtime > made for path in newer)
