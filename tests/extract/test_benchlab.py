"""The synthetic bench: scripts that can be carried out, steps that can be seen, files that say the same."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from stepclip.cache.errors import StepclipError
from stepclip.cache.manifest import Manifest
from stepclip.extract import load_dataset
from stepclip.extract.benchlab import make, make_benchlab
from stepclip.extract.benchlab.actions import ACTIONS, apply
from stepclip.extract.benchlab.draw import PIXELS, draw_scene
from stepclip.extract.benchlab.people import Person, make_person
from stepclip.extract.benchlab.procedures import (
    FIRST_SEED,
    TEST_TASKS,
    TRAIN_TASKS,
    Step,
    Task,
    feasible,
    make_task,
    make_tasks,
)
from stepclip.extract.benchlab.render import Recording, frames, plan, record
from stepclip.extract.benchlab.scene import Scene
from stepclip.extract.benchlab.vocabulary import PHRASES, TOOLS, VERBS

SMALL = {"size": (64, 48), "fps": 2, "workers": 1, "progress": False}
SEEDS = range(4)


@pytest.fixture(scope="module")
def tasks() -> list[Task]:
    return [task for seed in SEEDS for task in make_tasks(seed)]


def few_tasks(patch: pytest.MonkeyPatch) -> None:
    """A bench of one training and one test task; the rest is as ever."""
    patch.setattr(make, "TRAIN_TASKS", (1,))
    patch.setattr(make, "TEST_TASKS", (10,))


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Manifest]:
    """20 small real videos: 2 tasks x 5 procedures x 2 people."""
    out = tmp_path_factory.mktemp("bench") / "out"
    with pytest.MonkeyPatch.context() as patch:
        few_tasks(patch)
        return out, make_benchlab(out, people=2, **SMALL)


@pytest.fixture(scope="module")
def lists(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Manifest]:
    """The whole bench of 4 people without its pictures: empty files stand for videos made before."""

    def touched(task: Task, procedure: int, person: Person, seed: int, path: Path, **how: int) -> Recording:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        return record(task, procedure, person, seed, path, **how)

    out = tmp_path_factory.mktemp("lists")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(make, "record", touched)
        return out, make_benchlab(out, people=4, **SMALL)


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


# ---- scripts


def test_the_shape_of_csv(tasks: list[Task]) -> None:
    assert len(TRAIN_TASKS) == 9 and len(TEST_TASKS) == 5 and not set(TRAIN_TASKS) & set(TEST_TASKS)
    assert [task.number for task in tasks[:14]] == [*TRAIN_TASKS, *TEST_TASKS]
    for task in tasks:
        assert len(task.scripts) == len(set(task.scripts)) == 5
        assert all(5 <= len(script) <= 13 for script in task.scripts)


def test_how_the_procedures_of_a_task_differ(tasks: list[Task]) -> None:
    for task in tasks:
        base, *orders, deletion, addition = (Counter(script) for script in task.scripts)
        assert all(order == base for order in orders)
        assert deletion < base < addition


def test_every_script_can_be_carried_out_with_empty_hands_at_the_end(tasks: list[Task]) -> None:
    for task in tasks:
        for script in task.scripts:
            assert feasible(task.scene(), script)


def test_there_is_something_to_pour_wherever_things_stand(tasks: list[Task]) -> None:
    """In a recording places and levels are random: what the script needs is there all the same."""
    for scene, (verb, a, b) in moments(tasks):
        if verb == "pour":
            source, target = scene.things[a], scene.things[b]
            assert source.level > 0.2 and target.level < 0.8 and source.lid == target.lid == 0
        assert scene.held in (-1, a)


def test_a_script_that_cannot_be_carried_out_is_told() -> None:
    task = Task(1, (("beaker", "red"), ("flask", "blue")), (True, False), ())
    scene = task.scene()
    assert feasible(scene, (("take up", 0, -1), ("pour", 0, 1), ("put down", 0, -1)))
    assert not feasible(scene, (("take up", 0, -1), ("pour", 0, 1)))  # still in the hand
    assert not feasible(scene, (("put down", 0, -1),))
    assert not feasible(scene, (("pour", 1, 0),))  # empty
    assert not feasible(scene, (("cover", 0, -1), ("pour", 0, 1)))
    assert scene == task.scene()  # trying leaves the bench as it was


def test_many_verbs_and_sentences_that_tell_steps_apart(tasks: list[Task]) -> None:
    assert len({step[0] for task in tasks for script in task.scripts for step in script}) >= 15
    for task in tasks:
        steps = {step for script in task.scripts for step in script}
        assert len({task.sentence(step) for step in steps}) == len(steps)
        assert len(set(task.things)) == len(task.things)
    assert task.sentences(5)[0] == task.sentence(task.scripts[4][0])


def test_scripts_are_those_of_the_seed() -> None:
    assert make_task(3, 1) == make_task(3, 1)
    assert len({make_task(3, seed).scripts for seed in range(5)}) == 5


def test_verbs_things_and_phrases_fit() -> None:
    assert tuple(ACTIONS) and set(ACTIONS) == set(VERBS) == set(PHRASES)
    assert {"glass rod", "thermometer", "dropper", "funnel"} <= set(TOOLS)
    for verb, phrases in PHRASES.items():
        assert ("{b" in phrases[0]) == bool(ACTIONS[verb].b_kinds)


# ---- what is seen


def moments(tasks: list[Task]) -> Iterator[tuple[Scene, Step]]:
    """Every step of every script, with the bench just before it."""
    for task in tasks:
        for script in task.scripts:
            scene = task.scene(np.random.default_rng(task.number))
            for step in script:
                yield scene.moment(), step
                apply(scene, *step)


def picture(scene: Scene) -> np.ndarray:
    room = Image.new("RGB", PIXELS, (150, 150, 150))
    return np.asarray(draw_scene(room, scene, (222, 172, 134), (40, 60, 80))).astype(int)


def test_every_verb_changes_the_picture_and_what_stays(tasks: list[Task]) -> None:
    seen: Counter[str] = Counter()
    lasting: set[str] = set()
    for scene, (verb, a, b) in moments(tasks):
        if seen[verb] >= 4 and verb in lasting:
            continue
        seen[verb] += 1
        after = scene.moment()
        apply(after, verb, a, b)
        before = picture(scene)
        changed = []
        for u in (0.4, 0.5, 0.6):  # a thing that is shaken is upright for a moment
            during = scene.moment()
            ACTIONS[verb].play(during, a, b, u)
            changed.append((np.abs(picture(during) - before).max(-1) > 40).sum())
        assert max(changed) > 150, verb
        if (np.abs(picture(after) - before).max(-1) > 40).sum() > 20:
            lasting.add(verb)
    assert set(seen) == lasting and len(seen) >= 18


def test_an_action_ends_without_effects_and_moves_without_jumps(tasks: list[Task]) -> None:
    for scene, (verb, a, b) in moments(tasks):
        ended = scene.moment()
        ACTIONS[verb].play(ended, a, b, 1.0)
        assert ended.effects == [], verb
        near = {u: scene.moment() for u in (0.0, 0.999)}
        for u, moment in near.items():
            ACTIONS[verb].play(moment, a, b, u)
            other = scene if u == 0 else ended
            for t, o in zip(moment.things, other.things, strict=True):
                assert np.hypot(t.x - o.x, t.y - o.y) < 2 and abs(t.tilt - o.tilt) < 2, (verb, u)


def test_a_recording_is_the_same_for_a_seed_and_another_for_another(tmp_path: Path) -> None:
    task, person = make_task(2, 0), make_person("ann", np.random.default_rng(5))

    def made(name: str, seed: int = 0, procedure: int = 4) -> tuple[bytes, Recording]:
        path = tmp_path / name
        return path.read_bytes() if path.exists() else b"", record(
            task, procedure, person, seed, path, size=(64, 48), fps=2
        )

    for name, seed, procedure in (("a", 0, 4), ("b", 0, 4), ("c", 1, 4), ("d", 0, 5)):
        made(name, seed, procedure)
    a, b, c, d = (made(name)[0] for name in "abcd")
    assert a == b and len({a, c, d}) == 3
    assert made("a")[1] == Recording(tmp_path / "a", *_times(made("b")[1]))


def _times(made: Recording) -> tuple[int, tuple[float, ...], tuple[float, ...]]:
    return made.frames, made.step_start, made.step_end


def test_a_recording_shows_every_step_at_its_time() -> None:
    """Without shake and noise the picture stands still at rest, and changes during each step."""
    task = make_task(4, 0)
    calm = {"jitter": 0.0, "noise": 0.0, "occlusion": 0.0, "idle": 0.0, "pause": 0.6}
    person = Person(**{**vars(make_person("ann", np.random.default_rng(1))), **calm})
    rng = np.random.default_rng(3)
    segments = plan(task, 1, person, rng, 8)
    shown = np.stack(list(frames(task, 1, person, rng, segments, (80, 60)))).astype(int)
    assert len(shown) == sum(s.frames for s in segments) and shown.shape[1:] == (60, 80, 3)
    assert [s.first for s in segments] == list(np.cumsum([0, *(s.frames for s in segments)])[:-1])
    assert [s.step for s in segments if s.step >= 0] == list(range(len(task.scripts[0])))
    for s in segments:
        part = shown[s.first : s.first + s.frames]
        change = np.abs(part - part[0]).max(-1)
        if s.step >= 0:
            assert (change > 40).sum(axis=(1, 2)).max() > 30
        elif s.frames <= 8:  # in a longer rest the hand may wander
            assert change.max() == 0


# ---- the files


def test_step_times_are_those_of_the_videos(bench: tuple[Path, Manifest]) -> None:
    _, manifest = bench
    assert len(manifest) == 20
    for row in manifest:
        with av.open(row.path) as container:
            stream = container.streams.video[0]
            assert stream.codec_context.name == "h264" and (stream.width, stream.height) == (64, 48)
            shown = [float(frame.time) for frame in container.decode(stream)]
        assert shown == [k / 2 for k in range(len(shown))]
        assert row.step_start is not None and row.step_end is not None
        assert len(row.step_start) == len(row.step_end) == len(row.steps)
        edges = [0.0, *(t for span in zip(row.step_start, row.step_end, strict=True) for t in span)]
        assert edges == sorted(edges) and edges[-1] <= len(shown) / 2
        assert all(end - start >= 2.0 for start, end in zip(row.step_start, row.step_end, strict=True))


def test_the_plan_fills_the_video(bench: tuple[Path, Manifest]) -> None:
    """The last frame that the plan has is the last of the file."""
    _, manifest = bench
    tasks = {task.number: task for task in make_tasks(0)}
    for row in list(manifest)[::5]:
        name = Path(row.path).stem
        person = make_person(name, np.random.default_rng([0, *name.encode()]))
        made = record(tasks[int(row.task)], int(row.procedure[-1]), person, 0, Path(row.path), **_how())
        with av.open(row.path) as container:
            assert made.frames == sum(1 for _ in container.decode(video=0))
        assert (made.step_start, made.step_end) == (row.step_start, row.step_end)


def _how() -> dict[str, object]:
    return {"size": SMALL["size"], "fps": SMALL["fps"]}


def test_a_second_call_uses_the_files_that_are_there(
    bench: tuple[Path, Manifest], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, manifest = bench
    few_tasks(monkeypatch)
    before = digests(out)
    times = {path: os.stat(path).st_mtime_ns for path in (out / "videos").rglob("*.mp4")}
    assert make_benchlab(out, people=2, **SMALL) == manifest
    assert digests(out) == before
    assert {path: os.stat(path).st_mtime_ns for path in times} == times


def test_a_run_that_was_broken_off_is_finished_to_the_same_bytes(
    bench: tuple[Path, Manifest], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, manifest = bench
    few_tasks(monkeypatch)
    broken = tmp_path / "out"
    copied = [path for path in sorted(out.rglob("*")) if path.is_file()]
    for path in copied:
        target = broken / path.relative_to(out)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    lost = sorted((broken / "videos").rglob("*.mp4"))[::7]
    for path in lost:
        path.with_name(path.name + ".part").write_bytes(path.read_bytes()[:100])
        path.unlink()
    for path in (broken / "manifest").iterdir():
        path.unlink()
    again = make_benchlab(broken, people=2, **SMALL)
    assert digests(broken / "videos") == digests(out / "videos")
    assert digests(broken / "annotations") == digests(out / "annotations")
    assert [row.video_id for row in again] == [row.video_id for row in manifest] and len(lost) == 3


def test_another_bench_in_the_same_folder_is_refused(
    bench: tuple[Path, Manifest], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, _ = bench
    few_tasks(monkeypatch)
    before = digests(out)
    for people, how in ((3, {}), (2, {"seed": 1}), (2, {"fps": 4})):
        with pytest.raises(StepclipError, match="another bench") as refused:
            make_benchlab(out, people, **{**SMALL, **how})
        assert "--out" in refused.value.run
    assert digests(out) == before


def test_a_folder_of_other_videos_is_refused(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "mine.mp4").write_bytes(b"mine")
    with pytest.raises(StepclipError, match="no bench"):
        make_benchlab(tmp_path, **SMALL)
    assert digests(tmp_path).keys() == {"videos/mine.mp4"}


@pytest.mark.parametrize(
    "wrong",
    [{"people": 1}, {"people": 0}, {"seed": -1}, {"seed": FIRST_SEED}, {"size": (65, 48)}, {"fps": 0}],
)
def test_values_out_of_range_are_refused(wrong: dict[str, int], tmp_path: Path) -> None:
    with pytest.raises(StepclipError):
        make_benchlab(tmp_path / "out", **{**SMALL, **wrong})
    assert not (tmp_path / "out").exists()


# ---- the lists of the whole bench


def test_rows_of_the_manifest(lists: tuple[Path, Manifest]) -> None:
    out, manifest = lists
    assert len(manifest) == 70 * 4 and Manifest.read(out / "manifest") == manifest
    people: dict[str, set[str]] = {"train": set(), "test": set()}
    done: dict[str, set[str]] = {"train": set(), "test": set()}
    for row in manifest:
        assert row.video_id == f"{row.procedure}/{Path(row.path).stem}" and Path(row.path).is_file()
        people[row.split].add(Path(row.path).stem)
        done[row.split].add(row.procedure)
    assert len(people["train"]) == len(people["test"]) == 4 and not people["train"] & people["test"]
    assert len(done["train"]) == 45 and len(done["test"]) == 25 and not done["train"] & done["test"]


def test_verification_pairs(lists: tuple[Path, Manifest]) -> None:
    _, manifest = lists
    seen = set()
    for pair in manifest.pairs:
        a, b = manifest[pair.video_a], manifest[pair.video_b]
        assert a.split == b.split == pair.split and a.task == b.task
        assert Path(a.path).stem != Path(b.path).stem
        assert pair.matched == (a.procedure == b.procedure) == (pair.kind == "matched")
        first, second = Counter(a.steps), Counter(b.steps)
        same = first == second
        assert {"matched": same, "order": same, "deletion": not same, "addition": not same}[pair.kind]
        seen.add(frozenset((pair.video_a, pair.video_b)))
    assert len(seen) == len(manifest.pairs)
    kinds = Counter(pair.kind for pair in manifest.split("test").pairs)
    assert kinds["matched"] == 25 * 6  # every two of the four people
    assert kinds["order"] == kinds["deletion"] == kinds["addition"] == kinds["matched"] / 3
    assert {pair.kind for pair in manifest.split("train").pairs} == {"matched"}
    assert len(manifest.split("train").pairs) == 45 * 6


def test_matching_lists(lists: tuple[Path, Manifest]) -> None:
    _, manifest = lists
    assert {row.procedure for row in manifest.matching} == {
        f"{task}.{number}" for task in TEST_TASKS for number in range(1, 6)
    }
    for row in manifest.matching:
        task = row.procedure.split(".")[0]
        assert [manifest[name].procedure for name in row.candidates] == [f"{task}.{k}" for k in range(1, 6)]
        assert manifest[row.candidates[row.answer]].procedure == row.procedure
        assert row.split == "test"
    assert len({(row.procedure, row.candidates) for row in manifest.matching}) == len(manifest.matching)


def test_the_annotations_read_as_the_release_does(lists: tuple[Path, Manifest]) -> None:
    out, manifest = lists
    loaded = load_dataset("csv", out / "videos", out / "annotations").manifest
    assert {row.video_id for row in loaded} == {row.video_id for row in manifest}
    for row in loaded:
        mine = manifest[row.video_id]
        assert (row.steps, row.split, row.task, row.procedure) == (
            mine.steps,
            mine.split,
            mine.task,
            mine.procedure,
        )
        assert os.path.samefile(row.path, mine.path) and row.step_start is None

    def pairs(of: Manifest) -> list[tuple[str, str, bool, str]]:
        return sorted((p.video_a, p.video_b, p.matched, p.split) for p in of.pairs)

    assert pairs(loaded) == pairs(manifest)
    key: Callable[[object], str] = repr
    assert sorted(loaded.matching, key=key) == sorted(manifest.matching, key=key)
    assert load_dataset("benchlab", out).manifest == manifest


@pytest.mark.slow
def test_the_whole_bench_by_several_processes(tmp_path: Path, bench: tuple[Path, Manifest]) -> None:
    manifest = make_benchlab(tmp_path, people=2, **{**SMALL, "workers": 2})
    assert len(manifest) == 140
    for path in (bench[0] / "videos").rglob("*.mp4"):  # the same whoever renders them, and what beside
        assert (tmp_path / path.relative_to(bench[0])).read_bytes() == path.read_bytes()
