"""TempCLR on cached features: a light encoder of windows and an adapter of sentences (`methods/tempclr.md` 3,
7).

Windows are encoded one by one, so no place in the video leaks into their vectors: a re-ordered video is the
same vectors in another order. Both branches end in a layer that starts at 0, so that the first step is CLIP
itself: the mean of the window's frames, and the sentence.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from ..losses.unit import unit
from ..method import Embedder

if TYPE_CHECKING:
    from ..features import Features
    from .knobs import TempCLRModel

SHORT = 8  # frames of the longest window below which nothing is gained by cutting
GROUPS = 6  # of windows that are encoded together


class ClipOutput(NamedTuple):
    """`windows` (M, E) and `texts` (K, E): raw, not normalised."""

    windows: Tensor
    texts: Tensor


class Gain(nn.Module):
    """The learned half of a layer norm: a factor and an offset for each number. It starts as nothing."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(dim)), nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight + self.bias


class ClipModel(Embedder):
    """Windows of frame features (M, W, feature_dim) with `real` (M, W) -> (M, E), E = text_dim; sentence
    features (K, text_dim) -> (K, E).

    Learnable log temperatures: `log_scale` of the unit loss, `log_tau` of the sequence loss.
    """

    text_mean: Tensor

    def __init__(self, config: TempCLRModel, feature_dim: int, text_dim: int, tau: float = 1.0) -> None:
        super().__init__()
        self.config, self.feature_dim, self.text_dim = config, feature_dim, text_dim
        width = config.width
        self.input = nn.Sequential(
            nn.LayerNorm(feature_dim),
            nn.Linear(feature_dim, width),
            nn.GELU(),
            nn.LayerNorm(width),
            nn.Linear(width, width),
        )
        self.positions = nn.Parameter(torch.randn(config.window + 1, width) * config.position_std)
        self.end = nn.Parameter(torch.randn(width) * config.position_std)
        # frames first: frozen projections of what was transposed would be copied for each window
        layer = nn.TransformerEncoderLayer(
            width, config.heads, round(config.mlp_ratio * width), config.dropout, "gelu", norm_first=True
        )
        self.blocks = nn.TransformerEncoder(
            layer, config.depth, nn.LayerNorm(width), enable_nested_tensor=False
        )
        self.output = _from_zero(nn.Linear(width, text_dim))
        same = feature_dim == text_dim
        self.skip: nn.Module = nn.Identity() if same else nn.Linear(feature_dim, text_dim, bias=False)
        self.gain = Gain(text_dim) if config.gain else None
        self.text_gain = Gain(text_dim) if config.gain else None
        self.adapter: nn.Module | None = None
        if config.text == "adapter":
            self.adapter = nn.Sequential(nn.LayerNorm(text_dim), _from_zero(nn.Linear(text_dim, text_dim)))
        self.register_buffer("text_mean", torch.zeros(text_dim))
        self.log_scale = nn.Parameter(torch.tensor(math.log(config.scale)))
        self.log_tau = nn.Parameter(torch.tensor(math.log(tau)))

    def forward(self, frames: Tensor, real: Tensor, base: Tensor | None, texts: Tensor) -> ClipOutput:
        """`base` (M, feature_dim): the mean of the unit frames of each window's video, with `centre`."""
        return ClipOutput(self.windows(frames, real, base), self.texts(texts))

    def windows(self, frames: Tensor, real: Tensor, base: Tensor | None = None) -> Tensor:
        """(M, W, feature_dim), the real ones of each window first -> (M, E).

        On a CPU windows of like length are encoded together, and their padding is cut off: of windows of 3 to
        32 frames it is half. A GPU would wait for the host to know the lengths.
        """
        if frames.device.type != "cpu" or frames.shape[1] < SHORT:
            return self._windows(frames, real, base)
        lengths = real.sum(1)
        order = lengths.argsort(stable=True)
        parts = []
        for part in order.split(max(1, -(-len(order) // GROUPS))):
            longest = int(lengths[part[-1]])
            cut = (frames[part, :longest], real[part, :longest], None if base is None else base[part])
            parts.append(self._windows(*cut))
        return torch.cat(parts)[order.argsort()]

    def _windows(self, frames: Tensor, real: Tensor, base: Tensor | None) -> Tensor:
        x = unit(frames.float())
        if base is not None:
            x = x - base[:, None]
        inside = real[..., None].to(x.dtype)
        count = inside.sum(1)
        mean = (x * inside).sum(1) / count
        tokens = self.input(x) + self.positions[: x.shape[1]]
        end = (self.end + self.positions[-1]).to(tokens.dtype).expand(len(x), 1, -1)
        last = torch.ones_like(real[:, :1])
        kept = torch.cat([real, last], 1)
        h = self.blocks(torch.cat([tokens, end], 1).transpose(0, 1).contiguous(), src_key_padding_mask=~kept)
        pooled = (h * kept.T[..., None]).sum(0) / (count + 1)
        past = self.skip(mean)
        return (past if self.gain is None else self.gain(past)) + self.output(pooled)

    def texts(self, features: Tensor) -> Tensor:
        """(K, text_dim) raw features of sentences -> (K, E)."""
        x = unit(features.float())
        if self.config.centre:
            x = x - self.text_mean
        past = x if self.text_gain is None else self.text_gain(x)
        return past if self.adapter is None else past + self.adapter(x)

    @property
    def scale(self) -> Tensor:
        return self.log_scale.exp()

    @property
    def tau(self) -> Tensor:
        return self.log_tau.exp()

    @torch.no_grad()
    def take_mean(self, sentences: Tensor) -> None:
        """The mean of the distinct training `sentences` (n, text_dim), which `centre` takes off."""
        self.text_mean.copy_(unit(sentences.float()).mean(0))

    @torch.no_grad()
    def clamp(self) -> None:
        """Keep the scale in [1, 100] and tau in [0.01, 10]; called after each optimiser step."""
        self.log_scale.clamp_(0.0, math.log(100.0))
        self.log_tau.clamp_(math.log(0.01), math.log(10.0))

    def norms(self) -> list[nn.Parameter]:
        """The parameters of layer norms, and the gains: what stage B trains as published."""
        kinds = (nn.LayerNorm, Gain)
        return [p for module in self.modules() if isinstance(module, kinds) for p in module.parameters()]

    def places(self) -> list[Tensor]:
        return [self.positions]

    # ---- after training

    def embed_texts(self, features: Tensor, kind: str) -> Tensor:
        return self.texts(features)

    def embed_packed(self, packed: Features, batch: int = 256) -> tuple[Tensor, Tensor]:
        """One vector per cached frame, that of the window around it (`config.reach` frames, moved inwards at
        the ends of the video), and their mean for the video."""
        lengths = packed.lengths
        owner = torch.repeat_interleave(torch.arange(len(packed), device=packed.device), lengths)
        first, length = packed.offsets[:-1][owner], lengths[owner]
        reach = self.config.reach or self.config.window
        row = torch.arange(packed.count, device=packed.device) - first
        size = length.clamp(max=reach)
        start = (row - reach // 2).clamp(min=0).minimum(length - size)
        place = torch.arange(reach, device=packed.device)
        means = unit_means(packed) if self.config.centre else None
        frames = []
        for part in torch.arange(packed.count, device=packed.device).split(batch):
            real = place < size[part, None]
            rows = first[part, None] + start[part, None] + place.minimum(size[part, None] - 1)
            base = None if means is None else means[owner[part]]
            frames.append(self.windows(packed.gather(rows), real, base).float())
        every = torch.cat(frames)
        video = every.new_zeros(len(packed), every.shape[1]).index_add_(0, owner, every) / lengths[:, None]
        return video, every


def unit_means(packed: Features) -> Tensor:
    """(V, D): the mean of each video's unit frames."""
    owner = torch.repeat_interleave(torch.arange(len(packed), device=packed.device), packed.lengths)
    total = torch.zeros(len(packed), packed.dim, device=packed.device)
    for part in torch.arange(packed.count, device=packed.device).split(1 << 16):
        total.index_add_(0, owner[part], unit(packed.gather(part).float()))
    return total / packed.lengths[:, None]


def _from_zero(linear: nn.Linear) -> nn.Linear:
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear
