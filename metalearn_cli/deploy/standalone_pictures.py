"""Classify pictures with this artefact: python predict.py FILE [FILE ...]. It needs onnxruntime, numpy and Pillow.

Of other kinds of items it takes arrays that are prepared as in training: .npy files of shape [N, ...]. If the artefact
was calibrated, an item that is far from all classes is marked unknown. It does not warn of items that are unlike the
examples in brightness, contrast, length or loudness, as `mlx predict` and `mlx serve` do.
"""

import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

HERE = Path(__file__).resolve().parent
ABOUT = json.loads((HERE / "artefact.json").read_text(encoding="utf-8"))
CALIBRATION = ABOUT.get("calibration") or {"temperature": 1.0, "threshold": None}
TEMPERATURE, FARTHEST = CALIBRATION["temperature"], CALIBRATION["threshold"]


def items_in(path: str) -> Any:
    """Return the items [N, ...] of a file."""
    if path.endswith(".npy"):
        return np.load(path).astype(ABOUT["input"]["dtype"])
    how = ABOUT["preprocessing"]
    if ABOUT["input"]["kind"] != "image" or "size" not in how:
        sys.exit(f"{path}: only .npy files can be read here, items of shape {ABOUT['input']['shape']}")
    image: Any = Image.open(io.BytesIO(Path(path).read_bytes()))
    size, mode, resampling = tuple(how["size"]), "L" if how["channels"] == 1 else "RGB", how["resampling"].upper()
    if "polarity" not in how:
        image.draft(None, (2 * size[0], 2 * size[1]))  # a JPEG is decoded at a fraction of its size
    image = ImageOps.exif_transpose(image)
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        gray, clear = image.mode == "LA", image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", clear.size, "white"), clear).convert("L" if gray else "RGB")
    image = image.convert(mode)
    if "polarity" in how:  # ink is bright; the paper is what most of the border is
        ink = np.asarray(image)
        border = np.concatenate([ink[0], ink[-1], ink[:, 0], ink[:, -1]])
        image = ImageOps.invert(image) if np.median(border) > 127.5 else image
    ways: dict[str, Any] = {"crop": ImageOps.fit, "pad": ImageOps.pad, "squash": Image.Image.resize}
    fitted = ways[how.get("fit", "pad")](image, size, Image.Resampling[resampling])
    pixels = np.asarray(fitted, np.float32) / np.float32(how["divide_by"])
    return (pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1))[None]


def centres() -> Any:
    """Return the mean embeddings [W, D] of the classes, from classes.safetensors."""
    content = (HERE / "classes.safetensors").read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    found = json.loads(content[8:start])["embeddings"]
    first, end = (start + offset for offset in found["data_offsets"])
    z = np.frombuffer(content[first:end], np.float32).reshape(found["shape"])
    labels = np.array([example["class"] for example in ABOUT["examples"]])
    return np.stack([z[labels == name].mean(0) for name in ABOUT["classes"]])


def main(paths: list[str]) -> None:
    """Print the class of each item of each file, its probability, and whether it is unknown."""
    known = None if FARTHEST is None else centres()
    network = onnxruntime.InferenceSession(str(HERE / "encoder.onnx"), providers=["CPUExecutionProvider"])
    for path in paths:
        try:
            items = items_in(path)
        except (OSError, ValueError, Image.DecompressionBombError) as error:
            sys.exit(f"{path} cannot be read: {error}")
        embeddings, logits = network.run(["embeddings", "logits"], {"items": items})
        shares = np.exp((logits - logits.max(1, keepdims=True)) / TEMPERATURE)
        for p, z in zip(shares / shares.sum(1, keepdims=True), embeddings, strict=True):
            far = known is not None and np.linalg.norm(known - z, axis=1).min() > FARTHEST
            print(f"{path}\t{ABOUT['classes'][int(p.argmax())]}\t{p.max():.3f}" + "\tunknown" * bool(far))


if __name__ == "__main__":
    main(sys.argv[1:] or sys.exit("usage: python predict.py FILE [FILE ...]"))
