"""Many videos' features as one tensor, on the device where they are used."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from .errors import StepclipError


@dataclass(eq=False)
class PackedFeatures:
    """The frames of `V` videos, one after the other: row `offsets[i] + t` is frame `t` of video `i`.

    features (N, D); times (N,) float64, seconds; offsets (V+1,) int64; video_ids, V of them; index: id -> i;
    durations (V,) float64, seconds (NaN where unknown); views (K, N, D): the augmented copies of each frame,
    or None. All tensors lie on one device.
    """

    features: torch.Tensor
    times: torch.Tensor
    offsets: torch.Tensor
    video_ids: tuple[str, ...]
    index: dict[str, int] = field(default_factory=dict)
    durations: torch.Tensor | None = None
    views: torch.Tensor | None = None

    def __post_init__(self) -> None:
        self.video_ids = tuple(self.video_ids)
        self.index = self.index or {video_id: place for place, video_id in enumerate(self.video_ids)}
        self._bounds: list[int] = self.offsets.tolist()  # so that a slice costs no trip to the device

    def __len__(self) -> int:
        return len(self.video_ids)

    @property
    def device(self) -> torch.device:
        return self.features.device

    @property
    def dim(self) -> int:
        """D: numbers per frame."""
        return self.features.shape[1]

    @property
    def count(self) -> int:
        """N: frames of all videos."""
        return self._bounds[-1]

    @property
    def lengths(self) -> torch.Tensor:
        """(V,) int64: frames per video."""
        return self.offsets.diff()

    def rows(self, i: int) -> slice:
        """The rows of video `i`: `features[packed.rows(i)]` is (T, D) without a copy."""
        return slice(self._bounds[i], self._bounds[i + 1])

    def gather(self, rows: torch.Tensor, view: int | None = None) -> torch.Tensor:
        """The features (*rows.shape, D) of rows (...) int64, or their augmented copies `view`."""
        if view is not None and self.views is None:
            raise StepclipError("these features were loaded without views", "store.load(views=True)")
        source = self.features if view is None or self.views is None else self.views[view]
        # on a CPU eight times as fast as source[rows], with the same result
        return source.index_select(0, rows.reshape(-1)).view(*rows.shape, source.shape[1])

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> PackedFeatures:
        """The same on another device; `dtype` converts the features alone."""
        return PackedFeatures(
            self.features.to(device=device, dtype=dtype or self.features.dtype),
            self.times.to(device),
            self.offsets.to(device),
            self.video_ids,
            self.index,
            None if self.durations is None else self.durations.to(device),
            None if self.views is None else self.views.to(device=device, dtype=dtype or self.views.dtype),
        )
