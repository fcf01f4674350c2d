"""The released CSV schedule in full: 300 epochs of 800 videos on a cache of CSV's shape.

    python benchmarks/bench_csv_run.py --annotations ../shared/data/annotations/CSV [--recipe csv]

The videos of CSV are not here, its lists and scripts are. So the cache is planted: every frame is the
direction of its step's sentence, under noise and an offset of the video, 512 numbers at 4 frames/s. What is
measured is the time of stages two and three at the real size; the scores say only that such a signal is
found. Trained and evaluated by `stepclip train` and `stepclip eval` themselves. Writes csv_run.json and .md
beside this script.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from machine import machine

HERE = Path(__file__).parent
DIM, FPS, NOISE, OFFSET = 512, 4.0, 1.2, 1.0  # of unit sentence directions; the noise hides single frames
ASKED_MINUTES = 25


def plant(root: Path, annotations: Path) -> dict[str, int]:
    """data/csv/ under `root`: the released manifest, and features made from its scripts."""
    from stepclip.cache.files import write_json
    from stepclip.cache.fingerprint import Fingerprint
    from stepclip.cache.writer import FeatureWriter
    from stepclip.extract.datasets import load_dataset
    from stepclip.pipelines.paths import Layout

    paths = Layout(root).dataset("csv")
    shutil.rmtree(paths.folder, ignore_errors=True)
    for split in ("train", "test"):
        for line in (annotations / f"{split}_split.txt").read_text().splitlines():
            fields = line.split()
            if len(fields) == 2 and not fields[0].startswith("._"):
                name = paths.folder / "videos" / fields[1] / fields[0]
                name.parent.mkdir(parents=True, exist_ok=True)
                name.touch()
    loaded = load_dataset("csv", paths.folder / "videos", annotations)
    manifest, rng, frames = loaded.manifest, np.random.default_rng(0), 0
    unit = {s: v / np.linalg.norm(v) for s in manifest.steps() for v in [rng.normal(size=DIM)]}
    scripts = {video.paragraph: video.steps for video in manifest}
    made = Fingerprint({"encoder.name": "planted", "sampling.fps": FPS, "schema": 1})
    with FeatureWriter(paths.features, made, dim=DIM, shard_videos=256) as writer:
        writer.add_text(list(unit), np.stack(list(unit.values())), "step")
        whole = np.stack([np.mean([unit[s] for s in steps], 0) for steps in scripts.values()])
        writer.add_text(list(scripts), whole, "paragraph")
        for video in manifest:
            shown = rng.integers(8, 30, len(video.steps))
            x = np.repeat(np.stack([unit[s] for s in video.steps]), shown, axis=0)
            x = x + (NOISE * rng.normal(size=x.shape) + OFFSET * rng.normal(size=DIM)) / DIM**0.5
            writer.add(video.video_id, x.astype(np.float16), np.arange(len(x)) / FPS, len(x) / FPS)
            frames += len(x)
    manifest.write(paths.manifest)
    write_json(paths.extra, loaded.extra)
    return {"videos": len(manifest), "frames": frames, "sentences": len(unit)}


def timed(*command: str) -> float:
    began = time.perf_counter()
    subprocess.run([Path(sys.executable).with_name("stepclip"), *command], check=True)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--annotations", type=Path, default=HERE / "../../shared/data/annotations/CSV")
    parser.add_argument("--root", type=Path, default=Path("build/csv-run"))
    parser.add_argument("--recipe", default="csv")
    parser.add_argument("--epochs", type=int, default=300)
    given = parser.parse_args()
    if not given.annotations.is_dir():
        print(f"no annotations of CSV in {given.annotations}: nothing to run (--annotations DIR)")
        return
    from stepclip.cache.files import read_json, write_json

    data = plant(given.root, given.annotations)
    where = ("--root", str(given.root), "--dataset", "csv", "--run", "whole")
    train = timed(
        "train", *where, "--recipe", given.recipe, "--set", f"train.epochs={given.epochs}", "--overwrite"
    )
    evaluated = timed("eval", *where)
    results: dict[str, Any] = read_json(given.root / "runs" / "whole" / "results.json")
    best = {row["name"]: row["auc"] for row in results["verification"] if row.get("auc") is not None}
    found = {
        "machine": machine("torch"),
        "setting": {"recipe": given.recipe, "epochs": given.epochs, **data},
        "minutes": {"train": round(train / 60, 2), "eval": round(evaluated / 60, 2)},
        "auc": best,
        "asked": {"minutes": ASKED_MINUTES, "met": train / 60 < ASKED_MINUTES},
    }
    write_json(HERE / "csv_run.json", found)
    lines = [
        f"`{given.recipe}`, {given.epochs} epochs of 800 videos, on a planted cache of CSV's shape "
        f"({data['videos']} videos, {data['frames']} frames of {DIM} numbers): "
        f"trained in {train / 60:.1f} minutes (asked: under {ASKED_MINUTES}), "
        f"evaluated in {evaluated / 60:.1f}. {found['machine']['cores']} cores, no GPU.",
        "",
        "| verification, planted signal | AUC % |",
        "|---|---:|",
        *(f"| {name} | {100 * auc:.1f} |" for name, auc in best.items()),
    ]
    (HERE / "csv_run.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
