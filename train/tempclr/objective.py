"""What a step of TempCLR minimises: units against sentences, sequences against re-ordered ones."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..alignment import cost_matrix
from ..losses import (
    reordered,
    sequence_contrast_loss,
    sequence_distance,
    step_naming_loss,
    unit_contrast_loss,
)
from .data import Units
from .knobs import TempCLRLoss
from .model import ClipModel
from .orders import draw_orders, listable, listed_orders


class Matrices(NamedTuple):
    """`own` (V, L, N) costs of each video and its script; `every` (V, V, L, N) of all scripts against all
    videos, video first, where they are asked for; `rows`, `columns` (V,) what is real of them; `words` (V, L)
    the sentences; `segments` (V, N) which of them a column belongs to; `counts` (V,) bool, which videos take
    part; `listed`: rows and columns correspond one to one."""

    own: Tensor
    every: Tensor | None
    rows: Tensor
    columns: Tensor
    words: Tensor
    segments: Tensor
    counts: Tensor
    listed: bool


def loss_terms(
    model: ClipModel,
    windows: Tensor,
    texts: Tensor,
    units: Units,
    config: TempCLRLoss,
    kind: str,
    weights: Tensor,
) -> dict[str, Tensor]:
    """All terms of a step and their weighted sum under "loss": `windows` (V, P, E), `texts` (V, S, E) of the
    whole step, float32. `kind`: `data.units`; `weights` (4,) of the terms unit, naming, sequence, videos."""
    terms: dict[str, Tensor] = {}
    if config.unit:
        terms["unit"] = unit_term(model, windows, texts, units, config)
    if config.naming:
        logits = model.scale * (_unit(windows) @ _unit(texts).mT)
        terms["naming"] = step_naming_loss(logits, units.step, units.there, units.steps)
    if config.sequence:
        matrices = (_drawn if kind == "drawn" else _whole)(windows, texts, units, config)
        terms["sequence"] = sequence_term(matrices, units.procedures, config, model.tau)
    if config.videos:
        terms["videos"] = video_term(windows, units, config, model.tau)
    weighed = dict(zip(("unit", "naming", "sequence", "videos"), weights, strict=True))
    total = torch.stack([weighed[name] * term for name, term in terms.items()]).sum()
    return {"loss": total, **terms}


def _unit(x: Tensor) -> Tensor:
    return torch.nn.functional.normalize(x, dim=-1)


def unit_term(model: ClipModel, windows: Tensor, texts: Tensor, units: Units, config: TempCLRLoss) -> Tensor:
    """Each window with the sentence it shows, as one pair, against all other pairs of the step."""
    video = torch.arange(len(windows), device=windows.device)[:, None]
    there, words = units.there.flatten(), units.words.gather(1, units.step).flatten()
    paired = texts[video, units.step].flatten(0, 1)
    unused = torch.zeros(len(words), len(words), dtype=torch.bool, device=words.device)
    if config.same == "unused":
        unused = words[:, None] == words
    if config.against == "video":
        owner = video.expand(units.step.shape).flatten()
        unused = unused | (owner[:, None] != owner)
    return unit_contrast_loss(
        windows.flatten(0, 1),
        paired,
        None if config.unit_form == "dot" else model.scale,
        unused=unused,
        real=there,
    )


def sequence_term(m: Matrices, procedures: Tensor, config: TempCLRLoss, tau: Tensor) -> Tensor:
    """Each video's own script among its re-ordered forms and, with `rivals`, the other scripts of the
    step."""
    spread = _spread(m.own, m.rows, m.columns, m.counts) if config.standardise else 1.0
    own = m.own / spread
    wrong, real = _reordered(own, m, config)
    right = _distance(own, m.rows, m.columns, config)
    if m.every is None:
        return sequence_contrast_loss(right, wrong, tau, real=real, counts=m.counts)
    pairs = m.every.shape[:2]
    rows, columns = m.rows[None].expand(pairs), m.columns[:, None].expand(pairs)
    every = _distance(m.every / spread, rows, columns, config)
    other = (procedures[:, None] != procedures) & m.counts
    wrong, real = torch.cat([wrong, every], 1), torch.cat([real, other], 1)
    asked = sequence_contrast_loss(right, wrong, tau, real=real, counts=m.counts)
    # a script asks for its video likewise
    return (asked + sequence_contrast_loss(right, every.mT, tau, real=other, counts=m.counts)) / 2


def _reordered(own: Tensor, m: Matrices, config: TempCLRLoss) -> tuple[Tensor, Tensor]:
    """Distances (V, M) of the re-ordered matrices, and which there are."""
    place = torch.arange(own.shape[1], device=own.device).expand(len(own), -1)
    rows = columns = None
    real = torch.zeros((), dtype=torch.bool, device=own.device)
    if m.listed and listable(own.shape[1]) and not config.adjacent and config.side != "both":
        # as released: without replacement, out of all orders
        found = listed_orders(len(own), own.shape[1], config.negatives, own.device)
        rows, columns = (found.places, None) if config.side == "text" else (None, found.places)
        real = found.real
    else:
        if config.side != "video":
            found = draw_orders(place, m.rows, config.negatives, adjacent=config.adjacent, content=m.words)
            rows, real = found.places, real | found.real
        if config.side != "text":
            content = None if config.granularity != "segments" else m.words.gather(1, m.segments)
            found = draw_orders(
                m.segments, m.columns, config.negatives, config.granularity,
                adjacent=config.adjacent, content=content,
            )  # fmt: skip
            columns, real = found.places, real | found.real
    changed = reordered(own, rows, columns)
    shape = changed.shape[:2]
    return _distance(changed, m.rows[:, None].expand(shape), m.columns[:, None].expand(shape), config), real


def video_term(windows: Tensor, units: Units, config: TempCLRLoss, tau: Tensor) -> Tensor:
    """The video-video form (`methods/tempclr.md` 4): a video of the same procedure among its own re-ordered
    forms and the videos of other procedures. Videos without a second one of their procedure in the step take
    no part."""
    video = torch.arange(len(windows), device=windows.device)
    count = units.there.sum(1)
    same = (units.procedures[:, None] == units.procedures) & (video[:, None] != video)
    partner = (same * torch.rand(same.shape, device=same.device)).argmax(1)
    cost = cost_matrix(windows[None], windows[:, None], config.cost)  # rows: the other, columns: the video
    if config.standardise:
        cost = cost / _spread(cost[video, partner], count[partner], count, same.any(1))
    pairs = cost.shape[:2]
    every = _distance(cost, count[None].expand(pairs), count[:, None].expand(pairs), config)
    rows = count[partner]
    orders = draw_orders(
        units.step[partner], rows, config.negatives, config.granularity, adjacent=config.adjacent
    )
    changed = reordered(cost[video, partner], rows=orders.places)
    shape = changed.shape[:2]
    wrong = _distance(changed, rows[:, None].expand(shape), count[:, None].expand(shape), config)
    other = units.procedures[:, None] != units.procedures
    return sequence_contrast_loss(
        every[video, partner], torch.cat([wrong, every], 1), tau,
        real=torch.cat([orders.real, other], 1), counts=same.any(1),
    )  # fmt: skip


def _distance(cost: Tensor, rows: Tensor, columns: Tensor, config: TempCLRLoss) -> Tensor:
    return sequence_distance(cost, (rows, columns), config.distance, config.gamma, config.normalise)


def _spread(cost: Tensor, rows: Tensor, columns: Tensor, counts: Tensor) -> Tensor:
    """Standard deviation of the real costs of (V, L, N): divided by it, softness and temperature are in its
    units."""
    cost = cost.detach()
    inside = (torch.arange(cost.shape[1], device=cost.device) < rows[:, None])[..., None]
    inside = inside & (torch.arange(cost.shape[2], device=cost.device) < columns[:, None])[:, None]
    inside = inside & counts[:, None, None]
    total = inside.sum().clamp(min=1)
    mean = torch.where(inside, cost, 0.0).sum() / total
    spread = (torch.where(inside, cost - mean, 0.0).square().sum() / total).sqrt()
    return spread.clamp(min=1e-4)


# ---- which matrices


def _costs(texts: Tensor, windows: Tensor, config: TempCLRLoss) -> tuple[Tensor, Tensor | None]:
    if not config.rivals:
        return cost_matrix(texts, windows, config.cost), None
    every = cost_matrix(texts[None], windows[:, None], config.cost)
    video = torch.arange(len(every), device=every.device)
    return every[video, video], every


def _whole(windows: Tensor, texts: Tensor, units: Units, config: TempCLRLoss) -> Matrices:
    """The whole script against all windows of the video."""
    columns, counts = units.there.sum(1), units.steps > 1
    costs = _costs(texts, windows, config)
    return Matrices(*costs, units.steps, columns, units.words, units.step, counts, listed=False)


def _drawn(windows: Tensor, texts: Tensor, units: Units, config: TempCLRLoss) -> Matrices:
    """`length` pairs of each video that do not overlap, one window for each sentence (`methods/tempclr.md`
    2.2)."""
    video = torch.arange(len(windows), device=windows.device)[:, None]
    chosen, counts = apart(units, config.length, config.strict)
    step = units.step.gather(1, chosen)
    costs = _costs(texts[video, step], windows[video, chosen], config)
    size = torch.full_like(units.steps, config.length)
    place = torch.arange(config.length, device=step.device).expand(step.shape)
    return Matrices(*costs, size, size, units.words.gather(1, step), place, counts, listed=True)


def apart(units: Units, length: int, strict: bool) -> tuple[Tensor, Tensor]:
    """Pairs (V, length) int64 that follow one another in text and video, taken greedily and thinned evenly,
    and whether there were so many, (V,) bool. `strict`: an unused sentence and row lie between two of
    them."""
    text_end = torch.full_like(units.steps, -1)
    video_end = text_end.clone()
    kept = []
    gap = int(strict)
    for k in range(units.step.shape[1]):  # over the pairs of a video, for all videos at once
        step, first = units.step[:, k], units.first[:, k]
        ok = (step >= text_end + gap) & (first >= video_end + gap)
        text_end = torch.where(ok, step + 1, text_end)
        video_end = torch.where(ok, units.last[:, k], video_end)
        kept.append(ok)
    found = torch.stack(kept, 1)
    count = found.sum(1)
    listed = (~found).long().argsort(dim=1, stable=True)
    share = torch.arange(length, device=count.device) / (length - 1)
    thinned = (share * (count - 1)[:, None] + 1e-4).long().clamp(min=0)
    return listed.gather(1, thinned), count >= length
