"""What an encoder is, and what all share: cleaning of text, device, precision, checksums of weights."""

from __future__ import annotations

import hashlib
import html
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ...cache.errors import StepclipError, nearest

PRECISIONS = ("auto", "fp32", "bf16", "fp16")
SMALL = 20_000_000  # parameters: below this bf16 gains nothing on a CPU
EMBEDDED = Path(__file__).parent / "embedded"


class Encoder(Protocol):
    """Images and texts to features of one space.

    dim: size of a feature D; image_size: pixels of a side; context: tokens of a text, start and end included.
    It may also say `batch`, how many images its model takes in one go, and `at_once`, how many keep its
    device at work: the engine gives it whole batches, so many at a time.
    """

    name: str
    dim: int
    image_size: int
    context: int
    device: str
    precision: str

    def fields(self) -> dict[str, Any]:
        """For the fingerprint: `encoder.*` (name, sha256 of weights, precision), `preprocess.*` resolved."""
        ...

    def encode_images(self, images: np.ndarray) -> np.ndarray:
        """(T, H, W, 3) uint8 RGB to (T, D) float32, raw (not normalised); resized and cropped inside."""
        ...

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        """n texts to (n, D) float32, raw. Texts are cleaned (`clean`) and cut at `context` tokens."""
        ...

    def token_counts(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, start and end included, before it is cut."""
        ...


def clean(text: str) -> str:
    """As OpenAI's tokenizer cleans: Unicode mended (ftfy), HTML unescaped twice, white space single."""
    import ftfy

    return " ".join(html.unescape(html.unescape(ftfy.fix_text(text))).split())


def resolve_device(device: str = "auto") -> str:
    """`auto` to cuda, mps or cpu, whichever is there; a device that is not there is a StepclipError."""
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    kind = device.split(":")[0]
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not there.get(kind, False):
        usable = [name for name, yes in there.items() if yes]
        raise StepclipError(
            f"the device '{device}' is not here{nearest(kind, there) if kind not in there else ''}",
            f"auto, or one of {', '.join(usable)}",
        )
    if kind == "cuda" and ":" in device and int(device.split(":")[1]) >= torch.cuda.device_count():
        raise StepclipError(f"no device '{device}'", f"cuda:0 to cuda:{torch.cuda.device_count() - 1}")
    return device


def resolve_precision(precision: str, device: str, parameters: int) -> str:
    """fp32, bf16 or fp16. `auto`: bf16 on cuda, and on a CPU with bf16 units if the model is not small."""
    if precision not in PRECISIONS:
        raise StepclipError(
            f"precision '{precision}'{nearest(precision, PRECISIONS)}", f"one of {', '.join(PRECISIONS)}"
        )
    if precision == "fp16" and device == "cpu":
        raise StepclipError(
            "precision fp16 on a CPU, which is several times slower there than fp32", "fp32, bf16 or auto"
        )
    if precision != "auto":
        return precision
    if device.startswith("cuda"):
        return "bf16"
    return "bf16" if device == "cpu" and parameters > SMALL and _native_bf16() else "fp32"


def _native_bf16() -> bool:
    import torch

    checks = (
        getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    )
    return any(check() for check in checks if check is not None)


def autocast(device: str, precision: str) -> AbstractContextManager[Any]:
    """The context in which a model runs at `precision`."""
    import torch

    if precision == "fp32":
        return nullcontext()
    dtype = torch.float16 if precision == "fp16" else torch.bfloat16
    return torch.autocast(device.split(":")[0], dtype)


def compiled(call: Callable[[Any], Any], pixels: Any) -> Callable[[Any], Any]:
    """`call` through torch.compile for batches of the shape of `pixels`, which are run once as a trial.

    Raises StepclipError where it does not compile (no C++ compiler, an operation it does not know).
    """
    import torch

    made: Callable[[Any], Any] = torch.compile(call, dynamic=False)
    try:
        with torch.inference_mode():
            made(pixels)
    except Exception as error:  # torch._dynamo and inductor raise many kinds
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise StepclipError(
            f"torch.compile does not work here: {reason:.200}", "a C++ compiler", "the same without --compile"
        ) from error
    return made


def in_threads(
    encode: Callable[[Any], np.ndarray], batches: Sequence[Any], lone: bool = False
) -> list[np.ndarray]:
    """`encode` of each batch, on as many Python threads as torch may use, one torch thread in each.

    On a CPU this is faster than one batch on all of torch's threads, and far faster where other processes
    keep the cores busy, for those threads wait for each other in every operation. lone: also a single batch
    gets one thread, as is best for small ones.
    """
    import torch

    threads = min(torch.get_num_threads(), len(batches))
    if threads < 1 or (threads == 1 and not lone):
        return [encode(batch) for batch in batches]
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(encode, batches))
    finally:
        torch.set_num_threads(before)


def fills(device: str, batch: int) -> int:
    """How many images keep a device at work: a batch, on a CPU two for each thread of `in_threads`."""
    import torch

    return 2 * batch * torch.get_num_threads() if device == "cpu" else batch


def sha256_of(files: Iterable[Path]) -> str:
    """The sha256, in hex, of the contents of the files one after the other."""
    digest = hashlib.sha256()
    for path in files:
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
