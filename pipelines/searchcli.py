"""`stepclip search` and `stepclip index`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..cache.errors import StepclipError
from .options import HERE, Dataset, Device, Quiet, Root, Run, console, layout_of, told

if TYPE_CHECKING:
    from rich.console import Group

    from ..evaluate.search import Answer

index_app = typer.Typer(help="The search index of a run.", no_args_is_help=True)
Split = Annotated[str | None, typer.Option(help="train, val or test.", show_default="all videos")]


def search(
    text: Annotated[
        str | None, typer.Argument(help='What happens: "pour the blue liquid into the beaker".')
    ] = None,
    steps: Annotated[
        Path | None,
        typer.Option("--steps", help="Or: a whole script, a file of a step per line; order counts."),
    ] = None,
    video: Annotated[
        Path | None,
        typer.Option(help="Or: the same procedure in other recordings; a file, or an indexed id."),
    ] = None,
    like: Annotated[str | None, typer.Option(help="Or: a moment like this one, VIDEO@1:23.")] = None,
    dataset: Dataset = None,
    run: Run = None,
    top: Annotated[int, typer.Option(min=1, help="How many answers.")] = 5,
    by: Annotated[
        str,
        typer.Option(
            help="Of a text. moment: somewhere; step: a step of the video's script; video: the whole video."
        ),
    ] = "moment",
    task: Annotated[str | None, typer.Option(help="Only videos of this task.")] = None,
    procedure: Annotated[str | None, typer.Option(help="Only videos of this procedure.")] = None,
    split: Annotated[str | None, typer.Option(help="Only videos of this split.")] = None,
    min_seconds: Annotated[float | None, typer.Option(min=0, help="Only videos as long or longer.")] = None,
    max_seconds: Annotated[float | None, typer.Option(min=0, help="Only videos as long or shorter.")] = None,
    index: Annotated[
        list[Path] | None,
        typer.Option("--index", help="Folders to search as one, in place of the run's own index."),
    ] = None,
    dask: Annotated[
        str | None,
        typer.Option(
            help="By dask workers that hold them: local, local:N, or a scheduler's address (tcp://...)."
        ),
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="JSON instead of a table.")] = False,
    encoder: Annotated[
        str | None, typer.Option(help="Where the encoder's weights are now.", show_default="as extracted")
    ] = None,
    root: Root = HERE,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Which video, and when. Builds the index on first use."""
    from .scripts import read_script
    from .searching import search_stage

    script = None if steps is None else read_script(steps)
    from ..evaluate.search import Filter  # brings torch: after what needs no wait

    answers = search_stage(
        layout_of(root),
        text,
        dataset,
        run,
        top,
        by,
        steps=script,
        video=video,
        like=like,
        where=Filter(task, split, procedure, min_seconds, max_seconds),
        folders=index or (),
        dask=dask,
        encoder=encoder,
        device=device,
        progress=not quiet and not json_,
    )
    if json_:
        typer.echo(json.dumps([answer.to_dict() for answer in answers], indent=2, ensure_ascii=False))
        return
    asked = text or like or (f"the script {steps}" if steps else f"the video {video}")
    console().print(answers_table(str(asked), answers))


@index_app.command("build")
def index_build(
    dataset: Dataset = None,
    run: Run = None,
    split: Split = None,
    kind: Annotated[
        str, typer.Option(help="exact, ivf, hnsw or pq; auto: exact while it fits into the memory.")
    ] = "auto",
    memory: Annotated[
        float | None,
        typer.Option(min=0, help="GiB for the vectors, with auto.", show_default="half of what is free"),
    ] = None,
    root: Root = HERE,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Build the index anew, in place of an earlier one. An approximate one prints its recall."""
    from .searching import index_stage

    size = None if memory is None else memory * 2**30
    said: list[str] = []
    with told("embedding and indexing the videos", not quiet):
        folder = index_stage(
            layout_of(root), dataset, run, split, kind=kind, memory=size, device=device, say=said.append
        )
    for line in said:
        typer.echo(line)
    typer.echo(folder)


@index_app.command("add")
def index_add(
    dataset: Dataset = None,
    run: Run = None,
    split: Split = None,
    root: Root = HERE,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Add the videos of the cache that the index lacks; nothing else is built again."""
    from .searching import add_stage

    with told("embedding and indexing the new videos", not quiet):
        folder, added = add_stage(layout_of(root), dataset, run, split, device=device)
    typer.echo(f"{len(added)} videos added to {folder}")


@index_app.command("remove")
def index_remove(
    videos: Annotated[list[str], typer.Argument(help="Ids of videos.")],
    run: Run = None,
    root: Root = HERE,
) -> None:
    """Take videos out of the index, without a rebuild."""
    from .searching import remove_stage

    folder, removed = remove_stage(layout_of(root), videos, run)
    typer.echo(f"{len(removed)} videos taken out of {folder}")
    if unknown := sorted(set(videos) - set(removed)):
        raise StepclipError(f"{len(unknown)} were not in it: {', '.join(unknown[:5])}", "ids of its videos")


def answers_table(asked: str, answers: Sequence[Answer]) -> Group:
    """Best first; below, where the steps of a script are in the best one, and the files: their paths are too
    long for a column."""
    from rich.console import Group
    from rich.text import Text

    from .inventory import clock, short_path
    from .tables import add, table

    with_step = any(answer.step for answer in answers)
    shown = table("", "score", "from", "to", "video", *(["step of its script"] if with_step else []))
    files = Text(overflow="fold")
    for place, answer in enumerate(answers, 1):
        row = (place, f"{answer.score:.3f}", clock(answer.start), clock(answer.end), answer.video_id)
        add(shown, *row, *([answer.step] if with_step else []))
        files.append(f"{place}  {short_path(answer.path)}\n")
    parts: list[Any] = [Text(f'"{asked}"', style="bold"), shown]
    if answers and answers[0].steps:
        steps = table("", f"step, in {answers[0].video_id}", "from", "to", "cosine")
        for place, step in enumerate(answers[0].steps, 1):
            span = (
                ("–", "–") if step.start is None or step.end is None else map(clock, (step.start, step.end))
            )
            add(steps, place, step.step, *span, f"{step.score:.3f}")
        parts.append(steps)
    return Group(*parts, files)
