"""Trains the embedded encoder: a small CLIP, contrastively, on frames and captions of benchlab.

Only training tasks and training people of benches with seeds from `FIRST_SEED` up are used, so nothing of a
user's bench (seeds below that) is ever seen. Loss: symmetric InfoNCE (CLIP, Radford et al. 2021) where equal
captions are all positives, on frames with one sentence and on groups of frames with the sentences joined into a
paragraph. Linear heads that name the caption's verb and things, and the thing in each patch, help it to learn
from few pictures and are thrown away.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .examples import CONTEXT, IDLE, IMAGE, PATCH, REGIONS, THINGS, Batches, Clip, descriptions, make_clips
from .procedures import TEST_TASKS, TRAIN_TASKS
from .vocabulary import VERBS

START, END = "<|startoftext|>", "<|endoftext|>"
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


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
        single=f"{START} $A {END}",
        special_tokens=[(START, raw.token_to_id(START)), (END, raw.token_to_id(END))],
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
        image_size=IMAGE, patch_size=PATCH, projection_dim=256,
    )  # fmt: skip
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=256))


def features(output: Any) -> Any:
    """The projected feature, whichever form the installed transformers returns it in."""
    return output if not hasattr(output, "pooler_output") else output.pooler_output


def augment(x: Any, regions: Any, torch: Any) -> tuple[Any, Any]:
    """Random crop, mirror, and colour of each picture; uint8 in, normalised float out, regions cut alike."""
    n, f = x.shape[0], torch.nn.functional
    scale = 1 - 0.18 * torch.rand(n, device=x.device)
    flip = torch.where(torch.rand(n, device=x.device) < 0.5, -1.0, 1.0)
    theta = torch.zeros(n, 2, 3, device=x.device)
    theta[:, 0, 0], theta[:, 1, 1] = scale * flip, scale
    theta[:, :, 2] = (torch.rand(n, 2, device=x.device) - 0.5) * 2 * (1 - scale)[:, None]
    grid = f.affine_grid(theta, list(x.shape), align_corners=False)
    x = f.grid_sample(x.float().div_(255), grid, mode="bilinear", padding_mode="border", align_corners=False)
    grid = f.affine_grid(theta, [n, 1, *regions.shape[1:]], align_corners=False)
    regions = f.grid_sample(
        regions[:, None].float(), grid, mode="nearest", padding_mode="border", align_corners=False
    )
    gain = 1 + 0.3 * (torch.rand(n, 3, 1, 1, device=x.device) - 0.5)
    return normalise(x * gain, torch), regions[:, 0].long()


def normalise(x: Any, torch: Any) -> Any:
    mean, std = torch.tensor(MEAN, device=x.device), torch.tensor(STD, device=x.device)
    return (x - mean[:, None, None]) / std[:, None, None]


def contrast(image: Any, text: Any, ids: Any, scale: Any, torch: Any) -> Any:
    """Symmetric InfoNCE; rows with equal ids are positives of one another."""
    logits = scale * image @ text.T
    target = (ids[:, None] == ids[None, :]).float()
    target = target / target.sum(1, keepdim=True)
    return (
        -(target * logits.log_softmax(1)).sum(1).mean() / 2
        - (target * logits.T.log_softmax(1)).sum(1).mean() / 2
    )


@dataclass(frozen=True)
class Training:
    """How the encoder is trained; a batch has `groups` recordings of `each` frames in every process."""

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


def train(clips: Sequence[Clip], out: Path, how: Training) -> None:
    """Trains the encoder and saves it to `out` as a transformers CLIP folder, in half precision."""
    out.mkdir(parents=True, exist_ok=True)
    if how.start:
        for name in ("tokenizer.json", "tokenizer_config.json"):
            (out / name).write_bytes((Path(how.start) / name).read_bytes())
    else:
        rng = np.random.default_rng(how.seed)
        words = [c.task.sentence(s, f) for c in clips for s in c.task.scripts[4] for f in range(6)]
        words += [d for c in clips for d in descriptions(c.task, rng, 1)] + list(IDLE)
        make_tokenizer(
            [*words, "a video of", "liquid, water, solution", "first, then, after that, finally"], out
        )
    if how.processes == 1:
        _train_rank(0, clips, out, how, "")
    else:
        from torch.multiprocessing.spawn import spawn

        meeting = out / "meeting"
        meeting.unlink(missing_ok=True)
        spawn(_train_rank, (clips, out, how, meeting.absolute().as_uri()), nprocs=how.processes)
        meeting.unlink(missing_ok=True)
    preprocess = dict(
        size={"shortest_edge": IMAGE}, crop_size={"height": IMAGE, "width": IMAGE}, do_resize=True,
        do_center_crop=True, do_normalize=True, do_rescale=True, do_convert_rgb=True, image_mean=MEAN, image_std=STD,
        resample=3, rescale_factor=1 / 255, image_processor_type="CLIPImageProcessor",
    )  # fmt: skip
    (out / "preprocessor_config.json").write_text(json.dumps(preprocess, indent=1) + "\n")


def _train_rank(rank: int, clips: Sequence[Clip], out: Path, how: Training, meeting: str) -> None:
    """One process: bfloat16 weights compute, float32 ones are stepped with the mean gradient of all processes."""
    import copy

    import torch
    from torch import distributed as dist

    f = torch.nn.functional
    if meeting:
        torch.set_num_threads(1)
        dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=how.processes)
    torch.manual_seed(how.seed)
    tokenizer = load_tokenizer(out)
    master = torch.nn.Module()
    master.clip = make_model(len(tokenizer), tokenizer.eos_token_id, how.width, how.layers)
    if how.start:
        from safetensors.torch import load_file

        weights = load_file(Path(how.start) / "model.safetensors")
        master.clip.load_state_dict({k: v.float() for k, v in weights.items()})
    # names of what is done to what, and of what is seen in each patch; thrown away afterwards
    master.heads = torch.nn.ModuleList(
        torch.nn.Linear(256, n + 1) for n in (len(VERBS), len(THINGS), len(THINGS))
    )
    master.places = torch.nn.Linear(how.width, REGIONS)
    master.to(how.device)
    low = copy.deepcopy(master).to(torch.bfloat16)
    slow, fast = list(master.parameters()), list(low.parameters())
    for p in slow:
        p.grad = torch.zeros_like(p)
    optimiser = torch.optim.AdamW(slow, lr=how.rate, weight_decay=0.1, betas=(0.9, 0.98))
    batches = Batches(clips, tokenizer, how.device, how.seed * 1000 + rank)
    torch.manual_seed(how.seed * 1000 + rank)
    group = torch.arange(how.groups, device=how.device)
    clock, step = time.monotonic(), 0
    while True:
        share = torch.tensor(max(step / how.steps, (time.monotonic() - clock) / 60 / how.minutes))
        if meeting:
            dist.all_reduce(share, dist.ReduceOp.MAX)
        if float(share) >= 1:
            break
        for g in optimiser.param_groups:
            g["lr"] = (
                how.rate * min(1.0, (step + 1) / how.warm) * (0.5 * (1 + np.cos(np.pi * float(share))) + 0.01)
            )
        pictures, regions, texts, names, paragraphs = batches.draw(how.groups, how.each, how.plain)
        distinct, which_text = np.unique(texts, return_inverse=True)
        which = torch.from_numpy(which_text).to(how.device)
        pixels, regions = augment(pictures, regions, torch)
        tokens = low.clip.vision_model(pixel_values=pixels.to(torch.bfloat16)).last_hidden_state
        tokens = low.clip.vision_model.post_layernorm(tokens)
        image = low.clip.visual_projection(tokens[:, 0])
        said = features(
            low.clip.get_text_features(input_ids=batches.table[torch.from_numpy(distinct).to(how.device)])
        )
        scale = low.clip.logit_scale.float().exp().clamp(max=100)
        one = f.normalize(image.float(), dim=-1)
        caption = contrast(one, f.normalize(said.float(), dim=-1)[which], which, scale, torch)
        heads = zip(low.heads, names.T, strict=True)
        naming = torch.stack([f.cross_entropy(head(image).float(), t) for head, t in heads]).sum()
        known = (regions < REGIONS - 1) | (torch.rand(regions.shape, device=how.device) < 0.1)
        region = f.cross_entropy(low.places(tokens[:, 1:][known.flatten(1)]).float(), regions[known])
        loss = caption + 0.5 * naming + region
        if step % 3 == 0:
            told = features(low.clip.get_text_features(input_ids=paragraphs))
            many = f.normalize(one.view(how.groups, how.each, -1).mean(1), dim=-1)
            loss = loss + 0.5 * contrast(many, f.normalize(told.float(), dim=-1), group, scale, torch)
        low.zero_grad(set_to_none=False)
        loss.backward()
        flat = torch.cat(
            [(p.grad if p.grad is not None else torch.zeros_like(p)).float().flatten() for p in fast]
        )
        if meeting:
            dist.all_reduce(flat)
        for p, part in zip(slow, flat.div_(how.processes).split([p.numel() for p in slow]), strict=True):
            p.grad.copy_(part.view_as(p))
        torch.nn.utils.clip_grad_norm_(slow, 1.0)
        optimiser.step()
        with torch.no_grad():
            for p, q in zip(fast, slow, strict=True):
                p.copy_(q)
        if rank == 0 and step % 50 == 0:
            parts = ", ".join(f"{n} {v.item():.3f}" for n, v in zip(
                ("captions", "names", "regions"), (caption, naming, region), strict=True))  # fmt: skip
            print(f"step {step}: {parts}; {time.monotonic() - clock:.0f} s, {float(share):.0%}", flush=True)
        step += 1
    if rank == 0:
        master.clip.half().save_pretrained(out)
    if meeting:
        dist.destroy_process_group()


def load_tokenizer(folder: Path) -> Any:
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast.from_pretrained(folder)


def zero_shot(folder: Path, clips: Sequence[Clip], device: str) -> dict[str, float]:
    """Share of the frames inside a step whose sentence, among all of the task's, is the nearest; and chance."""
    import torch
    from transformers import CLIPModel

    f = torch.nn.functional
    model, tokenizer = CLIPModel.from_pretrained(folder).float().to(device).eval(), load_tokenizer(folder)
    right = total = chance = 0.0
    for clip in clips:
        sentences = sorted({s for p in range(1, 6) for s in clip.task.sentences(p)})
        tokens = tokenizer(sentences, padding=True, return_tensors="pt").to(device)
        inside = clip.steps >= 0
        with torch.inference_mode():
            text = f.normalize(features(model.get_text_features(input_ids=tokens.input_ids)), dim=-1)
            x = torch.from_numpy(clip.pictures[inside]).to(device).permute(0, 3, 1, 2).float().div_(255)
            image = f.normalize(features(model.get_image_features(pixel_values=normalise(x, torch))), dim=-1)
        script = clip.task.sentences(clip.procedure)
        truth = torch.tensor([sentences.index(script[s]) for s in clip.steps[inside]], device=device)
        right += float(((image @ text.T).argmax(1) == truth).sum())
        total += len(truth)
        chance += len(truth) / len(sentences)
    return {"accuracy": round(right / total, 4), "chance": round(chance / total, 4), "frames": int(total)}


def pretrain(
    out: Path, how: Training, *, clips: int = 4500, seeds: int = 150, workers: int = 2
) -> dict[str, Any]:
    """The whole run: recordings, training, zero-shot accuracy on unseen people, `card.json` beside the weights."""
    folder = out / "clips"

    def made(count: int, tasks: Sequence[int], benches: int, people: str) -> list[Clip]:
        return make_clips(count, folder, tasks=tasks, seeds=benches, people=people, workers=workers)

    recordings = made(clips, TRAIN_TASKS, seeds, "train")
    print(f"{len(recordings)} recordings, {sum(len(c.steps) for c in recordings)} frames", flush=True)
    train(recordings, out, how)
    card = {
        "what": "small CLIP for the synthetic bench benchlab only; it understands nothing else",
        "made by": "stepclip encoder train",
        "recordings": clips,
        "zero-shot, unseen people, training tasks": zero_shot(
            out, made(150, TRAIN_TASKS, 10, "test"), how.device
        ),
        "zero-shot, unseen people, unseen tasks": zero_shot(
            out, made(150, TEST_TASKS, 10, "test"), how.device
        ),
    }
    folder.rmdir()
    (out / "card.json").write_text(json.dumps(card, indent=1) + "\n")
    return card
