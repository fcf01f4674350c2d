"""`stepclip cache ...`: state, trust, upkeep, other formats. Heavy imports wait for a command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..cache.errors import StepclipError
from .options import HERE, Dataset, Device, Quiet, Root, console, layout_of

cache_app = typer.Typer(help="The feature cache of a dataset.", no_args_is_help=True)

AsJson = Annotated[bool, typer.Option("--json", help="JSON instead of a table.")]


@cache_app.command("status")
def status(dataset: Dataset = None, as_json: AsJson = False, root: Root = HERE) -> None:
    """Done, failed and why, missing, stale, damaged. Exit code 1 when anything is not there."""
    from .status import cache_status

    found = cache_status(layout_of(root).choose_dataset(dataset))
    _show(found.to_dict() if as_json else found)
    if not found.whole:
        raise typer.Exit(1)


@cache_app.command("verify")
def verify_(
    dataset: Dataset = None,
    deep: Annotated[
        bool, typer.Option("--deep", help="Also decode and encode random frames again, and compare.")
    ] = False,
    frames: Annotated[int, typer.Option(min=1, help="How many, with --deep.")] = 32,
    tolerance: Annotated[float, typer.Option(help="With --deep: the largest 1 - cosine allowed.")] = 1e-3,
    seed: Annotated[int, typer.Option(min=0, help="With --deep: which frames.")] = 0,
    encoder: Annotated[
        str | None,
        typer.Option(help="With --deep: where the encoder's weights are now.", show_default="as extracted"),
    ] = None,
    root: Root = HERE,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Read every byte against its checksum and name every fault. Exit code 1 when there is one."""
    from ..cache.upkeep.verify import verify

    paths = layout_of(root).choose_dataset(dataset)
    report = verify(paths.features, progress=not quiet)
    _show(report)
    good = report.ok
    if deep:
        from .caches import recheck_stage

        again = recheck_stage(
            paths, frames, seed=seed, tolerance=tolerance, encoder=encoder, device=device, progress=not quiet
        )
        _show(again)
        good = good and again.ok
    if not good:
        raise typer.Exit(1)


@cache_app.command("repair")
def repair_(
    dataset: Dataset = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False,
    root: Root = HERE,
    quiet: Quiet = False,
) -> None:
    """Save every whole video of damaged shards; put what is damaged aside, in features/damaged/.

    Nothing is deleted. Exit code 1 when videos are lost, which `stepclip extract` does again.
    """
    from ..cache.upkeep.repair import repair

    report = repair(layout_of(root).choose_dataset(dataset).features, progress=not quiet, dry_run=dry_run)
    _show(report)
    if report.lost:
        raise typer.Exit(1)


@cache_app.command("merge")
def merge_(
    sources: Annotated[
        list[str], typer.Argument(help="Datasets by name, or folders data/NAME of other roots.")
    ],
    into: Annotated[str, typer.Option("--into", help="The dataset to make, or to add to.")],
    root: Root = HERE,
    quiet: Quiet = False,
) -> None:
    """Caches that were made in one way, on several machines, say, become one, with their manifests."""
    from .caches import merge_stage

    paths, report = merge_stage(layout_of(root), sources, into, progress=not quiet)
    _show(report)
    console().print(f"features: {paths.features}", markup=False, highlight=False)
    if not report.ok:
        raise typer.Exit(1)


@cache_app.command("compact")
def compact_(dataset: Dataset = None, root: Root = HERE, quiet: Quiet = False) -> None:
    """Small shards become big ones; what was replaced by newer features goes. Safe while others read."""
    from ..cache.upkeep.merge import compact

    report = compact(layout_of(root).choose_dataset(dataset).features, progress=not quiet)
    _show(report)
    if not report.ok:
        raise typer.Exit(1)


@cache_app.command("import")
def import_(
    source: Annotated[str, typer.Argument(help="A folder of one file per video, or one file of all.")],
    dataset: Annotated[str, typer.Option("--dataset", help="The dataset to make, or to add to.")],
    manifest: Annotated[
        Path | None, typer.Option(help="Your own CSV, TSV, JSONL or Parquet of video,steps.")
    ] = None,
    fps: Annotated[
        float | None, typer.Option(help="Features per second, where the files have no times.")
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(help="What made the features, for the fingerprint.", show_default="the source's name"),
    ] = None,
    encoder: Annotated[
        str | None,
        typer.Option(help="Encodes the steps and paragraphs; its features may have another dimension."),
    ] = None,
    texts: Annotated[
        Path | None, typer.Option(help="Or: a file of their features, `strings` and `features`.")
    ] = None,
    dtype: Annotated[str, typer.Option(help="float16 or float32.")] = "float16",
    transposed: Annotated[bool, typer.Option("--transposed", help="The arrays are (D, T).")] = False,
    zero_rows: Annotated[
        str, typer.Option(help="Of a video with all-zero rows: refuse it, or drop them.")
    ] = "refuse",
    labels: Annotated[Path | None, typer.Option(help="A folder of VIDEO_ID.txt, a label per frame.")] = None,
    label_names: Annotated[
        str | None, typer.Option(help="Names of labels: a file, or a list by commas, from 0.")
    ] = None,
    background: Annotated[
        list[str] | None, typer.Option(help="A label that is in no step. May be repeated.", show_default="0")
    ] = None,
    no_background: Annotated[
        bool, typer.Option("--no-background", help="Every label is a step, the background too.")
    ] = False,
    prefix: Annotated[str | None, typer.Option(help="Only what lies below it in one file.")] = None,
    pattern: Annotated[
        str | None, typer.Option(help="Which files of a folder; its * is the video id.")
    ] = None,
    features_key: Annotated[str | None, typer.Option(help="What the features are called.")] = None,
    times_key: Annotated[str | None, typer.Option(help="What their times are called.")] = None,
    labels_key: Annotated[str | None, typer.Option(help="What the frame labels are called.")] = None,
    split: Annotated[int | None, typer.Option(min=1, help="Which released split, of gtea.")] = None,
    root: Root = HERE,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Your own features (S3D, DINOv2, ...): npy, npz, pt, safetensors, HDF5, or an earlier export."""
    from .caches import import_stage

    if background and no_background:
        raise StepclipError("--background and --no-background", "one of them")
    named = label_names if label_names is None or Path(label_names).is_file() else label_names.split(",")
    paths, report = import_stage(
        layout_of(root),
        source,
        dataset,
        split=split,
        encoder=encoder,
        device=device,
        progress=not quiet,
        manifest=manifest,
        fps=fps,
        name=name,
        texts=texts,
        dtype=dtype,
        transposed=transposed,
        zero_rows=zero_rows,
        labels=labels,
        label_names=named,
        background=[] if no_background else background or None,
        prefix=prefix,
        pattern=pattern,
        features_key=features_key,
        times_key=times_key,
        labels_key=labels_key,
    )
    _show(report)
    console().print(f"features: {paths.features}", markup=False, highlight=False)


@cache_app.command("export")
def export_(
    out: Annotated[str, typer.Argument(help="The folder to make.")],
    dataset: Dataset = None,
    format_: Annotated[
        str, typer.Option("--format", help="npy, safetensors, parquet or webdataset.")
    ] = "npy",
    split: Annotated[str | None, typer.Option(help="train, val or test.", show_default="all videos")] = None,
    dtype: Annotated[str | None, typer.Option(help="float16 or float32.", show_default="the cache's")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier export.")] = False,
    root: Root = HERE,
    quiet: Quiet = False,
) -> None:
    """The features, times, texts and manifest as files that other tools read; `import` takes them back."""
    from .caches import export_stage

    paths = layout_of(root).choose_dataset(dataset)
    _show(
        export_stage(paths, out, format_, split=split, dtype=dtype, overwrite=overwrite, progress=not quiet)
    )


def _show(report: Any) -> None:
    if isinstance(report, dict):
        import json

        typer.echo(json.dumps(report, indent=2, ensure_ascii=False))
    else:
        console().print(report)
