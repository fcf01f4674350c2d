"""Scripts searched and recordings checked, on the synthetic bench, where the truth is known.

    python benchmarks/bench_check.py [--root DIR] [--run RUN] [--out DIR] [--seed 0]

Renders, extracts and trains (recipe stepclip-weaksvr) under ROOT what is not there. All figures are of the
test split: people and tasks that were not trained on. Writes check.json, check.md and check.svg into OUT.

- Scripts: each test script is searched among all test videos, among the videos of its task that hold the same
  steps in three orders, and among the three of those by one person. Vectors alone against the ordered
  re-ranking.
- Faults: of each test recording one of each kind is made by cutting its frames at the true step borders: a
  step left out, two exchanged, one repeated, a strange one put in; and it is kept sound. `check` is fitted on
  the training recordings, from their scripts alone. Recordings used as references are of other people.
- Other procedures: each recording is checked against its own script and against those of its task's other
  procedures, which the renderer really performed: other orders, steps less, steps more.
- Pairs: `compare` on the bench's verification pairs.
Controls: the same on the features as they are and centred, without learning; borders of a uniform split; the
F1 of reporting every step.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from check_report import save
from machine import machine

from stepclip.cache.manifest import Manifest, VideoRow
from stepclip.cache.store import FeatureStore
from stepclip.evaluate.checking import Checker, check, compare, fit_checker
from stepclip.evaluate.checking.faults import Recording, Recordings, with_faults
from stepclip.evaluate.checking.fitting import partners
from stepclip.evaluate.checking.likeness import References, other_sentences
from stepclip.evaluate.checking.scoring import auc, calibration, score_checks, truth_of
from stepclip.evaluate.embed import Embedded, centred, embed, embed_raw
from stepclip.evaluate.localisation import true_spans
from stepclip.evaluate.retrieval import Queries, retrieve
from stepclip.evaluate.search.ordered import fine, make_windows
from stepclip.evaluate.search.vectors import WINDOW_SECONDS, window_means
from stepclip.pipelines.paths import Layout
from stepclip.train.checkpoint import load_checkpoint

HERE = Path(__file__).parent
DATASET, RECIPE = "benchlab", "stepclip-weaksvr"
Embed = Callable[[Any, Sequence[str]], Embedded]


def person(video_id: str) -> str:
    """Who performs: the end of the id, 10.1/test00 or 10.1-test00; a fault's name behind | does not count."""
    return re.split("[/-]", video_id.partition("|")[0])[-1]


# ---- scripts


def script_search(ways: dict[str, Embedded], raw: Embedded, store: Any, videos: Sequence[VideoRow]) -> Any:
    """R@1, R@5 and MRR of test scripts, of vectors alone and of the ordered re-ranking."""
    queries = Queries.of(videos)
    kind = {v.steps: v.procedure.rpartition(".")[2] for v in videos}
    task = {v.steps: v.task for v in videos}
    orders = np.array([kind[v.steps] in ("1", "2", "3") for v in videos])
    of_task = np.array([v.task for v in videos])
    who = np.array([person(v.video_id) for v in videos])
    scores: dict[str, np.ndarray] = {}
    trained = ways["trained"]
    paragraph = trained.texts(store, list(queries.paragraphs), "paragraph")
    scores["one vector of the video, trained"] = (paragraph @ F.normalize(trained.video, dim=-1).T).numpy()
    paragraph = raw.texts(store, list(queries.paragraphs), "paragraph")
    scores["one vector of the video, raw"] = (paragraph @ F.normalize(raw.video, dim=-1).T).numpy()
    moments = F.normalize(window_means(raw, WINDOW_SECONDS), dim=-1)
    best = []
    for script in queries.scripts:
        cosine = moments @ raw.texts(store, list(script), "step").T
        best.append([float(cosine[raw.slice(i)].max(0).values.mean()) for i in range(len(raw))])
    scores["best moment for each step (the recall)"] = np.array(best)
    for name, way in ways.items():
        windows, every = make_windows(way.frames, way.offsets), np.arange(len(way))
        ordered = [fine(windows, every, way.texts(store, list(s), "step")).scores for s in queries.scripts]
        scores[f"ordered, {name}"] = np.stack(ordered)
    rows = []
    for name, table in scores.items():
        whole = retrieve(table, queries.relevant)
        inside, lists = [], []
        for q, script in enumerate(queries.scripts):
            if kind[script] in ("1", "2", "3"):
                gallery = orders & (of_task == task[script])
                inside.append(retrieve(table[q : q + 1, gallery], queries.relevant[q : q + 1, gallery]))
                for each in dict.fromkeys(who[gallery]):
                    three = gallery & (who == each)
                    if not queries.relevant[q, three].any():
                        continue
                    lists.append(retrieve(table[q : q + 1, three], queries.relevant[q : q + 1, three]).r1)
        rows.append(
            {
                "name": name, "r1": whole.r1, "r5": whole.r5, "mrr": whole.mrr,
                "orders_r1": float(np.mean([r.r1 for r in inside])),
                "orders_mrr": float(np.mean([r.mrr for r in inside])),
                "lists_r1": float(np.mean(lists)),
            }
        )  # fmt: skip
    counts = {"queries": len(queries.scripts), "gallery": len(videos), "orders": len(inside)}
    return {**counts, "lists": len(lists), "rows": rows}


# ---- faults


def made_faults(store: FeatureStore, videos: Sequence[VideoRow], seed: int) -> tuple[list[Recording], float]:
    """A sound recording and one of each fault of every video, cut at the true borders."""
    sources = {}
    pace = 1.0
    for video in videos:
        frames, truth = store[video.video_id], true_spans(video)
        assert truth is not None
        pace = float(np.diff(frames.times).mean())
        spans = [tuple(int(x) for x in np.searchsorted(frames.times, span)) for span in truth]
        sources[video.video_id] = (np.asarray(frames.features), spans, video.steps, pace)
    return with_faults(sources, partners(videos, seed), seed), pace


class Way:
    """A way to look at videos, with the checker fitted for it and the test recordings as it sees them."""

    def __init__(
        self, embed: Embed, store: FeatureStore, train: Sequence[VideoRow], videos: Sequence[VideoRow]
    ) -> None:
        self.embed, self.store, self.videos = embed, store, videos
        self.checker: Checker = fit_checker(train, store, embed)
        self.plain = embed(store, [v.video_id for v in videos])
        self.references = References.take(self.plain, store, videos)

    def reports(
        self, embedded: Embedded, asked: Sequence[tuple[str, Sequence[str], str]], by_others: bool
    ) -> list[Any]:
        """Reports of (name in `embedded`, script, task); references are of other people."""
        found = []
        for name, script, task in asked:
            without = [v.video_id for v in self.videos if person(v.video_id) == person(name)]
            found.append(
                check(
                    embedded,
                    self.store,
                    embedded.row(name),
                    script,
                    self.checker,
                    other_sentences(script, task, self.videos),
                    self.references if by_others else None,
                    without=without,
                )
            )
        return found


def faults(ways: dict[str, Way], made: Sequence[Recording], pace: float, store: FeatureStore) -> Any:
    """Each way's scores, by the sentences alone and with references; borders of a uniform split beside."""
    truths = [truth_of(each, pace) for each in made]
    rows = []
    for name, way in ways.items():
        task = {v.video_id: v.task for v in way.videos}
        embedded = way.embed(Recordings(made, store), [each.name for each in made])
        asked = [(each.name, each.script, task[each.name.partition("|")[0]]) for each in made]
        for by, others in (("script", False), ("references", True)):
            score = score_checks(way.reports(embedded, asked, others), truths)
            rows.append({"name": f"{name}, {by}", **score.to_dict()})
    errors = []
    for each, truth in zip(made, truths, strict=True):
        edges = np.linspace(0, len(each.features) * pace, len(each.script) + 1)
        errors += [abs(edges[k + n] - t) for k, span in truth.spans.items() for n, t in enumerate(span)]
    uniform = {"border": float(np.mean(errors)), "border_median": float(np.median(errors))}
    return {"recordings": len(made), "rows": rows, "uniform": uniform}


def other_procedures(ways: dict[str, Way]) -> Any:
    """AUC of the verdict: each recording against its own script, and against its task's other procedures."""
    rows = []
    for name, way in ways.items():
        scripts = {v.procedure: v.steps for v in way.videos}
        asked = [
            (v.video_id, scripts[p], v.task, p)
            for v in way.videos
            for p in scripts
            if p.rpartition(".")[0] == v.procedure.rpartition(".")[0]
        ]
        own = {v.video_id: v.procedure for v in way.videos}
        for by, others in (("script", False), ("references", True)):
            reports = way.reports(way.plain, [each[:3] for each in asked], others)
            p = np.array([r.wrong for r in reports])
            kinds = np.array([_kind(own[video], q) for video, _, _, q in asked])
            found = {"name": f"{name}, {by}", "all": auc(kinds != "own", p)}
            for kind in ("order", "deletion", "addition"):
                chosen = (kinds == "own") | (kinds == kind)
                found[kind] = auc(kinds[chosen] != "own", p[chosen])
            rows.append(found)
    return {"checks": len(asked), "rows": rows}


def _kind(a: str, b: str) -> str:
    from stepclip.extract.benchlab.procedures import difference

    p, q = (int(each.rpartition(".")[2]) for each in (a, b))
    return "own" if p == q else difference(p, q)


def pairs(ways: dict[str, Way], manifest: Manifest) -> Any:
    rows = []
    for name, way in ways.items():
        chosen = [p for p in manifest.pairs if p.split == "test"]
        found = [
            compare(way.plain, way.plain.row(p.video_a), way.plain.row(p.video_b), way.checker.pairs)
            for p in chosen
        ]
        same = np.array([f.same for f in found], dtype=float)
        truth = np.array([p.matched for p in chosen])
        rows.append(
            {
                "name": name, "auc": auc(truth, same), "ece": calibration(truth, same),
                "accuracy": float(np.mean((same >= 0.5) == truth)),
            }
        )  # fmt: skip
    return {"pairs": len(chosen), "rows": rows}


def run(layout: Layout, name: str, seed: int = 0) -> dict[str, Any]:
    torch.set_num_threads(1)
    paths = layout.dataset(DATASET)
    manifest, store = Manifest.read(paths.manifest), FeatureStore.open(paths.features)
    checkpoint = load_checkpoint(layout.run(name).folder)
    embeds: dict[str, Embed] = {
        "trained": lambda s, ids: embed(checkpoint, s, ids, "cpu"),
        "centred": lambda s, ids: centred(embed_raw(s, ids, "cpu")),
        "raw": lambda s, ids: embed_raw(s, ids, "cpu"),
    }
    train = [v for v in manifest.without_truth() if v.split == "train"]
    videos = [v for v in manifest if v.split == "test"]
    result: dict[str, Any] = {
        "what": {"videos": len(videos), "train": len(train), "recipe": checkpoint.recipe.name, "seed": seed},
        "machine": machine("torch", "faiss-cpu", "scikit-learn"),
    }
    ids = [v.video_id for v in videos]
    seen = {way: make(store, ids) for way, make in embeds.items()}
    result["scripts"] = script_search(seen, seen["raw"], store, videos)
    print(result["scripts"], flush=True)
    ways = {}
    for way, make in embeds.items():
        ways[way] = Way(make, store, train, videos)
        print(way, ways[way].checker.about, flush=True)
    result["fitted"] = {way: each.checker.about for way, each in ways.items()}
    made, pace = made_faults(store, videos, seed)
    result["faults"] = faults(ways, made, pace, store)
    print(result["faults"], flush=True)
    result["procedures"] = other_procedures(ways)
    result["pairs"] = pairs(ways, manifest)
    example = ways["trained"].reports(
        ways["trained"].plain, [(ids[0], videos[0].steps[1:], videos[0].task)], True
    )[0]
    result["example"] = asdict(example)
    return result


def prepare(layout: Layout, name: str, bench_seed: int) -> None:
    """Render, extract and train what is not there."""
    from stepclip.extract.benchlab import make_benchlab
    from stepclip.pipelines.stages import extract_stage, train_stage

    paths = layout.dataset(DATASET)
    if not paths.manifest.exists():
        make_benchlab(paths.folder, seed=bench_seed)
    if not (paths.features / "cache.json").exists():
        extract_stage(layout, DATASET, encoder="embedded", fps=2.0)
    if not (layout.run(name).folder / "checkpoints").exists():
        train_stage(layout, DATASET, RECIPE, name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--root", type=Path, default=HERE / ".bench-check")
    parser.add_argument("--run", default=f"{DATASET}-{RECIPE}")
    parser.add_argument("--out", type=Path, default=HERE)
    parser.add_argument("--seed", type=int, default=0, help="of the made faults")
    parser.add_argument("--bench-seed", type=int, default=0)
    given = parser.parse_args()
    layout = Layout(given.root)
    prepare(layout, given.run, given.bench_seed)
    save(run(layout, given.run, given.seed), given.out)


if __name__ == "__main__":
    main()
