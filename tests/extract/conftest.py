"""Made videos and a tiny CLIP of random weights for the tests of this room."""

from __future__ import annotations

import json
from collections.abc import Sequence
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
