"""A zoo of files, each with its outcome: the very frames that ffmpeg shows, or a reason why not."""

from __future__ import annotations

import io
import itertools
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import numpy as np
import pytest

from stepclip.extract.decoders import DecodeError, Frames, Sampling, get_decoder
from stepclip.extract.decoders.container import probe

Zoo = Callable[[str], Path]

# file -> what each decoder makes of it, but for `exact`: near (its colours a little different) or a reason
REFUSED = {"decord": "unsupported", "torchcodec": "unsupported"}  # the packets do not tell the frames
EXACT: dict[str, dict[str, str]] = {
    **{f"h264.{end}": {} for end in ("mp4", "mov", "mkv", "flv")},
    "h264.avi": {"decord": "unsupported", "torchcodec": "unreadable"},
    "h264.ts": REFUSED,
    "h264.mpg": REFUSED,
    "bare.h264": REFUSED,
    "fragments.mp4": {},
    "open-gop.mp4": {},
    "refreshed.mp4": {},
    "h265.mp4": {},
    "h265.mkv": {},
    "h265.ts": REFUSED,
    "mpeg4.mp4": {},
    "mpeg4.avi": {"decord": "unsupported", "torchcodec": "unreadable"},
    "packed.avi": {"decord": "unsupported", "torchcodec": "unreadable"},
    "msmpeg4.avi": {},
    "mpeg2.mpg": REFUSED,
    "mpeg2.ts": REFUSED,
    "mpeg2.mkv": {},
    "mpeg1.mpg": REFUSED,
    "vp8.webm": {},
    "hidden.webm": REFUSED,  # they count packets that are not shown
    "vp9.webm": {},
    "vp9.mp4": {},
    "av1.mkv": {"decord": "unsupported"},
    "av1.mp4": {"decord": "unsupported"},
    "mjpeg.avi": {},
    "mjpeg.mov": {},
    "gif.gif": {"decord": "unreadable"},
    "apng.apng": {"decord": "unreadable"},
    "prores.mov": {},
    "ffv1.mkv": {},
    "theora.ogv": {"decord": "unreadable"},
    "wmv.asf": {},
    "flv1.flv": {},
    "raw.avi": {},
    "full-range.mp4": {},
    "full-range.avi": {},
    "bt709.mp4": {},
    "10-bit.mp4": {"decord": "near"},
    "10-bit.mkv": {"decord": "near"},
    "444.mp4": {},
    "rgb.mkv": {},
    "grey.mkv": {},
    "alpha.mov": {"decord": "near"},
    "odd.mp4": {},
    "odd.mkv": {"decord": "near"},
    "interlaced.mp4": {},
    "interlaced.ts": REFUSED,
    "8k.mov": {},
    "vfr.mkv": {},
    "vfr.mp4": {},
    "edited.mp4": {"decord": "unsupported", "torchcodec": "unreadable"},
    "negative.mp4": {"decord": "unsupported", "torchcodec": "unreadable"},
    "late.mkv": {},
    "cut-copy.mkv": REFUSED,
    "one.mp4": {},
    "one.mkv": {"decord": "unreadable"},
    "no-duration.mkv": {"decord": "unreadable"},
    "no-duration.webm": {},
    "no-duration.flv": {},
    "no-duration.ts": REFUSED,
    "3-hours.mp4": {},
    "two.mp4": {},
    "two.mkv": {},
    "cover.mp4": {},
    "still.jpg": REFUSED,
    **{f"turned{angle}.mp4": {"decord": "unreadable"} for angle in (90, -90)},  # sides of 64: it pads rows
    "turned180.mp4": {},
    "all-keys.mp4": {},
    "all-keys-4.mp4": {},
}
SOME = (
    "h264.mp4",
    "h264.avi",
    "h264.ts",
    "h264.mpg",
    "10-bit.mp4",
    "interlaced.mp4",
    "edited.mp4",
    "two.mp4",
)
BROKEN = {
    "audio.mp4": {"no-video-stream"},
    "cover-only.m4a": {"no-video-stream"},
    "nothing.mp4": {"no-video-stream", "unreadable"},
    "nothing.mkv": {"unreadable"},
}


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("ffmpeg", "decord", "torchcodec")]


@pytest.fixture(params=["pyav", *SLOW])
def name(request: pytest.FixtureRequest) -> str:
    try:
        get_decoder(request.param)
    except DecodeError as error:
        pytest.skip(error.found)
    return request.param


def as_ffmpeg_shows(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Times from the first frame, and images, of the main stream."""
    command = ["ffmpeg", "-nostdin", "-nostats", "-i", str(path), "-map", f"0:{probe(path).index}"]
    command += [
        "-vf",
        "showinfo=checksum=0",
        "-fps_mode",
        "passthrough",
        "-pix_fmt",
        "rgb24",
        "-f",
        "rawvideo",
    ]
    done = subprocess.run([*command, "-enc_time_base", "1/90000", "-"], capture_output=True, check=True)
    said = done.stderr.decode("utf-8", "replace")
    base = re.search(r"config in time_base: (\d+)/(\d+)", said)
    told = re.findall(r"\bn: *\d+ pts: *(-?\d+) .*?s:(\d+)x(\d+)", said)
    assert base and told, said
    width, height = int(told[0][1]), int(told[0][2])
    times = np.asarray([int(each[0]) * int(base[1]) / int(base[2]) for each in told])
    return times - times[0], np.frombuffer(done.stdout, np.uint8).reshape(-1, height, width, 3)


def difference(got: np.ndarray, expected: np.ndarray) -> float:
    """The largest mean difference of two frames, in grey levels."""
    assert got.shape == expected.shape
    return max(float(np.abs(a.astype(int) - b).mean()) for a, b in zip(got, expected, strict=True))


def check(name: str, path: Path, outcome: str) -> None:
    try:
        got = get_decoder(name).decode(path, Sampling(all=True))
    except DecodeError as error:
        assert error.reason == outcome, error
        assert str(path) in str(error)
        return
    assert outcome in ("exact", "near"), f"{len(got.times)} frames, but it should have been refused"
    times, images = as_ffmpeg_shows(path)
    assert got.times == pytest.approx(times, abs=1e-4) and got.times[0] == 0
    assert got.duration > got.times[-1]
    assert difference(got.images, images) < (1.0 if outcome == "exact" else 12.0)
    assert got.bad == (name == "ffmpeg" and path.name == "cut-copy.mkv")  # it complains of what it leaves out


@pytest.mark.parametrize("file", SOME)
def test_frames_are_those_that_ffmpeg_shows(zoo: Zoo, name: str, file: str) -> None:
    check(name, zoo(file), EXACT[file].get(name, "exact"))


@pytest.mark.slow
@pytest.mark.parametrize("file", sorted(set(EXACT) - set(SOME)))
def test_frames_of_the_whole_zoo_are_those_that_ffmpeg_shows(zoo: Zoo, name: str, file: str) -> None:
    check(name, zoo(file), EXACT[file].get(name, "exact"))


def test_a_wrong_frame_would_be_seen(zoo: Zoo) -> None:
    """Frames of the zoo differ enough from those beside them for the comparison to mean something."""
    for file in ("h264.mp4", "vp9.webm", "grey.mkv"):
        _, images = as_ffmpeg_shows(zoo(file))
        assert min(difference(a[None], b[None]) for a, b in itertools.pairwise(images)) > 4, file


def test_times_before_zero_are_not_shown(zoo: Zoo, name: str) -> None:
    """Matroska knows no times before zero: ffmpeg makes some up, so its decoder refuses."""
    whole = get_decoder("pyav").decode(zoo("h264.mp4"), Sampling(all=True))
    try:
        got = get_decoder(name).decode(zoo("negative.mkv"), Sampling(all=True))
    except DecodeError as error:
        assert (name, error.reason) in {
            ("ffmpeg", "damaged"),
            ("decord", "unsupported"),
            ("torchcodec", "unsupported"),
        }
        return
    assert name == "pyav" and got.bad == 6
    assert np.array_equal(got.images, whole.images[6:])
    assert got.times == pytest.approx(whole.times[6:] - whole.times[6], abs=1e-3)


@pytest.mark.parametrize("file", BROKEN)
def test_files_without_a_video(zoo: Zoo, name: str, file: str) -> None:
    with pytest.raises(DecodeError) as caught:
        get_decoder(name).decode(zoo(file), Sampling())
    assert caught.value.reason in BROKEN[file]


# ---- cut and joined


@pytest.fixture(scope="module")
def long(zoo: Zoo, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[bytes, Frames]]:
    """The bytes of an 8 s video in a container, and its frames."""
    folder = tmp_path_factory.mktemp("long")
    made: dict[str, tuple[bytes, Frames]] = {}

    def give(end: str) -> tuple[bytes, Frames]:
        if end not in made:
            path = folder / f"whole.{end}"
            codec = "mpeg4 -q:v 3" if end == "avi" else "libx264 -pix_fmt yuv420p -bf 2"
            arguments = f"-f lavfi -i testsrc2=size=96x64:rate=12:duration=8,hue=h=40*n -c:v {codec} -g 16"
            flags = ["-movflags", "faststart"] if end == "mp4" else []
            command = ["ffmpeg", "-loglevel", "error", *arguments.split(), *flags, str(path)]
            subprocess.run(command, check=True)
            made[end] = (path.read_bytes(), get_decoder("pyav").decode(path, Sampling(all=True)))
        return made[end]

    return give


def at(whole: Frames, times: np.ndarray) -> np.ndarray:
    """The images that `whole` has at these times."""
    places = np.searchsorted(whole.times, times - 1e-3)
    assert times == pytest.approx(whole.times[places], abs=1e-6)
    return whole.images[places]


@pytest.mark.slow
@pytest.mark.parametrize("share", [k / 100 for k in (3, 10, 20, 30, 40, 50, 60, 75, 90, 97)])
@pytest.mark.parametrize("end", ["mp4", "mkv", "avi"])
def test_a_cut_file_is_refused_or_all_but_whole(
    long, tmp_path: Path, name: str, end: str, share: float
) -> None:
    """No decoder gives half a video without a word, nor a frame that is not the video's."""
    data, whole = long(end)
    (tmp_path / f"cut.{end}").write_bytes(data[: int(len(data) * share)])
    try:
        got = get_decoder(name).decode(tmp_path / f"cut.{end}", Sampling(all=True))
    except DecodeError as error:
        assert error.reason in {"truncated", "unreadable", "no-frames", "damaged", "unsupported"}
        return
    assert got.times[-1] > 6.9
    assert difference(got.images, at(whole, got.times)) < 1


def test_a_cut_avi_is_seen_by_its_header(long, tmp_path: Path) -> None:
    """The length that libavformat gives is guessed from the file's size, which was cut as well."""
    data, _ = long("avi")
    (tmp_path / "cut.avi").write_bytes(data[: len(data) // 2])
    with pytest.raises(DecodeError, match=r"of 8\.00 s") as caught:
        get_decoder("pyav").decode(tmp_path / "cut.avi", Sampling())
    assert caught.value.reason == "truncated"


def test_no_smeared_picture_is_given(long, tmp_path: Path) -> None:
    """What is predicted from a damaged packet is dropped and counted; the rest keeps its times."""
    data, whole = long("mp4")
    with av.open(io.BytesIO(data)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    for number in (0, 3, 20, 37, 60):  # the key frames are 0, 16, 32, ...
        hurt = bytearray(data)
        packet = packets[number]
        hurt[packet.pos : packet.pos + packet.size] = bytes(packet.size)
        (tmp_path / "hurt.mp4").write_bytes(hurt)
        try:
            got = get_decoder("pyav").decode(tmp_path / "hurt.mp4", Sampling(all=True))
        except DecodeError as error:
            assert error.reason == "damaged", number
            assert number == 0 or "hole of 1" in str(error)
            continue
        assert got.bad and difference(got.images, at(whole, got.times)) < 1, number
        assert 80 <= len(got.times) < 96


def test_damage_at_the_start_does_not_shift_the_times(long, tmp_path: Path) -> None:
    data, whole = long("mkv")
    with av.open(io.BytesIO(data)) as container:
        first = next(container.demux(video=0))
    hurt = bytearray(data)
    start = data.index(bytes(first))
    hurt[start : start + first.size] = bytes(first.size)
    (tmp_path / "hurt.mkv").write_bytes(hurt)
    with pytest.raises(DecodeError, match=r"hole of 1\.33 s"):
        get_decoder("pyav").decode(tmp_path / "hurt.mkv", Sampling(all=True))
    got = list(get_decoder("pyav").stream(tmp_path / "hurt.mkv", Sampling(all=True), start=1.5))
    times = np.asarray([item[0] for item in got[:-1]])
    assert times[1:] + 1.5 == pytest.approx(whole.times[19:], abs=1e-6)


def test_recordings_joined_byte_by_byte_are_refused(zoo: Zoo, tmp_path: Path) -> None:
    """The second one's clock starts anew: its frames would be lost without a word."""
    data = zoo("h264.ts").read_bytes()
    (tmp_path / "joined.ts").write_bytes(data + data)
    with pytest.raises(DecodeError, match="run backwards") as caught:
        get_decoder("pyav").decode(tmp_path / "joined.ts", Sampling(fps=4))
    assert caught.value.reason == "damaged"


# ---- no video at all


@pytest.mark.parametrize(
    "text", ["#EXTM3U\n#EXTINF:10,\n{}\n#EXT-X-ENDLIST\n", "ffconcat version 1.0\nfile '{}'\n"]
)
def test_a_playlist_opens_no_address(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / "list.mp4").write_text(text.format("http://192.0.2.1/never.ts"))
    began = time.monotonic()
    with pytest.raises(DecodeError) as caught:
        get_decoder(name).decode(tmp_path / "list.mp4", Sampling())
    assert caught.value.reason == "unreadable" and time.monotonic() - began < 10


@pytest.fixture
def forbidden(zoo: Zoo) -> Iterator[Path]:
    """A video that may not be read; root, who may read all, becomes someone else."""
    folder = Path(tempfile.mkdtemp())
    path = folder / "forbidden.mp4"
    shutil.copy(zoo("h264.mp4"), path)
    path.chmod(0)
    folder.chmod(0o755)
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    yield path
    if root:
        os.seteuid(0)
    shutil.rmtree(folder)


def test_no_permission(forbidden: Path) -> None:
    with pytest.raises(DecodeError, match="Permission denied") as caught:
        get_decoder("pyav").decode(forbidden, Sampling())
    assert caught.value.reason == "unreadable"


def test_a_name_that_looks_like_an_address_or_an_option(
    zoo: Zoo, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for odd in ("http:a.mp4", "-i.mp4", "pipe:0", "a b%03d?.mp4", "ü\nx.mp4"):
        shutil.copy(zoo("h264.mp4"), odd)
        assert len(get_decoder(name).decode(odd, Sampling(frames=2)).times) == 2, odd


# ---- lengths and sizes


@pytest.mark.slow
def test_three_hours(zoo: Zoo, name: str) -> None:
    got = get_decoder(name).decode(zoo("3-hours.mp4"), Sampling(frames=4))
    assert got.duration == pytest.approx(10800)
    assert got.times == pytest.approx([1350, 4050, 6750, 9450], abs=10)


@pytest.mark.slow
def test_an_8k_still_is_brought_down(zoo: Zoo, name: str) -> None:
    got = get_decoder(name).decode(zoo("8k.mov"), Sampling(frames=4), size=224)
    assert got.images.shape == (1, 224, 398, 3)


@pytest.mark.parametrize("size", [32, 40])
def test_resizing_is_alike_in_all_decoders(zoo: Zoo, name: str, size: int) -> None:
    """Up to where the samples of colour lie, which ffmpeg's filter does not ask."""
    reference = get_decoder("pyav").decode(zoo("444.mp4"), Sampling(every=5), size=size)
    got = get_decoder(name).decode(zoo("444.mp4"), Sampling(every=5), size=size)
    assert difference(got.images, reference.images) < 4


def test_a_video_that_changes_its_size_keeps_the_first(zoo: Zoo, tmp_path: Path) -> None:
    small, large = (tmp_path / f"{side}.ts" for side in (48, 80))
    for path, offset in ((small, 0), (large, 2)):
        source = f"testsrc2=size=64x{path.stem}:rate=12:duration=2"
        command = f"ffmpeg -loglevel error -f lavfi -i {source} -c:v libx264 -pix_fmt yuv420p -g 8"
        subprocess.run([*command.split(), "-output_ts_offset", str(offset), str(path)], check=True)
    (tmp_path / "both.ts").write_bytes(small.read_bytes() + large.read_bytes())
    for name in ("pyav", "ffmpeg"):
        got = get_decoder(name).decode(tmp_path / "both.ts", Sampling(fps=2))
        assert got.images.shape[1:] == (48, 64, 3) and len(got.times) >= 7, name
        assert 3.7 < got.duration < 4.1
