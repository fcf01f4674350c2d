"""Encoders: preprocessing against PIL, text features, OpenAI's .pt layout, names that cannot be had."""

from __future__ import annotations

import gzip
import json
import shutil
import sys
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from stepclip.cache.errors import StepclipError
from stepclip.extract import fingerprint_of
from stepclip.extract.encoders import EMBEDDED, NAMES, backends, clean, load_encoder
from stepclip.extract.encoders.base import resolve_device, resolve_precision
from stepclip.extract.encoders.openai_pt import BPE
from stepclip.extract.encoders.preprocess import MEAN, STD, Preprocess, in_two_passes

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def encoder(clip_folder: Path):
    return load_encoder(str(clip_folder), device="cpu")


def smooth(height: int, width: int, frames: int = 1) -> np.ndarray:
    """Pictures with structure at every scale (noise alone would be averaged away)."""
    coarse = RNG.integers(0, 256, (frames, 7, 9, 3), dtype=np.uint8)
    fine = RNG.integers(-40, 40, (frames, height, width, 3))
    big = np.stack([np.asarray(Image.fromarray(image).resize((width, height))) for image in coarse])
    return np.clip(big.astype(int) + fine, 0, 255).astype(np.uint8)


# ---- images


@pytest.mark.parametrize(
    ("height", "width"), [(180, 320), (321, 201), (64, 64), (50, 90), (224, 500), (720, 1281)]
)
def test_preprocessing_is_within_a_grey_level_of_pil(height: int, width: int):
    """OpenAI's transform: PIL bicubic on the short side, torchvision's centre crop, mean and std."""
    images = smooth(height, width, 2)
    pixels = Preprocess(64, 64)(images, "cpu").numpy()
    got = (pixels.transpose(0, 2, 3, 1) * np.array(STD) + np.array(MEAN)) * 255
    high, wide = (64, int(64 * width / height)) if height <= width else (int(64 * height / width), 64)
    left, top = round((wide - 64) / 2.0), round((high - 64) / 2.0)
    resized = [Image.fromarray(image).resize((wide, high), Image.Resampling.BICUBIC) for image in images]
    expected = np.stack([np.asarray(image.crop((left, top, left + 64, top + 64))) for image in resized])
    assert got.shape == expected.shape
    difference = np.abs(got - expected)
    assert difference.max() <= (
        1.01 if min(height, width) >= 64 else 2.01
    )  # enlarging noise: one more, rarely
    assert (difference > 1.01).mean() < 1e-3
    # what runs on a GPU, which has no uint8 kernel
    other = (
        in_two_passes(torch.from_numpy(images).permute(0, 3, 1, 2), (high, wide)).permute(0, 2, 3, 1).numpy()
    )
    assert np.abs(other.astype(int) - np.stack([np.asarray(image) for image in resized])).max() <= 1


def test_preprocessing_is_read_from_the_folder_and_told(encoder):
    fields = encoder.fields()
    assert fields["preprocess.mean"] == [0.5, 0.4, 0.3] and fields["preprocess.size"] == 32
    assert fields["preprocess.resample"] == "bicubic"
    pixels = encoder.preprocess(np.full((1, 32, 32, 3), 255, np.uint8), "cpu")
    assert pixels[0, :, 0, 0].tolist() == pytest.approx([0.5 / 0.2, 0.6 / 0.25, 0.7 / 0.3], abs=1e-5)


def test_image_features_are_the_models_own(encoder):
    """get_image_features, and not the state before its projection."""
    images = smooth(40, 60, 5)
    got = encoder.encode_images(images)
    pixels = encoder.preprocess(images, "cpu")
    with torch.inference_mode():
        state = encoder.model.vision_model(pixel_values=pixels).pooler_output
        expected = encoder.model.visual_projection(state).numpy()
    assert got.shape == (5, 24) and got.dtype == np.float32
    assert got == pytest.approx(expected, abs=1e-5)
    assert np.linalg.norm(got, axis=1) != pytest.approx(1, abs=0.01)  # raw


def test_compiled_every_batch_has_one_shape(clip_folder: Path, monkeypatch: pytest.MonkeyPatch):
    """torch.compile itself takes minutes, so a stand-in notes what the compiled model is given."""
    shapes: list[tuple[int, ...]] = []

    def stand_in(call, dynamic):
        assert dynamic is False
        return lambda pixels: shapes.append(tuple(pixels.shape)) or call(pixels)

    plain = load_encoder(str(clip_folder), device="cpu")
    monkeypatch.setattr(torch, "compile", stand_in)
    compiled = load_encoder(str(clip_folder), device="cpu", compile=True)
    images = smooth(40, 60, 2 * compiled.batch + 3)
    assert compiled.encode_images(images) == pytest.approx(plain.encode_images(images), abs=1e-5)
    assert set(shapes) == {(compiled.batch, 3, 32, 32)} and len(shapes) == 4  # the first is a trial

    def fails(call, dynamic):
        def first(pixels):  # torch.compile compiles at the first call
            raise RuntimeError("no compiler\nand much more")

        return first

    monkeypatch.setattr(torch, "compile", fails)
    with pytest.raises(StepclipError, match=r"torch\.compile does not work here: no compiler") as caught:
        load_encoder(str(clip_folder), device="cpu", compile=True)
    assert "without --compile" in caught.value.run


def test_quick_gelu_in_place_is_the_models_own_to_the_last_bit(clip_folder: Path):
    from transformers import CLIPModel

    encoder = load_encoder(str(clip_folder), device="cpu")
    model = CLIPModel.from_pretrained(clip_folder, dtype=torch.float32).eval()
    assert model.config.vision_config.hidden_act == "quick_gelu"
    kept = [type(layer.mlp.activation_fn).__name__ for layer in encoder.model.vision_model.encoder.layers]
    assert set(kept) == {"_QuickGELU"}
    pixels = encoder.preprocess(smooth(32, 32, 5), "cpu")
    with torch.inference_mode():
        expected = model.get_image_features(pixel_values=pixels).pooler_output
        assert torch.equal(encoder.model.get_image_features(pixel_values=pixels).pooler_output, expected)


def test_batching_changes_nothing(encoder):
    images = smooth(32, 32, 9)
    whole = encoder.encode_images(images)
    size, threads = encoder.batch, torch.get_num_threads()
    encoder.batch = 4
    assert encoder.encode_images(images) == pytest.approx(whole, abs=1e-5)
    torch.set_num_threads(3)  # several batches at once
    assert np.array_equal(encoder.encode_images(images), encoder.encode_images(images))
    assert encoder.encode_images(images) == pytest.approx(whole, abs=1e-5)
    assert torch.get_num_threads() == 3
    torch.set_num_threads(threads)
    encoder.batch = size
    images.flags.writeable = False  # as they come out of a decoding process
    assert encoder.encode_images(images) == pytest.approx(whole, abs=1e-5)
    assert encoder.encode_images(images[:0]).shape == (0, 24)


def test_images_of_another_kind_are_refused(encoder):
    for wrong in (
        np.zeros((2, 32, 32, 3), np.float32),
        np.zeros((32, 32, 3), np.uint8),
        np.zeros((2, 3, 32, 32), np.uint8),
    ):
        with pytest.raises(StepclipError, match="images of shape"):
            encoder.encode_images(wrong)


# ---- texts


def test_text_features_are_the_models_own_and_padding_changes_nothing(encoder):
    """Alone, in company of longer texts, and by get_text_features with padding and mask: all the same."""
    texts = ["stir the red beaker", "take up", "pour the blue liquid into the green flask"]
    together = encoder.encode_texts(texts)
    alone = np.concatenate([encoder.encode_texts([text]) for text in texts])
    assert together == pytest.approx(alone, abs=1e-5)
    batch = encoder.tokenizer(texts, padding=True, return_tensors="pt")
    with torch.inference_mode():
        own = encoder.model.get_text_features(
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]
        ).pooler_output.numpy()
    assert together == pytest.approx(own, abs=1e-5)
    assert np.abs(together[0] - together[1]).max() > 0.01


@pytest.mark.parametrize("end", [2, 7])
def test_a_config_with_another_end_token(clip_folder: Path, tmp_path: Path, end: int):
    """transformers would read the feature at the highest id (2: old configs) or the first token (7)."""
    folder = shutil.copytree(clip_folder, tmp_path / "old")
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["eos_token_id"] = end
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(StepclipError, match=f"eos_token_id {end}.* its tokenizer's is 3"):
        load_encoder(str(folder))


def test_long_texts_are_counted_whole_and_cut_with_their_end_kept(encoder, tools: SimpleNamespace):
    words = ["stir"] * 30
    assert encoder.token_counts([" ".join(words), "stir"]) == [32, 3]
    assert encoder.context == 16
    cut = encoder.encode_texts([" ".join(words)])
    assert cut == pytest.approx(encoder.encode_texts([" ".join(words[:14])]), abs=1e-5)


def test_texts_are_cleaned():
    assert clean("stir  the\tcaf&eacute; &amp;amp; tea ") == "stir the café & tea"
    assert clean("donâ€™t stir") == "don't stir"


# ---- precision, device


def test_precision():
    assert resolve_precision("auto", "cuda:0", 10) == "bf16"
    assert resolve_precision("auto", "cpu", 1000) == "fp32"
    with pytest.raises(StepclipError, match="did you mean 'bf16'"):
        resolve_precision("bf61", "cpu", 1)
    with pytest.raises(StepclipError, match="device 'tpu'"):
        resolve_device("tpu")


def test_bf16_is_close_and_told(clip_folder: Path, encoder):
    half = load_encoder(str(clip_folder), device="cpu", precision="bf16")
    images = smooth(32, 32, 3)
    a, b = encoder.encode_images(images), half.encode_images(images)
    cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    assert cosine.min() > 0.999
    assert half.fields() != encoder.fields() and half.fields()["encoder.precision"] == "bf16"
    assert half.encode_texts(["stir"]).dtype == np.float32


# ---- folders


def test_the_weights_are_in_the_fingerprint(
    clip_folder: Path, tmp_path: Path, tools: SimpleNamespace, encoder
):
    same = load_encoder(str(shutil.copytree(clip_folder, tmp_path / clip_folder.name)))
    assert same.fields() == encoder.fields()
    other = load_encoder(str(tools.clip(tmp_path / "other", seed=1)))
    assert other.fields()["encoder.weights"] != encoder.fields()["encoder.weights"]


@pytest.mark.parametrize(
    ("break_it", "says"),
    [
        (lambda folder: (folder / "model.safetensors").unlink(), "holds no weights"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"junk" * 9), "cannot be loaded"),
        (lambda folder: (folder / "config.json").unlink(), "cannot be loaded"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "cannot be loaded|tokenizer"),
        (
            lambda folder: (folder / "preprocessor_config.json").write_text('{"size": 48, "crop_size": 48}'),
            "48 pixels",
        ),
        (lambda folder: (folder / "preprocessor_config.json").write_text('{"resample": 0}'), "method 0"),
    ],
)
def test_a_folder_that_is_not_right(clip_folder: Path, tmp_path: Path, break_it, says: str):
    folder = shutil.copytree(clip_folder, tmp_path / "broken")
    break_it(folder)
    with pytest.raises(StepclipError, match=says):
        load_encoder(str(folder))


def test_weights_that_are_missing_are_not_made_up(clip_folder: Path, tmp_path: Path):
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(clip_folder, tmp_path / "less")
    state = load_file(folder / "model.safetensors")
    del state["visual_projection.weight"]
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(StepclipError, match=r"lacks 1 of the model's weights"):
        load_encoder(str(folder))


# ---- names


@pytest.mark.parametrize("name", ["ViT-B/32", "openai/clip-vit-base-patch16"])
def test_absent_and_offline_fails_at_once_and_says_how(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    began = time.monotonic()
    with pytest.raises(StepclipError) as caught:
        load_encoder(name)
    assert time.monotonic() - began < 5
    assert NAMES.get(name, name) in str(caught.value) and "hf download" in caught.value.run


def test_an_unreachable_hub_is_told_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    from huggingface_hub import constants

    from stepclip.extract.encoders import transformers_clip

    def unreachable(name: str) -> set[str]:
        raise ConnectionError("no route")

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(transformers_clip, "_remote_files", unreachable)
    with pytest.raises(StepclipError, match="cannot be reached: ConnectionError: no route"):
        load_encoder("someone/some-clip")


def test_names_that_are_none():
    with pytest.raises(StepclipError, match="did you mean 'ViT-B/16'"):
        load_encoder("ViT-B-16")
    with pytest.raises(StepclipError, match="no encoder"):
        load_encoder("/no/such/folder")


def test_embedded():
    if not (EMBEDDED / "config.json").is_file():
        pytest.skip("the embedded encoder is not made yet")
    encoder = load_encoder()
    images = encoder.encode_images(np.zeros((2, 112, 112, 3), np.uint8))
    texts = encoder.encode_texts(["pour the blue liquid into the beaker", "stir"])
    assert images.shape[1] == texts.shape[1] == encoder.dim
    assert np.isfinite(images).all() and np.abs(texts[0] - texts[1]).max() > 1e-3
    assert encoder.name == encoder.fields()["encoder.name"] == "embedded"


# ---- OpenAI's .pt files


def openai_layout(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The state dict as openai/CLIP's model.py names it: the inverse of the converter, written out."""
    own = {key: value.detach().clone() for key, value in model.state_dict().items()}
    state = {
        "logit_scale": own["logit_scale"],
        "text_projection": own["text_projection.weight"].T.contiguous(),
        "visual.proj": own["visual_projection.weight"].T.contiguous(),
        "positional_embedding": own["text_model.embeddings.position_embedding.weight"],
        "token_embedding.weight": own["text_model.embeddings.token_embedding.weight"],
        "ln_final.weight": own["text_model.final_layer_norm.weight"],
        "ln_final.bias": own["text_model.final_layer_norm.bias"],
        "visual.class_embedding": own["vision_model.embeddings.class_embedding"],
        "visual.positional_embedding": own["vision_model.embeddings.position_embedding.weight"],
        "visual.conv1.weight": own["vision_model.embeddings.patch_embedding.weight"],
        "visual.ln_pre.weight": own["vision_model.pre_layrnorm.weight"],
        "visual.ln_pre.bias": own["vision_model.pre_layrnorm.bias"],
        "visual.ln_post.weight": own["vision_model.post_layernorm.weight"],
        "visual.ln_post.bias": own["vision_model.post_layernorm.bias"],
    }
    for tower, prefix in (("text_model", "transformer"), ("vision_model", "visual.transformer")):
        for layer in range(2):
            theirs, ours = f"{prefix}.resblocks.{layer}.", f"{tower}.encoder.layers.{layer}."
            for kind in ("weight", "bias"):
                parts = [own[f"{ours}self_attn.{name}_proj.{kind}"] for name in ("q", "k", "v")]
                state[f"{theirs}attn.in_proj_{kind}"] = torch.cat(parts)
                state[f"{theirs}attn.out_proj.{kind}"] = own[f"{ours}self_attn.out_proj.{kind}"]
                state[f"{theirs}mlp.c_fc.{kind}"] = own[f"{ours}mlp.fc1.{kind}"]
                state[f"{theirs}mlp.c_proj.{kind}"] = own[f"{ours}mlp.fc2.{kind}"]
                state[f"{theirs}ln_1.{kind}"] = own[f"{ours}layer_norm1.{kind}"]
                state[f"{theirs}ln_2.{kind}"] = own[f"{ours}layer_norm2.{kind}"]
    return state


def scripted(state: dict[str, torch.Tensor]) -> torch.jit.ScriptModule:
    """A TorchScript module with that state dict, with the three sizes that OpenAI's archives carry too."""
    root = torch.nn.Module()
    sizes = {key: torch.tensor(1) for key in ("input_resolution", "context_length", "vocab_size")}
    for key, value in {**state, **sizes}.items():
        *path, leaf = key.split(".")
        module = root
        for name in path:
            if not hasattr(module, name):
                module.add_module(name, torch.nn.Module())
            module = getattr(module, name)
        module.register_buffer(leaf, value)
    root.forward = lambda: None  # type: ignore[method-assign]
    return torch.jit.script(_Empty(root))


class _Empty(torch.nn.Module):
    def __init__(self, root: torch.nn.Module) -> None:
        super().__init__()
        for name, module in root.named_children():
            self.add_module(name, module)
        for name, buffer in root.named_buffers(recurse=False):
            self.register_buffer(name, buffer)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


@pytest.fixture(scope="module")
def openai_model(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A random CLIPModel of OpenAI's shape (heads of 64), and a small list of merges in OpenAI's format."""
    from transformers import CLIPConfig, CLIPModel

    merges = ["s t", "st i", "sti r</w>", "t a", "ta k", "tak e</w>", "u p</w>"]
    vocabulary = 512 + len(merges) + 2
    torch.manual_seed(3)
    tower = {"num_hidden_layers": 2, "hidden_act": "quick_gelu", "projection_dim": 20}
    model = CLIPModel(
        CLIPConfig(
            projection_dim=20,
            text_config={
                **tower,
                "hidden_size": 64,
                "intermediate_size": 256,
                "num_attention_heads": 1,
                "vocab_size": vocabulary,
                "max_position_embeddings": 12,
                "bos_token_id": vocabulary - 2,
                "eos_token_id": vocabulary - 1,
            },
            vision_config={
                **tower,
                "hidden_size": 128,
                "intermediate_size": 512,
                "num_attention_heads": 2,
                "image_size": 32,
                "patch_size": 8,
            },
        )
    ).eval()
    folder = tmp_path_factory.mktemp("openai")
    with gzip.open(folder / BPE, "wt", encoding="utf-8") as file:
        file.write("\n".join(["#version: 0.2", *merges, "i g", "n o"]))  # more merges than the model knows
    return SimpleNamespace(model=model, folder=folder, vocabulary=vocabulary)


@pytest.mark.parametrize("form", ["script", "state", "nested", "half"])
def test_an_openai_pt_file_gives_the_features_of_the_model(openai_model: SimpleNamespace, form: str):
    state = openai_layout(openai_model.model)
    file = openai_model.folder / f"{form}.pt"
    if form == "script":
        scripted(state).save(str(file))
    elif form == "half":
        torch.save({key: value.half() for key, value in state.items()}, file)
    else:
        torch.save({"state_dict": state} if form == "nested" else state, file)
    encoder = load_encoder(str(file), device="cpu")
    assert (encoder.dim, encoder.image_size, encoder.context) == (20, 32, 12)
    images = smooth(32, 32, 3)
    ids = torch.tensor([encoder.tokenizer("stir take up")["input_ids"]])
    with torch.inference_mode():
        pixels = Preprocess(32, 32)(images, "cpu")
        expected = openai_model.model.get_image_features(pixel_values=pixels).pooler_output.numpy()
        text = openai_model.model.get_text_features(input_ids=ids).pooler_output.numpy()
    tolerance = 2e-2 if form == "half" else 1e-5
    assert encoder.encode_images(images) == pytest.approx(expected, abs=tolerance)
    assert encoder.encode_texts(["stir take up"]) == pytest.approx(text, abs=tolerance)


def test_openais_vocabulary(openai_model: SimpleNamespace):
    """Numbers by OpenAI's rule: 256 bytes, 256 bytes that end a word, the merges, start, end."""
    torch.save(openai_layout(openai_model.model), openai_model.folder / "tokens.pt")
    tokenizer = load_encoder(str(openai_model.folder / "tokens.pt")).tokenizer
    start, end = openai_model.vocabulary - 2, openai_model.vocabulary - 1
    assert tokenizer("stir")["input_ids"] == [start, 514, end]
    assert tokenizer("Stir take up!")["input_ids"] == [start, 514, 517, 518, 256 + ord("!") - 33, end]
    assert tokenizer("ab")["input_ids"] == [start, ord("a") - 33, 256 + ord("b") - 33, end]


def test_a_pt_file_without_a_tokenizer(
    openai_model: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    torch.save(openai_layout(openai_model.model), tmp_path / "alone.pt")
    with pytest.raises(StepclipError, match="no tokenizer") as caught:
        load_encoder(str(tmp_path / "alone.pt"))
    assert BPE in caught.value.run


@pytest.mark.parametrize("content", ["junk", "cut", "other", "resnet", "key"])
def test_a_pt_file_that_is_not_right(openai_model: SimpleNamespace, tmp_path: Path, content: str):
    file = tmp_path / "wrong.pt"
    state = openai_layout(openai_model.model)
    if content == "junk":
        file.write_bytes(b"junk" * 100)
    elif content == "cut":
        torch.save(state, file)
        file.write_bytes(file.read_bytes()[:5000])
    elif content == "other":
        torch.save({"weight": torch.zeros(3)}, file)
    elif content == "resnet":
        torch.save({"visual.layer1.0.conv1.weight": torch.zeros(3)}, file)
    else:
        torch.save({**state, "transformer.resblocks.0.extra.weight": torch.zeros(3)}, file)
    with pytest.raises(StepclipError, match=r"wrong\.pt"):
        load_encoder(str(file))


# ---- names


def test_names_are_directions_of_their_own():
    """Whatever the process and the order; no image of them can be asked for."""
    encoder = load_encoder("names")
    found = encoder.encode_texts(["take", "put", "P03", " Take\n", "take, put"])
    np.testing.assert_allclose(np.linalg.norm(found[:4], axis=1), 1, atol=1e-6)
    assert np.abs(found[:3] @ found[:3].T - np.eye(3)).max() < 0.3
    np.testing.assert_array_equal(found[0], found[3])
    np.testing.assert_allclose(found[4], found[:2].mean(0), atol=1e-7)
    np.testing.assert_allclose(found[0, :3], [-0.0535, -0.0909, 0.0155], atol=1e-4)
    with pytest.raises(StepclipError, match="knows texts alone") as caught:
        fingerprint_of(encoder)
    assert "stepclip cache import" in caught.value.run


# ---- the `clip` package


def test_the_clip_package_is_told_when_it_cannot_be_used(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "clip", None)
    with pytest.raises(StepclipError, match="cannot be used here") as caught:
        load_encoder("clip:ViT-B/32")
    assert "openai-clip" in caught.value.run
    assert not {backend.name: backend.usable for backend in backends()}["clip"]


def test_the_other_project_of_that_name_is_not_taken(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "clip", ModuleType("clip"))
    with pytest.raises(StepclipError, match="another project"):
        load_encoder("clip:ViT-B/32")


def test_the_clip_package_as_backend(monkeypatch: pytest.MonkeyPatch):
    """Through a stand-in with the package's functions: what is passed to it and what comes back."""

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.visual = SimpleNamespace(input_resolution=16)
            self.context_length = 8
            self.text_projection = torch.nn.Parameter(torch.ones(4, 5))

        def encode_image(self, pixels: torch.Tensor) -> torch.Tensor:
            return pixels.mean((2, 3)) @ torch.ones(3, 5)

        def encode_text(self, tokens: torch.Tensor) -> torch.Tensor:
            return tokens.sum(1, keepdim=True).float().repeat(1, 5)

    def tokenize(texts: list[str], context_length: int = 77, truncate: bool = False) -> torch.Tensor:
        ids = torch.zeros(len(texts), context_length, dtype=torch.int64)
        for row, text in enumerate(texts):
            tokens = [90, *(len(word) for word in text.split()), 91]
            if len(tokens) > context_length:
                assert truncate
                tokens = [*tokens[: context_length - 1], 91]
            ids[row, : len(tokens)] = torch.tensor(tokens)
        return ids

    clip = ModuleType("clip")
    clip.available_models = lambda: ["ViT-B/32"]
    clip.load = lambda name, device, jit, download_root: (Model(), None)
    clip.tokenize = tokenize
    monkeypatch.setitem(sys.modules, "clip", clip)
    encoder = load_encoder("clip:ViT-B/32", device="cpu")
    images = smooth(16, 16, 2)
    expected = Preprocess(16, 16)(images, "cpu").mean((2, 3)).sum(1)
    assert encoder.encode_images(images)[:, 2] == pytest.approx(expected.numpy(), abs=1e-4)
    assert encoder.token_counts(["a b", " ".join("a" * 20)]) == [4, 22]
    assert encoder.encode_texts(["a &amp; b"])[0, 0] == 90 + 1 + 1 + 1 + 91
    assert (
        encoder.fields()["encoder.name"] == "clip:ViT-B/32" and len(encoder.fields()["encoder.weights"]) == 64
    )
    with pytest.raises(StepclipError, match="did you mean 'ViT-B/32'"):
        load_encoder("clip:ViT-B/3")
