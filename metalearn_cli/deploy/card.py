"""The page of an artefact for people."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Mapping
from typing import Any

from metalearn_cli.core.check import counted
from metalearn_cli.deploy.calibrating import of_record, told
from metalearn_cli.records.names import name_of

STATISTICS = {
    "support": "those of the examples: a further class changes the other answers a little",
    "train": "those of training items: a further class changes no other answer",
    "none": "none: the network has no batch statistics",
}


def card(about: Mapping[str, Any]) -> str:
    """Return README.md of an artefact, from the contents of its artefact.json."""
    examples = Counter(example["class"] for example in about["examples"])
    algorithm, backbone = (name_of(key, about["learner"][key]) for key in ("algorithm", "backbone"))
    shape, sizes = about["input"]["shape"], ", ".join(map(str, about["checked"]["items"]))
    kind, folder = about["input"]["kind"], shlex.quote(about["name"])
    given = {"text": '"A TEXT"', "vector": "TABLE"}.get(kind, "FILE|FOLDER")
    alone = {"image": "FILE", "text": '"A TEXT"'}.get(kind, "N.npy")
    packages = "onnxruntime, numpy" if kind == "text" else "onnxruntime, numpy, Pillow"
    compared = "Before it was put into integers, it was" if about["quantize"] else "It was"
    lines = [
        f"# {about['name']}",
        "",
        f"A few-shot classifier: {algorithm} on {backbone}, trained with metalearn-cli {about['metalearn-cli']} on "
        f"{about['data']['name']} ({about['data']['protocol']}).",
        "",
        "## What it knows",
        "",
        "| class | examples |",
        "|---|---|",
        *(f"| {_plain(name)} | {count} |" for name, count in sorted(examples.items())),
        "",
        "It answers with one of these classes, whatever it is shown.",
        "",
        "## How good it is",
        "",
        result(about),
        *(["", f"{change(about)} Its calibration was made in floats."] if about["quantize"] else []),
        *(["", f"Calibration: {told(found)}."] if (found := of_record(about["calibration"])) else []),
        "",
        "## How to use it",
        "",
        "In the folder above this one:",
        "",
        f"    mlx predict {folder} {given}",
        f"    mlx enrol {folder} NAME {given}  # one more class; nothing is trained",
        f"    python {folder}/predict.py {alone}  # without this package; it needs {packages}",
        "",
        "predict.py marks what is unknown if there is a calibration. It does not warn of items that are unlike the "
        "examples in brightness, contrast, length or loudness; `mlx predict` and `mlx serve` do.",
        "",
        f"`encoder.onnx` takes `items` [N, {', '.join(map(str, shape))}] ({about['input']['dtype']}) and gives "
        f"`embeddings` and `logits` [N, classes], in the order of `classes` in artefact.json. {compared} compared with "
        f"torch for {sizes} items: equal within {about['checked']['within']:g}, or ten times torch's own rounding.",
        "",
        f"Batch statistics: {STATISTICS[about['statistics']]}.",
        "",
        "## Where it comes from",
        "",
        *(f"- {one['stage']} {one['run']}, sha256 {one['sha256'] or 'unknown'}" for one in about["lineage"]),
        "",
    ]
    return "\n".join(lines)


def result(about: Mapping[str, Any]) -> str:
    """Return a sentence on the result of the evaluation in artefact.json, or that there is none."""
    found = about["result"]
    if not found:
        return "It was not evaluated; run `mlx evaluate` on its checkpoint before you export it."
    numbers = f"{found.get('way')}-way {found.get('shot')}-shot"
    value, interval = found.get("value"), found.get("interval")
    percent = "unknown" if value is None else f"{100 * value:.1f}"
    half = f" +- {100 * interval:.1f}" if interval is not None else ""
    over = (found.get("over") or {}).get("episodes")
    episodes = "episodes" if over is None else counted(over, "episode")
    measured = f"{percent}{half} % accuracy, {numbers}, on {episodes} of classes that training has not seen"
    protocol = "" if found.get("normalisation") == "none" else f"{found.get('normalisation')}; "
    how = f"{protocol}95 % interval over episodes; evaluation {found.get('run')}"
    told = f"{measured} ({how}). These are test classes of the training data: yours may be easier or harder."
    if about["statistics"] == "train":
        told += " It was measured with the batch statistics of examples; with those of training items it may differ."
    return told


def change(about: Mapping[str, Any]) -> str:
    """Return a sentence on what 8-bit integers have changed, from the contents of artefact.json."""
    found = about["quantize"]["change"]
    before, after = (f"{100 * found[kind]:.1f} %" for kind in ("float", "int8"))
    gain = f"{100 * found['gain']:+.2f} +- {100 * found['half_width']:.2f} percentage points"
    over = f"95 % interval, in pairs over {counted(found['over']['episodes'], 'test episode')} of {found['evaluation']}"
    own = "; both with the batch statistics of the examples at the export" if about["statistics"] == "support" else ""
    return f"In 8-bit integers the accuracy is {after}, {before} in floats: {gain} ({over}{own})."


def _plain(text: str) -> str:
    """Return a name without the marks of a table."""
    return " ".join(text.replace("|", "\\|").split())
