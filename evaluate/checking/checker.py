"""From evidence to probabilities: a logistic regression per kind of fault, and one for the whole recording.

A probability answers "was this step left out?" for recordings of which half are sound and the others have one
fault each: a prior, stated here because every calibration has one. `fitting` says what they are fitted on.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...cache.errors import StepclipError
from ...cache.files import read_json, write_json
from .edits import KINDS, PER_GAP, PER_STEP, Evidence, evidence

SCHEMA = 1
UNFITTED = 0.7  # quantile of a recording's own cosines, where no background was learned
REGULAR = 0.1  # C of the logistic regressions


@dataclass(frozen=True)
class Logistic:
    """p = 1 / (1 + exp(-(bias + weights . (x - mean) / scale))); a fault is reported where p >= threshold."""

    weights: tuple[float, ...]
    bias: float
    mean: tuple[float, ...]
    scale: tuple[float, ...]
    threshold: float = 0.5

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Probabilities (n,) of features (n, F)."""
        z = (np.asarray(x, float) - self.mean) / self.scale @ np.asarray(self.weights) + self.bias
        return 1 / (1 + np.exp(-np.clip(z, -50, 50)))

    @classmethod
    def fit(cls, x: np.ndarray, y: np.ndarray, weight: np.ndarray | None = None) -> Logistic:
        """On features (n, F) and truth (n,) bool; where there is one sort only, a constant never reported."""
        from sklearn.linear_model import LogisticRegression

        mean, scale = x.mean(0), np.maximum(x.std(0), 1e-9)
        at = (tuple(mean.tolist()), tuple(scale.tolist()))
        if y.all() or not y.any():
            share = (y.sum() + 0.5) / (len(y) + 1)
            return cls((0.0,) * x.shape[1], float(np.log(share / (1 - share))), *at, threshold=2.0)
        model = LogisticRegression(C=REGULAR, max_iter=1000).fit((x - mean) / scale, y, sample_weight=weight)
        made = cls(tuple(model.coef_[0].tolist()), float(model.intercept_[0]), *at)
        return replace(made, threshold=best_threshold(made(x), y))


def best_threshold(p: np.ndarray, y: np.ndarray) -> float:
    """The probability from which reporting gives the best F1."""
    order = np.argsort(-p, kind="stable")
    hits = np.cumsum(y[order])
    f1 = 2 * hits / (np.arange(1, len(y) + 1) + y.sum())
    last = np.append(np.diff(p[order]) != 0, True)  # equal probabilities are reported together
    return float(p[order][np.where(last, f1, -1).argmax()])


@dataclass(frozen=True)
class Judge:
    """One way to judge evidence: the background's cosine (None: a quantile of the recording's own, the
    percentile_drop of Drop-DTW), a regression per kind, one for the verdict on the whole recording."""

    background: float | None
    quantile: float
    kinds: dict[str, Logistic]
    verdict: Logistic

    def evidence(self, similarity: torch.Tensor, steps: int, seconds: np.ndarray) -> Evidence:
        """Of a recording's cosines (T, K + O), see `edits.evidence`."""
        level = self.background
        if level is None:
            level = float(torch.quantile(similarity[:, :steps].flatten().float(), self.quantile))
        return evidence(similarity, steps, level, seconds)

    def probabilities(self, found: Evidence) -> dict[str, np.ndarray]:
        """Of each kind, the probability (n,) of a fault at each step (of "added": at each gap)."""
        return {kind: self.kinds[kind](found.features[kind]) for kind in KINDS}

    def wrong(self, p: dict[str, np.ndarray]) -> float:
        """The probability that the recording has any fault."""
        return float(self.verdict(summary(p)[None])[0])


@dataclass(frozen=True)
class Likeness:
    """Of two recordings: `same` of their distance, and the cost along their path above which they part."""

    same: Logistic
    limit: float


@dataclass(frozen=True)
class Checker:
    """The judges of a run: `script` knows the sentences of the steps, `references` also other recordings in
    which the same steps are done (`likeness.References`); `pairs` compares two recordings. `about` says what
    they were fitted on."""

    script: Judge
    references: Judge | None = None
    pairs: Likeness | None = None
    about: dict[str, Any] = field(default_factory=dict)

    @property
    def fitted(self) -> bool:
        return self.script.background is not None

    def save(self, path: str | os.PathLike[str]) -> None:
        write_json(path, {"schema": SCHEMA, **asdict(self)})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Checker:
        """StepclipError when it is not a checker's file."""
        read = read_json(Path(path))
        try:
            if read["schema"] != SCHEMA:
                raise KeyError(f"schema {read['schema']}")
            other, pairs = read["references"], read["pairs"]
            return cls(
                _judge(read["script"]),
                None if other is None else _judge(other),
                None if pairs is None else Likeness(_logistic(pairs["same"]), pairs["limit"]),
                read["about"],
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise StepclipError(
                f"{path} is no checker of this version ({error})",
                "the file that stepclip check made",
                "delete it, and stepclip check makes it anew",
            ) from error

    @classmethod
    def unfitted(cls) -> Checker:
        """For want of training videos: a percentile background, and weights as on the bench of seed 7."""

        def of(
            column: int, columns: int, bias: float, mean: float, scale: float, threshold: float
        ) -> Logistic:
            """By its own gain alone."""
            one = np.eye(2 * columns)[column]
            return Logistic(
                tuple(one.tolist()), bias, tuple((mean * one).tolist()),
                tuple(np.where(one, scale, 1.0).tolist()), threshold,
            )  # fmt: skip

        steps, gaps = len(PER_STEP), len(PER_GAP)
        kinds = {
            "missing": of(0, steps, -4.0, -0.36, 0.59, 0.08),
            "moved": of(1, steps, -3.6, 0.15, 0.38, 0.1),
            "repeated": of(2, steps, -4.0, 0.26, 0.29, 0.06),
            "added": of(0, gaps, -4.0, 0.36, 0.58, 0.06),
        }
        verdict = Logistic((0.1, 0.4, 0.1, 0.2), 0.0, (-1.9, -1.4, -2.3, -2.2), (0.5, 0.8, 0.7, 0.9), 0.5)
        return cls(Judge(None, UNFITTED, kinds, verdict), about={"fitted": "no"})


def _judge(read: dict[str, Any]) -> Judge:
    kinds = {kind: _logistic(read["kinds"][kind]) for kind in KINDS}
    return Judge(read["background"], read["quantile"], kinds, _logistic(read["verdict"]))


def _logistic(read: dict[str, Any]) -> Logistic:
    plain = {k: tuple(v) if isinstance(v, list) else float(v) for k, v in read.items()}
    return Logistic(**plain)  # type: ignore[arg-type]


def summary(p: dict[str, np.ndarray]) -> np.ndarray:
    """What the verdict looks at: of each kind the logit of the most likely fault."""
    top = np.clip([p[kind].max(initial=1e-6) for kind in KINDS], 1e-6, 1 - 1e-6)
    return np.log(top / (1 - top))
