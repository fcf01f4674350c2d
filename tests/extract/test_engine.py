"""The engine: every video accounted for, resumable, right features; and the pool of decoding processes."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from stepclip.cache import FeatureStore, Manifest, VideoRow
from stepclip.cache.errors import StepclipError
from stepclip.extract import Sampling, extract, fingerprint_of, get_decoder, load_encoder
from stepclip.extract.engine import Retry
from stepclip.extract.pool import Chunk, DecodePool, Done, Failed, Job, Plan, middle_square
from stepclip.extract.views import draw

STEPS = ("take up the red beaker", "pour the blue liquid into the flask")


class Plain:
    """An encoder without a network: the colours of the left and the right half, so that a frame's number is
    known.
    """

    name, dim, image_size, context, device, precision = "plain", 6, 32, 12, "cpu", "fp32"

    def __init__(self, fail_at: int = 0, error: type[BaseException] = KeyboardInterrupt) -> None:
        self.batches: list[int] = []
        self.texts: list[str] = []
        self.fail_at, self.error = fail_at, error

    def fields(self) -> dict[str, Any]:
        return {"encoder.name": self.name}

    def encode_images(self, images: np.ndarray) -> np.ndarray:
        self.batches.append(len(images))
        if len(self.batches) == self.fail_at:
            raise self.error("stopped here")
        middle = images.shape[2] // 2
        halves = [images[:, :, :middle], images[:, :, middle:]]
        return np.concatenate([half.mean((1, 2)) for half in halves], axis=1).astype(np.float32) + 1

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        self.texts.extend(texts)
        return np.array([[len(text) ** (k / 3) for k in range(6)] for text in texts], np.float32)

    def token_counts(self, texts: Sequence[str]) -> list[int]:
        return [len(text.split()) + 2 for text in texts]


def manifest_of(*paths: Path, **more: Any) -> Manifest:
    return Manifest(tuple(VideoRow(path.name, str(path), steps=STEPS, **more) for path in paths))


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory, tools: SimpleNamespace) -> Path:
    """Twelve videos of several sizes and lengths, from 1 to 5 s."""
    folder = tmp_path_factory.mktemp("many")
    sizes = [(96, 64), (64, 96), (40, 40), (24, 16)]
    for k in range(12):
        times = [frame / 8 for frame in range(8 + 3 * k)]
        tools.video(folder / f"{k:02d}.mp4", times, size=sizes[k % 4], fps=8)
    return folder


# ---- extract


def test_every_video_is_accounted_for(videos: Path, tmp_path: Path):
    """Good, cut, empty, audio only, a folder, a missing one: each with its reason; the rest goes on."""
    good = ["good.mp4", "long.mp4", "whole.mkv", "index-first.mp4"]
    bad = {
        "missing.mp4": "missing-file",
        "folder.mp4": "not-a-file",
        "empty.mp4": "empty-file",
        "text.mp4": "unreadable",
        "headless.mp4": "unreadable",
        "audio.mp4": "no-video-stream",
        "cut.mp4": "truncated",
        "cut.mkv": "truncated",
    }
    manifest = manifest_of(*(videos / name for name in [*bad, *good]))
    report = extract(manifest, tmp_path / "cache", encoder=Plain(), progress=False, workers=2)
    assert (report.inputs, report.done, report.failed, report.skipped) == (12, 4, 8, 0)
    assert {failure.video_id: failure.reason for failure in report.failures} == bad
    assert report.reasons()["truncated"] == 2
    with FeatureStore.open(tmp_path / "cache") as store:
        assert set(store.video_ids) == set(good)
        assert {failure.video_id: failure.reason for failure in store.failures()} == bad
    shown = str(report)
    assert "truncated" in shown and "12" in shown and "its frames end at" in shown
    saved = json.loads(report.save(tmp_path / "report.json").read_text())
    assert saved["done"] == 4 and saved["reasons"]["truncated"] == 2 and len(saved["failures"]) == 8

    # again: what is done is skipped, what failed is left alone, nothing is decoded
    again = extract(manifest, tmp_path / "cache", encoder=(encoder := Plain()), progress=False)
    assert (again.done, again.failed, again.skipped, again.not_tried) == (0, 8, 4, 8)
    assert encoder.batches == [] and encoder.texts == []
    assert {failure.attempts for failure in again.failures} == {1} and again.reasons() == report.reasons()
    assert "--retry-failed" in str(again)


def test_failed_videos_are_tried_again_when_asked_up_to_their_quarantine(videos: Path, tmp_path: Path):
    manifest = manifest_of(videos / "cut.mp4", videos / "empty.mp4", videos / "good.mp4")

    def run(**how: Any) -> Any:
        return extract(manifest, tmp_path, encoder=Plain(), progress=False, retry=Retry(**how))

    def attempts(report: Any) -> dict[str, int]:
        return {failure.video_id: failure.attempts for failure in report.failures}

    assert attempts(run()) == {"cut.mp4": 1, "empty.mp4": 1}
    assert attempts(run(reasons=("truncated",))) == {"cut.mp4": 2, "empty.mp4": 1}
    assert attempts(run(every=True)) == {"cut.mp4": 3, "empty.mp4": 2}
    last = run(every=True)
    assert attempts(last) == {"cut.mp4": 3, "empty.mp4": 3} and (last.not_tried, last.quarantined) == (1, 1)
    assert attempts(run(every=True)) == {"cut.mp4": 3, "empty.mp4": 3}
    assert attempts(run(every=True, reasons=("truncated",))) == {"cut.mp4": 4, "empty.mp4": 3}
    with pytest.raises(StepclipError, match="did you mean 'truncated'") as caught:
        run(reasons=("truncate",))
    assert "empty-file, truncated" in caught.value.expected


def test_a_run_stops_when_more_fail_than_is_allowed_and_keeps_what_is_done(videos: Path, tmp_path: Path):
    bad = [videos / name for name in ("empty.mp4", "text.mp4", "audio.mp4")]
    manifest = manifest_of(videos / "good.mp4", *bad)
    with pytest.raises(StepclipError, match="3 videos failed, more than --max-failures 2") as caught:
        extract(manifest, tmp_path, encoder=Plain(), progress=False, workers=1, max_failures=2)
    assert "no-video-stream (1)" in caught.value.found
    with FeatureStore.open(tmp_path) as store:
        assert len(store.failures()) == 3
    report = extract(manifest, tmp_path, encoder=Plain(), progress=False, max_failures=0)
    assert (report.failed, report.not_tried, report.done + report.skipped) == (3, 3, 1)


def test_the_report_tells_the_stages_and_the_limit(many: Path, tmp_path: Path):
    class Slow(Plain):
        def encode_images(self, images: np.ndarray) -> np.ndarray:
            time.sleep(0.3)
            return super().encode_images(images)

    report = extract(manifest_of(*sorted(many.iterdir())), tmp_path, encoder=Slow(), progress=False)
    stages = report.stages
    assert stages.encoded == stages.decoded == report.frames > 0
    assert stages.encoding >= 0.3 and stages.decoding > 0 and stages.written == report.frames * 6 * 2
    told = report.to_dict()
    assert told["rates"]["decode frames/s"] > 0 and told["rates"]["encode frames/s"] > 0
    assert "the limit: " in str(report) and told["limit"].split()[0] in ("decode", "encode", "write")


def test_views_are_the_augmented_frames_of_one_draw_per_video(many: Path, tmp_path: Path):
    """Each view of each video: decoded alone, augmented by its own draw, encoded."""
    manifest = manifest_of(*sorted(many.iterdir())[:4])
    sampling = Sampling(fps=6)
    report = extract(manifest, tmp_path, encoder=Plain(), sampling=sampling, views=2, progress=False)
    assert report.done == 4 and report.stages.encoded == 3 * report.frames
    with FeatureStore.open(tmp_path, expect=fingerprint_of(Plain(), sampling=sampling, views=2)) as store:
        for row in manifest:
            alone = get_decoder("pyav").decode(row.path, sampling, size=32)
            kept = store[row.video_id]
            assert kept.views is not None
            for number in (0, 1):
                images = draw(row.video_id, number).apply(alone.images, 32)
                assert kept.views[number] == pytest.approx(Plain().encode_images(images), rel=2e-3)
            assert not np.array_equal(kept.views[0], kept.views[1])
        assert store.load(views=True, progress=False).views.shape == (2, report.frames, 6)
    with pytest.raises(StepclipError, match=r"views\.count"):
        extract(manifest, tmp_path, encoder=Plain(), sampling=sampling, progress=False)


def test_a_failed_video_that_was_mended_is_done_in_the_next_run(videos: Path, tmp_path: Path):
    manifest = manifest_of(tmp_path / "a.mp4", videos / "good.mp4")
    assert extract(manifest, tmp_path / "cache", encoder=Plain(), progress=False).failed == 1
    (tmp_path / "a.mp4").write_bytes((videos / "good.mp4").read_bytes())
    report = extract(manifest, tmp_path / "cache", encoder=Plain(), progress=False)
    assert (report.done, report.failed, report.skipped) == (1, 0, 1)
    with FeatureStore.open(tmp_path / "cache") as store:
        assert len(store) == 2 and not store.failures()


def test_a_video_whose_file_changed_is_done_again_and_a_copied_one_is_not(videos: Path, tmp_path: Path):
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / name).write_bytes((videos / "good.mp4").read_bytes())
    manifest = manifest_of(tmp_path / "a.mp4", tmp_path / "b.mp4")
    assert extract(manifest, tmp_path / "cache", encoder=Plain(), progress=False).done == 2
    with FeatureStore.open(tmp_path / "cache") as store:
        before = store["b.mp4"].times
    (tmp_path / "a.mp4").write_bytes((videos / "good.mp4").read_bytes())  # the same bytes, written anew
    (tmp_path / "b.mp4").write_bytes((videos / "long.mp4").read_bytes())
    report = extract(manifest, tmp_path / "cache", encoder=Plain(), progress=False)
    assert (report.done, report.failed, report.skipped) == (1, 0, 1)
    assert list(report.stale) == ["b.mp4"] and "when it was extracted" in report.stale["b.mp4"]
    assert "done again" in str(report)
    with FeatureStore.open(tmp_path / "cache") as store:
        assert len(store) == 2 and len(store["b.mp4"].times) != len(before)
    again = extract(manifest, tmp_path / "cache", encoder=Plain(), progress=False)
    assert (again.done, again.skipped) == (0, 2)


def test_features_times_and_durations_are_those_of_the_frames(many: Path, tmp_path: Path):
    """Whatever batches the frames travelled in: compared with each video decoded and encoded alone."""
    manifest = manifest_of(*sorted(many.iterdir()))
    sampling = Sampling(fps=6)
    encoder = Plain()
    report = extract(manifest, tmp_path, encoder=encoder, sampling=sampling, progress=False, workers=2)
    assert report.done == 12 and not report.failures
    frames = 0
    with FeatureStore.open(tmp_path, expect=fingerprint_of(encoder, sampling=sampling)) as store:
        for row in manifest:
            alone = get_decoder("pyav").decode(row.path, sampling, size=32)
            images = np.stack([middle_square(i) if min(i.shape[:2]) == 32 else i for i in alone.images])
            kept = store[row.video_id]
            assert kept.features == pytest.approx(Plain().encode_images(images), rel=2e-3)
            assert kept.times == pytest.approx(alone.times) and kept.duration == pytest.approx(alone.duration)
            frames += len(images)
    assert report.frames == frames == sum(encoder.batches)
    assert len(encoder.batches) < 12  # batches across videos


def test_the_encoder_is_given_whole_batches_of_its_own_size(many: Path, tmp_path: Path):
    """The last one filled up, so that no feature depends on what it travelled with; views likewise."""

    class Batched(Plain):
        batch, at_once = 8, 24

        def encode_images(self, images: np.ndarray) -> np.ndarray:
            features = super().encode_images(images)
            return np.concatenate([features[k : k + 8] for k in range(0, len(features), 8)])

    manifest, encoder = manifest_of(*sorted(many.iterdir())), Batched()
    report = extract(manifest, tmp_path / "a", encoder=encoder, sampling=Sampling(every=1), progress=False)
    assert {count % 8 for count in encoder.batches} == {0} and len(encoder.batches) > 3
    assert 0 < sum(encoder.batches) - report.frames < 8 * 4  # four shapes
    whole = Plain()
    extract(manifest, tmp_path / "b", encoder=whole, sampling=Sampling(every=1), progress=False)
    assert len(whole.batches) < len(encoder.batches)
    with FeatureStore.open(tmp_path / "a") as a, FeatureStore.open(tmp_path / "b") as b:
        assert len(a) == 12
        for name in b:
            assert np.array_equal(a[name].features, b[name].features)
    report = extract(manifest, tmp_path / "c", encoder=encoder, views=2, progress=False)
    assert {count % 8 for count in encoder.batches} == {0} and report.stages.encoded == 3 * report.frames


@pytest.fixture
def impatient() -> Iterator[None]:
    """A hang ends the test and not the suite's hour."""

    def strike(number: int, frame: object) -> None:
        raise TimeoutError("it hangs")

    before = signal.signal(signal.SIGALRM, strike)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def test_a_fifo_that_never_answers_is_no_file_and_stays_none(videos: Path, tmp_path: Path, impatient: None):
    os.mkfifo(tmp_path / "fifo.mp4")
    paths = [tmp_path / "fifo.mp4", Path("/dev/zero"), videos / "good.mp4"]
    for retry in (Retry(), Retry(), Retry(every=True)):
        report = extract(manifest_of(*paths), tmp_path, encoder=Plain(), retry=retry, progress=False)
        assert report.reasons() == {"not-a-file": 2} and report.done + report.skipped == 1
    (tmp_path / "fifo.mp4").unlink()
    (tmp_path / "fifo.mp4").write_bytes((videos / "good.mp4").read_bytes())
    assert extract(manifest_of(*paths), tmp_path, encoder=Plain(), progress=False).done == 1


def test_a_kill_costs_no_more_than_a_minutes_work(
    many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """What is finished is committed now and then, however few videos that is."""
    monkeypatch.setattr("stepclip.extract.run.COMMIT", 0.0)
    report = extract(manifest_of(*sorted(many.iterdir())), tmp_path, encoder=Plain(), progress=False)
    assert report.done == len(list((tmp_path / "shards").glob("*.parquet"))) == 12


def test_many_failures_do_not_slow_a_run(tmp_path: Path):
    """failed.jsonl is written whole each time: not once for each of them, and all of them in the end."""
    rows = [VideoRow(f"v{k}", str(tmp_path / f"{k}.mp4"), steps=STEPS) for k in range(3000)]
    began = time.monotonic()
    report = extract(Manifest(tuple(rows)), tmp_path / "cache", encoder=Plain(), progress=False)
    assert report.reasons() == {"missing-file": 3000} and time.monotonic() - began < 30
    with FeatureStore.open(tmp_path / "cache") as store:
        assert {failure.video_id for failure in store.failures()} == {row.video_id for row in rows}


def test_a_trim(videos: Path, tmp_path: Path):
    manifest = manifest_of(videos / "good.mp4", start=0.5, end=1.5)
    extract(manifest, tmp_path, encoder=Plain(), progress=False)
    with FeatureStore.open(tmp_path) as store:
        kept = store["good.mp4"]
    assert kept.times == pytest.approx([0, 0.25, 0.5, 0.75]) and kept.duration == pytest.approx(1)
    assert kept.features[:, 3].astype(float) == pytest.approx([20 + 8 * k + 1 for k in (6, 9, 12, 15)], abs=6)


def test_texts_once_each(videos: Path, tmp_path: Path):
    rows = [
        VideoRow(str(k), str(videos / "good.mp4"), steps=steps)
        for k, steps in enumerate([STEPS, STEPS, STEPS[::-1], (STEPS[0],) * 3])
    ]
    encoder = Plain()
    report = extract(
        Manifest(tuple(rows)), tmp_path, encoder=encoder, progress=False, paragraph_mode="sentences"
    )
    assert report.texts == 2 + 3
    assert sorted(encoder.texts[:2]) == sorted(STEPS) and len(encoder.texts) == 4
    assert {long.paragraph for long in report.over_long} == {rows[k].paragraph for k in (0, 2, 3)}
    with FeatureStore.open(tmp_path) as store:
        steps = store.text(STEPS, "step")
        assert steps == pytest.approx(Plain().encode_texts(STEPS))
        assert store.text([rows[0].paragraph], "paragraph")[0] == pytest.approx(steps.mean(0))
        assert store.text([rows[3].paragraph], "paragraph")[0] == pytest.approx(steps[0])


def test_ctrl_c_keeps_what_is_finished_and_the_next_run_gives_the_same(
    many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("stepclip.extract.run.BATCH", 24)
    manifest = manifest_of(*sorted(many.iterdir()))
    sampling = Sampling(every=1)
    extract(manifest, tmp_path / "whole", encoder=Plain(), sampling=sampling, progress=False)
    with pytest.raises(KeyboardInterrupt):
        extract(manifest, tmp_path / "cut", encoder=Plain(fail_at=5), sampling=sampling, progress=False)
    assert multiprocessing.active_children() == []
    with FeatureStore.open(tmp_path / "cut") as store:
        before = len(store)
    assert 0 < before < 12
    report = extract(manifest, tmp_path / "cut", encoder=Plain(), sampling=sampling, progress=False)
    assert (report.skipped, report.done) == (before, 12 - before)
    with FeatureStore.open(tmp_path / "whole") as whole, FeatureStore.open(tmp_path / "cut") as cut:
        for name in whole.video_ids:
            assert np.array_equal(whole[name].features, cut[name].features)
            assert np.array_equal(whole[name].times, cut[name].times)


def test_features_that_are_no_numbers_fail_their_video_only(videos: Path, tmp_path: Path):
    class Broken(Plain):
        def encode_images(self, images: np.ndarray) -> np.ndarray:
            features = super().encode_images(images)
            return np.where(images.shape[1] == 16, np.nan, features)

    folder = tmp_path / "v"
    folder.mkdir()
    from_tools = videos / "good.mp4"
    manifest = Manifest(
        (
            VideoRow("good", str(from_tools), steps=STEPS),
            VideoRow("small", str(_small(folder)), steps=STEPS),
        )
    )
    report = extract(manifest, tmp_path / "cache", encoder=Broken(), progress=False)
    assert (report.done, report.failed) == (1, 1)
    assert report.failures[0].reason == "bad-features" and report.failures[0].video_id == "small"


def _small(folder: Path) -> Path:
    import av

    with av.open(str(folder / "small.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=8)
        stream.width, stream.height, stream.pix_fmt = 16, 16, "yuv420p"
        for _ in range(8):
            frame = av.VideoFrame.from_ndarray(np.full((16, 16, 3), 90, np.uint8), format="rgb24")
            for packet in stream.encode(frame):
                container.mux(packet)
        for packet in stream.encode(None):
            container.mux(packet)
    return folder / "small.mp4"


def test_a_cache_of_another_making_is_refused_and_kept(videos: Path, tmp_path: Path):
    manifest = manifest_of(videos / "good.mp4")
    extract(manifest, tmp_path, encoder=Plain(), progress=False)
    for change in (
        {"sampling": Sampling(fps=2)},
        {"decoder": "ffmpeg"},
        {"paragraph_mode": "cut"},
        {"dtype": "float32"},
    ):
        with pytest.raises(StepclipError, match=r"sampling\.fps|decoder\.name|paragraphs|dtype"):
            extract(manifest, tmp_path, encoder=Plain(), progress=False, **change)
    with FeatureStore.open(tmp_path) as store:
        assert len(store) == 1


def test_mistakes_are_told_before_anything_is_made(videos: Path, tmp_path: Path):
    manifest = manifest_of(videos / "good.mp4")
    for manifest_, change, says in (
        (Manifest(()), {}, "no videos"),
        (manifest, {"decoder": "pyva"}, "did you mean 'pyav'"),
        (manifest, {"workers": 0}, "0 decoding workers"),
        (manifest, {"paragraph_mode": "chunk"}, "did you mean 'chunks'"),
    ):
        with pytest.raises(StepclipError, match=says):
            extract(manifest_, tmp_path / "cache", encoder=Plain(), progress=False, **change)


@pytest.mark.parametrize("decoder", ["decord", "ffmpeg"])
def test_the_other_decoders(videos: Path, tmp_path: Path, decoder: str):
    report = extract(
        manifest_of(videos / "good.mp4"), tmp_path, encoder=Plain(), decoder=decoder, progress=False
    )
    assert report.done == 1 and decoder in report.run
    with FeatureStore.open(tmp_path) as store:
        assert store["good.mp4"].times == pytest.approx(np.arange(8) / 4, abs=1e-6)


def test_real_clips_with_a_clip_model(
    real: Path, clip_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
):
    """AV1, HEVC, 10 bit, several streams; the first line says what runs."""
    manifest = manifest_of(*sorted((real / "videos").iterdir()))
    encoder = load_encoder(str(clip_folder), device="cpu")
    report = extract(manifest, tmp_path, encoder=encoder, sampling=Sampling(frames=5))
    assert report.done == len(manifest) == 6
    first = capsys.readouterr().err.split("\n")[0]
    assert first.startswith("device cpu, precision fp32, encoder ") and "decoder pyav" in first
    with FeatureStore.open(tmp_path) as store:
        assert {len(store[name].times) for name in store.video_ids} == {5}
        video = store["home_sofa.mp4"]
        whole = get_decoder("pyav").decode(real / "videos" / "home_sofa.mp4", Sampling(frames=5))
        exact = encoder.encode_images(whole.images)  # resized by the encoder alone, from the full frame
        kept = video.features.astype(np.float32)
        cosine = (exact * kept).sum(1) / np.linalg.norm(exact, axis=1) / np.linalg.norm(kept, axis=1)
        assert cosine.min() > 0.99


# ---- the pool


@pytest.fixture(scope="module")
def endless(tmp_path_factory: pytest.TempPathFactory, tools: SimpleNamespace) -> Path:
    """A video of more chunks than the pool holds, so that its decoder cannot be done unheard."""
    return tools.video(tmp_path_factory.mktemp("endless") / "endless.mkv", [k / 12 for k in range(900)])


def plan() -> Plan:
    return Plan("pyav", Sampling(every=1))


@pytest.mark.parametrize(
    ("fatal", "reason"),
    [(signal.SIGKILL, "decoder-crashed"), (signal.SIGSEGV, "decoder-crashed"), (signal.SIGSTOP, "timeout")],
)
def test_a_decoder_that_dies_or_hangs_costs_its_video_only(
    endless: Path, videos: Path, fatal: int, reason: str
):
    jobs = [Job(0, str(endless)), Job(1, str(videos / "good.mp4"))]
    ended: dict[int, Any] = {}
    frames = {0: 0, 1: 0}
    with DecodePool(jobs, plan(), workers=1, timeout=1.5) as pool:
        for event in pool:
            if isinstance(event, Chunk):
                frames[event.index] += len(event.images)
                if event.index == 0 and frames[0] == len(event.images):
                    (child,) = multiprocessing.active_children()
                    os.kill(child.pid, fatal)
            else:
                ended[event.index] = event
    assert isinstance(ended[0], Failed) and ended[0].reason == reason
    assert isinstance(ended[1], Done) and frames[1] == 24
    assert multiprocessing.active_children() == []


def test_waiting_for_the_encoder_is_not_decoding_time(endless: Path):
    with DecodePool([Job(0, str(endless)), Job(1, str(endless))], plan(), workers=2, timeout=2.0) as pool:
        events = []
        for event in pool:
            if len(events) == 1:
                time.sleep(2.5)
            events.append(event)
    assert [event for event in events if isinstance(event, Failed)] == []
    assert sorted(event.index for event in events if isinstance(event, Done)) == [0, 1]
    for index in (0, 1):
        chunks = [event for event in events if isinstance(event, Chunk) and event.index == index]
        times = np.concatenate([chunk.times for chunk in chunks])
        assert times == pytest.approx(np.arange(900) / 12, abs=1e-3)


def test_a_video_that_fails_after_many_chunks(endless: Path, videos: Path, tmp_path: Path):
    """The child goes on with the next video, and what was sent of the first is not used."""
    data = endless.read_bytes()
    (tmp_path / "cut.mkv").write_bytes(data[: len(data) * 6 // 10])
    manifest = manifest_of(tmp_path / "cut.mkv", videos / "good.mp4", endless)
    encoder = Plain()
    report = extract(
        manifest, tmp_path / "cache", encoder=encoder, sampling=Sampling(every=1), workers=1, progress=False
    )
    assert [failure.reason for failure in report.failures] == ["truncated"]
    assert report.done == 2 and report.frames == 924
    with FeatureStore.open(tmp_path / "cache") as store:
        assert set(store.video_ids) == {"good.mp4", endless.name}


def test_leaving_the_pool_ends_its_children(endless: Path):
    with DecodePool([Job(k, str(endless)) for k in range(9)], plan(), workers=2) as pool:
        next(iter(pool))
        assert len(multiprocessing.active_children()) == 2
    assert multiprocessing.active_children() == []


def test_a_decoder_that_cannot_be_used_ends_the_run(videos: Path):
    with (
        pytest.raises(StepclipError, match="no decoder is called"),
        DecodePool([Job(0, str(videos / "good.mp4"))], Plan("nothing", Sampling()), workers=1) as pool,
    ):
        list(pool)
