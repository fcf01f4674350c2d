"""The released losses: their golden numbers, and the vectorised forms against one sample at a time."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stepclip.cache import StepclipError
from stepclip.train.losses import (
    LABELLINGS,
    classification_loss,
    frame_log_p,
    frame_sentence_official,
    label_frames,
    pseudo_labels,
    same_task_loss,
    sequence_alignment_loss,
    viterbi_official,
)
from stepclip.train.losses.frame_sentence_official import split_image, split_text
from stepclip.train.losses.viterbi_official import viterbi_on_device


@pytest.fixture(scope="module")
def literal(released: Callable[[str], ModuleType]) -> ModuleType:
    return released("weaksvr")


@pytest.fixture(scope="module")
def golden(shared_data: Path) -> dict:
    return json.loads((shared_data / "golden" / "weaksvr.json").read_text())


def wave(shape, *terms):
    """sin of a linear form of the indices, as the golden file writes its inputs."""
    grids = torch.meshgrid(*[torch.arange(n, dtype=torch.float64) for n in shape], indexing="ij")
    return torch.sin(terms[0] + sum(w * g for w, g in zip(terms[1:], grids, strict=True)))


def golden_cosines() -> torch.Tensor:
    b, t, k = torch.meshgrid(*[torch.arange(n, dtype=torch.float64) for n in (2, 16, 20)], indexing="ij")
    return 0.25 + 0.10 * torch.sin(1.7 * t + 2.3 * k + 0.9 * b) + 0.05 * torch.cos(0.37 * t - 0.29 * k)


def features_of(cosines: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Frames and steps whose cosines these are: the official loss starts from features."""
    b, n, k = cosines.shape
    steps = torch.eye(k + n, dtype=cosines.dtype)[:k].expand(b, k, k + n)
    rest = (1 - cosines.square().sum(2, keepdim=True)).clamp(min=0)
    if bool((cosines.square().sum(2) > 1).any()):  # shrink: labels do not change, and the loss does not
        return features_of(cosines / 4)
    frames = torch.cat([cosines, rest.sqrt() * torch.eye(n, dtype=cosines.dtype)], 2)
    return frames, steps


def test_the_golden_same_task_loss(golden):
    g = golden["video_paragraph"]
    video, paragraph = wave((4, 8), 1.0, 0.35, 1.4), wave((4, 8), 1.3, 0.45, 1.35)
    # each video against its own paragraph and the two before it
    task = torch.stack([paragraph.roll(i, 0) for i in range(3)], 1)
    assert same_task_loss(video, paragraph, task, g["scale"]).item() == pytest.approx(g["info_neg"], abs=1e-9)
    padded = torch.cat([task, torch.full((4, 2, 8), 7.0, dtype=torch.float64)], 1)
    real = torch.tensor([True] * 3 + [False] * 2).expand(4, 5)
    assert same_task_loss(video, paragraph, padded, g["scale"], real).item() == pytest.approx(
        g["info_neg"], abs=1e-9
    )


def test_the_golden_sequence_alignment_loss(golden):
    first, second = wave((2, 16, 8), 0.2, 0.7, 0.31, 0.13), wave((2, 16, 8), 0.5, 0.6, 0.29, 0.11)
    loss = sequence_alignment_loss(first, second)
    assert loss.item() == pytest.approx(golden["seq_loss"]["value"], abs=1e-9)
    assert sequence_alignment_loss(3 * first, second).item() == pytest.approx(loss.item(), abs=1e-12)
    # the ends of its range, `methods/weaksvr.md` 4.4
    apart = torch.eye(16)[None]
    assert sequence_alignment_loss(apart, apart).item() == pytest.approx(
        16 * (1 - math.e / (math.e + 15)), abs=1e-4
    )
    assert sequence_alignment_loss(torch.ones(1, 16, 4), torch.ones(1, 16, 4)).item() == pytest.approx(15.0)
    assert sequence_alignment_loss(apart, apart, 0.05).item() < 1e-3


@pytest.mark.parametrize("labels_of", [viterbi_official, viterbi_on_device])
def test_the_golden_viterbi_labels_signs_and_all(golden, labels_of):
    g, cosines = golden["frame_sentence"], golden_cosines()
    assert labels_of(cosines).tolist() == g["viterbi_image"]
    assert labels_of(cosines.mT).tolist() == g["viterbi_text"]
    assert labels_of(cosines - 0.28).tolist() == g["viterbi_image_signed(official, may go backward)"]
    assert labels_of((cosines - 0.28).mT).tolist() == g["viterbi_text_signed(official)"]
    assert labels_of(cosines[:1, :, :10]).tolist() == g["viterbi_image_n_masked_to_first_n"][:1]
    assert labels_of(cosines[1:, :, :6]).tolist() == g["viterbi_image_n_masked_to_first_n"][1:]


def test_the_golden_fine_losses_without_noise(golden):
    g = golden["frame_sentence"]
    frames, steps = wave((2, 16, 8), 0.2, 0.7, 0.31, 0.13), wave((2, 20, 8), 0.9, 0.5, 0.23, 0.17)
    n = torch.tensor(g["n"])
    for given_frames, given_steps in (features_of(golden_cosines()), (frames, steps)):
        for kind in ("sort", "viterbi"):
            out = frame_sentence_official(given_frames, given_steps, n, 1 / 0.07, labelling=kind, noise=False)
            if given_steps is not steps:
                want = g[f"noise_free_loss_{kind}(image,text)"]
                assert [out.image.item(), out.text.item()] == pytest.approx(want, abs=1e-6)
    sort = frame_sentence_official(*features_of(golden_cosines()), n, 1 / 0.07, noise=False)
    assert sort.labels.tolist() == g["argmax_sorted_image"]


def test_the_golden_split(golden):
    g, n = golden["split"], torch.tensor([10, 6])
    judged, labels = split_image(golden_cosines(), n)
    assert labels.tolist() == g["image_gt"] and judged.abs().sum() == 0  # the bug
    judged, labels = split_text(golden_cosines().mT, n)
    assert labels.tolist() == g["text_gt"]
    assert judged.sum().item() == pytest.approx(g["text_sim_sum"], rel=1e-6)  # summed there in float32


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(1, 20), min_size=1, max_size=4),
    st.sampled_from([20, 24]),
    st.integers(2, 18),
    st.integers(0, 10**6),
    st.sampled_from(["sort", "viterbi", "split"]),
)
def test_the_official_loss_is_that_of_its_loops(literal, lengths, most, frames, seed, kind):
    """Value and gradients, noise off; fewer and more sentences than frames."""
    generator = torch.Generator().manual_seed(seed)
    h = torch.randn(len(lengths), frames, 6, generator=generator).requires_grad_()
    s = torch.randn(len(lengths), most, 6, generator=generator)
    n, tau = torch.tensor(lengths), torch.tensor(14.3, requires_grad=True)
    want = literal.fine_loss(h, s, n, tau, kind, noise=False)
    out = frame_sentence_official(h, s, n, tau, labelling=kind, noise=False)
    got = out.image + out.text
    torch.testing.assert_close(got, want)
    for a, b in zip(torch.autograd.grad(got, (h, tau), allow_unused=True),
                    torch.autograd.grad(want, (h, tau), allow_unused=True), strict=True):  # fmt: skip
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-4)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 8), st.integers(1, 9), st.integers(0, 10**6), st.sampled_from([-0.5, 0.0, 0.3]))
def test_the_official_viterbi_is_that_of_its_loops(literal, frames, steps, seed, low):
    """Signed, with exact ties and zeros among them."""
    generator = torch.Generator().manual_seed(seed)
    cosines = torch.randint(0, 5, (3, frames, steps), generator=generator) / 5.0 + low
    want = torch.stack([literal.viterbi_labels(c.double()) for c in cosines])
    assert viterbi_official(cosines.double()).equal(want)
    assert viterbi_on_device(cosines.double()).equal(want)


def test_the_noise_swamps_the_cosines_as_released():
    """`methods/weaksvr.md`, fact 8: with cosines .35 against .2 of 10, the sample is right 11.5 % of the
    time."""
    torch.manual_seed(0)
    cosines = torch.full((400, 10, 10), 0.2)
    cosines[..., 3] = 0.35
    from stepclip.train.losses.frame_sentence_official import _sample

    _, best = _sample(cosines, 14.3, True)
    assert (best == 3).float().mean().item() == pytest.approx(0.115, abs=0.02)


def test_classes_and_unknown_labellings():
    logits, procedures = torch.randn(4, 3), torch.tensor([0, 2, 1, 1])
    one = -sum(logits[i].log_softmax(0)[c] for i, c in enumerate(procedures)) / 4
    torch.testing.assert_close(classification_loss(logits, procedures), one)
    torch.testing.assert_close(classification_loss(logits, procedures, paired=True), 2 * one)
    with pytest.raises(StepclipError, match="did you mean 'sort'"):
        frame_sentence_official(torch.ones(1, 2, 3), torch.ones(1, 2, 3), torch.tensor([2]), 1.0,
                                labelling="srot")  # fmt: skip


def test_every_labelling_by_one_door():
    torch.manual_seed(0)
    frames, steps, lengths = torch.randn(3, 16, 8), torch.randn(3, 6, 8), torch.tensor([6, 2, 4])
    for name in LABELLINGS:
        labels = label_frames(frames, steps, lengths, 14.3, name)
        assert labels.shape == (3, 16) and labels.dtype == torch.int64, name
        assert labels.min() >= 0 and labels.max() < 6
        if not name.startswith("official"):
            assert (labels < lengths[:, None]).all() and labels.equal(labels.sort(1).values), name
    log_p = frame_log_p(frames, steps, lengths, 14.3)
    assert label_frames(frames, steps, lengths, 14.3, "viterbi").equal(pseudo_labels(log_p, lengths))
    official = label_frames(frames, steps, lengths, 14.3, "official-viterbi")
    made = frame_sentence_official(frames, steps, lengths, 14.3, labelling="viterbi", noise=False)
    assert official.equal(made.labels) and not official.equal(pseudo_labels(log_p, lengths))
    sort = [label_frames(frames, steps, lengths, 1.0, "official-sort", seed=s) for s in (0, 0, 1)]
    assert sort[0].equal(sort[1]) and not sort[0].equal(sort[2]) and sort[0].equal(sort[0].sort(1).values)
    assert {"official-sort", "official-viterbi", "official-split", "uniform"} < set(LABELLINGS)
    with pytest.raises(StepclipError, match="did you mean 'prior'"):
        label_frames(frames, steps, lengths, 14.3, "priro")
