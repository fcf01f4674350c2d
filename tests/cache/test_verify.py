"""Verify: every fault is noticed and named, with what it costs; what is no fault is none."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from stepclip.cache import FeatureStore, FeatureWriter, Fingerprint, Source, StepclipError
from stepclip.cache.commit import commit_shard
from stepclip.cache.layout import CacheInfo, Failure
from stepclip.cache.shard import ROWS_TYPES, ShardRows, Video, read_rows, write_rows
from stepclip.cache.upkeep.examine import Data
from stepclip.cache.upkeep.verify import VerifyReport, verify

KEPT = Path(__file__).parent / "kept" / "schema1"


@pytest.fixture
def rich(tmp_path: Path, tools: Any) -> Path:
    """Five videos with views and sources in two shards, texts of both kinds, a failure."""
    path = tmp_path / "rich"
    source = Source.of(__file__)
    with FeatureWriter(path, tools.fingerprint, dim=tools.dim, shard_videos=3, name="a", views=1) as writer:
        for name in tools.names[:5]:
            truth = tools.video(name)
            views = (truth.features + 1)[None]
            writer.add(name, truth.features, truth.times, truth.duration, views=views, source=source)
        writer.add_text(["pour", "stir"], np.arange(1, 13).reshape(2, 6), "step")
        writer.add_text(["pour, stir"], np.ones((1, 6)), "paragraph")
        writer.fail(Failure("broken", "broken.mp4", "truncated"))
    return path


def found(path: Path) -> set[tuple[str, str, tuple[str, ...], str]]:
    report = verify(path, progress=False)
    return {(fault.file, fault.kind, fault.videos, fault.remedy) for fault in report.faults}


def flip(path: Path, place: int, mask: int = 0x11) -> bytes:
    """Change one byte; what was there before."""
    whole = path.read_bytes()
    path.write_bytes(whole[:place] + bytes([whole[place] ^ mask]) + whole[place + 1 :])
    return whole


def age(path: Path, seconds: float = 600) -> None:
    os.utime(path, (time.time() - seconds,) * 2)


# ---- what is whole


def test_a_whole_cache_has_no_fault(rich: Path, tools: Any) -> None:
    report = verify(rich, progress=False)
    assert report.ok and report.lost == [] and report.writing == [] and report.superseded == 0
    frames = sum(len(tools.video(name).times) for name in tools.names[:5])
    assert (report.videos, report.frames, report.shards, report.texts) == (5, frames, 2, 3)
    assert report.bytes == frames * (tools.dim * 2 * 2 + 8)  # features, their view, times
    assert "faults" in str(report) and "repair" not in str(report)
    assert {path.name for path in rich.iterdir()} == {
        "cache.json", "shards", "text.h5", "failed.jsonl", ".lock",
    }  # fmt: skip


def test_the_folder_above_will_do_and_no_cache_is_a_clear_error(cache: Path) -> None:
    assert verify(cache.parent, progress=False).videos == 10
    (cache.parent / "empty").mkdir()
    with pytest.raises(StepclipError, match="no feature cache"):
        verify(cache.parent / "empty")


def test_a_cache_of_schema_1_is_whole(tmp_path: Path) -> None:
    report = verify(KEPT, progress=False)
    assert report.ok and (report.videos, report.texts) == (10, 3)


def test_replaced_copies_are_no_fault_and_counted(cache: Path, tools: Any) -> None:
    with FeatureWriter(cache, tools.fingerprint, dim=tools.dim) as writer:
        writer.add("video-03", np.ones((2, tools.dim)), np.arange(2), 2, replace=True)
    report = verify(cache, progress=False)
    assert report.ok and report.videos == 10 and report.superseded == 1
    assert report.superseded_bytes == len(tools.video("video-03").times) * (tools.dim * 2 + 8)
    assert "stepclip cache compact" in str(report)


def test_a_file_that_is_being_written_is_no_fault_and_one_that_was_left_is(cache: Path) -> None:
    aside = cache / "shards" / ".a-00003.h5.123.abcd.tmp"
    aside.write_bytes(b"half")
    report = verify(cache, progress=False)
    assert report.ok and report.writing == ["shards/.a-00003.h5.123.abcd.tmp"]
    age(aside)
    assert found(cache) == {("shards/.a-00003.h5.123.abcd.tmp", "abandoned", (), "repair")}


def test_data_whose_rows_come_a_moment_later_is_no_fault(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A writer between its two renames: here the row file comes while verify waits for it."""
    rows = cache / "shards" / "a-00001.parquet"
    whole = rows.read_bytes()
    rows.unlink()
    os.utime(rows.with_suffix(".h5"))
    waited = []

    def sleep(seconds: float) -> None:
        waited.append(seconds)
        rows.write_bytes(whole)

    monkeypatch.setattr("stepclip.cache.upkeep.survey.survivors", set)
    monkeypatch.setattr("stepclip.cache.upkeep.survey.time.sleep", sleep)
    report = verify(cache, progress=False)
    assert report.ok and report.videos == 10 and len(waited) == 1 and 0 < waited[0] <= 1


@pytest.mark.slow
def test_a_writer_at_work_is_no_fault(tmp_path: Path, tools: Any) -> None:
    path, stop = tmp_path / "features", tmp_path / "stop"
    tools.write(path, ["first"])

    def until_told() -> Iterator[str]:
        for number in count():
            if stop.exists():
                return
            yield f"v{number:06d}"

    child = os.fork()
    if child == 0:
        try:
            tools.write(path, until_told(), shard_videos=3)
        finally:
            os._exit(0)
    reports: list[VerifyReport] = []
    end = time.monotonic() + 120  # a busy machine may let the writer wait
    while time.monotonic() < end and (len(reports) < 8 or len({report.videos for report in reports}) < 4):
        reports.append(verify(path, progress=False))
    stop.touch()
    os.waitpid(child, 0)
    assert [report.faults for report in reports if not report.ok] == []
    assert len({report.videos for report in reports}) >= 4
    last = verify(path, progress=False)
    assert last.ok and last.videos >= max(report.videos for report in reports)


# ---- flipped bytes


def test_every_flipped_byte_of_the_numbers_is_noticed_and_costs_its_video_alone(rich: Path) -> None:
    shard = rich / "shards" / "a-00000.h5"
    rows = read_rows(shard.with_suffix(".parquet"))
    with h5py.File(shard) as file:
        arrays = {key: file[key].id.get_offset() for key in ("features", "times", "views")}
    for key, width in (("features", rows.dim * 2), ("times", 8), ("views", rows.dim * 2)):
        for place in range(0, rows.count * width, 97):
            whole = flip(shard, arrays[key] + place)
            frame = place // width
            owner = next(name for name, first, n in zip(rows.ids, rows.first, rows.frames, strict=True)
                         if first <= frame < first + n)  # fmt: skip
            assert found(rich) == {("shards/a-00000.h5", "checksum", (owner,), "extract")}, (key, place)
            shard.write_bytes(whole)


def flips_around(path: Path, arrays: list[tuple[int, int]], step: int) -> Iterator[int]:
    for place in range(5, path.stat().st_size, step):
        if not any(first <= place < last for first, last in arrays):
            yield place


@pytest.mark.parametrize("step", [1201, pytest.param(61, marks=pytest.mark.slow)])
def test_every_flipped_byte_around_the_numbers_is_noticed_and_costs_nothing(rich: Path, step: int) -> None:
    """Some of them make HDF5 loop for ever or crash."""
    shard = rich / "shards" / "a-00000.h5"
    with h5py.File(shard) as file:
        data = [file[key] for key in ("features", "times", "views")]
        arrays = [(each.id.get_offset(), each.id.get_offset() + each.nbytes) for each in data]
    for place in flips_around(shard, arrays, step):
        whole = flip(shard, place)
        assert found(rich) == {("shards/a-00000.h5", "damaged-header", (), "repair")}, place
        shard.write_bytes(whole)


@pytest.mark.slow
@pytest.mark.parametrize(("place", "mask"), [(2057, 0x01), (1001, 0xFF)])
def test_a_header_that_hdf5_comes_to_no_end_with_is_named(tmp_path: Path, place: int, mask: int) -> None:
    """Schema 1 kept no checksum of the header; HDF5 2.0 loops for ever on these bytes, or crashes."""
    path = tmp_path / "features"
    shutil.copytree(KEPT, path)
    flip(path / "shards" / "old-00000.h5", place, mask)
    assert found(path) == {("shards/old-00000.h5", "damaged-header", (), "repair")}


@pytest.mark.parametrize("step", [331, pytest.param(97, marks=pytest.mark.slow)])
def test_a_flipped_byte_of_a_row_file_is_noticed_or_changes_nothing(rich: Path, step: int) -> None:
    rows = rich / "shards" / "a-00000.parquet"
    before = vars(read_rows(rows))
    noticed = 0
    for place in range(0, rows.stat().st_size, step):
        whole = flip(rows, place, 0x04)
        faults = found(rich)
        if faults:
            noticed += 1
            assert faults == {("shards/a-00000.parquet", "damaged-rows", (), "repair")}
        else:
            assert vars(read_rows(rows)) == before
        rows.write_bytes(whole)
    assert noticed > 0


@pytest.mark.parametrize("step", [6007, pytest.param(211, marks=pytest.mark.slow)])
def test_every_flipped_byte_of_the_texts_is_noticed(rich: Path, step: int) -> None:
    texts = rich / "text.h5"
    for place in range(0, texts.stat().st_size, step):
        whole = flip(texts, place)
        report = verify(rich, progress=False)
        assert [(fault.file, fault.kind, fault.videos) for fault in report.faults] == [
            ("text.h5", "damaged-texts", ())
        ], place
        with pytest.raises(StepclipError, match=r"text\.h5 is damaged"):
            FeatureStore.open(rich).text(["pour"])
        texts.write_bytes(whole)


def test_a_reader_never_hands_a_damaged_header_to_hdf5(rich: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flip(rich / "shards" / "a-00000.h5", 2000)
    flip(rich / "text.h5", 3000)
    store = FeatureStore.open(rich)

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("HDF5 is asked, which may loop for ever")

    monkeypatch.setattr(h5py, "File", fail)
    with pytest.raises(StepclipError, match="a-00000"):
        store["video-00"]
    with pytest.raises(StepclipError, match=r"text\.h5 is damaged"):
        store.text(["pour"])


# ---- files that are cut, gone, or in another's place


@pytest.mark.parametrize("share", [0.0, 0.3, 0.8, 0.999, 1.2])
def test_a_data_file_of_another_size_costs_the_videos_that_are_not_whole(rich: Path, share: float) -> None:
    shard = rich / "shards" / "a-00000.h5"
    os.truncate(shard, int(shard.stat().st_size * share))
    report = verify(rich, progress=False)
    ((kind, lost),) = [(fault.kind, fault.videos) for fault in report.faults]
    assert kind == "size" and f"{report.videos - 2} of 3 videos are whole" in report.faults[0].detail
    assert len(lost) == 5 - report.videos == {0.0: 3, 0.3: 3, 0.8: 3}.get(share, 0)
    assert "stepclip cache repair" in str(report) and ("stepclip extract" in str(report)) == bool(lost)


def test_a_data_file_or_a_row_file_that_is_gone_is_named(cache: Path) -> None:
    (cache / "shards" / "a-00001.h5").unlink()
    lost = tuple(f"video-0{number}" for number in range(4, 8))
    assert found(cache) == {("shards/a-00001.parquet", "no-data", lost, "extract")}
    (cache / "shards" / "a-00000.parquet").unlink()
    age(cache / "shards" / "a-00000.h5")
    assert found(cache) == {
        ("shards/a-00001.parquet", "no-data", lost, "extract"),
        ("shards/a-00000.h5", "no-rows", (), "repair"),
    }
    assert verify(cache, progress=False).videos == 6


def test_a_file_that_is_cut_while_it_is_read_or_mapped_is_named(
    rich: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mapped file that is cut kills the process that looks at it."""
    store = FeatureStore.open(rich)
    mapped = store["video-00"]
    shard = rich / "shards" / "a-00000.h5"
    real = Data.fault

    def cut(data: Data, rows: ShardRows, row: int) -> tuple[str, str] | None:
        os.truncate(shard, 100)
        return real(data, rows, row)

    monkeypatch.setattr(Data, "fault", cut)
    lost = ("video-00", "video-01", "video-02")
    assert found(rich) == {("shards/a-00000.h5", "size", lost, "extract")}
    assert len(mapped.times) > 0


def test_where_no_child_process_can_be_started_nothing_is_called_damaged(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A child tries what no checksum vouches for."""
    (cache / "shards" / "a-00001.parquet").unlink()
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(StepclipError, match="cannot be started"):
        verify(cache, progress=False)


def test_a_loss_that_another_copy_makes_good_costs_nothing(cache: Path, tools: Any) -> None:
    tools.write(cache.parent / "again", tools.names, name="b")
    for path in (cache.parent / "again" / "shards").iterdir():
        shutil.copy(path, cache / "shards")
    os.truncate(cache / "shards" / "a-00001.h5", 100)
    assert found(cache) == {("shards/a-00001.h5", "size", (), "repair")}


def test_the_row_file_of_another_shard_costs_nothing(cache: Path) -> None:
    shutil.copy(cache / "shards" / "a-00000.parquet", cache / "shards" / "a-00001.parquet")
    report = verify(cache, progress=False)
    assert not report.ok and report.videos == 10 and report.lost == []
    assert {fault.file for fault in report.faults} == {"shards/a-00001.h5"}


def test_data_that_contradict_their_rows_are_named(cache: Path) -> None:
    path = cache / "shards" / "a-00001.parquet"
    rows = read_rows(path)
    about = {
        "schema": 2, "bytes": rows.bytes, "digest": rows.digest, "dim": rows.dim, "dtype": rows.dtype,
        "views": 0, "features_at": rows.places[0], "times_at": rows.places[1], "views_at": -1,
        "committed": rows.committed, "head_crc32": rows.head,
    }  # fmt: skip
    rows.durations[2] += 1
    columns = (rows.ids, rows.first, rows.frames, rows.durations, rows.crc32, rows.sources)
    write_rows(path, about, dict(zip(ROWS_TYPES, columns, strict=True)))
    assert found(cache) == {("shards/a-00001.h5", "contradiction", (), "repair")}
    assert "durations" in verify(cache, progress=False).faults[0].detail


@pytest.mark.parametrize("fault", ["nan", "zero", "times", "view"])
def test_values_that_no_writer_takes_are_named_though_the_checksum_fits(
    tmp_path: Path, tools: Any, fault: str
) -> None:
    features, times = np.ones((4, tools.dim), np.float16), np.arange(4.0)
    views = np.ones((1, 4, tools.dim), np.float16)
    if fault == "times":
        times[2] = 1
    else:
        (views[0] if fault == "view" else features)[2] = {"nan": np.nan, "zero": 0, "view": np.inf}[fault]
    info = CacheInfo(tools.fingerprint, tools.dim, "float16", 1)
    with FeatureWriter(tmp_path, tools.fingerprint, dim=tools.dim, views=1):
        commit_shard(
            tmp_path, "b", count(), info, [Video("bad", features, times, 4.0, views)], time.time_ns()
        )
    assert found(tmp_path) == {("shards/b-00000.h5", "values", ("bad",), "extract")}
    assert "frame 2" in verify(tmp_path, progress=False).faults[0].detail


# ---- the other files


def test_an_account_that_is_gone_or_damaged_is_named_and_the_shards_are_read(cache: Path) -> None:
    account = cache / "cache.json"
    whole = account.read_bytes()
    for content in (b"", b"{", b"\xff\xfe", b"[]", whole.replace(b"pyav", b"pyaw")):
        account.write_bytes(content)
        assert found(cache) == {("cache.json", "damaged-account", (), "repair")}
    for changed in ({"dim": 13}, {"dtype": "float32"}, {"views": 1}):
        account.write_text(json.dumps(json.loads(whole) | changed))
        assert found(cache) == {("cache.json", "damaged-account", (), "repair")}
    account.unlink()
    assert found(cache) == {("cache.json", "no-account", (), "repair")}
    assert verify(cache, progress=False).videos == 10


def test_shards_of_another_fingerprint_are_named_and_not_counted(cache: Path, tools: Any) -> None:
    other = cache.parent / "other"
    with FeatureWriter(other, Fingerprint({"encoder.name": "other"}), dim=tools.dim, name="b") as writer:
        writer.add("alien", np.ones((1, tools.dim)), np.zeros(1), 1)
        writer.add_text(["pour"], np.ones((1, 4)), "step")
    for path in (other / "shards").iterdir():
        shutil.copy(path, cache / "shards")
    shutil.copy(other / "text.h5", cache)
    assert found(cache) == {
        ("shards/b-00000.h5", "other-fingerprint", (), "repair"),
        ("text.h5", "other-fingerprint", (), "extract"),
    }
    assert verify(cache, progress=False).videos == 10


def test_unreadable_lines_of_failures_are_named(rich: Path) -> None:
    with (rich / "failed.jsonl").open("ab") as file:
        file.write(b'{"video_id": \n\xff\xfe\n')
    assert found(rich) == {("failed.jsonl", "damaged-failures", (), "repair")}
    assert [fault.detail for fault in verify(rich, progress=False).faults] == [
        "line 2 cannot be read",
        "line 3 cannot be read",
    ]


def test_a_damaged_copy_of_the_row_files_is_named(
    tmp_path: Path, tools: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stepclip.cache.catalogue._WORTH", 2)
    tools.write(tmp_path, tools.names, name="a")
    assert verify(tmp_path, progress=False).ok
    copy = tmp_path / "rows.parquet"
    whole = copy.read_bytes()
    for content in (b"", whole[:-50], whole[:70] + bytes([whole[70] ^ 1]) + whole[71:]):
        copy.write_bytes(content)
        assert found(tmp_path) == {("rows.parquet", "damaged-copy", (), "repair")}


def test_a_newer_schema_is_left_alone(cache: Path) -> None:
    path = cache / "shards" / "a-00001.parquet"
    rows = read_rows(path)
    about = {
        "schema": 3, "bytes": rows.bytes, "digest": rows.digest, "dim": rows.dim, "dtype": rows.dtype,
        "features_at": 0, "times_at": 0, "committed": rows.committed,
    }  # fmt: skip
    columns = (rows.ids, rows.first, rows.frames, rows.durations, rows.crc32, rows.sources)
    write_rows(path, about, dict(zip(ROWS_TYPES, columns, strict=True)))
    with pytest.raises(StepclipError, match="newer schema") as caught:
        verify(cache, progress=False)
    assert "update StepCLIP" in caught.value.run
    account = json.loads((cache / "cache.json").read_text())
    (cache / "cache.json").write_text(json.dumps(account | {"schema": 3}))
    path.unlink()
    with pytest.raises(StepclipError, match="newer schema"):
        verify(cache, progress=False)


def test_the_report_is_a_table_and_json(cache: Path, tmp_path: Path) -> None:
    os.truncate(cache / "shards" / "a-00001.h5", 100)
    flip(cache / "cache.json", 20)
    report = verify(cache, progress=False)
    shown = str(report)
    assert "cache.json is" in shown and "shards/a-00001.h5" in shown and "4: video-04" in shown
    assert "stepclip cache repair, then stepclip extract, which does 4 videos again" in shown
    kept = json.loads(report.save(tmp_path / "report.json").read_text())
    assert kept["ok"] is False and kept["lost"] == [f"video-0{number}" for number in range(4, 8)]
    assert kept["faults"][0]["file"] == "cache.json" and kept["faults"][1]["remedy"] == "extract"


def test_progress_is_shown_when_asked(
    cache: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    verify(cache, progress=False)
    assert capfd.readouterr() == ("", "")
    monkeypatch.setenv("FORCE_COLOR", "1")  # as on a terminal
    verify(cache)
    assert "reading the cache" in capfd.readouterr().err


# ---- a folder that is not ours to write


def as_nobody(folder: Path, work: Callable[[], None]) -> None:
    """Run in a child process without root's power over files; fails when the child does."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            if os.getuid() == 0:
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
            work()
            code = 0
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.fixture
def read_only(rich: Path) -> Iterator[Path]:
    """The same cache where nobody but its owner may write, and the owner neither."""
    with tempfile.TemporaryDirectory(dir="/tmp") as above:
        os.chmod(above, 0o755)
        path = Path(above) / "features"
        shutil.copytree(rich, path)
        for each in (*path.rglob("*"), path):
            os.chmod(each, 0o555 if each.is_dir() else 0o444)
        yield path
        for each in (path, *path.rglob("*")):
            os.chmod(each, 0o755)


def test_a_read_only_folder_is_read_and_verified_and_writing_is_refused(read_only: Path, tools: Any) -> None:
    from stepclip.cache.upkeep.repair import repair

    def work() -> None:
        before = {path: path.stat().st_mtime_ns for path in read_only.rglob("*")}
        store = FeatureStore.open(read_only)
        tools.check(store, tools.names[:5])
        assert store.text(["stir"]).shape == (1, 6)
        assert verify(read_only, progress=False).ok
        assert not repair(read_only, progress=False, dry_run=True).changed
        for refused in (
            lambda: repair(read_only, progress=False),
            lambda: write(["pour"]),
            lambda: write([]),
        ):
            with pytest.raises(StepclipError, match="cannot be written") as caught:
                refused()
            assert "--root" in caught.value.run
        assert before == {path: path.stat().st_mtime_ns for path in read_only.rglob("*")}

    def write(texts: list[str]) -> None:
        writer = FeatureWriter(read_only, tools.fingerprint, dim=tools.dim, views=1)
        if texts:
            writer.add_text(texts, np.ones((1, 6)), "step")
        else:
            writer.add("late", np.ones((1, 12)), np.zeros(1), 1, views=np.ones((1, 1, 12)))
            writer.close()

    verify(read_only, progress=False)  # what is imported late is there before the child loses its rights
    as_nobody(read_only, work)


def test_a_file_that_may_not_be_read_is_no_damage(read_only: Path) -> None:
    from stepclip.cache.upkeep.repair import repair

    os.chmod(read_only / "shards" / "a-00000.h5", 0)

    def work() -> None:
        for attempt in (verify, repair):
            with pytest.raises(StepclipError, match=r"a-00000\.h5 cannot be read|cannot be written"):
                attempt(read_only, progress=False)
        with pytest.raises(StepclipError, match=r"a-00000\.h5 cannot be read"):
            repair(read_only, progress=False, dry_run=True)

    as_nobody(read_only, work)
