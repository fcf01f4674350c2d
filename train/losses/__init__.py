"""Losses: one per file, pure functions of tensors."""

from .classification import classification_loss
from .corpus_labels import CorpusFit, corpus_labels
from .durations import duration_loss
from .frame_sentence import FrameSentence, frame_log_p, frame_sentence_loss, gumbel
from .frame_sentence_official import frame_sentence_official
from .labelling import LABELLINGS, label_frames
from .pseudo_labels import pseudo_labels
from .same_task import same_task_loss
from .sequence_alignment import sequence_alignment_loss
from .sequence_contrast import reordered, sequence_contrast_loss, sequence_distance
from .split import split_loss
from .unit import unit
from .unit_contrast import step_naming_loss, unit_contrast_loss
from .video_paragraph import video_paragraph_loss
from .viterbi_official import viterbi_official

__all__ = [
    "LABELLINGS",
    "CorpusFit",
    "FrameSentence",
    "classification_loss",
    "corpus_labels",
    "duration_loss",
    "frame_log_p",
    "frame_sentence_loss",
    "frame_sentence_official",
    "gumbel",
    "label_frames",
    "pseudo_labels",
    "reordered",
    "same_task_loss",
    "sequence_alignment_loss",
    "sequence_contrast_loss",
    "sequence_distance",
    "split_loss",
    "step_naming_loss",
    "unit",
    "unit_contrast_loss",
    "video_paragraph_loss",
    "viterbi_official",
]
