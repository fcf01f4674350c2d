"""The stages over one root, for the command line, the demo and notebooks. Each finds its input by name.

`extract_stage` -> data/<name>/, `train_stage` -> runs/<run>/, `eval_stage` -> its results and report. What
searches and checks lies in `searching` and `checking`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..cache.errors import StepclipError, nearest
from ..cache.files import read_json, write_atomically, write_json
from .paths import DatasetPaths, Layout, RunPaths, record

if TYPE_CHECKING:
    from ..cache.fingerprint import Fingerprint
    from ..cache.manifest import Manifest
    from ..evaluate.results import Results
    from ..extract.datasets import Loaded
    from ..extract.engine import ExtractionReport, Retry
    from ..train.trainer import FitResult

DEFAULTS: dict[str, Any] = {
    "videos": None,
    "annotations": None,
    "manifest": None,
    "encoder": "embedded",
    "decoder": "pyav",
    "fps": None,
    "frames": None,
    "every": None,
    "all": None,
    "weaksvr": None,
    "views": 0,
    "paragraphs": "chunks",
    "precision": "auto",
    "dtype": "float16",
}
EMBEDDED_NOTE = (
    "the embedded encoder understands only the synthetic bench; real videos want another --encoder"
)
SAMPLING = ("fps", "frames", "every", "all", "weaksvr")
OWN_RECIPES = {"benchlab": "stepclip-weaksvr"}  # of a dataset whose best recipe has another name than its own


@dataclass
class Extraction:
    """What `extract_stage` did: where it put things, the engine's account, what was not found."""

    paths: DatasetPaths
    report: ExtractionReport
    missing: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def extract_stage(
    layout: Layout,
    dataset: str | None = None,
    name: str | None = None,
    *,
    device: str = "auto",
    workers: int | None = None,
    progress: bool = True,
    retry: Retry | None = None,
    max_failures: int | None = None,
    compile: bool = False,
    dask: str | None = None,
    **options: Any,
) -> Extraction:
    """Stage one: videos and scripts to `data/<name>/manifest` and `data/<name>/features`, or on from there.

    `dataset` is an adapter's name (`stepclip datasets`) or, with `manifest=FILE`, any name; `name` keeps it
    under another one. `options` are the keys of DEFAULTS; one that is not given is as in the last extraction
    of this name, so that a second call needs only the name. `dask`: `local:N` or a scheduler's address, whose
    workers do it; several devices (`cuda:0,cuda:1`) are a worker each. StepclipError for bad input, before
    anything is written.
    """
    if unknown := [key for key in options if key not in DEFAULTS]:
        raise TypeError(f"unknown option {unknown[0]!r}")
    given = {key: value for key, value in options.items() if value is not None}
    if dataset is None and name is None and "manifest" in given:
        name = _name_from(given["manifest"])
    kept_as = name or dataset
    paths = layout.dataset(kept_as) if kept_as else layout.choose_dataset(None)
    settings = settings_of(paths, dataset, given)
    release = _load(layout, paths, settings)
    loaded, missing, notes = release.manifest, list(release.missing), list(release.notes)
    sampling = sampling_of(settings)
    from ..extract.paragraphs import MODES

    if settings["paragraphs"] not in MODES:
        hint = nearest(settings["paragraphs"], MODES)
        raise StepclipError(f"--paragraphs {settings['paragraphs']}{hint}", f"one of {', '.join(MODES)}")
    from ..extract.decoders import get_decoder
    from ..extract.encoders import load_encoder
    from ..extract.engine import extract, fingerprint_of
    from ..extract.fleet import EncoderSpec, extract_on_dask

    get_decoder(settings["decoder"])  # one that cannot be used is told before anything is written
    spec = EncoderSpec(settings["encoder"], device, settings["precision"], compile)
    if "," in device and dask is None:
        dask = "local"
    if dask is None:
        encoder = load_encoder(settings["encoder"], device, settings["precision"], compile)
    else:
        encoder = spec.here(dask)
    making: dict[str, Any] = {
        "decoder": settings["decoder"],
        "sampling": sampling,
        "paragraph_mode": settings["paragraphs"],
        "dtype": settings["dtype"],
        "views": settings["views"],
    }
    fingerprint = fingerprint_of(encoder, **making)
    _refuse_another_way(paths, fingerprint)
    _refuse_other_videos(paths, loaded)

    loaded.write(paths.manifest)
    if release.extra:
        write_json(paths.extra, release.extra)
    record(paths.settings, **settings | {"precision": encoder.precision})
    common: dict[str, Any] = {"retry": retry, "max_failures": max_failures, "workers": workers}
    common |= {"progress": progress, **making}
    if dask is None:
        report = extract(loaded, paths.features, encoder=encoder, **common)
        if len(spec.devices) > 1:
            notes.append(f"one of {len(spec.devices)} GPUs was used; all: --device {','.join(spec.devices)}")
    else:
        report = extract_on_dask(loaded, paths.features, dask, encoder=spec, **common)
    if settings["encoder"] == "embedded" and settings["dataset"] != "benchlab":
        notes.append(EMBEDDED_NOTE)
    with write_atomically(paths.missing, "w") as file:
        file.writelines(f"{line}\n" for line in missing)
    return Extraction(paths, report, missing, notes)


def train_stage(
    layout: Layout,
    dataset: str | None = None,
    recipe: str | None = None,
    run: str | None = None,
    overrides: Sequence[str] = (),
    *,
    resume: bool = False,
    overwrite: bool = False,
    device: str = "auto",
    progress: bool = True,
) -> tuple[RunPaths, FitResult]:
    """Stage two: train `recipe` (a name or a YAML file) on the training split, as `run` or DATASET-RECIPE.

    Step times are taken out of the manifest first: training never sees them. A recipe that evaluates while it
    trains (evaluate.every) is watched as `watch.watch_for` says.
    """
    from ..cache.manifest import Manifest
    from ..train.recipe import list_recipes, load_recipe

    paths = layout.choose_dataset(dataset)
    if recipe is None:
        own = OWN_RECIPES.get(paths.name, paths.name)
        recipe = own if own in list_recipes() else "weaksvr-corrected"
    resolved = load_recipe(recipe, list(overrides))
    out = layout.run(run or f"{paths.name}-{resolved.name}")
    from ..train import fit  # brings torch: after what needs no wait
    from .watch import watch_for

    manifest = Manifest.read(paths.manifest).without_truth()
    result = fit(
        resolved,
        paths.features,
        manifest,
        out.folder,
        watch=watch_for(resolved, paths.features, manifest, device),
        resume=resume,
        device=device,
        progress=progress,
        overwrite=overwrite,
    )
    record(out.source, dataset=paths.name)
    return out, result


def default_split(manifest: Manifest) -> str:
    """ "test" where the manifest has such rows, else "all"."""
    return "test" if any(row.split == "test" for row in manifest) else "all"


def eval_stage(
    layout: Layout,
    dataset: str | None = None,
    run: str | None = None,
    split: str | None = None,
    *,
    checkpoint: str | None = None,
    every_table: bool = False,
    device: str = "auto",
    report: bool = True,
    progress: bool = True,
) -> tuple[RunPaths, Results]:
    """Stage three: a run beside its controls; writes results.json, results.md and report.html.

    `checkpoint`: the run's own, last, best-val, best-on-test or a step (`evaluate.selection`); one that is
    asked for by name gets files of its own. `every_table`: those that are made for other methods, too. The
    linear probe's lists are those of `data/<name>/extra.json`.
    """
    from ..cache.manifest import Manifest
    from ..cache.store import FeatureStore

    paths, chosen = layout.choose_both(dataset, run)
    from ..evaluate import evaluate, write_report  # brings torch: after what needs no wait
    from .stills import stills

    manifest = Manifest.read(paths.manifest)
    results = evaluate(
        chosen.folder,
        paths.features,
        manifest,
        split or default_split(manifest),
        checkpoint=checkpoint or "selected",
        transfer=_transfer_lists(paths),
        frames=True if every_table else None,
        sequences=True if every_table else None,
        device=device,
        progress=progress,
    )
    if results.split in ("all", "train"):
        results.notes.append(
            f"split '{results.split}' holds videos that were trained on: "
            "this says how well the model fits them, not how it does on others"
        )
    results.save(chosen.folder)
    if report:
        with FeatureStore.open(paths.features) as store:
            write_report(chosen.folder, results, store, manifest, stills=stills)
    return chosen, results


def _transfer_lists(paths: DatasetPaths) -> dict[str, str]:
    """Video id -> "train" or "test" of the linear probe, where the release has such lists."""
    extra = read_json(paths.extra) if paths.extra.is_file() else {}
    known = {video_id: about for video_id, about in extra.items() if isinstance(about, dict)}
    return {video_id: str(about["transfer"]) for video_id, about in known.items() if "transfer" in about}


def _name_from(manifest: str | os.PathLike[str]) -> str:
    stem = Path(manifest).stem
    return (
        "".join(c if c.isascii() and (c.isalnum() or c in "._+-") else "-" for c in stem).strip(".-_+")
        or "mine"
    )


def settings_of(paths: DatasetPaths, dataset: str | None, given: dict[str, Any]) -> dict[str, Any]:
    """The options of this extraction: those given, else those of the last one, else the defaults."""
    from ..extract.encoders import NAMES

    encoder_names = {"embedded", *NAMES}
    kept: dict[str, Any] = read_json(paths.settings) if paths.settings.is_file() else {}
    kept = {key: kept.get(key, value) for key, value in DEFAULTS.items()} | {"dataset": kept.get("dataset")}
    if any(key in given for key in SAMPLING):
        kept |= dict.fromkeys(SAMPLING)
    for key in ("videos", "annotations", "manifest", "encoder"):
        if key in given:
            value = os.path.expanduser(str(given[key]))
            is_name = key == "encoder" and (value in encoder_names or not os.path.exists(value))
            given = {**given, key: value if is_name else os.path.abspath(value)}
    return kept | given | {"dataset": dataset or kept["dataset"]}


def sampling_of(settings: dict[str, Any]) -> Any:
    from ..extract.decoders import Sampling

    given = {key: settings[key] for key in SAMPLING if settings[key] is not None}
    if len(given) > 1:
        raise StepclipError(
            f"{' and '.join('--' + key for key in given)} together",
            "one of " + ", ".join("--" + key for key in SAMPLING),
        )
    if str(given.get("weaksvr", "")).isdecimal():
        given["weaksvr"] = int(given["weaksvr"])
    return Sampling(**{**dict.fromkeys(SAMPLING), **given}) if given else Sampling()


def _load(layout: Layout, paths: DatasetPaths, settings: dict[str, Any]) -> Loaded:
    """The manifest of a dataset, from the user's file, its adapter, or what an earlier extraction kept."""
    from ..extract.datasets import DATASETS, load_dataset

    dataset = settings["dataset"] or paths.name
    if settings["manifest"] is not None:
        loaded = load_dataset("manifest", annotations=settings["manifest"])
    elif dataset in DATASETS:
        videos = settings["videos"]
        if dataset == "benchlab" and videos is None:
            videos = str(paths.folder)
        loaded = load_dataset(dataset, videos, settings["annotations"])
    elif paths.name in layout.datasets():
        loaded = load_dataset("manifest", annotations=paths.manifest)
    else:
        raise StepclipError(
            f"no dataset {dataset!r}{nearest(dataset, DATASETS)}",
            f"a known one ({', '.join(DATASETS)}), or --manifest FILE with your own videos",
            f"stepclip extract --dataset {dataset} --manifest videos.csv",
        )
    return loaded


def _refuse_another_way(paths: DatasetPaths, asked: Fingerprint) -> None:
    """One cache holds features made in one way; the difference, and how to keep both, where it is another."""
    from ..cache.store import FeatureStore

    if not (paths.features / "cache.json").exists():
        return
    with FeatureStore.open(paths.features) as store:
        if store.fingerprint != asked:
            raise StepclipError(
                f"the features of {paths.name!r} were made in another way than is asked for now:\n"
                + store.fingerprint.table(asked, "there", "asked"),
                "one way of making all features of a dataset",
                f"the same with --name {paths.name}-2, to keep both; {paths.features} is unchanged",
            )


def _refuse_other_videos(paths: DatasetPaths, loaded: Manifest) -> None:
    """A cache knows videos by id: the same id must not come to mean another file or another part of it."""
    from ..cache.manifest import Manifest

    if not paths.manifest.exists() or not (paths.features / "cache.json").exists():
        return
    before = {row.video_id: row for row in Manifest.read(paths.manifest)}
    for row in loaded:
        old = before.get(row.video_id)
        if old and (Path(old.path).name, old.start, old.end) != (Path(row.path).name, row.start, row.end):
            raise StepclipError(
                f"dataset {paths.name!r} already holds another video under the id {row.video_id!r}:\n"
                f"  there: {old.path} ({_part(old)})\n  now:   {row.path} ({_part(row)})",
                "the same ids for the same videos",
                "give the new ones a dataset of their own, with --name",
            )


def _part(row: Any) -> str:
    return "whole" if row.start is None and row.end is None else f"{row.start or 0:g} to {row.end or 'end'} s"
