"""GTEA: transcripts aligned with unseen videos, trained on transcripts without times, beside every control.

    python benchmarks/bench_gtea.py --features ../shared/data/features/gtea.npz [--seeds 3] [--root DIR]

The features of a split were trained with frame labels of its training videos, so only its test videos are
scored: 7 in each of splits 1 and 2. A transcript is the sequence of a video's labels, the background among
them, some 32 of 11 names. Everything is imported, trained and embedded by the package's own stages. Writes
gtea.json and gtea.md beside this script, and the table into docs/results.md.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from machine import machine
from readme import put

HERE = Path(__file__).parent
RESULTS = HERE.parent / "docs" / "results.md"
SPLITS = (1, 2)
ROUNDS, STEPS = 8, 200  # of expectation-maximisation with a classifier, and of its training in each
KEYS = ("frames", "iou", "place")
ASKED = {"frames": 0.52, "iou": 0.27}
Aligner = Callable[[str], np.ndarray]  # a video's id -> the place in its transcript (T,) of each frame
OURS = "recipe gtea"
#: what is trained: the recipe, and the same without one of its parts
TRAINED: dict[str, tuple[str, ...]] = {
    OURS: (),
    "... without durations": ("model.durations=0.0",),
    "... with labels by the model itself": ("loss.labels=soft-visit-all",),
}


@dataclass
class Split:
    """One split: the truth (T,) places in `names` of each video, its features (T, D) and supplied scores."""

    number: int
    root: Path
    names: list[str]
    features: dict[str, np.ndarray]
    scores: dict[str, np.ndarray]
    labels: dict[str, np.ndarray]
    test: list[str]

    @property
    def train(self) -> list[str]:
        return [video for video in self.labels if video not in self.test]

    def script(self, video: str) -> np.ndarray:
        """The transcript (S,): the labels, each run of one label once."""
        labels = self.labels[video]
        return labels[np.flatnonzero(np.diff(labels, prepend=-1))]


def read(source: Path, number: int, root: Path) -> Split:
    """A split of the file, and its cache under `root`, made by the import."""
    from stepclip.extract.datasets.gtea import LABELS
    from stepclip.pipelines.caches import import_stage
    from stepclip.pipelines.paths import Layout

    here = root / f"split{number}"
    import_stage(
        Layout(here), str(source), "gtea", split=number, encoder="names", background=[], progress=False
    )
    with np.load(source) as file:
        videos = sorted({name.split("/")[1] for name in file.files if name.startswith(f"split{number}/S")})

        def of(kind: str) -> dict[str, np.ndarray]:
            return {video: file[f"split{number}/{video}/{kind}"] for video in videos}

        frames = {video: x.astype(np.float32) for video, x in of("features").items()}
        labels = {video: x.astype(np.int64) for video, x in of("labels").items()}
        test = [str(video) for video in file[f"split{number}/test_ids"]]
        return Split(number, here, list(LABELS), frames, of("softmax"), labels, test)


def score(split: Split, align: Aligner) -> dict[str, float]:
    """`align` gives the place in the transcript (T,) of each frame. Means over the test videos: `frames` with
    the right label, `place` those at the right place of the transcript, `iou` mean over its steps."""
    rows = []
    for video in split.test:
        labels, script, found = split.labels[video], split.script(video), align(video)
        place = np.cumsum(np.diff(labels, prepend=labels[0]) != 0)
        both = [
            ((found == k) & (place == k)).sum() / ((found == k) | (place == k)).sum()
            for k in range(len(script))
        ]
        rows.append((np.mean(script[found] == labels), np.mean(found == place), np.mean(both)))
    return dict(zip(("frames", "place", "iou"), np.mean(rows, axis=0).tolist(), strict=True))


def viterbi(scores: np.ndarray, script: np.ndarray) -> np.ndarray:
    """The best way through the transcript (S,) by log-scores (T, C): (T,) places in it."""
    import torch

    from stepclip.train.alignment import monotone

    return monotone(torch.as_tensor(scores[:, script]).float(), visit_all=True).numpy()


def hard_em(split: Split, prior: bool) -> Aligner:
    """A linear classifier of frames, trained anew on its own Viterbi labels of the training videos, from
    equal parts. `prior`: its probabilities divided by how frequent its labels are (Kuehne et al. 2017)."""
    import torch
    from torch.nn.functional import cross_entropy

    every = np.concatenate([split.features[video] for video in split.train])
    mean, std = every.mean(0), every.std(0)
    x = {video: torch.from_numpy((features - mean) / std) for video, features in split.features.items()}
    frames = torch.cat([x[video] for video in split.train])
    found = {v: np.arange(len(x[v])) * len(split.script(v)) // len(x[v]) for v in split.train}
    for seed in range(ROUNDS):
        labels = torch.from_numpy(np.concatenate([split.script(v)[found[v]] for v in split.train]))
        torch.manual_seed(seed)
        model = torch.nn.Linear(frames.shape[1], len(split.names))
        optimiser = torch.optim.Adam(model.parameters(), 1e-2, weight_decay=1e-4)
        for _ in range(STEPS):
            loss = cross_entropy(model(frames), labels)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        counts = torch.bincount(labels, minlength=len(split.names)).clamp(min=1)
        off = (counts / len(labels)).log() if prior else torch.zeros(len(split.names))

        def align(video: str, model: Any = model, off: Any = off) -> np.ndarray:
            with torch.no_grad():
                scores = model(x[video]).log_softmax(1) - off
            return viterbi(scores.numpy(), split.script(video))

        found = {video: align(video) for video in split.train}
    return align


def train(split: Split, changed: Sequence[str], seed: int) -> Any:
    """A checkpoint of the recipe with some knobs changed."""
    from stepclip.pipelines.paths import Layout
    from stepclip.pipelines.stages import train_stage
    from stepclip.train.checkpoint import load_checkpoint

    overrides = (f"seed={seed}", *changed)
    layout = Layout(split.root)
    run, _ = train_stage(layout, "gtea", "gtea", "run", overrides, overwrite=True, progress=False)
    return load_checkpoint(run.folder)


def embedded(split: Split, checkpoint: Any, videos: Sequence[str]) -> tuple[Any, Any]:
    from stepclip.cache import FeatureStore
    from stepclip.evaluate.embed import embed, embed_raw

    store = FeatureStore.open(split.root / "data" / "gtea" / "features")
    return store, embed_raw(store, videos) if checkpoint is None else embed(checkpoint, store, videos)


def trained(split: Split, checkpoint: Any) -> dict[str, Aligner]:
    """How a checkpoint aligns; what it expects of durations alone; the supplied scores with these."""
    import torch

    from stepclip.evaluate.localisation import align_scripts, duration_split
    from stepclip.train.alignment import duration_labels

    store, e = embedded(split, checkpoint, split.test)
    scripts = [[split.names[k] for k in split.script(video)] for video in split.test]
    found = align_scripts(e, store, np.arange(len(scripts)), scripts).labels
    ways = {"": dict(zip(split.test, found, strict=True)).__getitem__}
    lasting = e.lasting(store, split.names)
    if lasting is not None:

        def cut(video: str) -> np.ndarray:
            return duration_split(len(split.labels[video]), lasting.numpy()[split.script(video)])

        def supplied(video: str) -> np.ndarray:
            script = split.script(video)
            size = torch.tensor([len(split.labels[video])]), torch.tensor([len(script)])
            log_p = torch.as_tensor(np.log(split.scores[video].astype(np.float32) + 1e-8)[None][:, :, script])
            return duration_labels(log_p, lasting[script][None], *size, checkpoint.model.least)[0].numpy()

        ways |= {"cut": cut, "supplied": supplied}
    return ways


def same_activity(split: Split, checkpoint: Any) -> dict[str, dict[str, float]]:
    """P@1 among the other 27 videos of the split, asked by all and by the unseen ones alone."""
    from stepclip.evaluate.distances import every_pair

    videos = list(split.labels)
    _, e = embedded(split, checkpoint, videos)
    activity = np.array([video.split("_")[1] for video in videos])
    unseen = np.array([video in split.test for video in videos])
    found = {}
    for kind in ("pooled", "alignment"):
        distances = every_pair(e, kind)
        np.fill_diagonal(distances, np.inf)
        right = activity[distances.argmin(1)] == activity
        found[kind] = {"all": float(right.mean()), "unseen": float(right[unseen].mean())}
    return found


def measure(source: Path, root: Path, seeds: int, only: int | None = None) -> dict[str, Any]:
    """Rows of figures, of each seed (one where nothing is trained) and split; `only`: so many of TRAINED."""
    splits = [read(source, number, root) for number in SPLITS]
    rows: list[dict[str, Any]] = []

    def add(name: str, kind: str, figures: list[list[dict[str, float]]]) -> None:
        rows.append({"name": name, "kind": kind, "figures": figures})
        print(f"{name:<40}" + "  ".join(f"{key} {cell(rows[-1], key)}" for key in KEYS), flush=True)

    def uniform(s: Split) -> Aligner:
        return lambda v: np.arange(len(s.labels[v])) * len(s.script(v)) // len(s.labels[v])

    def supplied(s: Split) -> Aligner:
        return lambda v: viterbi(np.log(s.scores[v].astype(np.float32) + 1e-8), s.script(v))

    add("uniform split", "control", [[score(s, uniform(s)) for s in splits]])
    add("hard EM", "control", [[score(s, hard_em(s, False)) for s in splits]])
    add("hard EM, divided by the prior", "control", [[score(s, hard_em(s, True)) for s in splits]])
    add("Viterbi over the supplied scores", "with frame labels", [[score(s, supplied(s)) for s in splits]])
    pairs = {"raw": [[same_activity(s, None) for s in splits]], "trained": []}
    for name, changed in list(TRAINED.items())[:only]:
        ways: list[list[dict[str, dict[str, float]]]] = []
        for seed in range(seeds):
            checkpoints = [train(s, changed, seed) for s in splits]
            found = [trained(s, checkpoint) for s, checkpoint in zip(splits, checkpoints, strict=True)]
            ways.append(
                [
                    {way: score(s, align) for way, align in f.items()}
                    for s, f in zip(splits, found, strict=True)
                ]
            )
            if name == OURS:
                pairs["trained"].append(
                    [same_activity(*each) for each in zip(splits, checkpoints, strict=True)]
                )
        add(name, "trained", [[split[""] for split in seed] for seed in ways])
        if name == OURS:
            add("its durations alone", "control", [[split["cut"] for split in seed] for seed in ways])
            add(
                "the supplied scores, with its durations",
                "with frame labels",
                [[split["supplied"] for split in seed] for seed in ways],
            )
    about = machine("torch", "numba")
    return {"rows": rows, "pairs": pairs, "seeds": seeds, "asked": ASKED, "machine": about}


def cell(row: dict[str, Any], key: str) -> str:
    """The mean over splits, and its deviation over seeds."""
    means = [np.mean([split[key] for split in seed]) for seed in row["figures"]]
    return f"{np.mean(means):.3f}" + (f" ± {np.std(means, ddof=1):.3f}" if len(means) > 1 else "")


def table(result: dict[str, Any]) -> str:
    """What stands in gtea.md and docs/results.md."""
    lines = [
        "| | | right frames | IoU of steps | right place | frames, split 1 | split 2 |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        each = [f"{np.mean([seed[i]['frames'] for seed in row['figures']]):.3f}" for i in range(len(SPLITS))]
        name = f"**{row['name']}**" if row["name"] == OURS else row["name"]
        cells = [name, row["kind"], *(cell(row, key) for key in KEYS), *each]
        lines.append(f"| {' | '.join(cells)} |")
    asked = result["asked"]
    lines += [
        "",
        f"Asked: frames {asked['frames']}, IoU {asked['iou']}. Test videos of splits 1 and 2 (7 each), "
        f"mean over videos, then splits; ± over {result['seeds']} seeds. Right frames: the right name; right "
        "place: the right one of its occurrences.",
        "",
        "| same activity, P@1 among the 27 others | all 28 ask | the 7 unseen ask |",
        "|---|---|---|",
    ]
    said = {"raw": "raw features", "trained": "recipe gtea"}
    how = {"pooled": "mean over frames", "alignment": "DTW"}
    for kind, name in said.items():
        for way, words in how.items():
            both = [
                np.mean([split[way][asks] for seed in result["pairs"][kind] for split in seed])
                for asks in ("all", "unseen")
            ]
            lines.append(f"| {name}, {words} | {both[0]:.2f} | {both[1]:.2f} |")
    return "\n".join(lines)


def save(result: dict[str, Any], folder: Path) -> None:
    (folder / "gtea.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    about = result["machine"]
    head = "# GTEA: transcripts without times\n\n`python benchmarks/bench_gtea.py`, "
    head += f"{about['cpu']}, torch {about['torch']}\n"
    (folder / "gtea.md").write_text(f"{head}\n{table(result)}\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--features", type=Path, default=HERE / "../../shared/data/features/gtea.npz", help="gtea.npz"
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--root", type=Path, help="where runs are kept; else they are removed")
    args = parser.parse_args()
    if not args.features.is_file():
        print(f"no file {args.features}: nothing to run (--features gtea.npz)")
        return
    with tempfile.TemporaryDirectory() as folder:
        result = measure(args.features.resolve(), args.root or Path(folder), args.seeds)
    save(result, HERE)
    put("gtea", table(result), RESULTS)


if __name__ == "__main__":
    main()
