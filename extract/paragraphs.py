"""Features of whole scripts, also of those that are longer than the encoder's context (77 tokens for CLIP).

cut        the script as one text, cut at the context: what the released WeakSVR code does (weaksvr.md 1.5)
sentences  the mean of the features of its sentences
chunks     whole sentences packed greedily into texts within the context, their mean weighted by sentences
A script that fits is one text in `cut` and in `chunks`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ..cache.errors import StepclipError, nearest
from .encoders.base import Encoder

MODES = ("cut", "sentences", "chunks")
JOIN = ", "


@dataclass(frozen=True)
class OverLong:
    """A script too long for one text. `tokens`: its length; `lost`: sentences that mode cut would harm."""

    paragraph: str
    tokens: int
    lost: int


@dataclass(frozen=True)
class Report:
    """What `encode_paragraphs` met: the scripts longer than `context` tokens."""

    mode: str
    context: int
    over_long: list[OverLong] = field(default_factory=list)

    def __str__(self) -> str:
        if not self.over_long:
            return ""
        how = {"cut": "cut", "sentences": "mean of their sentences", "chunks": "mean of their chunks"}[
            self.mode
        ]
        worst = max(self.over_long, key=lambda each: each.tokens)
        return (
            f"{len(self.over_long)} scripts are longer than {self.context} tokens (up to {worst.tokens}); "
            f"encoded as: {how}"
        )


def encode_paragraphs(
    encoder: Encoder, scripts: Sequence[tuple[str, ...]], mode: str = "chunks"
) -> tuple[np.ndarray, Report]:
    """Features (n, D) float32 of n scripts (tuples of sentences), raw, and the report of over-long ones.

    Raises StepclipError for an unknown mode and a script without sentences.
    """
    if mode not in MODES:
        raise StepclipError(f"paragraph mode '{mode}'{nearest(mode, MODES)}", f"one of {', '.join(MODES)}")
    if any(not script for script in scripts):
        raise StepclipError("a script has no sentences", "one sentence or more")
    report = find_over_long(encoder, scripts, mode)
    if mode == "cut":
        parts = [[(JOIN.join(script), 1)] for script in scripts]
    elif mode == "sentences":
        parts = [[(sentence, 1) for sentence in script] for script in scripts]
    else:
        long = {each.paragraph for each in report.over_long}
        parts = [
            [(JOIN.join(chunk), len(chunk)) for chunk in pack(encoder, script)]
            if JOIN.join(script) in long
            else [(JOIN.join(script), len(script))]
            for script in scripts
        ]
    texts = list(dict.fromkeys(text for script in parts for text, _ in script))
    row = {text: place for place, text in enumerate(texts)}
    encoded = encoder.encode_texts(texts)
    features = np.zeros((len(scripts), encoder.dim), np.float32)
    for place, script in enumerate(parts):
        weights = np.array([weight for _, weight in script], np.float64)
        rows = encoded[[row[text] for text, _ in script]]
        features[place] = (weights / weights.sum()) @ rows
    return features, report


def find_over_long(encoder: Encoder, scripts: Sequence[tuple[str, ...]], mode: str = "chunks") -> Report:
    """The distinct scripts whose paragraph is longer than the encoder's context."""
    distinct = list({JOIN.join(script): script for script in scripts}.items())
    counts = encoder.token_counts([paragraph for paragraph, _ in distinct])
    over_long = [
        OverLong(paragraph, tokens, _lost(encoder, script))
        for (paragraph, script), tokens in zip(distinct, counts, strict=True)
        if tokens > encoder.context
    ]
    return Report(mode, encoder.context, over_long)


def pack(encoder: Encoder, script: tuple[str, ...]) -> list[tuple[str, ...]]:
    """The sentences in order, as many to a chunk as the context holds (a longer sentence stands alone)."""
    chunks: list[tuple[str, ...]] = []
    for sentence in script:
        longer = (*chunks[-1], sentence) if chunks else (sentence,)
        if chunks and encoder.token_counts([JOIN.join(longer)])[0] <= encoder.context:
            chunks[-1] = longer
        else:
            chunks.append((sentence,))
    return chunks


def _lost(encoder: Encoder, script: tuple[str, ...]) -> int:
    """How many of the last sentences do not fit whole into one text."""
    starts = [JOIN.join(script[:count]) for count in range(1, len(script) + 1)]
    return sum(tokens > encoder.context for tokens in encoder.token_counts(starts))
