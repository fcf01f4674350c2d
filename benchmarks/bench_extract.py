"""Extraction against a straightforward loop, side by side, and which stage is the limit.

    python benchmarks/bench_extract.py [--quick] [--rounds 3] [--device auto] [--out DIR]

The loop is what one writes first: decord's get_batch, PIL preprocessing, one batch per video, fp32 on all
of torch's threads. Both take the same videos (H.264 made by ffmpeg; 720p, and 360p too for the embedded
encoder), 4 frames a second, and the same weights: the embedded encoder and a ViT-B/32 of random weights.
The engine runs at the precision that it chooses itself (bf16 for a ViT on a CPU that has it), and once more
in fp32 where that is another. They take turns, the order reversed each round; so does the model alone, on
pixels that are there already, which nothing can be faster than. Medians of the rounds; beside the frames
per second the processor's time, of all threads and processes, which other work on the machine changes less.
Writes extract.json (with the machine and its load), .md and .svg beside this script and the table of
README.md; with --quick or --out DIR not README.md.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from operator import truediv
from pathlib import Path
from typing import Any

import numpy as np
from machine import machine
from readme import put

HERE = Path(__file__).parent
FPS = 4.0
LOOP, ENGINE, ENGINE_FP32, ALONE = (
    "plain loop, fp32",
    "stepclip extract",
    "stepclip extract, fp32",
    "model alone",
)
COLOURS = {LOOP: "#999999", ENGINE: "#0072B2", ENGINE_FP32: "#56B4E9", ALONE: "#E69F00"}  # Okabe and Ito
ASKED = {"times faster": 2.0, "busy": 0.9, "share of the model alone": 0.8}


@dataclass(frozen=True)
class Case:
    """What is measured: the encoder's title, the size of the videos and how many, the patch of a ViT-B."""

    title: str
    size: str
    videos: int
    patch: int | None = None


CASES = {
    "embedded": Case("embedded (4.8 M, 112 px)", "1280x720", 16),
    "embedded-360p": Case("embedded (4.8 M, 112 px)", "640x360", 32),
    "vit-b32": Case("ViT-B/32 (151 M, 224 px)", "1280x720", 8, 32),
    "vit-b16": Case("ViT-B/16 (150 M, 224 px)", "1280x720", 64, 16),  # for a GPU
}
DISTINCT = 4  # videos of a size; more are the same again under other names


def make_videos(folder: Path, count: int, size: str, seconds: float) -> list[Path]:
    """Moving pictures with noise, key frames every 60: what a codec has to work on."""
    paths = []
    for number in range(count):
        path = folder / f"{size}-{number:03d}.mp4"
        paths.append(path)
        if number >= DISTINCT:
            path.hardlink_to(paths[number % DISTINCT])
            continue
        source = f"testsrc2=size={size}:rate=30:duration={seconds},hue=h={30 * number},noise=alls=12:allf=t"
        command = ["ffmpeg", "-v", "error", "-y", "-f", "lavfi", "-i", source, "-c:v", "libx264", "-preset"]
        subprocess.run(
            [*command, "veryfast", "-crf", "28", "-g", "60", "-pix_fmt", "yuv420p", str(path)], check=True
        )
    return paths


def random_clip(folder: Path, patch: int) -> Path:
    """A CLIP of ViT-B's shape with random weights, as a transformers folder."""
    import torch
    from transformers import AutoTokenizer, CLIPConfig, CLIPModel
    from transformers.utils import logging

    from stepclip.extract.encoders import EMBEDDED

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED, local_files_only=True)
    end = tokenizer.eos_token_id
    torch.manual_seed(0)
    text = {"eos_token_id": end, "bos_token_id": tokenizer.bos_token_id, "vocab_size": len(tokenizer)}
    CLIPModel(CLIPConfig(text_config=text, vision_config={"patch_size": patch})).eval().save_pretrained(
        folder
    )
    tokenizer.save_pretrained(folder)
    return folder


Way = Callable[[], tuple[int, float]]  # gives frames, seconds


def loop(encoder: Any, paths: list[Path]) -> tuple[int, float]:
    """Frames and seconds of the straightforward loop; its features are thrown away."""
    import decord
    import torch
    from PIL import Image

    p = encoder.preprocess
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (p.mean, p.std))
    frames, began = 0, time.perf_counter()
    for path in paths:
        reader = decord.VideoReader(str(path), num_threads=0)
        step = reader.get_avg_fps() / FPS
        wanted = [round(k * step) for k in range(int(len(reader) / step))]
        pixels = []
        for frame in reader.get_batch(wanted).asnumpy():
            image = Image.fromarray(frame)
            scale = p.size / min(image.size)
            image = image.resize(
                (round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC
            )
            left, top = (image.width - p.crop) // 2, (image.height - p.crop) // 2
            image = image.crop((left, top, left + p.crop, top + p.crop))
            tensor = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).float() / 255
            pixels.append((tensor - mean) / std)
        with torch.inference_mode():
            batch = torch.stack(pixels).to(encoder.device)
            features = (
                encoder.model.get_image_features(pixel_values=batch).pooler_output.float().cpu().numpy()
            )
        frames += len(features)
    return frames, time.perf_counter() - began


def alone(encoder: Any, seconds: float) -> tuple[int, float]:
    """Images and seconds of the model on pixels that are there, on threads and in batches as the engine."""
    import torch

    from stepclip.extract.encoders.base import in_threads

    side = encoder.image_size
    pixels = torch.rand(encoder.at_once, 3, side, side, device=encoder.device)
    batches: Any = list(pixels.split(encoder.batch))

    def once(batch: Any) -> None:
        with torch.inference_mode():
            encoder._vision(batch)

    done, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        if encoder.device == "cpu":
            in_threads(once, batches)
        else:
            once(pixels)
            torch.cuda.synchronize()
        done += len(pixels)
    return done, time.perf_counter() - began


def processor() -> float:
    """Seconds that this process and its ended children have used, on all cores."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(each.ru_utime + each.ru_stime for each in used)


def in_turn(rounds: int, ways: dict[str, Way]) -> dict[str, list[tuple[float, float]]]:
    """Each way once a round, the order reversed each time: (frames/s, processor ms per frame)."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for number in range(rounds):
        for name in list(ways)[:: -1 if number % 2 else 1]:
            before = processor()
            frames, seconds = ways[name]()
            found[name].append((frames / seconds, 1000 * (processor() - before) / frames))
            rate, used = found[name][-1]
            print(
                f"    {name}: {rate:.1f} frames/s, {used:.1f} ms of processor, load {os.getloadavg()[0]:.1f}",
                flush=True,
            )
    return found


def measure(weights: str, paths: list[Path], folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """All ways of one encoder on these videos."""
    from stepclip.cache import Manifest, VideoRow
    from stepclip.extract import Sampling, extract, load_encoder

    manifest = Manifest(tuple(VideoRow(path.stem, str(path), steps=("stir",)) for path in paths))
    precise = load_encoder(weights, device=args.device)
    chosen = load_encoder(weights, device=args.device, precision=args.precision, compile=args.compile)
    reports: dict[str, list[Any]] = {ENGINE: [], ENGINE_FP32: []}

    def engine(name: str, encoder: Any) -> tuple[int, float]:
        with tempfile.TemporaryDirectory(dir=folder) as out:
            report = extract(manifest, out, encoder=encoder, sampling=Sampling(fps=FPS), progress=False)
        assert report.done == len(paths), report
        reports[name].append(report)
        return report.frames, report.seconds

    ways: dict[str, Way] = {LOOP: lambda: loop(precise, paths), ENGINE: lambda: engine(ENGINE, chosen)}
    if chosen.precision != "fp32":
        ways[ENGINE_FP32] = lambda: engine(ENGINE_FP32, precise)
    ways[ALONE] = lambda: alone(chosen, args.alone)
    alone(precise, 1.0), alone(chosen, 1.0)  # libraries loaded, threads started
    load = [os.getloadavg()[0]]
    found = in_turn(args.rounds, ways)
    load.append(os.getloadavg()[0])
    rates = {name: [rate for rate, _ in pairs] for name, pairs in found.items()}
    middle = {name: statistics.median(each) for name, each in rates.items()}
    used = {name: statistics.median(ms for _, ms in pairs) for name, pairs in found.items()}
    stages = {name: summary(each, middle[name]) for name, each in reports.items() if each}
    return {
        "device": chosen.device,
        "precision": chosen.precision,
        "videos": len(paths),
        "frames": reports[ENGINE][0].frames,
        "frames_per_s": {name: round(rate, 1) for name, rate in middle.items()},
        "processor_ms_per_frame": {name: round(ms, 1) for name, ms in used.items()},
        "rounds": {name: [round(rate, 1) for rate in each] for name, each in rates.items()},
        "times faster": round(statistics.median(map(truediv, rates[ENGINE], rates[LOOP])), 2),
        "less processor": round(used[LOOP] / used[ENGINE], 2),
        "share of the model alone": round(middle[ENGINE] / middle[ALONE], 2),
        "stages": stages,
        "load average": [round(each, 1) for each in load],
    }


def summary(reports: list[Any], middle: float) -> dict[str, Any]:
    """Of the round nearest to the median: how busy each stage was, what it could do alone, the limit."""
    report = min(reports, key=lambda each: abs(each.frames / each.seconds - middle))
    busy = {name: round(share, 2) for name, share in report.stages.busy(report.seconds).items()}
    rates = {name: round(rate, 1) for name, rate in report.stages.rates().items()}
    return {"busy": busy, "alone frames/s": rates, "limit": report.stages.limit(report.seconds)}


def checks(result: dict[str, Any]) -> list[dict[str, Any]]:
    """What was asked, what was found, whether it is met."""
    rows = []
    for name, row in result["cases"].items():
        found = {"times faster": row["times faster"], "busy": max(row["stages"][ENGINE]["busy"].values())}
        if row["device"] != "cpu":
            found["share of the model alone"] = row["share of the model alone"]
        rows += [
            {"case": name, "what": what, "found": value, "asked": ASKED[what], "met": value >= ASKED[what]}
            for what, value in found.items()
        ]
    return rows


def run(args: argparse.Namespace) -> dict[str, Any]:
    began = time.perf_counter()
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="bench-extract-", dir=args.scratch) as scratch:
        folder = Path(scratch)
        for name in args.cases:
            case = CASES[name]
            paths = make_videos(make(folder / name), args.videos or case.videos, case.size, args.seconds)
            print(f"{case.title}, {len(paths)} videos of {case.size}", flush=True)
            weights = "embedded"
            if case.patch is not None:
                weights = str(random_clip(folder / name / "weights", case.patch))
            results[name] = {"size": case.size, **measure(weights, paths, make(folder / name / "out"), args)}
    result = {
        "videos": f"{args.seconds:g} s of H.264 at 30 frames/s each",
        "sampling": f"{FPS:g} frames/s",
        "rounds": args.rounds,
        "quick": args.quick,
        "seconds": round(time.perf_counter() - began),
        "machine": machine("torch", "transformers", "av", "decord", "pillow") | gpu(),
        "cases": results,
    }
    return {**result, "asked": checks(result)}


def make(folder: Path) -> Path:
    folder.mkdir()
    return folder


def gpu() -> dict[str, str]:
    import torch

    return {"gpu": torch.cuda.get_device_name()} if torch.cuda.is_available() else {"gpu": "none"}


def table(result: dict[str, Any]) -> str:
    on = result["machine"]
    load = [each for row in result["cases"].values() for each in row["load average"]]
    lines = [
        f"{result['videos']}, {result['sampling']}; median of {result['rounds']} rounds; {on['cpu']}, "
        f"{on['cores']} cores, GPU: {on['gpu']}; load of the machine {min(load):g} to {max(load):g}"
        f"{', the quick form' * result['quick']}. Frames per second (ms of processor per frame):",
        "",
        "| encoder | videos | plain loop, fp32 | `stepclip extract` | faster | its fp32 | model alone "
        "| limit |",
        "|---|---|---:|---:|---:|---:|---:|---|",
    ]
    for name, row in result["cases"].items():
        cells = {
            way: f"{rate:g} ({row['processor_ms_per_frame'][way]:g})"
            for way, rate in row["frames_per_s"].items()
        }
        lines.append(
            f"| {CASES[name].title}, {row['device']}, {row['precision']} | {row['size']} | {cells[LOOP]} | "
            f"**{cells[ENGINE]}** | {row['times faster']:g} | {cells.get(ENGINE_FP32, 'the same')} | "
            f"{cells[ALONE]} | {row['stages'][ENGINE]['limit']} |"
        )
    return "\n".join(lines) + "\n"


def chart(result: dict[str, Any], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "stepclip"
    from matplotlib import pyplot as plt

    names = list(result["cases"])
    figure, axes = plt.subplots(
        1, len(names), figsize=(4.6 * len(names), 2.2), squeeze=False, constrained_layout=True
    )
    for axis, name in zip(axes[0], names, strict=True):
        row = result["cases"][name]
        for place, (way, rate) in enumerate(row["frames_per_s"].items()):
            low, high = min(row["rounds"][way]), max(row["rounds"][way])
            error = [[max(0, rate - low)], [max(0, high - rate)]]
            axis.barh(place, rate, color=COLOURS[way], xerr=error, error_kw={"linewidth": 0.8})
            axis.text(high, place, f"  {rate:g}", va="center", fontsize=8)
        axis.set_yticks(range(len(row["frames_per_s"])), list(row["frames_per_s"]), fontsize=8)
        axis.invert_yaxis()
        axis.set_xlim(0, 1.2 * max(max(rates) for rates in row["rounds"].values()))
        axis.set_title(f"{CASES[name].title}, {row['precision']}, {row['size']}", fontsize=9)
        axis.set_xlabel("frames/s (line: spread of the rounds)", fontsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, metadata={"Date": None})


def save(result: dict[str, Any], out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    (out / "extract.json").write_text(json.dumps(result, indent=1) + "\n")
    (out / "extract.md").write_text(table(result))
    chart(result, out / "extract.svg")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one round of few videos, in under a minute")
    parser.add_argument("--videos", type=int, default=None, help="of each encoder; default: its own number")
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--alone", type=float, default=3.0, help="seconds of the model alone, each round")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--cases", nargs="+", default=list(CASES)[:3], choices=list(CASES))
    parser.add_argument("--scratch", default=None, help="where videos and caches are made, and removed")
    parser.add_argument("--out", type=Path, default=HERE)
    args = parser.parse_args()
    if args.quick:
        args.videos, args.seconds, args.rounds, args.alone = args.videos or 2, 10.0, 1, 2.0
    result = run(args)
    save(result, args.out)
    if args.out == HERE and not args.quick:
        put("extract", table(result))
    print(table(result))
    for row in result["asked"]:
        print(f"{row['case']}, {row['what']}: {row['found']:g}, asked {row['asked']:g}")


if __name__ == "__main__":
    main()
