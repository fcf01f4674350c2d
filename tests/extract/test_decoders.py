"""Sampling by presentation time; the decoders against each other and against what was put in."""

from __future__ import annotations

import itertools
import os
import pickle
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepclip.cache.errors import StepclipError
from stepclip.extract.decoders import DECODERS, DecodeError, Picker, Sampling, Shown, backends, get_decoder

TOLERANCE = 2**0.5 / 1000  # seconds, as the documentation of sampling has it


@pytest.fixture(
    scope="module",  # torchcodec imports torch first
    params=["pyav", "decord", "ffmpeg", pytest.param("torchcodec", marks=pytest.mark.slow)],
)
def decoder(request: pytest.FixtureRequest):
    try:
        return get_decoder(request.param)
    except DecodeError as error:
        pytest.skip(error.found)


def usable(names: tuple[str, ...]) -> list[str]:
    """Those of the decoders that this machine has."""
    found = []
    for name in names:
        with suppress(DecodeError):
            found.append(get_decoder(name).name)
    return found


# decoders to be compared with PyAV
OTHERS = pytest.mark.parametrize(
    "others", [("decord", "ffmpeg"), pytest.param(("torchcodec",), marks=pytest.mark.slow)], ids="-".join
)


@pytest.mark.slow
def test_nvdec_is_off_unless_asked_for_and_says_what_it_needs():
    found = {backend.name: backend for backend in backends()}
    assert not found["torchcodec:cuda"].usable or get_decoder("torchcodec:cuda").device == "cuda"
    if found["torchcodec"].usable:
        assert get_decoder("torchcodec").device == "cpu"
    for name in ("torchcodec", "torchcodec:cuda"):
        assert "pip install" in found[name].install
        if not found[name].usable:
            with pytest.raises(DecodeError) as caught:
                get_decoder(name)
            assert caught.value.reason == "decoder-unavailable"


@pytest.mark.slow
def test_nvdec_shows_the_same_frames(videos: Path, tools: SimpleNamespace):
    """Its conversion of colours is another, so they are only alike."""
    try:
        decoder = get_decoder("torchcodec:cuda")
    except DecodeError as error:
        pytest.skip(error.found)
    got = decoder.decode(videos / "good.mp4", Sampling(fps=4), size=32)
    assert [tools.number(image, 24) for image in got.images] == list(range(0, 24, 3))
    assert got.times == pytest.approx(np.arange(8) / 4, abs=1e-6)


def test_a_decoder_whose_libraries_do_not_load_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch):
    """torchcodec without FFmpeg's shared libraries raises RuntimeError with a page of text."""
    from stepclip.extract import decoders

    def fail(*_: object) -> None:
        raise RuntimeError("Could not load libtorchcodec. Likely causes:\n 1. ...")

    monkeypatch.setattr(decoders, "import_module", fail)
    with pytest.raises(DecodeError, match="apt install ffmpeg") as caught:
        get_decoder("torchcodec")
    assert caught.value.found.endswith("Could not load libtorchcodec. Likely causes:")


# ---- sampling


def shown_at(times: list[float], instant: float) -> int:
    return max(index for index, time in enumerate(times) if time <= instant + TOLERANCE)


def literal(
    times: list[float], length: float, sampling: Sampling, start: float, end: float | None
) -> list[int]:
    """The frames to take, by the words of the definition."""
    stop = times[-1] + length
    until = stop if end is None else min(stop, end)
    if sampling.every is not None:
        inside = [
            k
            for k, time in enumerate(times)
            if time < until - TOLERANCE and (k + 1 == len(times) or times[k + 1] > start + TOLERANCE)
        ]
        return inside[:: sampling.every]
    if sampling.frames is not None:
        part = (until - start) / sampling.frames
        instants = [start + (k + 0.5) * part for k in range(sampling.frames)]
    else:
        assert sampling.fps is not None
        instants = [start]
        while instants[-1] + 1 / sampling.fps < until - TOLERANCE:
            instants.append(start + len(instants) / sampling.fps)
    return sorted({shown_at(times, instant) for instant in instants})


samplings = st.one_of(
    st.sampled_from([0.5, 1.0, 2.5, 4.0, 7.0, 30.0]).map(lambda fps: Sampling(fps=fps)),
    st.integers(1, 40).map(lambda frames: Sampling(frames=frames)),
    st.integers(1, 9).map(lambda every: Sampling(every=every)),
)


@given(
    gaps=st.lists(st.integers(1, 60), min_size=0, max_size=40),
    length=st.integers(1, 60),
    sampling=samplings,
    trim=st.tuples(st.integers(0, 300), st.one_of(st.none(), st.integers(1, 300))),
)
@settings(deadline=None, max_examples=300)
def test_picker_takes_the_frames_of_the_definition(gaps, length, sampling, trim):
    times = np.cumsum([0, *gaps]) / 120
    start = trim[0] / 120
    end = None if trim[1] is None else (trim[0] + trim[1]) / 120
    stop = times[-1] + length / 120
    if start >= stop - TOLERANCE:
        start, end = 0.0, end
    frames = [Shown(time, length / 120, index) for index, time in enumerate(times.tolist())]
    taken = list(Picker(sampling, start, end, stop)(frames))
    assert [index for _, index in taken] == literal(times.tolist(), length / 120, sampling, start, end)
    for time, index in taken:
        assert time == pytest.approx(max(times[index] - start, 0), abs=1e-9)
    assert all(a < b for (a, _), (b, _) in itertools.pairwise(taken))


def test_picker_stops_reading_behind_the_end():
    pulled = []

    def frames():
        for index in range(1000):
            pulled.append(index)
            yield Shown(index / 10, 0.1, index)

    list(Picker(Sampling(fps=2), 1.0, 3.0)(frames()))
    assert pulled[-1] == 30


@pytest.mark.parametrize(
    "wrong",
    [
        {"fps": 0},
        {"fps": -1},
        {"fps": float("nan")},
        {"frames": 0},
        {"every": 1.5},
        {"fps": None},
        {"weaksvr": 3},
        {"weaksvr": "all"},
        {"weaksvr": 0},
    ],
)
def test_sampling_refuses(wrong):
    with pytest.raises(StepclipError):
        Sampling(**wrong)
    with pytest.raises(StepclipError, match="frames and every"):
        Sampling(frames=3, every=2)
    with pytest.raises(StepclipError, match="every, all and weaksvr"):
        Sampling(all=True, weaksvr=8)


# ---- what comes out is what was put in


def test_frames_are_those_shown_at_the_instants(decoder, videos: Path, tools: SimpleNamespace):
    """24 frames, 12 a second, 4 wanted: every third."""
    got = decoder.decode(videos / "good.mp4", Sampling(fps=4))
    assert [tools.number(image, 24) for image in got.images] == list(range(0, 24, 3))
    assert got.times == pytest.approx(np.arange(8) / 4, abs=1e-6)
    assert got.duration == pytest.approx(2.0, abs=1e-3)
    assert got.images.shape == (8, 64, 96, 3) and got.images.dtype == np.uint8
    assert np.abs(got.images[0].astype(int) - tools.picture(0)).mean() < 4


def test_variable_frame_rate(decoder, tmp_path: Path, tools: SimpleNamespace):
    times = [0, 0.1, 0.15, 0.9, 1.0, 1.05, 1.1, 2.6, 2.7, 3.0]
    file = tools.video(tmp_path / "vfr.mkv", times, fps=10)
    got = decoder.decode(
        file, Sampling(fps=2)
    )  # at 0, 0.5, 1, 1.5, 2, 2.5 and (the same frame) 3 - shown to 3.1
    expected = sorted({shown_at(times, k / 2) for k in range(7)})
    assert [tools.number(image, 10) for image in got.images] == expected
    assert got.times == pytest.approx([times[k] for k in expected], abs=1e-3)


def test_trim(decoder, videos: Path, tools: SimpleNamespace):
    got = decoder.decode(videos / "good.mp4", Sampling(every=2), start=0.55, end=1.25)
    assert [tools.number(image, 24) for image in got.images] == [
        6,
        8,
        10,
        12,
        14,
    ]  # 6 is shown from 0.5 to 0.583
    assert got.times == pytest.approx([0, 8 / 12 - 0.55, 10 / 12 - 0.55, 1 - 0.55, 14 / 12 - 0.55], abs=1e-6)
    assert got.duration == pytest.approx(0.7, abs=1e-6)


def test_a_long_trim_is_sought_and_gives_the_same(tmp_path: Path, tools: SimpleNamespace):
    """Beyond 10 s PyAV seeks; the same frames as by decoding all."""
    file = tools.video(tmp_path / "long.mp4", [k / 2 for k in range(60)], gop=12, fps=2)
    everything = get_decoder("pyav").decode(file, Sampling(every=1))
    got = get_decoder("pyav").decode(file, Sampling(every=1), start=17.2, end=21.3)
    assert got.times == pytest.approx([0, 0.3, 0.8, 1.3, 1.8, 2.3, 2.8, 3.3, 3.8], abs=1e-3)
    assert np.array_equal(got.images, everything.images[34:43])


@pytest.mark.parametrize("rotation", [90, -90, 180])
def test_rotation_is_applied(decoder, tmp_path: Path, tools: SimpleNamespace, rotation: int):
    file = tools.video(tmp_path / "turned.mp4", [0, 1 / 12, 2 / 12], rotation=rotation)
    image = decoder.decode(file, Sampling(every=1)).images[0].astype(int)
    expected = np.rot90(tools.picture(0), rotation // 90).astype(int)
    assert image.shape == expected.shape
    assert np.abs(image - expected).mean() < 5


def test_size_brings_the_short_side_down_and_never_up(decoder, videos: Path):
    assert decoder.decode(videos / "good.mp4", Sampling(), size=32).images.shape[1:] == (32, 48, 3)
    assert decoder.decode(videos / "good.mp4", Sampling(), size=640).images.shape[1:] == (64, 96, 3)


def test_size_of_a_turned_video(decoder, tmp_path: Path, tools: SimpleNamespace):
    file = tools.video(tmp_path / "turned.mp4", [0, 1 / 12], rotation=90)
    image = decoder.decode(file, Sampling(), size=32).images[0].astype(int)
    assert image.shape == (48, 32, 3)
    assert np.abs(image[::2] - np.rot90(tools.picture(0))[::4, ::2].astype(int)).mean() < 12


def test_ten_bit_and_odd_size(decoder, tmp_path: Path, tools: SimpleNamespace):
    file = tools.video(tmp_path / "ten.mp4", [0, 1 / 12], pix_fmt="yuv444p10le", size=(97, 65))
    image = decoder.decode(file, Sampling(every=1)).images[0].astype(int)
    assert np.abs(image - tools.picture(0, 97, 65)).mean() < 5


def test_a_video_with_sound_that_starts_late(decoder, tmp_path: Path, tools: SimpleNamespace):
    """Times count from the first frame, whatever the container's clock says there."""
    file = tools.video(tmp_path / "late.mkv", [5 + k / 12 for k in range(24)], audio=True)
    got = decoder.decode(file, Sampling(fps=2))
    assert got.times == pytest.approx([0, 0.5, 1, 1.5], abs=2e-3)
    assert [tools.number(image, 24) for image in got.images] == [0, 6, 12, 18]


# ---- real clips: the backends agree


@pytest.mark.parametrize(
    ("name", "sampling"),
    [
        ("clean_and_jerk.mp4", Sampling(fps=3)),
        ("home_sofa.mp4", Sampling(frames=7)),
        ("nasa_13013.mp4", Sampling(every=11)),
        ("nasa_13013.mp4", Sampling(fps=4)),
        *(("h265_video.mp4", each) for each in (Sampling(fps=3), Sampling(frames=7), Sampling(every=4))),
        ("h264_10bits.mp4", Sampling(every=7)),
    ],
    ids=str,
)
@OTHERS
def test_backends_agree_on_real_clips(real: Path, others: tuple[str, ...], name: str, sampling: Sampling):
    reference = get_decoder("pyav").decode(real / "videos" / name, sampling)
    for other in usable(others):
        got = get_decoder(other).decode(real / "videos" / name, sampling)
        assert got.times == pytest.approx(reference.times, abs=1e-5), other
        assert got.duration == pytest.approx(reference.duration, abs=1e-5)
        difference = np.abs(got.images.astype(int) - reference.images).mean(axis=(1, 2, 3))
        assert difference.max() < (4 if "10bits" in name else 0.01), (
            other
        )  # 10 bit: dithered by each in its way


def test_av1(real: Path):
    file = real / "videos" / "av1_video.mkv"
    reference = get_decoder("pyav").decode(file, Sampling(fps=2))
    assert len(reference.times) == 10
    got = get_decoder("ffmpeg").decode(file, Sampling(fps=2))
    assert np.abs(got.images.astype(int) - reference.images).mean() < 0.01
    with pytest.raises(DecodeError, match="AV1") as caught:
        get_decoder("decord").decode(file, Sampling())
    assert caught.value.reason == "unsupported" and "pyav" in caught.value.run


@OTHERS
def test_mpeg_ts(tmp_path: Path, tools: SimpleNamespace, others: tuple[str, ...]):
    """decord gives wrong frames from it without a word, so it refuses; torchcodec cannot read it."""
    file = tools.video(tmp_path / "stream.ts", [k / 12 for k in range(24)])
    for name in ("pyav", "ffmpeg"):
        got = get_decoder(name).decode(file, Sampling(fps=4))
        assert [tools.number(image, 24) for image in got.images] == list(range(0, 24, 3)), name
    for name in set(usable(others)) - {"ffmpeg"}:
        with pytest.raises(DecodeError, match="mpegts") as caught:
            get_decoder(name).decode(file, Sampling())
        assert caught.value.reason == "unsupported" and "--decoder pyav" in str(caught.value)


# ---- broken files


@pytest.mark.parametrize(
    ("name", "reasons"),
    [
        ("missing.mp4", {"missing-file"}),
        ("folder.mp4", {"not-a-file"}),
        ("empty.mp4", {"empty-file"}),
        ("garbage.mp4", {"unreadable", "no-frames", "no-video-stream"}),
        ("text.mp4", {"unreadable", "no-video-stream"}),
        ("headless.mp4", {"unreadable"}),
        ("audio.mp4", {"no-video-stream"}),
        ("cut.mp4", {"truncated"}),
        ("cut.mkv", {"truncated"}),
    ],
)
def test_a_broken_file_has_its_reason(decoder, videos: Path, name: str, reasons: set[str]):
    with pytest.raises(DecodeError) as caught:
        decoder.decode(videos / name, Sampling(fps=4))
    if decoder.name in ("decord", "torchcodec"):  # they give up at the first fault, whatever it comes of
        reasons = reasons | {"unreadable", "damaged"}
    assert caught.value.reason in reasons
    assert name in str(caught.value)


def test_a_fifo_is_not_a_file(decoder, tmp_path: Path):
    os.mkfifo(tmp_path / "never.mp4")
    with pytest.raises(DecodeError) as caught:
        decoder.decode(tmp_path / "never.mp4", Sampling())
    assert caught.value.reason == "not-a-file"


@pytest.mark.parametrize("trim", [(5.0, None), (2.0, 3.0), (1.0, 1.0), (1.0, 0.5), (-1.0, None)])
@pytest.mark.parametrize("sampling", [Sampling(fps=4), Sampling(frames=5)], ids=str)
def test_a_trim_outside_the_video(
    decoder, videos: Path, trim: tuple[float, float | None], sampling: Sampling
):
    with pytest.raises(DecodeError) as caught:
        decoder.decode(videos / "good.mp4", sampling, start=trim[0], end=trim[1])
    assert caught.value.reason == "trim-outside"


def test_a_cut_file_is_good_up_to_the_cut_when_only_that_is_wanted(videos: Path):
    got = get_decoder("pyav").decode(videos / "cut.mp4", Sampling(fps=4), end=2.0)
    assert got.times == pytest.approx(np.arange(8) / 4, abs=1e-6)


@pytest.mark.parametrize("share", [k / 10 for k in range(1, 10)])
def test_cut_anywhere_never_half_a_video_without_a_word(videos: Path, tmp_path: Path, share: float):
    """Either an error, or all frames up to 10 % or 1 s before the end."""
    data = (videos / "index-first.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: int(len(data) * share)])
    try:
        got = get_decoder("pyav").decode(tmp_path / "cut.mp4", Sampling(fps=4))
    except DecodeError as error:
        assert error.reason in {"truncated", "unreadable", "no-frames"}
    else:
        assert got.times[-1] >= 8.5


def test_damage_in_the_middle_is_passed_over_and_counted(videos: Path, tmp_path: Path):
    """Packets overwritten: what remains keeps its own times, and the damage is told or refused."""
    data = bytearray((videos / "index-first.mp4").read_bytes())
    middle = len(data) // 2
    data[middle : middle + 300] = bytes(300)
    (tmp_path / "hurt.mp4").write_bytes(data)
    whole = get_decoder("pyav").decode(videos / "index-first.mp4", Sampling(every=1))
    try:
        got = get_decoder("pyav").decode(tmp_path / "hurt.mp4", Sampling(every=1))
    except DecodeError as error:
        assert error.reason in {"damaged", "truncated"}
    else:
        assert got.bad > 0
        assert set(np.round(got.times, 6)) < set(np.round(whole.times, 6))


@given(seed=st.integers(0, 10**6))
@settings(deadline=None, max_examples=25)
def test_fuzzed_files_end_in_frames_or_a_decode_error(
    seed: int, videos: Path, tmp_path_factory: pytest.TempPathFactory
):
    rng = np.random.default_rng(seed)
    data = bytearray((videos / "good.mp4").read_bytes())
    for place in rng.integers(0, len(data), rng.integers(1, 30)):
        data[place] = rng.integers(0, 256)
    file = tmp_path_factory.mktemp("fuzz") / "fuzz.mp4"
    file.write_bytes(data)
    try:
        got = get_decoder("pyav").decode(file, Sampling(fps=4))
    except DecodeError:
        return
    assert len(got.images) == len(got.times) > 0 and (np.diff(got.times) > 0).all()


def test_registry():
    assert {backend.name for backend in backends()} == set(DECODERS)
    assert all(backend.install and backend.kind == "decoder" for backend in backends())
    with pytest.raises(DecodeError, match="did you mean 'pyav'") as caught:
        get_decoder("pyva")
    assert caught.value.reason == "decoder-unavailable"


def test_a_decode_error_survives_pickling():
    error = pickle.loads(pickle.dumps(DecodeError("truncated", "a", "b", "c")))
    assert (error.reason, str(error)) == ("truncated", str(DecodeError("truncated", "a", "b", "c")))
