"""The WeakSVR head on cached features: input layers, a light transformer, frame and video embeddings.

`methods/weaksvr.md` 3.3; the defaults of `WeakSVRModel` are the released shape with its attention scale and
position start corrected: 18.9 M parameters. The released class registers 26.8 M: 7.87 M of them belong to a
patch projection that nothing is ever fed to, and are left out here. With `text: false` it is SVIP's head
(section 3.2 behind the backbone): tokens are the frames, a video is a vector of its own width.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...cache.errors import StepclipError
from ..losses.unit import unit
from ..method import Embedder
from .embedding import embed_packed
from .knobs import WeakSVRModel

if TYPE_CHECKING:
    from ..features import Features

MOTION_SMOOTH = 1.0  # rows of a view over which a change is measured


class ModelOutput(NamedTuple):
    """`frames` H (B, N, E) and `video` v (B, E): raw, not normalised; E is the width of the text features. Of
    a model without text: `frames` (B, N, width), `video` (B, video_dim)."""

    frames: Tensor
    video: Tensor


class Block(nn.Module):
    """Pre-norm transformer block: x += attention(LN x); x += MLP(LN x). No bias in q, k, v."""

    def __init__(self, config: WeakSVRModel) -> None:
        super().__init__()
        width, inner = config.width, config.heads * config.head_dim
        self.heads, self.dropout = config.heads, config.dropout
        self.scale = (config.head_dim if config.attention_scale == "head" else width) ** -0.5
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * inner, bias=False)
        self.out = nn.Linear(inner, width)
        hidden = round(config.mlp_ratio * width)
        drop = nn.Dropout(config.dropout)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), drop, nn.Linear(hidden, width), drop)

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        drop = self.dropout if self.training else 0.0
        if x.device.type == "cpu":  # written out: for so few tokens its flash kernel takes 6 times as long
            weights = F.dropout((q @ k.mT * self.scale).softmax(-1), drop)
            mixed = weights @ v
        else:
            mixed = F.scaled_dot_product_attention(q, k, v, dropout_p=drop, scale=self.scale)
        x = x + F.dropout(self.out(mixed.transpose(1, 2).reshape(b, n, -1)), drop)
        return x + self.mlp(self.norm2(x))


class Pooling(nn.Module):
    """Frames (B, N, E) -> video (B, out): flatten + linear (the paper's), or a mean or attention in front of
    a linear."""

    def __init__(self, kind: str, frames: int, dim: int, out: int, residual: bool) -> None:
        super().__init__()
        self.kind, self.residual = kind, residual
        self.linear = nn.Linear(frames * dim if kind == "flatten" else dim, out)
        if kind == "attention":
            self.query = nn.Parameter(torch.zeros(dim))  # starts as the mean
        if residual:
            _start_at_zero(self.linear)

    def forward(self, h: Tensor) -> Tensor:
        if self.kind == "flatten":
            pooled = h.flatten(1)
        elif self.kind == "mean":
            pooled = h.mean(1)
        else:
            weights = (h @ self.query * h.shape[-1] ** -0.5).softmax(1)
            pooled = (weights[..., None] * h).sum(1)
        video = self.linear(pooled)
        return video + unit(h.float()).mean(1) if self.residual else video


class StepModel(Embedder):
    """Frame features (B, N, feature_dim), N = `frames` = `config.frames` -> `ModelOutput` in the space of the
    text features.

    Two learnable log temperatures: `log_scale_video` (coarse loss) and `log_scale_frame` (fine loss).
    `classes` > 0 adds a linear classifier of the video, for training with procedure labels.
    """

    frames: int
    feature_mean: Tensor
    feature_std: Tensor
    positions: Tensor
    smoothing: Tensor
    change: Tensor
    weighting: Tensor

    def __init__(self, config: WeakSVRModel, feature_dim: int, text_dim: int, classes: int = 0) -> None:
        super().__init__()
        self.text, self.classes = config.text, classes
        if not config.text and (config.residual or config.video_residual):
            raise StepclipError(
                "model.text = false with model.residual or model.video_residual",
                "residuals only beside text: they tie the frames to its space",
            )
        if config.text and config.video_dim not in (0, text_dim):
            raise StepclipError(
                f"model.video_dim = {config.video_dim} beside text of {text_dim} dimensions",
                "0 (that of the text), or model.text = false",
            )
        self.config, self.frames, self.feature_dim, self.text_dim = (
            config,
            config.frames,
            feature_dim,
            text_dim,
        )
        width, tokens = config.width, config.frames + config.cls
        if config.text_weight:
            if not config.text or feature_dim != text_dim:
                raise StepclipError(
                    f"model.text_weight beside frames of {feature_dim} and text of {text_dim} dimensions",
                    "frames and text of one space (CLIP's), and model.text = true",
                )
            self.register_buffer("weighting", torch.eye(feature_dim))
        if config.smooth:
            near = _neighbours(config.frames, config.smooth)
            self.register_buffer("smoothing", near, persistent=False)
        self.turn: nn.Linear | None = None
        if config.motion:
            near = _neighbours(config.frames, MOTION_SMOOTH)
            change = torch.zeros_like(near)
            change[1:-1] = (near[2:] - near[:-2]) / 2
            self.register_buffer("change", change, persistent=False)
            self.turn = nn.Linear(feature_dim, text_dim if config.text else width, bias=False)
            nn.init.orthogonal_(self.turn.weight)
        self.norm = nn.LayerNorm(feature_dim) if config.input_norm == "layernorm" else None
        if config.input_norm == "standardise":
            self.register_buffer("feature_mean", torch.zeros(feature_dim))
            self.register_buffer("feature_std", torch.ones(feature_dim))
        layers: list[nn.Module] = [nn.Linear(feature_dim, width)]
        if config.hidden:
            layers += [nn.Linear(width, width), nn.ReLU()]
        self.input = nn.Sequential(*layers)
        self.cls = nn.Parameter(torch.randn(1, 1, width) * config.cls_std) if config.cls else None
        if config.positions == "learned":
            self.positions = nn.Parameter(torch.randn(tokens, width) * config.position_std)
        elif config.positions == "sinusoidal":
            self.register_buffer("positions", sinusoidal(tokens, width), persistent=False)
        self.blocks = nn.Sequential(*[Block(config) for _ in range(config.depth)])
        self.output = nn.Linear(width, text_dim) if config.text else nn.Identity()
        self.skip: nn.Module | None = None
        if config.residual:
            same = feature_dim == text_dim
            self.skip = nn.Identity() if same else nn.Linear(feature_dim, text_dim, bias=False)
        if config.init == "xavier":
            for module in (self.input, self.blocks, self.output, self.skip):
                _xavier(module)
        if isinstance(self.output, nn.Linear) and config.residual:
            _start_at_zero(self.output)
        frame_dim = text_dim if config.text else width
        video_dim = config.video_dim or frame_dim
        self.pool = Pooling(config.pooling, config.frames, frame_dim, video_dim, config.video_residual)
        self.classify = nn.Linear(video_dim, classes) if classes else None
        if config.text:
            start = math.log(config.scale)
            self.log_scale_video = nn.Parameter(torch.tensor(start))
            self.log_scale_frame = nn.Parameter(torch.tensor(start))
        self.least = config.durations
        self.lasts: nn.Linear | None = None
        if config.durations and config.text:
            self.lasts = nn.Linear(text_dim, 1, bias=False)
            nn.init.zeros_(self.lasts.weight)  # starts with all alike

    def forward(self, frames: Tensor) -> ModelOutput:
        if frames.ndim != 3 or frames.shape[1] != self.frames or frames.shape[2] != self.feature_dim:
            raise StepclipError(
                f"frames of shape {tuple(frames.shape)}",
                f"(B, {self.frames}, {self.feature_dim}): views of this model",
            )
        if self.config.centre:
            frames = frames - frames.mean(1, keepdim=True)
        moved = self._moved(frames.float()) if self.turn is not None else None
        if self.config.smooth:
            frames = self.smoothing @ frames.float()
        x = self.input(self._normalised(frames))
        if self.cls is not None:
            x = torch.cat([self.cls.to(x.dtype).expand(len(x), -1, -1), x], 1)
        if self.config.positions != "none":
            x = x + self.positions
        h = self.output(self.blocks(x)[:, int(self.config.cls) :])
        if self.skip is not None:
            h = self.skip(self._weighed(frames.float())) + h
        if self.turn is not None:
            h = h + self.config.motion * self.turn(moved)
        return ModelOutput(h, self.pool(h))

    def _moved(self, frames: Tensor) -> Tensor:
        """How the frames change, at about length 1; a change of less than a hundredth of a frame fades, so
        that a still video does not move."""
        if self.config.text_weight:
            frames = frames @ self.weighting
        change = self.change @ frames
        least = 0.01 * frames.norm(dim=-1, keepdim=True).mean(1, keepdim=True)
        return change / (change.norm(dim=-1, keepdim=True) + least + 1e-6)

    def _weighed(self, x: Tensor) -> Tensor:
        """At length 1, with `text_weight` in the directions in which sentences differ."""
        return unit(unit(x) @ self.weighting) if self.config.text_weight else unit(x)

    @torch.no_grad()
    def weigh(self, sentences: Tensor) -> None:
        """Take the weighting from the distinct `sentences` (n, text_dim) of the training scripts; only with
        `text_weight` p: (C / mean eigenvalue + 1)^p of the covariance C of the unit sentences."""
        if self.config.text_weight:
            apart = unit(sentences.double())
            apart = apart - apart.mean(0)
            size, direction = torch.linalg.eigh(apart.T @ apart / len(apart))
            strength = (size.clamp(min=0) / size.mean().clamp(min=1e-12) + 1) ** self.config.text_weight
            self.weighting.copy_((direction * strength) @ direction.T)

    def _normalised(self, frames: Tensor) -> Tensor:
        if self.norm is not None:
            return self.norm(frames)
        if self.config.input_norm == "l2":
            return unit(frames) * self.feature_dim**0.5  # unit variance, as the input layer expects
        if self.config.input_norm == "standardise":
            return (frames - self.feature_mean) / self.feature_std
        return frames

    @torch.no_grad()
    def standardise(self, mean: Tensor, std: Tensor) -> None:
        """Take mean and standard deviation, both (feature_dim,), of the training frames; only with that
        input_norm."""
        if self.config.input_norm == "standardise":
            if not self.config.centre:
                self.feature_mean.copy_(mean)
            self.feature_std.copy_(std.clamp(min=1e-4))

    def log_durations(self, texts: Tensor) -> Tensor:
        """The logarithm of what sentences last: features (..., text_dim) -> (...), in a unit of their own."""
        assert self.lasts is not None
        return self.lasts(unit(texts))[..., 0]

    @torch.no_grad()
    def durations(self, features: Tensor) -> Tensor | None:
        return None if self.lasts is None else self.log_durations(features.float()).exp()

    @property
    def scale_video(self) -> Tensor:
        return self.log_scale_video.exp()

    @property
    def scale_frame(self) -> Tensor:
        return self.log_scale_frame.exp()

    @torch.no_grad()
    def clamp_scales(self) -> None:
        """Keep both scales in [1, 100]; called after each optimiser step, as CLIP does it."""
        for log_scale in (self.log_scale_video, self.log_scale_frame) if self.text else ():
            log_scale.clamp_(0.0, math.log(100.0))

    @property
    def shape(self) -> dict[str, int]:
        return {**super().shape, "classes": self.classes}

    def places(self) -> list[Tensor]:
        found: list[Tensor] = [] if self.cls is None else [self.cls]
        return [*found, self.positions] if self.config.positions == "learned" else found

    @torch.no_grad()
    def embed_packed(self, packed: Features, batch: int = 256) -> tuple[Tensor, Tensor]:
        return embed_packed(self, packed, batch)


def _neighbours(length: int, spread: float) -> Tensor:
    """(length, length) rows of Gaussian weights around each place, sums of 1."""
    place = torch.arange(length)
    near = torch.exp(-0.5 * ((place[:, None] - place) / spread).square())
    return near / near.sum(1, keepdim=True)


def sinusoidal(length: int, width: int) -> Tensor:
    """(length, width) positions of Vaswani et al. 2017: sines in the even places, cosines in the odd."""
    place = torch.arange(length)[:, None]
    rate = torch.exp(torch.arange(0, width, 2) * (-math.log(10000.0) / width))
    out = torch.zeros(length, width)
    out[:, 0::2], out[:, 1::2] = torch.sin(place * rate), torch.cos(place * rate)[:, : width // 2]
    return out


def _xavier(module: nn.Module | None) -> None:
    for part in module.modules() if module is not None else ():
        if isinstance(part, nn.Linear):
            nn.init.xavier_uniform_(part.weight)
            if part.bias is not None:
                nn.init.zeros_(part.bias)


def _start_at_zero(linear: nn.Linear) -> None:
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
