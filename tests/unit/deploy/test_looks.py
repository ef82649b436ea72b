"""Items that are unlike the examples are named, in the way they differ."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from metalearn_cli.deploy.looks import looks_of, of_recording, of_texts, unlike

EXAMPLES = np.zeros((4, 1, 8, 8), np.float32)
for number, example in enumerate(EXAMPLES):  # ink 1 on 0
    example[0, :, 2 + number // 2] = 0.9
DARK = ("darker", "less contrast")


def of_pictures(x: Any) -> Any:
    return looks_of(x, "image", "unit")


@pytest.mark.parametrize(
    ("x", "told"),
    [
        (EXAMPLES[:1], []),
        (1 - EXAMPLES[:1], ["dark and bright are exchanged: a"]),
        (EXAMPLES[:1] / 3, ["less contrast: a"]),
        (EXAMPLES[:1] + 0.3, ["brighter: a"]),
        (np.concatenate([EXAMPLES[:1], EXAMPLES[:1] / 3]), ["less contrast: b"]),
        (
            0 * np.repeat(EXAMPLES[:1], 7, 0),
            [f"{way}: a, b, c, d, e and 2 more" for way in DARK],
        ),
    ],
)
def test_what_differs_is_named(x, told):
    looks = of_pictures(EXAMPLES)
    assert looks is not None and looks.shape == (4, 2)
    assert unlike("image", looks, of_pictures(x), "abcdefg"[: len(x)]) == told


def test_bold_and_thin_drawings_have_the_same_contrast():
    x = np.zeros((2, 1, 8, 8), np.float32)
    x[0, 0, :, 2] = x[1, 0, :, 2:5] = 1
    looks = of_pictures(x)
    assert looks is not None and looks[:, 1].tolist() == [1, 1]
    faded = of_pictures(0.5 * x + 0.2)
    assert "less contrast: thin, bold" in unlike("image", looks, faded, ["thin", "bold"])


def test_texts_differ_in_their_length():
    examples = of_texts(["a" * 10, "b" * 20])
    found = of_texts(["", "a" * 4, "a" * 6, "a" * 39, "a" * 41, "a" * 400])
    assert unlike("text", examples, found, "abcdef") == ["shorter: a, b", "longer: e, f"]


def test_recordings_differ_in_length_and_loudness():
    noise = np.random.default_rng(0).normal(size=800).astype(np.float32)

    def looks(*recordings: tuple[float, float]) -> Any:
        padded = [(np.pad(size * noise[: round(800 * min(s, 1))], (0, 800))[:800], s) for size, s in recordings]
        return np.array([of_recording(samples, 800, seconds) for samples, seconds in padded], np.float32)

    examples = looks((0.1, 0.5), (0.05, 1))
    assert looks((0.1, 0.25))[0, 1] == pytest.approx(-20, abs=1)  # decibels, without the silence behind it
    found = looks((0.1, 0.2), (0.1, 3), (0.001, 1), (0.5, 1), (0.02, 0.4), (0, 1))
    told = ["shorter: a", "longer: b", "quieter: c, f", "louder: d"]
    assert unlike("audio", examples, found, "abcdef") == told


def test_other_items_have_no_looks():
    assert looks_of(np.zeros((2, 5), np.float32), "vector", "real") is None
    assert looks_of(np.zeros((2, 1, 8, 8), np.float32), "audio", "unit") is None
