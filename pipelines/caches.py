"""Stages over whole caches: encode frames again, merge datasets, take features in and give them out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..cache.errors import StepclipError
from .paths import DatasetPaths, Layout

if TYPE_CHECKING:
    from ..cache.exchange.exporting import ExportReport
    from ..cache.exchange.importing import ImportReport
    from ..cache.manifest import Manifest
    from ..cache.upkeep.merge import MergeReport
    from ..extract.recheck import Recheck


def recheck_stage(
    paths: DatasetPaths,
    frames: int = 32,
    *,
    seed: int = 0,
    tolerance: float = 1e-3,
    encoder: str | None = None,
    device: str = "auto",
    progress: bool = True,
) -> Recheck:
    """Random cached frames of a dataset, decoded and encoded again as it was extracted, against the cache."""
    from ..cache.manifest import Manifest
    from ..cache.store import FeatureStore

    with FeatureStore.open(paths.features) as store:
        from ..extract.encoders import load_encoder
        from ..extract.recheck import recheck, refuse_imported
        from .stages import settings_of

        refuse_imported(store)
        settings = settings_of(paths, None, {} if encoder is None else {"encoder": encoder})
        loaded = load_encoder(settings["encoder"], device=device, precision=settings["precision"])
        manifest = Manifest.read(paths.manifest)
        return recheck(store, manifest, loaded, frames, seed=seed, tolerance=tolerance, progress=progress)


def merge_stage(
    layout: Layout, sources: Sequence[str], into: str, *, progress: bool = True
) -> tuple[DatasetPaths, MergeReport]:
    """Merge datasets, by name under this root or as folders `data/NAME` of others, into the dataset `into`.

    Features and manifests; StepclipError, before anything is written, when features were made in another way
    or a video's row contradicts another's.
    """
    from ..cache.upkeep.merge import merge

    found = [_dataset(layout, source) for source in sources]
    out = layout.dataset(into)
    every = [*found, *([out] if out.manifest.exists() and out not in found else [])]
    manifest = _united(every)
    # the cache first: it refuses what does not fit before it writes
    report = merge([paths.features for paths in every], out.features, progress=progress)
    manifest.write(out.manifest)
    if not out.settings.exists() and found[0].settings.exists():
        from ..cache.files import read_json
        from .paths import record

        record(out.settings, **read_json(found[0].settings))
    return out, report


def import_stage(
    layout: Layout,
    source: str,
    dataset: str,
    *,
    split: int | None = None,
    encoder: str | None = None,
    device: str = "auto",
    progress: bool = True,
    **options: Any,
) -> tuple[DatasetPaths, ImportReport]:
    """Features that others made, into the dataset `dataset`: its features and its manifest.

    `options` are those of `cache.importing.import_features`; encoder: encodes the steps and paragraphs, and
    later the queries. A dataset known to hold features (gtea) needs no options; `split` chooses its split.
    """
    from ..cache.exchange.importing import import_features
    from ..cache.manifest import Manifest
    from .paths import record

    paths = layout.dataset(dataset)
    where: str | Path = Path(source).expanduser()
    options = {key: value for key, value in options.items() if value is not None}
    gtea = dataset == "gtea" and not (Path(where) / "stepclip.json").is_file()
    if gtea:
        from ..extract.datasets.gtea import import_arguments, with_dishes

        where, known = import_arguments(Path(where), split or 1, options.get("background") == [])
        options = {**known, **options}
    elif split is not None:
        raise StepclipError(f"--split {split} with the dataset {dataset}", "--split with gtea alone")
    if encoder is not None:
        from ..extract.encoders import load_encoder

        loaded = load_encoder(encoder, device=device)
        named = f"{loaded.name}, {loaded.fields().get('encoder.weights', '')!s:.12}"
        options |= {"encode_texts": loaded.encode_texts, "text_encoder": named}
    kept = Manifest.read(paths.manifest) if paths.manifest.exists() else None
    report = import_features(where, paths.features, known=kept, progress=progress, **options)
    if gtea:
        report.manifest = with_dishes(report.manifest)
    report.manifest.write(paths.manifest)
    if encoder is not None:
        record(paths.settings, encoder=encoder)
    return paths, report


def export_stage(
    paths: DatasetPaths, out: str, format: str, *, split: str | None = None, **options: Any
) -> ExportReport:
    """A dataset's features, texts and manifest in another format; `options` are those of
    `cache.exporting.export`.
    """
    from ..cache.exchange.exporting import export
    from ..cache.manifest import Manifest

    manifest = Manifest.read(paths.manifest)
    if split is not None:
        from ..cache.store import FeatureStore

        manifest = manifest.split(split)
        with FeatureStore.open(paths.features) as store:
            options["video_ids"] = [row.video_id for row in manifest if row.video_id in store]
    return export(paths.features, Path(out).expanduser(), format, manifest=manifest, **options)


def _dataset(layout: Layout, name: str) -> DatasetPaths:
    folder = Path(name).expanduser()
    if folder.is_dir() and (folder / "manifest").is_dir():
        return DatasetPaths(folder)
    if "/" in name or name in (".", ".."):
        raise StepclipError(
            f"no dataset in the folder {name}", "a folder data/NAME, with manifest/ and features/ in it"
        )
    return layout.choose_dataset(name)


def _united(datasets: Sequence[DatasetPaths]) -> Manifest:
    """One manifest of several; a video may stand in more than one, with the same script and split."""
    from ..cache.manifest import Manifest

    rows: dict[str, Any] = {}
    pairs: dict[Any, None] = {}
    matching: dict[Any, None] = {}
    for paths in datasets:
        manifest = Manifest.read(paths.manifest)
        for row in manifest:
            other = rows.setdefault(row.video_id, row)
            if replace(other, path=row.path) != row:
                raise StepclipError(
                    f"the video '{row.video_id}' has two rows that contradict each other:\n"
                    f"  {other}\n  {row}",
                    "one script, split and trim per video id",
                    "mend the manifest of one of them, or extract it under other ids",
                )
        pairs |= dict.fromkeys(manifest.pairs)
        matching |= dict.fromkeys(manifest.matching)
    return Manifest(tuple(rows.values()), tuple(pairs), tuple(matching), datasets[-1].name)
