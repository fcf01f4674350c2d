"""Tasks and procedures: 14 tasks of 5, shaped like CSV (weaksvr.md 1.2).

Inside a task, procedures 1-3 hold the same steps in other orders, 4 leaves steps out and 5 adds some;
every script can really be carried out on the bench, because its state is simulated.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .actions import ACTIONS, apply
from .scene import SLOTS, Scene, Thing
from .vocabulary import COLOURS, TOOLS, VERBS, VESSELS, sentence

TRAIN_TASKS = tuple(range(1, 10))
TEST_TASKS = tuple(range(10, 15))
PROCEDURES = 5
FIRST_SEED = 100_000  # benches from this seed on train the embedded encoder; those of users are below
MIN_STEPS, MAX_STEPS = 5, 13
MIN_REORDERED = 4  # edit distance between two orders of the same steps; all pairs then average near CSV's 5.2
PER_TASK = 5  # vessels of a task
HANDLING = {  # weight of verbs that would be drawn too rarely: most undo another, which has to come first
    "take up": 3.0,
    "put down": 6.0,
    "pour": 5.0,
    "peel": 3.0,
    "pull out": 3.0,
    "uncover": 3.0,
    "turn off": 3.0,
    "unscrew": 3.0,
}

Step = tuple[str, int, int]  # verb, index of a, index of b (or -1)


@dataclass(frozen=True)
class Task:
    """What lies on the bench (kind, colour) and the five scripts that use it."""

    number: int
    things: tuple[tuple[str, str], ...]
    full: tuple[bool, ...]
    scripts: tuple[tuple[Step, ...], ...]

    def sentences(self, procedure: int) -> tuple[str, ...]:
        """The written script of procedure 1..5."""
        return tuple(self.sentence(step) for step in self.scripts[procedure - 1])

    def sentence(self, step: Step, form: int = 0) -> str:
        """The sentence of one step; `form` > 0: another way to say it."""
        names = [Thing(*thing, 0.0, 0.0).name for thing in self.things]
        return sentence(step[0], names[step[1]], names[step[2]] if step[2] >= 0 else None, form)

    def scene(self, rng: np.random.Generator | None = None) -> Scene:
        """The bench before the first step; with a generator, everything in a random place."""
        order = np.arange(len(SLOTS)) if rng is None else rng.permutation(len(SLOTS))
        things = []
        for i, (kind, colour) in enumerate(self.things):
            x, y = SLOTS[order[i]]
            t = Thing(kind, colour, x if rng is None else x + float(rng.uniform(-5, 5)), y, y)
            if self.full[i]:
                t.level, t.liquid = 0.6 if rng is None else float(rng.uniform(0.5, 0.65)), COLOURS[colour]
            things.append(t)
        return Scene(things)


def possible(scene: Scene, step: Step) -> bool:
    """Whether the step can be done now."""
    verb, a, b = step
    action = ACTIONS[verb]
    if scene.things[a].kind not in action.a_kinds:
        return False
    if bool(action.b_kinds) != (b >= 0) or (b >= 0 and scene.things[b].kind not in action.b_kinds):
        return False
    if b >= 0 and (a == b or (scene.things[a].inside >= 0 and verb != "pull out")):
        return False
    return action.ready(scene, a, b)


def feasible(scene: Scene, script: tuple[Step, ...]) -> bool:
    """Whether the whole script can be carried out, ending with empty hands."""
    after = _carried_out(scene, script)
    return after is not None and after.held < 0


def _carried_out(scene: Scene, script: Sequence[Step]) -> Scene | None:
    """The bench after the steps; None where one of them cannot be done."""
    scene = scene.moment()
    for step in script:
        if not possible(scene, step):
            return None
        apply(scene, *step)
    return scene


def _random_script(
    scene: Scene, length: int, verbs: tuple[str, ...], rng: np.random.Generator
) -> tuple[Step, ...]:
    """Up to `length` steps that can be done one after the other, no step twice in a row."""
    scene, script = scene.moment(), list[Step]()
    indices = range(len(scene.things))
    used: Counter[str] = Counter()
    while len(script) < length:
        options = [
            step
            for verb in verbs
            for a in indices
            for b in (indices if ACTIONS[verb].b_kinds else (-1,))
            if possible(scene, step := (verb, a, b)) and (not script or step != script[-1])
        ]
        if not options:
            break
        count = Counter(step[0] for step in options)
        # verbs are about equally likely, whatever the number of things they fit; repeats are rare but happen
        weight = np.array(
            [
                HANDLING.get(step[0], 1.0)
                / count[step[0]]
                / (1 + used[step[0]]) ** 1.5
                * (0.15 if step in script else 1)
                for step in options
            ]
        )
        step = options[rng.choice(len(options), p=weight / weight.sum())]
        script.append(step)
        used[step[0]] += 1
        apply(scene, *step)
    return tuple(script)


def edit_distance(a: Sequence[Step], b: Sequence[Step]) -> int:
    """Insertions and deletions that turn one script into the other: |a| + |b| - 2 LCS (weaksvr.md 5.2)."""
    row = [0] * (len(b) + 1)  # lengths of the longest common subsequences
    for x in a:
        before = row[:]
        for j, y in enumerate(b):
            row[j + 1] = before[j] + 1 if x == y else max(before[j + 1], row[j])
    return len(a) + len(b) - 2 * row[-1]


def _reordered(
    scene: Scene, base: tuple[Step, ...], known: list, rng: np.random.Generator
) -> tuple[Step, ...] | None:
    """Another feasible order of the same steps: one to three blocks of steps moved elsewhere."""
    for _ in range(400):
        steps = list(base)
        for _ in range(int(rng.integers(1, 4))):
            size = int(rng.integers(1, 4))
            i = int(rng.integers(0, len(steps) - size + 1))
            block, rest = steps[i : i + size], steps[:i] + steps[i + size :]
            j = int(rng.integers(0, len(rest) + 1))
            steps = rest[:j] + block + rest[j:]
        apart = all(edit_distance(other, steps) >= MIN_REORDERED for other in known)
        if apart and feasible(scene, tuple(steps)):
            return tuple(steps)
    return None


def _shortened(
    scene: Scene, base: tuple[Step, ...], known: list, rng: np.random.Generator
) -> tuple[Step, ...] | None:
    """A feasible script with two to four of the steps left out."""
    for _ in range(400):
        drop = set(rng.choice(len(base), int(rng.integers(2, 5)), replace=False).tolist())
        steps = tuple(s for i, s in enumerate(base) if i not in drop)
        if len(steps) >= MIN_STEPS and steps not in known and feasible(scene, steps):
            return steps
    return None


def _lengthened(
    scene: Scene, base: tuple[Step, ...], known: list, verbs: tuple[str, ...], rng: np.random.Generator
) -> tuple[Step, ...] | None:
    """A feasible script with new steps put in at one to three places."""
    for _ in range(400):
        steps = list(base)
        for _ in range(int(rng.integers(1, 4))):
            i = int(rng.integers(0, len(steps) + 1))
            before = _carried_out(scene, steps[:i])
            if before is None:
                break
            steps[i:i] = _random_script(before, int(rng.integers(1, 3)), verbs, rng)
        if (
            len(base) + 2 <= len(steps) <= MAX_STEPS
            and tuple(steps) not in known
            and feasible(scene, tuple(steps))
        ):
            return tuple(steps)
    return None


def make_task(number: int, seed: int) -> Task:
    """Task `number` of bench `seed`; deterministic."""
    rng = np.random.default_rng([seed, 14, number])
    while True:
        colours = rng.permutation(list(COLOURS))
        kinds = list(rng.choice(VESSELS, PER_TASK, replace=rng.random() < 0.3))
        tools = [("burner", "clamp", "scale")[int(rng.integers(3))], TOOLS[int(rng.choice([0, 1, 2]))]]
        things = tuple((str(k), str(colours[i % len(colours)])) for i, k in enumerate(kinds + tools))
        if len(set(things)) < len(things):
            continue
        full = tuple(i < PER_TASK and bool(rng.random() < 0.75) for i in range(len(things)))
        core = ("take up", "put down", "pour")
        extra = [v for v in VERBS if v not in core]
        verbs = core + tuple(str(v) for v in rng.choice(extra, 13, replace=False))
        scene = Task(number, things, full, ()).scene()
        base = _random_script(scene, int(rng.integers(8, 12)), verbs, rng)
        if len(base) < 6 or len({s[0] for s in base}) < 5 or not feasible(scene, base):
            continue
        scripts: list[tuple[Step, ...]] = [base]
        for make in (_reordered, _reordered, _shortened):
            other = make(scene, base, scripts, rng)
            if other is None:
                break
            scripts.append(other)
        longer = _lengthened(scene, base, scripts, verbs, rng) if len(scripts) == 4 else None
        if longer is not None:
            return Task(number, things, full, (*scripts, longer))


def make_tasks(seed: int) -> list[Task]:
    """The 14 tasks of bench `seed`: 1-9 for training, 10-14 for testing."""
    return [make_task(n, seed) for n in (*TRAIN_TASKS, *TEST_TASKS)]


def difference(p: int, q: int) -> str:
    """The kind of difference between procedures `p` and `q` (1..5) of one task."""
    if p == q:
        return "matched"
    return "addition" if 5 in (p, q) else "deletion" if 4 in (p, q) else "order"
