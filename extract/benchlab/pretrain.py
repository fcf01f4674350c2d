"""Trains the embedded encoder: a small CLIP, contrastively, on frames and captions of benchlab.

Only training tasks and training people of benches with seeds from FIRST_SEED up are used, so nothing of a
user's bench (seeds below that) is ever seen. Loss: symmetric InfoNCE (CLIP, Radford et al. 2021) where equal
captions are all positives, on frames with one sentence and on groups of frames with the sentences joined into
a paragraph. Linear heads that name the caption's verb and things, and the thing in each patch, help it to
learn from few pictures and are thrown away.
"""

from __future__ import annotations

import copy
import json
import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import distributed as dist
from torch.nn import functional as f

from ...cache.errors import StepclipError
from ..encoders.base import resolve_device
from .batches import Batch, Batches
from .diary import Diary
from .examples import FORMS, IDLE, REGIONS, THINGS, Clip, descriptions, make_clips
from .procedures import TEST_TASKS, TRAIN_TASKS
from .smallclip import (
    DIM,
    features,
    load_tokenizer,
    load_weights,
    make_model,
    make_tokenizer,
    normalise,
    save_model,
)
from .vocabulary import VERBS
from .zeroshot import zero_shot

__all__ = ["Training", "pretrain", "train", "zero_shot"]
TOKENIZER = ("tokenizer.json", "tokenizer_config.json")
CHECKED = 150  # recordings for each zero-shot accuracy


@dataclass(frozen=True)
class Training:
    """How the encoder is trained; a batch has `groups` recordings of `each` frames in every process.

    It ends at `steps` or after `minutes`, whichever is first; the learning rate falls with the share that has
    passed, so `minutes` decides the result unless `steps` come first.
    """

    steps: int = 20_000
    minutes: float = 60.0
    groups: int = 192
    each: int = 8
    plain: float = 0.2  # share of captions that only tell what is there
    rate: float = 1e-3
    warm: int = 300
    seed: int = 0
    width: int = 192
    layers: int = 6
    processes: int = 1  # on a CPU: one thread each, gradients averaged
    device: str = "cpu"
    start: str = ""  # a folder of weights to go on from


class Student(torch.nn.Module):
    """The model, and heads that only help to train it: they name what is done to what, and what is where."""

    clip: Any

    def __init__(self, clip: Any, width: int) -> None:
        super().__init__()
        self.clip = clip
        self.heads = torch.nn.ModuleList(
            torch.nn.Linear(DIM, n + 1) for n in (len(VERBS), len(THINGS), len(THINGS))
        )
        self.places = torch.nn.Linear(width, REGIONS)


def augment(pictures: torch.Tensor, regions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Random crop, mirror and colour of each picture.

    (n, 3, H, W) uint8 and regions (n, 8, 8) to normalised float32 and int64, cut alike.
    """
    n, device = pictures.shape[0], pictures.device
    scale = 1 - 0.18 * torch.rand(n, device=device)
    flip = torch.where(torch.rand(n, device=device) < 0.5, -1.0, 1.0)
    theta = torch.zeros(n, 2, 3, device=device)
    theta[:, 0, 0], theta[:, 1, 1] = scale * flip, scale
    theta[:, :, 2] = (torch.rand(n, 2, device=device) - 0.5) * 2 * (1 - scale)[:, None]
    x = _warp(pictures.float().div_(255), theta, "bilinear")
    regions = _warp(regions[:, None].float(), theta, "nearest")
    gain = 1 + 0.3 * (torch.rand(n, 3, 1, 1, device=device) - 0.5)
    return normalise(x * gain), regions[:, 0].long()


def _warp(x: torch.Tensor, theta: torch.Tensor, mode: str) -> torch.Tensor:
    grid = f.affine_grid(theta, list(x.shape), align_corners=False)
    return f.grid_sample(x, grid, mode=mode, padding_mode="border", align_corners=False)


def contrast(image: torch.Tensor, text: torch.Tensor, ids: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Symmetric InfoNCE of unit rows (n, D), (n, D); rows with equal `ids` (n,) are all positives."""
    logits = scale * image @ text.T
    target = (ids[:, None] == ids[None, :]).float()
    target = target / target.sum(1, keepdim=True)
    return (
        -(target * logits.log_softmax(1)).sum(1).mean() / 2
        - (target * logits.T.log_softmax(1)).sum(1).mean() / 2
    )


def losses(
    student: Student, batch: Batch, table: torch.Tensor, how: Training, with_paragraphs: bool
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The loss of a batch, and its parts by name; `table`: tokens of the captions (see Batches)."""
    device = batch.pictures.device
    distinct, which_text = np.unique(batch.texts, return_inverse=True)
    which = torch.from_numpy(which_text).to(device)
    pixels, regions = augment(batch.pictures, batch.regions)
    clip = student.clip
    tokens = clip.vision_model(pixel_values=pixels.to(torch.bfloat16)).last_hidden_state
    tokens = clip.vision_model.post_layernorm(tokens)
    image = clip.visual_projection(tokens[:, 0])
    said = features(clip.get_text_features(input_ids=table[torch.from_numpy(distinct).to(device)]))
    scale = clip.logit_scale.float().exp().clamp(max=100)
    one = f.normalize(image.float(), dim=-1)
    captions = contrast(one, f.normalize(said.float(), dim=-1)[which], which, scale)
    heads = zip(student.heads, batch.names.T, strict=True)
    names = torch.stack([f.cross_entropy(head(image).float(), truth) for head, truth in heads]).sum()
    # patches where nothing is are most: one in ten is enough
    told = (regions < REGIONS - 1) | (torch.rand(regions.shape, device=device) < 0.1)
    seen = f.cross_entropy(student.places(tokens[:, 1:][told.flatten(1)]).float(), regions[told])
    loss = captions + 0.5 * names + seen
    if with_paragraphs:
        scripts = features(clip.get_text_features(input_ids=batch.paragraphs))
        many = f.normalize(one.view(how.groups, how.each, -1).mean(1), dim=-1)
        group = torch.arange(how.groups, device=device)
        loss = loss + 0.5 * contrast(many, f.normalize(scripts.float(), dim=-1), group, scale)
    return loss, {"captions": captions.detach(), "names": names.detach(), "regions": seen.detach()}


def train(clips: Sequence[Clip], out: Path, how: Training, *, progress: bool = True) -> None:
    """Trains the encoder and saves it to `out` as a transformers CLIP folder, in half precision.

    Files of that name in `out` are replaced; `train.jsonl` keeps the losses. Repeatable for a seed where
    `steps`, not `minutes`, end it. Raises StepclipError where `how.start` is no encoder of the same shape, or
    several processes are asked for on a GPU.
    """
    check(how)
    out.mkdir(parents=True, exist_ok=True)
    if how.start:
        for name in TOKENIZER:
            (out / name).write_bytes((Path(how.start) / name).read_bytes())
    else:
        make_tokenizer(_words(clips, how.seed), out)
    if how.processes == 1:
        _train_rank(0, clips, out, how, "", progress)
        return
    from torch.multiprocessing.spawn import spawn

    meeting = out / "meeting"
    meeting.unlink(missing_ok=True)
    try:
        spawn(_train_rank, (clips, out, how, meeting.absolute().as_uri(), progress), nprocs=how.processes)
    finally:
        meeting.unlink(missing_ok=True)


def check(how: Training) -> None:
    """Raises StepclipError unless training can be done so, from `how.start` on where it is given."""
    if how.processes > 1 and how.device != "cpu":
        raise StepclipError(
            f"{how.processes} processes on {how.device}", "one process on a GPU", "--device cpu"
        )
    if not how.start:
        return
    folder = Path(how.start)
    for name in (*TOKENIZER, "model.safetensors"):
        if not (folder / name).is_file():
            raise StepclipError(f"no {name} in {folder}", "an encoder that `stepclip encoder train` made")
    tokenizer = load_tokenizer(folder)
    load_weights(make_model(len(tokenizer), tokenizer.eos_token_id, how.width, how.layers), folder)


def _words(clips: Sequence[Clip], seed: int) -> list[str]:
    """The texts that the tokenizer is made from."""
    rng = np.random.default_rng(seed)
    words = [c.task.sentence(s, form) for c in clips for s in c.task.scripts[4] for form in range(FORMS)]
    words += [d for c in clips for d in descriptions(c.task, rng, 1)] + list(IDLE)
    return [*words, "a video of", "liquid, water, solution", "first, then, after that, finally"]


def _train_rank(
    rank: int, clips: Sequence[Clip], out: Path, how: Training, meeting: str, progress: bool
) -> None:
    """One process: bfloat16 weights compute, float32 ones are stepped with the mean gradient of all."""
    if meeting:
        torch.set_num_threads(1)
        dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=how.processes)
    torch.manual_seed(how.seed)
    tokenizer = load_tokenizer(out)
    clip = make_model(len(tokenizer), tokenizer.eos_token_id, how.width, how.layers)
    if how.start:
        load_weights(clip, Path(how.start))
    master = Student(clip, how.width).to(how.device)
    low = copy.deepcopy(master).to(torch.bfloat16)
    slow, fast = list(master.parameters()), list(low.parameters())
    gradients = [torch.zeros_like(p) for p in slow]
    for p, gradient in zip(slow, gradients, strict=True):
        p.grad = gradient
    optimiser = torch.optim.AdamW(slow, lr=how.rate, weight_decay=0.1, betas=(0.9, 0.98))
    batches = Batches(clips, tokenizer, how.device, how.seed * 1000 + rank)
    torch.manual_seed(how.seed * 1000 + rank)
    frames = how.groups * how.each * how.processes
    clock, step = time.monotonic(), 0
    with Diary(out / "train.jsonl" if rank == 0 else None, frames, progress) as diary:
        while True:
            share = torch.tensor(max(step / how.steps, (time.monotonic() - clock) / 60 / how.minutes))
            if meeting:
                dist.all_reduce(share, dist.ReduceOp.MAX)
            if float(share) >= 1:
                break
            for g in optimiser.param_groups:
                falling = 0.5 * (1 + np.cos(np.pi * float(share))) + 0.01
                g["lr"] = how.rate * min(1.0, (step + 1) / how.warm) * falling
            batch = batches.draw(how.groups, how.each, how.plain)
            loss, parts = losses(low, batch, batches.table, how, with_paragraphs=step % 3 == 0)
            low.zero_grad(set_to_none=False)
            loss.backward()
            flat = torch.cat(
                [(torch.zeros_like(p) if p.grad is None else p.grad).float().flatten() for p in fast]
            )
            if meeting:
                dist.all_reduce(flat)
            parted = flat.div_(how.processes).split([p.numel() for p in slow])
            for gradient, part in zip(gradients, parted, strict=True):
                gradient.copy_(part.view_as(gradient))
            torch.nn.utils.clip_grad_norm_(slow, 1.0)
            optimiser.step()
            with torch.no_grad():
                for p, q in zip(fast, slow, strict=True):
                    p.copy_(q)
            step += 1
            diary.write(step, float(share), parts)
    if rank == 0:
        save_model(master.clip, out)
    if meeting:
        dist.destroy_process_group()


def pretrain(
    out: str | os.PathLike[str],
    how: Training,
    *,
    clips: int = 4500,
    seeds: int = 150,
    workers: int | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> dict[str, Any]:
    """The whole run: recordings, training, zero-shot accuracy on unseen people, card.json beside the weights.

    clips: recordings to learn from (about 1 MB of memory each), spread over `seeds` benches; workers:
    rendering processes, one per core by default. The folder `out` appears when all is done; one that holds
    something is refused (StepclipError) unless `overwrite` is set. Returns what card.json says.
    """
    out = Path(out).absolute()
    if not overwrite and (out.is_file() or (out.is_dir() and any(out.iterdir()))):
        raise StepclipError(f"{out} exists", "a new folder", "another --out, or --overwrite to replace it")
    how = replace(how, device=resolve_device(how.device))
    check(how)
    part = out.with_name(out.name + ".part")
    shutil.rmtree(part, ignore_errors=True)  # of a run that was broken off
    with tempfile.TemporaryDirectory() as folder:

        def made(count: int, tasks: Sequence[int], benches: int, people: str) -> list[Clip]:
            return make_clips(
                count,
                Path(folder),
                tasks=tasks,
                seeds=benches,
                people=people,
                workers=workers or os.cpu_count() or 1,
                progress=progress,
            )

        train(made(clips, TRAIN_TASKS, seeds, "train"), part, how, progress=progress)
        card = {
            "what": "small CLIP for the synthetic bench benchlab only; it understands nothing else",
            "made by": "stepclip encoder train",
            "recordings": clips,
            "parameters": _parameters(part),
            "zero-shot, unseen people, training tasks": zero_shot(
                part, made(CHECKED, TRAIN_TASKS, 10, "test"), how.device
            ),
            "zero-shot, unseen people, unseen tasks": zero_shot(
                part, made(CHECKED, TEST_TASKS, 10, "test"), how.device
            ),
        }
    (part / "card.json").write_text(json.dumps(card, indent=1) + "\n")
    out.mkdir(parents=True, exist_ok=True)
    for file in sorted(part.iterdir()):
        os.replace(file, out / file.name)
    part.rmdir()
    return card


def _parameters(folder: Path) -> int:
    from safetensors import safe_open

    with safe_open(folder / "model.safetensors", "pt") as weights:
        names = list(weights.keys())
        return sum(int(np.prod(weights.get_slice(name).get_shape())) for name in names)
