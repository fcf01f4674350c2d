"""CLIP through transformers: any CLIPModel with its tokenizer, from a local folder or the hub."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...cache.errors import StepclipError
from .base import autocast, clean, compiled, fills, in_threads, resolve_device, resolve_precision, sha256_of
from .preprocess import Preprocess

WEIGHTS = ("model.safetensors", "pytorch_model.bin")
FILES = ("config.json", "preprocessor_config.json", "vocab.json", "merges.txt")
_log = logging.getLogger("stepclip")


class TransformersCLIP:
    """A CLIPModel, its tokenizer and its preprocessing, as an Encoder."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        preprocess: Preprocess,
        *,
        name: str,
        weights: str,
        device: str = "auto",
        precision: str = "fp32",
    ) -> None:
        self.name, self.weights, self.preprocess, self.tokenizer = name, weights, preprocess, tokenizer
        self.device = resolve_device(device)
        parameters = sum(parameter.numel() for parameter in model.parameters())
        self.precision = resolve_precision(precision, self.device, parameters)
        self.model = model.eval().requires_grad_(False).to(self.device, torch.float32)
        in_place(self.model)
        self.dim = int(model.config.projection_dim)
        self.image_size = preprocess.crop
        self.context = int(model.config.text_config.max_position_embeddings)
        self.batch = (
            256 if self.device != "cpu" else 16
        )  # what lies between two layers stays in a core's cache
        self.at_once = fills(self.device, self.batch)
        self._end = self._checked_end()
        self._vision: Callable[[torch.Tensor], torch.Tensor] = self._pooled
        self._fixed = False

    @classmethod
    def from_folder(
        cls, folder: Path, *, name: str = "", device: str = "auto", precision: str = "fp32"
    ) -> TransformersCLIP:
        """Load a folder that `save_pretrained` of model and tokenizer wrote. StepclipError if it is none."""
        from transformers import AutoTokenizer, CLIPModel

        files = weight_files(folder)
        try:
            with quiet():
                loaded: Any = CLIPModel.from_pretrained(
                    folder, local_files_only=True, dtype=torch.float32, output_loading_info=True
                )
                model, report = loaded
                tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        except Exception as error:  # transformers raises many kinds for a folder that is not right
            raise StepclipError(
                f"{folder} cannot be loaded as a CLIP model: {_short(error)}",
                "a folder with config.json, model.safetensors, tokenizer.json, preprocessor_config.json",
            ) from error
        if missing := sorted(report["missing_keys"]):
            raise StepclipError(
                f"{folder} lacks {len(missing)} of the model's weights ({missing[0]}, ...)",
                "all weights of a CLIPModel",
            )
        preprocess = Preprocess.read(
            folder / "preprocessor_config.json", model.config.vision_config.image_size
        )
        return cls(
            model,
            tokenizer,
            preprocess,
            name=name or str(folder),
            weights=sha256_of(files),
            device=device,
            precision=precision,
        )

    def fields(self) -> dict[str, Any]:
        """For the fingerprint. Of the name its last part only: a hub model in a folder stays the same."""
        return {
            "encoder.name": self.name.rstrip("/").rsplit("/", 1)[-1],
            "encoder.weights": self.weights,
            "encoder.precision": self.precision,
            "encoder.context": self.context,
            **self.preprocess.fields(),
        }

    def encode_images(self, images: np.ndarray) -> np.ndarray:
        """(T, H, W, 3) uint8 RGB to (T, D) float32, raw."""
        batches = [images[first : first + self.batch] for first in range(0, len(images), self.batch)]
        parts = (
            in_threads(self._encode_batch, batches)
            if self.device == "cpu" and not self._fixed
            else map(self._encode_batch, batches)
        )
        return np.concatenate([np.zeros((0, self.dim), np.float32), *parts])

    def compile(self) -> None:
        """Run images through torch.compile, every batch filled up to one shape. StepclipError if it fails."""
        side = self.image_size
        pixels = torch.zeros(self.batch, 3, side, side, device=self.device)
        self._vision, self._fixed = compiled(self._pooled, pixels), True

    def _pooled(self, pixels: torch.Tensor) -> torch.Tensor:
        with autocast(self.device, self.precision):
            features: torch.Tensor = self.model.get_image_features(pixel_values=pixels).pooler_output
        return features

    @torch.inference_mode()
    def _encode_batch(self, images: np.ndarray) -> np.ndarray:
        pixels, count = self.preprocess(images, self.device), len(images)
        if self._fixed and count < self.batch:
            pixels = torch.cat([pixels, pixels.new_zeros(self.batch - count, *pixels.shape[1:])])
        encoded: np.ndarray = self._vision(pixels)[:count].float().cpu().numpy()
        return encoded

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        """n texts to (n, D) float32, raw; the state at the first end token, projected."""
        features = np.zeros((len(texts), self.dim), np.float32)
        tokens = [self._cut(ids) for ids in self._tokens(texts)]
        order = sorted(range(len(tokens)), key=lambda place: len(tokens[place]))  # alike lengths pad little
        batches = [order[first : first + self.batch] for first in range(0, len(order), self.batch)]
        groups = [[tokens[place] for place in places] for places in batches]
        parts = (
            in_threads(self._encode_tokens, groups, lone=True)
            if self.device == "cpu"
            else map(self._encode_tokens, groups)
        )
        for places, part in zip(batches, parts, strict=True):
            features[places] = part
        return features

    @torch.inference_mode()
    def _encode_tokens(self, tokens: Sequence[list[int]]) -> np.ndarray:
        """The features of some texts by their tokens, the longest last."""
        # attention is causal, so what fills up behind the end token changes nothing before it
        ids = torch.full((len(tokens), len(tokens[-1])), self._end)
        for row, each in enumerate(tokens):
            ids[row, : len(each)] = torch.tensor(each)
        ends = (ids == self._end).int().argmax(dim=1)
        with autocast(self.device, self.precision):
            states = self.model.text_model(input_ids=ids.to(self.device)).last_hidden_state
            pooled = states[torch.arange(len(tokens)), ends.to(self.device)]
            projected: torch.Tensor = self.model.text_projection(pooled)
        encoded: np.ndarray = projected.float().cpu().numpy()
        return encoded

    def token_counts(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, start and end included, before it is cut at `context`."""
        return [len(ids) for ids in self._tokens(texts)]

    def _tokens(self, texts: Sequence[str]) -> list[list[int]]:
        if not texts:
            return []
        cleaned = [clean(text) for text in texts]
        ids: list[list[int]] = self.tokenizer(cleaned, truncation=False, padding=False, verbose=False)[
            "input_ids"
        ]
        return ids

    def _cut(self, ids: list[int]) -> list[int]:
        return ids if len(ids) <= self.context else [*ids[: self.context - 1], self._end]

    def _checked_end(self) -> int:
        """The id of the end token, where a text's feature is read. StepclipError if it misfits the model."""
        end, ids = self.tokenizer.eos_token_id, self._tokens(["a"])[0]
        known = self.model.config.text_config.vocab_size
        if end is None or not ids or ids[-1] != end or max(ids) >= known:
            raise StepclipError(
                f"the tokenizer of {self.name} makes {ids} of 'a', its end token is {end}",
                f"texts that end with the end token, ids below {known}",
            )
        told = self.model.config.text_config.eos_token_id
        # old configs say 2 of every model; transformers then reads at the highest id, OpenAI's end token
        if told != end and not (told == 2 and end == known - 1):
            raise StepclipError(
                f"the config of {self.name} has eos_token_id {told}, its tokenizer's is {end}",
                "one end token, at which the feature of a text is read",
            )
        if end == 2 != known - 1:
            raise StepclipError(
                f"{self.name} has the end token 2, for which transformers reads a text's feature elsewhere",
                "another id for the end token (2 is kept for old configs)",
            )
        return int(end)


class _QuickGELU(torch.nn.Module):
    """x sigmoid(1.702 x), to the last digit as transformers has it, with one new tensor instead of three.

    A CPU spends a quarter of a small CLIP's time on them.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.mul(x, 1.702).sigmoid_().mul_(x)


def in_place(model: torch.nn.Module) -> None:
    """Let every QuickGELU of a model that is not trained work in place."""
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if type(child).__name__ == "QuickGELUActivation":
                setattr(parent, name, _QuickGELU())


def weight_files(folder: Path) -> list[Path]:
    """The weight files of a model folder, sorted (one, or its shards)."""
    for name in WEIGHTS:
        if (folder / name).is_file():
            return [folder / name]
        stem, suffix = name.rsplit(".", 1)
        if shards := sorted(folder.glob(f"{stem}-*-of-*.{suffix}")):
            return shards
    there = sorted(entry.name for entry in folder.iterdir())[:8] if folder.is_dir() else []
    raise StepclipError(
        f"the folder {folder} holds no weights; found: {', '.join(there) or 'nothing'}",
        f"one of {' or '.join(WEIGHTS)} beside config.json",
    )


def hub_folder(name: str) -> Path:
    """The local folder of a hub model: from the cache, else downloaded; else an error at once.

    Offline (HF_HUB_OFFLINE=1) only the cache is looked at. Online one request with a short limit asks for the
    list of files first, so that a machine without a network answers in seconds and not after a minute of
    retries.
    """
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError, RepositoryNotFoundError

    how = (
        f"on a machine with a network `hf download {name} --local-dir {name.split('/')[-1]}`, then "
        f"--encoder {name.split('/')[-1]}; or --encoder embedded, which needs no download"
    )
    try:
        folder = Path(snapshot_download(name, local_files_only=True))
        if (folder / "config.json").is_file():
            weight_files(folder)
            return folder
    except (LocalEntryNotFoundError, ValueError, OSError, StepclipError):
        pass
    if constants.HF_HUB_OFFLINE:
        raise StepclipError(
            f"the encoder {name} is not on this machine, and HF_HUB_OFFLINE forbids to fetch it",
            "its weights",
            how,
        )
    try:
        files = _remote_files(name)
    except RepositoryNotFoundError as error:
        raise StepclipError(
            f"the hub has no model '{name}'", "a CLIP model, such as openai/clip-vit-base-patch16"
        ) from error
    except Exception as error:
        raise StepclipError(
            f"the encoder {name} is not on this machine, and the hub cannot be reached: {_short(error)}",
            "its weights",
            how,
        ) from error
    weights = next((weight for weight in WEIGHTS if weight in files), None)
    if weights is None:
        raise StepclipError(f"the hub's {name} holds no {' or '.join(WEIGHTS)}", "a model of transformers")
    _log.info("downloading %s", name)
    try:
        return Path(
            snapshot_download(name, allow_patterns=[weights, *FILES, "tokenizer*", "special_tokens_map.json"])
        )
    except Exception as error:
        raise StepclipError(f"the download of {name} failed: {_short(error)}", "its weights", how) from error


def _remote_files(name: str) -> set[str]:
    from huggingface_hub import HfApi

    return {sibling.rfilename for sibling in HfApi().model_info(name, timeout=5).siblings or ()}


def _short(error: BaseException) -> str:
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0][:200]}" if text else type(error).__name__


class quiet:
    """Loading bars and warnings of transformers held back, for the faults are raised as errors anyway."""

    def __enter__(self) -> None:
        from transformers.utils import logging as chatter

        self.chatter, self.level = chatter, chatter.get_verbosity()
        self.bar = chatter.is_progress_bar_enabled()
        chatter.set_verbosity_error()
        chatter.disable_progress_bar()

    def __exit__(self, *_: object) -> None:
        self.chatter.set_verbosity(self.level)
        if self.bar:
            self.chatter.enable_progress_bar()
