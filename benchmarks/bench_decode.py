"""Frames per second of every decoder, by how densely the frames of a video are wanted.

    python benchmarks/bench_decode.py [--quick] [--seconds 30] [--size 1280x720] [--rounds 3] [--out DIR]

One H.264 video with a key frame every 60 frames and one with every 250 (ffmpeg's moving pictures with noise,
30 frames a second), decoded to a short side of 224. `pyav, all read` is PyAV that passes over nothing: it
neither goes to key frames nor leaves out frames that no other is predicted from. The decoders take turns, so
that what else the machine does hits all alike; medians of the rounds. Frames per second count what comes out;
the processor's time is that of all threads and child processes. Writes decode.json (with the machine and its
load), .md and .svg beside this script and the table of README.md; with --quick or --out DIR not README.md.
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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from machine import machine
from readme import put

HERE = Path(__file__).parent
GAPS = (60, 250)  # frames from key frame to key frame
READ_ALL = "pyav, all read"
COLOURS = {"pyav": "#0072B2", READ_ALL: "#56B4E9"}  # Okabe and Ito


def make_video(path: Path, size: str, seconds: float, gap: int) -> Path:
    source = f"testsrc2=size={size}:rate=30:duration={seconds},noise=alls=8:allf=t"
    command = ["ffmpeg", "-v", "error", "-y", "-f", "lavfi", "-i", source, "-c:v", "libx264"]
    options = f"-preset veryfast -crf 26 -g {gap} -keyint_min {gap} -sc_threshold 0 -pix_fmt yuv420p".split()
    subprocess.run([*command, *options, str(path)], check=True)
    return path


def samplings() -> dict[str, Any]:
    from stepclip.extract.decoders import Sampling

    return {
        "8 frames": Sampling(frames=8),
        "16 frames": Sampling(frames=16),
        "WeakSVR's 48": Sampling(weaksvr="test"),
        "1 frame/s": Sampling(fps=1),
        "4 frames/s": Sampling(fps=4),
        "all": Sampling(all=True),
    }


def processor() -> float:
    """Seconds that this process and its ended children have used, on all cores."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(each.ru_utime + each.ru_stime for each in used)


@contextmanager
def reading_all() -> Iterator[None]:
    """PyAV that passes over nothing."""
    from stepclip.extract.decoders import pyav

    before, pyav.pays = pyav.pays, lambda *_: False
    try:
        yield
    finally:
        pyav.pays = before


def ways() -> dict[str, Callable[[Path, Any], int]]:
    """Name -> a function that decodes a file by a sampling and says how many frames came."""
    from stepclip.extract.decoders import backends, get_decoder

    def plain(name: str) -> Callable[[Path, Any], int]:
        decoder = get_decoder(name)
        return lambda path, sampling: sum(1 for _ in decoder.stream(path, sampling, size=224)) - 1

    pyav = plain("pyav")

    def read_all(path: Path, sampling: Any) -> int:
        with reading_all():
            return pyav(path, sampling)

    others = [each.name for each in backends() if each.usable and each.name != "pyav"]
    return {"pyav": pyav, READ_ALL: read_all, **{name: plain(name) for name in others}}


def run(seconds: float, size: str, rounds: int) -> dict[str, Any]:
    rows, load = [], [os.getloadavg()[0]]
    began_all = time.perf_counter()
    decoders = ways()
    with tempfile.TemporaryDirectory() as folder:
        for gap in GAPS:
            path = make_video(Path(folder) / f"{gap}.mp4", size, seconds, gap)
            for way in decoders.values():
                way(path, samplings()["8 frames"])  # libraries loaded, the file in the page cache
            for label, sampling in samplings().items():
                taken: dict[str, list[tuple[float, float]]] = {name: [] for name in decoders}
                frames = {}
                for _ in range(rounds):
                    for name, way in decoders.items():
                        used, began = processor(), time.perf_counter()
                        frames[name] = way(path, sampling)
                        taken[name].append((time.perf_counter() - began, processor() - used))
                assert len(set(frames.values())) == 1, f"{label}: {frames}"
                for name, times in taken.items():
                    wall, used = (statistics.median(column) for column in zip(*times, strict=True))
                    rows.append(
                        {
                            "key_frame_every": gap,
                            "sampling": label,
                            "decoder": name,
                            "frames": frames[name],
                            "frames_per_s": round(frames[name] / wall, 1),
                            "spread": round(max(t for t, _ in times) / min(t for t, _ in times) - 1, 2),
                            "processor_ms_per_frame": round(1000 * used / frames[name], 1),
                        }
                    )
                    print(
                        f"{gap:4} {label:13} {name:16} {rows[-1]['frames_per_s']:8.1f} frames/s", flush=True
                    )
                load.append(os.getloadavg()[0])
    versions = ["av", "decord", "torch"] + (["torchcodec"] if "torchcodec" in decoders else [])
    what = {"seconds": seconds, "size": size, "rounds": rounds, "to": 224, "rate": 30}
    return {
        "what": what,
        "machine": machine(*versions),
        "load average": [round(min(load), 1), round(max(load), 1)],
        "took": round(time.perf_counter() - began_all),
        "rows": rows,
    }


def table(result: dict[str, Any], key: str, gap: int) -> dict[str, dict[str, float]]:
    """Decoder -> sampling -> figure."""
    found: dict[str, dict[str, float]] = {}
    for row in result["rows"]:
        if row["key_frame_every"] == gap:
            found.setdefault(row["decoder"], {})[row["sampling"]] = row[key]
    return found


def setting(result: dict[str, Any]) -> str:
    what, on, load = result["what"], result["machine"], result["load average"]
    return (
        f"{what['seconds']:g} s of {what['size']} H.264 at {what['rate']} frames/s, to a short side of "
        f"{what['to']}; median of {what['rounds']} rounds; {on['cpu']}, {on['cores']} cores; load of the "
        f"machine {load[0]:g} to {load[1]:g}; "
        + ", ".join(f"{name} {on[name]}" for name in ("av", "decord", "torchcodec") if name in on)
    )


def overview(result: dict[str, Any]) -> str:
    """The part for README.md: frames per second of both videos in one table."""
    sparse, dense = (table(result, "frames_per_s", gap) for gap in (250, 60))
    labels = list(next(iter(dense.values())))
    best = {(id(of), x): max(row[x] for row in of.values()) for of in (sparse, dense) for x in labels}
    lines = [
        f"{setting(result)}. Frames per second that come out, key frame every 250 / every 60 frames:",
        "",
        "| | " + " | ".join(labels) + " |",
        "|---|" + "---:|" * len(labels),
    ]
    for name in dense:
        cells = []
        for x in labels:
            pair = (f"**{of[name][x]:g}**" if of[name][x] == best[id(of), x] else f"{of[name][x]:g}"
                    for of in (sparse, dense))  # fmt: skip
            cells.append(" / ".join(pair))
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def markdown(result: dict[str, Any]) -> str:
    lines = [f"{setting(result)}.", ""]
    for key, title in (("frames_per_s", "frames/s"), ("processor_ms_per_frame", "ms of processor per frame")):
        for gap in GAPS:
            found = table(result, key, gap)
            labels = list(next(iter(found.values())))
            lines += [f"| {title}, key frame every {gap} | " + " | ".join(labels) + " |"]
            lines += ["|---|" + "---:|" * len(labels)]
            best = {
                label: (max if key == "frames_per_s" else min)(row[label] for row in found.values())
                for label in labels
            }
            for name, row in found.items():
                cells = [f"**{row[x]:g}**" if row[x] == best[x] else f"{row[x]:g}" for x in labels]
                lines.append(f"| {name} | " + " | ".join(cells) + " |")
            lines.append("")
    return "\n".join(lines)


def chart(result: dict[str, Any], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "stepclip"
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, len(GAPS), figsize=(11, 4), constrained_layout=True, sharey=True)
    for axis, gap in zip(axes, GAPS, strict=True):
        found = table(result, "frames_per_s", gap)
        labels = list(next(iter(found.values())))
        width, others = 0.8 / len(found), iter(("#E69F00", "#999999", "#009E73", "#CC79A7"))
        for place, (name, row) in enumerate(found.items()):
            x = [k + (place - (len(found) - 1) / 2) * width for k in range(len(labels))]
            colour = COLOURS.get(name) or next(others)
            axis.bar(x, [row[label] for label in labels], width, label=name, color=colour)
        axis.set_xticks(range(len(labels)), labels, rotation=30, ha="right", fontsize=8)
        axis.set_yscale("log")
        axis.set_title(f"key frame every {gap} frames", fontsize=10)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("frames/s that come out")
    axes[0].legend(fontsize=8, frameon=False)
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one round of a short video")
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--size", default="1280x720")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=HERE)
    options = parser.parse_args()
    if options.quick:
        options.seconds, options.rounds = 8.0, 1
    result = run(options.seconds, options.size, options.rounds)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "decode.json").write_text(json.dumps(result, indent=1) + "\n")
    (options.out / "decode.md").write_text(markdown(result))
    chart(result, options.out / "decode.svg")
    if options.out == HERE and not options.quick:
        put("decode", overview(result))
    print(overview(result), markdown(result), sep="\n")


if __name__ == "__main__":
    main()
