"""Trains the embedded encoder: a small CLIP, contrastively, on frames and captions of benchlab.

Only training tasks and training people of benches with seeds from `FIRST_SEED` up are used, so nothing of a user's
bench (seeds below that) is ever seen. Loss: symmetric InfoNCE (CLIP, Radford et al. 2021) where equal captions are
all positives, on frames with one sentence and on groups of frames with the sentences joined into a paragraph. Three
linear heads that name the caption's verb and things help at the start and are thrown away.
"""

from __future__ import annotations

import json
import multiprocessing
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .people import make_person
from .procedures import TRAIN_TASKS, Task, make_task
from .render import FPS, SIZE, encode, frames, plan
from .vocabulary import COLOURS, FIXTURES, TOOLS, VERBS, VESSELS

FIRST_SEED = 100_000
IMAGE = 112
EVERY = 3  # frames kept: one in three, 3.3 a second
CONTEXT = 77
START, END = "<|startoftext|>", "<|endoftext|>"
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
THINGS = [(kind, colour) for kind in (*VESSELS, *TOOLS, *FIXTURES) for colour in COLOURS]
IDLE = ("nothing happens", "an idle hand", "the hand rests", "a person waits at the table")


@dataclass(frozen=True)
class Clip:
    """One recording for training: pictures (n, 112, 112, 3) uint8, the step of each (-1 at rest), its task's words."""

    pictures: np.ndarray
    steps: np.ndarray
    task: Task
    procedure: int


def make_clip(job: tuple[int, int, int, str, str]) -> Clip:
    """Renders one recording, encodes it, decodes it again. Job: bench seed, task, procedure, person, folder."""
    import av
    from PIL import Image

    seed, number, procedure, name, folder = job
    task = make_task(number, seed)
    person = make_person(name, np.random.default_rng([seed, *name.encode()]))
    rng = np.random.default_rng([seed, number, procedure, 1, *name.encode()])
    segments = plan(task, procedure, person, rng, FPS)
    path = Path(folder) / f"{seed}-{number}-{procedure}-{name}.mp4"
    encode(path, frames(task, procedure, person, rng, segments, SIZE, EVERY), SIZE, FPS, person.crf)
    steps = np.concatenate([np.full(s.frames, s.step) for s in segments])[::EVERY]
    width = round(SIZE[0] * IMAGE / SIZE[1])
    left = (width - IMAGE) // 2
    with av.open(str(path)) as container:
        images = [f.to_image().resize((width, IMAGE), Image.Resampling.BICUBIC) for f in container.decode(video=0)]
    path.unlink()
    return Clip(np.stack([np.asarray(i)[:, left : left + IMAGE] for i in images]), steps, task, procedure)


def make_clips(count: int, folder: Path, *, tasks: Sequence[int], seeds: int, people: str, workers: int) -> list[Clip]:
    """`count` recordings spread over tasks, procedures, benches and people."""
    jobs = []
    for i in range(count):
        seed = FIRST_SEED + i % seeds
        number = tasks[(i // seeds) % len(tasks)]
        procedure = 1 + (i // seeds // len(tasks) + i) % 5
        jobs.append((seed, number, procedure, f"{people}{i % 997}", str(folder)))
    folder.mkdir(parents=True, exist_ok=True)
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        return list(pool.imap(make_clip, jobs, chunksize=4))


def descriptions(task: Task, rng: np.random.Generator, count: int) -> list[str]:
    """Sentences about a task's things that tell what is there, not what is done."""
    names = [f"{colour} {kind}" for kind, colour in task.things]
    some = [rng.permutation(names)[: int(rng.integers(1, 4))] for _ in range(count)]
    return ["a table with " + " and ".join(f"a {n}" for n in each) for each in some]


def make_tokenizer(texts: Sequence[str], folder: Path, size: int = 900) -> Any:
    """A lower-case byte-level BPE tokenizer with CLIP's special tokens, saved to `folder`."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE(unk_token=None))
    raw.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=[START, END], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )  # fmt: skip
    raw.train_from_iterator(texts, trainer)
    raw.post_processor = processors.TemplateProcessing(
        single=f"{START} $A {END}", special_tokens=[(START, raw.token_to_id(START)), (END, raw.token_to_id(END))]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=raw, bos_token=START, eos_token=END, pad_token=END, model_max_length=CONTEXT
    )
    fast.save_pretrained(folder)
    return fast


def make_model(vocabulary: int, end: int, width: int, layers: int) -> Any:
    """transformers' CLIPModel in a small size, random weights."""
    from transformers import CLIPConfig, CLIPModel

    text = dict(
        vocab_size=vocabulary, hidden_size=192, intermediate_size=768, num_hidden_layers=4, num_attention_heads=3,
        max_position_embeddings=CONTEXT, bos_token_id=0, eos_token_id=end, pad_token_id=end, projection_dim=256,
    )  # fmt: skip
    vision = dict(
        hidden_size=width, intermediate_size=4 * width, num_hidden_layers=layers, num_attention_heads=width // 64,
        image_size=IMAGE, patch_size=14, projection_dim=256,
    )  # fmt: skip
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=256))


def features(output: Any) -> Any:
    """The projected feature, whichever form the installed transformers returns it in."""
    return output if not hasattr(output, "pooler_output") else output.pooler_output


class Batches:
    """Draws groups of frames of one recording (hard negatives) with captions, on the device."""

    def __init__(self, clips: Sequence[Clip], tokenizer: Any, device: str, seed: int) -> None:
        import torch

        self.torch, self.clips, self.device = torch, clips, device
        self.rng = np.random.default_rng(seed)
        self.pictures = torch.from_numpy(np.concatenate([c.pictures for c in clips])).to(device)
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

        self.comma = tokenizer(",", add_special_tokens=False).input_ids
        self.idle = np.array(known(IDLE))
        self.scene = [np.array(known(descriptions(c.task, self.rng, 6))) for c in clips]
        self.script = [  # (steps, forms) of each clip
            np.array([known([c.task.sentence(s, f) for f in range(6)]) for s in c.task.scripts[c.procedure - 1]])
            for c in clips
        ]
        self.named = [  # (steps + 1, 3): verb, a, b of each step; the last row is rest
            np.array([(VERBS.index(v), where[a], where[b]) for v, a, b in c.task.scripts[c.procedure - 1]]
                     + [(len(VERBS), len(THINGS), len(THINGS))])
            for c in clips
            if (where := [*(THINGS.index(t) for t in c.task.things), len(THINGS)])
        ]  # fmt: skip

    def draw(self, groups: int, each: int, plain: float) -> tuple[Any, np.ndarray, list[list[int]], Any]:
        """Pictures (groups * each, 3, H, W), a caption id each, the tokens of a paragraph per group, names (n, 3)."""
        rows, texts, paragraphs, named = [], [], [], []
        for g in self.rng.integers(len(self.clips), size=groups):
            steps, script = self.clips[g].steps, self.script[g]
            picked = self.rng.integers(len(steps), size=each)
            rows.append(self.offset[g] + picked)
            seen = steps[picked]
            named.append(self.named[g][seen])
            form = np.where(self.rng.random(each) < 0.6, self.rng.integers(6, size=each), 0)
            said = np.where(seen < 0, self.rng.choice(self.idle, each), script[seen, form])
            texts.append(np.where(self.rng.random(each) < plain, self.rng.choice(self.scene[g], each), said))
            words: list[int] = []
            for s in sorted({int(s) for s in seen if s >= 0}) or [0]:
                words += (self.comma if words else []) + self.tokens[script[s, 0]][1:-1]
            paragraphs.append([self.tokens[0][0], *words[: CONTEXT - 2], self.end])
        index = self.torch.from_numpy(np.concatenate(rows)).to(self.device)
        names = self.torch.from_numpy(np.concatenate(named)).to(self.device)
        return self.pictures[index].permute(0, 3, 1, 2), np.concatenate(texts), paragraphs, names

    def padded(self, chosen: Sequence[Sequence[int]]) -> Any:
        """Token lists as one tensor (n, longest)."""
        out = np.full((len(chosen), max(map(len, chosen))), self.end)
        for row, tokens in zip(out, chosen, strict=True):
            row[: len(tokens)] = tokens
        return self.torch.from_numpy(out).to(self.device)


def augment(x: Any, torch: Any) -> Any:
    """Random crop, mirror, and colour of each picture; uint8 in, normalised float out."""
    n = x.shape[0]
    x = x.float().div_(255)
    scale = 1 - 0.18 * torch.rand(n, device=x.device)
    flip = torch.where(torch.rand(n, device=x.device) < 0.5, -1.0, 1.0)
    theta = torch.zeros(n, 2, 3, device=x.device)
    theta[:, 0, 0], theta[:, 1, 1] = scale * flip, scale
    theta[:, :, 2] = (torch.rand(n, 2, device=x.device) - 0.5) * 2 * (1 - scale)[:, None]
    grid = torch.nn.functional.affine_grid(theta, list(x.shape), align_corners=False)
    x = torch.nn.functional.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=False)
    gain = 1 + 0.3 * (torch.rand(n, 3, 1, 1, device=x.device) - 0.5)
    return normalise(x * gain, torch)


def normalise(x: Any, torch: Any) -> Any:
    mean, std = torch.tensor(MEAN, device=x.device), torch.tensor(STD, device=x.device)
    return (x - mean[:, None, None]) / std[:, None, None]


def contrast(image: Any, text: Any, ids: Any, scale: Any, torch: Any) -> Any:
    """Symmetric InfoNCE; rows with equal ids are positives of one another."""
    logits = scale * image @ text.T
    target = (ids[:, None] == ids[None, :]).float()
    target = target / target.sum(1, keepdim=True)
    return -(target * logits.log_softmax(1)).sum(1).mean() / 2 - (target * logits.T.log_softmax(1)).sum(1).mean() / 2


def train(
    clips: Sequence[Clip], out: Path, *, steps: int, device: str, width: int = 192, layers: int = 6, groups: int = 192,
    each: int = 8, plain: float = 0.2, rate: float = 1e-3, seed: int = 0, minutes: float = 60.0, warm: int = 300,
) -> Any:  # fmt: skip
    """Trains and saves the encoder to `out`; returns the model. Stops at `steps` or after `minutes`."""
    import torch
    from rich.progress import track

    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    words = [c.task.sentence(s, f) for c in clips for s in c.task.scripts[4] for f in range(6)]
    words += [d for c in clips for d in descriptions(c.task, rng, 1)] + list(IDLE)
    words += ["a video of", "liquid, water, acid, solution", "first, then, after that, finally"]
    tokenizer = make_tokenizer(words, out)
    model = make_model(len(tokenizer), tokenizer.eos_token_id, width, layers).to(device)
    batches = Batches(clips, tokenizer, device, seed)
    heads = torch.nn.ModuleList(torch.nn.Linear(256, n + 1) for n in (len(VERBS), len(THINGS), len(THINGS))).to(device)
    weights = [*model.parameters(), *heads.parameters()]
    optimiser = torch.optim.AdamW(weights, lr=rate, weight_decay=0.1, betas=(0.9, 0.98))
    started = time.monotonic()
    for step in track(range(steps), "training the encoder"):
        spent = (time.monotonic() - started) / 60 / minutes
        share = max(step / steps, spent)
        if share >= 1:
            break
        for group in optimiser.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / warm) * (0.5 * (1 + np.cos(np.pi * share)) + 0.01)
        pictures, texts, paragraphs, names = batches.draw(groups, each, plain)
        distinct, which_text = np.unique(texts, return_inverse=True)
        which = torch.from_numpy(which_text).to(device)
        group = torch.arange(groups, device=device)
        with torch.autocast(device.split(":")[0], torch.bfloat16):
            image = features(model.get_image_features(pixel_values=augment(pictures, torch)))
            said = features(model.get_text_features(input_ids=batches.padded([batches.tokens[i] for i in distinct])))
            told = features(model.get_text_features(input_ids=batches.padded(paragraphs)))
            naming = sum(torch.nn.functional.cross_entropy(h(image), t) for h, t in zip(heads, names.T, strict=True))
        one, said, told = (torch.nn.functional.normalize(v.float(), dim=-1) for v in (image, said, told))
        many = torch.nn.functional.normalize(one.view(groups, each, -1).mean(1), dim=-1)
        scale = model.logit_scale.exp().clamp(max=100)
        loss = contrast(one, said[which], which, scale, torch) + 0.3 * contrast(many, told, group, scale, torch)
        loss = loss + 0.3 * naming
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimiser.step()
        if step % 200 == 0:
            print(f"step {step}: loss {loss.item():.3f}, naming {naming.item():.3f}, {time.monotonic() - started:.0f} s", flush=True)
    model.half().save_pretrained(out)
    preprocess = dict(
        size={"shortest_edge": IMAGE}, crop_size={"height": IMAGE, "width": IMAGE}, do_resize=True,
        do_center_crop=True, do_normalize=True, do_rescale=True, do_convert_rgb=True, image_mean=MEAN, image_std=STD,
        resample=3, rescale_factor=1 / 255, image_processor_type="CLIPImageProcessor",
    )  # fmt: skip
    (out / "preprocessor_config.json").write_text(json.dumps(preprocess, indent=1))
    return model.float(), tokenizer


def zero_shot(model: Any, tokenizer: Any, clips: Sequence[Clip], device: str) -> dict[str, float]:
    """Share of the frames inside a step whose sentence, among all of the task's, is the nearest; and chance."""
    import torch

    right = total = chance = 0.0
    model.eval()
    for clip in clips:
        sentences = sorted({s for p in range(1, 6) for s in clip.task.sentences(p)})
        tokens = tokenizer(sentences, padding=True, return_tensors="pt").to(device)
        inside = clip.steps >= 0
        with torch.no_grad():
            text = features(model.get_text_features(input_ids=tokens.input_ids))
            x = torch.from_numpy(clip.pictures[inside]).to(device).permute(0, 3, 1, 2).float().div_(255)
            image = features(model.get_image_features(pixel_values=normalise(x, torch)))
        guess = (torch.nn.functional.normalize(image, dim=-1) @ torch.nn.functional.normalize(text, dim=-1).T).argmax(1)
        script = clip.task.sentences(clip.procedure)
        truth = torch.tensor([sentences.index(script[s]) for s in clip.steps[inside]], device=device)
        right += float((guess == truth).sum())
        total += len(truth)
        chance += len(truth) / len(sentences)
    return {"accuracy": round(right / total, 4), "chance": round(chance / total, 4), "frames": int(total)}


def pretrain(
    out: Path, *, clips: int = 6000, seeds: int = 120, steps: int = 20_000, minutes: float = 60.0, device: str = "cpu",
    workers: int = 2, seed: int = 0, **shape: Any,
) -> dict[str, Any]:  # fmt: skip
    """The whole run: recordings, training, zero-shot accuracy on unseen people, `card.json` beside the weights."""
    from .procedures import TEST_TASKS

    folder = out / "clips"
    common = dict(workers=workers, folder=folder)
    train_set = make_clips(clips, tasks=TRAIN_TASKS, seeds=seeds, people="train", **common)  # type: ignore[arg-type]
    print(f"{len(train_set)} recordings, {sum(len(c.steps) for c in train_set)} frames", flush=True)
    model, tokenizer = train(train_set, out, steps=steps, minutes=minutes, device=device, seed=seed, **shape)
    same = make_clips(150, tasks=TRAIN_TASKS, seeds=10, people="test", **common)  # type: ignore[arg-type]
    other = make_clips(150, tasks=TEST_TASKS, seeds=10, people="test", **common)  # type: ignore[arg-type]
    folder.rmdir()
    card = {
        "what": "small CLIP for the synthetic bench benchlab only; it understands nothing else",
        "made by": "stepclip encoder train",
        "recordings": clips,
        "parameters": sum(p.numel() for p in model.parameters()),
        "zero-shot, unseen people, training tasks": zero_shot(model, tokenizer, same, device),
        "zero-shot, unseen people, unseen tasks": zero_shot(model, tokenizer, other, device),
    }
    (out / "card.json").write_text(json.dumps(card, indent=1) + "\n")
    return card
