"""What a step minimises: the losses that a recipe asks for, and their weighted sum."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..gather import gather_with_gradient
from ..losses import (
    FrameSentence,
    classification_loss,
    duration_loss,
    frame_log_p,
    frame_sentence_loss,
    frame_sentence_official,
    gumbel,
    pseudo_labels,
    sequence_alignment_loss,
    video_paragraph_loss,
)
from ..losses.script_order import script_order_loss
from ..losses.video_alignment import video_alignment_loss
from .edits import edited_scripts

if TYPE_CHECKING:
    from ..knobs import Labelling
    from .batches import Batch, TrainingSet
    from .knobs import WeakSVRLoss
    from .model import ModelOutput, StepModel


def loss_terms(
    model: StepModel,
    output: ModelOutput,
    batch: Batch,
    config: WeakSVRLoss,
    data: TrainingSet,
    *,
    teacher: ModelOutput | None = None,
    pairs: bool = False,
    world: int = 1,
) -> dict[str, Tensor]:
    """All terms of a batch and their weighted sum under "loss"; `output` is the model's answer, raised to
    float32 here. `teacher`: the averaged model's answer, which the pseudo-labels are then made from.

    With `world` processes each has its part of `output`; the coarse loss gathers the rest, the others are
    means over videos (the text side: over all processes' sentences), so that the mean over processes is the
    loss of one process with the whole batch.
    """
    terms: dict[str, Tensor] = {}
    frames, video = output.frames.float(), output.video.float()
    if config.coarse:
        terms["coarse"] = _coarse(model, gather_with_gradient(video, world), batch, config)
    if config.fine or config.fine_text:
        shares = None if model.lasts is None else _log_shares(model, batch)
        fine = _fine(model, frames, batch, config, teacher, shares)
        terms["fine"], terms["fine_text"] = fine.image, fine.text
        if shares is not None:
            terms["durations"] = duration_loss(fine.labels, shares)
    if config.script:
        terms["script"] = _script(model, frames, batch, config, data)
    if config.alignment:
        every = gather_with_gradient(frames, world)
        terms["alignment"] = video_alignment_loss(every, batch.procedures, config.alignment_scale)
    own = batch.procedures[batch.own]
    if config.classes and model.classify is not None:
        terms["classes"] = classification_loss(model.classify(video), own, pairs)
    if config.sequence:
        terms["sequence"] = sequence_alignment_loss(frames[0::2], frames[1::2], config.sequence_tau)
    # durations: nothing but the head that expects them learns from it, at any weight
    total = torch.stack([getattr(config, name, 1.0) * term for name, term in terms.items()]).sum()
    return {"loss": total, **terms}


def _coarse(model: StepModel, video: Tensor, batch: Batch, config: WeakSVRLoss) -> Tensor:
    size = len(video)
    group = config.coarse_group if config.coarse_group and size % config.coarse_group == 0 else size
    groups = (size // group, group)
    procedures = batch.procedures.view(groups)
    rivals, real = batch.rivals, batch.rival_real
    return video_paragraph_loss(
        video.view(*groups, -1),
        batch.paragraphs.view(*groups, -1),
        model.scale_video,
        procedures[:, :, None] == procedures[:, None],
        config.coarse_form,
        negatives=None if rivals is None else rivals.view(*groups, *rivals.shape[1:]),
        real=None if real is None else real.view(*groups, -1),
    )


def _fine(
    model: StepModel,
    frames: Tensor,
    batch: Batch,
    config: WeakSVRLoss,
    teacher: ModelOutput | None,
    log_shares: Tensor | None,
) -> FrameSentence:
    steps, lengths, scale = batch.steps, batch.step_lengths, model.scale_frame
    if config.fine_form == "official":
        assert config.labels in ("sort", "viterbi", "split")
        return frame_sentence_official(
            frames, steps, lengths, scale, labelling=config.labels, noise=config.gumbel
        )
    labels = batch.labels
    labelling: Labelling = "uniform" if config.labels == "corpus" else config.labels  # corpus: is there
    if labels is None and teacher is not None:
        with torch.no_grad():
            log_p = frame_log_p(teacher.frames.float(), steps, lengths, scale)
            labels = pseudo_labels(log_p, lengths, labelling, config.prior_spread)
    noise = gumbel(frames.new_empty(*frames.shape[:2], steps.shape[1])) if config.gumbel else None
    return frame_sentence_loss(
        frames,
        steps,
        lengths,
        scale,
        labelling=labelling,
        text_form=config.text_form,
        labels=labels,
        noise=noise,
        tau=config.tau,
        spread=config.prior_spread,
        sentences=batch.sentences,
        log_shares=log_shares,
    )


def _log_shares(model: StepModel, batch: Batch) -> Tensor:
    """The logarithm (B, K) of the share of its video that each step is expected to last."""
    place = torch.arange(batch.steps.shape[1], device=batch.steps.device)
    lasts = model.log_durations(batch.steps)
    return lasts.masked_fill(place >= batch.step_lengths[:, None], -torch.inf).log_softmax(1)


def _script(model: StepModel, frames: Tensor, batch: Batch, config: WeakSVRLoss, data: TrainingSet) -> Tensor:
    task = data.procedure_task[batch.procedures[batch.own]]
    edited = edited_scripts(
        batch.words,
        batch.step_lengths,
        config.script_edits,
        data.vocabulary[task],
        data.vocabulary_size[task],
        len(data.sentences) - 1,
    )
    return script_order_loss(
        frames,
        batch.steps,
        batch.step_lengths,
        data.sentences[edited.words],
        edited.lengths,
        edited.real,
        model.scale_frame,
    )
