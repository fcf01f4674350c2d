"""TempCLR's windows, batches and objective: against CLIP, the literal loops, and what must not leak."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from stepclip.cache import FeatureStore, Manifest, StepclipError
from stepclip.train.alignment import cost_matrix
from stepclip.train.losses import sequence_distance
from stepclip.train.method import Setting
from stepclip.train.tempclr import objective
from stepclip.train.tempclr.knobs import TempCLRRecipe
from stepclip.train.tempclr.method import TempCLR, build_model, start
from stepclip.train.tempclr.objective import apart, loss_terms, sequence_term, unit_term

from .conftest import DIM, Made


@pytest.fixture(scope="module")
def literal(released: Callable[[str], ModuleType]) -> ModuleType:
    return released("tempclr")


def recipe(**sections: Any) -> TempCLRRecipe:
    small = {"window": 6, "width": 16, "depth": 1, "heads": 2, **sections.pop("model", {})}
    data = {"batch": 6, "longest": 6, "shortest": 1, **sections.pop("data", {})}
    return TempCLRRecipe.model_validate({"name": "small", "model": small, "data": data, **sections})


def started(made: Made, **sections: Any) -> TempCLR:
    torch.manual_seed(0)
    asked = recipe(**sections)
    rows = made.manifest.split("train")
    rows = rows if asked.needs_times else rows.without_truth()
    return start(asked, Setting(FeatureStore.open(made.store), list(rows), [], torch.device("cpu")))


def units_of(method: TempCLR, step: int = 0, epoch: int = 0) -> Any:
    index, draws, _ = (x[step] for x in method.plan(epoch))
    return method.data.gather(index, draws), index


# ---- the model


def test_the_first_step_is_clip() -> None:
    model = build_model(recipe(), {"feature_dim": DIM, "text_dim": DIM}).eval()
    frames, texts = torch.randn(5, 4, DIM), torch.randn(3, DIM)
    real = torch.arange(4) < torch.tensor([4, 1, 2, 3, 4])[:, None]
    out = model(frames, real, None, texts)
    for window, frame, inside in zip(out.windows, frames, real, strict=True):
        torch.testing.assert_close(window, F.normalize(frame[inside], dim=-1).mean(0), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(out.texts, F.normalize(texts, dim=-1), atol=1e-5, rtol=1e-4)


def trained(**model: Any) -> Any:
    """A model whose branches say something."""
    torch.manual_seed(1)
    made = build_model(recipe(model=model), {"feature_dim": DIM, "text_dim": DIM}).eval()
    for layer in (made.output, made.adapter[1] if made.adapter else None):
        if layer is not None:
            torch.nn.init.normal_(layer.weight)
    return made


def test_windows_are_encoded_alone_and_padding_is_not_seen() -> None:
    """No place in the video, no neighbour and no padding changes a window's vector."""
    model = trained()
    frames, sizes = torch.randn(6, 5, DIM), torch.tensor([5, 1, 3, 2, 4, 5])
    real = torch.arange(5) < sizes[:, None]
    every = model.windows(frames, real)
    order = torch.randperm(6)
    torch.testing.assert_close(model.windows(frames[order], real[order]), every[order], atol=1e-5, rtol=1e-4)
    spoiled = torch.where(real[..., None], frames, 1e4)
    torch.testing.assert_close(model.windows(spoiled, real), every, atol=1e-5, rtol=1e-4)
    turned = model.windows(frames[:1].flip(1), real[:1])
    assert not torch.allclose(turned, every[:1], atol=1e-3)  # inside a window, order counts


@pytest.mark.parametrize("count", [1, 5, 40])
def test_windows_of_many_lengths_are_each_encoded_as_alone(count: int) -> None:
    model = trained(window=16)
    frames, sizes = torch.randn(count, 16, DIM), torch.randint(1, 17, (count,))
    base = torch.randn(count, DIM)
    every = model.windows(frames, torch.arange(16) < sizes[:, None], base)
    for i, size in enumerate(sizes):
        alone = model.windows(
            frames[i : i + 1, :size], torch.ones(1, int(size), dtype=torch.bool), base[i : i + 1]
        )
        torch.testing.assert_close(every[i : i + 1], alone, atol=1e-5, rtol=1e-4)


def test_a_frame_is_embedded_by_the_window_around_it(made: Made) -> None:
    store = FeatureStore.open(made.store)
    packed = store.load("cpu", store.video_ids[:3], progress=False)
    for centre in (False, True):
        model = trained(reach=5, centre=centre)
        video, frames = model.embed_packed(packed, batch=7)
        for v in range(3):
            own = F.normalize(packed.features[packed.rows(v)].float(), dim=-1)
            base = own.mean(0, keepdim=True) if centre else None
            for t in (0, 1, len(own) // 2, len(own) - 1):
                first = min(max(t - 2, 0), max(len(own) - 5, 0))
                window = packed.features[packed.rows(v)][first : first + 5][None]
                want = model.windows(window, torch.ones(1, window.shape[1], dtype=torch.bool), base)
                torch.testing.assert_close(frames[packed.rows(v)][t], want[0], atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(video[v], frames[packed.rows(v)].mean(0), atol=1e-5, rtol=1e-4)


# ---- batches


def test_given_spans_are_the_true_times(made: Made) -> None:
    data = started(made, data={"spans": "given"}).data
    for v, video_id in enumerate(data.ids):
        shown = torch.as_tensor(made.labels[video_id])
        for k in range(int(data.steps[v])):
            start, end = data.spans[v, k].tolist()
            assert torch.equal((shown == k).nonzero()[:, 0], torch.arange(start, end))


@pytest.mark.parametrize("spans", ["visit-all", "prior", "uniform"])
def test_spans_without_times_cover_the_video_in_order(made: Made, spans: str) -> None:
    data = started(made, data={"spans": spans}).data
    right = rows = 0
    for v, video_id in enumerate(data.ids):
        n = int(data.steps[v])
        assert data.spans[v, 0, 0] == 0 and data.spans[v, n - 1, 1] == data.lengths[v]
        assert torch.equal(data.spans[v, 1:n, 0], data.spans[v, : n - 1, 1])
        shown = torch.as_tensor(made.labels[video_id])
        for k in range(n):
            start, end = data.spans[v, k].tolist()
            right, rows = right + int((shown[start:end] == k).sum()), rows + end - start
    assert right / rows > (0.95 if spans != "uniform" else 0.5)  # what they are for


def test_times_that_are_not_there_are_asked_for(made: Made) -> None:
    bare = Made(made.store, made.manifest.without_truth(), made.labels)
    with pytest.raises(StepclipError, match="no step times"):
        started(bare, data={"spans": "given"})


@pytest.mark.parametrize("units", ["drawn", "script"])
def test_windows_lie_over_their_sentence_in_the_order_of_the_script(made: Made, units: str) -> None:
    method = started(made, data={"units": units, "windows": 2, "pairs": 8, "shortest": 2, "longest": 4})
    data = method.data
    for step in range(method.steps_of_epoch):
        found, index = units_of(method, step)
        for b, v in enumerate(index.tolist()):
            real = found.there[b]
            assert bool(real[: int(real.sum())].all())  # padding comes last
            assert (found.step[b][real].diff() >= 0).all()
            if units == "script":
                assert torch.bincount(found.step[b][real]).tolist() == [2] * int(data.steps[v])
            for p in real.nonzero()[:, 0].tolist():
                start, end = data.spans[v, found.step[b, p]].tolist()
                first, last = int(found.first[b, p]), int(found.last[b, p])
                assert 0 <= first < last <= int(data.lengths[v]) and 2 <= last - first <= 4
                assert first < end and last > start  # they overlap
                rows = data.packed.features[int(data.first[v]) + first : int(data.first[v]) + last]
                assert torch.equal(found.frames[b, p][found.real[b, p]], rows)


def test_labelled_rows_are_inside_their_step(made: Made) -> None:
    method = started(made, data={"units": "rows", "spans": "given", "rows": 3}, loss={"naming": 0.88})
    found, index = units_of(method)
    for b, v in enumerate(index.tolist()):
        shown = made.labels[method.ids[v]]
        assert int(found.there[b].sum()) == min(3 * int(method.data.steps[v]), len(shown))
        for p in found.there[b].nonzero()[:, 0].tolist():
            row = int(found.first[b, p] + found.last[b, p]) // 2
            assert int(found.first[b, p]) <= row < int(found.last[b, p])
    terms = method.terms(method.model, tuple(x[0] for x in method.plan(0)))
    assert set(terms) == {"loss", "unit", "naming", "sequence"}


def test_the_plan_is_a_function_of_seed_and_epoch(made: Made) -> None:
    one, other = started(made), started(made)
    for a, b in zip(one.plan(3), other.plan(3), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(one.plan(3)[0], one.plan(4)[0])
    every = one.plan(0)[0].flatten().tolist()
    assert len(set(every)) == len(every)


def test_neighbours_meet(made: Made) -> None:
    method = started(made, data={"batch": 4, "neighbours": 6})
    means = method.data.means
    for index in method.plan(1)[0]:
        for seed in index.tolist():
            near = torch.cdist(means[seed][None], means)[0].argsort()[:6].tolist()
            if set(index.tolist()) <= set(near):
                break
        else:
            raise AssertionError("no video whose neighbours these are")
        assert len(set(index.tolist())) == 4
    plain = started(made, data={"batch": 4}).plan(0)[0]
    assert torch.equal(method.plan(0)[0], plain)  # the first epoch is plain


@pytest.mark.parametrize("strict", [False, True])
def test_pairs_apart_are_the_literal_greedy_choice(made: Made, literal: ModuleType, strict: bool) -> None:
    method = started(made, data={"batch": 20, "pairs": 16, "shortest": 1, "longest": 3, "spans": "given"})
    seen = set()
    for epoch in range(3):
        units, _ = units_of(method, 0, epoch)
        for length in (2, 3):
            chosen, counts = apart(units, length, strict)
            for b in range(len(counts)):
                pairs = list(
                    zip(*(x[b].tolist() for x in (units.step, units.first, units.last)), strict=True)
                )
                if strict:
                    kept = literal.greedy([(s, s + 1, first, last) for s, first, last in pairs])
                else:
                    kept = literal.greedy([(s, s + 0.5, first, last - 0.5) for s, first, last in pairs])
                assert bool(counts[b]) == (len(kept) >= length)
                if len(kept) >= length:
                    want = [kept[int(x)] for x in torch.linspace(0, len(kept) - 1, length)]
                    assert chosen[b].tolist() == want
                seen.add(bool(counts[b]))
    assert True in seen


# ---- the objective


def test_the_released_objective(made: Made, literal: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawn pairs, raw products, 1 - cosine with its 0.01, all other orders of the texts: term by term."""
    loss = {"unit_form": "dot", "same": "wrong", "cost": "tempclr", "length": 3, "negatives": 99}
    method = started(made, data={"pairs": 12, "longest": 3, "spans": "given"}, loss=loss)
    units, _ = units_of(method)
    videos, windows = units.real.shape[:2]
    torch.manual_seed(3)
    encoded, texts = torch.randn(videos, windows, DIM), torch.randn(videos, units.words.shape[1], DIM)
    chosen, counts = apart(units, 3, False)
    assert int(counts.sum()) > 0
    own = [(texts[b][units.step[b, chosen[b]]], encoded[b, chosen[b]]) for b in range(videos) if counts[b]]
    want = literal.sequence_loss([t for t, _ in own], [c for _, c in own], 5)
    terms = loss_terms(
        method.model, encoded, texts, units, method.recipe.loss, "drawn", torch.tensor([0.3, 0.0, 0.7, 0.0])
    )
    assert float(terms["sequence"]) == pytest.approx(float(want), abs=1e-4)
    paired = torch.stack([texts[b][units.step[b]] for b in range(videos)]).flatten(0, 1)
    unit_want = literal.unit_loss(encoded.flatten(0, 1), paired)
    assert float(terms["unit"]) == pytest.approx(float(unit_want), rel=1e-5)
    assert float(terms["loss"]) == pytest.approx(0.3 * float(unit_want) + 0.7 * float(want), rel=1e-5)


def test_rivals_are_the_scripts_of_other_procedures(made: Made) -> None:
    loss = {"rivals": True, "normalise": "L+N", "tau": 0.2, "gamma": 0.05, "negatives": 4}
    method = started(made, data={"units": "script", "batch": 8}, loss=loss)
    units, _ = units_of(method)
    torch.manual_seed(0)
    encoded = torch.randn(*units.real.shape[:2], DIM)
    texts = torch.randn(len(encoded), units.words.shape[1], DIM)
    torch.manual_seed(5)
    m = objective._whole(encoded, texts, units, method.recipe.loss)
    found = sequence_term(m, units.procedures, method.recipe.loss, torch.tensor(0.2))
    torch.manual_seed(5)
    wrong, real = objective._reordered(m.own, m, method.recipe.loss)

    def distance(script: int, video: int) -> torch.Tensor:
        rows, columns = int(units.steps[script]), int(units.there[video].sum())
        cost = cost_matrix(texts[script, :rows], encoded[video, :columns])
        return sequence_distance(cost, gamma=0.05, normalise="L+N")

    asked, answered = [], []
    for v in range(len(encoded)):
        others = [u for u in range(len(encoded)) if units.procedures[u] != units.procedures[v]]
        own = distance(v, v)
        mine = torch.stack([own, *wrong[v][real[v]], *(distance(u, v) for u in others)])
        asked.append(F.cross_entropy(-mine[None] / 0.2, torch.tensor([0])))
        theirs = torch.stack([own, *(distance(v, u) for u in others)])
        answered.append(F.cross_entropy(-theirs[None] / 0.2, torch.tensor([0])))
    want = (torch.stack(asked).mean() + torch.stack(answered).mean()) / 2
    assert float(found) == pytest.approx(float(want), abs=1e-4)


def test_standardised_costs_do_not_see_the_scale(made: Made) -> None:
    """CLIP's cosines lie close together: halving all differences changes nothing."""
    loss = {"standardise": True, "normalise": "L+N"}
    method = started(made, data={"units": "script"}, loss=loss)
    units, _ = units_of(method)
    encoded, texts = torch.randn(*units.real.shape[:2], DIM), torch.randn(6, units.words.shape[1], DIM)
    m = objective._whole(encoded, texts, units, method.recipe.loss)
    found = []
    for factor in (1.0, 0.01):
        torch.manual_seed(0)
        scaled = m._replace(own=factor * m.own)
        found.append(float(sequence_term(scaled, units.procedures, method.recipe.loss, torch.tensor(1.0))))
    assert found[0] == pytest.approx(found[1], abs=1e-4) and found[0] > 0


def test_the_video_form_wants_a_partner(made: Made) -> None:
    loss = {"videos": 1.0, "sequence": 0.0, "unit": 0.0, "normalise": "L+N", "tau": 0.05, "negatives": 8}
    method = started(made, data={"units": "script", "batch": 18, "windows": 2}, loss=loss)
    units, _ = units_of(method)
    # each window shows its sentence: a partner has the same vectors in the same order
    words = torch.eye(DIM)[torch.arange(12)]
    encoded = words[units.words.gather(1, units.step)]
    perfect = objective.video_term(encoded, units, method.recipe.loss, torch.tensor(0.05))
    torch.manual_seed(0)
    noise = objective.video_term(torch.randn_like(encoded), units, method.recipe.loss, torch.tensor(0.05))
    assert float(perfect) < 0.2 < 1.0 < float(noise)
    alone = units._replace(procedures=torch.arange(len(encoded)))
    assert float(objective.video_term(encoded, alone, method.recipe.loss, torch.tensor(0.05))) == 0


def test_stage_b_moves_layer_norms_and_nothing_else(made: Made) -> None:
    loss = {"learn_tau": True, "normalise": "L+N"}
    method = started(
        made, data={"units": "script"}, loss=loss, stages={"first": 1, "rate": 0.5}, train={"epochs": 2}
    )
    optimiser = torch.optim.AdamW(method.model.parameters(), lr=1e-2)
    moved = {}
    for epoch, rate in ((0, 1.0), (1, 0.5)):
        assert method.begin(epoch) == rate
        before = {name: p.detach().clone() for name, p in method.model.named_parameters()}
        terms = method.terms(method.model, tuple(x[0] for x in method.plan(epoch)))
        optimiser.zero_grad()
        terms["loss"].backward()
        method.after_backward()
        optimiser.step()
        moved[epoch] = {n for n, p in method.model.named_parameters() if not torch.equal(p, before[n])}
    norms = {id(p) for p in method.model.norms()}
    names = {n for n, p in method.model.named_parameters() if id(p) in norms}
    assert moved[1] <= names | {"log_tau"} and moved[1] & names and "log_tau" in moved[1]
    assert moved[0] - names - {"log_tau"}  # stage A moved the rest, by the unit loss alone


def test_other_pairs_of_the_sentence_are_not_pushed_away(made: Made) -> None:
    """A perfect model has no loss; where they count as wrong, the logarithm of how many there are is left."""
    left = {}
    for same in ("unused", "wrong"):
        method = started(made, loss={"same": same}, data={"units": "script", "windows": 2})
        method.model.log_scale.data.fill_(4.6)
        units, _ = units_of(method)
        words = torch.eye(DIM)[torch.arange(12)]
        encoded = words[units.words.gather(1, units.step)]
        left[same] = float(
            unit_term(method.model, encoded, words[units.words], units, method.recipe.loss).detach()
        )
    assert left["unused"] < 1e-3 and left["wrong"] > 2


@pytest.mark.parametrize(
    ("sections", "named"),
    [
        ({"data": {"longest": 9}}, "data.longest"),
        ({"loss": {"naming": 1.0}}, "loss.naming"),
        ({"data": {"units": "rows"}}, "data.spans"),
        ({"loss": {"unit": 0.0, "sequence": 0.0}}, "loss.unit"),
        ({"loss": {"unit": 0.0}, "stages": {"first": 2}}, "loss.unit"),
        ({"model": {"width": 15}}, "model.width"),
        ({"data": {"pairs": 3}}, "loss.length"),
        ({"data": {"batch": 1}, "loss": {"rivals": True}}, "data.batch"),
        ({"model": {"reach": 7}}, "model.reach"),
        ({"stages": {"first": 4}, "train": {"epochs": 3}}, "stages.first"),
    ],
)
def test_knobs_that_do_not_fit(sections: dict, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        recipe(**sections)


def test_a_manifest_is_not_asked_for_more_than_it_says(made: Made) -> None:
    assert not recipe().needs_times and recipe(data={"spans": "given"}).needs_times
    assert isinstance(made.manifest, Manifest)
