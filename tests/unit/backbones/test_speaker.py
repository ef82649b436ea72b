from __future__ import annotations

from pathlib import Path

import pytest
import torch
from encoders import package_into

from metalearn_cli.backbones.speaker import Speaker, mel_filters
from metalearn_cli.core.items import Facts
from metalearn_cli.core.network import check_backbone

WAVES = Facts("audio", (1600,), "real", 2)


def a_file(folder: Path, speaker: Speaker) -> Path:
    """Write weights as Resemblyzer has them."""
    state = {n: t for n, t in speaker.state_dict().items() if n.startswith(("lstm", "linear"))}
    torch.save({"step": 1, "model_state": state | {"similarity_weight": torch.ones(1)}}, folder / "pretrained.pt")
    return folder / "pretrained.pt"


def test_weights_come_from_the_file(tmp_path: Path) -> None:
    one = Speaker(WAVES)
    x = torch.randn(2, 1600)
    check_backbone(one)
    assert not torch.equal(Speaker(WAVES)(x), one(x))
    assert torch.equal(Speaker(WAVES, str(a_file(tmp_path, one)))(x), one(x))


def test_features_have_length_one_and_loudness_does_not_matter() -> None:
    speaker, x = Speaker(WAVES), torch.randn(2, 1600)
    torch.testing.assert_close(speaker(x).norm(dim=1), torch.ones(2))
    torch.testing.assert_close(speaker(0.01 * x), speaker(x))
    torch.testing.assert_close(speaker(x[:, None]), speaker(x))
    assert speaker(torch.zeros(1, 1600)).isfinite().all()


def test_each_filter_has_area_one() -> None:
    filters = mel_filters()
    assert filters.shape == (40, 201)
    wide = filters[20:]  # where a filter covers several frequencies
    torch.testing.assert_close(wide.sum(1) * 40, torch.ones(20), rtol=0.02, atol=0)


@pytest.mark.parametrize(
    "facts",
    [
        Facts("image", (1, 28, 28), "unit", 2),
        Facts("text", (500,), "ids", 2, vocabulary=9),
        Facts("audio", (399,), "real", 2),
        Facts("audio", (2, 1600), "real", 2),
    ],
)
def test_needs_waveforms(facts: Facts) -> None:
    with pytest.raises(ValueError, match=r"^speaker needs waveforms of 400 or more samples; this data has "):
        Speaker(facts)


@pytest.mark.parametrize("damage", ["missing", "text", "other", "shape"])
def test_another_file_is_refused(tmp_path: Path, damage: str) -> None:
    file = tmp_path / "pretrained.pt"
    if damage == "text":
        file.write_text("no weights")
    elif damage == "other":
        torch.save({"model_state": {}}, file)
    elif damage == "shape":
        speaker = Speaker(WAVES)
        speaker.linear = torch.nn.Linear(2, 2)
        a_file(tmp_path, speaker)
    with pytest.raises(ValueError, match=r"^weights .*pretrained\.pt is not the file pretrained\.pt of Resemblyzer \("):
        Speaker(WAVES, str(file))


@pytest.mark.slow
def test_resemblyzers_own_file_is_read(tmp_path: Path) -> None:
    file = package_into(tmp_path, "Resemblyzer") / "resemblyzer" / "pretrained.pt"
    speaker = Speaker(Facts("audio", (25600,), "real", 2), str(file))
    time = torch.arange(25600) / 16000
    low, high = (sum((k * pitch * 6.28 * time).sin() / k for k in range(1, 9)) for pitch in (110, 230))
    z = speaker(torch.stack([low, low.roll(400), high]))
    assert z[0] @ z[1] > 0.99 > z[0] @ z[2] + 0.1
