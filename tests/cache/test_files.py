"""Atomic writes, errors and fingerprints."""

from __future__ import annotations

import json
import os
import pickle
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepclip.cache.errors import StepclipError, nearest
from stepclip.cache.files import locked, read_json, write_atomically, write_json
from stepclip.cache.fingerprint import ABSENT, Fingerprint


def test_an_error_says_three_things_on_lines_of_their_own_and_survives_pickling() -> None:
    error = StepclipError("three cats", "two dogs", "make dogs")
    assert str(error) == "three cats\n  expected: two dogs\n  run: make dogs"
    again = pickle.loads(pickle.dumps(error))
    assert (again.found, again.expected, again.run, str(again)) == (*error.args, str(error))
    assert str(StepclipError("only this")) == "only this"


def test_nearest_names_the_word_that_was_meant_and_nothing_far_away() -> None:
    assert nearest("Bechlab", ["benchlab", "csv"]) == " (did you mean 'benchlab'?)"
    assert nearest("xyz", ["benchlab", "csv"]) == ""
    assert nearest("video-1", ["video-2", "video-3"], 2) == " (did you mean 'video-3' or 'video-2'?)"


def test_a_write_replaces_the_file_whole_and_an_error_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "file.txt"
    with write_atomically(path, "w") as file:
        file.write("first ü\n")
        assert not path.exists()  # not before the end
    assert path.read_bytes() == "first ü\n".encode()
    with pytest.raises(ZeroDivisionError), write_atomically(path) as file:
        file.write(b"half")
        raise ZeroDivisionError
    assert path.read_bytes() == "first ü\n".encode()
    assert os.listdir(path.parent) == ["file.txt"]


def test_an_exclusive_write_never_replaces(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with write_atomically(path, exclusive=True) as file:
        file.write(b"first")
    with pytest.raises(FileExistsError), write_atomically(path, exclusive=True) as file:
        file.write(b"second")
    assert path.read_bytes() == b"first"
    assert os.listdir(tmp_path) == ["file"]


def test_a_write_through_a_link_keeps_the_link(tmp_path: Path) -> None:
    (tmp_path / "there").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "there")
    write_json(tmp_path / "link", {"a": 1})
    assert (tmp_path / "link").is_symlink()
    assert read_json(tmp_path / "there") == {"a": 1}


def test_a_full_disk_is_a_clear_error_and_nothing_is_left(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
        with pytest.raises(StepclipError, match="cannot be written"), write_atomically(path) as file:
            file.write(b"x" * 100_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_a_target_that_cannot_be_written_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(StepclipError, match="cannot be written"),
        write_atomically(tmp_path / "file" / "below"),
    ):
        pass
    with pytest.raises(StepclipError, match="cannot be written"), write_atomically(tmp_path):
        pass


@pytest.mark.parametrize("content", [b"", b'{"a": 1', b"\xff\xfe\x00", b"[1,]"])
def test_unreadable_json_names_the_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "some.json").write_bytes(content)
    with pytest.raises(StepclipError, match=r"some\.json"):
        read_json(tmp_path / "some.json")
    with pytest.raises(StepclipError, match=r"none\.json"):
        read_json(tmp_path / "none.json")


def test_nan_is_no_json(tmp_path: Path) -> None:
    with pytest.raises(ValueError):
        write_json(tmp_path / "a.json", {"a": float("nan")})
    assert not os.listdir(tmp_path)


def test_the_lock_lets_one_process_at_a_time_change_a_file(tmp_path: Path) -> None:
    code = (
        "import sys; from stepclip.cache.files import locked, read_json, write_json\n"
        "for _ in range(40):\n"
        "    with locked(sys.argv[1] + '/.lock'):\n"
        "        write_json(sys.argv[1] + '/n.json', read_json(sys.argv[1] + '/n.json') + 1)\n"
    )
    write_json(tmp_path / "n.json", 0)
    workers = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path)]) for _ in range(3)]
    assert [worker.wait() for worker in workers] == [0, 0, 0]
    assert read_json(tmp_path / "n.json") == 120
    with locked(tmp_path / ".lock"):
        pass


def test_a_fingerprint_does_not_depend_on_order_or_on_the_way_a_number_is_written() -> None:
    one = Fingerprint({"b": (1, 2.0), "a": 4.0})
    two = Fingerprint({"a": 4, "b": [1, 2]})
    assert one == two and hash(one) == hash(two) and one.digest == two.digest
    assert len(one.digest) == 16 and int(one.digest, 16) >= 0
    assert Fingerprint(json.loads(one.json)) == one


def test_the_difference_names_each_key_once() -> None:
    one = Fingerprint({"encoder.name": "a", "sampling.fps": 4, "same": 1, "flag": True})
    two = Fingerprint({"encoder.name": "b", "same": 1, "flag": 1})
    assert one != two
    assert one.difference(two) == [("encoder.name", "a", "b"), ("flag", True, 1), ("sampling.fps", 4, ABSENT)]
    lines = one.table(two, "cache", "asked").splitlines()
    assert (
        len(lines) == 3 and "encoder.name" in lines[0] and "cache: a" in lines[0] and "asked: b" in lines[0]
    )
    assert one.table(one) == "" and one.difference(one) == []


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1, 2}, b"bytes", object()])
def test_what_is_no_json_is_refused(value: object) -> None:
    with pytest.raises(StepclipError, match="JSON"):
        Fingerprint({"a": value})  # type: ignore[dict-item]


values = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
)


@given(st.dictionaries(st.text(), values | st.lists(values)), st.dictionaries(st.text(), values))
def test_equal_fingerprints_are_those_without_a_difference(one: dict, two: dict) -> None:
    a, b = Fingerprint(one), Fingerprint(two)
    assert (a == b) == (not a.difference(b)) == (a.digest == b.digest)
    assert Fingerprint(json.loads(a.json)) == a
