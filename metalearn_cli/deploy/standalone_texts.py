"""Classify texts with this artefact: python predict.py "A TEXT" FILE.txt [...]. It needs onnxruntime and numpy.

Each line of a .txt file is a text. If the artefact was calibrated, a text that is far from all classes is marked
unknown. It does not warn of texts that are much shorter or longer than the examples, as `mlx predict` does.
"""

import json
import re
import sys
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

HERE = Path(__file__).resolve().parent
ABOUT = json.loads((HERE / "artefact.json").read_text(encoding="utf-8"))
CALIBRATION = ABOUT.get("calibration") or {"temperature": 1.0, "threshold": None}
TEMPERATURE, FARTHEST = CALIBRATION["temperature"], CALIBRATION["threshold"]
PADDING, UNKNOWN, FIRST = 0, 1, 2


def ids_of(text: str) -> Any:
    """Return the ids [1, L] of a text."""
    how = ABOUT["preprocessing"]
    if how["tokenizer"] == "bytes":
        found = [1 + byte for byte in text.encode()]
    elif how["tokenizer"] == "words":
        known = {piece: number for number, piece in enumerate(how["pieces"].split(" "), FIRST)}
        words = re.findall(r"\w+|[^\w\s]", unicodedata.normalize("NFKC", text).casefold())
        found = [number for word in words for number in spelt(word, known)]
    else:
        sys.exit("this program has no tokenizer of an encoder's own; classify with: mlx predict")
    found = found[: how["length"]]
    return np.array([found + [PADDING] * (how["length"] - len(found))], np.int64)


def spelt(word: str, known: dict[str, int]) -> list[int]:
    """Return the ids of a word: the longest piece that fits, then the longest one after it."""
    found, start = [], 0
    while start < len(word):
        mark = "##" if start else ""
        end = next((end for end in range(len(word), start, -1) if mark + word[start:end] in known), 0)
        found.append(known[mark + word[start:end]] if end else UNKNOWN)
        start = end or start + 1
    return found


def centres() -> Any:
    """Return the mean embeddings [W, D] of the classes, from classes.safetensors."""
    content = (HERE / "classes.safetensors").read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    found = json.loads(content[8:start])["embeddings"]
    first, end = (start + offset for offset in found["data_offsets"])
    z = np.frombuffer(content[first:end], np.float32).reshape(found["shape"])
    labels = np.array([example["class"] for example in ABOUT["examples"]])
    return np.stack([z[labels == name].mean(0) for name in ABOUT["classes"]])


def main(given: list[str]) -> None:
    """Print the class of each text, its probability, and whether it is unknown."""
    known = None if FARTHEST is None else centres()
    network = onnxruntime.InferenceSession(str(HERE / "encoder.onnx"), providers=["CPUExecutionProvider"])
    for one in given:
        try:
            lines = Path(one).read_text(encoding="utf-8").split("\n") if one.endswith(".txt") else [one]
        except (OSError, ValueError) as error:
            sys.exit(f"{one} cannot be read: {error}")
        for text in filter(str.strip, lines):
            z, logits = network.run(["embeddings", "logits"], {"items": ids_of(text)})
            shares = np.exp((logits[0] - logits[0].max()) / TEMPERATURE)
            p = shares / shares.sum()
            far = known is not None and np.linalg.norm(known - z, axis=1).min() > FARTHEST
            print(f"{text}\t{ABOUT['classes'][int(p.argmax())]}\t{p.max():.3f}" + "\tunknown" * bool(far))


if __name__ == "__main__":
    main(sys.argv[1:] or sys.exit('usage: python predict.py "A TEXT" FILE.txt [...]'))
