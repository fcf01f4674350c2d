"""Repair: what was damaged is put aside, every whole video is saved, no healthy one is touched."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stepclip.cache import FeatureStore, FeatureWriter, Fingerprint, Source, StepclipError
from stepclip.cache.layout import Failure
from stepclip.cache.shard import read_rows
from stepclip.cache.upkeep.compact import compact
from stepclip.cache.upkeep.repair import RepairReport, repair
from stepclip.cache.upkeep.verify import verify

KEPT = Path(__file__).parent / "kept" / "schema1"
SHARD, ROWS = "shards/a-00001.h5", "shards/a-00001.parquet"
IN_SHARD = [f"video-0{number}" for number in range(4, 8)]


def files_of(path: Path) -> dict[str, tuple[bytes, int]]:
    """What lies in a folder, besides locks."""
    return {
        each.relative_to(path).as_posix(): (each.read_bytes(), each.stat().st_mtime_ns)
        for each in path.rglob("*")
        if each.is_file() and each.name not in (".lock", ".upkeep")
    }


def flip(path: Path, place: int, mask: int = 0x11) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole[:place] + bytes([whole[place] ^ mask]) + whole[place + 1 :])


def age(path: Path) -> None:
    os.utime(path, (time.time() - 600,) * 2)


def mended(
    path: Path, tools: Any, lost: list[str], healthy: tuple[str, ...] = ("a-00000", "a-00002")
) -> RepairReport:
    """Repair a cache of `tools.names`, and check all that a repair promises."""
    noticed = verify(path, progress=False)
    assert not noticed.ok and noticed.lost == lost
    before = files_of(path)
    would = repair(path, progress=False, dry_run=True)
    assert files_of(path) == before  # a dry run writes nothing
    done = repair(path, progress=False)
    assert done.changed and (done.saved, done.lost, done.aside) == (would.saved, would.lost, would.aside)
    assert done.lost == lost and not set(done.saved) & set(lost)
    after = files_of(path)
    for name in healthy:  # what is whole is not touched
        for suffix in (".h5", ".parquet"):
            assert after[f"shards/{name}{suffix}"] == before[f"shards/{name}{suffix}"]
    for file in done.aside:  # nothing is deleted
        if file != "failed.jsonl":
            assert after[f"{done.folder}/{file}"][0] == before[file][0]
    again = verify(path, progress=False)
    assert again.ok and again.videos == len(tools.names) - len(lost)
    store = FeatureStore.open(path)
    assert store.video_ids == tuple(name for name in tools.names if name not in lost)
    assert store.problems == ()
    tools.check(store, store.video_ids)
    assert not repair(path, progress=False).changed  # a second repair has nothing to do
    assert files_of(path).keys() == after.keys()
    return done


def redone(path: Path, tools: Any) -> None:
    """What extraction does then: what is missing, and nothing else."""
    with FeatureWriter(path, tools.fingerprint, dim=tools.dim) as writer:
        done = writer.done()
    tools.write(path, [name for name in tools.names if name not in done])
    assert verify(path, progress=False).videos == len(tools.names)
    tools.check(FeatureStore.open(path), tools.names)


# ---- one damage after the other


def cut_at(share: float) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        os.truncate(path / SHARD, int((path / SHARD).stat().st_size * share))

    return damage


def whole_after_cut(path: Path, share: float) -> list[str]:
    """The videos of the shard all of whose bytes come before the cut."""
    rows = read_rows(path / ROWS)
    cut = int(rows.bytes * share)
    features_at, times_at, _ = rows.places
    return [
        video_id
        for video_id, first, frames in zip(rows.ids, rows.first, rows.frames, strict=True)
        if features_at + (first + frames) * rows.dim * 2 <= cut and times_at + (first + frames) * 8 <= cut
    ]


@pytest.mark.parametrize("share", [0.0, 0.5, 0.93, 0.999])
def test_a_cut_shard_loses_the_videos_after_the_cut_alone(cache: Path, tools: Any, share: float) -> None:
    saved = whole_after_cut(cache, share)
    cut_at(share)(cache)
    done = mended(cache, tools, [name for name in IN_SHARD if name not in saved])
    assert done.saved == saved and done.aside == [SHARD, ROWS]
    redone(cache, tools)


@pytest.mark.slow
def test_a_shard_cut_at_any_of_fifty_places_is_mended(cache: Path, tools: Any, tmp_path: Path) -> None:
    counts = set()
    for place in range(50):
        path = tmp_path / f"cut-{place}"
        shutil.copytree(cache, path)
        share = 0.6 + 0.4 * place / 50 if place % 5 else place / 50
        saved = whole_after_cut(path, share)
        counts.add(len(saved))
        cut_at(share)(path)
        assert mended(path, tools, [name for name in IN_SHARD if name not in saved]).saved == saved
        redone(path, tools)
    assert len(counts) > 3  # some cuts left one video, some two


@pytest.mark.parametrize("key", ["features", "times"])
def test_a_flipped_byte_costs_its_video_alone(cache: Path, tools: Any, key: str) -> None:
    rows = read_rows(cache / ROWS)
    place = (
        rows.places[0] + rows.first[2] * rows.dim * 2
        if key == "features"
        else rows.places[1] + rows.first[2] * 8
    )
    flip(cache / SHARD, place + 1)
    done = mended(cache, tools, ["video-06"])
    assert done.saved == ["video-04", "video-05", "video-07"]
    redone(cache, tools)


def test_a_damaged_header_costs_nothing(cache: Path, tools: Any) -> None:
    for place in (0, 100, 2000):
        path = cache.parent / str(place)
        shutil.copytree(cache, path)
        flip(path / SHARD, place)
        assert mended(path, tools, []).saved == IN_SHARD
    with (cache / SHARD).open("r+b") as file:
        file.write(bytes(1500))
    assert mended(cache, tools, []).saved == IN_SHARD


@pytest.mark.parametrize("kept", [None, *(pytest.param(n, marks=pytest.mark.slow) for n in (0, -100))])
def test_a_row_file_that_is_damaged_or_gone_is_made_anew_from_the_data(
    cache: Path, tools: Any, kept: int | None
) -> None:
    before = vars(read_rows(cache / ROWS))
    data = (cache / SHARD).stat()
    if kept is None:
        (cache / ROWS).unlink()
        age(cache / SHARD)
    else:
        (cache / ROWS).write_bytes((cache / ROWS).read_bytes()[:kept])
    done = mended(cache, tools, [])
    assert (done.saved, done.aside, done.made) == (IN_SHARD, [] if kept is None else [ROWS], [ROWS])
    assert vars(read_rows(cache / ROWS)) == before
    assert (cache / SHARD).stat().st_ino == data.st_ino  # the data were never touched


def test_a_data_file_that_is_gone_is_named_and_its_videos_are_lost(cache: Path, tools: Any) -> None:
    (cache / SHARD).unlink()
    assert mended(cache, tools, IN_SHARD).aside == [ROWS]
    redone(cache, tools)


def test_both_files_damaged_cost_their_videos_alone(cache: Path, tools: Any) -> None:
    (cache / SHARD).write_bytes(b"nothing")
    (cache / ROWS).write_bytes(b"nothing")
    assert verify(cache, progress=False).videos == 6
    done = repair(cache, progress=False)
    assert done.aside == [SHARD, ROWS] and "a-00001 held is not known" in done.notes[0]
    assert verify(cache, progress=False).ok
    redone(cache, tools)


@pytest.mark.slow
def test_the_row_file_of_another_shard_costs_nothing(cache: Path, tools: Any) -> None:
    shutil.copy(cache / "shards" / "a-00000.parquet", cache / ROWS)
    assert mended(cache, tools, []).saved == IN_SHARD


@pytest.mark.slow
def test_the_data_of_another_shard_cost_the_videos_that_are_gone(cache: Path, tools: Any) -> None:
    shutil.copy(cache / "shards" / "a-00000.h5", cache / SHARD)
    assert mended(cache, tools, IN_SHARD).saved == []


@pytest.mark.slow
def test_a_damaged_row_file_is_made_good_by_the_copy_of_all(
    tmp_path: Path, tools: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the header is damaged as well, rows.parquet alone still knows where the videos lie."""
    monkeypatch.setattr("stepclip.cache.catalogue._WORTH", 2)
    tools.write(tmp_path, tools.names, name="a")
    (tmp_path / ROWS).write_bytes(b"")
    flip(tmp_path / SHARD, 0)
    assert mended(tmp_path, tools, []).saved == IN_SHARD


def test_data_without_rows_whose_videos_were_done_again_are_put_aside(cache: Path, tools: Any) -> None:
    """What a writer leaves that is killed before its commit, once the next run has done it all again."""
    (cache / ROWS).unlink()
    redone_by = cache.parent / "again"
    tools.write(redone_by, IN_SHARD, name="b")
    for path in (redone_by / "shards").iterdir():
        shutil.copy(path, cache / "shards")
    age(cache / SHARD)
    done = mended(cache, tools, [])
    assert (done.saved, done.aside) == ([], [SHARD])


def test_a_compacted_shard_whose_row_file_is_lost_waits_for_the_repair(cache: Path, tools: Any) -> None:
    """A compaction removes what one before it left that was killed; this is not that."""
    compact(cache, progress=False)
    (rows,) = (cache / "shards").glob("merged-*.parquet")
    rows.unlink()
    age(rows.with_suffix(".h5"))
    compact(cache, progress=False)
    assert mended(cache, tools, [], ()).saved == list(tools.names)


def test_what_was_replaced_does_not_come_back(cache: Path, tools: Any) -> None:
    """A damaged shard with an old copy of a video, and the newer one in a shard that is whole."""
    with FeatureWriter(cache, tools.fingerprint, dim=tools.dim, name="new") as writer:
        writer.add("video-05", np.ones((2, tools.dim)), np.arange(2), 2, replace=True)
    flip(cache / SHARD, 50)
    done = repair(cache, progress=False)
    assert done.saved == ["video-04", "video-06", "video-07"] and done.lost == done.older == []
    store = FeatureStore.open(cache)
    assert store["video-05"].features.tolist() == [[1] * tools.dim] * 2
    tools.check(store, [name for name in tools.names if name != "video-05"])


def test_an_older_copy_counts_again_when_the_newest_is_damaged(cache: Path, tools: Any) -> None:
    with FeatureWriter(cache, tools.fingerprint, dim=tools.dim, name="new") as writer:
        writer.add("video-05", np.ones((200, tools.dim)), np.arange(200), 200, replace=True)
    os.truncate(cache / "shards" / "new-00000.h5", 5000)
    done = mended(cache, tools, [], ("a-00000", "a-00001", "a-00002"))
    assert done.older == ["video-05"] and done.saved == []
    assert "an older copy counts again of 1 videos: video-05" in str(done)


def test_saved_videos_keep_their_time_of_commit(cache: Path, tools: Any) -> None:
    """So that what another writer replaces while the repair is at work stays replaced."""
    before = read_rows(cache / ROWS).committed
    flip(cache / SHARD, 50)
    repair(cache, progress=False)
    (saved,) = (cache / "shards").glob("saved-a-00001-*.parquet")
    assert read_rows(saved).committed == before
    flip(saved.with_suffix(".h5"), 50)
    repair(cache, progress=False)
    assert [path.name for path in (cache / "shards").glob("saved*.h5")] == ["saved-a-00001-00001.h5"]
    tools.check(FeatureStore.open(cache), tools.names)


def test_views_and_sources_are_saved_too(tmp_path: Path, tools: Any) -> None:
    path = tmp_path / "features"
    source = Source.of(__file__)
    truth = {name: tools.video(name) for name in tools.names[:3]}
    with FeatureWriter(path, tools.fingerprint, dim=tools.dim, views=2, name="a") as writer:
        for name, video in truth.items():
            views = np.stack([video.features + 1, video.features + 2])
            writer.add(name, video.features, video.times, video.duration, views=views, source=source)
    rows = read_rows(path / "shards" / "a-00000.parquet")
    flip(path / "shards" / "a-00000.h5", rows.places[2] + (rows.count + rows.first[1]) * rows.dim * 2)
    done = repair(path, progress=False)
    assert (done.saved, done.lost) == (["video-00", "video-02"], ["video-01"])
    store = FeatureStore.open(path)
    for name in done.saved:
        np.testing.assert_array_equal(store[name].views, [truth[name].features + n for n in (1, 2)])
        assert store.source(name) == source
    (path / "shards" / "saved-a-00000-00000.parquet").unlink()
    repair(path, progress=False)
    assert FeatureStore.open(path).source("video-02") == source and verify(path, progress=False).ok


def test_a_large_shard_is_saved_in_parts(cache: Path, tools: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stepclip.cache.upkeep.repair._BYTES", 500)
    flip(cache / SHARD, 50)
    done = mended(cache, tools, [])
    assert done.saved == IN_SHARD and len(list((cache / "shards").glob("saved-a-00001-*.h5"))) > 1


# ---- the other files


@pytest.mark.parametrize("content", [None, b"", b"{", b"[]", b'{"dim": 13}'])
def test_an_account_that_is_gone_or_damaged_is_made_anew(
    cache: Path, tools: Any, content: bytes | None
) -> None:
    account = cache / "cache.json"
    before = json.loads(account.read_text())
    if content is None:
        account.unlink()
    else:
        account.write_text(
            json.dumps(before | json.loads(content))
        ) if b"dim" in content else account.write_bytes(content)
    done = mended(cache, tools, [], ("a-00000", "a-00001", "a-00002"))
    assert done.made == ["cache.json"] and done.aside == (["cache.json"] if content is not None else [])
    after = json.loads(account.read_text())
    ours = ("writer", "written")
    assert {key: after[key] for key in after if key not in ours} == {
        key: before[key] for key in before if key not in ours
    }
    FeatureStore.open(cache, tools.fingerprint)


def test_a_repair_that_cannot_tell_what_the_cache_is_changes_nothing(cache: Path, tools: Any) -> None:
    other = cache.parent / "other"
    with FeatureWriter(other, Fingerprint({"encoder.name": "other"}), dim=tools.dim, name="b") as writer:
        writer.add("alien", np.ones((1, tools.dim)), np.zeros(1), 1)
    ours = (cache / "cache.json").read_bytes()
    shutil.copy(other / "cache.json", cache)  # now all shards are of another fingerprint than the account
    both = cache.parent / "both"
    shutil.copytree(cache, both)
    (both / "cache.json").unlink()
    for path in (other / "shards").iterdir():
        shutil.copy(path, both / "shards")
    none = cache.parent / "none"
    none.mkdir()
    (none / "cache.json").write_text("{")
    for path, words in ((cache, "none of the 3 shards"), (both, "2 kinds"), (none, "no shard is left")):
        before = files_of(path)
        assert not verify(path, progress=False).ok
        with pytest.raises(StepclipError, match=words):
            repair(path, progress=False)
        assert files_of(path) == before
    (cache / "cache.json").write_bytes(ours)
    assert verify(cache, progress=False).ok


def test_shards_of_another_fingerprint_are_put_aside(cache: Path, tools: Any) -> None:
    other = cache.parent / "other"
    with FeatureWriter(other, Fingerprint({"encoder.name": "other"}), dim=tools.dim, name="b") as writer:
        writer.add("video-05", np.ones((1, tools.dim)), np.zeros(1), 1)
    for path in (other / "shards").iterdir():
        shutil.copy(path, cache / "shards")
    done = mended(cache, tools, [], ("a-00000", "a-00001", "a-00002"))
    assert done.aside == ["shards/b-00000.h5", "shards/b-00000.parquet"]


@pytest.fixture
def texts(cache: Path, tools: Any) -> Path:
    with FeatureWriter(cache, tools.fingerprint, dim=tools.dim) as writer:
        writer.add_text(["pour", "stir"], np.arange(1, 13).reshape(2, 6), "step")
        writer.add_text(["pour, stir"], np.full((1, 6), 77), "paragraph")
    return cache


@pytest.mark.slow
def test_the_kind_of_texts_that_is_whole_is_kept(texts: Path, tools: Any) -> None:
    whole = (texts / "text.h5").read_bytes()
    place = whole.index(np.full(6, 77, np.float32).tobytes())
    flip(texts / "text.h5", place + 6)
    done = mended(texts, tools, [], ("a-00000", "a-00001", "a-00002"))
    assert done.texts_lost and "does the texts again" in str(done)
    store = FeatureStore.open(texts)
    assert store.text(["stir"]).tolist() == [[7, 8, 9, 10, 11, 12]] and not store.has_text(
        "pour, stir", "paragraph"
    )


@pytest.mark.slow
def test_texts_that_cannot_be_read_are_put_aside_and_a_flip_around_them_costs_nothing(
    texts: Path, tools: Any
) -> None:
    whole = (texts / "text.h5").read_bytes()
    flip(texts / "text.h5", 30)  # in the seal
    assert not mended(texts, tools, [], ("a-00000", "a-00001", "a-00002")).texts_lost
    assert FeatureStore.open(texts).text(["stir"]).tolist() == [[7, 8, 9, 10, 11, 12]]
    for content in (b"", whole[:3000]):
        (texts / "text.h5").write_bytes(content)
        done = mended(texts, tools, [], ("a-00000", "a-00001", "a-00002"))
        assert done.texts_lost and done.aside == ["text.h5"] and not (texts / "text.h5").exists()


def test_unreadable_lines_of_failures_are_kept_aside(cache: Path, tools: Any) -> None:
    with FeatureWriter(cache, tools.fingerprint, dim=tools.dim) as writer:
        writer.fail(Failure("broken", "broken.mp4", "truncated"))
    with (cache / "failed.jsonl").open("ab") as file:
        file.write(b'{"video_id": \n\xff\xfe\n')
    done = mended(cache, tools, [], ("a-00000", "a-00001", "a-00002"))
    assert (cache / done.folder / "failed.jsonl").read_bytes() == b'{"video_id": \n\xff\xfe\n'
    assert [failure.video_id for failure in FeatureStore.open(cache).failures()] == ["broken"]


def test_what_was_never_finished_is_put_aside_and_what_is_being_written_is_not(
    cache: Path, tools: Any
) -> None:
    left, busy = cache / "shards" / ".a-00003.h5.1.ab.tmp", cache / ".text.h5.2.cd.tmp"
    for path in (left, busy):
        path.write_bytes(b"half")
    age(left)
    (cache / "text.damaged.h5").write_bytes(b"put aside by a writer")
    done = repair(cache, progress=False)
    assert done.aside == ["shards/.a-00003.h5.1.ab.tmp", "text.damaged.h5"]
    assert (
        busy.exists() and not left.exists() and (cache / done.folder / done.aside[0]).read_bytes() == b"half"
    )
    assert verify(cache, progress=False).ok and not repair(cache, progress=False).changed


def test_a_damaged_copy_of_the_row_files_is_made_anew(
    tmp_path: Path, tools: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stepclip.cache.catalogue._WORTH", 2)
    tools.write(tmp_path, tools.names, name="a")
    os.truncate(tmp_path / "rows.parquet", 500)
    assert repair(tmp_path, progress=False).aside == ["rows.parquet"]
    assert (tmp_path / "rows.parquet").stat().st_size > 500 and verify(tmp_path, progress=False).ok


@pytest.mark.slow
@pytest.mark.parametrize(
    ("damage", "lost"),
    {
        "rows": (lambda path: (path / "shards" / "old-00001.parquet").unlink(), []),
        "header": (lambda path: flip(path / "shards" / "old-00001.h5", 0), []),
        "numbers": (lambda path: flip(path / "shards" / "old-00001.h5", 8192), ["video-04"]),
        "account": (lambda path: (path / "cache.json").unlink(), []),
        "texts": (lambda path: flip(path / "text.h5", 0), []),
    }.values(),
    ids=["rows", "header", "numbers", "account", "texts"],
)
def test_a_cache_of_schema_1_is_mended(
    tmp_path: Path, tools: Any, damage: Callable[[Path], None], lost: list[str]
) -> None:
    path = tmp_path / "features"
    shutil.copytree(KEPT, path)
    damage(path)
    for each in (path / "shards").iterdir():
        age(each)
    done = mended(path, tools, lost, ("old-00000", "old-00002"))
    assert FeatureStore.open(path).text_dim == (0 if done.texts_lost else 6)
    assert json.loads((path / "cache.json").read_text())["schema"] == 2
    redone(path, tools)


def test_the_report_is_kept_beside_what_was_put_aside(cache: Path, tools: Any) -> None:
    (cache / SHARD).unlink()
    done = repair(cache, progress=False)
    kept = json.loads((cache / done.folder / "repair.json").read_text())
    assert kept["lost"] == IN_SHARD and kept["aside"] == [ROWS]
    assert "4" in str(done) and "stepclip extract" in str(done) and done.folder in str(done)
    assert "nothing to repair" in str(repair(cache, progress=False))


# ---- a rough world


def test_a_repair_beside_a_merge_or_another_repair_waits_its_turn(cache: Path) -> None:
    from stepclip.cache.files import locked

    (cache / SHARD).unlink()
    with locked(cache / ".upkeep"), pytest.raises(StepclipError, match="another repair, merge or compaction"):
        repair(cache, progress=False)
    assert repair(cache, progress=False).changed


def all_damages(path: Path) -> None:
    """Each file of the cache damaged, and still every video but one can be saved."""
    rows = read_rows(path / ROWS)
    flip(path / SHARD, rows.places[0] + rows.first[1] * rows.dim * 2)
    (path / "shards" / "a-00000.parquet").write_bytes(b"")
    flip(path / "shards" / "a-00002.h5", 0)
    (path / "cache.json").write_text("{")
    flip(path / "text.h5", 20)
    with (path / "failed.jsonl").open("ab") as file:
        file.write(b"{\n")
    (path / "shards" / ".left.h5.1.ab.tmp").write_bytes(b"half")
    for each in (path / "shards").iterdir():
        age(each)


@pytest.mark.parametrize(
    "stop", [6, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 3, 9, *range(12, 44, 2)))]
)
def test_a_repair_killed_at_any_step_loses_nothing_and_the_next_one_finishes(
    texts: Path, tools: Any, stop: int
) -> None:
    with FeatureWriter(texts, tools.fingerprint, dim=tools.dim) as writer:
        writer.fail(Failure("broken", "broken.mp4", "truncated"))
    all_damages(texts)
    child = os.fork()
    if child == 0:  # dies at its stop-th change of the folder
        steps = iter(range(1, 1000))
        for name in ("rename", "replace", "link", "fsync"):
            real = getattr(os, name)

            def step(*given: Any, real: Callable[..., Any] = real, **options: Any) -> Any:
                if next(steps) == stop:
                    os._exit(9)
                return real(*given, **options)

            setattr(os, name, step)
        try:
            repair(texts, progress=False)
        finally:
            os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    for left in (texts / "shards").glob(".*.tmp"):
        age(left)
    repair(texts, progress=False)
    assert code == (9 if stop < 40 else code)  # it was stopped
    report = verify(texts, progress=False)
    assert report.ok and report.videos == 9
    store = FeatureStore.open(texts)
    assert set(store) == set(tools.names) - {"video-05"}
    tools.check(store, store.video_ids)
    assert store.text(["stir"]).tolist() == [[7, 8, 9, 10, 11, 12]] and store.has_text(
        "pour, stir", "paragraph"
    )
    assert [failure.video_id for failure in store.failures()] == ["broken"]
    assert sum(len(rows.ids) for rows in store._catalogue.shards) == 9  # none twice
    redone(texts, tools)


@pytest.mark.slow
def test_random_damages_of_several_files_at_once_are_mended(cache: Path, tools: Any, tmp_path: Path) -> None:
    """What a video costs that is whole is nothing, whatever else is damaged."""
    moments = random.Random(1)
    for number in range(40):
        path = tmp_path / f"r{number}"
        shutil.copytree(cache, path)
        for file in moments.sample([each for each in path.rglob("*") if each.is_file()], 3):
            size = file.stat().st_size
            match moments.randrange(3):
                case 0:
                    flip(file, moments.randrange(size), moments.randrange(1, 256))
                case 1:
                    os.truncate(file, moments.randrange(size))
                case 2:
                    file.unlink()
        for each in path.rglob("*.h5"):
            age(each)
        noticed = verify(path, progress=False)
        done = repair(path, progress=False)
        store = FeatureStore.open(path)
        assert verify(path, progress=False).ok, number
        assert len(store) == noticed.videos and not set(done.lost) & set(store)
        tools.check(store, store.video_ids)
        redone(path, tools)


FULL_DISK = """
    import subprocess, sys
    from pathlib import Path

    disk, whole = Path(sys.argv[1]), Path(sys.argv[2])
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(disk)]).returncode:
        sys.exit(77)
    import shutil

    import numpy as np

    from stepclip.cache import FeatureStore, FeatureWriter, StepclipError
    from stepclip.cache.upkeep.repair import repair
    from stepclip.cache.store import Failure
    from stepclip.cache.upkeep.verify import verify

    def refused(work):
        try:
            work()
        except StepclipError as error:
            assert "No space left on device" in error.found and "unchanged" in error.run, error
        else:
            raise AssertionError("a full disk was not noticed")

    def same():
        here, there = FeatureStore.open(cache), FeatureStore.open(whole)
        assert here.video_ids == there.video_ids, here.video_ids
        for name in there:
            assert np.array_equal(here[name].features, there[name].features)

    cache = disk / "features"
    shutil.copytree(whole, cache)
    fingerprint = FeatureStore.open(cache).fingerprint
    writer = FeatureWriter(cache, fingerprint, dim=12, name="late")
    ballast = disk / "ballast"
    room = shutil.disk_usage(disk).free
    ballast.write_bytes(bytes(room - 8192))
    writer.add("big", np.ones((500, 12)), np.arange(500), 500)
    refused(writer.commit)
    refused(lambda: writer.add_text(["a", "b"], np.ones((2, 5000)), "step"))
    same()
    report = verify(cache, progress=False)
    assert report.ok, report
    ballast.unlink()
    writer.close()  # there is room again: what waited goes on
    assert len(FeatureStore.open(cache)["big"].times) == 500

    # a repair on a full disk
    shutil.rmtree(cache)
    shutil.copytree(whole, cache)
    shard = cache / "shards" / "a-00001.h5"
    content = bytearray(shard.read_bytes())
    content[100] ^= 0xFF
    shard.write_bytes(content)
    room = shutil.disk_usage(disk).free
    ballast.write_bytes(bytes(room))
    refused(lambda: repair(cache, progress=False))
    assert verify(cache, progress=False).videos == len(FeatureStore.open(whole))
    ballast.unlink()
    assert repair(cache, progress=False).lost == []
    assert verify(cache, progress=False).ok
    same()
"""


def test_a_full_disk_costs_nothing_and_the_rest_goes_on_once_there_is_room(
    cache: Path, tmp_path: Path
) -> None:
    """On a small tmpfs, in a mount namespace of its own."""
    if shutil.which("unshare") is None:
        pytest.skip("no unshare: no file system of one's own can be mounted")
    (tmp_path / "disk").mkdir()
    script = [sys.executable, "-c", textwrap.dedent(FULL_DISK), str(tmp_path / "disk"), str(cache)]
    done = subprocess.run(["unshare", "-rm", *script], capture_output=True, text=True)
    if done.returncode == 77 or "unshare failed" in done.stderr:
        pytest.skip(f"no tmpfs may be mounted here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
