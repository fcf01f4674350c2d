"""How well an encoder names what is done in a frame, without having been trained on the recordings shown."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch.nn import functional as f

from .examples import Clip
from .procedures import PROCEDURES
from .smallclip import features, load_tokenizer, normalise


def zero_shot(folder: Path, clips: Sequence[Clip], device: str) -> dict[str, float]:
    """Share of the frames inside a step whose own sentence is the nearest of all of its task's; and chance.

    Cosine similarity. Returns accuracy and chance in [0, 1], and the number of frames.
    """
    from transformers import CLIPModel

    from ..encoders.transformers_clip import quiet

    with quiet():
        model = CLIPModel.from_pretrained(folder).float().to(device).eval()
    tokenizer = load_tokenizer(folder)
    right = total = chance = 0.0
    for clip in clips:
        sentences = sorted({s for p in range(1, PROCEDURES + 1) for s in clip.task.sentences(p)})
        tokens = tokenizer(sentences, padding=True, return_tensors="pt").to(device)
        inside = clip.steps >= 0
        with torch.inference_mode():
            text = f.normalize(features(model.get_text_features(input_ids=tokens.input_ids)), dim=-1)
            x = torch.from_numpy(clip.pictures[inside]).to(device).permute(0, 3, 1, 2).float().div_(255)
            image = f.normalize(features(model.get_image_features(pixel_values=normalise(x))), dim=-1)
        script = clip.task.sentences(clip.procedure)
        truth = torch.tensor([sentences.index(script[s]) for s in clip.steps[inside]], device=device)
        right += float(((image @ text.T).argmax(1) == truth).sum())
        total += len(truth)
        chance += len(truth) / len(sentences)
    return {"accuracy": round(right / total, 4), "chance": round(chance / total, 4), "frames": int(total)}
