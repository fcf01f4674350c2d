"""The manifest: reading what users bring, naming its faults, keeping it."""

from __future__ import annotations

import json
import logging
import os
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stepclip.cache.errors import StepclipError
from stepclip.cache.manifest import Manifest, MatchRow, Pair, VideoRow


def read(folder: Path, content: str | bytes, name: str = "list.csv") -> Manifest:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return Manifest.read(path)


def refused(folder: Path, content: str | bytes, name: str = "list.csv") -> str:
    with pytest.raises(StepclipError) as caught:
        read(folder, content, name)
    assert name in caught.value.found and caught.value.expected
    return str(caught.value)


def test_two_columns_are_enough(tmp_path: Path) -> None:
    manifest = read(
        tmp_path, 'video,steps\nclips/tea.mp4,"boil the water | pour, slowly | "\nsoup.MOV,cut|cook\n'
    )
    tea, soup = manifest
    assert tea.steps == ("boil the water", "pour, slowly")
    assert tea.paragraph == "boil the water, pour, slowly"
    assert tea.path == str(tmp_path / "clips" / "tea.mp4")
    assert (tea.video_id, soup.video_id) == ("tea", "soup")
    assert (tea.task, tea.split, tea.start, tea.end, tea.step_start, tea.step_end) == ("", "", *[None] * 4)
    assert manifest.name == "list" and len(manifest) == 2 and manifest["soup"] is soup and "tea" in manifest
    assert manifest.steps() == ["boil the water", "cook", "cut", "pour, slowly"]
    assert manifest.paragraphs() == ["boil the water, pour, slowly", "cut, cook"]


def test_every_column_is_read(tmp_path: Path) -> None:
    header = "notes,Video_ID,path,steps,task,procedure,split,start,end,step_start,step_end"
    row = next(iter(read(tmp_path, header + "\nx,one,a.mp4,A|B,7,7.1,Validation,1.5,9,0|2.5,2|4\n")))
    assert row == VideoRow(
        "one", str(tmp_path / "a.mp4"), "7", "7.1", "val", 1.5, 9.0, ("A", "B"), (0.0, 2.5), (2.0, 4.0)
    )


def test_the_same_script_is_the_same_procedure(tmp_path: Path) -> None:
    a, b, c, d = read(tmp_path, "video,steps\na.mp4,x|y\nb.mp4, x | y\nc.mp4,y|x\nd.mp4,x y\n")
    assert a.procedure == b.procedure
    assert len({a.procedure, c.procedure, d.procedure}) == 3 and a.procedure


def test_all_formats_say_the_same(tmp_path: Path) -> None:
    import pandas as pd

    rows = [
        {"video": "a.mp4", "steps": ["boil", "pour"], "split": "train", "start": 1.0, "end": None},
        {"video": "b.mp4", "steps": ["cut"], "split": "test", "start": None, "end": 3.5},
    ]
    plain = "video,steps,split,start,end\na.mp4,boil|pour,train,1.0,\nb.mp4,cut,test,,3.5\n"
    expected = read(tmp_path, plain)
    variants: dict[str, bytes] = {
        "bom.csv": b"\xef\xbb\xbf" + plain.encode(),
        "crlf.csv": plain.replace("\n", "\r\n").encode(),
        "quoted.csv": b'"video","steps","split","start","end"\n'
        b'"a.mp4","boil|pour",train,1.0,\n\n"b.mp4","cut",test,,3.5',
        "semicolons.csv": plain.replace(",", ";").encode(),
        "tabs.tsv": plain.replace(",", "\t").encode(),
        "objects.jsonl": "\r\n".join(json.dumps(row) for row in rows).encode() + b"\n\n",
        "strings.jsonl": "\n".join(
            json.dumps({**row, "steps": "|".join(row["steps"])}) for row in rows
        ).encode(),
    }
    for name, content in variants.items():
        assert read(tmp_path, content, name).videos == expected.videos, name
    pd.DataFrame(rows).to_parquet(tmp_path / "frame.parquet")
    assert Manifest.read(tmp_path / "frame.parquet").videos == expected.videos


def test_a_step_may_hold_the_separator_where_steps_are_a_list(tmp_path: Path) -> None:
    manifest = read(tmp_path, json.dumps({"video": "a.mp4", "steps": ["this|that", "pour"]}), "a.jsonl")
    assert manifest["a"].steps == ("this|that", "pour")
    assert Manifest.read(manifest.write(tmp_path / "kept")) == manifest.__class__(manifest.videos, name="a")


def test_ids_take_only_as_many_folders_as_they_need(tmp_path: Path) -> None:
    lines = ["x/a.mp4", "y/a.mp4", "b.mp4", "p/q/c.mp4", "r/q/c.mp4", "d.mp4", "d.mkv"]
    manifest = read(tmp_path, "video,steps\n" + "".join(f"{line},s\n" for line in lines))
    assert [row.video_id for row in manifest] == ["x/a", "y/a", "b", "p/q/c", "r/q/c", *[
        f"{'/'.join(tmp_path.parts[1:])}/d{suffix}" for suffix in (".mp4", ".mkv")
    ]]  # fmt: skip


def test_parts_of_one_file_are_told_apart_by_their_trim(tmp_path: Path) -> None:
    manifest = read(tmp_path, "video,start,end,steps\na.mp4,0,5,x\na.mp4,5,9.5,y\nb.mp4,1,2,z\n")
    assert [row.video_id for row in manifest] == ["a@0-5", "a@5-9.5", "b"]


def test_a_given_id_is_left_alone_and_others_avoid_it(tmp_path: Path) -> None:
    manifest = read(tmp_path, "video_id,video,steps\na,x/z.mp4,s\n,y/a.mp4,s\n")
    assert [row.video_id for row in manifest] == ["a", "y/a"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "no rows"),
        ("video,steps\n", "no rows"),
        ("\n\n", "no rows"),
        ("video,step\na.mp4,x\n", "no column 'steps'; found: 'video', 'step'"),
        ("name;steps\na.mp4;x\n", "no column 'video'; found: 'name', 'steps'"),
        ("video,steps,steps\na.mp4,x,y\n", "more than once"),
        ("video,steps\na.mp4,x\nb.mp4,\n", "line 3: 'b.mp4' has no steps"),
        ("video,steps\na.mp4,x\nb.mp4, | \n", "line 3: 'b.mp4' has no steps"),
        ("video,steps\na.mp4\n", "line 2: 'a.mp4' has no steps"),
        ('video,steps\n"a\nb.mp4",x\n,y\n', "line 4: no video"),
        ("video,steps\na.mp4,pour, slowly\n", "line 2: 3 fields where the header has 2"),
        ('video,steps\na.mp4,x\nb.mp4,"y\nc.mp4,z\n', "line 3"),
        ("video,steps\na.mp4,x\na.mp4,y\n", "'a' on lines 2, 3"),
        ("video,steps,video_id\na.mp4,x,k\nb.mp4,x,l\nc.mp4,y,k\n", "'k' on lines 2, 4"),
        ("video,steps,start,end\na.mp4,x,1,2\na.mp4,y,1.0,2.0\n", "on lines 2, 3"),
        ("video,steps,start,end\na.mp4,x,5,4\n", "line 2: start 5, end 4"),
        ("video,steps,start,end\na.mp4,x,,0\n", "line 2: start 0, end 0"),
        ("video,steps,start\na.mp4,x,0:30\n", "line 2: 'start' is '0:30'"),
        ("video,steps,start\na.mp4,x,-1\n", "line 2: 'start' is '-1'"),
        ("video,steps,end\na.mp4,x,nan\n", "line 2: 'end' is 'nan'"),
        ("video,steps,end\na.mp4,x,inf\n", "line 2: 'end' is 'inf'"),
        ("video,steps,split\na.mp4,x,tran\n", "line 2: split 'tran' (did you mean 'train'?)"),
        ("video,steps,step_start,step_end\na.mp4,x|y,0|1,1\n", "line 2: 1 times in 'step_end' for 2 steps"),
        ("video,steps,step_start,step_end\na.mp4,x|y,0|3,1|2\n", "line 2: a step from 3 to 2 s"),
        ("video,steps,step_start\na.mp4,x,0\n", "only one of step_start and step_end"),
        (b"video,steps\na.mp4,x\nb.mp4,caf\xe9\n", "line 3: byte 0xe9 is not UTF-8"),
        ("video,steps\na.mp4,x\n".encode("utf-16"), "UTF-16"),
        ("video,steps\na.mp4,x\0y\n", "line 2"),
    ],
)
def test_each_fault_of_a_csv_is_named_with_its_line(tmp_path: Path, content: str | bytes, said: str) -> None:
    assert said in refused(tmp_path, content)


GOOD = '{"video": "a.mp4", "steps": ["x"]}\n'


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "no rows"),
        (GOOD + "\n{'video': 1}\n", "line 3: not JSON"),
        (GOOD + '{"video": "b.mp4", "steps": ["x"]\n', "line 2: not JSON"),
        (GOOD + "[1, 2]\n", "line 2: a list"),
        (GOOD + '{"video": "b.mp4"}\n', "line 2: no key 'steps'; found: 'video'"),
        (GOOD + '{"video": "b.mp4", "steps": []}\n', "line 2: 'b.mp4' has no steps"),
        (GOOD + '{"video": "b.mp4", "steps": null}\n', "line 2: 'b.mp4' has no steps"),
        (GOOD + '{"video": "b.mp4", "steps": ["x", 3]}\n', "line 2: a step is 3"),
        (GOOD + '{"video": ["b.mp4"], "steps": ["x"]}\n', "line 2: 'video' is"),
        (GOOD + '{"video": "b.mp4", "steps": ["x"], "start": true}\n', "line 2: 'start' is True"),
        (GOOD + '{"video": "b.mp4", "steps": ["x"], "end": NaN}\n', "line 2: 'end' is nan"),
        (GOOD + '{"video": "b.mp4", "steps": ["\\ud800"]}\n', "line 2"),
        (GOOD + GOOD, "'a' on lines 1, 2"),
        (GOOD.encode() + b'{"video": "\xff.mp4"}\n', "line 2: byte 0xff"),
        ("[" * 100_000 + "\n", "line 1: not JSON"),
    ],
)
def test_each_fault_of_a_jsonl_is_named_with_its_line(
    tmp_path: Path, content: str | bytes, said: str
) -> None:
    assert said in refused(tmp_path, content, "list.jsonl")


def test_a_file_that_is_not_there_names_its_neighbours(tmp_path: Path) -> None:
    (tmp_path / "videos.csv").write_text("")
    with pytest.raises(StepclipError, match=r"did you mean 'videos\.csv'"):
        Manifest.read(tmp_path / "video.csv")
    with pytest.raises(StepclipError, match=r"holds: videos\.csv"):
        Manifest.read(tmp_path / "zzz")
    with pytest.raises(StepclipError, match="holds: nothing"):
        Manifest.read(tmp_path / "no" / "such" / "folder.csv")
    with pytest.raises(StepclipError, match=r"no videos\.parquet in the folder .*found: videos\.csv"):
        Manifest.read(tmp_path)


@pytest.mark.parametrize("name", ["list.xlsx", "list.json", "list"])
def test_another_kind_of_file_is_refused(tmp_path: Path, name: str) -> None:
    assert ".jsonl" in refused(tmp_path, "video,steps\na,b\n", name)


@pytest.mark.parametrize("content", [b"", b"PAR1", b"video,steps\na.mp4,x\n"])
def test_a_damaged_parquet_is_refused(tmp_path: Path, content: bytes) -> None:
    assert "Parquet" in refused(tmp_path, content, "list.parquet")


def test_a_column_that_was_nearly_right_is_pointed_at(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "stepclip"):
        read(tmp_path, "video,steps,strat,colour\na.mp4,x,1,red\n")
    assert "'strat' is not used (did you mean 'start'?)" in caplog.text and "colour" not in caplog.text


def example(folder: Path) -> Manifest:
    rows = [
        VideoRow(
            f"v{i}",
            str(folder / f"{i}.mp4"),
            "7",
            f"7.{i % 2}",
            split,
            None,
            None,
            ("x", "y"),
            (0.0, 1.0),
            (1.0, 2.5),
        )
        for i, split in enumerate(["train", "train", "test", "test", "test"])
    ]
    pairs = (
        Pair("v0", "v1", False, "order", "train"),
        Pair("v2", "v4", True, "matched", "test"),
        Pair("v2", "v3", False, "deletion", "test"),
    )
    return Manifest(tuple(rows), pairs, (MatchRow("7.1", ("v2", "v3"), 1, "test"),), "example")


def test_a_split_takes_its_rows_pairs_and_lists(tmp_path: Path) -> None:
    manifest = example(tmp_path)
    test = manifest.split("test")
    assert [row.video_id for row in test] == ["v2", "v3", "v4"]
    assert test.pairs == manifest.pairs[1:] and test.matching == manifest.matching
    assert manifest.split("train").matching == ()
    with pytest.raises(StepclipError, match=r"no row of the split 'tets' \(did you mean 'test'"):
        manifest.split("tets")


def test_a_selection_keeps_what_lies_within_it_in_the_manifests_order(tmp_path: Path) -> None:
    manifest = example(tmp_path)
    some = manifest.select(["v4", "v2"])
    assert [row.video_id for row in some] == ["v2", "v4"]
    assert some.pairs == manifest.pairs[1:2] and some.matching == ()
    with pytest.raises(StepclipError, match="v9"):
        manifest.select(["v1", "v9"])


def test_without_truth_only_the_step_times_go(tmp_path: Path) -> None:
    manifest = example(tmp_path)
    blind = manifest.without_truth()
    assert all(row.step_start is None and row.step_end is None for row in blind)
    assert [row.steps for row in blind] == [row.steps for row in manifest] and blind.pairs == manifest.pairs


def test_a_manifest_that_contradicts_itself_is_refused(tmp_path: Path) -> None:
    row = VideoRow("a", "a.mp4", steps=("x",))
    with pytest.raises(StepclipError, match="more than once: a"):
        Manifest((row, row))
    with pytest.raises(StepclipError, match="pairs name 1 videos that have no row: b"):
        Manifest((row,), (Pair("a", "b", True),))
    with pytest.raises(StepclipError, match="matching lists name"):
        Manifest((row,), (), (MatchRow("p", ("a", "c"), 0),))
    with pytest.raises(StepclipError, match="candidate 1"):
        Manifest((row,), (), (MatchRow("p", ("a",), 1),))
    with pytest.raises(StepclipError, match=r"no video 'aa' \(did you mean 'a'"):
        Manifest((row,))["aa"]


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
seconds = st.floats(0, 1e6) | st.none()


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    ids = draw(st.lists(texts, unique=True, min_size=1, max_size=5))
    rows = []
    for video_id in ids:
        steps = draw(st.lists(texts, max_size=3).map(tuple))
        times = draw(st.none() | st.tuples(*[st.floats(0, 1e6)] * len(steps)))
        row = VideoRow(
            video_id, draw(texts), draw(texts), draw(texts), draw(texts), draw(seconds), draw(seconds), steps
        )
        rows.append(VideoRow(**{**row.__dict__, "step_start": times, "step_end": times}))
    some = st.sampled_from(ids)
    pairs = draw(st.lists(st.builds(Pair, some, some, st.booleans(), texts, texts), max_size=3))
    lists = draw(
        st.lists(
            st.builds(MatchRow, texts, st.tuples(some, some), st.sampled_from([0, 1]), texts), max_size=3
        )
    )
    return Manifest(tuple(rows), tuple(pairs), tuple(lists), draw(texts))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(manifests())
def test_what_is_written_is_read_back_exactly(tmp_path: Path, manifest: Manifest) -> None:
    folder = manifest.write(tmp_path / "manifest")
    assert Manifest.read(folder) == manifest
    assert Manifest.read(tmp_path) == manifest  # the folder above will do
    assert Manifest.read(folder / "videos.parquet") == manifest
    assert sorted(os.listdir(folder)) == ["matching.parquet", "pairs.parquet", "videos.parquet"]


def test_a_relative_path_stays_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    manifest = Manifest((VideoRow("a", "videos/a.mp4", steps=("x",)),), name="m")
    assert Manifest.read(manifest.write("data/m/manifest")) == manifest


def test_a_data_folder_that_moved_finds_the_videos_that_moved_with_it(tmp_path: Path) -> None:
    inside, outside = tmp_path / "old" / "videos" / "a.mp4", tmp_path / "far.mp4"
    inside.parent.mkdir(parents=True)
    inside.write_bytes(b"")
    outside.write_bytes(b"")
    rows = (VideoRow("a", str(inside), steps=("x",)), VideoRow("b", str(outside), steps=("x",)))
    Manifest(rows).write(tmp_path / "old" / "manifest")
    shutil.move(tmp_path / "old", tmp_path / "deep" / "er" / "new")
    a, b = Manifest.read(tmp_path / "deep" / "er" / "new" / "manifest")
    assert a.path == str(tmp_path / "deep" / "er" / "new" / "videos" / "a.mp4") and os.path.exists(a.path)
    assert b.path == str(outside)


def test_a_cut_manifest_is_refused_and_a_newer_one_too(tmp_path: Path) -> None:
    folder = example(tmp_path).write(tmp_path / "m")
    path = folder / "pairs.parquet"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(StepclipError, match=r"pairs\.parquet"):
        Manifest.read(folder)
    path.write_bytes(whole.replace(b'"format": 1', b'"format": 9'))
    with pytest.raises(StepclipError, match="newer StepCLIP"):
        Manifest.read(folder)


def test_a_manifest_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    manifest = example(tmp_path)
    folder = manifest.write(tmp_path / "m")
    with pytest.raises(StepclipError):
        Manifest((VideoRow("a", "a.mp4", steps=("\ud800",)),)).write(folder)
    assert Manifest.read(folder).videos == manifest.videos
