"""Paragraph modes against a literal reference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepclip.cache.errors import StepclipError
from stepclip.extract.encoders import load_encoder
from stepclip.extract.paragraphs import MODES, encode_paragraphs, pack


class Words:
    """A stand-in encoder: a token per word and per comma, plus start and end; a feature that sums its tokens'
    hashes.
    """

    name, dim, image_size, context, device, precision = "words", 6, 8, 10, "cpu", "fp32"

    def __init__(self) -> None:
        self.seen: list[str] = []

    def fields(self) -> dict[str, Any]:
        return {"encoder.name": self.name}

    def encode_images(self, images: np.ndarray) -> np.ndarray:
        raise NotImplementedError

    def tokens(self, text: str) -> list[str]:
        return ["<", *text.replace(",", " ,").split(), ">"]

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        self.seen.extend(texts)
        rows = [self.tokens(text)[: self.context] for text in texts]
        return np.array([[sum(len(t) ** k for t in row) for k in range(6)] for row in rows], np.float32)

    def token_counts(self, texts: Sequence[str]) -> list[int]:
        return [len(self.tokens(text)) for text in texts]


SHORT = ("take up", "pour it")
LONG = ("take up the flask", "pour it", "stir", "put the flask down again", "cover it")


def test_a_script_that_fits_is_one_text_unless_sentences_are_asked():
    encoder = Words()
    whole = encoder.encode_texts(["take up, pour it"])[0]
    for mode in ("cut", "chunks"):
        assert encode_paragraphs(encoder, [SHORT], mode)[0][0] == pytest.approx(whole)
    mean = encoder.encode_texts(SHORT).mean(0)
    assert encode_paragraphs(encoder, [SHORT], "sentences")[0][0] == pytest.approx(mean)


def test_a_long_script_in_each_mode():
    encoder = Words()
    assert pack(encoder, LONG) == [LONG[:2], LONG[2:4], LONG[4:]]  # 9, 9 and 4 tokens
    chunks = encoder.encode_texts([", ".join(LONG[:2]), ", ".join(LONG[2:4]), LONG[4]])
    expected = {
        "cut": encoder.encode_texts([", ".join(LONG)])[0],
        "sentences": encoder.encode_texts(LONG).mean(0),
        "chunks": (2 * chunks[0] + 2 * chunks[1] + chunks[2]) / 5,
    }
    for mode in MODES:
        features, report = encode_paragraphs(encoder, [SHORT, LONG], mode)
        assert features[1] == pytest.approx(expected[mode]), mode
        (long,) = report.over_long
        assert long.paragraph == ", ".join(LONG) and long.tokens == 20
        assert long.lost == 3  # the third sentence ends at the 11th token, with the end token
        assert "1 scripts are longer than 10 tokens (up to 20)" in str(report)


def test_every_distinct_text_is_encoded_once():
    encoder = Words()
    encode_paragraphs(encoder, [SHORT, LONG, SHORT, LONG], "sentences")
    assert sorted(encoder.seen) == sorted({*SHORT, *LONG})


def test_mistakes():
    with pytest.raises(StepclipError, match="did you mean 'chunks'"):
        encode_paragraphs(Words(), [SHORT], "chunk")
    with pytest.raises(StepclipError, match="no sentences"):
        encode_paragraphs(Words(), [()], "cut")
    assert encode_paragraphs(Words(), [], "cut")[0].shape == (0, 6)


@given(st.lists(st.integers(1, 14), min_size=1, max_size=12))
def test_packing_keeps_order_and_is_greedy(lengths: list[int]):
    encoder = Words()
    script = tuple(" ".join("w" * length) for length in lengths)
    chunks = pack(encoder, script)
    assert tuple(sentence for chunk in chunks for sentence in chunk) == script
    for chunk, after in zip(chunks, [*chunks[1:], None], strict=True):
        assert encoder.token_counts([", ".join(chunk)])[0] <= encoder.context or len(chunk) == 1
        if after is not None:
            assert encoder.token_counts([", ".join((*chunk, after[0]))])[0] > encoder.context


def test_with_a_real_tokenizer(clip_folder):
    """A CLIP of 16 tokens: the chunk mean differs from the cut text exactly where something is cut."""
    encoder = load_encoder(str(clip_folder), device="cpu")
    long = ("take up the red beaker",) * 4
    cut, report = encode_paragraphs(encoder, [long, SHORT], "cut")
    chunks, _ = encode_paragraphs(encoder, [long, SHORT], "chunks")
    assert [each.tokens for each in report.over_long] == [25]
    assert np.abs(cut[0] - chunks[0]).max() > 1e-3
    assert cut[1] == pytest.approx(chunks[1], abs=1e-5)
