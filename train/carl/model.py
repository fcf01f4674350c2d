"""CARL's frame encoder on cached features: layers in front, a transformer over time, one vector per frame.

`methods/carl.md` 2 and 10.3. With features of 2048 numbers and the released shape it has the parameters of
the released encoder behind its backbone: 3.88 M. What a model sees in training is a sample of a video; in
evaluation it sees all of it, its positions squeezed into the range of training.
"""

from __future__ import annotations

import copy
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..features import Features
from ..method import Embedder
from .knobs import CarlModel
from .norm import FrameNorm


class CarlOutput(NamedTuple):
    """`frames` h (B, T, E), what evaluation uses; `projected` z (B, T, P), what the loss sees: both raw."""

    frames: Tensor
    projected: Tensor


class Front(nn.Module):
    """[Dropout, Linear, norm, ReLU], twice, then Linear: (B, T, D) -> (B, T, width)."""

    def __init__(self, config: CarlModel, feature_dim: int) -> None:
        super().__init__()
        self.dropout = config.dropout
        self.first, self.second = (
            nn.Linear(feature_dim, config.hidden),
            nn.Linear(config.hidden, config.hidden),
        )
        self.norm1, self.norm2 = make_norm(config, config.hidden), make_norm(config, config.hidden)
        self.out = nn.Linear(config.hidden, config.width)

    def forward(self, x: Tensor, counted: Tensor) -> Tensor:
        for linear, norm in ((self.first, self.norm1), (self.second, self.norm2)):
            x = linear(F.dropout(x, self.dropout, self.training))
            x = F.relu(norm(x, counted) if isinstance(norm, FrameNorm) else norm(x))
        return self.out(x)


class Head(nn.Module):
    """The projection of training: Linear, norm, ReLU, Linear."""

    def __init__(self, config: CarlModel) -> None:
        super().__init__()
        self.first = nn.Linear(config.embedding, config.projection)
        self.norm = make_norm(config, config.projection)
        self.second = nn.Linear(config.projection, config.projection)

    def forward(self, x: Tensor, counted: Tensor) -> Tensor:
        x = self.first(x)
        x = self.norm(x, counted) if isinstance(self.norm, FrameNorm) else self.norm(x)
        return self.second(F.relu(x))


class Layer(nn.Module):
    """Pre-norm transformer layer; dropout on what is added, none inside."""

    def __init__(self, config: CarlModel) -> None:
        super().__init__()
        width = config.width
        self.heads, self.dropout = config.heads, nn.Dropout(config.dropout)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, config.mlp), nn.ReLU(), nn.Linear(config.mlp, width))

    def forward(self, x: Tensor, allowed: Tensor) -> Tensor:
        b, t, width = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(b, t, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        if x.device.type == "cpu":  # written out: for short sequences its flash kernel takes longer
            weights = (q @ k.mT * (width // self.heads) ** -0.5).masked_fill(~allowed, -1e30).softmax(-1)
            mixed = weights @ v
        else:
            mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed)
        x = x + self.dropout(self.out(mixed.transpose(1, 2).reshape(b, t, width)))
        return x + self.dropout(self.mlp(self.norm2(x)))


class FrameEncoder(Embedder):
    """Frame features (B, T, D), and which of them are real, -> `CarlOutput`. Any T; `span` is that of
    training, over whose positions all others are stretched."""

    text = False
    frames = None
    feature_mean: Tensor
    feature_std: Tensor

    def __init__(self, config: CarlModel, span: int, feature_dim: int, text_dim: int = 0) -> None:
        super().__init__()
        self.config, self.span, self.feature_dim, self.text_dim = config, span, feature_dim, text_dim
        self.register_buffer("feature_mean", torch.zeros(feature_dim))
        self.register_buffer("feature_std", torch.ones(feature_dim))
        self.norm = nn.LayerNorm(feature_dim) if config.input_norm == "layernorm" else nn.Identity()
        self.front = Front(config, feature_dim)
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.depth))
        self.out = nn.Linear(config.width, config.embedding)
        self.head = Head(config) if config.projection else None
        for name, weight in self.layers.named_parameters():
            if weight.ndim == 2:
                # each of q, k, v is a matrix of its own, as released
                for part in weight.chunk(3) if "qkv" in name else [weight]:
                    nn.init.xavier_uniform_(part)
        if config.copies and config.depth:
            for layer in self.layers[1:]:
                layer.load_state_dict(copy.deepcopy(self.layers[0].state_dict()))

    @property
    def reach(self) -> int | None:
        """Frames on each side that an embedding depends on; None: all of the video."""
        return self.config.attention_window * self.config.depth or (None if self.config.depth else 0)

    def forward(
        self, frames: Tensor, real: Tensor | None = None, positions: Tensor | None = None
    ) -> CarlOutput:
        """`frames` (B, T, D); `real` (B, T) bool, in front; `positions` (B, T) in place of the order
        index."""
        b, t, _ = frames.shape
        real = torch.ones(b, t, dtype=torch.bool, device=frames.device) if real is None else real
        counted = torch.ones_like(real) if self.config.norm == "batch-padded" else real
        x = self.normalised(frames)
        x = self.front(x, counted)
        if self.config.positions != "none":
            x = x + self.code(self.order(real) if positions is None else positions).to(x.dtype)
        x = self.dropout(x)
        allowed = self.allowed(real)
        for layer in self.layers:
            x = layer(x, allowed)
        h = self.out(x)
        projected = h if self.head is None else self.head(h, counted)
        if self.config.residual:
            plain = F.normalize(self.standardised(frames), dim=-1) * self.config.residual
            h = torch.cat([F.normalize(h.float(), dim=-1), plain], -1)
        return CarlOutput(h, projected)

    def order(self, real: Tensor) -> Tensor:
        """Positions (B, T): 0, 1, ... in training as released; else spread over 0 .. span - 1."""
        index = torch.arange(real.shape[1], device=real.device).expand(real.shape)
        if self.training and self.config.rescale == "test":
            return index.float()
        last = (real.sum(1, keepdim=True) - 1).clamp(min=1)
        return index * ((self.span - 1) / last)

    def code(self, positions: Tensor) -> Tensor:
        """Fixed sinusoids (B, T, width)."""
        place = torch.arange(self.config.width, device=positions.device)
        exponent = place if self.config.positions == "official" else place - place % 2
        angle = positions[..., None].float() * 10000.0 ** (-exponent / self.config.width)
        return torch.where(place % 2 == 0, angle.sin(), angle.cos())

    def allowed(self, real: Tensor) -> Tensor:
        """Which keys a frame sees: (B, 1, T or 1, T) bool. Each sees itself, so that none sees nothing."""
        keys = real[:, None, None, :]
        window = self.config.attention_window
        if not window:
            return keys
        place = torch.arange(real.shape[1], device=real.device)
        apart = (place[:, None] - place).abs()
        return (keys & (apart <= window)) | (apart == 0)

    def standardised(self, frames: Tensor) -> Tensor:
        return (frames.float() - self.feature_mean) / self.feature_std

    def normalised(self, frames: Tensor) -> Tensor:
        if self.config.input_norm == "l2":
            return F.normalize(frames.float(), dim=-1)
        if self.config.input_norm == "standardise":
            return self.standardised(frames)
        normed: Tensor = self.norm(frames)
        return normed

    @torch.no_grad()
    def standardise(self, mean: Tensor, std: Tensor) -> None:
        """Take the mean and spread (D,) of the training set's features."""
        self.feature_mean.copy_(mean)
        self.feature_std.copy_(std.clamp(min=1e-6))

    def embed_packed(self, packed: Features, batch: int = 256) -> tuple[Tensor, Tensor]:
        from .encode import encode_packed

        return encode_packed(self, packed, batch)


def make_norm(config: CarlModel, channels: int) -> nn.Module:
    return nn.LayerNorm(channels) if config.norm == "layer" else FrameNorm(channels)
