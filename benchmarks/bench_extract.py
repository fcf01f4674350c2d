"""Extraction against a straightforward loop, side by side, and which stage is the limit.

    python benchmarks/bench_extract.py [--videos 12] [--seconds 20] [--rounds 3] [--device auto] [--out DIR]

The loop is what one writes first: decord's get_batch, PIL preprocessing, one batch per video, fp32. Both take
the same videos (640 x 360 H.264 made by ffmpeg), 4 frames a second, and the same weights: the embedded
encoder and a ViT-B/32 of random weights. Rounds alternate between the two; medians. Also: the model alone on
tensors that are there already, which nothing can be faster than. Writes extract.json, .md and .svg beside
this script.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from machine import machine

HERE = Path(__file__).parent
FPS = 4.0
NAMES = {"embedded": "embedded (4.8 M, 112 px)", "vit-b32": "ViT-B/32 (151 M, 224 px)"}


def make_videos(folder: Path, count: int, seconds: float) -> list[Path]:
    """Moving pictures with noise, key frames every 60: what a codec has to work on."""
    paths = []
    for number in range(count):
        path = folder / f"{number:03d}.mp4"
        source = f"testsrc2=size=640x360:rate=30:duration={seconds},hue=h={30 * number},noise=alls=12:allf=t"
        command = ["ffmpeg", "-v", "error", "-y", "-f", "lavfi", "-i", source, "-c:v", "libx264", "-preset"]
        subprocess.run(
            [*command, "veryfast", "-crf", "28", "-g", "60", "-pix_fmt", "yuv420p", str(path)], check=True
        )
        paths.append(path)
    return paths


def random_vit_b32(folder: Path) -> Path:
    """A CLIP of ViT-B/32's shape with random weights, as a transformers folder."""
    import torch
    from transformers import AutoTokenizer, CLIPConfig, CLIPModel

    from stepclip.extract.encoders import EMBEDDED

    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED, local_files_only=True)
    end = tokenizer.eos_token_id
    torch.manual_seed(0)
    config = CLIPConfig(text_config={"eos_token_id": end, "vocab_size": len(tokenizer)})
    CLIPModel(config).eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def loop(encoder: Any, paths: list[Path]) -> float:
    """Seconds of the straightforward loop; its features are thrown away."""
    import decord
    import torch
    from PIL import Image

    p = encoder.preprocess
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (p.mean, p.std))
    began = time.perf_counter()
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
            encoder.model.get_image_features(pixel_values=batch).pooler_output.float().cpu().numpy()
    return time.perf_counter() - began


def alone(encoder: Any, seconds: float = 6.0) -> float:
    """Images per second of the model on tensors that are on the device already, its own batch size."""
    import torch

    side = encoder.image_size
    pixels = torch.rand(encoder.batch, 3, side, side, device=encoder.device)
    done, began = 0, time.perf_counter()
    with torch.inference_mode():
        encoder._vision(pixels)
        while time.perf_counter() - began < seconds:
            encoder._vision(pixels)
            if encoder.device != "cpu":
                torch.cuda.synchronize()
            done += len(pixels)
    return done / (time.perf_counter() - began)


def run(args: argparse.Namespace) -> dict[str, Any]:
    from stepclip.cache import Manifest, VideoRow
    from stepclip.extract import Sampling, extract, load_encoder

    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="bench-extract-", dir=args.scratch) as scratch:
        folder = Path(scratch)
        paths = make_videos(folder, args.videos, args.seconds)
        manifest = Manifest(tuple(VideoRow(path.stem, str(path), steps=("stir",)) for path in paths))
        weights = {"embedded": "embedded", "vit-b32": str(random_vit_b32(folder / "vit-b32"))}
        for name in args.encoders:
            precise = load_encoder(weights[name], device=args.device)
            encoder = load_encoder(
                weights[name], device=args.device, precision=args.precision, compile=args.compile
            )
            loops, engines, reports = [], [], []
            for number in range(args.rounds):
                loops.append(loop(precise, paths))
                out = folder / f"{name}-{number}"
                report = extract(manifest, out, encoder=encoder, sampling=Sampling(fps=FPS), progress=False)
                assert report.done == len(paths), report
                engines.append(report.seconds)
                reports.append(report)
            middle = reports[engines.index(sorted(engines)[len(engines) // 2])]
            frames = middle.frames
            results[name] = {
                "device": encoder.device,
                "precision": encoder.precision,
                "frames": frames,
                "loop frames/s": frames / statistics.median(loops),
                "engine frames/s": frames / statistics.median(engines),
                "times faster": statistics.median(loops) / statistics.median(engines),
                "model alone images/s": alone(encoder),
                "limit": middle.stages.limit(middle.seconds),
                "stages alone frames/s": middle.stages.rates(),
                "loop seconds": loops,
                "engine seconds": engines,
            }
            print(name, json.dumps(results[name], indent=1))
    return {
        "videos": f"{args.videos} of {args.seconds:g} s, 640x360 H.264 at 30 frames/s",
        "sampling": f"{FPS:g} frames/s",
        "rounds": args.rounds,
        "machine": machine(),
        "encoders": results,
    }


def table(result: dict[str, Any]) -> str:
    lines = [
        "| encoder | plain loop, frames/s | `stepclip extract`, frames/s | times faster "
        "| model alone, images/s | limit |",
        "|---|---:|---:|---:|---:|---|",
    ]
    for name, row in result["encoders"].items():
        lines.append(
            f"| {NAMES[name]}, {row['device']}, {row['precision']} | {row['loop frames/s']:.1f} | "
            f"{row['engine frames/s']:.1f} | {row['times faster']:.2f} | "
            f"{row['model alone images/s']:.1f} | {row['limit']} |"
        )
    return "\n".join(lines) + "\n"


def chart(result: dict[str, Any], path: Path) -> None:
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    names = list(result["encoders"])
    figure, axes = plt.subplots(1, len(names), figsize=(4.2 * len(names), 2.4), squeeze=False)
    for ax, name in zip(axes[0], names, strict=True):
        row = result["encoders"][name]
        bars = [row["loop frames/s"], row["engine frames/s"], row["model alone images/s"]]
        ax.barh(["loop", "stepclip extract", "model alone"], bars, color=["#999999", "#0072B2", "#E69F00"])
        for place, value in enumerate(bars):
            ax.text(value, place, f" {value:.0f}", va="center")
        ax.invert_yaxis()
        ax.set_xlim(0, max(bars) * 1.2)
        ax.set_title(NAMES[name], fontsize=9)
        ax.set_xlabel("frames per second")
        ax.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--videos", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--encoders", nargs="+", default=list(NAMES), choices=list(NAMES))
    parser.add_argument("--scratch", default=None, help="where videos and caches are made, and removed")
    parser.add_argument("--out", type=Path, default=HERE)
    args = parser.parse_args()
    result = run(args)
    (args.out / "extract.json").write_text(json.dumps(result, indent=2) + "\n")
    (args.out / "extract.md").write_text(table(result))
    chart(result, args.out / "extract.svg")
    print(table(result))


if __name__ == "__main__":
    main()
