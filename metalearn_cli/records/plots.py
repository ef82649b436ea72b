"""Pictures of a run, as PNG files: learning curves, grids of images, an episode.

Legend: N images, C channels (1 or 3), H height, W width.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from metalearn_cli.core.importing import importing
from metalearn_cli.core.types import Episode
from metalearn_cli.records.runs import write_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_CELL, _TITLE = 60, 20  # pixels: at least so wide is an image of a grid, so high the line above
# two colours that remain apart in print and for the colour-blind (Okabe & Ito 2008)
_COLOURS = {"train": "#0072B2", "val": "#D55E00"}


def learning_curves(lines: Sequence[dict[str, float]], title: str, path: Path) -> None:
    """Draw each metric of metrics.jsonl over steps, training and validation in one panel; a single step is no curve.

    Args:
        lines: as `records.metrics.read_metrics` returns them.
        title: above the panels.
        path: the PNG file.
    """
    if len({line["step"] for line in lines}) < 2:
        return
    names = {name for line in lines for name in line if "/" in name and not name.endswith("_interval")}
    panels = sorted({name.split("/", 1)[1] for name in names} - {"lr"})
    figure = _figure(4.2 * len(panels), 3.2)
    axes = figure.subplots(1, len(panels), squeeze=False, sharex=True)[0]
    for axis, panel in zip(axes, panels, strict=True):
        for part, colour in _COLOURS.items():
            name = f"{part}/{panel}"
            points = [(line["step"], line[name], line.get(f"{name}_interval")) for line in lines if name in line]
            if not points:
                continue
            steps, values, intervals = zip(*points, strict=True)
            axis.plot(steps, values, color=colour, label=part, marker="o" if len(points) < 20 else None, markersize=3)
            if all(half is not None for half in intervals):
                low, high = ([v + sign * h for v, h in zip(values, intervals, strict=True)] for sign in (-1, 1))
                axis.fill_between(steps, low, high, color=colour, alpha=0.2, linewidth=0)
        axis.set_xlabel("step")
        axis.set_title(panel.replace("_", " "), fontsize=10)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8, frameon=False)
    figure.suptitle(title, fontsize=11)
    _save(figure, path)


def image_grid(images: Tensor, columns: int, title: str, path: Path) -> None:
    """Draw images [N, C, H, W] in [0, 1] row by row, below a title."""
    count, channels, height, width = images.shape
    rows = -(-count // columns)
    white = float(channels > 1)  # one channel is drawn as ink, see `_pixels`
    cells = torch.full((rows * columns, channels, height + 4, width + 4), white)
    cells[:count, :, 2:-2, 2:-2] = images
    sheet = cells.unflatten(0, (rows, columns)).permute(2, 0, 3, 1, 4).flatten(1, 2).flatten(2)
    scale = -(-_CELL // (width + 4))
    grid = Image.fromarray(_pixels(sheet)).convert("RGB").resize((sheet.shape[2] * scale, sheet.shape[1] * scale), 0)
    picture = Image.new("RGB", (grid.width, grid.height + _TITLE), "white")
    picture.paste(grid, (0, _TITLE))
    ImageDraw.Draw(picture).text((4, 4), title, "black")
    file = io.BytesIO()
    picture.save(file, "PNG")
    _write(file, path)


def episode_picture(episode: Episode, logits: Tensor, path: Path, queries: int = 8) -> None:
    """Draw one episode: a row per class, its support items left, some of its query items right.

    A query's frame says whether it was recognised (green) or not (red).

    Args:
        episode: of images.
        logits: what the learner answered, [Q, ways].
        path: the PNG file.
        queries: query items shown per class.
    """
    support_x, query_x = cast(Tensor, episode.support_x), cast(Tensor, episode.query_x)
    ways = int(episode.support_y.max()) + 1
    support = [support_x[episode.support_y == way] for way in range(ways)]
    chosen = [(episode.query_y == way).nonzero()[:queries, 0] for way in range(ways)]
    shots, columns = len(support[0]), len(support[0]) + len(chosen[0])
    figure = _figure(max(4.0, 0.7 * columns), 0.7 * ways + 0.5)
    axes = figure.subplots(ways, columns, squeeze=False)
    for way in range(ways):
        for column in range(columns):
            axis = axes[way][column]
            axis.set_xticks([])
            axis.set_yticks([])
            if column < shots:
                _show(axis, support[way][column])
                colour = "black"
            else:
                query = chosen[way][column - shots]
                _show(axis, query_x[query])
                colour = "#009E73" if int(logits[query].argmax()) == way else "#D55E00"
            for spine in axis.spines.values():
                spine.set(edgecolor=colour, linewidth=2)
        axes[way][0].set_ylabel(f"class {way}", fontsize=8)
    axes[0][0].set_title("support", fontsize=9)
    axes[0][shots].set_title("query", fontsize=9)
    right = (logits.argmax(-1) == episode.query_y).float().mean().item()
    figure.suptitle(f"one validation episode, {100 * right:.0f} % of {len(logits)} queries right", fontsize=10)
    _save(figure, path)


def _figure(width: float, height: float) -> Figure:
    """Return an empty figure, sizes in inches; matplotlib is imported with the first one."""
    with importing():
        from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _pixels(image: Tensor) -> np.ndarray[Any, Any]:
    """Return an image [C, H, W] in [0, 1] as bytes, [H, W] or [H, W, C]; one channel is ink on white."""
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
