"""The command line: a thin skin over `stages`, `inventory`, `demo`. Heavy imports wait for a command."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from ..cache.errors import StepclipError
from .aligncli import align
from .cachecli import cache_app
from .checkcli import check, compare
from .lookcli import doctor, serve
from .options import HERE, Checkpoint, Dataset, Device, Quiet, Retrying, Root, Run, console, layout_of
from .searchcli import index_app, search

app = typer.Typer(
    name="stepclip",
    help="Learn step-by-step videos from nothing but their written scripts.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
recipes_app = typer.Typer(help="The recipes of training runs.")
encoder_app = typer.Typer(help="The embedded encoder: train it anew, see what it is.", no_args_is_help=True)
app.add_typer(index_app, name="index")
app.add_typer(recipes_app, name="recipes")
app.add_typer(cache_app, name="cache")
app.add_typer(encoder_app, name="encoder")


def _version(wanted: bool) -> None:
    if wanted:
        from .. import __version__

        typer.echo(f"stepclip {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    pass


@app.command()
def demo(
    root: Root = HERE,
    people: Annotated[int, typer.Option(min=2, help="People of the synthetic bench.")] = 5,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the bench and of the training.")] = 0,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Videos to answers on the synthetic bench: render, extract, train, evaluate, search, report."""
    from .demo import run_demo

    run_demo(layout_of(root), people=people, seed=seed, device=device, progress=not quiet)


@app.command()
def benchlab(
    out: Annotated[Path, typer.Option("--out", help="The folder to make.")],
    people: Annotated[int, typer.Option(min=2, help="People who perform every procedure.")] = 5,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same videos.")] = 0,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Rendering processes; default: one per core.")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Render the synthetic bench: mp4s of laboratory procedures, their scripts, the true step times."""
    from ..extract.benchlab import make_benchlab

    manifest = make_benchlab(out, people, seed, workers=workers, progress=not quiet)
    typer.echo(f"{len(manifest)} videos, {len(manifest.pairs)} pairs in {out}")


@app.command(cls=Retrying)
def extract(
    dataset: Annotated[
        str | None, typer.Option(help="A known one (`stepclip datasets`), or a name for --manifest.")
    ] = None,
    videos: Annotated[Path | None, typer.Option(help="The folder of its videos.")] = None,
    annotations: Annotated[
        Path | None, typer.Option(help="The folder of its released annotation files.")
    ] = None,
    manifest: Annotated[
        Path | None, typer.Option(help="Your own CSV, TSV, JSONL or Parquet of video,steps.")
    ] = None,
    encoder: Annotated[
        str | None,
        typer.Option(
            help="embedded, an OpenAI name (ViT-B/16), a hub name, a folder, a .pt file.",
            show_default="embedded",
        ),
    ] = None,
    decoder: Annotated[
        str | None,
        typer.Option(help="pyav, decord, ffmpeg or torchcodec (`stepclip backends`).", show_default="pyav"),
    ] = None,
    fps: Annotated[float | None, typer.Option(help="Frames per second to keep.", show_default="4")] = None,
    frames: Annotated[int | None, typer.Option(min=1, help="Or: this many frames of each video.")] = None,
    every: Annotated[int | None, typer.Option(min=1, help="Or: every n-th frame.")] = None,
    all_: Annotated[bool, typer.Option("--all", help="Or: every frame.")] = False,
    weaksvr: Annotated[
        str | None,
        typer.Option(help="Or: WeakSVR's 16 segments: test (its 48 frames), or a number of each segment."),
    ] = None,
    views: Annotated[
        int | None,
        typer.Option(
            min=0, help="Augmented copies of every frame (crop, flip, colour), for CARL.", show_default="0"
        ),
    ] = None,
    paragraphs: Annotated[
        str | None,
        typer.Option(help="Scripts over 77 tokens: cut, sentences or chunks.", show_default="chunks"),
    ] = None,
    precision: Annotated[
        str | None, typer.Option(help="auto, fp32, bf16 or fp16.", show_default="auto")
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(help="Features as float16 or float32.", show_default="float16")
    ] = None,
    compile_: Annotated[
        bool, typer.Option("--compile", help="The encoder through torch.compile; worth it on a GPU.")
    ] = False,
    name: Annotated[
        str | None, typer.Option(help="Keep it as data/NAME; default: the dataset's name.")
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Decoding processes.")] = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Try failed videos again, but those that failed often.")
    ] = False,
    retry_failed_for: Annotated[
        list[str] | None,
        typer.Option(help="Try again those that failed for this reason; also --retry-failed=REASON."),
    ] = None,
    max_attempts: Annotated[
        int, typer.Option(min=1, help="After so many, --retry-failed leaves a video alone.")
    ] = 3,
    max_failures: Annotated[
        int | None, typer.Option(min=0, help="Stop when more videos fail than this.")
    ] = None,
    dask: Annotated[
        str | None,
        typer.Option(help="By dask workers: local, local:N, or a scheduler's address (tcp://...)."),
    ] = None,
    root: Root = HERE,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Stage 1: videos and scripts to a feature cache. Run it again to go on where it stopped.

    Options not given are those of the last extraction of the same name. A video that cannot be read is
    listed with its reason and the rest goes on; it is tried again when its file changes or --retry-failed
    says so. The exit code is 2 only when not one could be read. Several GPUs: --device cuda:0,cuda:1, a
    process each.
    """
    from ..extract.todo import Retry
    from .stages import extract_stage

    done = extract_stage(
        layout_of(root),
        dataset,
        name,
        device=device,
        workers=workers,
        progress=not quiet,
        retry=Retry(retry_failed, tuple(retry_failed_for or ()), max_attempts),
        max_failures=max_failures,
        compile=compile_,
        dask=dask,
        videos=videos,
        annotations=annotations,
        manifest=manifest,
        encoder=encoder,
        decoder=decoder,
        fps=fps,
        frames=frames,
        every=every,
        all=all_ or None,
        weaksvr=weaksvr,
        views=views,
        paragraphs=paragraphs,
        precision=precision,
        dtype=dtype,
    )
    out = console()
    for note in done.notes:
        out.print(f"note: {note}", markup=False, highlight=False)
    out.print(done.report)
    if done.missing:
        out.print(
            f"{len(done.missing)} videos of the annotations were not found: {done.paths.missing}",
            markup=False,
        )
    out.print(f"features: {done.paths.features}", markup=False, highlight=False)
    if not done.report.done + done.report.skipped:
        raise StepclipError(
            f"not one of {done.report.inputs} videos could be read; the table above says why",
            "videos that decode, where the manifest says they are",
        )


@app.command()
def train(
    dataset: Dataset = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            help="A name (`stepclip recipes`) or a YAML file.",
            show_default="the dataset's own, else weaksvr-corrected",
        ),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="Overrides a knob: --set optim.lr=1e-4. May be repeated."),
    ] = None,
    run: Annotated[
        str | None, typer.Option(help="Keep it as runs/RUN.", show_default="DATASET-RECIPE")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Makes the run repeatable; over the recipe's.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from its last checkpoint.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a run of that name.")] = False,
    root: Root = HERE,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Stage 2: train a recipe on the cached features of a dataset's training split."""
    from .stages import train_stage

    overrides = list(set_ or []) + ([] if seed is None else [f"seed={seed}"])
    _, result = train_stage(
        layout_of(root),
        dataset,
        recipe,
        run,
        overrides,
        resume=resume,
        overwrite=overwrite,
        device=device,
        progress=not quiet,
    )
    if os.environ.get("RANK", "0") == "0":  # of torchrun's processes the first speaks
        console().print(str(result), markup=False, highlight=False)


@app.command(name="eval")
def eval_(
    dataset: Dataset = None,
    run: Run = None,
    split: Annotated[
        str | None,
        typer.Option(help="train, val, test or all.", show_default="test; all where there are no splits"),
    ] = None,
    checkpoint: Checkpoint = None,
    every_table: Annotated[
        bool,
        typer.Option(
            "--every-table", help="Those of the other methods too: frames, whole videos, few shots."
        ),
    ] = False,
    root: Root = HERE,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Stage 3: a run against its controls: verification, retrieval, step localisation, and an HTML report.

    A checkpoint that is asked for by name gets files of its own: results-best-val.json, and so on. One that
    was chosen on the split it is reported on is marked in every table.
    """
    from .stages import eval_stage

    paths, results = eval_stage(
        layout_of(root), dataset, run, split,
        checkpoint=checkpoint, every_table=every_table, device=device, progress=not quiet,
    )  # fmt: skip
    out = console()
    results.print(out)
    names = ", ".join((results.file(".json"), results.file(".md"), results.file(".html", "report")))
    out.print(f"saved in {paths.folder}: {names}", markup=False, highlight=False)


@app.command()
def report(
    dataset: Dataset = None,
    run: Run = None,
    split: Annotated[str | None, typer.Option(help="train, val, test or all.")] = None,
    checkpoint: Checkpoint = None,
    root: Root = HERE,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Evaluate and write runs/RUN/report.html: tables, curves, timelines in one file."""
    from .stages import eval_stage

    paths, results = eval_stage(
        layout_of(root), dataset, run, split, checkpoint=checkpoint, device=device, progress=not quiet
    )
    typer.echo(paths.folder / results.file(".html", "report"))


app.command()(search)
app.command()(check)
app.command()(compare)
app.command()(align)
app.command()(serve)
app.command()(doctor)


@recipes_app.callback(invoke_without_command=True)
def recipes(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        recipes_list()


@recipes_app.command("list")
def recipes_list() -> None:
    """The recipes that come with StepCLIP."""
    from .inventory import recipes_table

    console().print(recipes_table())


@recipes_app.command("show")
def recipes_show(
    name: Annotated[str, typer.Argument(help="A name or a YAML file.")],
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Overrides a knob. May be repeated.")
    ] = None,
) -> None:
    """A recipe with every knob and the reason beside it."""
    from ..train import load_recipe

    typer.echo(str(load_recipe(name, list(set_ or []))), nl=False)


@app.command()
def backends() -> None:
    """The decoders: which are usable here, and how to install the rest."""
    from .inventory import backends_table

    console().print(backends_table())


@app.command()
def datasets(
    name: Annotated[
        str | None,
        typer.Argument(help="All of one: sources, layout, splits, pairs, checks, known faults."),
    ] = None,
    root: Root = HERE,
) -> None:
    """The datasets StepCLIP can read, and of those under this root what is present and what is missing."""
    from .inventory import datasets_table

    if name is not None:
        from ..extract.datasets import describe

        typer.echo(describe(name))
        return
    console().print(datasets_table(layout_of(root)))


@encoder_app.command("train")
def encoder_train(
    out: Annotated[Path, typer.Option("--out", help="The folder to make: a transformers CLIP folder.")],
    clips: Annotated[int, typer.Option(min=1, help="Recordings to render and learn from, 1 MB each.")] = 4500,
    minutes: Annotated[float, typer.Option(min=0.01, help="Ends after these minutes of training.")] = 60.0,
    steps: Annotated[int, typer.Option(min=1, help="Or after these steps, if they are done first.")] = 20_000,
    processes: Annotated[int, typer.Option(min=1, help="Training processes, on a CPU.")] = 1,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Rendering processes; default: one per core.")
    ] = None,
    start: Annotated[Path | None, typer.Option(help="An encoder's folder, to go on from.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the training.")] = 0,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the encoder in that folder.")
    ] = False,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Train the small CLIP that comes with StepCLIP, on recordings of the bench; `--encoder DIR` uses it."""
    from ..extract.benchlab.pretrain import Training, pretrain
    from .inventory import card_table

    how = Training(
        steps=steps,
        minutes=minutes,
        processes=processes,
        start=str(start.expanduser()) if start else "",
        seed=seed,
        device=device,
    )
    pretrain(out, how, clips=clips, workers=workers, overwrite=overwrite, progress=not quiet)
    console().print(card_table(str(out)))


@encoder_app.command("card")
def encoder_card(
    name: Annotated[str, typer.Argument(help="embedded, or the folder of one.")] = "embedded",
) -> None:
    """What an encoder is, what it was trained on, and its zero-shot accuracy."""
    from .inventory import card_table

    console().print(card_table(name))


def main() -> int:
    """The entry point: exit code 0, 2 for bad input (message on stderr, no traceback), 130 for Ctrl-C.

    STEPCLIP_DEBUG=1 shows the traceback.
    """
    try:
        app(prog_name="stepclip")
    except KeyboardInterrupt:
        return 130
    except (StepclipError, OSError) as error:
        if os.environ.get("STEPCLIP_DEBUG", "") not in ("", "0"):
            raise
        message = (
            str(error)
            if isinstance(error, StepclipError)
            else f"{error.strerror or error}: {error.filename or ''}"
        )
        print(f"stepclip: {message}", file=sys.stderr)
        return 2
    return 0
