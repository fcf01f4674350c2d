"""The embedded encoder: how it is trained, that what is trained can be loaded, the one that is shipped."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from stepclip.cache.errors import StepclipError
from stepclip.extract import load_encoder
from stepclip.extract.benchlab import pretrain as module
from stepclip.extract.benchlab.batches import Batches
from stepclip.extract.benchlab.examples import IDLE, PATCH, Clip, make_clips, patches
from stepclip.extract.benchlab.pretrain import Training, contrast, pretrain, train, zero_shot
from stepclip.extract.benchlab.procedures import FIRST_SEED, TEST_TASKS, TRAIN_TASKS, make_task
from stepclip.extract.benchlab.smallclip import load_tokenizer
from stepclip.extract.encoders import EMBEDDED
from stepclip.extract.encoders.card import read_card

TINY = Training(steps=2, groups=2, each=4, warm=1, width=64, layers=1)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Clip]:
    folder = tmp_path_factory.mktemp("clips")
    made = make_clips(2, folder, tasks=TRAIN_TASKS, seeds=2, people="train", workers=1, progress=False)
    assert not list(folder.iterdir())  # the files were in passing
    return made


@pytest.fixture(scope="module")
def trained(clips: list[Clip], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoder") / "tiny"
    train(clips, folder, TINY, progress=False)
    return folder


# ---- examples


def test_clips_are_of_benches_that_no_user_makes(clips: list[Clip]) -> None:
    for i, clip in enumerate(clips):
        assert clip.task == make_task(1, FIRST_SEED + i)
        n = len(clip.steps)
        assert clip.pictures.shape == (n, 112, 112, 3) and clip.pictures.dtype == np.uint8
        assert clip.regions.shape == (n, 8, 8)
        assert set(clip.steps.tolist()) == {-1, *range(len(clip.task.scripts[clip.procedure - 1]))}
        inside = clip.steps[clip.steps >= 0]
        assert (np.diff(inside) >= 0).all()
        assert {0, 255} < set(np.unique(clip.regions).tolist()) <= {0, 255, *range(1, 8)}


def test_patches_by_a_loop() -> None:
    rng = np.random.default_rng(0)
    for sparse in (0.0, 0.6, 0.85, 1.0):
        coarse = rng.choice([1, 2, 5, 255], (28, 28))
        labels = np.kron(np.where(rng.random((28, 28)) < sparse, 0, coarse), np.ones((4, 4), int))
        expected = np.zeros((8, 8), int)
        for row in range(8):
            for column in range(8):
                cell = labels[row * PATCH : (row + 1) * PATCH, column * PATCH : (column + 1) * PATCH]
                counts = {label: int((cell == label).sum()) for label in (1, 2, 5, 255)}
                best = max(counts, key=lambda label: counts[label])
                if counts[best] > PATCH * PATCH / 5:
                    expected[row, column] = best
        assert (patches(labels) == expected).all() and (sparse == 1.0 or expected.any())


def test_batches_are_frames_with_words_of_their_own(clips: list[Clip], trained: Path) -> None:
    tokenizer = load_tokenizer(trained)
    batches = Batches(clips, tokenizer, "cpu", 0)
    batch = batches.draw(3, 5, 0.0)
    assert batch.pictures.shape == (15, 3, 112, 112) and batch.regions.shape == (15, 8, 8)
    assert batch.names.shape == (15, 3) and len(batch.paragraphs) == 3
    shown = torch.from_numpy(np.concatenate([clip.pictures for clip in clips])).permute(0, 3, 1, 2)
    for group in range(3):
        owners = set()
        for k in range(5):
            row = int((shown == batch.pictures[group * 5 + k]).flatten(1).all(1).nonzero()[0])
            clip = clips[int(row >= len(clips[0].steps))]
            owners.add(id(clip))
            step = int(np.concatenate([c.steps for c in clips])[row])
            said = tokenizer.decode(batches.table[batch.texts[group * 5 + k]], skip_special_tokens=True)
            forms = IDLE
            if step >= 0:
                script = clip.task.scripts[clip.procedure - 1]
                forms = tuple(clip.task.sentence(script[step], form) for form in range(6))
            assert said.strip() in forms
            if step >= 0:
                told = tokenizer.decode(batch.paragraphs[group], skip_special_tokens=True)
                assert forms[0] in told
        assert len(owners) == 1  # frames of one recording are the hard negatives of one another


# ---- training


def test_what_is_trained_can_be_loaded(trained: Path) -> None:
    encoder = load_encoder(str(trained), device="cpu")
    assert encoder.dim == 256 and encoder.image_size == 112 and encoder.context == 77
    assert encoder.encode_images(np.zeros((2, 60, 80, 3), np.uint8)).shape == (2, 256)
    sentence = "pour the red beaker into the blue flask"
    assert encoder.encode_texts([sentence]).shape == (1, 256)
    tokenizer = load_tokenizer(trained)
    ids = tokenizer(sentence.upper()).input_ids
    assert tokenizer.decode(ids, skip_special_tokens=True).strip() == sentence
    assert ids[0] == tokenizer.bos_token_id and ids[-1] == tokenizer.eos_token_id
    assert encoder.token_counts([sentence]) == [len(ids)]
    lines = [json.loads(line) for line in (trained / "train.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1]
    assert all(line[name] > 0 for line in lines for name in ("captions", "names", "regions"))


def test_training_is_repeatable_and_changes_the_weights(
    clips: list[Clip], trained: Path, tmp_path: Path
) -> None:
    from safetensors.torch import load_file

    train(clips, tmp_path / "again", TINY, progress=False)
    weights = "model.safetensors"
    assert (tmp_path / "again" / weights).read_bytes() == (trained / weights).read_bytes()
    more = Training(**{**vars(TINY), "start": str(trained), "steps": 1})
    train(clips, tmp_path / "more", more, progress=False)
    old, new = load_file(trained / weights), load_file(tmp_path / "more" / weights)
    assert old.keys() == new.keys()
    moved = [float((old[name].float() - new[name].float()).abs().max()) for name in old]
    assert 0 < max(moved) < 0.01  # it goes on from there: a fresh start would be far away


@pytest.mark.slow
def test_two_processes_train_one_model(clips: list[Clip], tmp_path: Path) -> None:
    train(clips, tmp_path, Training(**{**vars(TINY), "processes": 2}), progress=False)
    assert load_encoder(str(tmp_path), device="cpu").dim == 256 and not (tmp_path / "meeting").exists()


def test_a_start_that_does_not_fit_is_refused(clips: list[Clip], trained: Path, tmp_path: Path) -> None:
    for wrong, message in (
        ({"start": str(tmp_path / "nothing")}, "tokenizer.json"),
        ({"start": str(trained), "width": 128}, "another shape"),
        ({"processes": 2, "device": "cuda"}, "processes"),
    ):
        with pytest.raises(StepclipError, match=message):
            train(clips, tmp_path / "out", Training(**{**vars(TINY), **wrong}), progress=False)
    assert not (tmp_path / "out").exists()


def test_contrast_by_a_loop() -> None:
    torch.manual_seed(0)
    image, text = (torch.nn.functional.normalize(torch.randn(5, 4), dim=-1) for _ in range(2))
    ids = torch.tensor([3, 1, 3, 2, 1])
    logits = (7.0 * image @ text.T).numpy().astype(float)
    total = 0.0
    for table in (logits, logits.T):
        for i in range(5):
            same = [j for j in range(5) if ids[j] == ids[i]]
            whole = np.log(np.exp(table[i]).sum())
            total -= sum(table[i, j] - whole for j in same) / len(same) / 10
    assert float(contrast(image, text, ids, torch.tensor(7.0))) == pytest.approx(total, rel=1e-5)


# ---- the whole run


def test_the_whole_run_appears_when_it_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHECKED", 1)
    out = tmp_path / "new" / "encoder"
    (tmp_path / "new" / "encoder.part").mkdir(parents=True)  # a run that was broken off
    (tmp_path / "new" / "encoder.part" / "junk").write_text("x")
    card = pretrain(out, TINY, clips=1, workers=1, progress=False)
    assert json.loads((out / "card.json").read_text()) == card == read_card(str(out))
    assert sorted(path.name for path in out.parent.iterdir()) == ["encoder"] and not (out / "junk").exists()
    encoder = load_encoder(str(out), device="cpu")
    assert card["parameters"] == sum(p.numel() for p in encoder.model.parameters())  # type: ignore[attr-defined]
    checked = [value for key, value in card.items() if key.startswith("zero-shot")]
    assert len(checked) == 2 and all(0 < value["chance"] < 0.5 for value in checked)

    before = {path.name: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(StepclipError, match="exists") as refused:
        pretrain(out, TINY, clips=1, workers=1, progress=False)
    assert "--overwrite" in refused.value.run

    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("the machine went down")

    monkeypatch.setattr(module, "zero_shot", fails)
    with pytest.raises(RuntimeError):  # even when it may be replaced, it is not before the new one is whole
        pretrain(out, TINY, clips=1, workers=1, overwrite=True, progress=False)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


# ---- the encoder that is shipped


def test_the_embedded_encoder_is_small_and_says_what_it_is() -> None:
    assert sum(path.stat().st_size for path in EMBEDDED.iterdir()) < 12_000_000
    encoder = load_encoder("embedded", device="cpu")
    assert encoder.dim == 256
    card = read_card()
    assert card["parameters"] == sum(p.numel() for p in encoder.model.parameters())  # type: ignore[attr-defined]
    for split in ("training", "unseen"):
        told = card[f"zero-shot, unseen people, {split} tasks"]
        assert 0 < told["chance"] < told["accuracy"] < 1 and told["frames"] > 1000


def test_a_text_is_encoded_alike_whatever_stands_beside_it() -> None:
    encoder = load_encoder("embedded", device="cpu")
    short, long = "heat the flask", "pour the red beaker into the blue flask, " * 6
    alone, together = encoder.encode_texts([short]), encoder.encode_texts([long, short])
    np.testing.assert_allclose(alone[0], together[1], rtol=1e-4, atol=1e-5)
    assert np.abs(alone[0] - together[0]).max() > 0.1


def test_zero_shot_is_what_the_encoder_answers(clips: list[Clip]) -> None:
    """Against the encoder as extraction uses it."""
    clips = clips[:1]
    told = zero_shot(EMBEDDED, clips, "cpu")
    encoder = load_encoder("embedded", device="cpu")
    right, chance = [], []
    for clip in clips:
        sentences = sorted({s for p in range(1, 6) for s in clip.task.sentences(p)})
        text = encoder.encode_texts(sentences)
        image = encoder.encode_images(clip.pictures)
        score = (image / np.linalg.norm(image, axis=1)[:, None]) @ (
            text / np.linalg.norm(text, axis=1)[:, None]
        ).T
        for row, step in zip(score, clip.steps, strict=True):
            if step >= 0:
                right.append(sentences[int(row.argmax())] == clip.task.sentences(clip.procedure)[step])
                chance.append(1 / len(sentences))
    assert told["frames"] == len(right)
    assert told["accuracy"] == pytest.approx(np.mean(right), abs=0.03)  # a near tie may fall the other way
    assert told["chance"] == pytest.approx(np.mean(chance), abs=1e-4)


@pytest.mark.slow
def test_the_embedded_encoder_names_steps_of_unseen_people(tmp_path: Path) -> None:
    made = make_clips(10, tmp_path, tasks=TEST_TASKS, seeds=10, people="test", workers=2, progress=False)
    told = zero_shot(EMBEDDED, made, "cpu")
    assert told["accuracy"] > 2 * told["chance"]
    assert told["accuracy"] == pytest.approx(
        read_card()["zero-shot, unseen people, unseen tasks"]["accuracy"], abs=0.12
    )
