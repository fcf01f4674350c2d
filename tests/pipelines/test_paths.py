"""The layout of the root: names, what is there, what is chosen."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepclip.cache.errors import StepclipError
from stepclip.cache.files import read_json
from stepclip.pipelines.paths import Layout, checked_name, record


def touch(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


@given(st.text(max_size=30))
def test_no_name_leads_out_of_the_root(name: str) -> None:
    root = Path("/r")
    try:
        folder = Layout(root).dataset(name).folder
    except StepclipError:
        return
    assert folder.parent == root / "data" and ".." not in folder.parts and folder.name == name


@pytest.mark.parametrize("name", ["", "..", ".", "a/b", "/a", ".hidden", "a\nb", "a" * 101, "-x", "a b"])
def test_bad_names_are_refused(name: str) -> None:
    with pytest.raises(StepclipError, match="name"):
        checked_name(name, "run")


@pytest.mark.parametrize("name", ["csv", "benchlab", "ViT-L-14_336.v2+x", "7"])
def test_good_names_are_kept(name: str) -> None:
    assert checked_name(name, "run") == name


def test_one_dataset_needs_no_name_two_do(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    with pytest.raises(StepclipError, match="stepclip extract"):
        layout.choose_dataset(None)
    touch(tmp_path / "data/one/manifest/videos.parquet")
    assert layout.choose_dataset(None).name == "one"
    touch(tmp_path / "data/two/manifest/videos.parquet")
    touch(tmp_path / "data/no-dataset/something.txt")
    with pytest.raises(StepclipError, match="one, two"):
        layout.choose_dataset(None)
    assert layout.choose_dataset("two").name == "two"
    with pytest.raises(StepclipError, match="did you mean 'two'"):
        layout.choose_dataset("tow")


def test_a_run_knows_its_dataset(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    for run, dataset in (("r1", "a"), ("r2", "b")):
        (tmp_path / "runs" / run / "checkpoints").mkdir(parents=True)
        record(layout.run(run).source, dataset=dataset)
        touch(tmp_path / "data" / dataset / "manifest/videos.parquet")
    assert [path.name for path in layout.choose_both(None, "r2")] == ["b", "r2"]
    assert [path.name for path in layout.choose_both("a", None)] == ["a", "r1"]
    assert layout.runs() == ["r1", "r2"] and layout.runs("b") == ["r2"]
    with pytest.raises(StepclipError, match="r1, r2"):
        layout.choose_both(None, None)
    with pytest.raises(StepclipError, match="no trained run 'r3'"):
        layout.choose_both(None, "r3")


def test_record_keeps_the_other_fields(tmp_path: Path) -> None:
    record(tmp_path / "x.json", a=1, b=2)
    record(tmp_path / "x.json", b=3, c=None)
    assert read_json(tmp_path / "x.json") == {"a": 1, "b": 3, "c": None}
