from __future__ import annotations

import math

import pytest
import torch
from PIL import Image

from metalearn_cli.core.types import Episode
from metalearn_cli.records.plots import episode_picture, image_grid, learning_curves


def opened(path) -> Image.Image:
    with Image.open(path) as image:
        assert image.format == "PNG"
        return image.convert("RGB")


def lines():
    train = [{"step": s, "train/loss": 2 / s, "train/accuracy": 1 - 1 / s, "train/lr": 0.1} for s in range(20, 620, 20)]
    val = [{"step": s, "val/accuracy": 1 - 2 / s, "val/accuracy_interval": 0.03} for s in (200, 400, 600)]
    return sorted(train + val, key=lambda line: line["step"])


def test_learning_curves(tmp_path):
    path = tmp_path / "plots" / "curves.png"
    learning_curves(lines(), "meta-train 20260101-000000-abcd", path)
    image = opened(path)
    assert image.width > 1.5 * image.height  # two panels: loss and accuracy; the learning rate is none
    assert 600 < image.width < 1600
    colours = {colour for _, colour in image.getcolors(image.width * image.height)}
    assert {(0, 114, 178), (213, 94, 0)} <= colours  # training and validation


def test_learning_curves_of_what_is_not_a_number(tmp_path):
    learning_curves([{"step": s, "train/loss": math.nan, "train/lr": 0.1} for s in (1, 2)], "x", tmp_path / "x.png")
    assert opened(tmp_path / "x.png").width > 200


def test_a_single_step_is_no_curve(tmp_path):
    learning_curves([{"step": 1, "train/loss": 1.0}, {"step": 1, "val/accuracy": 0.5}], "x", tmp_path / "x.png")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("channels", [1, 3])
def test_image_grid(tmp_path, channels):
    images = torch.rand(10, channels, 8, 8)
    image_grid(images, 4, "samples", tmp_path / "grid.png")
    image = opened(tmp_path / "grid.png")
    assert image.size == (4 * 12 * 5, 3 * 12 * 5 + 20)
    drawn = images[5] if channels == 3 else 1 - images[5]  # one channel is ink on white
    corner = torch.tensor(image.getpixel(((12 + 2) * 5, 20 + (12 + 2) * 5))) / 255
    assert torch.allclose(corner, drawn[:, 0, 0].expand(3), atol=0.01)
    assert min(image.getpixel((x, y))[0] for x in range(60) for y in range(20)) < 100  # the title
    empty = {image.getpixel((x, image.height - 8)) for x in range(image.width // 2 + 8, image.width)}
    assert empty == {(255, 255, 255)}  # the last row has two of four


def test_episode_picture_tells_right_from_wrong(tmp_path):
    y = torch.arange(6) % 2
    episode = Episode(torch.rand(2, 1, 8, 8), torch.tensor([0, 1]), torch.rand(6, 1, 8, 8), y)
    right = torch.nn.functional.one_hot(y, 2).float()
    green, red = (0, 158, 115), (213, 94, 0)
    for name, logits, expected in (("right", right, {green}), ("wrong", 1 - right, {red})):
        episode_picture(episode, logits, tmp_path / f"{name}.png")
        image = opened(tmp_path / f"{name}.png")
        colours = {colour for _, colour in image.getcolors(image.width * image.height)}
        assert colours & {green, red} == expected
