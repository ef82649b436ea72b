"""Pictures of a run, as PNG files: learning curves, grids of images, an episode.

Legend: N images, C channels (1 or 3), H height, W width.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from metalearn_cli.core.importing import importing
from metalearn_cli.core.metric import metric_named
from metalearn_cli.core.types import Episode, Fit
from metalearn_cli.records.calibration import BINS, Calibration
from metalearn_cli.records.fonts import SIZE, font_of
from metalearn_cli.records.runs import write_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_CELL, _TITLE = 60, 20  # pixels: minimum width of an image in a grid; height of the title
_FRAME = "#b0b0b0"  # without it, a white image is not seen
_PANELS = {"label_accuracy": "accuracy on training classes"}  # titles that say more than the metric's name
_ACROSS = 3  # panels of learning curves in a row
_POINTS = 1000  # most points of a series that are drawn
_BARS = 40  # parts of an item that are drawn
_ROWS, _SHOTS, _QUERIES = 10, 5, 8  # maximum numbers of classes, and of items per class, of a drawn episode
# two colours that differ in print and for the colour-blind (Okabe & Ito 2008); the line styles differ without colour
_STYLES = {"train": ("#0072B2", "-"), "val": ("#D55E00", "--")}
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")  # of a series' channels, in turn


def learning_curves(lines: Sequence[dict[str, float]], title: str, path: Path) -> None:
    """Draw each metric of metrics.jsonl over steps, training and validation in one panel.

    Args:
        lines: as `records.metrics.read_metrics` returns them.
        title: the title.
        path: the PNG file.
    """
    names = {name for line in lines for name in line if "/" in name and not name.endswith("_interval")}
    panels = sorted({name.split("/", 1)[1] for name in names} - {"lr"})
    if not panels:
        return
    across = min(len(panels), _ACROSS)
    down = -(-len(panels) // across)
    figure = _figure(3.6 * across, 3.0 * down)
    axes = list(figure.subplots(down, across, squeeze=False).flat)
    for axis in axes[len(panels) :]:
        axis.remove()
    for axis, panel in zip(axes[: len(panels)], panels, strict=True):
        share = metric_named(panel).unit == "share"  # shown in percent, as in tables
        for part, (colour, line_style) in _STYLES.items():
            name = f"{part}/{panel}"
            points = [(line["step"], line[name], line.get(f"{name}_interval")) for line in lines if name in line]
            if not points:
                continue
            steps, measured, intervals = zip(*points, strict=True)
            values = [100 * v if share else v for v in measured]
            marker = "o" if len(points) < 20 else None
            label = part
            if all(half is not None for half in intervals):
                halves = [100 * h if share else h for h in intervals]
                low, high = ([v + sign * h for v, h in zip(values, halves, strict=True)] for sign in (-1, 1))
                if share:
                    low, high = [max(v, 0) for v in low], [min(v, 100) for v in high]
                axis.fill_between(steps, low, high, color=colour, alpha=0.2, linewidth=0)
                if len(steps) == 1:
                    axis.errorbar(steps, values, [[values[0] - low[0]], [high[0] - values[0]]], color=colour, capsize=3)
                label = f"{part}, with its 95 % interval over episodes"
            axis.plot(steps, values, color=colour, linestyle=line_style, label=label, marker=marker, markersize=3)
        axis.set_xlabel("step")
        axis.xaxis.get_major_locator().set_params(integer=True)
        if len(reached := {line["step"] for line in lines}) == 1:
            axis.set_xlim(min(reached) - 1, max(reached) + 1)
        axis.set_title(_PANELS.get(panel, panel.replace("_", " ")) + (" (%)" if share else ""), fontsize=10)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.2))  # beside the curves
    figure.suptitle(title, fontsize=11)
    _save(figure, path)


def image_grid(images: Tensor | Mapping[str, Tensor], columns: int, title: str, path: Path) -> None:
    """Draw images in [0, 1] row by row, each in a thin frame, below a title.

    Args:
        images: [N, C, H, W], or several of one shape by name, whose rows alternate and have the names as labels; an
            image of NaN is an empty place.
        columns: images in a row.
        title: the title.
        path: the PNG file.
    """
    named = images if isinstance(images, Mapping) else {"": images}
    first = next(iter(named.values()))
    count, channels, height, width = first.shape
    rows = -(-count // columns)
    white = float(channels > 1)  # one channel is drawn dark on white, see `_pixels`
    cells = torch.full((rows, len(named), columns, channels, height + 4, width + 4), white)
    there = torch.zeros(rows, len(named), columns, dtype=torch.bool)
    for turn, part in enumerate(named.values()):
        padded = torch.full((rows * columns, channels, height, width), torch.nan)
        padded[:count] = part
        there[:, turn] = ~padded.isnan().flatten(1).all(1).unflatten(0, (rows, columns))
        cells[:, turn, :, :, 2:-2, 2:-2] = padded.nan_to_num(white).unflatten(0, (rows, columns))
    sheet = cells.flatten(0, 1).permute(2, 0, 3, 1, 4).flatten(1, 2).flatten(2)
    scale = -(-_CELL // (width + 4))
    grid = Image.fromarray(_pixels(sheet)).convert("RGB").resize((sheet.shape[2] * scale, sheet.shape[1] * scale), 0)
    fonts = {name: _font(name) for name in named}
    left = max(8 + int(font.getlength(name)) if name else 0 for name, font in fonts.items())
    picture = Image.new("RGB", (left + grid.width, grid.height + _TITLE), "white")
    picture.paste(grid, (left, _TITLE))
    draw = ImageDraw.Draw(picture)
    draw.text((4, 2), title, "black", _font(title))
    tall, wide = scale * (height + 4), scale * (width + 4)
    for row, column in there.flatten(0, 1).nonzero().tolist():
        x, y = left + column * wide + 2 * scale, _TITLE + row * tall + 2 * scale
        draw.rectangle((x - 1, y - 1, x + scale * width, y + scale * height), outline=_FRAME)
    for row, name in enumerate(list(named) * rows):
        draw.text((4, _TITLE + row * tall + tall // 2), name, "black", fonts[name], anchor="lm")
    file = io.BytesIO()
    picture.save(file, "PNG")
    _write(file, path)


def _font(text: str) -> Any:
    """Return a font for a text; one without its letters if there is none."""
    path = font_of(text)
    return ImageFont.truetype(path, SIZE) if path else ImageFont.load_default(SIZE)


def series_picture(series: Mapping[str, Tensor], title: str, path: Path) -> None:
    """Draw series, a panel for each name with one series above the other and a line for each channel.

    The marks of a panel are the largest size of its values, above and below the zero of its first line.

    Args:
        series: [N, C, L] by name; every panel has the same C.
        title: the title.
        path: the PNG file.
    """
    channels = next(iter(series.values())).shape[1]
    figure = _figure(8.0, max(0.9, 0.3 * channels) * len(series) + 0.6)
    panels = figure.subplots(len(series), 1, squeeze=False)[:, 0]
    for axis, (name, items) in zip(panels, series.items(), strict=True):
        apart = float(items.abs().max()) * 2 or 1.0
        for i, item in enumerate(items):
            for c, line in enumerate(item):
                below = apart * (i * (channels + (channels > 1)) + c)  # a gap between items of several channels
                places, values = _envelope(line)
                axis.plot(places, values - below, color=_COLOURS[c % len(_COLOURS)], linewidth=0.6)
        half = apart / 2
        axis.set_yticks([half, -half], [f"{half:.3g}", f"{-half:.3g}"], fontsize=5)
        if axis is not panels[-1]:
            axis.set_xticks([])
        _label(axis, name)
    colours = f", a line and a colour for each of {channels} channels" * (channels > 1)
    told = f"items one below the other{colours}; marks: the range of the first line; to the right: samples"
    panels[-1].set_xlabel(told, fontsize=8)
    figure.suptitle(title, fontsize=11)
    _save(figure, path)


def _envelope(line: Tensor) -> tuple[Tensor, Tensor]:
    """Return the places and the values of a series [L]; of a long one, the lowest and highest of each stretch.

    Every so many samples would not do: a fast wave would look like a slow one.
    """
    step = -(-len(line) // _POINTS)
    whole = len(line) // step * step
    stretches = line[:whole].unflatten(0, (-1, step))
    values = torch.stack([stretches.amin(1), stretches.amax(1)], 1) if step > 1 else stretches
    return torch.arange(0, whole, step).repeat_interleave(values.shape[1]), values.flatten()


def spectrograms(images: Mapping[str, Tensor], seconds: float, bands: Sequence[float], title: str, path: Path) -> None:
    """Draw spectrograms, a row for each name, with the time and the frequency on their edges.

    Args:
        images: [N, 1, M, F] by name, with values in [0, 1].
        seconds: that each of them lasts.
        bands: the middle frequencies [M] of their bands, in Hz.
        title: the title.
        path: the PNG file.
    """
    most = max(len(own) for own in images.values())
    figure = _figure(max(6.0, 1.2 * most + 1.5), 0.8 * len(images) + 1.0)
    rows = figure.subplots(len(images), 1, squeeze=False)[:, 0]
    apart = 1.06 * seconds  # from the beginning of one to that of the next
    marked = [len(bands) * k // 4 for k in range(4)]
    for axis, (name, own) in zip(rows, images.items(), strict=True):
        for i, image in enumerate(own):
            place = (i * apart, i * apart + seconds, -0.5, len(bands) - 0.5)
            axis.imshow(image[0].numpy(), cmap="magma", vmin=0, vmax=1, origin="lower", aspect="auto", extent=place)
        axis.set_xlim(0, most * apart)
        axis.set_xticks([i * apart + part * seconds for i in range(most) for part in (0, 0.5)], [])
        axis.set_yticks(marked, [f"{bands[k]:.0f}" for k in marked], fontsize=6)
        axis.spines[["top", "right"]].set_visible(False)
        _label(axis, name)
    rows[-1].set_xticks(rows[-1].get_xticks(), [f"{part * seconds:g}" for _ in range(most) for part in (0, 0.5)])
    rows[-1].tick_params("x", labelsize=7)
    rows[-1].set_xlabel(f"time in s, of {seconds:g} s each; upwards: frequency in Hz; bright: loud", fontsize=8)
    figure.suptitle(title, fontsize=11)
    _save(figure, path)


def attribution_map(
    item: Tensor, values: Tensor, title: str, path: Path, dark: bool, seconds: float = 0.0, bands: Sequence[float] = ()
) -> None:
    """Draw an item, and beside it what each of its pixels speaks for: red for the answer, blue against it.

    Args:
        item: a picture or spectrogram [C, H, W] with values in [0, 1].
        values: of the pixels [H, W]; negative ones speak against the answer.
        title: the title.
        path: the PNG file.
        dark: whether a picture of one channel is drawn dark on white, as ink.
        seconds: that a spectrogram lasts; 0 for a picture.
        bands: the middle frequencies [H] of its bands, in Hz; () for a picture.
    """
    figure = _figure(7.0, 3.4)
    left, right = figure.subplots(1, 2)
    most = float(values.abs().max()) or 1.0
    plain = (item if len(item) == 3 else item.expand(3, -1, -1)).permute(1, 2, 0).clamp(0, 1)
    sound = len(bands) > 0
    plain = 1 - plain if dark or sound else plain
    placed: dict[str, Any] = {"interpolation": "nearest"}
    if sound:
        placed |= {"origin": "lower", "aspect": "auto", "extent": (0, seconds, -0.5, len(bands) - 0.5)}
    left.imshow(plain.numpy(), **placed)
    right.imshow((0.6 + 0.4 * plain).numpy(), **placed)  # pale, below the map
    shown = right.imshow(values.numpy(), cmap="RdBu_r", vmin=-most, vmax=most, alpha=0.75, **placed)
    for axis in (left, right):
        if not sound:
            axis.set_xticks([])
            axis.set_yticks([])
            continue
        marked = [len(bands) * k // 4 for k in range(4)]
        axis.set_yticks(marked, [f"{bands[k]:.0f}" for k in marked], fontsize=7)
        axis.set_xlabel("time in s; upwards: frequency in Hz", fontsize=8)
    bar = figure.colorbar(shown, ax=right)
    bar.set_label("red: speaks for the answer, blue: against it", fontsize=8)
    _head(figure, title)
    _save(figure, path)


def attribution_bars(
    parts: Sequence[tuple[str, float]],
    title: str,
    path: Path,
    told: str = "red: speaks for the answer, blue: against it",
    halves: Sequence[float] | None = None,
) -> None:
    """Draw the values of parts, a bar for each of the strongest: red for positive ones, blue for others.

    Args:
        parts: the name and the value of each.
        title: the title.
        path: the PNG file.
        told: what values mean.
        halves: the half-widths of their intervals, if they have any.
    """
    strongest = sorted(range(len(parts)), key=lambda i: -abs(parts[i][1]))[:_BARS]
    some = "" if len(parts) <= _BARS else f"; the strongest {_BARS} of {len(parts)}"
    names, values = [parts[i][0] for i in sorted(strongest)], [parts[i][1] for i in sorted(strongest)]
    figure = _figure(6.0, 0.22 * len(names) + 1.2)
    axis = figure.subplots()
    errors = None if halves is None else [halves[i] for i in sorted(strongest)]
    colours = ["#B2182B" if value > 0 else "#2166AC" for value in values]
    axis.barh(range(len(names)), values, xerr=errors, color=colours, capsize=3)
    axis.axvline(0, color="black", linewidth=0.6)
    axis.set_yticks(range(len(names)), names, fontsize=8)
    for label, name in zip(axis.get_yticklabels(), names, strict=True):
        label.set_fontproperties(font_of(name))
        label.set_fontsize(8)
        label.set_parse_math(False)
    axis.invert_yaxis()
    axis.set_xlabel(f"{told}{some}", fontsize=8)
    _head(figure, title)
    _save(figure, path)


def _head(figure: Figure, title: str) -> None:
    """Write a title that has names of any script."""
    figure.suptitle(title, font=font_of(title), fontsize=10).set_parse_math(False)


def _label(axis: Axes, name: str) -> None:
    """Write a name on the left of a panel."""
    axis.set_ylabel(name, rotation=0, ha="right", va="center", font=font_of(name), fontsize=8)


def episode_picture(episode: Episode, logits: Tensor, names: Sequence[str], path: Path) -> None:
    """Draw one episode: a row per class, with support items on the left and query items on the right.

    Below a query is the number of its predicted class, with a tick if it is right and a cross if it is wrong.

    Args:
        episode: of images.
        logits: the learner's outputs, [Q, ways].
        names: of the classes, by number.
        path: the PNG file.
    """
    support_x, query_x = cast(Tensor, episode.support_x), cast(Tensor, episode.query_x)
    ways = int(episode.support_y.max()) + 1
    rows = min(ways, _ROWS)
    of_support, of_query = (
        [(y == way).nonzero()[:, 0] for way in range(rows)] for y in (episode.support_y, episode.query_y)
    )
    shots, queries = min(len(of_support[0]), _SHOTS), min(len(of_query[0]), _QUERIES)
    figure = _figure(max(5.0, 0.75 * (shots + queries) + 0.3), 0.9 * rows + 0.8)
    axes = figure.subplots(rows, shots + queries, squeeze=False)
    answers = logits.argmax(-1)
    for way in range(rows):
        for column, axis in enumerate(axes[way]):
            axis.set_xticks([])
            axis.set_yticks([])
            colour, style = "black", "-"
            if column < shots:
                _show(axis, support_x[of_support[way][column]])
            else:
                query = of_query[way][column - shots]
                _show(axis, query_x[query])
                right = int(answers[query]) == way
                colour, style = ("#009E73", "-") if right else ("#D55E00", "--")
                axis.set_xlabel(f"{'✓' if right else '✗'} {int(answers[query])}", fontsize=9, color=colour, labelpad=2)
            for spine in axis.spines.values():
                spine.set(edgecolor=colour, linewidth=2, linestyle=style)
        name = f"{way}: {names[way]}"
        _label(axes[way][0], name if font_of(name) else str(way))
    axes[0][0].set_title("support", fontsize=9)
    axes[0][shots].set_title("queries", fontsize=9)
    share = (answers == episode.query_y).float().mean().item()
    shown = f"shown: {_part(rows, ways)} classes, {_part(queries, len(of_query[0]))} queries of each"
    if shots < len(of_support[0]):
        shown += f", {_part(shots, len(of_support[0]))} support items"
    told = f"one validation episode: {100 * share:.1f} % of {len(logits)} queries right (below: the class predicted)"
    figure.suptitle(f"{told}\n{shown}", fontsize=10)
    _save(figure, path)


class Curve(NamedTuple):
    """A learner's fit of one episode of a regression from one number to one number.

    Attributes:
        episode: of x [S or Q, 1] and y [S or Q, 1].
        x: where the fit is known, the queries first, [G, 1].
        fit: the answers there, of [G, 1].
    """

    episode: Episode
    x: Tensor
    fit: Fit


def curve_picture(curves: Sequence[Curve], title: str, path: Path) -> None:
    """Draw curves, a panel for each: points of an episode, and the fit before and after.

    A band shows two standard deviations on both sides, where the learner has them.

    Args:
        curves: the curves.
        title: what they are.
        path: the PNG file.
    """
    figure = _figure(max(5.0, 3.4 * len(curves)), 3.8)
    axes = list(figure.subplots(1, len(curves), squeeze=False).flat)
    for axis, (episode, places, fit) in zip(axes, curves, strict=True):
        order = places[:, 0].argsort()
        x, after = places[order, 0], fit.after[order, 0]
        if fit.before is not None:
            axis.plot(x, fit.before[order, 0], color="gray", linestyle=":", label="before adaptation")
        colour, style = _STYLES["val"]
        label = "predicted" if fit.before is None else "after adaptation"
        if fit.spread is not None:
            half = 2 * fit.spread[order, 0]
            band = f"{label} +- 2 standard deviations"
            axis.fill_between(x, after - half, after + half, color=colour, alpha=0.2, linewidth=0, label=band)
        axis.plot(x, after, color=colour, linestyle=style, label=label)
        query_x, support_x = (cast(Tensor, part)[:, 0] for part in (episode.query_x, episode.support_x))
        axis.plot(query_x, episode.query_y[:, 0], "o", color=_STYLES["train"][0], markersize=4, label="queries")
        axis.plot(support_x, episode.support_y[:, 0], "ks", markersize=6, label="support")
        axis.set_xlabel("x")
        axis.grid(alpha=0.3)
        number = len(episode.query_y)
        error = (fit.after[:number] - episode.query_y).square().mean().item()
        axis.set_title(f"mse {error:.4g} on {number} queries", fontsize=10)
    axes[0].set_ylabel("y")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    figure.suptitle(title, fontsize=10)
    _save(figure, path)


def reliability_picture(panels: Mapping[str, Calibration], path: Path) -> None:
    """Draw the accuracy in each bin of confidence, two panels in a row, and below each the share of queries in the bin.

    Args:
        panels: by name.
        path: the PNG file.
    """
    rows = -(-len(panels) // 2)
    figure = _figure(8.0, 4.2 * rows + 0.3)
    axes = figure.subplots(2 * rows, 2, sharex=True, squeeze=False, height_ratios=[3, 1] * rows)
    middles = (np.arange(BINS) + 0.5) / BINS
    for index, (name, found) in enumerate(panels.items()):
        upper, lower = axes[index // 2 * 2 : index // 2 * 2 + 2, index % 2]
        upper.plot([0, 100], [0, 100], color="gray", linestyle=":", label="calibrated: accuracy = confidence")
        colour, style = _STYLES["train"]
        upper.bar(100 * middles, 100 * np.array(found.accuracy), 100 / BINS, color=colour, alpha=0.35, edgecolor=colour)
        confidence, accuracy = 100 * np.array(found.confidence), 100 * np.array(found.accuracy)
        there = np.isfinite(accuracy)
        upper.plot(confidence[there], accuracy[there], color=colour, linestyle=style, marker="o", markersize=3)
        upper.set_title(f"{name}:\nECE {100 * found.ece:.1f} %, NLL {found.nll:.3g}", fontsize=10)
        lower.bar(100 * middles, 100 * np.array(found.share), 100 / BINS, color="gray")
        lower.set_xlabel("confidence (%)")
        for axis in (upper, lower):
            axis.set_xlim(0, 100)
            axis.grid(alpha=0.3)
        upper.set_ylim(0, 100)
    for row in range(rows):
        axes[2 * row, 0].set_ylabel("accuracy (%)")
        axes[2 * row + 1, 0].set_ylabel("queries (%)")
    axes[0, 0].legend(fontsize=8, frameon=False, loc="upper left")
    _save(figure, path)


def _part(shown: int, there: int) -> str:
    return f"all {there}" if shown == there else f"the first {shown} of {there}"


def _figure(width: float, height: float) -> Figure:
    """Return an empty figure, sizes in inches; matplotlib is imported here, when it is needed."""
    with importing():
        from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _pixels(image: Tensor) -> np.ndarray[Any, Any]:
    """Return an image [C, H, W] in [0, 1] as bytes, [H, W] or [H, W, C]; one channel is drawn dark on white."""
    pixels = (255 * image.detach().float().cpu().clamp(0, 1)).round().byte()
    return (255 - pixels[0] if len(pixels) == 1 else pixels.permute(1, 2, 0)).numpy()


def _show(axis: Axes, image: Tensor) -> None:
    """Draw one image [C, H, W]."""
    axis.imshow(_pixels(image), cmap="gray", vmin=0, vmax=255)


def _save(figure: Figure, path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    file = io.BytesIO()
    FigureCanvasAgg(figure).print_png(file)
    _write(file, path)


def _write(file: io.BytesIO, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, file.getvalue())
