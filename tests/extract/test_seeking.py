"""Frames reached from key frames, and WeakSVR's, are those of reading every frame."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest

from stepclip.cache.segments import kept_frames, view_rows
from stepclip.extract.decoders import DecodeError, Frames, Sampling, get_decoder, pyav, seeking
from stepclip.extract.decoders.listing import list_frames

Zoo = Callable[[str], Path]
# file -> whether its key frames hold what they promise
FILES = {
    **dict.fromkeys(("h264.mp4", "h264.mkv", "h264.flv", "fragments.mp4", "open-gop.mp4"), True),
    **dict.fromkeys(("h265.mp4", "h265.mkv", "mpeg4.mp4", "mpeg2.mkv", "vp8.webm", "hidden.webm"), True),
    **dict.fromkeys(("vp9.webm", "vp9.mp4", "av1.mkv", "av1.mp4", "mjpeg.mov", "prores.mov"), True),
    **dict.fromkeys(("ffv1.mkv", "vfr.mkv", "vfr.mp4", "edited.mp4", "negative.mp4", "late.mkv"), True),
    **dict.fromkeys(("no-duration.webm", "no-duration.flv", "turned90.mp4", "10-bit.mp4"), True),
    **dict.fromkeys(("interlaced.mp4", "cover.mp4", "all-keys.mp4"), True),
    **dict.fromkeys(("refreshed.mp4", "all-keys-4.mp4"), False),
}
SOME = ("h264.mp4", "open-gop.mp4", "h265.mkv", "vfr.mkv", "edited.mp4", "refreshed.mp4", "all-keys-4.mp4")
UNTOLD = ("h264.ts", "mpeg2.mpg", "h264.mpg", "h264.avi", "bare.h264", "cut-copy.mkv", "gif.gif")
SAMPLINGS = (
    *(Sampling(frames=frames) for frames in (1, 3, 7)),
    *(Sampling(every=every) for every in (5, 9)),
    *(Sampling(weaksvr=take) for take in ("test", 4)),
    Sampling(fps=1.3),
)
TRIMS = ((None, None), (0.71, None), (0.4, 1.4))


class Watched(seeking.Sought):
    """Counts the jumps, and when it gave up."""

    jumped = 0
    astray = 0

    def _jump(self, entry: int) -> None:
        Watched.jumped += 1
        super()._jump(entry)

    def frames(self, wanted):
        try:
            yield from super().frames(wanted)
        except seeking.Astray:
            Watched.astray += 1
            raise


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> type[Watched]:
    """Jumps over whatever can be jumped over, and is watched."""
    monkeypatch.setattr(pyav, "SKIP", 1)
    monkeypatch.setattr(seeking, "SKIP", 1)
    monkeypatch.setattr(pyav, "Sought", Watched)
    Watched.jumped = Watched.astray = 0
    return Watched


def result(path: Path, sampling: Sampling, trim: tuple[float | None, float | None]) -> Frames | str:
    try:
        return get_decoder("pyav").decode(path, sampling, *trim)
    except DecodeError as error:
        return error.reason


def same(a: Frames | str, b: Frames | str) -> bool:
    if isinstance(a, str) or isinstance(b, str):
        return a == b
    return (
        np.array_equal(a.images, b.images) and np.array_equal(a.times, b.times) and a.duration == b.duration
    )


def compare(zoo: Zoo, watched: type[Watched], monkeypatch: pytest.MonkeyPatch, file: str, near: int) -> None:
    monkeypatch.setattr(seeking, "NEAR", near)
    for sampling in SAMPLINGS:
        for trim in TRIMS:
            found = result(zoo(file), sampling, trim)
            with monkeypatch.context() as patch:
                patch.setattr(pyav, "pays", lambda *_: False)
                expected = result(zoo(file), sampling, trim)
            assert same(found, expected), (sampling, trim)
    assert watched.jumped
    assert bool(watched.astray) != FILES[file]


@pytest.mark.parametrize("file", SOME)
def test_sought_frames_are_those_of_reading_all(zoo, watched, monkeypatch, file: str) -> None:
    compare(zoo, watched, monkeypatch, file, near=2)


@pytest.mark.slow
@pytest.mark.parametrize("near", [0, 1000])
@pytest.mark.parametrize("file", FILES)
def test_in_the_whole_zoo_too(zoo, watched, monkeypatch, file: str, near: int) -> None:
    """near 0: by the container's index; 1000: by reading on to the key frame."""
    compare(zoo, watched, monkeypatch, file, near)


@pytest.mark.parametrize("file", UNTOLD)
def test_no_seeking_without_an_index_to_be_trusted(zoo: Zoo, watched, file: str) -> None:
    for sampling in (Sampling(frames=1), Sampling(weaksvr="test"), Sampling(every=9)):
        get_decoder("pyav").decode(zoo(file), sampling, start=0.9)
    assert not watched.jumped


def test_jumps_are_made_where_they_pay(zoo: Zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it is, without a word of the test: sparse frames of a long video, and a trim far inside."""
    monkeypatch.setattr(pyav, "Sought", Watched)
    for sampling, trim, jumps in (
        (Sampling(frames=4), (None, None), 4),
        (Sampling(fps=0.05), (None, None), 5),
        (Sampling(every=2), (81.0, 84.0), 1),
        (Sampling(every=2), (8.0, 9.0), 0),
        (Sampling(fps=4), (None, 8.0), 0),
    ):
        Watched.jumped = Watched.astray = 0
        found = result(zoo("2-minutes.mkv"), sampling, trim)
        assert (Watched.jumped, Watched.astray) == (jumps, 0), sampling
        with monkeypatch.context() as patch:
            patch.setattr(pyav, "pays", lambda *_: False)
            assert same(found, result(zoo("2-minutes.mkv"), sampling, trim))


H264 = ("h264.mp4", "h264.mkv", "h264.flv", "fragments.mp4", "open-gop.mp4", "refreshed.mp4", "vfr.mp4")
NEEDED = ("refreshed.mp4", "interlaced.mp4")  # every one of their frames


@pytest.mark.parametrize("file", [*H264, "10-bit.mp4", "interlaced.mp4", "edited.mp4", "turned90.mp4"])
def test_frames_that_no_other_needs_are_left_out_and_the_rest_is_the_same(
    zoo: Zoo, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    """By the packets of H.264; of those that are decoded each frame comes out to the last bit."""

    class Counted(seeking.Sought):
        out = astray = 0

        def _decode(self, packet):
            before = len(self.ready)
            super()._decode(packet)
            Counted.out += len(self.ready) - before

        def frames(self, wanted):
            try:
                yield from super().frames(wanted)
            except seeking.Astray:
                Counted.astray += 1
                raise

    monkeypatch.setattr(pyav, "Sought", Counted)
    frames = len(get_decoder("pyav").decode(zoo(file), Sampling(all=True)).times)
    assert not Counted.out
    for sampling in (Sampling(every=4), Sampling(fps=1.7), Sampling(frames=5), Sampling(every=2)):
        for threads in (0, 1):
            decoder, Counted.out = get_decoder("pyav"), 0
            decoder.threads = threads
            found = decoder.decode(zoo(file), sampling)
            assert Counted.out > 0 and not Counted.astray, sampling
            assert Counted.out < frames or file in NEEDED or sampling.every == 2, sampling
            with monkeypatch.context() as patch:
                patch.setattr(pyav, "pays", lambda *_: False)
                assert same(found, result(zoo(file), sampling, (None, None))), (sampling, threads)


def test_damage_beside_the_way_does_not_matter_and_on_it_is_seen(zoo: Zoo, tmp_path: Path) -> None:
    data = zoo("2-minutes.mkv").read_bytes()
    whole = get_decoder("pyav").decode(zoo("2-minutes.mkv"), Sampling(frames=2), start=1)
    assert whole.times == pytest.approx([29.6, 89.2])  # frames 153 and 451; every 50th is a key frame
    with av.open(io.BytesIO(data)) as container:
        packets = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    for key, seen in ((300, False), (450, True)):
        place = data.index(packets[key])
        (tmp_path / "hurt.mkv").write_bytes(data[:place] + bytes(60) + data[place + 60 :])
        got = get_decoder("pyav").decode(tmp_path / "hurt.mkv", Sampling(frames=2), start=1)
        assert bool(got.bad) == seen
        assert np.array_equal(got.images[0], whole.images[0])
        assert np.array_equal(got.times, whole.times) != seen  # the frame shown then is an earlier one


# ---- WeakSVR's frames


def official(frames: int) -> np.ndarray:
    """Section 2.1 of methods/weaksvr.md to the letter: the three test views, (3, 16), counted from 0."""
    edges = np.linspace(0, frames - 2, 17).astype(int)
    return np.asarray([edges[:-1] + i * ((edges[1:] - edges[:-1]) // 4) for i in (1, 2, 3)])


@pytest.mark.parametrize("file", ["h264.mp4", "vfr.mkv", "edited.mp4", "h264.ts", "h264.avi", "hidden.webm"])
def test_weaksvr_takes_the_very_frames(zoo: Zoo, file: str) -> None:
    whole = get_decoder("pyav").decode(zoo(file), Sampling(all=True))
    rows = np.maximum(official(len(whole.times)), 0)
    got = get_decoder("pyav").decode(zoo(file), Sampling(weaksvr="test"))
    assert np.array_equal(got.images[view_rows(len(got.times), "test")], whole.images[rows])
    got = get_decoder("pyav").decode(zoo(file), Sampling(weaksvr=4))
    assert np.array_equal(got.images[view_rows(len(got.times), 4)], whole.images[rows])
    assert np.array_equal(got.times, whole.times[kept_frames(len(whole.times), 4)])


def test_weaksvr_counts_the_frames_of_the_trim(zoo: Zoo) -> None:
    inside = get_decoder("pyav").decode(zoo("2-minutes.mkv"), Sampling(all=True), start=11.3, end=50.5)
    got = get_decoder("pyav").decode(zoo("2-minutes.mkv"), Sampling(weaksvr="test"), start=11.3, end=50.5)
    assert len(inside.times) == 197 and len(got.times) == 48  # from the frame shown at 11.3 s on
    assert np.array_equal(got.images[view_rows(48, "test")], inside.images[official(197)])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ffmpeg", "decord", "torchcodec"])
@pytest.mark.parametrize(
    "sampling", [Sampling(all=True), Sampling(weaksvr="test"), Sampling(weaksvr=8)], ids=str
)
def test_every_decoder_takes_the_same(zoo: Zoo, name: str, sampling: Sampling) -> None:
    try:
        decoder = get_decoder(name)
    except DecodeError as error:
        pytest.skip(error.found)
    for file in ("2-minutes.mkv", "vfr.mp4", "vp9.webm", "one.mp4"):
        expected = get_decoder("pyav").decode(zoo(file), sampling)
        got = decoder.decode(zoo(file), sampling)
        assert got.times == pytest.approx(expected.times, abs=1e-4), file
        assert np.abs(got.images.astype(int) - expected.images).mean() < 0.1, file


def test_frames_that_are_lost_cannot_be_made_up(zoo: Zoo, tmp_path: Path) -> None:
    """Rows that stand for others would be read back as what they are not, so there are none."""
    data = zoo("h264.mkv").read_bytes()
    with av.open(io.BytesIO(data)) as container:
        packets = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    place = data.index(packets[10])
    (tmp_path / "hurt.mkv").write_bytes(
        data[:place] + bytes(len(packets[10])) + data[place + len(packets[10]) :]
    )
    assert get_decoder("pyav").decode(tmp_path / "hurt.mkv", Sampling(fps=4)).bad
    with pytest.raises(DecodeError, match=r"of WeakSVR's \d+ frames were found") as caught:
        get_decoder("pyav").decode(tmp_path / "hurt.mkv", Sampling(weaksvr=4))
    assert caught.value.reason == "damaged" and "--fps" in str(caught.value)


@pytest.mark.parametrize(
    "file", ["hidden.webm", "vfr.mp4", "edited.mp4", "negative.mp4", "h264.avi", "packed.avi"]
)
def test_the_listing_has_the_frames_that_decoding_gives(zoo: Zoo, file: str) -> None:
    listing = list_frames(zoo(file))
    whole = get_decoder("pyav").decode(zoo(file), Sampling(all=True))
    assert listing.exact
    assert listing.times == pytest.approx(whole.times, abs=1e-9)
    assert listing.stop == pytest.approx(whole.duration, abs=1e-9)


def test_hidden_frames_are_there_to_be_left_out(zoo: Zoo) -> None:
    """Else the test above would show nothing: VP8's alternative references are packets that are not shown."""
    with av.open(str(zoo("hidden.webm"))) as container:
        packets = sum(packet.size > 0 for packet in container.demux(video=0))
    assert packets > len(list_frames(zoo("hidden.webm")).times)
