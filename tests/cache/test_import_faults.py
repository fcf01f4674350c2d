"""Every fault of a user's file costs its own video alone, and nothing in a file is executed."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from stepclip.cache import (
    FeatureStore,
    StepclipError,
)

from .foreignfiles import (
    DIM,
    Malice,
    bring,
    check,
    frames,
    spoiled,
    write_h5,
    write_npz,
    write_old_pt,
    write_pt,
    write_safetensors,
)

# ---- faults


def cut(path: Path, share: float = 0.5) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])


FAULTS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "nan": ("not-finite", lambda p: np.save(p / "bad.npy", spoiled(frames("x"), 1, np.nan))),
    "infinity": ("not-finite", lambda p: np.save(p / "bad.npy", spoiled(frames("x"), 1, np.inf))),
    "zero row": ("zero-rows", lambda p: np.save(p / "bad.npy", spoiled(frames("x"), 1, 0))),
    "another D": ("wrong-dimension", lambda p: np.save(p / "bad.npy", frames("x", dim=7))),
    "integers": ("not-floats", lambda p: np.save(p / "bad.npy", np.ones((4, DIM), int))),
    "vector": ("bad-shape", lambda p: np.save(p / "bad.npy", np.ones(DIM))),
    "three axes": ("bad-shape", lambda p: np.save(p / "bad.npy", np.ones((4, 2, DIM)))),
    "no frames": ("bad-shape", lambda p: np.save(p / "bad.npy", np.ones((0, DIM)))),
    "too large": ("beyond-float16", lambda p: np.save(p / "bad.npy", spoiled(frames("x"), 1, 7e4))),
    "too small": ("zero-rows", lambda p: np.save(p / "bad.npy", spoiled(frames("x"), 1, 1e-9))),
    "empty file": ("unreadable", lambda p: (p / "bad.npy").touch()),
    "garbage npy": ("unreadable", lambda p: (p / "bad.npy").write_bytes(b"garbage" * 99)),
    "cut npy": ("unreadable", lambda p: (np.save(p / "bad.npy", frames("x", 99)), cut(p / "bad.npy"))),
    "cut npz": ("unreadable", lambda p: (write_npz(p / "bad.x", {"f": frames("x")}), cut(p / "bad.npz"))),
    "cut pt": ("unreadable", lambda p: (write_pt(p / "bad.x", {"features": frames("x")}), cut(p / "bad.pt"))),
    "cut old pt": (
        "unreadable",
        lambda p: (write_old_pt(p / "bad.x", {"features": frames("x", 99)}), cut(p / "bad.pt", 0.9)),
    ),
    "cut safetensors": (
        "unreadable",
        lambda p: (write_safetensors(p / "bad.x", {"f": frames("x", 99)}), cut(p / "bad.safetensors")),
    ),
    "cut h5": ("unreadable", lambda p: (write_h5(p / "bad.x", {"f": frames("x", 99)}), cut(p / "bad.h5"))),
    "garbage pt": ("unreadable", lambda p: (p / "bad.pt").write_bytes(b"garbage" * 99)),
    "garbage npz": ("unreadable", lambda p: (p / "bad.npz").write_bytes(b"garbage" * 99)),
    "garbage safetensors": ("unreadable", lambda p: (p / "bad.safetensors").write_bytes(b"garbage" * 99)),
    "garbage h5": ("unreadable", lambda p: (p / "bad.h5").write_bytes(b"garbage" * 99)),
    "an npz called npy": (
        "unreadable",
        lambda p: (write_npz(p / "bad.x", {"f": frames("x")}), (p / "bad.npz").rename(p / "bad.npy")),
    ),
    "no array that fits": (
        "no-features",
        lambda p: np.savez(p / "bad.npz", one=frames("x", 3), two=frames("y", 3)),
    ),
    "objects beside the only floats": (
        "no-features",
        lambda p: np.savez(p / "bad.npz", feat=np.array([None], dtype=object), softmax=frames("y", 3)),
    ),
    "falling times": (
        "bad-times",
        lambda p: np.savez(p / "bad.npz", features=frames("x", 3), times=np.array([0.0, 2.0, 1.0])),
    ),
    "equal times": (
        "bad-times",
        lambda p: np.savez(p / "bad.npz", features=frames("x", 3), times=np.array([0.0, 1.0, 1.0])),
    ),
    "milliseconds for seconds": (
        "bad-times",
        lambda p: np.savez(
            p / "bad.npz", features=frames("x", 3), times=np.array([0, 500, 1000]), duration=1.5
        ),
    ),
    "too few times": (
        "bad-times",
        lambda p: np.savez(p / "bad.npz", features=frames("x", 3), times=np.array([0.0, 2.0])),
    ),
    "ticks": (
        "bad-times",
        lambda p: np.savez(p / "bad.npz", features=frames("x", 3), pts=np.array([0, 512, 1024])),
    ),
    "too few labels": (
        "bad-labels",
        lambda p: np.savez(p / "bad.npz", features=frames("x", 3), labels=np.array([1, 2])),
    ),
    "a list saved by numpy": (
        "pickle",
        lambda p: np.save(p / "bad.npy", np.array([frames("x"), None], dtype=object), allow_pickle=True),
    ),
    "a dict saved by numpy": (
        "pickle",
        lambda p: np.save(p / "bad.npy", {"features": frames("x")}, allow_pickle=True),  # type: ignore[arg-type]
    ),
    "numpy in a pt": ("pickle", lambda p: torch.save({"features": frames("x")}, p / "bad.pt")),
    "a pickle called npy": ("pickle", lambda p: (p / "bad.npy").write_bytes(pickle.dumps(frames("x")))),
    "a pickle called pt": ("pickle", lambda p: (p / "bad.pt").write_bytes(pickle.dumps([1.0]))),
    "malice in npy": (
        "pickle",
        lambda p: np.save(p / "bad.npy", np.array(Malice(p / "evil"), dtype=object), allow_pickle=True),
    ),
    "malice in npz": (
        "pickle",
        lambda p: np.savez(p / "bad.npz", features=np.array([Malice(p / "evil")], dtype=object)),
    ),
    "malice in pt": ("pickle", lambda p: torch.save({"features": Malice(p / "evil")}, p / "bad.pt")),
    "malice in old pt": (
        "pickle",
        lambda p: torch.save([Malice(p / "evil")], p / "bad.pth", _use_new_zipfile_serialization=False),
    ),
    "malice called pt": ("pickle", lambda p: (p / "bad.pt").write_bytes(pickle.dumps(Malice(p / "evil")))),
    "malice called npy": ("pickle", lambda p: (p / "bad.npy").write_bytes(pickle.dumps(Malice(p / "evil")))),
    "malice called npz": (
        "unreadable",
        lambda p: (p / "bad.npz").write_bytes(pickle.dumps(Malice(p / "evil"))),
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_one_file_costs_that_video_alone_and_runs_nothing(tmp_path: Path, fault: str) -> None:
    reason, spoil = FAULTS[fault]
    source = tmp_path / "mine"
    source.mkdir()
    for name in "abc":
        np.save(source / f"{name}.npy", frames(name))
    spoil(source)
    report = bring(source, tmp_path / "cache")
    assert (report.inputs, report.done, report.failed) == (4, 3, 1)
    assert [(each.video_id, each.reason) for each in report.failures] == [("bad", reason)]
    assert not (source / "evil").exists()
    if reason == "pickle":
        detail = report.failures[0].detail
        assert "can run any program" in detail and "only if you trust" in detail
    with FeatureStore.open(tmp_path / "cache") as store:
        assert [(each.video_id, each.reason) for each in store.failures()] == [("bad", reason)]
        assert store.video_ids == ("a", "b", "c")
    for name in "abc":
        check(tmp_path / "cache", name)
    for file in source.glob("bad.*"):  # once it is put right, the next run takes it and forgets the fault
        file.unlink()
    np.save(source / "bad.npy", frames("bad"))
    report = bring(source, tmp_path / "cache")
    assert (report.done, report.skipped) == (1, 3)
    check(tmp_path / "cache", "bad")
    with FeatureStore.open(tmp_path / "cache") as store:
        assert store.failures() == []


def test_the_malicious_pickle_of_these_tests_works(tmp_path: Path) -> None:
    np.save(tmp_path / "bad.npy", np.array(Malice(tmp_path / "evil"), dtype=object), allow_pickle=True)
    np.load(tmp_path / "bad.npy", allow_pickle=True)
    assert (tmp_path / "evil").exists()


def test_what_the_message_says_of_a_pickle_converts_it(tmp_path: Path) -> None:
    source = tmp_path / "mine"
    source.mkdir()
    np.save(source / "a.npy", {"features": frames("a"), "fps": 4.0}, allow_pickle=True)  # type: ignore[arg-type]
    with pytest.raises(StepclipError) as error:
        bring(source, tmp_path / "cache")
    command = error.value.run.split("python -c ")[1].strip('"').replace("plain.npz", str(source / "a.npz"))
    exec(compile(command, "the command", "exec"), {})
    (source / "a.npy").unlink()
    bring(source, tmp_path / "cache", fps=None)
    check(tmp_path / "cache", "a", fps=4.0)


def test_a_flipped_byte_in_an_npz_is_noticed(tmp_path: Path) -> None:
    source = tmp_path / "mine"
    source.mkdir()
    np.save(source / "good.npy", frames("good"))
    np.savez(source / "bad.npz", features=frames("bad", 50))
    with zipfile.ZipFile(source / "bad.npz") as file:
        middle = file.infolist()[0].header_offset + 600
    data = bytearray((source / "bad.npz").read_bytes())
    data[middle] ^= 1
    (source / "bad.npz").write_bytes(data)
    assert bring(source, tmp_path / "cache").reasons() == {"unreadable": 1}


def test_zero_rows_are_dropped_on_request_and_their_times_with_them(tmp_path: Path) -> None:
    source = tmp_path / "mine"
    source.mkdir()
    np.save(source / "a.npy", spoiled(frames("a", 5), 2, 0))
    np.save(source / "b.npy", np.zeros((4, DIM), np.float32))
    report = bring(source, tmp_path / "cache", zero_rows="drop")
    assert report.done == 1 and report.reasons() == {"zero-rows": 1} and "1 all-zero rows" in str(report)
    with FeatureStore.open(tmp_path / "cache") as store:
        np.testing.assert_array_equal(store["a"].times, [0.0, 0.5, 1.5, 2.0])
        np.testing.assert_array_equal(store["a"].features, np.delete(frames("a", 5), 2, 0).astype(np.float16))
        assert store["a"].duration == 2.5
    with pytest.raises(StepclipError, match="did you mean 'drop'"):
        bring(source, tmp_path / "cache", zero_rows="drp")


def test_nothing_to_import_is_told_with_what_was_found(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "pickles").mkdir()
    (tmp_path / "pickles" / "a.pkl").write_bytes(pickle.dumps(Malice(tmp_path / "evil")))
    for place, words in (
        ("empty", "found: nothing"),
        ("pickles", "never loads one"),
        ("emty", "did you mean 'empty'"),
    ):
        with pytest.raises(StepclipError, match=words):
            bring(tmp_path / place, tmp_path / "cache")
    np.save(tmp_path / "empty" / "a.npy", np.ones(3))
    with pytest.raises(StepclipError, match=r"none of the 1 videos.*\(3,\)"):
        bring(tmp_path / "empty", tmp_path / "cache")
    assert not (tmp_path / "evil").exists() and not (tmp_path / "cache").exists()
