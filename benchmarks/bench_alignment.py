"""Alignment kernels against the libraries that do the same, and against plain loops.

    pip install --no-deps --target DIR tslearn==0.10.0 dtaidistance==2.5.1 pysdtw==0.0.5 aeon==1.6.0
    PYTHONPATH=DIR python benchmarks/bench_alignment.py [--out DIR] [--rounds 7] [--quick]

One process, one thread, the contenders in turn, round by round; processor time, microseconds a problem,
median of the rounds; within a round a contender works in a loop, as in a training. Every contender's numbers
are compared before anything is timed. A slow contender is timed on fewer problems of the same size. Writes
alignment.json, alignment.md and alignment.svg into OUT (beside this script) and the table of README.md; peers
that are not installed are left out and named. --quick: 2 rounds, few problems, nothing put into README.md.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import alignment_contenders as who
import numpy as np
import torch
from alignment_report import checks, markdown, save, table
from machine import machine
from rounds import in_turn, measured

HERE = Path(__file__).parent
#: seconds that one contender may take in one round
PATIENCE = 0.4

OPERATIONS: dict[str, Callable[[who.Problems], list[who.Contender]]] = {
    "soft": who.soft_contenders,
    "hard": who.hard_contenders,
    "cost": who.cost_contenders,
    "labels": who.label_contenders,
}
TITLES = {
    "soft": "soft-DTW, value and gradient, from a given cost",
    "hard": "DTW value from 512-d features (squared distances)",
    "cost": "DTW value from a given cost",
    "labels": "monotone labels, any forward jump",
}


def run(
    rounds: int = 7, patience: float = PATIENCE, sizes: tuple[who.Size, ...] = who.SIZES
) -> dict[str, Any]:
    torch.set_num_threads(1)
    import numba

    numba.set_num_threads(1)
    rows = []
    for size in sizes:
        problems = who.Problems(size)
        for operation, make in OPERATIONS.items():
            rows += compare(operation, size, make(problems), rounds, patience)
    result = {
        "what": {
            "rounds": rounds,
            "sizes": {size.name: size.what for size in sizes},
            "operations": TITLES,
            "peers": who.installed(),
            "missing": [name for name in who.PEERS if name not in who.installed()],
        },
        "machine": machine("torch", "numba", "llvmlite", "numpy")
        | {"load": os.getloadavg()[0], "gpu": "none"},
        "rows": rows,
        "exact": exactness(sizes),
        "start": starting(),
    }
    result["asked"] = checks(result)
    return result


def compare(
    operation: str, size: who.Size, contenders: list[who.Contender], rounds: int, patience: float
) -> list[dict[str, Any]]:
    counts = {c.name: affordable(c, size, patience) for c in contenders}
    few = min(counts.values())
    agree(operation, {c.name: c.run(max(few, 1)) for c in contenders})

    def timed(c: who.Contender) -> Callable[[], float]:
        def once() -> float:
            done, began = 0, time.process_time()
            while not done or time.process_time() - began < patience / 4:  # in a loop, as in a training
                c.run(counts[c.name])
                done += counts[c.name]
            return (time.process_time() - began) / done * 1e6

        return once

    found = in_turn(rounds, {c.name: timed(c) for c in contenders})
    for c in contenders:
        print(
            f"{operation:7} {size.name}  {measured(found[c.name])['median']:>12,.3f} us  {c.name}", flush=True
        )
    return [
        {
            "operation": operation,
            "size": size.name,
            "name": c.name,
            "kind": c.kind,
            "problems": counts[c.name],
            "us": measured(found[c.name]),
        }
        for c in contenders
    ]


def affordable(contender: who.Contender, size: who.Size, patience: float) -> int:
    """How many problems it may do in a round; whole groups, where it does not take all."""
    contender.run(1)  # compiles
    began = time.perf_counter()
    contender.run(size.others)
    one = (time.perf_counter() - began) / size.others
    if one * size.problems < patience or contender.kind in ("stepclip", "bound"):
        return size.problems
    if one * size.others < patience:
        return int(patience / one) // size.others * size.others
    return max(1, int(patience / one))


def agree(operation: str, found: dict[str, Any]) -> None:
    """All contenders found the same, or the benchmark stops."""
    names = [name for name, value in found.items() if value is not None]
    first = np.asarray(_value(found[names[-1]]), dtype=np.float64)
    for name in names:
        other = np.asarray(_value(found[name]), dtype=np.float64)
        n = min(len(first), len(other))
        if operation == "labels":  # float32 and float64 may break a tie in another way, once in many frames
            np.testing.assert_array_less((first[:n] != other[:n]).mean(), 0.01, err_msg=name)
        else:
            np.testing.assert_allclose(other[:n], first[:n], rtol=1e-4, atol=1e-4, err_msg=name)


def _value(found: Any) -> Any:
    return found[0] if isinstance(found, tuple) else found


def exactness(sizes: tuple[who.Size, ...]) -> list[dict[str, Any]]:
    """The float32 kernels against plain torch in float64, largest error over 64 problems of each size."""
    from stepclip.train.alignment import dtw, soft_dtw_alignment

    out = []
    for size in sizes:
        cost = who.Problems(size, seed=1).cost[:64]
        ours, exact = (
            soft_dtw_alignment(x, who.GAMMA, backend=name)
            for x, name in ((cost, "numba"), (cost.double(), "torch"))
        )
        hard = (dtw(cost).double() - dtw(cost.double(), backend="torch")).abs().max()
        out.append(
            {
                "size": size.name,
                "hard value": float(hard),
                "soft value": float((ours.value.double() - exact.value).abs().max()),
                "gradient": float((ours.weights.double() - exact.weights).abs().max()),
            }
        )
    return out


SCRIPT = """
import json, sys, time
import torch
from stepclip.train.alignment import soft_dtw
began = time.perf_counter()
soft_dtw(torch.rand(4, 32, 12, requires_grad=True)).sum().backward()
first = time.perf_counter() - began
began = time.perf_counter()
soft_dtw(torch.rand(4, 32, 12, requires_grad=True)).sum().backward()
print(json.dumps([first, time.perf_counter() - began]))
"""


def starting() -> dict[str, float]:
    """Seconds of the first soft-DTW call of a process, gradient included: without compiled code on the disk,
    and with it."""
    with tempfile.TemporaryDirectory() as folder:
        found = [
            json.loads(
                subprocess.run(
                    [sys.executable, "-c", SCRIPT],
                    env=os.environ | {"NUMBA_CACHE_DIR": folder},
                    capture_output=True,
                    text=True,
                    check=True,
                ).stdout
            )
            for _ in range(4)
        ]
    return {"compiling": found[0][0], "cached": min(f[0] for f in found[1:]), "again": found[-1][1]}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=HERE)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    result = run(rounds=2, patience=0.05) if options.quick else run(options.rounds)
    save(result, options.out)
    print(markdown(result))
    if missing := result["what"]["missing"]:
        print(f"not installed, left out: {', '.join(missing)}")
    if not options.quick and options.out == HERE and not missing:
        from readme import put

        put("alignment", table(result))


if __name__ == "__main__":
    main()
