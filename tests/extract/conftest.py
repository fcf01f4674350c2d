"""Made videos and a tiny CLIP of random weights for the tests of this room."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

WORDS = [
    "take",
    "up",
    "put",
    "down",
    "pour",
    "stir",
    "heat",
    "cover",
    "shake",
    "the",
    "red",
    "blue",
    "green",
    "beaker",
    "flask",
    "burner",
    "into",
    "a",
    "liquid",
    "spoon",
]
REAL = Path(__file__).resolve().parents[2].parent / "shared" / "data"


def picture(index: int, width: int = 96, height: int = 64) -> np.ndarray:
    """A picture that tells its number: a grey level in its right half, a red block at its top left."""
    image = np.zeros((height, width, 3), np.uint8)
    image[: height // 2, : width // 2] = (255, 0, 0)
    image[:, width // 2 :] = 20 + (index * 8) % 220
    return image


def number(image: np.ndarray, up_to: int) -> int:
    """The number of the picture (of those below `up_to` <= 27) that `image` shows, whatever its size."""
    grey = float(image[:, 3 * image.shape[1] // 4].mean())
    return int(np.argmin([abs(20 + (index * 8) % 220 - grey) for index in range(up_to)]))


def make_video(
    path: Path,
    times: Sequence[float],
    *,
    codec: str = "libx264",
    size: tuple[int, int] = (96, 64),
    rotation: int | None = None,
    pix_fmt: str = "yuv420p",
    audio: bool = False,
    video: bool = True,
    gop: int = 8,
    fps: int = 12,
) -> Path:
    """A video whose frame k is `picture(k)`, shown from times[k] seconds on (in units of 1/1200 s)."""
    import av

    with av.open(str(path), "w") as container:
        streams = []
        if video:
            stream = container.add_stream(
                codec, rate=fps, options={"crf": "12", "g": str(gop)} if codec == "libx264" else {}
            )
            stream.width, stream.height, stream.pix_fmt = *size, pix_fmt
            stream.codec_context.time_base = Fraction(1, 1200)
            stream.codec_context.gop_size = gop
            if rotation is not None:
                stream.set_display_rotation(rotation)
            streams.append(stream)
        if audio:
            sound = container.add_stream("aac", rate=16000)
            sound.layout = "mono"
            samples = np.zeros((1, 16000), np.float32)
            frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
            frame.sample_rate = 16000
            for packet in [*sound.encode(frame), *sound.encode(None)]:
                container.mux(packet)
        if video:
            for index, time in enumerate(times):
                shown = av.VideoFrame.from_ndarray(picture(index, *size), format="rgb24")
                shown.pts, shown.time_base = round(time * 1200), Fraction(1, 1200)
                for packet in stream.encode(shown):
                    container.mux(packet)
            for packet in stream.encode(None):
                container.mux(packet)
    return path


@pytest.fixture(scope="session")
def tools() -> SimpleNamespace:
    """The functions of this file that tests use."""
    return SimpleNamespace(video=make_video, picture=picture, number=number, clip=make_clip, words=WORDS)


@pytest.fixture(scope="session")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with good.mp4 (24 frames, 12 a second) and the broken files."""
    folder = tmp_path_factory.mktemp("videos")
    make_video(folder / "good.mp4", [k / 12 for k in range(24)])
    long = make_video(folder / "long.mp4", [k / 12 for k in range(120)], size=(192, 128))
    data = long.read_bytes()
    make_video(folder / "audio.mp4", [], video=False, audio=True)
    (folder / "garbage.mp4").write_bytes(np.random.default_rng(0).bytes(5000))
    (folder / "text.mp4").write_text("take up the beaker\n" * 20)
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "folder.mp4").mkdir()
    matroska = make_video(folder / "whole.mkv", [k / 12 for k in range(120)], size=(192, 128)).read_bytes()
    (folder / "cut.mkv").write_bytes(matroska[: len(matroska) // 2])
    (folder / "cut.mp4").write_bytes(front_loaded(data, folder)[: int(len(data) * 0.6)])
    (folder / "headless.mp4").write_bytes(data[: len(data) // 2])
    return folder


def front_loaded(data: bytes, folder: Path) -> bytes:
    """The mp4 with its index at the front (faststart), so that a cut file still opens."""
    import av

    source, target = folder / "index-last.mp4", folder / "index-first.mp4"
    source.write_bytes(data)
    with av.open(str(source)) as old, av.open(str(target), "w", options={"movflags": "faststart"}) as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for packet in old.demux(old.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                new.mux(packet)
    return target.read_bytes()


def make_tokenizer(folder: Path, words: Sequence[str] = WORDS) -> None:
    """A word tokenizer with start, end and padding tokens, saved as plain tokenizer files."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: place for place, word in enumerate(["<pad>", "<s>", "<unk>", "</s>", ",", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", vocabulary["<s>"]), ("</s>", vocabulary["</s>"])]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    ).save_pretrained(folder)


def make_clip(folder: Path, *, context: int = 16, size: int = 32, seed: int = 0) -> Path:
    """A tiny CLIPModel of random weights in a plain transformers folder, in half precision."""
    import torch
    from transformers import CLIPConfig, CLIPModel

    torch.manual_seed(seed)
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = CLIPConfig(
        projection_dim=24,
        text_config={
            **tower,
            "vocab_size": 5 + len(WORDS),
            "max_position_embeddings": context,
            "projection_dim": 24,
            "bos_token_id": 1,
            "eos_token_id": 3,
            "pad_token_id": 0,
        },
        vision_config={**tower, "image_size": size, "patch_size": 8, "projection_dim": 24},
    )
    CLIPModel(config).half().save_pretrained(folder)
    make_tokenizer(folder)
    (folder / "preprocessor_config.json").write_text(
        json.dumps(
            {
                "do_resize": True,
                "size": {"shortest_edge": size},
                "do_center_crop": True,
                "crop_size": {"height": size, "width": size},
                "resample": 3,
                "image_mean": [0.5, 0.4, 0.3],
                "image_std": [0.2, 0.25, 0.3],
            }
        )
    )
    return folder


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="session")
def real() -> Path:
    """The folder of real data beside the project."""
    if not REAL.is_dir():
        pytest.skip(f"no real data at {REAL}")
    return REAL


# ---- a zoo of files as ffmpeg makes them

# every frame differs from those beside it, in colour and in brightness
CHANGING = "hue=h=40*n:b='mod(n\\,4)-1.5'"
SECONDS = f"-f lavfi -i testsrc2=size=64x48:rate=12:duration=2,{CHANGING}"
H264 = "-c:v libx264 -pix_fmt yuv420p -g 8 -bf 2"
H265 = "-c:v libx265 -pix_fmt yuv420p -x265-params log-level=none:keyint=8"
INTERLACED = "-vf tinterlace=interleave_top,fieldorder=tff -flags +ildct+ilme"
TWO_PICTURES = (
    "-f lavfi -i testsrc2=size=32x24:rate=12:duration=2 -f lavfi -i testsrc=size=64x48:rate=12:duration=2 "
    "-f lavfi -i sine=duration=2 -map 0:v -map 1:v -map 2:a -c:v libx264 -pix_fmt yuv420p -c:a aac"
)
# name -> what follows `ffmpeg -y` and comes before the file's name; {other.mp4}: another file of the zoo
ZOO = {
    # codecs and containers
    "h264.mp4": f"{SECONDS} {H264}",
    "h264.mov": f"{SECONDS} {H264}",
    "h264.mkv": f"{SECONDS} {H264}",
    "h264.flv": f"{SECONDS} {H264}",
    "h264.avi": f"{SECONDS} {H264}",
    "h264.ts": f"{SECONDS} {H264}",
    # few of its packets have a time (and with larger ones the muxer gives two the same)
    "h264.mpg": f"-f lavfi -i testsrc2=size=64x48:rate=12:duration=2 {H264} -f mpeg",
    "bare.h264": f"{SECONDS} {H264}",
    "fragments.mp4": f"{SECONDS} {H264} -movflags frag_keyframe+empty_moov",
    "open-gop.mp4": f"{SECONDS} {H264} -x264-params open-gop=1:b-adapt=0:scenecut=0",
    "refreshed.mp4": f"{SECONDS} -c:v libx264 -pix_fmt yuv420p -x264-params intra-refresh=1:keyint=8",
    "h265.mp4": f"{SECONDS} {H265}",
    "h265.mkv": f"{SECONDS} {H265}:open-gop=1",
    "h265.ts": f"{SECONDS} {H265}",
    "mpeg4.mp4": f"{SECONDS} -c:v mpeg4 -g 8 -bf 2 -q:v 3",
    "mpeg4.avi": f"{SECONDS} -c:v mpeg4 -g 8 -bf 2 -q:v 3",
    "packed.avi": f"{SECONDS} -c:v libxvid -g 8 -bf 2 -q:v 3",
    "msmpeg4.avi": f"{SECONDS} -c:v msmpeg4 -g 8 -q:v 3",
    "mpeg2.mpg": f"{SECONDS} -c:v mpeg2video -r 25 -g 8 -bf 2 -q:v 3",
    "mpeg2.ts": f"{SECONDS} -c:v mpeg2video -r 25 -g 8 -bf 2 -q:v 3",
    "mpeg2.mkv": f"{SECONDS} -c:v mpeg2video -r 25 -g 8 -bf 2 -q:v 3",
    "mpeg1.mpg": f"{SECONDS} -c:v mpeg1video -r 25 -g 8 -bf 2 -q:v 3",
    "vp8.webm": f"{SECONDS} -c:v libvpx -g 8 -b:v 200k",
    "vp9.webm": f"{SECONDS} -c:v libvpx-vp9 -g 8 -b:v 200k",
    "vp9.mp4": f"{SECONDS} -c:v libvpx-vp9 -g 8 -b:v 200k",
    "av1.mkv": f"{SECONDS} -c:v libaom-av1 -g 8 -cpu-used 8 -b:v 200k",
    "av1.mp4": f"{SECONDS} -c:v libaom-av1 -g 8 -cpu-used 8 -b:v 200k",
    "mjpeg.avi": f"{SECONDS} -c:v mjpeg -q:v 3",
    "mjpeg.mov": f"{SECONDS} -c:v mjpeg -q:v 3",
    "gif.gif": SECONDS,
    "apng.apng": f"{SECONDS} -f apng",
    "prores.mov": f"{SECONDS} -c:v prores_ks",
    "ffv1.mkv": f"{SECONDS} -c:v ffv1",
    "theora.ogv": f"{SECONDS} -c:v libtheora -q:v 7",
    "wmv.asf": f"{SECONDS} -c:v wmv2 -q:v 3 -f asf",
    "flv1.flv": f"{SECONDS} -c:v flv -q:v 3",
    "raw.avi": f"{SECONDS} -c:v rawvideo -pix_fmt bgr24",
    # pictures
    "full-range.mp4": f"{SECONDS} -vf scale=out_range=full,format=yuv420p -color_range pc {H264}",
    "full-range.avi": f"{SECONDS} -c:v mjpeg -pix_fmt yuvj420p -q:v 2",
    "bt709.mp4": f"{SECONDS} -vf scale=out_color_matrix=bt709,format=yuv420p -colorspace bt709 "
    f"-color_primaries bt709 -color_trc bt709 {H264}",
    "10-bit.mp4": f"{SECONDS} -c:v libx264 -pix_fmt yuv420p10le -g 8",
    "10-bit.mkv": f"{SECONDS} -c:v libx265 -pix_fmt yuv420p10le -x265-params log-level=none",
    "444.mp4": f"{SECONDS} -c:v libx264 -pix_fmt yuv444p -g 8",
    "rgb.mkv": f"{SECONDS} -c:v libx264rgb -pix_fmt rgb24 -g 8",
    "grey.mkv": f"{SECONDS} -c:v ffv1 -pix_fmt gray10le",
    "alpha.mov": f"{SECONDS} -c:v prores_ks -pix_fmt yuva444p10le",
    "odd.mp4": f"{SECONDS} -vf scale=63:47 -c:v libx264 -pix_fmt yuv444p -g 8",
    "odd.mkv": f"{SECONDS} -vf scale=63:47 -c:v ffv1 -pix_fmt yuv420p",
    "interlaced.mp4": f"{SECONDS} {INTERLACED} -c:v libx264 -pix_fmt yuv420p -g 8",
    "interlaced.ts": f"{SECONDS} {INTERLACED} -c:v mpeg2video -pix_fmt yuv420p -r 25 -q:v 3",
    "8k.mov": "-f lavfi -i testsrc2=size=7680x4320:rate=1:duration=1 -frames:v 1 -c:v mjpeg -q:v 9",
    # times
    "vfr.mkv": f"{SECONDS} -vf select='not(mod(n\\,2))+lt(n\\,6)' -fps_mode vfr {H264}",
    "vfr.mp4": f"{SECONDS} -vf select='not(mod(n\\,3))+lt(n\\,6)' -fps_mode vfr {H264}",
    "edited.mp4": "-ss 0.7 -i {h264.mp4} -c copy",
    "negative.mp4": "-itsoffset -0.5 -i {h264.mp4} -c copy -avoid_negative_ts disabled",
    "negative.mkv": "-itsoffset -0.5 -i {h264.mp4} -c copy -copyts -avoid_negative_ts disabled",
    "late.mkv": "-i {h264.mp4} -c copy -output_ts_offset 5",
    "cut-copy.mkv": "-ss 0.7 -i {open-gop.mp4} -c copy -avoid_negative_ts make_zero",
    "one.mp4": f"{SECONDS} -frames:v 1 {H264}",
    "one.mkv": f"{SECONDS} -frames:v 1 -c:v ffv1",
    "3-hours.mp4": "-f lavfi -i testsrc2=size=64x48:rate=1/10:duration=10800,hue=h=40*n -c:v libx264 "
    "-preset ultrafast -pix_fmt yuv420p -g 30",
    "2-minutes.mkv": "-f lavfi -i testsrc2=size=64x48:rate=5:duration=120,hue=h=40*n -c:v libx264 "
    "-preset ultrafast -pix_fmt yuv420p -g 50 -bf 2",
    # streams
    "two.mp4": f"{TWO_PICTURES} -disposition:v:1 default -disposition:v:0 0",
    "two.mkv": f"{TWO_PICTURES}",
    "still.jpg": f"{SECONDS} -frames:v 1",
    "cover.mp4": "-i {h264.mp4} -i {still.jpg} -map 0 -map 1 -c copy -disposition:v:1 attached_pic",
    "cover-only.m4a": "-f lavfi -i sine=duration=2 -i {still.jpg} -map 0 -map 1 -c:a aac -c:v copy "
    "-disposition:v:0 attached_pic",
    "audio.mp4": "-f lavfi -i sine=duration=2 -c:a aac",
    "nothing.mp4": f"{SECONDS} -t 0 {H264}",
    "nothing.mkv": f"{SECONDS} -frames:v 0 {H264}",
}
# encoded in two passes, without which VP8 has no packets that are not shown
TWICE = {
    "hidden.webm": "-f lavfi -i testsrc2=size=64x48:rate=24:duration=4,hue=h=9*n -c:v libvpx -g 48 -b:v 60k "
    "-auto-alt-ref 1 -lag-in-frames 25 -arnr-maxframes 7 -arnr-strength 5 -passlogfile {log} -pass",
}
# made through a pipe, so that the container cannot tell its duration
PIPED = {
    f"no-duration.{end}": f"-i {{{source}}} -c copy -f {kind} -"
    for end, source, kind in [
        ("mkv", "h264.mp4", "matroska"),
        ("webm", "vp9.webm", "webm"),
        ("flv", "h264.mp4", "flv"),
        ("ts", "h264.mp4", "mpegts"),
    ]
}


@pytest.fixture(scope="session")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A function that gives a file of the zoo by its name (ZOO, TWICE, PIPED), made when first asked for."""
    folder = tmp_path_factory.mktemp("zoo")
    if not (program := shutil.which("ffmpeg")):
        pytest.skip("no ffmpeg to make the files with")

    def give(name: str) -> Path:
        path = folder / name
        if path.exists():
            return path
        if name.startswith("turned"):  # turned90.mp4, ...
            return make_video(path, [k / 12 for k in range(24)], rotation=int(path.stem[6:]), size=(64, 48))
        if name.startswith("all-keys"):  # an mp4 that calls every frame a key frame
            data = give({"all-keys.mp4": "h264.mp4", "all-keys-4.mp4": "mpeg4.mp4"}[name]).read_bytes()
            path.write_bytes(data.replace(b"stss", b"free"))
            return path
        run(name, path)
        return path

    def run(name: str, path: Path) -> None:
        commands = [PIPED[name]] if name in PIPED else [ZOO.get(name, "")]
        if name in TWICE:
            commands = [f"{TWICE[name].format(log=folder / name)} {number}" for number in (1, 2)]
        for command in commands:
            words = [str(give(each[1:-1])) if each[:1] == "{" else each for each in shlex.split(command)]
            full = [program, "-nostdin", "-loglevel", "error", "-y", *words]
            with open(path, "wb") if name in PIPED else nullcontext() as out:
                done = subprocess.run(
                    full if out else [*full, str(path)], stdout=out, stderr=subprocess.PIPE, check=False
                )
            if done.returncode or not path.exists():
                said = done.stderr.decode(errors="replace").strip()
                pytest.skip(f"this ffmpeg cannot make {name}: {said:.200}")

    return give
