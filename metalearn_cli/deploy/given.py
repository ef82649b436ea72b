"""What a program in Python gives as items: files, pictures, texts, rows, arrays or tensors.

Legend: N items, ... the shape of one item.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from metalearn_cli.core.errors import UserError
from metalearn_cli.core.items import Items
from metalearn_cli.data.common.pixels import ONE
from metalearn_cli.deploy.inputs import Reader


def items_of(x: Any, reader: Reader) -> Items:
    """Return items as networks take them.

    Args:
        x: N of one of these: paths of files; pictures of Pillow, or arrays of bytes [H, W] or [H, W, 3]; texts; rows of
            a table as dicts, or a data frame; or items as the network takes them, as an array or tensor [N, ...],
            also flattened, or a dict of those of each part.
        reader: how files become items.

    Raises:
        UserError: if they cannot be used.
    """
    if isinstance(x, Mapping):
        return {name: torch.as_tensor(part) for name, part in x.items()}
    if hasattr(x, "columns") and hasattr(x, "to_dict"):  # a data frame
        return reader.of_rows(x.to_dict("records"))
    if isinstance(x, str | os.PathLike):
        raise UserError(f"items are a list, also if there is one: [{str(x)!r}]")
    values = x if isinstance(x, Tensor) else np.asarray(x) if _are_numbers(x) else list(x)
    if not len(values):
        raise UserError("there are no items")
    if not isinstance(values, list):
        return _of_numbers(torch.as_tensor(values), reader)
    first = values[0]
    if isinstance(first, str) and reader.kind == "text":
        return reader.of_texts(values)
    if isinstance(first, str | os.PathLike) and reader.kind in ("image", "audio"):
        return reader.of_files([os.fspath(path) for path in values])
    if isinstance(first, Mapping) and reader.kind == "table":
        return reader.of_rows(values)
    if isinstance(first, Image.Image | np.ndarray) and reader.kind == "image":
        return reader.of_images([v if isinstance(v, Image.Image) else Image.fromarray(v) for v in values])
    taken = {"image": "paths, pictures", "audio": "paths", "text": "texts", "table": "rows", "": ""}[reader.kind]
    what = f"{taken} or arrays" if taken else "arrays"
    raise UserError(f"the learner takes {what}, got a list of {type(first).__name__}")


def _are_numbers(x: Any) -> bool:
    """Whether something is an array of numbers, or a list of such arrays of one shape, or of lists of numbers."""
    if isinstance(x, np.ndarray):
        return x.dtype.kind in "biuf"
    values = list(x)
    if not values or not isinstance(values[0], list | tuple | np.ndarray | Tensor | int | float):
        return False
    return len({np.shape(value) for value in values}) == 1


def _of_numbers(x: Tensor, reader: Reader) -> Tensor:
    shape, values = reader.facts.shape, reader.facts.values
    if not isinstance(shape, tuple):
        raise UserError(f"the learner's items are made of {', '.join(shape)}: give a dict with an array of each")
    if reader.kind == "image" and x.dtype == torch.uint8 and _are_pictures(x, shape):
        return reader.of_images([Image.fromarray(picture.squeeze(-1).numpy()) for picture in x])
    if x.shape[1:] == (math.prod(shape),):
        x = x.unflatten(1, shape)
    if x.shape[1:] != shape:
        raise UserError(f"the learner takes items of shape {list(shape)}, got {list(x.shape[1:])}")
    if values == "ids":
        most = reader.facts.vocabulary
        assert isinstance(most, int)  # items of one part have one vocabulary
        if x.is_floating_point() or not 0 <= int(x.min()) <= int(x.max()) < most:
            raise UserError(f"the learner takes ids, whole numbers from 0 to {most - 1}")
        return x.long()
    found = x.float() / ONE if x.dtype == torch.uint8 and values == "unit" else x.float()
    if not torch.isfinite(found).all():
        raise UserError("there are items with numbers that are not finite")
    if values == "unit" and not 0 <= float(found.min()) <= float(found.max()) <= 1:
        spread = f"{float(found.min()):g} to {float(found.max()):g}"
        raise UserError(f"numbers must be from 0 to 1, or bytes (uint8), got {spread}; divide them")
    return found


def _are_pictures(x: Tensor, shape: tuple[int, ...]) -> bool:
    """Whether bytes are pictures [N, H, W] or [N, H, W, 1, 3 or 4], and not items already."""
    return x.shape[1:] != shape and (x.ndim == 3 or (x.ndim == 4 and x.shape[3] in (1, 3, 4)))
