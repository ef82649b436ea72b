"""An artefact as onnxruntime runs it, without torch: answers, and which parts of an item speak for them.

Legend: N items, S examples, W classes, D features, M parts, C channels, H height, W width, ... the shape of one item.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from safetensors import SafetensorError
from safetensors.numpy import load_file

from metalearn_cli.core.errors import UserError
from metalearn_cli.data.common.pixels import ONE
from metalearn_cli.data.common.spelling import PADDING, tokens_of
from metalearn_cli.deploy.decoding import floats, kind_of
from metalearn_cli.deploy.folder import CLASSES, ENCODER, SUPPORT, read_about
from metalearn_cli.deploy.looks import looks_of, ways_of
from metalearn_cli.deploy.windows import spread, windows

NEAREST = 3  # examples that an answer names
AT_ONCE = 16  # items that are run together, so that a server can stop soon
Array = NDArray[Any]


class Item(NamedTuple):
    """An item that is to be answered.

    Attributes:
        x: as the network takes it [...].
        looks: its looks [1, ...], see `looks`; None if it has none.
    """

    x: Array
    looks: Array | None


class Served(NamedTuple):
    """An artefact that can answer.

    Attributes:
        about: the contents of its artefact.json.
        kind: what it reads: image, audio or text.
        run: from items [N, ...] to their embeddings [N, D] and logits [N, W].
        sizes: the number of examples of each class.
        embeddings: of the examples [S, D].
        centres: the means of the classes' embeddings [W, D].
        looks: of the examples, see `looks`; None if they have none.
        pictures: of the examples [S, C, H, W], as bytes or from 0 to 1; None of other items.
    """

    about: dict[str, Any]
    kind: str
    run: Callable[[Array], tuple[Array, Array]]
    sizes: dict[str, int]
    embeddings: Array
    centres: Array
    looks: Array | None
    pictures: Array | None

    @property
    def classes(self) -> list[str]:
        """The names [W] of the classes."""
        return self.about["classes"]

    @property
    def version(self) -> str:
        """Is another one after each change of the artefact."""
        return self.about["sha256"][:16]


def opened(folder: Path) -> Served:
    """Open an artefact.

    Raises:
        UserError: if it is none, is damaged, or its items are no pictures, recordings or texts.
    """
    import onnxruntime

    about = read_about(folder)
    kind = kind_of(about["input"]["kind"], about["preprocessing"])
    if kind not in ("image", "audio", "text"):
        raise UserError(f"{folder} takes no pictures, recordings or texts, so that it has no page; use mlx predict")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # several requests run at once
    try:
        network = onnxruntime.InferenceSession(folder / ENCODER, options, providers=["CPUExecutionProvider"])
        embeddings, support = load_file(folder / CLASSES)["embeddings"], load_file(folder / SUPPORT)
        looks = support.get("looks")
        if looks is None and "items" in support:
            looks = looks_of(floats(support["items"]), about["input"]["kind"], about["input"]["values"])
        shown = about["input"]["kind"] == "image" and about["input"]["values"] == "unit"
        pictures = support.get("pictures", support.get("items")) if shown else None
        labels = np.array([example["class"] for example in about["examples"]])
        if len(labels) != len(embeddings) or [*np.unique(labels)] != about["classes"]:
            raise ValueError("its examples are not those of its classes")
        centres = np.stack([embeddings[labels == name].mean(0) for name in about["classes"]])
    except (SafetensorError, LookupError, ValueError, RuntimeError, OSError) as error:
        raise UserError(f"{folder} is damaged: {str(error).partition(chr(10))[0]}") from error

    def run(items: Array) -> tuple[Array, Array]:
        embedded, logits = network.run(["embeddings", "logits"], {"items": items})
        return embedded, logits

    return Served(about, kind, run, dict(Counter(labels.tolist())), embeddings, centres, looks, pictures)


def answer(served: Served, item: Item) -> dict[str, Any]:
    """Return the answer for an item.

    Returns:
        `class`, `probability`, `probabilities`, `distance`, `nearest` and `unknown`, as `deployed.predicted` does;
        `examples`, the nearest ones, each `example` with its `class`, `distance` and the path of its `picture`, None
        if it has none; and `unlike`, in which ways it is unlike all examples.
    """
    (z,), (logits,) = served.run(item.x[None])
    shares = np.exp(_log_softmax(served, logits))
    distances = np.linalg.norm(served.embeddings - z, axis=1)
    distance = float(np.linalg.norm(served.centres - z, axis=1).min())
    threshold = (served.about["calibration"] or {}).get("threshold")
    nearest = [
        {**_example(served, i), "distance": float(distances[i])}
        for i in distances.argsort(kind="stable")[:NEAREST].tolist()
    ]
    seen, known = item.looks, served.looks
    return {
        "class": served.classes[int(shares.argmax())],
        "probability": float(shares.max()),
        "probabilities": dict(zip(served.classes, shares.tolist(), strict=True)),
        "distance": distance,
        "nearest": nearest[0]["example"],
        "unknown": None if threshold is None else distance > threshold,
        "examples": nearest,
        "unlike": [] if seen is None or known is None else [*ways_of(served.kind, known, seen)],
    }


def explanation(served: Served, x: Array, go_on: Callable[[], None]) -> dict[str, Any]:
    """Return which parts of an item [...] speak for its answer: by how much its log-probability falls without them.

    Args:
        served: the artefact.
        x: the item.
        go_on: is called again and again; it raises an error to stop.

    Returns:
        `class` and `probability` of the answer; of pictures and spectrograms `values` [H][W] of the pixels, and `item`
        [C][H][W], as the network sees it; of texts `parts`, each `part` with its `value`.

    Raises:
        UserError: if such items have no explanation.
    """
    if served.kind == "audio" and x.ndim != 3:
        problem = "recordings as samples (data.features=raw) have no map"
        raise UserError(f"{problem}; train a learner on spectrograms: data.features=logmel")
    _, (logits,) = served.run(x[None])
    log_shares = _log_softmax(served, logits)
    k = int(log_shares.argmax())
    told = {"class": served.classes[k], "probability": float(np.exp(log_shares[k]))}
    preprocessing = served.about["preprocessing"]
    masks = np.eye(len(x), dtype=bool)[x != PADDING] if served.kind == "text" else windows(*x.shape[1:])[:, None]
    photograph = served.kind == "image" and "polarity" not in preprocessing
    background = x.mean((1, 2), keepdims=True) if photograph else np.zeros_like(x)
    values = list[float]()
    for first in range(0, len(masks), AT_ONCE):
        go_on()
        _, hidden = served.run(np.where(masks[first : first + AT_ONCE], background, x))
        values += (log_shares[k] - _log_softmax(served, hidden)[:, k]).tolist()
    if served.kind == "text":
        tokens = tokens_of(x[x != PADDING].tolist(), preprocessing, served.about["tokenizer"])
        return {**told, "parts": [{"part": t, "value": v} for t, v in zip(tokens, values, strict=True)]}
    return {**told, "values": spread(np.array(values), masks[:, 0]).tolist(), "item": x.tolist()}


def _log_softmax(served: Served, logits: Array) -> Array:
    """Return logarithms of the probabilities [..., W]."""
    scaled = logits / (served.about["calibration"] or {"temperature": 1.0})["temperature"]
    shifted = scaled - scaled.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def picture(served: Served, version: str, number: str) -> bytes:
    """Return an example as PNG, as the network sees it.

    Args:
        served: the artefact.
        version: of it, as in the path of the picture.
        number: of the example.

    Raises:
        UserError: if this version has no such picture.
    """
    pictures = () if served.pictures is None or version != served.version else served.pictures
    if number not in map(str, range(len(pictures))):
        raise UserError("there is no such picture; the classes may have changed since")
    x = pictures[int(number)]
    pixels = x if x.dtype == np.uint8 else np.rint(x * ONE).astype(np.uint8)
    content = io.BytesIO()
    Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)).save(content, "PNG")
    return content.getvalue()


def _example(served: Served, number: int) -> dict[str, Any]:
    example = served.about["examples"][number]
    path = None if served.pictures is None else f"examples/{served.version}/{number}"
    return {"example": example["name"], "class": example["class"], "picture": path}
