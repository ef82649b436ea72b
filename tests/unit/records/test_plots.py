from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from matplotlib import colormaps
from matplotlib.text import Text
from PIL import Image

from metalearn_cli.core.types import Episode, Fit
from metalearn_cli.records import plots
from metalearn_cli.records.plots import (
    Curve,
    curve_picture,
    episode_picture,
    image_grid,
    learning_curves,
    series_picture,
    spectrograms,
)


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


@pytest.fixture
def texts(monkeypatch):
    """Give the texts of each figure that is drawn, and its lines by label."""
    found: list[set[str]] = []
    curves: dict[str, tuple] = {}
    save = plots._save

    def saving(figure, path):
        found.append({text.get_text() for text in figure.findobj(Text)})
        for line in (line for axis in figure.axes for line in axis.lines):
            curves[str(line.get_label())] = (line.get_linestyle(), [float(y) for y in line.get_ydata()])
        save(figure, path)

    monkeypatch.setattr(plots, "_save", saving)
    return found, curves


def test_curves_are_in_the_units_of_tables_and_apart_without_colour(tmp_path, texts):
    learning_curves([line for line in lines() if "val/accuracy" in line], "x", tmp_path / "x.png")
    (style, values), (found,) = texts[1]["val, with its 95 % interval over episodes"], texts[0]
    assert "accuracy (%)" in found
    assert (style, values) == ("--", [pytest.approx(100 * (1 - 2 / s)) for s in (200, 400, 600)])


@pytest.mark.medium
def test_many_panels_make_a_modest_picture(tmp_path):
    names = [f"train/{name}" for name in "abcde"]
    learning_curves([{"step": s, **dict.fromkeys(names, 1.0)} for s in (1, 2)], "x", tmp_path / "x.png")
    image = opened(tmp_path / "x.png")
    assert image.width <= 1100 and image.height <= 700


def test_learning_curves_of_what_is_not_a_number(tmp_path):
    learning_curves([{"step": s, "train/loss": math.nan, "train/lr": 0.1} for s in (1, 2)], "x", tmp_path / "x.png")
    assert opened(tmp_path / "x.png").width > 200


def test_a_single_step_is_a_point_in_the_middle(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(plots, "_save", lambda figure, path: drawn.append(figure))
    point = {"step": 40, "val/accuracy": 0.5, "val/accuracy_interval": 0.1}
    learning_curves([{"step": 40, "train/loss": 1.0}, point], "x", tmp_path / "x.png")
    ((one, two),) = (figure.axes for figure in drawn)
    assert one.get_xlim() == two.get_xlim() == (39, 41)
    learning_curves([], "x", tmp_path / "x.png")
    assert len(drawn) == 1


@pytest.mark.parametrize("steps", [(1,), (1, 2)])
def test_the_band_of_a_share_ends_at_100_percent_and_no_legend_is_on_it(tmp_path, monkeypatch, steps):
    drawn = []
    monkeypatch.setattr(plots, "_save", lambda figure, path: (figure.draw_without_rendering(), drawn.append(figure)))
    lines = [{"step": s, "val/label_accuracy": 0.99, "val/label_accuracy_interval": 0.03} for s in steps]
    learning_curves(lines, "x", tmp_path / "x.png")
    (axis,) = drawn[0].axes
    ends = [path.vertices[:, 1] for part in axis.collections for path in part.get_paths()]
    assert max(float(end.max()) for end in ends) == 100 and min(float(end.min()) for end in ends) == pytest.approx(96)
    assert axis.get_legend().get_window_extent().y1 < axis.get_window_extent().y0
    assert axis.get_title() == "accuracy on training classes (%)"


@pytest.mark.parametrize("channels", [1, 3])
def test_image_grid(tmp_path, channels):
    images = torch.rand(10, channels, 8, 8)
    image_grid(images, 4, "samples", tmp_path / "grid.png")
    image = opened(tmp_path / "grid.png")
    assert image.size == (4 * 12 * 5, 3 * 12 * 5 + 20)
    drawn = images[5] if channels == 3 else 1 - images[5]  # one channel is ink on white
    corner = torch.tensor(image.getpixel(((12 + 2) * 5, 20 + (12 + 2) * 5))) / 255
    assert torch.allclose(corner, drawn[:, 0, 0].expand(3), atol=0.01)
    assert ink(image, (0, 0, 60, 20))  # the title
    empty = {image.getpixel((x, image.height - 8)) for x in range(image.width // 2 + 8, image.width)}
    assert empty == {(255, 255, 255)}  # the last row has two of four


@pytest.mark.parametrize("channels", [1, 3])
def test_white_images_have_a_frame_and_empty_places_none(tmp_path, channels):
    images = torch.full((5, channels, 28, 28), float(channels > 1))  # one channel is drawn dark on white
    images[3] = torch.nan
    image_grid(images, 4, "", tmp_path / "grid.png")
    image = opened(tmp_path / "grid.png")
    size = 28 + 4
    scale = image.width // (4 * size)
    for place in range(8):
        x, y = place % 4 * size * scale, image.height - (2 - place // 4) * size * scale
        colours = image.crop((x, y, x + size * scale, y + size * scale)).getcolors()
        assert len(colours) == (2 if place in (0, 1, 2, 4) else 1)


def ink(image, box) -> bool:
    return min(min(pixel) for _, pixel in image.crop(box).getcolors(10**6)) < 100


def test_rows_of_a_grid_take_turns_and_bear_their_names(tmp_path):
    named = {"image": torch.ones(6, 3, 8, 8), "rebuilt": torch.full((6, 3, 8, 8), 0.5)}
    image_grid(named, 4, "", tmp_path / "grid.png")
    image = opened(tmp_path / "grid.png")
    left = image.width - 4 * 60
    assert [image.getpixel((left + 30, 20 + 60 * row + 30)) for row in range(4)] == [(255,) * 3, (128,) * 3] * 2
    assert left > 0 and all(ink(image, (0, 20 + 60 * row, left, 80 + 60 * row)) for row in range(4))


def test_a_fast_wave_is_drawn_in_its_whole_height(tmp_path):
    wave = torch.sin(torch.arange(16_000) * 2 * math.pi / 16)  # every 16th sample is the same
    series_picture({"train: owl": wave.expand(1, 1, -1)}, "x", tmp_path / "x.png")
    blue = torch.tensor([0x00, 0x72, 0xB2])
    pixels = torch.from_numpy(np.array(opened(tmp_path / "x.png")))
    assert ((pixels == blue).all(2).sum(0) > 30).sum() > 400


def test_each_channel_of_a_series_has_a_line_and_a_colour(tmp_path):
    x = torch.randn(2, 3, 100, generator=torch.Generator().manual_seed(0))
    series_picture({"train: owl": x, "val: jay": x}, "x", tmp_path / "x.png")
    pixels = torch.from_numpy(np.array(opened(tmp_path / "x.png"))).int()
    for colour in ([0x00, 0x72, 0xB2], [0xD5, 0x5E, 0x00], [0x00, 0x9E, 0x73]):
        there = ((pixels - torch.tensor(colour)).abs() < 40).all(2).any(0).nonzero()
        assert there.max() - there.min() > 500  # over the whole width


def test_series_say_how_large_they_are_and_how_they_are_drawn(tmp_path, texts):
    series_picture({"owl": torch.full((3, 2, 10), 2.5)}, "x", tmp_path / "x.png")
    (told,) = texts[0]
    assert {"2.5", "-2.5"} <= told
    assert any("a line and a colour for each of 2 channels" in text for text in told)


def test_spectrograms_have_time_and_frequency_on_their_edges(tmp_path, texts):
    bands = [100.0 * k for k in range(8)]
    images = torch.zeros(3, 1, 8, 20)
    images[:, :, 6:] = 1  # high and loud
    spectrograms({"train: owl": images, "val: jay": images[:2]}, 0.5, bands, "audio", tmp_path / "x.png")
    (found,) = texts[0]
    assert {"train: owl", "val: jay", "0", "0.25", "200", "400", "600", "audio"} <= found
    assert "time in s, of 0.5 s each; upwards: frequency in Hz; bright: loud" in found
    pixels = torch.from_numpy(np.array(opened(tmp_path / "x.png")))
    ends = (torch.tensor(colormaps["magma"](value, bytes=True)[:3]) for value in (1.0, 0.0))
    bright, dark = ((pixels == colour).all(2).any(1).int() for colour in ends)
    assert 0 < bright.argmax() < dark.argmax()  # the first rows of pixels: high is above


def test_episode_picture_names_what_was_predicted_and_what_is_shown(tmp_path, texts, monkeypatch):
    for limit, number in (("_ROWS", 3), ("_SHOTS", 1), ("_QUERIES", 2)):
        monkeypatch.setattr(plots, limit, number)
    y = torch.arange(4 * 3) % 4
    episode = Episode(torch.rand(8, 1, 8, 8), torch.arange(8) % 4, torch.rand(12, 1, 8, 8), y)
    predicted = torch.where(torch.arange(12) < 4, 3, y)  # the first query of each class is taken for the last
    names = [f"k{way}" for way in range(4)]
    episode_picture(episode, torch.nn.functional.one_hot(predicted, 4).float(), names, tmp_path / "x.png")
    (found,) = texts[0]
    assert {"✗ 3", "✓ 0", "✓ 2", "0: k0", "2: k2"} <= found
    assert not {"✓ 3", "3: k3", "✗ 0"} & found
    told = "shown: the first 3 of 4 classes, the first 2 of 3 queries of each, the first 1 of 2 support items"
    assert f"one validation episode: 75.0 % of 12 queries right (below: the class predicted)\n{told}" in found
    assert opened(tmp_path / "x.png").height < 400


@pytest.mark.medium
def test_curve_picture_tells_queries_and_fits_apart(tmp_path, texts):
    x, between = torch.tensor([[2.0], [1.0], [3.0]]), torch.tensor([[2.0], [1.0], [3.0], [1.5]])
    episode = Episode(x, 2 * x, x, x.square())
    curve_picture([Curve(episode, x, Fit(None, x.square() + 1, None))], "one", tmp_path / "x.png")
    assert "before adaptation" not in texts[1] and "after adaptation" not in texts[1]
    assert texts[1]["predicted"] == ("--", [2.0, 5.0, 10.0])
    fit = Fit(-between, between.square() + 1, 0.5 * between)
    curve_picture([Curve(episode, between, fit)] * 2, "two", tmp_path / "x.png")
    assert texts[1]["queries"] == ("None", [4.0, 1.0, 9.0])
    assert texts[1]["after adaptation"] == ("--", [2.0, 3.25, 5.0, 10.0])
    assert texts[1]["before adaptation"] == (":", [-1.0, -1.5, -2.0, -3.0])
    assert "after adaptation +- 2 standard deviations" in texts[0][1] - texts[0][0]
    assert texts[1]["support"][1] == [4.0, 2.0, 6.0]
    assert {"two", "x", "y", "mse 1 on 3 queries"} <= texts[0][1]
    assert opened(tmp_path / "x.png").width > 600


@pytest.mark.medium
def test_episode_picture_tells_right_from_wrong(tmp_path):
    y = torch.arange(6) % 2
    episode = Episode(torch.rand(2, 1, 8, 8), torch.tensor([0, 1]), torch.rand(6, 1, 8, 8), y)
    right = torch.nn.functional.one_hot(y, 2).float()
    green, red = (0, 158, 115), (213, 94, 0)
    for name, logits, expected in (("right", right, {green}), ("wrong", 1 - right, {red})):
        episode_picture(episode, logits, ["crow", "\ue000"], tmp_path / f"{name}.png")
        image = opened(tmp_path / f"{name}.png")
        colours = {colour for _, colour in image.getcolors(image.width * image.height)}
        assert colours & {green, red} == expected


def test_attributions_are_red_where_they_speak_for_the_answer_and_blue_against_it(tmp_path):
    values = torch.zeros(4, 4)
    values[0, 0], values[3, 3] = 1, -2
    path = tmp_path / "map.png"
    plots.attribution_map(torch.zeros(1, 4, 4), values, "a $b$ c", path, dark=True)
    picture = np.asarray(Image.open(path).convert("RGB")).astype(int)
    height, width = picture.shape[:2]
    right = picture[:, width // 2 : width * 4 // 5]
    red, blue = ((right[..., k] - right[..., 2 - k] > 60).nonzero() for k in (0, 2))
    assert red[0].mean() < height / 2 < blue[0].mean() and red[1].mean() < blue[1].mean()
