"""A video that is in no cache: decoded, encoded and embedded in one go, as the run's own videos were."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..cache.errors import StepclipError
from ..cache.fingerprint import Fingerprint
from ..cache.manifest import Manifest, VideoRow
from ..cache.store import FeatureStore
from .paths import DatasetPaths
from .stages import sampling_of, settings_of


@contextmanager
def extracted(
    paths: DatasetPaths,
    files: Sequence[Path],
    scripts: Sequence[Sequence[str]],
    expect: Fingerprint,
    *,
    encoder: Any = None,
    device: str = "auto",
    timeout: float = 600.0,
    progress: bool = True,
) -> Iterator[tuple[FeatureStore, list[str]]]:
    """A cache, for as long as the context lasts, of video `files` and their `scripts`, and the ids of the
    videos in it ("0", "1", ...).

    Made as the features of the dataset at `paths` were; `encoder` (loaded, a name or a folder) stands for the
    one on record. `expect` is the fingerprint of the run. StepclipError when a file cannot be decoded, or the
    features would be of another kind than the run was trained on, such as imported ones.
    """
    from ..extract.encoders import load_encoder
    from ..extract.engine import extract

    if "source" in expect.fields and expect.fields["source"] == "import":
        raise StepclipError(
            f"the features of {paths.name} were imported: StepCLIP cannot make them of a new video",
            "features that stepclip extract made",
            "stepclip cache import with the features of the new video",
        )
    settings = settings_of(paths, None, {"encoder": encoder} if isinstance(encoder, str | Path) else {})
    if encoder is None or isinstance(encoder, str | Path):
        encoder = load_encoder(settings["encoder"], device=device, precision=settings["precision"])
    rows = tuple(
        VideoRow(str(i), str(Path(file).expanduser().resolve()), steps=tuple(script) or ("(no script)",))
        for i, (file, script) in enumerate(zip(files, scripts, strict=True))
    )
    for row in rows:
        if not Path(row.path).is_file():
            raise StepclipError(f"no video file {row.path}", "a video file, or the id of a cached video")
    with tempfile.TemporaryDirectory(prefix="stepclip-") as folder:
        report = extract(
            Manifest(rows, name="new"),
            folder,
            encoder=encoder,
            decoder=settings["decoder"],
            sampling=sampling_of(settings),
            paragraph_mode=settings["paragraphs"],
            dtype=settings["dtype"],
            views=settings["views"],
            workers=1 if len(rows) == 1 else None,
            timeout=timeout,
            progress=progress,
        )
        if report.failures:
            failure = report.failures[0]
            raise StepclipError(
                f"{failure.path} cannot be used: {failure.reason}. {failure.detail}".strip(),
                "a video that decodes",
                "stepclip backends, for other decoders",
            )
        with FeatureStore.open(folder, expect=expect) as store:
            yield store, [row.video_id for row in rows]
