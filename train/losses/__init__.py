"""Losses: one per file, pure functions of tensors."""

from .frame_sentence import FrameSentence, frame_sentence_loss, pseudo_labels
from .video_paragraph import unit, video_paragraph_loss

__all__ = ["FrameSentence", "frame_sentence_loss", "pseudo_labels", "unit", "video_paragraph_loss"]
