"""Toy images: noise around a random picture per class.

Legend: K classes, N items, C channels, H height, W width.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated

import torch

from metalearn_cli.core.check import Range
from metalearn_cli.core.random import derive_seed
from metalearn_cli.data.common.dataset import Dataset
from metalearn_cli.data.common.splits import SPLITS, Split


def strokes(classes: Annotated[int, Range(6)] = 12, items: Annotated[int, Range(2)] = 10) -> Dataset:
    """Grey images of 16x16 pixels: a picture of 4x4 squares per class, and noise; a third of the classes per split.

    Args:
        classes: number of classes K, >= 6.
        items: images of each class, >= 2.
    """
    source = torch.Generator().manual_seed(derive_seed("strokes"))
    pictures = torch.rand(classes, 1, 1, 4, 4, generator=source).round().repeat_interleave(4, 3).repeat_interleave(4, 4)
    noise = torch.rand(classes, items, 1, 16, 16, generator=source)
    images = (255 * (0.7 * pictures + 0.3 * noise)).byte()
    ends = [classes * i // 3 for i in range(4)]
    splits = {
        name: Split(
            items=images[start:end].flatten(0, 1),
            counts=torch.full((end - start,), items),
            names=tuple(f"picture{k:03d}" for k in range(start, end)),
        )
        for name, (start, end) in zip(SPLITS, pairwise(ends), strict=True)
    }
    return Dataset.of("strokes", "squares", splits, kind="image")
