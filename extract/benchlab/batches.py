"""Batches for training the embedded encoder: groups of frames with their captions, on the device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from .draw import HAND
from .examples import CONTEXT, FORMS, IDLE, REGIONS, THINGS, Clip, descriptions
from .procedures import MAX_STEPS
from .vocabulary import VERBS

DESCRIPTIONS = 6  # of each recording


@dataclass(frozen=True)
class Batch:
    """n = groups * each frames; the frames of a group lie together."""

    pictures: torch.Tensor  # (n, 3, H, W) uint8
    regions: torch.Tensor  # (n, 8, 8) int64, 0..REGIONS-1: what is in each patch
    texts: np.ndarray  # (n,) int64: row of the caption in `Batches.table`
    names: torch.Tensor  # (n, 3) int64: verb, thing, other thing; the last class of each is "none"
    paragraphs: torch.Tensor  # (groups, L) int64: tokens of the steps that a group shows


class Batches:
    """Draws groups of frames of one recording (hard negatives of one another) with captions.

    `table` (texts, L) int64 holds the tokens of every caption there is. `seed` fixes what is drawn.
    """

    def __init__(self, clips: Sequence[Clip], tokenizer: Any, device: str, seed: int) -> None:
        self.clips, self.device = clips, device
        self.rng = np.random.default_rng(seed)
        self.pictures = torch.from_numpy(np.concatenate([c.pictures for c in clips])).to(device)
        self.regions = torch.from_numpy(np.concatenate([self._region_names(c) for c in clips])).to(device)
        self.offset = np.cumsum([0, *(len(c.steps) for c in clips)])
        self.end = tokenizer.eos_token_id
        self.tokens: list[list[int]] = []  # with start and end
        ids: dict[str, int] = {}

        def known(texts: Sequence[str]) -> list[int]:
            new = list(dict.fromkeys(t for t in texts if t not in ids))
            if new:
                self.tokens += tokenizer(new, truncation=True, max_length=CONTEXT).input_ids
                ids.update((t, len(ids)) for t in new)
            return [ids[t] for t in texts]

        self.idle = np.array(known(IDLE))
        self.scene = np.array([known(descriptions(c.task, self.rng, DESCRIPTIONS)) for c in clips])
        self.steps = np.concatenate([c.steps for c in clips])
        self.script = np.zeros(
            (len(clips), MAX_STEPS + 1, FORMS), np.int64
        )  # caption of each step in each form
        self.named = np.full((len(clips), MAX_STEPS + 1, 3), len(THINGS))  # verb, a, b; the last row is rest
        self.named[:, :, 0] = len(VERBS)
        for i, c in enumerate(clips):
            where = [*(THINGS.index(thing) for thing in c.task.things), len(THINGS)]
            for k, (verb, x, y) in enumerate(c.task.scripts[c.procedure - 1]):
                self.script[i, k] = known([c.task.sentence((verb, x, y), form) for form in range(FORMS)])
                self.named[i, k] = VERBS.index(verb), where[x], where[y]
        self.table = self.padded(self.tokens)
        self.comma = tokenizer(",", add_special_tokens=False).input_ids

    def draw(self, groups: int, each: int, plain: float) -> Batch:
        """`each` frames of `groups` recordings; `plain`: share of captions that only tell what is there."""
        g = self.rng.integers(len(self.clips), size=(groups, 1))
        lengths = np.diff(self.offset)[g]
        rows = self.offset[g] + (self.rng.random((groups, each)) * lengths).astype(np.int64)
        seen = self.steps[rows]
        form = np.where(self.rng.random(seen.shape) < 0.6, self.rng.integers(FORMS, size=seen.shape), 0)
        said = np.where(seen < 0, self.rng.choice(self.idle, seen.shape), self.script[g, seen, form])
        told = self.scene[g, self.rng.integers(DESCRIPTIONS, size=seen.shape)]
        texts = np.where(self.rng.random(seen.shape) < plain, told, said).ravel()
        index = torch.from_numpy(rows.ravel()).to(self.device)
        names = torch.from_numpy(self.named[g, seen].reshape(-1, 3)).to(self.device)
        paragraphs = self.padded([self.joined(i, s) for i, s in zip(g[:, 0], seen, strict=True)])
        return Batch(self.pictures[index].permute(0, 3, 1, 2), self.regions[index], texts, names, paragraphs)

    @staticmethod
    def _region_names(clip: Clip) -> np.ndarray:
        """Regions as 0..REGIONS-1: a thing, the hand, or nothing (the last)."""
        table = np.full(256, REGIONS - 1)
        table[HAND] = len(THINGS)
        table[1 : 1 + len(clip.task.things)] = [THINGS.index(t) for t in clip.task.things]
        return table[clip.regions].astype(np.int64)

    def joined(self, clip: int, seen: np.ndarray) -> list[int]:
        """Tokens of the paragraph of the steps that are seen."""
        words: list[int] = []
        for s in sorted(set(seen.tolist()) - {-1}) or [0]:
            words += (self.comma if words else []) + self.tokens[self.script[clip, s, 0]][1:-1]
        return [self.tokens[0][0], *words[: CONTEXT - 2], self.end]

    def padded(self, chosen: Sequence[Sequence[int]]) -> torch.Tensor:
        """Token lists as one tensor (n, longest), filled up with the end token."""
        out = np.full((len(chosen), max(map(len, chosen))), self.end)
        for row, tokens in zip(out, chosen, strict=True):
            row[: len(tokens)] = tokens
        return torch.from_numpy(out).to(self.device)
