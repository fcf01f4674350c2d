"""OpenAI's original .pt files: their state dict brought into transformers' CLIPModel, and their tokenizer.

The layout is that of openai/CLIP `clip/model.py`; every key maps one to one, only the joint q, k, v
projection is cut in three and the two output projections are transposed.
"""

from __future__ import annotations

import gzip
import math
from importlib import util
from pathlib import Path
from typing import Any

import torch

from ...cache.errors import StepclipError
from .base import sha256_of
from .preprocess import Preprocess
from .transformers_clip import TransformersCLIP

BPE = "bpe_simple_vocab_16e6.txt.gz"
HEAD = 64  # width of an attention head in every model of OpenAI's
START, END = "<|startoftext|>", "<|endoftext|>"
HUB = ("openai/clip-vit-base-patch32", "openai/clip-vit-base-patch16", "openai/clip-vit-large-patch14")

_BLOCK = {
    "attn.out_proj": "self_attn.out_proj",
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
_SINGLE = {
    "logit_scale": "logit_scale",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.ln_pre.weight": "vision_model.pre_layrnorm.weight",
    "visual.ln_pre.bias": "vision_model.pre_layrnorm.bias",
    "visual.ln_post.weight": "vision_model.post_layernorm.weight",
    "visual.ln_post.bias": "vision_model.post_layernorm.bias",
}
_TRANSPOSED = {"text_projection": "text_projection.weight", "visual.proj": "visual_projection.weight"}
_SIZES = {
    "input_resolution",
    "context_length",
    "vocab_size",
}  # numbers that the archive carries beside the weights


def load_openai_pt(path: Path, *, device: str = "auto", precision: str = "fp32") -> TransformersCLIP:
    """An encoder from an OpenAI .pt file (TorchScript or saved state dict); StepclipError if it is none."""
    from transformers import CLIPConfig, CLIPModel

    state = read_state(path)
    config = infer_config(state, path)
    model = CLIPModel(CLIPConfig(**config))
    try:
        model.load_state_dict(convert(state), strict=True)
    except (RuntimeError, KeyError) as error:
        raise StepclipError(
            f"{path} does not hold the weights of a CLIP model: {str(error)[:300]}", "OpenAI's ViT .pt file"
        ) from error
    size = config["vision_config"]["image_size"]
    return TransformersCLIP(
        model,
        find_tokenizer(path, config["text_config"]["vocab_size"]),
        Preprocess(size, size),
        name=path.stem,
        weights=sha256_of([path]),
        device=device,
        precision=precision,
    )


def read_state(path: Path) -> dict[str, torch.Tensor]:
    """The state dict of a TorchScript archive or a file of torch.save, float32, without its three sizes."""
    try:
        state: Any = torch.jit.load(str(path), map_location="cpu").state_dict()
    except RuntimeError:
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # unpickling raises of many kinds
            raise StepclipError(
                f"{path} is neither a TorchScript archive nor a state dict: {type(error).__name__}",
                "one of OpenAI's .pt files",
                "download it again if it may be cut",
            ) from error
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise StepclipError(f"{path} holds no state dict", "one of OpenAI's .pt files")
    return {str(key): value.float() for key, value in state.items() if key not in _SIZES}


def infer_config(state: dict[str, torch.Tensor], path: Path) -> dict[str, Any]:
    """The arguments of CLIPConfig, read off the shapes of the weights."""
    if "visual.layer1.0.conv1.weight" in state:
        raise StepclipError(
            f"{path} is a ResNet CLIP", "a ViT (ViT-B/32, ViT-B/16, ViT-L/14, ViT-L/14@336px)"
        )
    try:
        vision, patch = state["visual.conv1.weight"].shape[0], state["visual.conv1.weight"].shape[-1]
        grid = math.isqrt(state["visual.positional_embedding"].shape[0] - 1)
        text, dim = state["text_projection"].shape
        context, vocabulary = state["positional_embedding"].shape[0], state["token_embedding.weight"].shape[0]
    except (KeyError, ValueError, IndexError) as error:
        raise StepclipError(
            f"{path} lacks weights of a CLIP model: {error}", "one of OpenAI's ViT .pt files"
        ) from error
    activation = {"hidden_act": "quick_gelu", "layer_norm_eps": 1e-5}
    return {
        "projection_dim": dim,
        "text_config": {
            "vocab_size": vocabulary,
            "hidden_size": text,
            "intermediate_size": 4 * text,
            "num_hidden_layers": _layers(state, "transformer.resblocks."),
            "num_attention_heads": text // HEAD,
            "max_position_embeddings": context,
            "projection_dim": dim,
            "bos_token_id": vocabulary - 2,
            "eos_token_id": vocabulary - 1,
            "pad_token_id": vocabulary - 1,
            **activation,
        },
        "vision_config": {
            "hidden_size": vision,
            "intermediate_size": 4 * vision,
            "num_hidden_layers": _layers(state, "visual.transformer.resblocks."),
            "num_attention_heads": vision // HEAD,
            "image_size": grid * patch,
            "patch_size": patch,
            "projection_dim": dim,
            **activation,
        },
    }


def convert(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """OpenAI's state dict with the keys of CLIPModel. KeyError on a key that is not of OpenAI's layout."""
    converted = {}
    for key, value in state.items():
        if key in _SINGLE:
            converted[_SINGLE[key]] = value
        elif key in _TRANSPOSED:
            converted[_TRANSPOSED[key]] = value.T.contiguous()
        else:
            tower = "vision_model" if key.startswith("visual.") else "text_model"
            layer, rest = _place(key)
            prefix = f"{tower}.encoder.layers.{layer}."
            if rest.startswith("attn.in_proj_"):
                kind = rest.removeprefix("attn.in_proj_")
                for name, part in zip("qkv", value.chunk(3), strict=True):
                    converted[f"{prefix}self_attn.{name}_proj.{kind}"] = part
            else:
                name, _, kind = rest.rpartition(".")
                converted[f"{prefix}{_BLOCK[name]}.{kind}"] = value
    return converted


def find_tokenizer(path: Path, vocabulary: int) -> Any:
    """OpenAI's tokenizer: from files beside the .pt, from a CLIP package, or from a cached hub model.

    `vocabulary`: the number of tokens that the model knows. StepclipError where no source is found.
    """
    from transformers import AutoTokenizer

    folder = path.parent
    if (folder / "tokenizer.json").is_file() or (folder / "vocab.json").is_file():
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)
    packages = [
        Path(place)
        for spec in (util.find_spec("clip"), util.find_spec("open_clip"))
        for place in (spec.submodule_search_locations or () if spec else ())
    ]
    for source in (folder, *packages):
        if (source / BPE).is_file():
            return tokenizer_from_bpe(source / BPE, vocabulary)
    for name in HUB:
        if cached := _cached(name):
            return AutoTokenizer.from_pretrained(cached, local_files_only=True)
    raise StepclipError(
        f"{path} has no tokenizer: its vocabulary is not in the file",
        f"{BPE} (from OpenAI's CLIP repository) in {folder}, or the tokenizer of {HUB[0]} in the hub's cache",
        f"put {BPE} beside the .pt file, or use --encoder {HUB[0]}",
    )


def tokenizer_from_bpe(path: Path, vocabulary: int) -> Any:
    """CLIP's tokenizer from OpenAI's list of merges (after a header line), for a vocabulary of that size."""
    from transformers import CLIPTokenizer

    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            lines = file.read().split("\n")[1 : vocabulary - 512 - 2 + 1]
        merges = [tuple(line.split()) for line in lines]
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise StepclipError(f"{path} cannot be read: {error}", "OpenAI's list of merges, gzipped") from error
    if len(merges) != vocabulary - 514 or any(len(merge) != 2 for merge in merges):
        raise StepclipError(f"{path} holds {len(merges)} merges", f"{vocabulary - 514}, two parts each")
    letters = _byte_letters()
    words = [
        *letters,
        *(letter + "</w>" for letter in letters),
        *("".join(merge) for merge in merges),
        START,
        END,
    ]
    tokenizer: Any = CLIPTokenizer
    return tokenizer(vocab={word: number for number, word in enumerate(words)}, merges=merges)


def _byte_letters() -> list[str]:
    """The letter that stands for each byte in byte-level BPE (GPT-2), in the order of OpenAI's vocabulary."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    return [chr(byte) for byte in plain] + [chr(256 + place) for place in range(len(others))]


def _cached(name: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    for file in ("tokenizer.json", "vocab.json"):
        found = try_to_load_from_cache(name, file)
        if isinstance(found, str):
            return Path(found).parent
    return None


def _layers(state: dict[str, torch.Tensor], prefix: str) -> int:
    return len({key[len(prefix) :].split(".")[0] for key in state if key.startswith(prefix)})


def _place(key: str) -> tuple[str, str]:
    """Layer number and the rest of a key such as visual.transformer.resblocks.3.mlp.c_fc.bias."""
    _, found, rest = key.partition("transformer.resblocks.")
    layer, _, name = rest.partition(".")
    if not found:
        raise KeyError(key)
    return layer, name
