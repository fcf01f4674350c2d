"""The embedded encoder's parts: transformers' CLIP classes in a small size, with a tokenizer of its own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ...cache.errors import StepclipError
from ..encoders.preprocess import MEAN, STD
from ..encoders.transformers_clip import quiet
from .examples import CONTEXT, IMAGE, PATCH

START, END = "<|startoftext|>", "<|endoftext|>"
DIM = 256  # of the features


def make_tokenizer(texts: Sequence[str], folder: Path, size: int = 900) -> Any:
    """A lower-case byte-level BPE tokenizer of `size` tokens with CLIP's special ones, saved to `folder`."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE(unk_token=None))
    raw.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[START, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator(texts, trainer)
    raw.post_processor = processors.TemplateProcessing(
        single=f"{START} $A {END}",
        special_tokens=[(START, raw.token_to_id(START)), (END, raw.token_to_id(END))],
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=raw, bos_token=START, eos_token=END, pad_token=END, model_max_length=CONTEXT
    )
    fast.save_pretrained(folder)
    return fast


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer that `make_tokenizer` saved to `folder`."""
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast.from_pretrained(folder)


def make_model(vocabulary: int, end: int, width: int, layers: int) -> Any:
    """transformers' CLIPModel in a small size, random weights; `width` and `layers` of the image tower."""
    from transformers import CLIPConfig, CLIPModel

    text = {
        "vocab_size": vocabulary,
        "hidden_size": 192,
        "intermediate_size": 768,
        "num_hidden_layers": 4,
        "num_attention_heads": 3,
        "max_position_embeddings": CONTEXT,
        "bos_token_id": 0,
        "eos_token_id": end,
        "pad_token_id": end,
        "projection_dim": DIM,
    }
    vision = {
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": width // 64,
        "image_size": IMAGE,
        "patch_size": PATCH,
        "projection_dim": DIM,
    }
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=DIM))


def load_weights(model: Any, folder: Path) -> None:
    """Fills `model` with the weights of an encoder. Raises StepclipError where it has another shape."""
    from safetensors.torch import load_file

    weights = load_file(folder / "model.safetensors")
    try:
        model.load_state_dict({k: v.float() for k, v in weights.items()})
    except RuntimeError as error:
        raise StepclipError(
            f"the encoder in {folder} has another shape: {str(error).splitlines()[1].strip()}",
            "one that `stepclip encoder train` made with the same width and layers",
        ) from error


def save_model(model: Any, folder: Path) -> None:
    """Adds weights in half precision and the preprocessing to the tokenizer: a plain transformers folder."""
    preprocess = {
        "size": {"shortest_edge": IMAGE},
        "crop_size": {"height": IMAGE, "width": IMAGE},
        "do_resize": True,
        "do_center_crop": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_convert_rgb": True,
        "image_mean": MEAN,
        "image_std": STD,
        "resample": 3,
        "rescale_factor": 1 / 255,
        "image_processor_type": "CLIPImageProcessor",
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocess, indent=1) + "\n")
    with quiet():
        model.half().save_pretrained(folder)


def features(output: Any) -> Any:
    """The projected feature, whichever form the installed transformers returns it in."""
    return output if not hasattr(output, "pooler_output") else output.pooler_output


def normalise(x: torch.Tensor) -> torch.Tensor:
    """CLIP's normalisation of pictures (n, 3, H, W) in [0, 1]."""
    mean, std = torch.tensor(MEAN, device=x.device), torch.tensor(STD, device=x.device)
    return (x - mean[:, None, None]) / std[:, None, None]
